"""Scales with a sign, a zero point or a minimum: producers' arithmetic from whole blocks to codes.

Every function follows its library operation by operation, in float32. Blocks are float32 (..., blocks, block).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .errors import FormatError
from .scales import AffineRule, ScaleRule

Fitted = tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None]
NAN = np.float32(np.nan)
EPSILON = np.float32(2.0**-23)
"""compressed-tensors' scale where it would be 0."""


def to_float16(x: np.ndarray) -> np.ndarray:
    """Rounded to float16 (nearest even), kept as float32."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def reciprocal(d: np.ndarray) -> np.ndarray:
    """1 / d, and 0 where d is 0; shaped to multiply blocks."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(d == 0, np.float32(0), np.float32(1) / d).astype(np.float32)[..., None]


def finite_or_zero(steps: np.ndarray) -> np.ndarray:
    """Where 1 / d overflowed, the library's cast of Inf and NaN to a byte gives 0."""
    return np.where(np.isfinite(steps), steps, np.float32(0))


# ---- ggml


def fit_q4_0(blocks: np.ndarray) -> Fitted:
    """d = (the element of the largest magnitude, with its sign) / -8; stored as float16."""
    place = np.abs(blocks).argmax(axis=-1, keepdims=True)
    d = np.take_along_axis(blocks, place, axis=-1)[..., 0] / np.float32(-8)
    return to_float16(d), None, d, None


def encode_q4_0(blocks: np.ndarray, d: np.ndarray, m: None) -> np.ndarray:
    """`trunc(x * (1 / d) + 8.5)`, at most 15."""
    with np.errstate(over="ignore", invalid="ignore"):
        steps = blocks * reciprocal(d) + np.float32(8.5)
        return np.clip(np.trunc(finite_or_zero(steps)), 0, 15).astype(np.uint8)


def fit_q4_1(blocks: np.ndarray) -> Fitted:
    """d = (max - min) / 15, m = min; stored as float16."""
    low = blocks.min(axis=-1)
    with np.errstate(over="ignore", invalid="ignore"):
        d = (blocks.max(axis=-1) - low) / np.float32(15)
    d = np.where(np.isnan(d), np.where(np.isnan(low), NAN, -NAN), d)  # Inf - Inf makes a NaN with its sign set
    low = np.where(np.isnan(low), NAN, low)
    return to_float16(d), to_float16(low), d, low


def encode_q4_1(blocks: np.ndarray, d: np.ndarray, m: np.ndarray) -> np.ndarray:
    """`trunc((x - m) * (1 / d) + 0.5)`, at most 15."""
    with np.errstate(over="ignore", invalid="ignore"):
        steps = (blocks - m[..., None]) * reciprocal(d) + np.float32(0.5)
        return np.clip(np.trunc(finite_or_zero(steps)), 0, 15).astype(np.uint8)


def fit_q8_0(blocks: np.ndarray) -> Fitted:
    """d = amax / 127; stored as float16."""
    d = np.abs(blocks).max(axis=-1) / np.float32(127)
    return to_float16(d), None, d, None


def encode_q8_0(blocks: np.ndarray, d: np.ndarray, m: None) -> np.ndarray:
    """`x * (1 / d)`, halves away from zero; two's complement."""
    with np.errstate(over="ignore", invalid="ignore"):
        steps = finite_or_zero(blocks * reciprocal(d))
    magnitude = np.abs(steps)
    whole = np.floor(magnitude)
    rounded = np.sign(steps) * (whole + np.floor(np.float32(2) * (magnitude - whole)))
    return np.clip(rounded, -128, 127).astype(np.int8).view(np.uint8)


# ---- compressed-tensors


def _whole(steps: np.ndarray) -> np.ndarray:
    """Rounded, halves to even; the library's cast of NaN to an integer gives 0."""
    return np.nan_to_num(np.rint(steps), nan=0.0)


def encode_int8(blocks: np.ndarray, scale: np.ndarray, zero: None) -> np.ndarray:
    """`x / scale`, clipped to -128 to 127, halves to even; two's complement."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _whole(np.clip(blocks / scale[..., None], -128, 127)).astype(np.int8).view(np.uint8)


def fit_zero_point(blocks: np.ndarray) -> Fitted:
    """scale = (max - min) / 15 with 0 in between, z = -8 - min / scale, rounded and kept in -8 to 7; stored + 8."""
    low, high = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
    scale = (high - low) / np.float32(15)
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.rint(np.clip(np.float32(-8) - low / scale, -8, 7))
    zero = np.nan_to_num(zero, nan=0.0).astype(np.float32) + np.float32(8)
    scale = np.where(scale == 0, EPSILON, scale).astype(np.float32)
    return scale, zero, scale, zero


def encode_zero_point(blocks: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """`x / scale + z`, clipped, halves to even; stored + 8."""
    with np.errstate(over="ignore", invalid="ignore"):
        steps = blocks / scale[..., None] + (zero[..., None] - np.float32(8))
    return (_whole(np.clip(steps, -8, 7)) + np.float32(8)).astype(np.uint8)


def fit_symmetric(top: float) -> Callable[[np.ndarray], Fitted]:
    """scale = amax / top, `EPSILON` for a block of zeros."""

    def fit(blocks: np.ndarray) -> Fitted:
        scale = np.abs(blocks).max(axis=-1) / np.float32(top)
        scale = np.where(scale == 0, EPSILON, scale).astype(np.float32)
        return scale, None, scale, None

    return fit


def encode_offset_8(blocks: np.ndarray, scale: np.ndarray, zero: None) -> np.ndarray:
    """`x / scale`, clipped to -8 to 7, halves to even; stored + 8."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (_whole(np.clip(blocks / scale[..., None], -8, 7)) + np.float32(8)).astype(np.uint8)


def _refused(*arguments: object) -> np.ndarray:
    raise FormatError("a rule of whole blocks has no separate scale and quotient; quantize the array anew")


def affine_rule(
    name: str, summary: str, fit: Callable[..., tuple], encode: Callable[..., np.ndarray], group: int = 1
) -> ScaleRule:
    """A rule that makes codes of whole blocks; `group` of them share numbers."""
    return ScaleRule(name, summary, None, _refused, _refused, affine=AffineRule(fit, encode, group))


Q4_0 = affine_rule("ggml-q4_0", "float16 d = signed maximum / -8", fit_q4_0, encode_q4_0)
Q4_1 = affine_rule("ggml-q4_1", "float16 d = (max - min) / 15 and m = min", fit_q4_1, encode_q4_1)
Q8_0 = affine_rule("ggml-q8_0", "float16 d = amax / 127", fit_q8_0, encode_q8_0)
ZERO_POINT = affine_rule("zero-point", "(max - min) / 15, a zero point a block", fit_zero_point, encode_zero_point)
OFFSET_8 = affine_rule("offset-8", "amax / 7.5", fit_symmetric(7.5), encode_offset_8)
