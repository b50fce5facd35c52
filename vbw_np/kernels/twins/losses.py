"""Cross-entropy: a row of logits is read once from memory, and turned into its own gradient where it lies.

Sums over a row run over stretches of 4,096 elements, in sixteen lanes each, and are added in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine import autograd
from ...simd.jit import leaf, pjit, share
from ...simd.jit import rows as jit_rows
from ...simd.lanes import splat, sum_lanes
from ...simd.lanes_memory import load, load_part, store, store_part
from ...simd.wide import WIDTH
from ..fp32.product import add_product
from .elementwise import exp
from .rows import exp_row, row_max

empty = autograd.memory.empty
matmul_arrays = autograd.ops.matmul_arrays  # not np.matmul: its bits depend on the number of threads

STRETCH = 4096
CHUNK_LOGITS = 1 << 25
"""Logits that `linear_cross_entropy` holds at once: 128 MiB of float32. Each chunk's products bring the whole weight
into order anew, so they are few."""


@leaf
def _stretch_sum(x, top):
    """The sum of exp(x - top) over a short row."""
    whole = len(x) - len(x) % WIDTH
    total = splat(0.0)
    for i in range(0, whole, WIDTH):
        total = total + exp(load(x, i) - top)
    if whole < len(x):
        total = total + exp(load_part(x, whole, len(x) - whole, -np.inf) - top)
    return sum_lanes(total)


@leaf
def _exp_sum(x, top):
    total = 0.0
    for start in range(0, len(x), STRETCH):
        total += _stretch_sum(x[start : start + STRETCH], top)
    return total


@leaf
def _exp_in_place(x, top):
    """x = exp(x - top); the sum."""
    total = 0.0
    for start in range(0, len(x), STRETCH):
        part = x[start : start + STRETCH]
        total += exp_row(part, part, top)
    return total


@leaf
def _scale_row(x, factor):
    whole = len(x) - len(x) % WIDTH
    for i in range(0, whole, WIDTH):
        store(x, i, load(x, i) * factor)
    if whole < len(x):
        n = len(x) - whole
        store_part(x, whole, n, load_part(x, whole, n, 0.0) * factor)


@leaf
def _exp_scaled(x, y, top, factor):
    """y = exp(x - top) * factor"""
    whole = len(x) - len(x) % WIDTH
    for i in range(0, whole, WIDTH):
        store(y, i, exp(load(x, i) - top) * factor)
    if whole < len(x):
        n = len(x) - whole
        store_part(y, whole, n, exp(load_part(x, whole, n, -np.inf) - top) * factor)


@pjit
def _losses(team, logits, targets, losses, tops, totals):
    for i in share(team, len(logits)):
        top = row_max(logits[i])
        total = _exp_sum(logits[i], top)
        losses[i] = math.log(total) - (np.float64(logits[i, targets[i]]) - np.float64(top))
        tops[i] = top
        totals[i] = total


@pjit
def _loss_gradient(team, logits, targets, tops, totals, scale, gradient):
    """gradient = (softmax(logits) - one-hot(targets)) * scale"""
    for i in share(team, len(logits)):
        _exp_scaled(logits[i], gradient[i], tops[i], np.float32(scale / totals[i]))
        gradient[i, targets[i]] -= np.float32(scale)


@pjit
def losses_and_gradient(team, logits, targets, losses, scale):
    """Per row -log softmax(logits)[target]; logits become (softmax(logits) - one-hot(target)) * scale, in place."""
    for i in share(team, len(logits)):
        row = logits[i]
        top = row_max(row)
        hit = np.float64(row[targets[i]]) - np.float64(top)
        total = _exp_in_place(row, top)
        losses[i] = math.log(total) - hit
        _scale_row(row, np.float32(scale / total))
        row[targets[i]] -= np.float32(scale)


def cross_entropy(logits: NDArray, *, targets: NDArray) -> Any:
    """Twin of `autograd.functional.cross_entropy_rows`: keeps two numbers a row; the gradient exponentiates again."""
    if logits.dtype != np.float32 or logits.ndim != 2 or logits.size == 0:
        return NotImplemented
    flat, targets = jit_rows(logits), targets.astype(np.int64)
    count = len(flat)
    losses, totals, tops = np.empty(count), np.empty(count), np.empty(count, np.float32)
    _losses(flat, targets, losses, tops, totals)

    def vjp(g: NDArray) -> NDArray:
        gradient = empty(flat.shape)
        _loss_gradient(flat, targets, tops, totals, float(g) / count, gradient)
        return gradient

    return np.asarray(losses.mean(), np.float32), (vjp,)


def cross_entropy_into_gradient(logits: NDArray, targets: NDArray, scale: float) -> Any:
    """Twin of `vbw_np.layers.fused_loss.cross_entropy_into_gradient`."""
    if logits.dtype != np.float32 or logits.ndim != 2 or not logits.flags.c_contiguous or logits.size == 0:
        return NotImplemented
    losses = np.empty(len(logits))
    losses_and_gradient(logits, targets.astype(np.int64), losses, scale)
    return losses.astype(np.float32)


def rows_at_once(rows: int, columns: int) -> list[slice]:
    """Equal slices of `rows` with about `CHUNK_LOGITS` logits each over `columns` columns."""
    count = -(-rows * columns // CHUNK_LOGITS)
    size = -(-rows // count)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def linear_cross_entropy(x: NDArray, weight: NDArray, *, targets: NDArray) -> Any:
    """Twin of `vbw_np.layers.fused_loss.dense_linear_cross_entropy`: one buffer for all logits."""
    if x.dtype != np.float32 or weight.dtype != np.float32 or 0 in x.shape or 0 in weight.shape:
        return NotImplemented
    targets = targets.astype(np.int64)
    count, chunks = len(x), rows_at_once(len(x), len(weight))
    logits = empty((chunks[0].stop, len(weight)))
    losses = np.empty(count)
    if not autograd.is_grad_enabled():
        tops, totals = np.empty(count, np.float32), np.empty(count)  # which nobody reads
        for rows in chunks:
            part = matmul_arrays(x[rows], weight.T, out=logits[: rows.stop - rows.start])
            _losses(part, targets[rows], losses[rows], tops[rows], totals[rows])
        return np.asarray(losses.mean(), np.float32), ()
    grad_x, grad_weight = empty(x.shape), empty(weight.shape)
    for rows in chunks:
        part = matmul_arrays(x[rows], weight.T, out=logits[: rows.stop - rows.start])
        losses_and_gradient(part, targets[rows], losses[rows], 1 / count)
        matmul_arrays(part, weight, out=grad_x[rows])
        if rows.start == 0:
            matmul_arrays(part.T, x[rows], out=grad_weight)
        else:
            add_product(part.T, x[rows], grad_weight)
    return np.asarray(losses.mean(), np.float32), (
        lambda g: grad_x if g == 1 else grad_x * g,
        lambda g: grad_weight if g == 1 else grad_weight * g,
    )
