"""Elementwise twins: GELU, dropout, sigmoid, tanh, the GRU's gates; and the exponential that all of them share.

Large arrays are cut into pieces of a fixed size, which threads share out; no sum runs over a piece, so the results
depend on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine import autograd
from ...simd.jit import jit, leaf, pjit, share
from ...simd.jit import row as jit_row
from ...simd.lanes import PIECE, absolute, bits, floats, mix, places, select, splat
from ...simd.lanes_memory import load, load_part, load_some, store, store_part, store_some
from ...simd.wide import WIDTH

empty = autograd.memory.empty

_LOG2E = 1.4426950408889634
_LN2_HIGH = 0.693359375
"""ln 2 in 12 bits: an integer up to 2**11 times it is exact in float32 (Cody and Waite's splitting)."""
_LN2_LOW = -2.12194440054690583e-4
_ROUND = 12582912.0
"""1.5 * 2**23: added to a number below 2**22 it leaves the nearest integer in the low bits of the sum."""


@leaf
def exp(x):
    """e ** x in sixteen lanes: x = n ln 2 + r, a polynomial in r, and n into the exponent. About 1 ulp.

    0 below -87.33, where float32 would become subnormal; not meant for x above 88.
    """
    shifted = x * _LOG2E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = r * 0.0013814596391471547 + 0.008368717091201391
    p = p * r + 0.0416683880925438
    p = p * r + 0.16666520629435538
    p = p * r + 0.49999993447560775
    p = (p * r) * r + r + 1.0
    power = floats((bits(shifted) << 23) + 0x3F800000)
    return select(x < -87.33, 0.0, p * power)


@leaf
def normal_tail(a, density):
    """1 - Phi(a) for a >= 0: density = exp(-a a / 2) times a polynomial in 1 / (1 + 0.328125 a).

    The polynomial is a least-maximum fit of the Mills ratio on 0 to 14, relative error 1.3e-8.
    """
    t = 1.0 / (a * 0.328125 + 1.0)
    p = t * -0.025300875023821865 + 0.14762480783773418
    p = p * t + -0.32617499003235495
    p = p * t + 0.3029792827915458
    p = p * t + -0.11526156546824437
    p = p * t + 0.15041039796273722
    p = p * t + 0.10182316951603718
    p = p * t + 0.13318780764575258
    p = p * t + 0.13070450164513603
    p = p * t + 7.46923280958993e-06
    return density * p


@leaf
def gelu_lanes(x):
    """x Phi(x)"""
    density = exp(x * x * -0.5)
    tail = normal_tail(absolute(x), density)
    return x * select(x < 0.0, tail, 1.0 - tail)


@leaf
def gelu_slope(x):
    """The derivative of x Phi(x): Phi(x) + x phi(x)"""
    density = exp(x * x * -0.5)
    tail = normal_tail(absolute(x), density)
    return select(x < 0.0, tail, 1.0 - tail) + x * (density * 0.3989422804014327)


@leaf
def pieces(team, count):
    """Where the pieces begin that are a thread's share of 0 ... count - 1."""
    own = share(team, (count + PIECE - 1) // PIECE)
    return range(own.start * PIECE, own.stop * PIECE, PIECE)


@jit
def _gelu_piece(x, y, start, stop):
    whole = stop - (stop - start) % WIDTH
    for i in range(start, whole, WIDTH):
        store(y, i, gelu_lanes(load(x, i)))
    if whole < stop:
        n = stop - whole
        store_part(y, whole, n, gelu_lanes(load_part(x, whole, n, 0.0)))


@pjit
def _gelu(team, x, y):
    for start in pieces(team, len(x)):
        _gelu_piece(x, y, start, min(start + PIECE, len(x)))


@jit
def _gelu_vjp_piece(x, g, gradient, start, stop):
    whole = stop - (stop - start) % WIDTH
    for i in range(start, whole, WIDTH):
        store(gradient, i, load(g, i) * gelu_slope(load(x, i)))
    if whole < stop:
        n = stop - whole
        store_part(gradient, whole, n, load_part(g, whole, n, 0.0) * gelu_slope(load_part(x, whole, n, 0.0)))


@pjit
def _gelu_vjp(team, x, g, gradient):
    for start in pieces(team, len(x)):
        _gelu_vjp_piece(x, g, gradient, start, min(start + PIECE, len(x)))


# ------------------------------------------------------------------------------------------------- sigmoid and tanh


@leaf
def sigmoid_lanes(x):
    """1 / (1 + e ** -x), from e ** -abs(x), which cannot overflow"""
    e = exp(absolute(x) * -1.0)
    upper = 1.0 / (e + 1.0)
    return select(x < 0.0, e * upper, upper)


@leaf
def tanh_lanes(x):
    """tanh x: an odd polynomial up to 0.625, above 1 - 2 / (1 + e ** 2 abs(x)) with the sign of x"""
    a = absolute(x)
    s = x * x
    p = s * 0.0021475368627702257 + -0.008182673858465384
    p = p * s + 0.021702967104561342
    p = p * s + -0.05394720426895081
    p = p * s + 0.1333320976379
    p = p * s + -0.33333330906671443
    near = p * s * x + x
    e = exp(a * -2.0)
    far = floats(bits((1.0 - e) / (e + 1.0)) | (bits(x) & 0x80000000))
    return select(a < 0.625, near, far)


@jit
def _sigmoid_piece(x, y, start, stop):
    whole = stop - (stop - start) % WIDTH
    for i in range(start, whole, WIDTH):
        store(y, i, sigmoid_lanes(load(x, i)))
    if whole < stop:
        n = stop - whole
        store_part(y, whole, n, sigmoid_lanes(load_part(x, whole, n, 0.0)))


@pjit
def _sigmoid(team, x, y):
    for start in pieces(team, len(x)):
        _sigmoid_piece(x, y, start, min(start + PIECE, len(x)))


@jit
def _sigmoid_vjp_piece(y, g, gradient, start, stop):
    whole = stop - (stop - start) % WIDTH
    for i in range(start, whole, WIDTH):
        v = load(y, i)
        store(gradient, i, load(g, i) * v * (1.0 - v))
    if whole < stop:
        n = stop - whole
        v = load_part(y, whole, n, 0.0)
        store_part(gradient, whole, n, load_part(g, whole, n, 0.0) * v * (1.0 - v))


@pjit
def _sigmoid_vjp(team, y, g, gradient):
    for start in pieces(team, len(y)):
        _sigmoid_vjp_piece(y, g, gradient, start, min(start + PIECE, len(y)))


# ----------------------------------------------------------------------------------------------------------- dropout


@jit
def _dropout_piece(x, y, start, stop, first_key, second_key, least, scale):
    for i in range(start, stop, WIDTH):
        n = min(WIDTH, stop - i)
        word = mix(mix((places() + i) ^ first_key) + second_key)
        kept = select(word >= least, splat(1.0), 0.0)
        store_some(y, i, n, load_some(x, i, n, 0.0) * kept * scale)


@pjit
def _dropout(team, x, y, first_key, second_key, least, scale):
    for start in pieces(team, len(x)):
        _dropout_piece(x, y, start, min(start + PIECE, len(x)), first_key, second_key, least, scale)


# --------------------------------------------------------------------------------------------------- the GRU's gates


@leaf
def _gru_lanes(from_input, from_state, state, kept, new, row, j, width, n):
    """Lanes j ... j + n of a row: r, z, n and what W_hh h gives to n are kept for the gradient, in rows of 4 D."""
    at, to, i = 3 * row * width + j, 4 * row * width + j, row * width + j
    r = sigmoid_lanes(load_some(from_input, at, n, 0.0) + load_some(from_state, at, n, 0.0))
    z = sigmoid_lanes(load_some(from_input, at + width, n, 0.0) + load_some(from_state, at + width, n, 0.0))
    h = load_some(from_state, at + 2 * width, n, 0.0)
    c = tanh_lanes(load_some(from_input, at + 2 * width, n, 0.0) + r * h)
    store_some(kept, to, n, r)
    store_some(kept, to + width, n, z)
    store_some(kept, to + 2 * width, n, c)
    store_some(kept, to + 3 * width, n, h)
    store_some(new, i, n, (1.0 - z) * c + z * load_some(state, i, n, 0.0))


@jit
def _gru_row(from_input, from_state, state, kept, new, row, width):
    for j in range(0, width, WIDTH):
        _gru_lanes(from_input, from_state, state, kept, new, row, j, width, min(WIDTH, width - j))


@pjit
def _gru(team, from_input, from_state, state, kept, new, width):
    for row in share(team, len(state) // width):
        _gru_row(from_input, from_state, state, kept, new, row, width)


@leaf
def _gru_vjp_lanes(g, kept, state, to_input, to_state, to_old, row, j, width, n):
    at, to, i = 4 * row * width + j, 3 * row * width + j, row * width + j
    r, z = load_some(kept, at, n, 0.0), load_some(kept, at + width, n, 0.0)
    c, v = load_some(kept, at + 2 * width, n, 0.0), load_some(g, i, n, 0.0)
    to_n = v * (1.0 - z) * (1.0 - c * c)
    to_r = to_n * load_some(kept, at + 3 * width, n, 0.0) * r * (1.0 - r)
    to_z = v * (load_some(state, i, n, 0.0) - c) * z * (1.0 - z)
    store_some(to_input, to, n, to_r)
    store_some(to_state, to, n, to_r)
    store_some(to_input, to + width, n, to_z)
    store_some(to_state, to + width, n, to_z)
    store_some(to_input, to + 2 * width, n, to_n)
    store_some(to_state, to + 2 * width, n, to_n * r)
    store_some(to_old, i, n, v * z)


@jit
def _gru_vjp_row(g, kept, state, to_input, to_state, to_old, row, width):
    for j in range(0, width, WIDTH):
        _gru_vjp_lanes(g, kept, state, to_input, to_state, to_old, row, j, width, min(WIDTH, width - j))


@pjit
def _gru_vjp(team, g, kept, state, to_input, to_state, to_old, width):
    for row in share(team, len(state) // width):
        _gru_vjp_row(g, kept, state, to_input, to_state, to_old, row, width)


# ------------------------------------------------------------------------------------------------------------- twins


def _is_plain(*arrays: NDArray) -> bool:
    return all(array.dtype == np.float32 for array in arrays)


def run_pieces(parallel: Callable, piece: Callable, arrays: tuple[NDArray, ...], settings: tuple = ()) -> None:
    """Over all elements of flat arrays of one size: by threads, or right here where one piece is all there is."""
    if arrays[0].size <= PIECE:
        piece(*arrays, 0, arrays[0].size, *settings)
    else:
        parallel(*arrays, *settings)


def gelu(x: NDArray) -> Any:
    """Twin of `autograd.functional.gelu`: nothing is kept but x; the gradient computes Phi again."""
    if not _is_plain(x):
        return NotImplemented
    flat, y = jit_row(x), empty(x.shape)
    run_pieces(_gelu, _gelu_piece, (flat, y.reshape(-1)))

    def vjp(g: NDArray) -> NDArray:
        gradient = empty(x.shape)
        run_pieces(_gelu_vjp, _gelu_vjp_piece, (flat, jit_row(g), gradient.reshape(-1)))
        return gradient

    return y, (vjp,)


def sigmoid(x: NDArray) -> Any:
    """Twin of `autograd.ops.sigmoid`."""
    if not _is_plain(x):
        return NotImplemented
    y = empty(x.shape)
    run_pieces(_sigmoid, _sigmoid_piece, (jit_row(x), y.reshape(-1)))

    def vjp(g: NDArray) -> NDArray:
        gradient = empty(x.shape)
        run_pieces(_sigmoid_vjp, _sigmoid_vjp_piece, (y.reshape(-1), jit_row(g), gradient.reshape(-1)))
        return gradient

    return y, (vjp,)


def dropout_by_key(x: NDArray, *, p: float, key: tuple[int, int]) -> Any:
    """Twin of `autograd.functional.dropout_by_key`: the bits are made again for the gradient."""
    if not _is_plain(x):
        return NotImplemented
    settings = (np.uint32(key[0]), np.uint32(key[1]), np.uint32(p * 2**32), np.float32(1 / (1 - p)))

    def masked(v: NDArray) -> NDArray:
        y = empty(v.shape)
        run_pieces(_dropout, _dropout_piece, (jit_row(v), y.reshape(-1)), settings)
        return y

    return masked(x), (masked,)


def gru_gates(from_input: NDArray, from_state: NDArray, state: NDArray) -> Any:
    """Twin of `vbw_np.layers.gru.gru_gates`: of its inputs only the state is kept, and of W_hh h a third."""
    if not _is_plain(from_input, from_state, state) or state.size == 0:
        return NotImplemented
    width, shape, old = state.shape[-1], from_input.shape, jit_row(state)
    kept, new = empty((*shape[:-1], 4 * width)), empty(state.shape)
    _gru(jit_row(from_input), jit_row(from_state), old, kept.reshape(-1), new.reshape(-1), width)

    def vjp(g: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        gradients = empty(shape), empty(shape), empty(state.shape)
        _gru_vjp(jit_row(g), kept.reshape(-1), old, *(v.reshape(-1) for v in gradients), width)
        return gradients

    return new, vjp
