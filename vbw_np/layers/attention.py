"""Multi-head attention with PyTorch's parameters."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine import F, Tensor, autograd, nn

init = nn.init


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, D) to (B, H, T, hd)"""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).permute(0, 2, 1, 3)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, hd) to (B, T, D)"""
    batch, heads, length, head_dim = x.shape
    return x.permute(0, 2, 1, 3).reshape(batch, length, heads * head_dim)


def causal_mask(length: int, keys: int | None = None) -> NDArray[np.bool_]:
    """(T, S): whether position i may look at position j, that is j <= i, both counted from the first (as PyTorch's)."""
    return np.tri(length, keys, dtype=bool)


def attention_weights(query: Tensor, key: Tensor, causal: bool = False, mask: NDArray | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask), as PyTorch's `scaled_dot_product_attention` has it.

    Parameters
    ----------
    query, key : Tensor, (B, H, T, d) and (B, H, S, d)
    causal : bool
        Position i looks at positions 0 ... i only.
    mask : array that broadcasts to (B, H, T, S), optional
        Boolean: True where a key takes part. Floats: added to the scores, -inf for a key that takes no part.

    Returns
    -------
    Tensor, (B, H, T, S)

    Raises
    ------
    ValueError
        The mask has another shape, or leaves a query without any key.
    """
    scores = (query @ key.transpose(-1, -2)) * (1 / math.sqrt(query.shape[-1]))
    allowed, added = _mask_parts(mask, scores.shape)
    if added is not None:
        scores = scores + added.astype(scores.dtype)
    if causal:
        earlier = causal_mask(*scores.shape[-2:])
        allowed = earlier if allowed is None else allowed & earlier
    if allowed is not None:
        if not allowed.any(axis=-1).all():
            raise ValueError("attention: the mask leaves a query without any key to look at")
        condition = np.broadcast_to(allowed, scores.shape)
        scores = autograd.ops.where(scores, np.array(-np.inf, scores.dtype), condition=condition)
    return F.softmax(scores, axis=-1)


def _mask_parts(mask: NDArray | None, shape: tuple[int, ...]) -> tuple[NDArray | None, NDArray | None]:
    """Which keys take part (boolean), and what is added to the scores; None for nothing of the kind."""
    if mask is None:
        return None, None
    mask = np.asarray(mask)
    try:
        np.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(f"attention: a mask of shape {mask.shape} does not broadcast to {shape}") from None
    if mask.dtype == bool:
        return mask, None
    if mask.dtype.kind != "f":
        raise TypeError(f"attention: a mask is boolean or of floats, not {mask.dtype}")
    if np.isnan(mask).any():
        raise ValueError("attention: the mask has a NaN")
    banned = np.isneginf(mask)
    return (~banned if banned.any() else None), np.where(banned, mask.dtype.type(0), mask)


def check_heads(width: int, heads: int) -> None:
    nn.check_sizes(d_model=width, heads=heads)
    if width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}; choose a multiple of {heads}")


class MultiheadAttention(nn.Module):
    """Multi-head attention with PyTorch's parameters: `in_proj_weight` (3D, D), `in_proj_bias`, `out_proj`.

    As in PyTorch, the attention applies `out_proj`'s parameters itself, so a host that holds them as a linear layer is
    not asked; with `through_host` it is, and also when it alone has the weight.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        causal: bool = False,
        through_host: bool = False,
        rng: np.random.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        check_heads(embed_dim, num_heads)
        rng = init.generator(rng)
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.causal, self.through_host = causal, through_host
        self.in_proj_weight = init.xavier_uniform(rng, (3 * embed_dim, embed_dim), dtype)
        self.in_proj_bias = init.constant((3 * embed_dim,), 0, dtype)
        self.out_proj = nn.Linear(embed_dim, embed_dim, rng=rng, dtype=dtype)
        self.out_proj.bias.assign(np.zeros(embed_dim))

    def forward(self, query: Tensor, memory: Tensor, attn_mask: NDArray | None = None) -> Tensor:
        """(B, T, D) attends to `memory` (B, S, D), which is key and value.

        `attn_mask` is PyTorch's: (T, S) or (B * heads, T, S); boolean, True where a key must NOT be looked at, or
        floats that are added to the scores.
        """
        q, k, v = self.project(query, memory)
        if attn_mask is not None:
            attn_mask = np.asarray(attn_mask)
            attn_mask = ~attn_mask if attn_mask.dtype == bool else attn_mask
            if attn_mask.ndim == 3:
                attn_mask = attn_mask.reshape(-1, self.num_heads, *attn_mask.shape[1:])
        return self.output(attention_weights(q, k, self.causal, attn_mask) @ v)

    def project(self, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query of (B, T, D), key and value of `memory` (B, S, D), by heads: (B, heads, T or S, hd) each"""
        width = self.embed_dim
        if self.in_proj_weight.host is not None:  # it keeps the weight as one: whole products, then slices
            q = F.linear(query, self.in_proj_weight, self.in_proj_bias)[..., :width]
            kv = F.linear(memory, self.in_proj_weight, self.in_proj_bias)[..., width:]
        else:
            weight, bias = self.in_proj_weight, self.in_proj_bias
            q = F.linear(query, weight[:width], bias[:width])
            kv = F.linear(memory, weight[width:], bias[width:])  # (B, S, 2D)
        q, k, v = (split_heads(part, self.num_heads) for part in (q, kv[..., :width], kv[..., width:]))
        return q, k, v

    def output(self, mixed: Tensor) -> Tensor:
        """The heads' mixed values (B, heads, T, hd), to (B, T, D)"""
        mixed = merge_heads(mixed)
        host = self.out_proj.weight.host
        if self.through_host or (host is not None and host.has_only_copy()):
            return self.out_proj(mixed)
        return F.dense_linear(mixed, self.out_proj.weight, self.out_proj.bias)
