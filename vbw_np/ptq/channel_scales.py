"""Scales of input channels: weights matter by what flows into them (AWQ), or outliers grow smaller (SmoothQuant).

A site's inputs are divided by s, channel by channel, and the columns of its layers multiplied, which changes nothing
before they are rounded: (x / s) (W s)^T = x W^T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .calibration import Moments

TINY = np.float32(1e-8)


def normalized(factors: NDArray) -> NDArray[np.float32]:
    """Factors with the geometric mean 1; channels that nothing flows through keep their scale."""
    usable = np.isfinite(factors) & (factors > TINY)
    if not usable.any():
        return np.ones(len(factors), np.float32)
    mean = np.exp(np.log(factors[usable].astype(np.float64)).mean())
    return np.where(usable, factors / mean, 1).astype(np.float32)


def output_error(error: NDArray, hessian: NDArray) -> float:
    """tr(E H E^T): the mean squared change of a layer's output, added over its outputs; E (out, in)."""
    return float(np.vdot(error @ hessian, error))


def smoothquant_factors(weights: Sequence[NDArray], moments: Moments, alpha: float) -> NDArray[np.float32]:
    """max |x| ** alpha / max |w| ** (1 - alpha) over all layers of a site (arXiv 2211.10438, equation 4)."""
    of_weights = np.max([np.abs(weight).max(axis=0) for weight in weights], axis=0)
    return normalized(np.maximum(moments.largest, TINY) ** alpha / np.maximum(of_weights, TINY) ** (1 - alpha))


def awq_factors(
    weights: Sequence[NDArray],
    moments: Moments,
    alphas: Sequence[float],
    rounded: Callable[[NDArray], NDArray],
    shared: Callable[[NDArray], NDArray],
) -> NDArray[np.float32]:
    """rms(x) ** alpha with the alpha under which the layers' outputs change least (arXiv 2306.00978).

    Parameters
    ----------
    weights : sequence of float32 (out, in)
        Of the layers that share the input.
    rounded : callable
        What a weight becomes.
    shared : callable
        Makes factors equal where they must be.
    """
    size = shared(np.sqrt(moments.mean_squares))
    best, least = np.ones(len(size), np.float32), np.inf
    for alpha in alphas:
        factors = normalized(size**alpha)
        lost = sum(output_error(rounded(w * factors) / factors - w, moments.hessian) for w in weights)
        if lost < least:
            best, least = factors, lost
    return best
