"""Attention: the multi-head kind with PyTorch's packed parameters, and the tri-vein kind in a low-rank subspace."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import functional as F
from .. import ops
from ..tensor import Tensor, no_grad
from . import init
from .linear import Linear, check_sizes
from .module import Buffer, Module


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, D) to (B, H, T, hd)"""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).permute(0, 2, 1, 3)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, hd) to (B, T, D)"""
    batch, heads, length, head_dim = x.shape
    return x.permute(0, 2, 1, 3).reshape(batch, length, heads * head_dim)


def causal_mask(length: int) -> NDArray[np.bool_]:
    """(T, T): whether position i may look at position j, that is j <= i."""
    return np.tri(length, dtype=bool)


def attention_weights(query: Tensor, key: Tensor, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)): (B, H, T, d) twice, to (B, H, T, T)"""
    scores = (query @ key.transpose(-1, -2)) * (1 / math.sqrt(query.shape[-1]))
    if causal:
        mask = np.broadcast_to(causal_mask(scores.shape[-1]), scores.shape)
        scores = ops.where(scores, np.array(-np.inf, scores.dtype), condition=mask)
    return F.softmax(scores, axis=-1)


def check_heads(width: int, heads: int) -> None:
    check_sizes(d_model=width, heads=heads)
    if width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}; choose a multiple of {heads}")


class MultiheadAttention(Module):
    """Multi-head attention with PyTorch's parameters: `in_proj_weight` (3D, D), `in_proj_bias`, `out_proj`.

    As in PyTorch, the attention applies `out_proj`'s parameters itself, so a device that holds them as a linear layer
    is not asked; with `through_device` it is, and also when it alone still has the weight.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        causal: bool = False,
        through_device: bool = False,
        rng: np.random.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        check_heads(embed_dim, num_heads)
        rng = init.generator(rng)
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.causal, self.through_device = causal, through_device
        self.in_proj_weight = init.xavier_uniform(rng, (3 * embed_dim, embed_dim), dtype)
        self.in_proj_bias = init.constant((3 * embed_dim,), 0, dtype)
        self.out_proj = Linear(embed_dim, embed_dim, rng=rng, dtype=dtype)
        self.out_proj.bias.assign(np.zeros(embed_dim))

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """(B, T, D) attends to `memory` (B, T, D), which is key and value."""
        q, k, v = self.project(query, memory)
        return self.output(attention_weights(q, k, self.causal) @ v)

    def project(self, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query of (B, T, D), key and value of `memory` (B, S, D), by heads: (B, heads, T or S, hd) each"""
        width = self.embed_dim
        if self.in_proj_weight.card is not None:  # a packed weight is on one card: whole products, then slices
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
        if self.through_device or getattr(self.out_proj.weight.card, "dropped", False):
            return self.out_proj(mixed)
        return F.dense_linear(mixed, self.out_proj.weight, self.out_proj.bias)


class SharedSubspace(Module):
    """One low-rank subspace for all heads' q, k and v: project(x) = x V, reconstruct(z) = z U^T."""

    def __init__(self, head_dim: int, rank: int, *, rng: np.random.Generator, dtype: DTypeLike) -> None:
        check_sizes(head_dim=head_dim, rank=rank)
        self.U = init.normal(rng, (head_dim, rank), 1 / math.sqrt(head_dim), dtype)
        self.V = init.normal(rng, (head_dim, rank), 1 / math.sqrt(head_dim), dtype)

    def project(self, x: Tensor) -> Tensor:
        """(..., hd) to (..., r)"""
        return x @ self.V

    def reconstruct(self, z: Tensor) -> Tensor:
        """(..., r) to (..., hd)"""
        return z @ self.U.T


class Threshold(Module):
    """tau, the residual size under which a token counts as well represented; one buffer for the whole model."""

    LOW, HIGH, START = 0.05, 0.35, 0.18

    def __init__(self, dtype: DTypeLike = np.float32) -> None:
        self.tau = Buffer(np.array(self.START, dtype))

    def adapt(self, load_factor: float) -> float:
        """Lower tau under load, raise it when idle, within its bounds; return it."""
        tau = float(self.tau.data) * (1 - 0.05 * (load_factor - 1))
        self.tau.data[...] = min(max(tau, self.LOW), self.HIGH)
        return float(self.tau.data)


class TriVeinAttention(Module):
    """Attention inside a low-rank subspace, with a correction where the subspace fits well.

    A = softmax(zq zk^T / sqrt(r)), y = reconstruct(A zv), then W_o. The residual size eps = ||q - reconstruct(zq)||_2
    of every (sample, head, token) is compared with tau. From the third call in a row on in which all of them are
    below tau, delta * (q - k) is added to y, delta = mean of eps over heads and tokens / d_model, per sample.
    A causal attention leaves the correction out: its mean runs over all tokens.

    Attributes
    ----------
    steady_calls : int
        Calls in a row, up to now, in which eps < tau everywhere.
    """

    PATIENCE = 3  # steady calls before the correction is added

    def __init__(
        self,
        d_model: int,
        heads: int,
        rank: int,
        tau_module: Threshold,
        *,
        causal: bool = False,
        rng: np.random.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        check_heads(d_model, heads)
        rng = init.generator(rng)
        self.d_model, self.heads, self.causal = d_model, heads, causal
        self.tau_module = tau_module
        self.W_q = Linear(d_model, d_model, rng=rng, dtype=dtype)
        self.W_k = Linear(d_model, d_model, rng=rng, dtype=dtype)
        self.W_v = Linear(d_model, d_model, rng=rng, dtype=dtype)
        self.W_o = Linear(d_model, d_model, rng=rng, dtype=dtype)
        self.subspace = SharedSubspace(d_model // heads, rank, rng=rng, dtype=dtype)
        self.steady_calls = 0

    def forward(self, x: Tensor, load_factor: float = 1.0) -> tuple[Tensor, Tensor]:
        """(B, T, D) to the output (B, T, D) and the attention weights (B, H, T, T)."""
        q, k, v = (split_heads(layer(x), self.heads) for layer in (self.W_q, self.W_k, self.W_v))  # (B, H, T, hd)
        zq, zk, zv = (self.subspace.project(part) for part in (q, k, v))  # (B, H, T, r)
        weights = attention_weights(zq, zk, self.causal)
        y = self.subspace.reconstruct(weights @ zv)
        tau = self.tau_module.adapt(load_factor)
        if not self.causal and self._is_steady(q, zq, tau):
            eps = self.residual_size(q, zq)  # (B, H, T)
            delta = eps.mean(axis=(1, 2)) * (1 / self.d_model)  # (B,)
            y = y + delta.reshape(-1, 1, 1, 1) * (q - k)
        return self.W_o(merge_heads(y)), weights

    def residual_size(self, q: Tensor, zq: Tensor) -> Tensor:
        """How much of each query lies outside the subspace: (B, H, T)"""
        return ops.vector_norm(q - self.subspace.reconstruct(zq), axis=-1)

    def _is_steady(self, q: Tensor, zq: Tensor, tau: float) -> bool:
        with no_grad():
            below = bool((self.residual_size(q, zq).data < tau).all())
        self.steady_calls = self.steady_calls + 1 if below else 0
        return self.steady_calls >= self.PATIENCE
