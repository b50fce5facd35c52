"""Adam in one pass over its four arrays: every lane computes exactly what `vbw_np.optim.adam_update` does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...simd.jit import jit, pjit, share
from ...simd.jit import row as jit_row
from ...simd.lanes import PIECE, sqrt
from ...simd.lanes_memory import load, load_part, store, store_part
from ...simd.wide import WIDTH


@jit
def _adam_piece(w, g, m, v, start, stop, shrink, decay, take_m, keep_v, take_v, step_size, correction, eps):
    whole = stop - (stop - start) % WIDTH
    for i in range(start, whole, WIDTH):
        weight = load(w, i) * shrink
        gradient = load(g, i) + weight * decay
        mean = load(m, i)
        mean = mean + (gradient - mean) * take_m
        square = load(v, i) * keep_v + gradient * gradient * take_v
        store(m, i, mean)
        store(v, i, square)
        store(w, i, weight - step_size * (mean / (sqrt(square) / correction + eps)))
    if whole < stop:
        n = stop - whole
        weight = load_part(w, whole, n, 0.0) * shrink
        gradient = load_part(g, whole, n, 0.0) + weight * decay
        mean = load_part(m, whole, n, 0.0)
        mean = mean + (gradient - mean) * take_m
        square = load_part(v, whole, n, 0.0) * keep_v + gradient * gradient * take_v
        store_part(m, whole, n, mean)
        store_part(v, whole, n, square)
        store_part(w, whole, n, weight - step_size * (mean / (sqrt(square) / correction + eps)))


@pjit
def _adam(team, w, g, m, v, shrink, decay, take_m, keep_v, take_v, step_size, correction, eps):
    for piece in share(team, (len(w) + PIECE - 1) // PIECE):
        stop = min((piece + 1) * PIECE, len(w))
        _adam_piece(w, g, m, v, piece * PIECE, stop, shrink, decay, take_m, keep_v, take_v, step_size, correction, eps)


def adam_update(
    data: NDArray,
    grad: NDArray,
    exp_avg: NDArray,
    exp_avg_sq: NDArray,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    decoupled: bool,
) -> Any:
    """Twin of `vbw_np.optim.adam_update`."""
    arrays = (data, exp_avg, exp_avg_sq)
    if any(a.dtype != np.float32 or not a.flags.c_contiguous or not a.flags.writeable for a in arrays):
        return NotImplemented
    if grad.dtype != np.float32 or grad.shape != data.shape:
        return NotImplemented
    flat = (data.reshape(-1), jit_row(grad), exp_avg.reshape(-1), exp_avg_sq.reshape(-1))
    settings = tuple(
        np.float32(number)
        for number in (
            1 - lr * decay if decay and decoupled else 1,
            decay if decay and not decoupled else 0,
            1 - beta1,
            beta2,
            1 - beta2,
            lr / (1 - beta1**step),
            math.sqrt(1 - beta2**step),
            eps,
        )
    )
    if data.size <= PIECE:
        _adam_piece(*flat, 0, data.size, *settings)
    else:
        _adam(*flat, *settings)
    return None
