"""How far a decoded weight is from its master, in one pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...simd.jit import pjit, share

PIECE = 8192
"""Elements whose sums are made by one thread; the pieces are added in order, whatever the number of threads."""

_LANES = 8


@pjit
def _sums(team, exact: NDArray, approximate: NDArray, norms: NDArray, errors: NDArray) -> None:
    """Per piece, the sums of exact ** 2 and (exact - approximate) ** 2, in float64."""
    for piece in share(team, len(norms)):
        start = piece * PIECE
        stop = min(start + PIECE, len(exact))
        norm, error = np.zeros(_LANES), np.zeros(_LANES)
        whole = start + (stop - start) // _LANES * _LANES
        for i in range(start, whole, _LANES):
            for lane in range(_LANES):
                value = np.float64(exact[i + lane])
                difference = value - np.float64(approximate[i + lane])
                norm[lane] += value * value
                error[lane] += difference * difference
        for i in range(whole, stop):
            value = np.float64(exact[i])
            difference = value - np.float64(approximate[i])
            norm[0] += value * value
            error[0] += difference * difference
        norms[piece], errors[piece] = norm.sum(), error.sum()


def relative_error(exact: NDArray, approximate: NDArray) -> float:
    """|exact - approximate| / |exact|, root mean squares in float64; 0 where both are zero, inf where only exact is.

    Parameters
    ----------
    exact, approximate : float32 arrays of one shape
    """
    exact, approximate = (np.ascontiguousarray(x).reshape(-1) for x in (exact, approximate))
    norms = np.empty(-(-exact.size // PIECE))
    errors = np.empty_like(norms)
    _sums(exact, approximate, norms, errors)
    norm, error = float(norms.sum()), float(errors.sum())
    return float(np.sqrt(error / norm)) if norm else (0.0 if error == 0 else float("inf"))
