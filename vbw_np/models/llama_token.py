"""The Llama of a reader as `kernels.token` takes it: tokens through all layers in one call or few; or why not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import kernels as _twins  # noqa: F401  of the definitions
from ..definitions import prompt
from ..definitions.byte_rows import ByteRows
from ..definitions.panels import RightOperand
from ..definitions.token import LANES, Layer, Token, step
from ..device.card import Card
from ..device.ways import PACKED
from ..engine import Tensor, nn
from ..errors import UserError
from .evaluating import evaluating
from .key_value_cache import Format, KeyValueCache
from .llama import Llama, LlamaBlock


class Unfit(Exception):
    """Why a model's layers do not go through one call."""


class TokenStep:
    """Reads the tokens of one text after those in `cache`: one by one, or a prompt.

    Raises
    ------
    Unfit
        Its layers are not all packed in one format of the tensor core, or something else stands in the way; says what.
    """

    def __init__(self, model: Llama, cache: KeyValueCache) -> None:
        config = model.config
        if cache.batch != 1:
            raise Unfit(f"{cache.batch} texts are written at once")
        if config.head_dim % LANES:
            raise Unfit(f"a head has {config.head_dim} numbers, no multiple of {LANES}")
        if model.model.dtype != np.float32:
            raise Unfit(f"the model computes in {model.model.dtype}")
        self._model, self._cache, self._cards = model.model, cache, []
        layers = tuple(self._layer(i, block) for i, block in enumerate(model.model.layers))
        formats = sorted({weight.family for layer in layers for weight in layer.products})
        if len(formats) > 1:
            raise Unfit(f"layers are packed in {' and '.join(formats)}")
        sizes = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        norms = model.model.norm.weight.data, config.rms_norm_eps
        head = self._head(model.lm_head, formats[0])
        self.token = Token(layers, norms[0], head, *sizes, norms[1], config.interleaved)

    def _layer(self, index: int, block: LlamaBlock) -> Layer:
        attention, mlp = block.self_attn, block.mlp
        name = f"model.layers.{index}"
        parts = {f"self_attn.{n}": getattr(attention, n) for n in ("q_proj", "k_proj", "v_proj", "o_proj")}
        parts |= {f"mlp.{n}": getattr(mlp, n) for n in ("gate_proj", "up_proj", "down_proj")}
        q, k, v, output, gate, up, down = (self._panels(f"{name}.{n}", linear) for n, linear in parts.items())
        norms = block.input_layernorm.weight.data, block.post_attention_layernorm.weight.data
        return Layer(norms[0], (q, k, v), output, norms[1], (gate, up), down)

    def _panels(self, name: str, linear: nn.Linear) -> RightOperand:
        held = self._held(name, linear)
        if not isinstance(held, RightOperand):
            raise Unfit(f"{name} is packed in rows of bytes")
        return held

    def _head(self, linear: nn.Linear, family: str) -> RightOperand | ByteRows | None:
        try:
            held = self._held("lm_head", linear)
        except Unfit:
            return None
        return held if isinstance(held, ByteRows) or held.family == family else None

    def _held(self, name: str, linear: nn.Linear) -> RightOperand | ByteRows:
        card = linear.weight.host
        if linear.bias is not None:
            raise Unfit(f"{name} has a bias")
        if not isinstance(card, Card) or card.way(1) is not PACKED:
            how = "in full precision" if not isinstance(card, Card) else f"multiplied as: {card.way(1).label}"
            raise Unfit(f"{name} is {how}")
        if card.unit.recorder is not None:
            raise Unfit(f"the products of {name} are being recorded")
        held = card.use(PACKED)
        card.ways["activation"] = PACKED.label
        self._cards.append(card)
        return held

    def __call__(self, token: int) -> tuple[NDArray, NDArray | None]:
        """What the head sees of a token, (D,), and its logits (V,) if the head is packed as well."""
        model, cache = self._model, self._cache
        position = cache.length
        cos, sin = model.tables(position, 1)
        keys, values = (array[:, 0] for array in cache.arrays)
        x = model.embed_tokens.weight.data[token]
        result = step(self.token, x, (cos[0], sin[0]), keys, values, position, cache.roundings)
        cache.advance(1)
        _count(self._cards)
        return result

    def read(self, ids: NDArray, last: bool) -> NDArray:
        """What the head sees of tokens (T,): (T, D), or (1, D) of the last alone."""
        model, cache = self._model, self._cache
        position = cache.length
        model.check(ids[None], position, cache)
        keys, values = (array[:, 0] for array in cache.arrays)
        x, turns = model.embed_tokens.weight.data[ids], model.tables(position, len(ids))
        hidden = prompt.read(self.token, x, turns, keys, values, position, cache.roundings, last=last)
        cache.advance(len(ids))
        _count(self._cards[: 7 * len(self.token.layers)])
        return hidden


def _count(cards: list[Card]) -> None:
    for card in cards:
        card.statistics.computes += 1
        card.statistics.hits += 1
        card.statistics.decode_hits += 1


class LlamaReader:
    """Reads tokens as they come, and computes only the new ones' rows; keys and values of the others are kept.

    Attributes
    ----------
    cache : KeyValueCache
    in_one_call : bool or None
        Whether single tokens go through all layers in one call, and prompts in few; None until one was read.
    why_not : str or None
        What stands in the way, where they do not.
    """

    def __init__(
        self, model: Llama, batch: int, capacity: int, *, keys: Format = None, values: Format = None
    ) -> None:
        limit = model.config.max_position_embeddings
        if capacity > limit:
            raise UserError(
                f"{capacity} tokens, prompt and answer together, are more than the {limit} that this model was made "
                "for; give a shorter prompt, or ask for fewer"
            )
        self._model, self._modules = model, list(model.modules())
        self.cache = model.cache(batch, capacity, keys=keys, values=values)
        self.in_one_call: bool | None = None
        self.why_not: str | None = None
        self._step: TokenStep | None = None

    def extend(self, ids: NDArray) -> NDArray:
        """New tokens (B, n), to what the head sees of them (B, n, D)."""
        return self._hidden(np.asarray(ids), last=False)

    def _hidden(self, ids: NDArray, last: bool) -> NDArray:
        """As `extend`; with `last` the last token's alone (B, 1, D)."""
        if self._fits() and ids.shape[1] > 0:
            return self._step.read(ids[0], last)[None]
        with evaluating(self._modules):
            return self._model.model(ids, self.cache).data[:, -1 if last else 0 :]

    def logits(self, ids: NDArray) -> NDArray:
        """New tokens (B, n), to the logits of the last of them (B, V)."""
        if ids.shape[1] == 1 and self._fits():
            hidden, logits = self._step(int(ids[0, 0]))
            if logits is not None:
                return logits[None]
            hidden = hidden[None]
        else:
            hidden = self._hidden(ids, last=True)[:, -1]
        with evaluating(self._modules):
            return self._model.lm_head(Tensor(np.ascontiguousarray(hidden))).data

    def _fits(self) -> bool:
        """Whether tokens go through all layers in one call; found out once."""
        if self.in_one_call is None:
            try:
                with evaluating(self._modules):
                    self._step = TokenStep(self._model, self.cache)
            except Unfit as why:
                self.why_not = str(why)
            self.in_one_call = self._step is not None
        return self.in_one_call
