"""Many tokens of one text through a Llama whose weights are packed, in NumPy: how a prompt is read.

As in `token`, all that stands between the products counts: each is one function over rows here, with a twin
(`kernels.token`), and what several weights read is rounded once. Attention goes over the queries in chunks, so that
what lies in their future is hardly computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import fp4
from .byte_rows import ByteRows
from .panels import RightOperand
from .token import Rounding, Token, Whole, exp, lane_sums, swiglu, turn

CHUNK = 128
"""Queries of a chunk."""


@Whole
def norm_rows(x: NDArray, weight: NDArray, eps: float) -> NDArray:
    """`token.rms_norm` of every row of x (T, D)."""
    scale = np.float32(1) / np.sqrt(lane_sums(x * x) / np.float32(x.shape[1]) + np.float32(eps))
    return x * scale[:, None] * weight


@Whole
def gate_rows(gate: NDArray, up: NDArray) -> NDArray:
    """gate * sigmoid(gate) * up, (T, F)"""
    return swiglu(gate, up)


@Whole
def turn_rows(x: NDArray, cos: NDArray, sin: NDArray, head_dim: int, interleaved: bool) -> NDArray:
    """Heads (T, n d) turned by the angles of their positions, (T, d / 2): (n, T, d)."""
    heads = x.shape[1] // head_dim
    angles = (np.repeat(part, heads, axis=0) for part in (cos, sin))
    turned = turn(x.reshape(-1, head_dim), *angles, interleaved)
    return np.ascontiguousarray(turned.reshape(len(x), heads, head_dim).swapaxes(0, 1))


@Whole
def causal_softmax(scores: NDArray, new: int) -> None:
    """The softmax of scores (rows, S), in place; of `new` rows each the last sees all S tokens, each other one less."""
    seen = scores.shape[1] - new + 1 + np.arange(len(scores)) % new
    hidden = np.arange(scores.shape[1]) >= seen[:, None]
    scores[hidden] = -np.inf
    with np.errstate(invalid="ignore"):
        e = exp(scores - scores.max(axis=1, keepdims=True))
    scores[...] = e / lane_sums(e)[:, None]
    scores[hidden] = 0


@Whole
def products(x: NDArray, weights: Sequence[RightOperand | ByteRows]) -> list[NDArray]:
    """x W^T of rows x (T, K), rounded to 8-bit integers a block, and each of some packed weights (N, K): (T, N)."""
    return [fp4.matvec(x, w, np.empty((len(x), w.shape[0]), np.float32)) for w in weights]


@Whole
def add_product(total: NDArray, x: NDArray, weight: RightOperand | ByteRows) -> None:
    """total (T, N) += x W^T, in place; `products`."""
    total += products(x, [weight])[0]


def attend_rows(q: NDArray, keys: NDArray, values: NDArray) -> NDArray:
    """softmax(q k^T) v of the last T of S tokens: q (H, T, d), keys and values (G, S, d), to (T, H d).

    The queries of a group stand one below the other as one tall matrix.
    """
    (heads, new, head_dim), (groups, seen) = q.shape, keys.shape[:2]
    grouped = q.reshape(groups, heads // groups, new, head_dim)
    out = np.empty((new, groups, heads // groups, head_dim), np.float32)
    for start in range(0, new, CHUNK):
        stop = min(start + CHUNK, new)
        visible = seen - new + stop
        tall = grouped[:, :, start:stop].reshape(groups, -1, head_dim)
        scores = tall @ keys[:, :visible].swapaxes(1, 2)
        causal_softmax(scores.reshape(-1, visible), stop - start)
        mixed = scores @ values[:, :visible]
        out[start:stop] = mixed.reshape(groups, -1, stop - start, head_dim).transpose(2, 0, 1, 3)
    return out.reshape(new, heads * head_dim)


def read(
    token: Token,
    x: NDArray,
    turns: tuple[NDArray, NDArray],
    keys: NDArray,
    values: NDArray,
    position: int,
    rounding: tuple[Rounding, Rounding] = (None, None),
    *,
    last: bool = False,
) -> NDArray:
    """The tokens of a text through all layers.

    Parameters
    ----------
    token : Token
        Its head is left out.
    x : float32 (T, D)
        The tokens' embeddings.
    turns : (cos, sin), float32 (T, d / 2) each
        Of their positions.
    keys, values : float32 (layers, G, capacity, d)
        Those of `position` tokens before; their own are written behind them.
    position : int
    rounding : pair
        What becomes of keys and of values before they are kept.
    last : bool
        Whether only the last token is asked for: the others then end at the last layer's keys and values.

    Returns
    -------
    float32 (T, D), or (1, D) with `last`
        What the head sees.
    """
    x, stop, scale = np.array(x), position + len(x), np.float32(1 / np.sqrt(token.head_dim))
    shape = token.head_dim, token.interleaved
    for i, layer in enumerate(token.layers):
        q, k, v = products(norm_rows(x, layer.input_norm, token.eps), layer.qkv)
        new = turn_rows(k, *turns, *shape), v.reshape(len(v), token.groups, -1).swapaxes(0, 1)
        for held, vectors, rounded in zip((keys, values), new, rounding):
            held[i, :, position:stop] = vectors if rounded is None else rounded(vectors)
        if last and layer is token.layers[-1]:
            x, q, turns = x[-1:].copy(), q[-1:], (turns[0][-1:], turns[1][-1:])
        q = turn_rows(q, turns[0] * scale, turns[1] * scale, *shape)
        add_product(x, attend_rows(q, keys[i, :, :stop], values[i, :, :stop]), layer.output)
        gate, up = products(norm_rows(x, layer.post_norm, token.eps), layer.gate_up)
        add_product(x, gate_rows(gate, up), layer.down)
    return norm_rows(x, token.norm, token.eps)
