"""One token through a Llama whose weights are packed, and what it is made of, in NumPy.

Writing text multiplies one row with every weight, so all that stands between the products counts: in NumPy each small
operation costs more than its arithmetic. `step` is the definition of the whole; its twin (`kernels.token`) is one call.

Sums run in sixteen lanes, as in all kernels: lane j takes the elements j, j + 16, ..., and the lanes are added as a
tree of halves. Attention goes over the tokens in stretches of `STRETCH`, which threads share; each is a softmax of its
own, and they are put together in order (the arithmetic of FlashDecoding, arXiv 2311.01282, section 2.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine import autograd
from . import fp4
from .byte_rows import ByteRows
from .panels import RightOperand

LANES = 16
STRETCH = 64
"""Tokens whose keys and values are mixed in one go."""

Rounding = Callable[[NDArray], NDArray] | None
"""What becomes of keys or values (G, d) before they are kept; None: nothing."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer's norms (D,) and packed weights; q, k and v read the same input, and so do gate and up."""

    input_norm: NDArray
    qkv: tuple[RightOperand, RightOperand, RightOperand]
    output: RightOperand
    post_norm: NDArray
    gate_up: tuple[RightOperand, RightOperand]
    down: RightOperand

    @property
    def products(self) -> tuple[RightOperand, ...]:
        """All of them, in the order in which they are multiplied."""
        return *self.qkv, self.output, *self.gate_up, self.down


@dataclass(frozen=True, eq=False)
class Token:
    """What a token passes through.

    Attributes
    ----------
    layers : tuple of Layer
        All operands of one format.
    norm : float32 (D,)
    head : RightOperand, ByteRows or None
        None: the head is somebody else's.
    heads, groups, head_dim : int
        H query heads share G heads of keys and values, d numbers each, d a multiple of 16.
    eps : float
        Of the norms.
    interleaved : bool
        Which channels rotary positions pair (`vbw_np.layers.rotary`).
    """

    layers: tuple[Layer, ...]
    norm: NDArray
    head: RightOperand | ByteRows | None
    heads: int
    groups: int
    head_dim: int
    eps: float
    interleaved: bool


