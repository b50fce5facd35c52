"""The length of all gradients together, and cutting it; with PyTorch's name."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..engine import Tensor

_NORM_PIECE = 1 << 16
_SQUARES_KEPT = 1e-24  # a sum of float32 squares from which on those below 2**-126 do not matter


def grad_norm(params: Iterable[Tensor]) -> float:
    """Euclidean length of all gradients together, the same on any number of threads.

    Squares are added in the gradient's dtype within pieces of 65,536 by NumPy's own loop, and the pieces in float64; a
    piece whose squares overflow, in float64 altogether; where that overflows too, or where the sum is so small that
    squares were lost, after division by the largest magnitude. (A BLAS dot product of long vectors depends on the
    number of threads.)
    """
    gradients = [p.grad for p in params if p.grad is not None and p.grad.size]
    total = sum(_square_sum(gradient) for gradient in gradients)
    if gradients and (math.isinf(total) or total < _SQUARES_KEPT):
        largest = max(float(np.abs(gradient).max()) for gradient in gradients)
        if math.isfinite(largest) and largest > 0:
            return largest * math.sqrt(sum(_square_sum(gradient / np.float64(largest)) for gradient in gradients))
    return math.sqrt(total)


def _square_sum(gradient: NDArray) -> float:
    flat = np.ascontiguousarray(gradient).reshape(-1)
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, _NORM_PIECE):
            piece = flat[start : start + _NORM_PIECE]
            squares = float(np.einsum("i,i->", piece, piece))
            total += squares if math.isfinite(squares) else float(np.square(piece, dtype=np.float64).sum())
    return total


def clip_grad_norm_(
    params: Tensor | Iterable[Tensor], max_norm: float, *, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients, in place, so that their common length is at most `max_norm`; return the length before.

    Parameters
    ----------
    params : Tensor or iterable of Tensor
    max_norm : float
        Not negative; ``inf`` only measures.
    error_if_nonfinite : bool
        Raise if the length is NaN or Inf. Otherwise, as in PyTorch, NaN makes every gradient NaN, and Inf makes the
        finite ones 0.

    Raises
    ------
    ValueError
        `max_norm` is negative or NaN.
    RuntimeError
        See `error_if_nonfinite`; no gradient was changed.
    """
    if not max_norm >= 0:
        raise ValueError(f"the largest norm is 0 or more, not {max_norm}")
    params = [params] if isinstance(params, Tensor) else list(params)
    norm = grad_norm(params)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the gradients' length is {norm}, so they cannot be clipped; none was changed")
    if not norm <= max_norm:
        factor = max_norm / (norm + 1e-6)
        with np.errstate(invalid="ignore"):
            for p in params:
                if p.grad is not None:
                    p.grad *= p.dtype.type(factor)
    return norm
