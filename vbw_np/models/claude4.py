"""Claude4: a multimodal transformer with tri-vein attention, dense experts and graph-based reflection.

The model of the speed test. At its default configuration it has exactly 35,862,532 parameters in 62 linear layers and
a handful of others. `causal=False` is the original, which has no causal mask; with `causal=True` nothing at position t
depends on a later position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine import Tensor, autograd, nn
from ..layers import (
    MixtureOfExperts,
    Reflection,
    ShortestPathReflection,
    Threshold,
    TriVeinAttention,
    linear_cross_entropy,
)

IMAGE_FEATURES = 1024
AUDIO_FEATURES = 512


@dataclasses.dataclass(frozen=True)
class Claude4Config:
    """Sizes of a Claude4; the defaults are those of the report.

    Attributes
    ----------
    vocab_size : int
        V, number of tokens.
    d_model : int
        D, width of the residual stream.
    heads : int
        H, attention heads; D / H is the head's width.
    hidden : int
        Width inside an expert.
    layers : int
        Blocks; those with index >= layers // 2 have a reflection.
    rank : int
        r, width of the attention's subspace.
    experts : int
        E, experts a block.
    dropout : float
        After the experts and inside the reflection, while training.
    causal : bool
        Whether nothing may depend on a later position.
    route_out_proj : bool
        Whether the reflection's attention sends its output projection through the device; the original does not.
    token_shift : bool
        Whether attention and experts see half of their channels from the token before. The original's attention knows
        no positions at all; see `shift_tokens`.
    """

    vocab_size: int = 50_000
    d_model: int = 256
    heads: int = 4
    hidden: int = 1024
    layers: int = 3
    rank: int = 4
    experts: int = 4
    dropout: float = 0.1
    causal: bool = False
    route_out_proj: bool = False
    token_shift: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "heads", "hidden", "layers", "rank", "experts"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of heads {self.heads}")
        path_heads = ShortestPathReflection.HEADS
        if self.d_model % path_heads:
            raise ValueError(
                f"d_model {self.d_model} is not a multiple of {path_heads}, the heads of the reflection's attention"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout lies in [0, 1), not {self.dropout}")


class OmniEncoder(nn.Module):
    """Text, image and audio into one stream: each given input becomes (B, T, D); the output is their mean."""

    def __init__(self, vocab_size: int, d_model: int, *, rng: np.random.Generator, dtype: DTypeLike) -> None:
        self.text_emb = nn.Embedding(vocab_size, d_model, rng=rng, dtype=dtype)
        self.image_proj = nn.Linear(IMAGE_FEATURES, d_model, rng=rng, dtype=dtype)
        self.audio_proj = nn.Linear(AUDIO_FEATURES, d_model, rng=rng, dtype=dtype)

    def forward(self, ids: NDArray | None = None, image: NDArray | None = None, audio: NDArray | None = None) -> Tensor:
        """ids (B, T) integers, image (B, T, 1024), audio (B, T, 512), at least one of them, to (B, T, D)."""
        streams = []
        if ids is not None:
            streams.append(self.text_emb(ids))
        for name, features, layer in (("image", image, self.image_proj), ("audio", audio, self.audio_proj)):
            if features is None:
                continue
            features = np.asarray(features)
            if features.ndim != 3 or features.shape[-1] != layer.in_features:
                raise ValueError(
                    f"{name} features must have shape (batch, tokens, {layer.in_features}), not {features.shape}"
                )
            streams.append(layer(Tensor(features.astype(layer.weight.dtype, copy=False))))
        if not streams:
            raise ValueError("the encoder needs at least one input: ids, image or audio")
        shapes = {stream.shape for stream in streams}
        if len(shapes) > 1:
            raise ValueError(f"the inputs differ in batch size or length: {sorted(shapes)}")
        if len(streams) == 1:
            return streams[0]
        total = streams[0]
        for stream in streams[1:]:
            total = total + stream
        return total * (1 / len(streams))


def shift_tokens(x: Tensor) -> Tensor:
    """The first half of the channels from the token before (zeros for the first token), the second half as it is.

    (B, T, D) to (B, T, D). The *time shift* of RWKV (arXiv 2305.13048) in its earliest form, without
    parameters: what attention without positions cannot tell, which token stands just before, is in the stream itself.
    It looks back only.
    """
    half = x.shape[-1] // 2
    nothing = Tensor(np.zeros((x.shape[0], 1, half), x.dtype))
    earlier = autograd.ops.concatenate(nothing, x[:, :-1, :half], axis=1)  # (B, T, D / 2)
    return autograd.ops.concatenate(earlier, x[..., half:], axis=-1)


class Block(nn.Module):
    """x += attn(norm1(x)); x += ffn(norm2(x)); with reflection also x += norm_reflect(reflection(x)).

    With `token_shift`, attn and ffn get their input through `shift_tokens`.
    """

    def __init__(
        self,
        config: Claude4Config,
        reflects: bool,
        tau_module: Threshold,
        *,
        generator: autograd.Generator,
        rng: np.random.Generator,
        dtype: DTypeLike,
    ) -> None:
        width = config.d_model
        self.token_shift = config.token_shift
        self.attn = TriVeinAttention(
            width, config.heads, config.rank, tau_module, causal=config.causal, rng=rng, dtype=dtype
        )
        self.ffn = MixtureOfExperts(
            width, config.hidden, config.experts, config.dropout, generator=generator, rng=rng, dtype=dtype
        )
        self.norm1 = nn.LayerNorm(width, dtype=dtype)
        self.norm2 = nn.LayerNorm(width, dtype=dtype)
        self.reflection: Reflection | None = None
        if reflects:
            self.reflection = Reflection(
                width,
                dropout=config.dropout,
                causal=config.causal,
                through_host=config.route_out_proj,
                generator=generator,
                rng=rng,
                dtype=dtype,
            )
            self.norm_reflect = nn.LayerNorm(width, dtype=dtype)

    def forward(
        self, x: Tensor, load_factor: float = 1.0, attention: NDArray | None = None
    ) -> tuple[Tensor, dict[str, NDArray] | None]:
        """x (B, T, D); `attention` (B, any heads, T, T) replaces the block's own in the reflection."""
        attended, weights = self.attn(self._mixed(self.norm1(x)), load_factor)
        x = x + attended
        x = x + self.ffn(self._mixed(self.norm2(x)))
        if self.reflection is None:
            return x, None
        reflected, scores = self.reflection(x, weights.data if attention is None else attention)
        return x + self.norm_reflect(reflected), scores

    def _mixed(self, x: Tensor) -> Tensor:
        return shift_tokens(x) if self.token_shift else x


