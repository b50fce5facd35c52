"""Row twins: softmax, layer norm, the experts' weighted sum, and gathering and scattering rows.

A row is summed in sixteen lanes (lane j takes elements j, j + 16, ...), whose sums are added as a tree; sums over rows
run within pieces of a fixed number of rows, and then over the pieces in order. NumPy adds in another order, so sums
differ from the readable definitions in the last bits; they do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine import autograd
from ...simd.jit import jit, leaf, pjit, share
from ...simd.jit import row as jit_row
from ...simd.jit import rows as jit_rows
from ...simd.lanes import PIECE, larger, max_lanes, splat, sum_lanes
from ...simd.lanes_memory import load, load_part, store, store_part
from ...simd.wide import WIDTH
from .elementwise import exp

empty, zeros = autograd.memory.empty, autograd.memory.zeros

ROWS = 64
"""Rows to which one thread adds a bias at a time."""

LARGE = 1 << 16
"""Elements from which on a bias is worth several threads."""


def rows_of_piece(width: int) -> int:
    """How many rows of `width` elements make up a piece."""
    return max(1, PIECE // max(width, 1))


# ----------------------------------------------------------------------------------------------------------- softmax


@leaf
def row_max(x):
    """The largest element of a row; of a row with NaN, something or NaN."""
    whole = len(x) - len(x) % WIDTH
    top = splat(-np.inf)
    for i in range(0, whole, WIDTH):
        top = larger(top, load(x, i))
    if whole < len(x):
        top = larger(top, load_part(x, whole, len(x) - whole, -np.inf))
    return max_lanes(top)


@jit
def exp_row(x, y, top):
    """y = exp(x - top); the sum of y."""
    whole = len(x) - len(x) % WIDTH
    total = splat(0.0)
    for i in range(0, whole, WIDTH):
        e = exp(load(x, i) - top)
        store(y, i, e)
        total = total + e
    if whole < len(x):
        n = len(x) - whole
        e = exp(load_part(x, whole, n, -np.inf) - top)
        store_part(y, whole, n, e)
        total = total + e
    return sum_lanes(total)


@leaf
def _softmax_row(x, y):
    total = exp_row(x, y, row_max(x))
    for i in range(0, len(x), WIDTH):
        n = min(WIDTH, len(x) - i)
        store_part(y, i, n, load_part(y, i, n, 0.0) / total)


@pjit
def _softmax(team, x, y):
    for i in share(team, len(x)):
        _softmax_row(x[i], y[i])


@leaf
def _softmax_vjp_row(y, g, gradient):
    total = splat(0.0)
    for i in range(0, len(y), WIDTH):
        n = min(WIDTH, len(y) - i)
        total = total + load_part(g, i, n, 0.0) * load_part(y, i, n, 0.0)
    along = sum_lanes(total)
    for i in range(0, len(y), WIDTH):
        n = min(WIDTH, len(y) - i)
        store_part(gradient, i, n, load_part(y, i, n, 0.0) * (load_part(g, i, n, 0.0) - along))


@pjit
def _softmax_vjp(team, y, g, gradient):
    for i in share(team, len(y)):
        _softmax_vjp_row(y[i], g[i], gradient[i])


def softmax(x: NDArray, *, axis: int = -1) -> Any:
    """Twin of `autograd.functional.softmax` over the last axis."""
    if x.dtype != np.float32 or axis not in (-1, x.ndim - 1) or x.size == 0:
        return NotImplemented
    y = empty(x.shape)
    kept = y.reshape(-1, x.shape[-1])
    _softmax(jit_rows(x), kept)

    def vjp(g: NDArray) -> NDArray:
        gradient = empty(x.shape)
        _softmax_vjp(kept, jit_rows(g), gradient.reshape(kept.shape))
        return gradient

    return y, (vjp,)


# -------------------------------------------------------------------------------------------------------- layer norm


@leaf
def _layer_norm_row(x, weight, bias, y, eps):
    """One row; its mean and its 1 / sqrt(variance + eps)."""
    total = splat(0.0)
    for i in range(0, len(x), WIDTH):
        total = total + load_part(x, i, min(WIDTH, len(x) - i), 0.0)
    mean = sum_lanes(total) / np.float32(len(x))
    squares = splat(0.0)
    for i in range(0, len(x), WIDTH):
        centred = load_part(x, i, min(WIDTH, len(x) - i), mean) - mean
        squares = squares + centred * centred
    variance = sum_lanes(squares) / np.float32(len(x))
    rstd = np.float32(1) / np.sqrt(variance + eps)
    for i in range(0, len(x), WIDTH):
        n = min(WIDTH, len(x) - i)
        normal = (load_part(x, i, n, 0.0) - mean) * rstd
        store_part(y, i, n, normal * load_part(weight, i, n, 0.0) + load_part(bias, i, n, 0.0))
    return mean, rstd


@pjit
def _layer_norm(team, x, weight, bias, y, mean, rstd, eps):
    for i in share(team, len(x)):
        mean[i], rstd[i] = _layer_norm_row(x[i], weight, bias, y[i], eps)


@leaf
def _layer_norm_vjp_row(x, weight, mean, rstd, g, gradient, to_weight, to_bias):
    along_mean, along_self = splat(0.0), splat(0.0)
    for i in range(0, len(x), WIDTH):
        n = min(WIDTH, len(x) - i)
        normal = (load_part(x, i, n, mean) - mean) * rstd
        v = load_part(g, i, n, 0.0)
        store_part(to_weight, i, n, load_part(to_weight, i, n, 0.0) + v * normal)
        store_part(to_bias, i, n, load_part(to_bias, i, n, 0.0) + v)
        v = v * load_part(weight, i, n, 0.0)
        along_mean = along_mean + v
        along_self = along_self + v * normal
    mean_share = sum_lanes(along_mean) / np.float32(len(x))
    self_share = sum_lanes(along_self) / np.float32(len(x))
    for i in range(0, len(x), WIDTH):
        n = min(WIDTH, len(x) - i)
        normal = (load_part(x, i, n, mean) - mean) * rstd
        v = load_part(g, i, n, 0.0) * load_part(weight, i, n, 0.0)
        store_part(gradient, i, n, (v - mean_share - normal * self_share) * rstd)


@pjit
def _layer_norm_vjp(team, x, weight, mean, rstd, g, gradient, to_weight, to_bias, step):
    for piece in share(team, (len(x) + step - 1) // step):
        to_weight[piece] = 0
        to_bias[piece] = 0
        for i in range(piece * step, min((piece + 1) * step, len(x))):
            _layer_norm_vjp_row(x[i], weight, mean[i], rstd[i], g[i], gradient[i], to_weight[piece], to_bias[piece])


def layer_norm(x: NDArray, weight: NDArray, bias: NDArray, *, eps: float = 1e-5) -> Any:
    """Twin of `autograd.functional.layer_norm`: keeps x and two numbers a row, not the normalized rows."""
    if x.dtype != np.float32 or weight.shape != x.shape[-1:] or bias.shape != x.shape[-1:] or x.size == 0:
        return NotImplemented
    flat, scale = jit_rows(x), jit_row(weight)
    count, width = flat.shape
    step = rows_of_piece(width)
    y, mean, rstd = empty(x.shape), empty(count), empty(count)
    _layer_norm(flat, scale, jit_row(bias), y.reshape(flat.shape), mean, rstd, np.float32(eps))

    def vjp(g: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        gradient = empty(x.shape)
        parts = empty((2, -(-count // step), width))
        _layer_norm_vjp(flat, scale, mean, rstd, jit_rows(g), gradient.reshape(flat.shape), parts[0], parts[1], step)
        return gradient, parts[0].sum(axis=0), parts[1].sum(axis=0)

    return y, vjp


# ------------------------------------------------------------------------------------------------- rows by number


@leaf
def _copy_row(source, target):
    for i in range(0, len(source), WIDTH):
        n = min(WIDTH, len(source) - i)
        store_part(target, i, n, load_part(source, i, n, 0.0))


@leaf
def _add_row(source, target):
    for i in range(0, len(source), WIDTH):
        n = min(WIDTH, len(source) - i)
        store_part(target, i, n, load_part(target, i, n, 0.0) + load_part(source, i, n, 0.0))


@pjit
def _take(team, x, rows, y):
    for i in share(team, len(rows)):
        _copy_row(x[rows[i]], y[i])


@pjit
def _scatter(team, g, rows, order, starts, total, step):
    """Each piece of the output is zeroed and filled by one thread, in the order in which its rows stand in `g`.

    `order` sorts `rows` stably; the rows of piece p stand in ``order[starts[p] : starts[p + 1]]``.
    """
    for piece in share(team, len(starts) - 1):
        total[piece * step : min((piece + 1) * step, len(total))] = 0
        for k in range(starts[piece], starts[piece + 1]):
            _add_row(g[order[k]], total[rows[order[k]]])


def scatter_rows(g: NDArray, rows: NDArray, count: int) -> NDArray:
    """Sum the rows of g (N, D) into `count` rows by number; equal to `np.add.at` on zeros, bit for bit.

    Parameters
    ----------
    g : float32 (N, D)
    rows : int64 (N,)
        Each in 0 ... count - 1.

    Returns
    -------
    float32 (count, D), from the pool.
    """
    total = empty((count, g.shape[1]))
    step = rows_of_piece(g.shape[1])
    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[order], np.arange(0, count + step, step))
    _scatter(jit_rows(g), rows, order, starts, total, step)
    return total


def take_rows(x: NDArray, *, rows: NDArray) -> Any:
    """Twin of `autograd.ops.take_rows`."""
    if x.dtype != np.float32 or x.ndim != 2 or 0 in x.shape or rows.size == 0:
        return NotImplemented
    numbers = rows.reshape(-1)
    if numbers.min() < 0 or numbers.max() >= len(x):
        return NotImplemented  # counts from the end, or an error: NumPy's matter
    numbers = numbers.astype(np.int64)
    count, width = x.shape
    y = empty((numbers.size, width))
    _take(jit_rows(x), numbers, y)

    def vjp(g: NDArray) -> NDArray:
        return scatter_rows(g.reshape(-1, width), numbers, count)

    return y.reshape(*rows.shape, width), (vjp,)


# --------------------------------------------------------------------------------------------- the experts' mixture


@leaf
def _weighted_row(gate, x, y, add):
    for i in range(0, len(x), WIDTH):
        n = min(WIDTH, len(x) - i)
        v = load_part(x, i, n, 0.0) * gate
        if add:
            v = load_part(y, i, n, 0.0) + v
        store_part(y, i, n, v)


@pjit
def _mix_expert(team, gates, expert, output, mixed):
    """mixed += gates[:, expert] * output, or = for the first expert."""
    for i in share(team, len(mixed)):
        _weighted_row(gates[i, expert], output[i], mixed[i], expert > 0)


@leaf
def _weighted_vjp_row(gate, x, g, gradient):
    total = splat(0.0)
    for i in range(0, len(x), WIDTH):
        n = min(WIDTH, len(x) - i)
        v = load_part(g, i, n, 0.0)
        total = total + v * load_part(x, i, n, 0.0)
        store_part(gradient, i, n, v * gate)
    return sum_lanes(total)


@pjit
def _mix_expert_vjp(team, gates, expert, output, g, to_gates, gradient):
    for i in share(team, len(g)):
        to_gates[i, expert] = _weighted_vjp_row(gates[i, expert], output[i], g[i], gradient[i])


def mix_experts(gates: NDArray, *outputs: NDArray) -> Any:
    """Twin of `vbw_np.layers.mix_experts`."""
    if gates.dtype != np.float32 or gates.size == 0 or outputs[0].size == 0:
        return NotImplemented
    shape = outputs[0].shape
    flat_gates, flat_outputs = jit_rows(gates), [jit_rows(output) for output in outputs]
    mixed = empty(shape)
    for expert, output in enumerate(flat_outputs):
        _mix_expert(flat_gates, expert, output, mixed.reshape(output.shape))

    def vjp(g: NDArray) -> tuple[NDArray, ...]:
        flat = jit_rows(g)
        to_gates = empty(flat_gates.shape)
        gradients = [empty(shape) for _ in outputs]
        for expert, output in enumerate(flat_outputs):
            _mix_expert_vjp(flat_gates, expert, output, flat, to_gates, gradients[expert].reshape(flat.shape))
        return to_gates.reshape(gates.shape), *gradients

    return mixed, vjp


# ---------------------------------------------------------------------------------------------------- a layer's bias


@jit
def _add_to_rows(y, bias, start, stop):
    width = len(bias)
    whole = width - width % WIDTH
    for row in range(start, stop):
        at = row * width
        for j in range(0, whole, WIDTH):
            store(y, at + j, load(y, at + j) + load(bias, j))
        if whole < width:
            n = width - whole
            store_part(y, at + whole, n, load_part(y, at + whole, n, 0.0) + load_part(bias, whole, n, 0.0))


@pjit
def _add_bias(team, y, bias):
    rows = len(y) // len(bias)
    for part in share(team, (rows + ROWS - 1) // ROWS):
        _add_to_rows(y, bias, part * ROWS, min((part + 1) * ROWS, rows))


@jit
def _sum_columns(g, total, width, first, rows):
    """total[first : first + 64] of a flat matrix, row by row."""
    if first + 4 * WIDTH <= width:
        a, b = load(g, first), load(g, first + WIDTH)
        c, d = load(g, first + 2 * WIDTH), load(g, first + 3 * WIDTH)
        for row in range(1, rows):
            at = row * width + first
            a, b = a + load(g, at), b + load(g, at + WIDTH)
            c, d = c + load(g, at + 2 * WIDTH), d + load(g, at + 3 * WIDTH)
        store(total, first, a)
        store(total, first + WIDTH, b)
        store(total, first + 2 * WIDTH, c)
        store(total, first + 3 * WIDTH, d)
        return
    for j in range(first, width, WIDTH):
        n = min(WIDTH, width - j)
        sums = load_part(g, j, n, 0.0)
        for row in range(1, rows):
            sums = sums + load_part(g, row * width + j, n, 0.0)
        store_part(total, j, n, sums)


@pjit
def _sum_rows(team, g, total, rows):
    width = len(total)
    for part in share(team, (width + 4 * WIDTH - 1) // (4 * WIDTH)):
        _sum_columns(g, total, width, part * 4 * WIDTH, rows)


def add_bias(y: NDArray, bias: NDArray) -> Any:
    """Twin of `autograd.functional.add_bias`."""
    if not (y.dtype == bias.dtype == np.float32) or not y.flags.c_contiguous or y.size < LARGE:
        return NotImplemented
    _add_bias(y.reshape(-1), jit_row(bias))
    return y


def sum_of_rows(g: NDArray) -> Any:
    """Twin of `autograd.functional.sum_of_rows`."""
    if g.dtype != np.float32 or g.size < LARGE:
        return NotImplemented
    total = np.empty(g.shape[1], np.float32)
    _sum_rows(jit_row(g), total, len(g))
    return total
