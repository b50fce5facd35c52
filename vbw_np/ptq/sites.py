"""The places of a Llama where something flows into linear layers, and what can be folded into the weights around them.

A *site* is one input and the layers that it flows into: q, k and v share one, gate and up another. What is done to the
input (channels scaled, the stream rotated) has its opposite in these layers' columns, and itself in what makes the
input: the norm's weight, or the rows of another layer. So the model's outputs stay as they were, before anything is
rounded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..engine import Parameter, nn
from ..models.llama import Llama, LlamaBlock
from .rotation import Rotation


@dataclasses.dataclass(frozen=True)
class Site:
    """One input of a block, and the layers that it flows into.

    Attributes
    ----------
    layers : tuple of str
    norm : str or None
        The norm that makes the input.
    producer : str or None
        The layer whose rows make it.
    """

    layers: tuple[str, ...]
    norm: str | None = None
    producer: str | None = None

    @property
    def name(self) -> str:
        """The first of its layers, by which the whole is called."""
        return self.layers[0]


SITES = (
    Site(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), norm="input_layernorm"),
    Site(("self_attn.o_proj",), producer="self_attn.v_proj"),
    Site(("mlp.gate_proj", "mlp.up_proj"), norm="post_attention_layernorm"),
    Site(("mlp.down_proj",), producer="mlp.up_proj"),
)
KINDS = tuple(layer.rsplit(".", 1)[1] for site in SITES for layer in site.layers)
"""The kinds of layers of a block, by the last part of their names."""


def part(module: nn.Module, name: str) -> nn.Module:
    """The module below `module` by its dotted name."""
    for step in name.split("."):
        module = getattr(module, step)
    return module


def blocks_of(model: Llama) -> Iterator[tuple[str, LlamaBlock]]:
    """The blocks with their names."""
    for index, block in enumerate(model.model.layers):
        yield f"model.layers.{index}", block


def linears_of(model: Llama) -> dict[str, nn.Linear]:
    """The linear layers of all blocks by name."""
    return {
        f"{prefix}.{name}": part(block, name)
        for prefix, block in blocks_of(model)
        for site in SITES
        for name in site.layers
    }


# ---- folding


def _multiply(parameter: Parameter | None, factors: NDArray) -> None:
    if parameter is not None:
        parameter.assign(parameter.data.astype(np.float64) * factors)


def shared_channels(block: LlamaBlock, site: Site, values: NDArray, how) -> NDArray:
    """Values of a site's channels (in,), made equal where one row of the producer makes several of them.

    A head of values serves several query heads, so the same factor must do for all of them; ``how(array, axis)`` says
    which.
    """
    if site.producer != "self_attn.v_proj":
        return values
    attention = block.self_attn
    heads = values.reshape(attention.groups, -1, attention.head_dim)
    return np.broadcast_to(how(heads, 1)[:, None], heads.shape).reshape(-1)


def fold_scale(block: LlamaBlock, site: Site, factors: NDArray) -> None:
    """Divide a site's inputs by `factors` (in,): in what makes them, and out again in the columns of its layers."""
    if site.norm is not None:
        _multiply(part(block, site.norm).weight, 1 / factors)
    else:
        rows = factors
        if site.producer == "self_attn.v_proj":  # (G, heads of a group, d), the same for all heads of a group
            attention = block.self_attn
            rows = factors.reshape(attention.groups, -1, attention.head_dim)[:, 0].reshape(-1)
        producer = part(block, site.producer)
        _multiply(producer.weight, 1 / rows[:, None])
        _multiply(producer.bias, 1 / rows)
    for name in site.layers:
        _multiply(part(block, name).weight, factors)


def _turn_columns(layer: nn.Linear, gains: NDArray, rotation: Rotation) -> None:
    """W diag(gains) R, in float64."""
    layer.weight.assign(rotation(layer.weight.data.astype(np.float64) * gains))


def _turn_rows(layer: nn.Linear, rotation: Rotation) -> None:
    """R^T W (and b R): the layer's outputs come out rotated."""
    layer.weight.assign(rotation(layer.weight.data.astype(np.float64).T).T)
    if layer.bias is not None:
        layer.bias.assign(rotation(layer.bias.data.astype(np.float64)))


def fold_norm(norm: nn.Module) -> NDArray:
    """The weight of a norm, which becomes ones."""
    gains = norm.weight.data.astype(np.float64)
    norm.weight.assign(np.ones_like(gains))
    return gains


def untie(model: Llama) -> None:
    """Give the head a weight of its own, where it was the embedding."""
    if model.config.tie_word_embeddings:
        model.lm_head.weight = Parameter(model.lm_head.weight.data.copy())
        model.config = dataclasses.replace(model.config, tie_word_embeddings=False)


def fold_stream(model: Llama, points: int, seed: int) -> None:
    """Rotate the residual stream, and the values of every head, in the weights alone.

    The weights of norms go into the layers behind them, since a rotation does not pass through them; the mean square of
    what they divide by is that of the rotated stream. A tied head becomes one of its own.

    Parameters
    ----------
    model : Llama
        Changed in place.
    points : int
        As in `Rotate`; heads are rotated by at most their width.
    """
    untie(model)
    width, head_dim = model.config.hidden_size, model.config.head_dim
    stream = Rotation.random(width, points, seed)
    per_head = min(points or head_dim, head_dim)
    first = model.model.layers[0].self_attn
    values = Rotation.random(first.groups * head_dim, per_head, seed)
    shared = np.repeat(values.signs.reshape(first.groups, 1, head_dim), first.heads // first.groups, axis=1)
    heads = Rotation(per_head, shared.reshape(-1))  # every query head as the head of values that it reads
    model.model.embed_tokens.weight.assign(stream(model.model.embed_tokens.weight.data.astype(np.float64)))
    for _, block in blocks_of(model):
        attention = block.self_attn
        for site in (site for site in SITES if site.norm):
            gains = fold_norm(part(block, site.norm))
            for name in site.layers:
                _turn_columns(part(block, name), gains, stream)
        _turn_rows(attention.v_proj, values)
        _turn_columns(attention.o_proj, np.ones(heads.width), heads)
        _turn_rows(attention.o_proj, stream)
        _turn_rows(block.mlp.down_proj, stream)
    _turn_columns(model.lm_head, fold_norm(model.model.norm), stream)