class Claude4(nn.Module):
    """The whole model.

    Parameters
    ----------
    config : Claude4Config
    seed : int
        For the initial weights and for every draw of dropout.
    dtype : float32 or float64

    Examples
    --------
    >>> model = Claude4(Claude4Config(vocab_size=97, d_model=32, hidden=64))
    >>> logits = model(np.zeros((2, 12), np.int64))
    >>> logits.shape
    (2, 12, 97)
    """

    def __init__(self, config: Claude4Config | None = None, seed: int = 0, dtype: DTypeLike = np.float32) -> None:
        config = config or Claude4Config()
        self.config = config
        rng = np.random.default_rng(seed)
        self.generator = autograd.Generator(seed)
        self.encoder = OmniEncoder(config.vocab_size, config.d_model, rng=rng, dtype=dtype)
        self.tau_module = Threshold(dtype)
        self.blocks = nn.ModuleList(
            Block(
                config,
                index >= config.layers // 2,
                self.tau_module,
                generator=self.generator,
                rng=rng,
                dtype=dtype,
            )
            for index in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.d_model, dtype=dtype)
        self.output_head = nn.Linear(config.d_model, config.vocab_size, bias=False, rng=rng, dtype=dtype)

    def hidden_states(
        self,
        ids: NDArray | None = None,
        image: NDArray | None = None,
        audio: NDArray | None = None,
        *,
        load_factor: float = 1.0,
        reflection_attention: Mapping[int, NDArray] | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """What the output head sees (B, T, D), and the monitored means over the reflection blocks."""
        x = self.encoder(ids, image, audio)
        seen = []
        for index, block in enumerate(self.blocks):
            x, scores = block(x, load_factor, (reflection_attention or {}).get(index))
            if scores is not None:
                seen.append(scores)
        return self.norm(x), self._metrics(seen)

    @staticmethod
    def _metrics(seen: list[dict[str, NDArray]]) -> dict[str, float]:
        return {
            "connectivity": float(np.mean([scores["connectivity"].mean() for scores in seen])),
            "complexity": float(np.mean([scores["complexity"].mean() for scores in seen])),
            "feedback_norm": float(np.mean([np.linalg.norm(scores["feedback_strength"]) for scores in seen])),
        }

    def forward(
        self,
        ids: NDArray | None = None,
        image: NDArray | None = None,
        audio: NDArray | None = None,
        *,
        load_factor: float = 1.0,
        reflection_attention: Mapping[int, NDArray] | None = None,
        return_metrics: bool = False,
    ) -> Tensor | tuple[Tensor, dict[str, float]]:
        """Logits (B, T, V) for token ids (B, T) and optional features.

        Parameters
        ----------
        ids, image, audio
            See `OmniEncoder`; at least one.
        load_factor : float
            Lowers tau when above 1 (see `vbw_np.layers.Threshold`).
        reflection_attention : mapping of int to ndarray, optional
            For block i, attention (B, any heads, T, T) that its reflection reads instead of the block's own.
        return_metrics : bool
            Also return the mean connectivity, the mean complexity and the L2 norm of the whole feedback strength,
            averaged over the reflection blocks.
        """
        hidden, metrics = self.hidden_states(
            ids, image, audio, load_factor=load_factor, reflection_attention=reflection_attention
        )
        logits = self.output_head(hidden)
        return (logits, metrics) if return_metrics else logits

    def loss(self, ids: NDArray, reflection_attention: Mapping[int, NDArray] | None = None) -> Tensor:
        """Mean cross-entropy, in nats, of the logits at each token against the next one; never holds all logits."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.shape[1] < 2:
            raise ValueError(f"the loss needs ids (batch, at least 2 tokens), not shape {ids.shape}")
        hidden, _ = self.hidden_states(ids, reflection_attention=reflection_attention)
        return linear_cross_entropy(hidden[:, :-1], self.output_head.weight, ids[:, 1:])
