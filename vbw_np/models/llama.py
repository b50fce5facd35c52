"""The Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU, a head of its own or a tied one.

Parameters have the names of transformers' LlamaForCausalLM, so its state dicts fit. `llama_files` reads files.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine import Tensor, nn
from ..layers import GroupedQueryAttention, RMSNorm, SwiGLU, linear_cross_entropy
from ..layers.rotary import frequencies, rotary_tables
from .key_value_cache import Format, KeyValueCache


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama, by the names of a `config.json`; the defaults are small.

    Attributes
    ----------
    vocab_size : int
        V, number of tokens.
    hidden_size : int
        D, width of the residual stream.
    intermediate_size : int
        Width inside the feed-forward layer.
    num_hidden_layers : int
    num_attention_heads, num_key_value_heads : int
        H query heads share G heads of keys and values; G divides H.
    head_dim : int, optional
        d, even; D / H if it is not given.
    max_position_embeddings : int
        The longest sequence that the model was made for.
    rms_norm_eps, rope_theta : float
    rope_factors : tuple of float, optional
        By which the d / 2 rotary frequencies are divided; see `vbw_np.layers.rotary.scaling_factors`.
    interleaved : bool
        Which channels rotary positions pair; see `vbw_np.layers.rotary`.
    tie_word_embeddings : bool
        Whether the head is the embedding.
    attention_bias, mlp_bias : bool
    """

    vocab_size: int = 256
    hidden_size: int = 64
    intermediate_size: int = 176
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_factors: tuple[float, ...] | None = None
    interleaved: bool = False
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"{self.num_attention_heads} heads do not divide a width of {self.hidden_size}; give head_dim"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type.startswith("int") and (not isinstance(value, int | np.integer) or value < 1):
                raise ValueError(f"{field.name} must be a positive integer, not {value!r}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} query heads cannot share {self.num_key_value_heads} heads of keys and "
                "values evenly"
            )
        if self.head_dim % 2:
            raise ValueError(f"rotary positions turn channels in pairs: head_dim {self.head_dim} is odd")
        if self.rope_factors is not None and len(self.rope_factors) != self.head_dim // 2:
            raise ValueError(f"{len(self.rope_factors)} rope_factors for {self.head_dim // 2} frequencies")
        if not (self.rms_norm_eps > 0 and self.rope_theta > 0):
            raise ValueError(f"rms_norm_eps {self.rms_norm_eps} and rope_theta {self.rope_theta} must be positive")