def lane_sums(x: NDArray) -> NDArray:
    """The sum over the last axis in sixteen lanes: (..., n) float32 to (...)."""
    padded = np.zeros((*x.shape[:-1], -(-x.shape[-1] // LANES) * LANES), np.float32)
    padded[..., : x.shape[-1]] = x
    parts = padded.reshape(*x.shape[:-1], -1, LANES)
    lanes = np.zeros((*x.shape[:-1], LANES), np.float32)
    for i in range(parts.shape[-2]):
        lanes = lanes + parts[..., i, :]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def exp(x: NDArray) -> NDArray:
    """e ** x for x up to 88: x = n ln 2 + r, a polynomial in r, and n into the exponent; `twins.elementwise.exp`."""
    one = np.float32
    shifted = x * one(1.4426950408889634) + one(12582912)  # 1.5 * 2**23: the nearest integer in the low bits
    n = shifted - one(12582912)
    r = (x - n * one(0.693359375)) - n * one(-2.12194440054690583e-4)
    p = r * one(0.0013814596391471547) + one(0.008368717091201391)
    for factor in (0.0416683880925438, 0.16666520629435538, 0.49999993447560775):
        p = p * r + one(factor)
    p = (p * r) * r + r + one(1)
    power = ((shifted.view(np.uint32) << np.uint32(23)) + np.uint32(0x3F800000)).view(np.float32)
    with np.errstate(invalid="ignore"):
        return np.where(x < one(-87.33), one(0), p * power)


def rms_norm(x: NDArray, weight: NDArray, eps: float) -> NDArray:
    """x / sqrt(mean of x * x + eps) * weight, (D,)"""
    return x * (np.float32(1) / np.sqrt(lane_sums(x * x) / np.float32(len(x)) + np.float32(eps))) * weight


def swiglu(gate: NDArray, up: NDArray) -> NDArray:
    """gate * sigmoid(gate) * up, (F,)"""
    e = exp(np.abs(gate) * np.float32(-1))
    upper = np.float32(1) / (e + np.float32(1))
    return gate * np.where(gate < 0, e * upper, upper) * up


def turn(x: NDArray, cos: NDArray, sin: NDArray, interleaved: bool) -> NDArray:
    """Vectors (n, d) turned by the angles of a position, (d / 2,): `layers.rotary.rotate` of one token."""
    half = x.shape[-1] // 2
    first, second = (np.s_[:, 0::2], np.s_[:, 1::2]) if interleaved else (np.s_[:, :half], np.s_[:, half:])
    turned = np.empty_like(x)
    turned[first] = x[first] * cos - x[second] * sin
    turned[second] = x[second] * cos + x[first] * sin
    return turned


def attend(q: NDArray, keys: NDArray, values: NDArray) -> NDArray:
    """softmax(q k^T / sqrt(d)) v of one token: q (H, d), keys and values (G, S, d), to (H, d)."""
    heads, head_dim = q.shape
    groups, seen = keys.shape[:2]
    grouped, scale = q.reshape(groups, heads // groups, 1, head_dim), np.float32(1 / np.sqrt(head_dim))
    tops, totals, mixed = [], [], []
    for start in range(0, seen, STRETCH):
        k, v = (held[:, None, start : start + STRETCH] for held in (keys, values))  # (G, 1, n, d)
        scores = lane_sums(grouped * k) * scale  # (G, H / G, n)
        tops.append(scores.max(axis=-1))
        weights = exp(scores - tops[-1][..., None])
        totals.append(lane_sums(weights))
        sums = np.zeros((groups, heads // groups, head_dim), np.float32)
        for j in range(k.shape[2]):
            sums = sums + v[:, :, j] * weights[..., j, None]
        mixed.append(sums)
    top = np.maximum.reduce(tops)
    total, out = np.zeros_like(top), np.zeros_like(mixed[0])
    for own_top, own_total, sums in zip(tops, totals, mixed):
        share = exp(own_top - top)
        total, out = total + share * own_total, out + sums * share[..., None]
    return (out / total[..., None]).reshape(heads, head_dim)


def products(x: NDArray, weights: Sequence[RightOperand | ByteRows]) -> list[NDArray]:
    """x W^T of one row (K,), rounded to 8-bit integers a block, and each of some packed weights (N, K): (N,)."""
    return [fp4.matvec(x[None], w, np.empty((1, w.shape[0]), np.float32))[0] for w in weights]


class Whole(autograd.twin.Twinned):
    """A function with a twin that no registry of samples knows; `tests/kernels/test_token.py` holds the two equal."""

    def __init__(self, reference: Callable) -> None:
        super().__init__(reference, None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


@Whole
def step(
    token: Token,
    x: NDArray,
    turns: tuple[NDArray, NDArray],
    keys: NDArray,
    values: NDArray,
    position: int,
    rounding: tuple[Rounding, Rounding] = (None, None),
) -> tuple[NDArray, NDArray | None]:
    """One token through all layers.

    Parameters
    ----------
    token : Token
    x : float32 (D,)
        The token's embedding.
    turns : (cos, sin), float32 (d / 2,) each
        Of its position.
    keys, values : float32 (layers, G, capacity, d)
        Those of `position` tokens before; its own are written at `position`.
    position : int
    rounding : pair
        What becomes of keys and of values before they are kept.

    Returns
    -------
    hidden : float32 (D,)
        What the head sees.
    logits : float32 (V,), or None without a head
    """
    for i, layer in enumerate(token.layers):
        q, k, v = products(rms_norm(x, layer.input_norm, token.eps), layer.qkv)
        q, k, v = (part.reshape(-1, token.head_dim) for part in (q, k, v))
        q, k = (turn(part, *turns, token.interleaved) for part in (q, k))
        for held, new, rounded in zip((keys, values), (k, v), rounding):
            held[i, :, position] = new if rounded is None else rounded(new)
        mixed = attend(q, keys[i, :, : position + 1], values[i, :, : position + 1])
        x = x + products(mixed.reshape(-1), [layer.output])[0]
        gate, up = products(rms_norm(x, layer.post_norm, token.eps), layer.gate_up)
        x = x + products(swiglu(gate, up), [layer.down])[0]
    hidden = rms_norm(x, token.norm, token.eps)
    return hidden, products(hidden, [token.head])[0] if token.head is not None else None
