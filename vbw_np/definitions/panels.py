"""Operands of the virtual tensor core: the layouts the inner loops read, and the ways into them.

A product `left @ right.T` reduces along the last axis of both. Its two operands are laid out differently:

- `LeftOperand` (activations, gradients): int8 values row by row, twice the E2M1 value, so -12..12;
- `RightOperand` (weights, or whatever stands on the right): *panels* of 16 rows of the operand (16 columns of the
  output). Panel p holds `(K/8, 16, 4)` bytes: byte `[g, c, i]` has in its low nibble the E2M1 code of row
  `16 p + c` at `k = 8 g + i`, in its high nibble the code at `k = 8 g + 4 + i`. So 64 bytes in order are what one
  vector instruction wants: 4 consecutive k of 16 columns, twice.

Both carry *half* the decoded block scale as float32 or its stored byte (twice the value times half the scale is
the number itself; every step exact), and a second-level factor: one a row on the left, one a tensor on the right.

There are two ways in: from packed bytes in plain row layout (`left_from_packed`, `right_from_packed`), and straight
from float32 (`quantize_left`, `quantize_right`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .aligned import aligned_empty

ROW_MULTIPLE = 48
"""Left operands are allocated in multiples of this many rows: whole tiles on every instruction set."""

FORMATS = {"mxfp4": 32, "nvfp4": 16}
"""Block length of each format of operand."""

BY_ROWS = {"mxfp4": "mxfp4", "nvfp4": "nvfp4-row-scaled"}
"""The format of left operands, by the right one's, whose rows do not change one another."""

_MAGNITUDES = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.int8)
DOUBLED = np.concatenate([_MAGNITUDES, -_MAGNITUDES])
"""Twice the value of each E2M1 code, int8 (16,)."""
DOUBLED.setflags(write=False)


@lru_cache(maxsize=2)
def half_scales(family: str) -> np.ndarray:
    """Half the value of every scale byte, float32 (256,): E8M0 for mxfp4, E4M3 for nvfp4 (0x7F and 0xFF: NaN)."""
    codes = np.arange(256)
    if family == "mxfp4":
        table = np.ldexp(1.0, codes - 128)
        table[255] = np.nan
    else:
        exponent, mantissa = (codes >> 3) & 15, codes & 7
        table = np.where(exponent == 0, mantissa * 2.0**-10, np.ldexp(8.0 + mantissa, exponent - 11))
        table = np.where(codes >= 128, -table, table)
        table[[127, 255]] = np.nan
    table = table.astype(np.float32)
    table.setflags(write=False)
    return table


