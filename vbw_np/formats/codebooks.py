"""Codebooks: NF4, bitsandbytes' FP4, Lloyd-Max, quantiles."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from .elements import Codebook, as_float32
from .errors import FormatError

NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The published table (arXiv:2305.14314, appendix E), code order = ascending order."""

NF4_CUTS = (
    -0.8480963706970215, -0.6106328964233398, -0.4599952697753906, -0.33967943489551544,
    -0.23460740596055984, -0.13791173324644566, -0.045525018125772476, 0.03979014977812767,
    0.1202552504837513, 0.2035212516784668, 0.2920137718319893, 0.3893125355243683,
    0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
)  # fmt: skip
"""bitsandbytes' cut points; an x equal to a cut takes the lower level."""

NF4 = Codebook("nf4", NF4_LEVELS, cuts=NF4_CUTS, ties="down")

_BNB_MAGNITUDES = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
BNB_FP4_PIVOTS = (0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333)
BNB_FP4 = Codebook(
    "bnb-fp4",
    _BNB_MAGNITUDES + tuple(-m for m in _BNB_MAGNITUDES),
    cuts=tuple(-p for p in reversed(BNB_FP4_PIVOTS)) + BNB_FP4_PIVOTS,
    ties="down",
)
"""bitsandbytes' own 4-bit float: codes are not monotone, the subnormal is 1/192 of the largest value."""

IQ4_NL_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
IQ4_NL = Codebook("iq4-nl", IQ4_NL_LEVELS)
"""ggml's non-linear 4-bit levels (`kvalues_iq4nl`), to be multiplied by a block scale."""


def normal_float_levels(offset: float = 0.9677083) -> np.ndarray:
    """NF4's levels from the quantiles of N(0, 1), as QLoRA makes them: float64 (16,), ascending.

    Eight positive quantiles `ppf(linspace(offset, 0.5, 9)[:-1])`, seven negative ones from
    `linspace(offset, 0.5, 8)[:-1]`, and zero, divided by the largest.
    """
    ppf = NormalDist().inv_cdf
    positive = [ppf(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    negative = [-ppf(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    levels = np.sort(np.array(positive + negative + [0.0]))
    return levels / levels.max()


def lloyd_max_normal(levels: int, tolerance: float = 1e-13, max_steps: int = 100_000) -> tuple[np.ndarray, float]:
    """The optimal scalar quantizer of N(0, 1) with that many levels (Lloyd 1957, Max 1960).

    Alternates cuts (midpoints) and levels (conditional means, from the closed forms of the density and the
    distribution) until they stand still.

    Returns
    -------
    levels : float64 (levels,), ascending
    mse : float
    """
    if levels < 1:
        raise FormatError(f"a codebook needs at least one level, got {levels}")
    ppf = NormalDist().inv_cdf
    y = np.array([ppf((i + 0.5) / levels) for i in range(levels)])
    for _ in range(max_steps):
        cuts = np.concatenate([[-np.inf], (y[1:] + y[:-1]) / 2, [np.inf]])
        mass, moment = normal_mass(cuts), -np.diff(normal_density(cuts))
        updated = moment / mass
        moved = np.abs(updated - y).max()
        y = updated
        if moved < tolerance:
            break
    return y, normal_mse(y, (y[1:] + y[:-1]) / 2)


def normal_density(x: np.ndarray) -> np.ndarray:
    """The density of N(0, 1), float64; 0 at infinity."""
    return np.exp(-0.5 * np.asarray(x, np.float64) ** 2) / math.sqrt(2 * math.pi)


def normal_mass(cuts: np.ndarray) -> np.ndarray:
    """The probabilities between ascending cuts."""
    cdf = np.array([0.5 * math.erfc(-c / math.sqrt(2)) for c in np.asarray(cuts, np.float64)])
    return np.diff(cdf)


def normal_mse(levels: np.ndarray, cuts: np.ndarray) -> float:
    """The exact mean squared error of N(0, 1) quantized to `levels` with inner `cuts`, in closed form."""
    edges = np.concatenate([[-np.inf], np.asarray(cuts, np.float64), [np.inf]])
    mass, moment = normal_mass(edges), -np.diff(normal_density(edges))
    levels = np.asarray(levels, np.float64)
    return float(1.0 - 2.0 * np.dot(levels, moment) + np.dot(levels**2, mass))


def lloyd_max_samples(x: np.ndarray, levels: int = 16, steps: int = 100) -> np.ndarray:
    """Lloyd's algorithm on data (one-dimensional k-means), started from quantiles: float32 (levels,), ascending.

    An empty cell keeps its level. Deterministic; stops early when nothing moves.
    """
    values = np.sort(as_float32(x).ravel().astype(np.float64))
    if values.size < levels:
        raise FormatError(f"{levels} levels need at least {levels} values, got {values.size}")
    total = np.concatenate([[0.0], np.cumsum(values)])
    y = values[((np.arange(levels) + 0.5) * values.size / levels).astype(np.int64)]
    for _ in range(steps):
        edges = np.concatenate([[0], np.searchsorted(values, (y[1:] + y[:-1]) / 2), [values.size]])
        count, sums = np.diff(edges), np.diff(total[edges])
        updated = np.where(count > 0, sums / np.maximum(count, 1), y)
        if np.array_equal(updated, y):
            break
        y = updated
    return y.astype(np.float32)


def quantile_codebook(w: np.ndarray, levels: int = 16) -> np.ndarray:
    """The seed report's codebook: entry i is the value at index `i * n // levels` of the sorted |w|; float32."""
    magnitudes = np.sort(np.abs(as_float32(w)), axis=None)
    return magnitudes[np.arange(levels) * magnitudes.size // levels]


def quantile_codes(w: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """The last level not above |w|; below the first level (a reused codebook), the first. uint8."""
    index = np.searchsorted(codebook, np.abs(w), side="right") - 1
    return np.maximum(index, 0).astype(np.uint8)
