"""Statistics of weights: kurtosis, outliers, codes, blocks, scales."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..formats import PackedTensor
from ..formats.packed import to_blocks
from .weights import Weight


def value_statistics(values: np.ndarray) -> dict[str, float]:
    """Kurtosis, largest magnitude over rms, rms and amax of the finite values; sums in float64.

    Kurtosis is the fourth central moment over the squared variance: 3 for a Gaussian.
    """
    flat = values.reshape(-1)
    finite = np.isfinite(flat)
    nonfinite = int(flat.size - finite.sum())
    flat = flat if not nonfinite else flat[finite]
    if not flat.size:
        return {"nonfinite": nonfinite}
    mean = float(flat.mean(dtype=np.float64))
    second = fourth = square = 0.0
    for start in range(0, flat.size, 1 << 20):
        part = flat[start : start + (1 << 20)].astype(np.float64)
        square += float(np.dot(part, part))
        part -= mean
        part *= part
        second += float(part.sum())
        fourth += float(np.dot(part, part))
    rms, amax = float(np.sqrt(square / flat.size)), float(np.abs(flat).max())
    return {
        "kurtosis": fourth * flat.size / second**2 if second else 0.0,
        "max_over_rms": amax / rms if rms else 0.0,
        "rms": rms,
        "amax": amax,
        "zeros": float(np.mean(flat == 0)),
        "nonfinite": nonfinite,
    }


def code_statistics(packed: PackedTensor) -> dict[str, Any]:
    """The share of each code, of saturated and of zero blocks, and the histogram of the scales' exponents."""
    codes, fmt = packed.unpacked_codes(), packed.format
    counts = np.bincount(codes.reshape(-1), minlength=1 << fmt.code_bits)
    found: dict[str, Any] = {"codes": (counts / codes.size).tolist()}
    if fmt.element is not None:
        table = np.abs(np.nan_to_num(fmt.element.table))
        largest = np.float32(np.max(table))
        blocks = to_blocks(table[codes], fmt)
        found["zero_blocks"] = float(np.mean(blocks.max(axis=-1) == 0))
        found["saturated"] = float(np.mean(table[codes] == largest))
        found["saturated_blocks"] = float(np.mean((blocks == largest).sum(axis=-1) > 1))
    scales = np.abs(packed.decoded_scales().reshape(-1))
    usable = scales[np.isfinite(scales) & (scales > 0)]
    exponents, number = np.unique(np.floor(np.log2(usable.astype(np.float64))).astype(int), return_counts=True)
    found["scale_exponents"] = {int(e): int(n) for e, n in zip(exponents, number, strict=True)}
    found["scales"] = int(scales.size)
    return found


def statistics_of(weight: Weight) -> tuple[dict[str, Any], PackedTensor | None]:
    """All statistics of a weight, and its packed tensor where it has one (so that it is read once)."""
    packed = weight.packed() if weight.is_packed else None
    values = packed.dequantize() if packed is not None and weight.decode is None else weight.float32()
    with np.errstate(over="ignore", invalid="ignore"):
        found = value_statistics(values)
    if packed is not None:
        found |= code_statistics(packed)
    return found, packed