@dataclass(frozen=True, eq=False)
class LeftOperand:
    """The left operand of a product, M x K.

    Parameters
    ----------
    values : int8 array (rows allocated, K padded)
        Twice the E2M1 values; padding along K is zero; rows beyond M may hold anything.
    scales : float32 array (rows allocated, blocks)
        Half the decoded block scales.
    factors : float32 array (rows allocated,)
        Second-level factor of each row (1 for mxfp4).
    sums : int16 array (rows allocated, blocks)
        The sum of each block's `values`: byte dot instructions of x86 need it.
    shape : (M, K)
    family : {"mxfp4", "nvfp4"}
    """

    values: np.ndarray
    scales: np.ndarray
    factors: np.ndarray
    sums: np.ndarray
    shape: tuple[int, int]
    family: str

    def __post_init__(self) -> None:
        rows, blocks = _blocks_of(self)
        allocated = max(-(-rows // ROW_MULTIPLE) * ROW_MULTIPLE, len(self.values))
        _check_array("values", self.values, (allocated, blocks * self.block), np.int8)
        _check_array("scales", self.scales, (allocated, blocks), np.float32)
        _check_array("factors", self.factors, (allocated,), np.float32)
        _check_array("sums", self.sums, (allocated, blocks), np.int16)

    @property
    def block(self) -> int:
        """Block length along K."""
        return FORMATS[self.family]

    def dequantize(self) -> np.ndarray:
        """The float32 numbers, (M, K): (element * scale) * factor, as the formats decode."""
        rows, length = self.shape
        scales = np.repeat(self.scales[:rows], self.block, axis=1)[:, :length]
        return (self.values[:rows, :length] * scales) * self.factors[:rows, None]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.values.nbytes + self.scales.nbytes + self.factors.nbytes + self.sums.nbytes


@dataclass(frozen=True, eq=False)
class RightOperand:
    """The right operand of a product, N x K, in panels.

    Parameters
    ----------
    codes : uint8 array (panels, K padded / 8, 16, 4)
    scales : uint8 array (panels, blocks, 16)
        The stored scale bytes, E8M0 or E4M3.
    factor : np.float32
        Second-level factor of the tensor (1 for mxfp4).
    shape : (N, K)
    family : {"mxfp4", "nvfp4"}
    """

    codes: np.ndarray
    scales: np.ndarray
    factor: np.float32
    shape: tuple[int, int]
    family: str

    def __post_init__(self) -> None:
        rows, blocks = _blocks_of(self)
        panels = -(-rows // 16)
        _check_array("codes", self.codes, (panels, blocks * self.block // 8, 16, 4), np.uint8)
        _check_array("scales", self.scales, (panels, blocks, 16), np.uint8)
        if np.ndim(self.factor):
            raise ValueError(f"factor is one number for the tensor, got shape {np.shape(self.factor)}")

    @property
    def block(self) -> int:
        """Block length along K."""
        return FORMATS[self.family]

    def values(self) -> np.ndarray:
        """Twice the E2M1 values as int8, (N, K padded)."""
        panels, groups = self.codes.shape[:2]
        nibbles = np.stack([self.codes & 15, self.codes >> 4], axis=2)  # (panels, K/8, 2, 16, 4)
        rows = nibbles.transpose(0, 3, 1, 2, 4).reshape(panels * 16, groups * 8)
        return DOUBLED[rows][: self.shape[0]]

    def half_scales(self) -> np.ndarray:
        """Half the decoded block scales as float32, (N, blocks)."""
        rows = self.scales.transpose(0, 2, 1).reshape(-1, self.scales.shape[1])
        return half_scales(self.family)[rows][: self.shape[0]]

    def dequantize(self) -> np.ndarray:
        """The float32 numbers, (N, K)."""
        scales = np.repeat(self.half_scales(), self.block, axis=1)
        return ((self.values() * scales) * self.factor)[:, : self.shape[1]]

    @property
    def nbytes(self) -> int:
        """Bytes held: 4.25 (mxfp4) or 4.5 (nvfp4) bits an element, padding included."""
        return self.codes.nbytes + self.scales.nbytes


def _blocks_of(operand: LeftOperand | RightOperand) -> tuple[int, int]:
    """Rows and blocks along K that an operand of this shape has."""
    rows, length = operand.shape
    if rows < 0 or length < 0:
        raise ValueError(f"an operand has no shape {operand.shape}")
    return rows, -(-length // block_of(operand.family))


def _check_array(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    """Kernels go by an operand's shape alone: arrays that are smaller would be read beyond their end."""
    fits = isinstance(array, np.ndarray) and array.dtype == dtype and array.shape == shape
    if not fits or not array.flags.c_contiguous:
        found = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
        raise ValueError(f"{name} of an operand must be a C-contiguous {np.dtype(dtype).name} {shape}, got {found}")


def padded_length(length: int, block: int) -> int:
    """K rounded up to whole blocks."""
    return -(-length // block) * block


def empty_left(rows: int, length: int, family: str) -> LeftOperand:
    """An uninitialized left operand, to be filled by `quantize_left(..., out=)`: preallocate, then reuse."""
    block = block_of(family)
    allocated, padded = -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE, padded_length(length, block)
    values = aligned_empty((allocated, padded), np.int8)
    values[rows:] = 0
    scales = aligned_empty((allocated, padded // block), np.float32)
    scales[rows:] = 0
    factors = aligned_empty((allocated,), np.float32)
    factors[:] = 1
    sums = aligned_empty((allocated, padded // block), np.int16)
    sums[rows:] = 0
    return LeftOperand(values, scales, factors, sums, (rows, length), family)


def empty_right(rows: int, length: int, family: str) -> RightOperand:
    """An uninitialized right operand, to be filled by `quantize_right(..., out=)`."""
    block = block_of(family)
    panels, padded = -(-rows // 16), padded_length(length, block)
    codes = aligned_empty((panels, padded // 8, 16, 4), np.uint8)
    scales = aligned_empty((panels, padded // block, 16), np.uint8)
    codes[-1:] = 0
    scales[-1:] = 0
    return RightOperand(codes, scales, np.float32(1), (rows, length), family)


def block_of(family: str) -> int:
    if family not in FORMATS:
        raise ValueError(f"unknown operand format {family!r}; the tensor core multiplies {' and '.join(FORMATS)}")
    return FORMATS[family]


# ---- from packed bytes ---------------------------------------------------------------------------------------


def _check_packed(codes: np.ndarray, scales: np.ndarray, family: str, length: int | None) -> tuple[int, int]:
    block = block_of(family)
    for name, array in (("codes", codes), ("scales", scales)):
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 2:
            found = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
            raise ValueError(f"{name} must be a uint8 matrix, got {found}")
    length = codes.shape[1] * 2 if length is None else length
    if codes.shape[1] != -(-length // 2):
        raise ValueError(f"codes of {length} elements a row have {-(-length // 2)} bytes a row, got {codes.shape[1]}")
    if scales.shape != (codes.shape[0], -(-length // block)):
        raise ValueError(
            f"{family} codes of shape {codes.shape} (K = {length}) need scales of shape "
            f"{(codes.shape[0], -(-length // block))}, got {scales.shape}"
        )
    return codes.shape[0], length


def left_from_packed(
    codes: np.ndarray,
    scales: np.ndarray,
    family: str,
    factor: np.ndarray | float = 1.0,
    *,
    length: int | None = None,
    out: LeftOperand | None = None,
) -> LeftOperand:
    """A left operand from packed rows.

    Parameters
    ----------
    codes : uint8 (M, ceil(K/2)), low nibble first
    scales : uint8 (M, ceil(K/block)), E8M0 (mxfp4) or E4M3 (nvfp4)
    family : {"mxfp4", "nvfp4"}
    factor : second-level scale: a number, or float32 (M,) or (M, 1), one a row
    length : K, where it is not twice the bytes of a row
    out : LeftOperand of the same shape and format, to be overwritten
    """
    rows, length = _check_packed(codes, scales, family, length)
    left = checked_out(out, empty_left, rows, length, family)
    _unpack_left(np.ascontiguousarray(codes), length, DOUBLED, left.values)
    left.sums[:rows] = left.values[:rows].reshape(rows, -1, left.block).sum(axis=2)
    left.scales[:rows] = half_scales(family)[scales]
    left.factors[:rows] = np.asarray(factor, np.float32).reshape(-1)
    return left


def right_from_packed(
    codes: np.ndarray, scales: np.ndarray, family: str, factor: float = 1.0, *, length: int | None = None
) -> RightOperand:
    """A right operand from packed rows: pack the panels once, use them often. Parameters as `left_from_packed`.

    `factor` is one number: the tensor's second-level scale.
    """
    rows, length = _check_packed(codes, scales, family, length)
    if np.size(factor) != 1:
        raise ValueError(f"a right operand takes one second-level factor for the tensor, got shape {np.shape(factor)}")
    right = empty_right(rows, length, family)
    panels, groups = right.codes.shape[:2]
    nibbles = np.zeros((panels * 16, groups * 8), np.uint8)
    nibbles[:rows, 0 : 2 * codes.shape[1] : 2] = codes & 15
    nibbles[:rows, 1 : 2 * codes.shape[1] : 2] = codes >> 4
    nibbles[:, length:] = 0
    parts = nibbles.reshape(panels, 16, groups, 2, 4).transpose(3, 0, 2, 1, 4)  # (2, panels, K/8, 16, 4)
    np.bitwise_or(parts[0], parts[1] << 4, out=right.codes)
    padded = np.zeros((panels * 16, scales.shape[1]), np.uint8)
    padded[:rows] = scales
    right.scales[...] = padded.reshape(panels, 16, -1).transpose(0, 2, 1)
    return RightOperand(right.codes, right.scales, np.float32(np.asarray(factor).reshape(())), (rows, length), family)


def checked_out(out, empty, rows, length, family):  # type: ignore[no-untyped-def]
    if out is None:
        return empty(rows, length, family)
    if out.shape != (rows, length) or out.family != family:
        raise ValueError(f"out is a {out.family} operand of shape {out.shape}; this one is {family}, {(rows, length)}")
    return out


def _unpack_left(codes: np.ndarray, length: int, table: np.ndarray, values: np.ndarray) -> None:
    """Packed rows to the values of their codes; zeros beyond `length`."""
    rows, count = len(codes), codes.shape[1]
    values[:rows, 0 : 2 * count : 2] = table[codes & 15]
    high = values[:rows, 1 : 2 * count : 2]
    high[...] = table[codes >> 4][:, : high.shape[1]]
    values[:rows, length:] = 0
