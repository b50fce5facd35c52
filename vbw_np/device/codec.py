"""The card's encoder and decoder: those of `vbw_np.formats`, by kernels where there are some."""

from __future__ import annotations

from numpy.typing import NDArray

from .. import kernels as _twins  # noqa: F401  of the definitions
from ..definitions import dequantize, quantize, relative_error
from ..formats import BlockFormat, FittedScales, PackedTensor

__all__ = ["decode", "encode", "fit", "relative_error"]


def fit(weight: NDArray, fmt: BlockFormat) -> tuple[FittedScales, PackedTensor]:
    """Scales or codebook for `weight` (out, in), and the weight rounded under them, in one pass."""
    packed = quantize(weight, fmt)
    return FittedScales.of(packed), packed


def encode(weight: NDArray, fmt: BlockFormat, scales: FittedScales) -> PackedTensor:
    """`weight` rounded to codes under scales that are given."""
    return quantize(weight, fmt, reuse=scales)


def decode(packed: PackedTensor) -> NDArray:
    """The packed weight as float32, in a pooled array."""
    return dequantize(packed)
