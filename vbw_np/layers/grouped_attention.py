"""Grouped-query attention with rotary positions, as the Llama family has it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine import F, Tensor, autograd, nn
from .rotary import rotate

Remember = Callable[[NDArray, NDArray], tuple[NDArray, NDArray]]
"""Takes the keys and values of new tokens (B, G, T, d), gives those of all tokens so far (B, G, S, d)."""


class GroupedQueryAttention(nn.Module):
    """Causal attention in which several query heads share a head of keys and values (arXiv 2305.13245).

    Parameters and names are those of transformers' LlamaAttention: `q_proj` (H d, D), `k_proj` and `v_proj` (G d, D),
    `o_proj` (D, H d), with H query heads in G groups.

    Parameters
    ----------
    width : int
        D.
    heads, groups : int
        H and G; G divides H.
    head_dim : int
        d, even.
    bias : bool
    interleaved : bool
        Which channels rotary positions pair; see `vbw_np.layers.rotary`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        groups: int,
        head_dim: int,
        bias: bool = False,
        *,
        interleaved: bool = False,
        rng: np.random.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        rng = nn.init.generator(rng)
        self.heads, self.groups, self.head_dim, self.interleaved = heads, groups, head_dim, interleaved
        self.q_proj = nn.Linear(width, heads * head_dim, bias, rng=rng, dtype=dtype)
        self.k_proj = nn.Linear(width, groups * head_dim, bias, rng=rng, dtype=dtype)
        self.v_proj = nn.Linear(width, groups * head_dim, bias, rng=rng, dtype=dtype)
        self.o_proj = nn.Linear(heads * head_dim, width, bias, rng=rng, dtype=dtype)

    def forward(self, x: Tensor, tables: tuple[NDArray, NDArray], remember: Remember | None = None) -> Tensor:
        """x (B, T, D) to (B, T, D).

        Parameters
        ----------
        x : Tensor
        tables : (cos, sin), each (T, d / 2)
            Of the positions of x.
        remember : callable, optional
            Keeps keys and values for the tokens that follow, and gives those of the tokens before; without it, x is
            the whole sequence. What it keeps is outside the tape.
        """
        batch, length, _ = x.shape
        q, k, v = (
            projection(x).reshape(batch, length, -1, self.head_dim).permute(0, 2, 1, 3)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, H, T, d), (B, G, T, d) twice
        cos, sin = tables
        q = rotate(q, cos=cos, sin=sin, interleaved=self.interleaved)
        k = rotate(k, cos=cos, sin=sin, interleaved=self.interleaved)
        if remember is not None:
            k, v = (Tensor(kept) for kept in remember(k.data, v.data))
        return self.o_proj(self._mix(q, k, v).permute(0, 2, 1, 3).reshape(batch, length, -1))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(d)) v; q (B, H, T, d), k and v (B, G, S, d), whose last T are at q's positions.

        The heads of a group stand one below the other as one tall matrix: keys and values are not repeated.
        """
        batch, heads, new, head_dim = q.shape
        seen = k.shape[2]
        tall = (batch, self.groups, heads // self.groups * new, -1)
        scores = (q.reshape(*tall) @ k.transpose(-1, -2)) * (1 / math.sqrt(head_dim))
        scores = scores.reshape(batch, heads, new, seen)
        if new > 1:
            visible = np.broadcast_to(np.tri(new, seen, seen - new, dtype=bool), scores.shape)
            scores = autograd.ops.where(scores, np.array(-np.inf, scores.dtype), condition=visible)
        weights = F.softmax(scores, axis=-1)
        return (weights.reshape(*tall) @ v).reshape(batch, heads, new, head_dim)
