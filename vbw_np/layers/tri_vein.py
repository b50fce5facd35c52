"""Tri-vein attention: queries, keys and values in one low-rank subspace."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from ..engine import Tensor, autograd, nn, no_grad
from .attention import attention_weights, check_heads, merge_heads, split_heads

init = nn.init


class SharedSubspace(nn.Module):
    """One low-rank subspace for all heads' q, k and v: project(x) = x V, reconstruct(z) = z U^T."""

    def __init__(self, head_dim: int, rank: int, *, rng: np.random.Generator, dtype: DTypeLike) -> None:
        nn.linear.check_sizes(head_dim=head_dim, rank=rank)
        self.U = init.normal(rng, (head_dim, rank), 1 / math.sqrt(head_dim), dtype)
        self.V = init.normal(rng, (head_dim, rank), 1 / math.sqrt(head_dim), dtype)

    def project(self, x: Tensor) -> Tensor:
        """(..., hd) to (..., r)"""
        return x @ self.V

    def reconstruct(self, z: Tensor) -> Tensor:
        """(..., r) to (..., hd)"""
        return z @ self.U.T


class Threshold(nn.Module):
    """tau, the residual size under which a token counts as well represented; one buffer for the whole model."""

    LOW, HIGH, START = 0.05, 0.35, 0.18

    def __init__(self, dtype: DTypeLike = np.float32) -> None:
        self.tau = nn.Buffer(np.array(self.START, dtype))

    def adapt(self, load_factor: float) -> float:
        """Lower tau under load, raise it when idle, within its bounds; return it."""
        tau = float(self.tau.data) * (1 - 0.05 * (load_factor - 1))
        self.tau.data[...] = min(max(tau, self.LOW), self.HIGH)
        return float(self.tau.data)


class TriVeinAttention(nn.Module):
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
        self.W_q = nn.Linear(d_model, d_model, rng=rng, dtype=dtype)
        self.W_k = nn.Linear(d_model, d_model, rng=rng, dtype=dtype)
        self.W_v = nn.Linear(d_model, d_model, rng=rng, dtype=dtype)
        self.W_o = nn.Linear(d_model, d_model, rng=rng, dtype=dtype)
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
        return autograd.ops.vector_norm(q - self.subspace.reconstruct(zq), axis=-1)

    def _is_steady(self, q: Tensor, zq: Tensor, tau: float) -> bool:
        with no_grad():
            below = bool((self.residual_size(q, zq).data < tau).all())
        self.steady_calls = self.steady_calls + 1 if below else 0
        return self.steady_calls >= self.PATIENCE
