"""Reflection: a layer that reads the attention as a graph and feeds what it sees back into the stream.

Three readings of the same tokens, concatenated and fused: how connected each token is, what lies on the shortest paths
around it, and how the sequence compares with its mirror image. The graph itself (`vbw_np.layers.graph`) is counts and
choices; gradients flow through the tokens, not through it.

With `causal=True` no reading looks ahead: see each class for its rule.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine import Tensor, autograd, nn
from . import graph
from .attention import MultiheadAttention, causal_mask
from .gru import GRU

ops = autograd.ops


class ConnectivityAnalyzer(nn.Module):
    """Weighs each token by the share of tokens that hang together with it.

    The score of a token is the size of its component (`graph.component_sizes`, edges where attention > 0.1), divided
    by T + 1e-8, averaged over heads. Causal: the number of tokens that it reaches along edges to earlier tokens,
    itself included, divided by the number of tokens so far.

    `connectivity_proj` is a parameter of the original that it never computes.
    """

    THRESHOLD = 0.1

    def __init__(self, d_model: int, *, causal: bool, rng: np.random.Generator, dtype: DTypeLike) -> None:
        self.causal = causal
        self.connectivity_proj = nn.Linear(d_model, 1, rng=rng, dtype=dtype)

    def scores(self, attention: NDArray) -> NDArray:
        """(B, H, T, T) to (B, T, 1)"""
        length = attention.shape[-1]
        if self.causal:
            share = graph.past_reach(attention, self.THRESHOLD) / np.arange(1, length + 1, dtype=attention.dtype)
        else:
            share = graph.component_sizes(attention, self.THRESHOLD) / attention.dtype.type(length + 1e-8)
        return share.mean(axis=1)[..., None]

    def forward(self, x: Tensor, attention: NDArray) -> tuple[Tensor, NDArray]:
        scores = self.scores(attention)
        return x * scores, scores


class ShortestPathReflection(nn.Module):
    """Reads, for every token, the tokens nearest to it in the attention graph.

    Distances are -log(attention + 1e-10), closed under min-plus and averaged over heads. The rows of the 5 nearest
    tokens, nearest first, run through a GRU; its last state is the token's path feature, and the tokens attend to
    all path features with 8 heads. Causal: distances to later tokens are inf from the start, a token with fewer than
    5 tokens in reach repeats the farthest, and the attention to the path features is masked.
    """

    NEAREST = 5
    HEADS = 8

    def __init__(
        self, d_model: int, *, causal: bool, through_host: bool, rng: np.random.Generator, dtype: DTypeLike
    ) -> None:
        self.causal = causal
        self.path_encoder = GRU(d_model, d_model, rng=rng, dtype=dtype)
        self.path_attn = MultiheadAttention(
            d_model, self.HEADS, causal=causal, through_host=through_host, rng=rng, dtype=dtype
        )

    def shortest_distances(self, attention: NDArray) -> NDArray:
        """Per head, all-pairs shortest path lengths: (B, H, T, T)"""
        distances = autograd.memory.pooled(np.add, attention, attention.dtype.type(1e-10))
        np.negative(np.log(distances, out=distances), out=distances)
        if self.causal:
            np.copyto(distances, np.inf, where=~causal_mask(attention.shape[-1]))
        return graph.shortest_paths(distances)

    def forward(self, x: Tensor, attention: NDArray) -> Tensor:
        """x (B, T, D), attention (B, H, T, T), to (B, T, D)"""
        batch, length, width = x.shape
        distances = self.shortest_distances(attention).mean(axis=1)  # (B, T, T)
        nearest = graph.nearest_nodes(distances, self.NEAREST)  # (B, T, 5)
        rows = (nearest + length * np.arange(batch)[:, None, None]).reshape(batch * length, self.NEAREST)
        features = self.path_encoder(x.reshape(batch * length, width), rows)  # (B T, D)
        return self.path_attn(x, features.reshape(batch, length, width))


class MirrorComplexity(nn.Module):
    """Weighs each token by a score in (0, 1) of three mirror readings of the sequence.

    A mirror is the mean of a projection and its reverse in time. Causal: the mean of a projection and that of the
    first token, which looks back only.
    """

    MIRRORS = 3

    def __init__(self, d_model: int, *, causal: bool, rng: np.random.Generator, dtype: DTypeLike) -> None:
        self.causal = causal
        self.mirror_projs = nn.ModuleList(
            nn.Linear(d_model, d_model, rng=rng, dtype=dtype) for _ in range(self.MIRRORS)
        )
        self.complexity_scorer = nn.Sequential(
            nn.Linear(self.MIRRORS * d_model, d_model, rng=rng, dtype=dtype),
            nn.ReLU(),
            nn.Linear(d_model, 1, rng=rng, dtype=dtype),
            nn.Sigmoid(),
        )

    def mirror(self, p: Tensor) -> Tensor:
        return (p + (p[:, :1] if self.causal else ops.flip(p, axis=1))) * 0.5

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D), to x times its scores, and the scores (B, T, 1)"""
        mirrors = ops.concatenate(*(self.mirror(proj(x)) for proj in self.mirror_projs), axis=-1)
        scores = self.complexity_scorer(mirrors)
        return x * scores, scores


class Reflection(nn.Module):
    """x + gate * fused, where `fused` comes from connectivity, shortest paths and mirrors of x."""

    def __init__(
        self,
        d_model: int,
        *,
        dropout: float = 0.1,
        causal: bool = False,
        through_host: bool = False,
        generator: autograd.Generator | None = None,
        rng: np.random.autograd.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        rng = nn.init.generator(rng)
        self.connectivity_analyzer = ConnectivityAnalyzer(d_model, causal=causal, rng=rng, dtype=dtype)
        self.shortest_path_reflection = ShortestPathReflection(
            d_model, causal=causal, through_host=through_host, rng=rng, dtype=dtype
        )
        self.mirror_complexity = MirrorComplexity(d_model, causal=causal, rng=rng, dtype=dtype)
        self.fusion = nn.Sequential(
            nn.Linear(3 * d_model, d_model, rng=rng, dtype=dtype),
            nn.LayerNorm(d_model, dtype=dtype),
            nn.GELU(),
            nn.Dropout(dropout, generator),
            nn.Linear(d_model, d_model, rng=rng, dtype=dtype),
        )
        self.feedback_gate = nn.Sequential(nn.Linear(d_model, d_model, rng=rng, dtype=dtype), nn.Sigmoid())

    def forward(self, x: Tensor, attention: NDArray) -> tuple[Tensor, dict[str, NDArray]]:
        """Reflect on x (B, T, D) with attention weights (B, any number of heads, T, T).

        Returns
        -------
        reflected : Tensor, (B, T, D)
        scores : dict of ndarray
            For monitoring: `connectivity` (B, T, 1), `complexity` (B, T, 1), `feedback_strength` (B, T, D).
        """
        connected, connectivity = self.connectivity_analyzer(x, attention)
        paths = self.shortest_path_reflection(x, attention)
        mirrored, complexity = self.mirror_complexity(x)
        fused = self.fusion(ops.concatenate(connected, paths, mirrored, axis=-1))
        strength = self.feedback_gate(fused)
        return x + strength * fused, {
            "connectivity": connectivity,
            "complexity": complexity.data,
            "feedback_strength": strength.data,
        }
