"""Errors, measured the same way everywhere: sums in float64 over float32 values."""

from __future__ import annotations

import math

import numpy as np

from .errors import ShapeError


def relative_mse(x: np.ndarray, decoded: np.ndarray) -> float:
    """`sum((x - decoded)**2) / sum(x**2)`; 0 for an exact copy, also of zeros."""
    x, decoded = np.asarray(x), np.asarray(decoded)
    if x.shape != decoded.shape:
        raise ShapeError(f"the source has shape {x.shape}, the decoded array {decoded.shape}; they must be equal")
    error = x.astype(np.float64) - decoded
    noise, signal = float(np.vdot(error, error)), float(np.sum(np.square(x, dtype=np.float64)))
    if noise == 0:
        return 0.0
    return noise / signal if signal else math.inf


def sqnr_db(x: np.ndarray, decoded: np.ndarray) -> float:
    """Signal to quantization noise in dB: `-10 log10(relative_mse)`; Inf for an exact copy."""
    relative = relative_mse(x, decoded)
    if relative == 0:
        return math.inf
    return -10.0 * math.log10(relative) if math.isfinite(relative) else -math.inf
