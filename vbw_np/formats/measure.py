"""Errors, measured the same way everywhere: sums in float64 over float32 values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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
    return decibels(relative_mse(x, decoded))


def decibels(relative: float) -> float:
    """Signal to quantization noise in dB of a relative squared error: `-10 log10(relative)`; Inf for an error of 0."""
    return math.inf if relative == 0 else -10.0 * math.log10(relative)


@dataclass(frozen=True)
class Drawn:
    """A figure measured on a sample.

    Parameters
    ----------
    value : float
    error : float
        One standard error: how far another sample of the same size would give another figure.
    """

    value: float
    error: float


def drawn(noise: np.ndarray, signal: np.ndarray, figure: Callable[[float], float]) -> Drawn:
    """A figure of `sum(noise) / sum(signal)` with its standard error, by the jackknife.

    Parameters
    ----------
    noise, signal : float64 (n,)
        Sums over n parts of the sample that are independent of each other, n >= 2.
    figure : callable
        What is made of the quotient, such as `lambda q: 1e3 * q`.

    Returns
    -------
    Drawn
        The error is the square root of `(n - 1) / n * sum((f_i - mean(f))**2)`, f_i the figure without part i
        (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, section 3).
    """
    n = len(noise)
    without = [figure(q) for q in (noise.sum() - noise) / (signal.sum() - signal)]
    return Drawn(figure(float(noise.sum() / signal.sum())), float(np.sqrt((n - 1) * np.var(without))))


def drawn_mse(x: np.ndarray, decoded: np.ndarray, figure: Callable[[float], float], parts: int = 64) -> Drawn:
    """A figure of `relative_mse(x, decoded)` with its standard error; parts are groups of rows."""
    x64 = x.astype(np.float64)
    noise, signal = (np.square(v).reshape(parts, -1).sum(axis=1) for v in (x64 - decoded, x64))
    return drawn(noise, signal, figure)
