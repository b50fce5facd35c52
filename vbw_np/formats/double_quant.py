"""Double quantization (QLoRA, arXiv:2305.14314 section 3): the float32 block maxima become 8 bits themselves.

bitsandbytes subtracts the mean of the maxima, then quantizes blocks of 256 of them to a signed 8-bit *dynamic* map
(a decimal exponent of varying length and a linear fraction, arXiv:1511.04561) with one float32 maximum a block:
32 / 64 = 0.5 bits a value become 8 / 64 + 32 / (64 * 256) = 0.127.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .elements import as_float32
from .errors import FormatError
from .packed import PackedTensor

NESTED_BLOCK = 256


def dynamic_map() -> np.ndarray:
    """bitsandbytes' signed dynamic 8-bit map: float32 (256,), ascending.

    For i = 0..6 the decade `10**(i - 6)` holds `2**i` midpoints of the interval 0.1 to 1, of both signs; then 0
    and 1. Midpoints are formed in float32, the product with the power of ten in float64.
    """
    values = [0.0, 1.0]
    for i in range(7):
        items = 2**i
        edges = _linspace_float32(0.1, 1.0, items + 1)
        means = ((edges[:-1] + edges[1:]) / np.float32(2.0)).astype(np.float32)
        decade = (np.float32(10.0 ** (i - 6)) * means).astype(np.float64)
        values += [*decade, *(-decade)]
    return np.sort(np.array(values)).astype(np.float32)


def _linspace_float32(start: float, stop: float, count: int) -> np.ndarray:
    """torch's float32 linspace: from the start in the first half, from the end in the second.

    Its vector code fuses product and sum, so each value is rounded once: float64 holds them exactly until then.
    """
    first, last = np.float32(start), np.float32(stop)
    step = np.float64((last - first) / np.float32(count - 1))
    index = np.arange(count, dtype=np.float64)
    forward, backward = first + step * index, last - step * (count - 1 - index)
    return np.where(np.arange(count) < count // 2, forward, backward).astype(np.float32)


@dataclass(frozen=True, eq=False)
class DoubleQuantized:
    """Block maxima in 8 bits.

    Parameters
    ----------
    codes : uint8, the shape of the maxima
    absmax : float32 (ceil(n / 256),)
    offset : np.float32, the mean that was subtracted
    """

    codes: np.ndarray
    absmax: np.ndarray
    offset: np.float32

    @property
    def nbytes(self) -> int:
        """Bytes of codes, second-level maxima and the offset (the map is a constant of the format)."""
        return self.codes.nbytes + self.absmax.nbytes + 4

    def dequantize(self) -> np.ndarray:
        """The maxima again: `map[code] * absmax + offset`, float32."""
        flat = dynamic_map()[self.codes].reshape(-1)
        second = np.repeat(self.absmax, NESTED_BLOCK)[: flat.size]
        return (flat * second + self.offset).reshape(self.codes.shape)


def double_quantize(absmax: np.ndarray, offset: np.float32 | None = None) -> DoubleQuantized:
    """Quantize block maxima to 8 bits, as bitsandbytes' CPU library does.

    Parameters
    ----------
    absmax : float32 array, the block maxima in flat order
    offset : np.float32, optional
        The mean to subtract. By default it is formed in float64 and rounded; torch's float32 mean can differ from
        it in the last bits, because its order of additions depends on the machine. Everything after it is exact.
    """
    absmax = as_float32(absmax, "absmax")
    if not np.isfinite(absmax).all():
        raise FormatError("block maxima must be finite to be quantized again; look for NaN or Inf in the source")
    offset = np.float32(absmax.mean(dtype=np.float64)) if offset is None else np.float32(offset)
    centred = (absmax - offset).reshape(-1)
    padded = np.zeros(-(-centred.size // NESTED_BLOCK) * NESTED_BLOCK, np.float32)
    padded[: centred.size] = centred
    blocks = padded.reshape(-1, NESTED_BLOCK)
    second = np.abs(blocks).max(axis=-1)
    normed = blocks / np.where(second == 0, np.float32(1), second)[:, None]
    codes = _lookup(normed).reshape(-1)[: centred.size]
    return DoubleQuantized(codes.reshape(absmax.shape), second, offset)


def _lookup(x: np.ndarray) -> np.ndarray:
    """The code of each x in -1..1, by way of a grid of 65,536 points, as the CPU library's results show it.

    x is rounded to the nearest point `i / 32767.5 - 1` first, and that point to the nearest level. Within 1.5e-5
    of a midpoint between levels the result can so be the farther one.
    """
    point = np.floor((x + np.float32(1)) * np.float32(32767.5) + np.float32(0.5)).astype(np.float64)
    grid = point / 32767.5 - 1.0
    levels = dynamic_map().astype(np.float64)
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, grid, side="left").astype(np.uint8)


def with_double_quantized_scales(packed: PackedTensor) -> tuple[PackedTensor, DoubleQuantized]:
    """A packed tensor (NF4 or bitsandbytes' FP4) whose float32 scales went through 8 bits, and those 8 bits.

    The element codes stay, as in bitsandbytes: they were chosen with the unquantized maxima.
    """
    if packed.format.rule.scale_element is not None:
        raise FormatError(
            f"{packed.format.name} has 8-bit scales already; double quantization is for float32 block maxima "
            "(nf4, bnb-fp4)"
        )
    nested = double_quantize(packed.scales)
    return replace(packed, scales=np.maximum(nested.dequantize(), np.float32(0)), sqnr_db=None), nested
