"""The card's encoder and decoder: the fast kernels where there is one, the readable formats otherwise."""

from __future__ import annotations

from numpy.typing import NDArray

from .. import formats
from ..formats import BlockFormat, FittedScales, PackedTensor


def fit(weight: NDArray, fmt: BlockFormat) -> FittedScales:
    """Scales or codebook for `weight` (out, in)."""
    return formats.fit_scales(weight, fmt)


def encode(weight: NDArray, fmt: BlockFormat, scales: FittedScales) -> PackedTensor:
    """`weight` rounded to codes under scales that are given."""
    return formats.encode(weight, fmt, scales)


def decode(packed: PackedTensor) -> NDArray:
    """The packed weight as float32."""
    return packed.dequantize()
