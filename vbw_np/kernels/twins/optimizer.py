"""Adam in one pass over its four arrays: every lane computes exactly what `vbw_np.optim.adam_update` does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...simd.jit import jit, pjit
from ...simd.jit import row as jit_row
from ...simd.lanes import PIECE, sqrt
from ...simd.lanes_memory import load_some, store_some
from ...simd.wide import WIDTH
from .elementwise import pieces, run_pieces


@jit
def _adam_piece(w, g, m, v, start, stop, shrink, decay, take_m, keep_v, take_v, step_size, correction, eps):
    for i in range(start, stop, WIDTH):
        n = min(WIDTH, stop - i)
        weight = load_some(w, i, n, 0.0) * shrink
        gradient = load_some(g, i, n, 0.0) + weight * decay
        mean = load_some(m, i, n, 0.0)
        mean = mean + (gradient - mean) * take_m
        square = load_some(v, i, n, 0.0) * keep_v + gradient * gradient * take_v
        store_some(m, i, n, mean)
        store_some(v, i, n, square)
        store_some(w, i, n, weight - step_size * (mean / (sqrt(square) / correction + eps)))


@pjit
def _adam(team, w, g, m, v, shrink, decay, take_m, keep_v, take_v, step_size, correction, eps):
    for start in pieces(team, len(w)):
        stop = min(start + PIECE, len(w))
        _adam_piece(w, g, m, v, start, stop, shrink, decay, take_m, keep_v, take_v, step_size, correction, eps)


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
    run_pieces(_adam, _adam_piece, flat, settings)
    return None