class LlamaBlock(nn.Module):
    """x += self_attn(input_layernorm(x)); x += mlp(post_attention_layernorm(x))."""

    def __init__(self, config: LlamaConfig, *, rng: np.random.Generator, dtype: DTypeLike) -> None:
        width = config.hidden_size
        self.self_attn = GroupedQueryAttention(
            width,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.attention_bias,
            interleaved=config.interleaved,
            rng=rng,
            dtype=dtype,
        )
        self.mlp = SwiGLU(width, config.intermediate_size, config.mlp_bias, rng=rng, dtype=dtype)
        self.input_layernorm = RMSNorm(width, config.rms_norm_eps, dtype=dtype)
        self.post_attention_layernorm = RMSNorm(width, config.rms_norm_eps, dtype=dtype)

    def forward(self, x: Tensor, tables: tuple[NDArray, NDArray], remember=None) -> Tensor:
        """x (B, T, D); see `GroupedQueryAttention.forward` for the rest."""
        x = x + self.self_attn(self.input_layernorm(x), tables, remember)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    """Everything but the head: token ids to what the head sees."""

    def __init__(self, config: LlamaConfig, *, rng: np.random.Generator, dtype: DTypeLike) -> None:
        self.config, self.dtype = config, np.dtype(dtype)
        self.rates = frequencies(config.head_dim, config.rope_theta, config.rope_factors)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, rng=rng, dtype=dtype)
        self.layers = nn.ModuleList(LlamaBlock(config, rng=rng, dtype=dtype) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype)

    def tables(self, start: int, length: int) -> tuple[NDArray, NDArray]:
        """cos and sin of the rotary angles from position `start` on, (length, d / 2) each."""
        return rotary_tables(self.rates, start, length, self.dtype)

    def forward(self, ids: NDArray, cache: KeyValueCache | None = None) -> Tensor:
        """ids (B, T) to (B, T, D); with a cache, they follow the tokens that it holds."""
        ids = np.asarray(ids)
        start = cache.length if cache is not None else 0
        self.check(ids, start, cache)
        tables = self.tables(start, ids.shape[1])
        x = self.embed_tokens(ids)
        for index, block in enumerate(self.layers):
            x = block(x, tables, None if cache is None else lambda k, v, i=index: cache.remember(i, k, v))
        if cache is not None:
            cache.advance(ids.shape[1])
        return self.norm(x)

    def check(self, ids: NDArray, start: int, cache: KeyValueCache | None) -> None:
        """Refuse ids that have no shape (B, T), or are too many for the model or the cache."""
        if ids.ndim != 2 or not ids.shape[1]:
            raise ValueError(f"token ids have shape (batch, at least 1 token), not {ids.shape}")
        stop, limit = start + ids.shape[1], self.config.max_position_embeddings
        if stop > limit:
            raise ValueError(f"{stop} tokens are more than the {limit} that this model was made for; give fewer")
        if cache is not None and stop > cache.capacity:
            raise ValueError(f"{start} tokens were read and {ids.shape[1]} follow: more than {cache.capacity}")


class Llama(nn.Module):
    """A causal language model of the Llama family.

    Parameters
    ----------
    config : LlamaConfig
    seed : int, optional
        For the initial weights; None: zeros, for a model whose weights are loaded next.
    dtype : float32 or float64

    Examples
    --------
    >>> model = Llama(LlamaConfig(vocab_size=97))
    >>> model(np.zeros((2, 12), np.int64)).shape
    (2, 12, 97)
    """

    INITIAL_STD = 0.02  # of all matrices, as in transformers

    def __init__(self, config: LlamaConfig | None = None, seed: int | None = 0, dtype: DTypeLike = np.float32) -> None:
        self.config = config = config or LlamaConfig()
        rng = nn.init.UNDRAWN if seed is None else np.random.default_rng(seed)
        self.model = LlamaModel(config, rng=rng, dtype=dtype)
        tied = config.tie_word_embeddings
        head_rng = nn.init.UNDRAWN if tied else rng
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False, rng=head_rng, dtype=dtype)
        if tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        if seed is None:
            return
        for parameter in self.parameters():
            if parameter.ndim == 2:
                parameter.assign(self.INITIAL_STD * rng.standard_normal(parameter.shape, np.float32))

    def forward(self, ids: NDArray, cache: KeyValueCache | None = None) -> Tensor:
        """Logits (B, T, V) for token ids (B, T); with a cache, the ids follow the tokens that it holds."""
        return self.lm_head(self.model(ids, cache))

    def loss(self, ids: NDArray) -> Tensor:
        """Mean cross-entropy, in nats, of the logits at each token against the next one; never holds all logits."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.shape[1] < 2:
            raise ValueError(f"the loss needs ids (batch, at least 2 tokens), not shape {ids.shape}")
        return linear_cross_entropy(self.model(ids[:, :-1]), self.lm_head.weight, ids[:, 1:])

    def cache(self, batch: int, capacity: int, *, keys: Format = None, values: Format = None) -> KeyValueCache:
        """An empty cache for `batch` sequences of up to `capacity` tokens; see `KeyValueCache` for the formats."""
        config = self.config
        sizes = config.num_hidden_layers, batch, config.num_key_value_heads, capacity, config.head_dim
        return KeyValueCache(*sizes, self.model.dtype, keys=keys, values=values)
