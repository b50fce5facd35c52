"""Names and shapes of a Claude4's state from its configuration alone: what a file must hold before one is built."""

from __future__ import annotations

from collections.abc import Iterator

from .claude4 import AUDIO_FEATURES, IMAGE_FEATURES, Claude4Config

NamedShape = tuple[str, tuple[int, ...]]


def _linear(name: str, outputs: int, inputs: int) -> Iterator[NamedShape]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[NamedShape]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _attention(name: str, config: Claude4Config) -> Iterator[NamedShape]:
    width = config.d_model
    yield f"{name}.tau_module.tau", ()
    for layer in ("W_q", "W_k", "W_v", "W_o"):
        yield from _linear(f"{name}.{layer}", width, width)
    for basis in ("U", "V"):
        yield f"{name}.subspace.{basis}", (width // config.heads, config.rank)


def _experts(name: str, config: Claude4Config) -> Iterator[NamedShape]:
    width, hidden = config.d_model, config.hidden
    for expert in range(config.experts):
        yield from _linear(f"{name}.experts.{expert}.0", hidden, width)
        yield from _linear(f"{name}.experts.{expert}.2", width, hidden)
    yield f"{name}.gate.weight", (config.experts, width)


def _reflection(name: str, width: int) -> Iterator[NamedShape]:
    yield from _linear(f"{name}.connectivity_analyzer.connectivity_proj", 1, width)
    paths = f"{name}.shortest_path_reflection"
    for part in ("ih", "hh"):
        yield f"{paths}.path_encoder.weight_{part}_l0", (3 * width, width)
        yield f"{paths}.path_encoder.bias_{part}_l0", (3 * width,)
    yield f"{paths}.path_attn.in_proj_weight", (3 * width, width)
    yield f"{paths}.path_attn.in_proj_bias", (3 * width,)
    yield from _linear(f"{paths}.path_attn.out_proj", width, width)
    for mirror in range(3):
        yield from _linear(f"{name}.mirror_complexity.mirror_projs.{mirror}", width, width)
    yield from _linear(f"{name}.mirror_complexity.complexity_scorer.0", width, 3 * width)
    yield from _linear(f"{name}.mirror_complexity.complexity_scorer.2", 1, width)
    yield from _linear(f"{name}.fusion.0", width, 3 * width)
    yield from _norm(f"{name}.fusion.1", width)
    yield from _linear(f"{name}.fusion.4", width, width)
    yield from _linear(f"{name}.feedback_gate.0", width, width)


def state_shapes(config: Claude4Config) -> Iterator[NamedShape]:
    """Name and shape of every array in the `state_dict` of a Claude4 of this configuration, one after the other.

    Nothing is allocated, and nothing is computed ahead: whoever compares can stop at the first that differs, however
    many blocks the configuration asks for.
    """
    width = config.d_model
    yield "encoder.text_emb.weight", (config.vocab_size, width)
    yield from _linear("encoder.image_proj", width, IMAGE_FEATURES)
    yield from _linear("encoder.audio_proj", width, AUDIO_FEATURES)
    yield "tau_module.tau", ()
    for index in range(config.layers):
        block = f"blocks.{index}"
        yield from _attention(f"{block}.attn", config)
        yield from _experts(f"{block}.ffn", config)
        yield from _norm(f"{block}.norm1", width)
        yield from _norm(f"{block}.norm2", width)
        if index >= config.layers // 2:
            yield from _reflection(f"{block}.reflection", width)
            yield from _norm(f"{block}.norm_reflect", width)
    yield from _norm("norm", width)
    yield "output_head.weight", (config.vocab_size, width)
