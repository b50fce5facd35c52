"""Operands of the virtual tensor core: the layouts the inner loops read, and the ways into them.

A product `left @ right.T` reduces along the last axis of both. Its two operands are laid out differently:

- `LeftOperand` (activations, gradients): int8 values row by row, twice the E2M1 value, so -12..12;
- `RightOperand` (weights, or whatever stands on the right): *panels* of 16 rows of the operand (16 columns of the
  output). Panel p holds `(K/8, 16, 4)` bytes: byte `[g, c, i]` has in its low nibble the E2M1 code of row
  `16 p + c` at `k = 8 g + i`, in its high nibble the code at `k = 8 g + 4 + i`. So 64 bytes in order are what one
  vector instruction wants: 4 consecutive k of 16 columns, twice.

Both carry *half* the decoded block scale as float32 or its stored byte (twice the value times half the scale is
the number itself; every step exact), and a second-level factor: one a row on the left, one a tensor on the right.

There are three ways in: from packed bytes in plain row layout (`left_from_packed`, `right_from_packed`), and
straight from float32 (`quantize_left`, `quantize_right`), of the array or of its transpose. The transpose is
quantized along *its* rows from the float32 values, as training needs it: quantizing and transposing do not commute.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numba
import numpy as np

from .. import formats
from . import cpu
from .jit import jit, pjit

ROW_MULTIPLE = 48
"""Left operands are allocated in multiples of this many rows: whole tiles on every path."""

FORMATS = {"mxfp4": 32, "nvfp4": 16}
"""Block length of each format of operand."""

RULES = {"mxfp4": ("mx-floor", "mx-rceil"), "nvfp4": ("te",)}
"""Scale rules the fused quantizers know, the default first; the names of `vbw_np.formats.scales`."""

_RULE_CODE = {"mx-floor": 0, "mx-rceil": 1, "te": 2}
_MAGNITUDES = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.int8)
DOUBLED = np.concatenate([_MAGNITUDES, -_MAGNITUDES])
"""Twice the value of each E2M1 code, int8 (16,)."""
DOUBLED.setflags(write=False)


@lru_cache(maxsize=2)
def half_scales(fmt: str) -> np.ndarray:
    """Half the value of every scale byte, float32 (256,): E8M0 for mxfp4, E4M3 for nvfp4 (0x7F and 0xFF: NaN)."""
    codes = np.arange(256)
    if fmt == "mxfp4":
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


def aligned_empty(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An uninitialized C-contiguous array that starts at a multiple of 64 bytes (one cache line, one vector)."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


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
    shape : (M, K)
    fmt : {"mxfp4", "nvfp4"}
    """

    values: np.ndarray
    scales: np.ndarray
    factors: np.ndarray
    shape: tuple[int, int]
    fmt: str

    @property
    def block(self) -> int:
        """Block length along K."""
        return FORMATS[self.fmt]

    def dequantize(self) -> np.ndarray:
        """The float32 numbers, (M, K): (element * scale) * factor, as the formats decode."""
        rows, length = self.shape
        scales = np.repeat(self.scales[:rows], self.block, axis=1)[:, :length]
        return (self.values[:rows, :length] * scales) * self.factors[:rows, None]

    def nbytes(self) -> int:
        """Bytes held."""
        return self.values.nbytes + self.scales.nbytes + self.factors.nbytes


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
    fmt : {"mxfp4", "nvfp4"}
    """

    codes: np.ndarray
    scales: np.ndarray
    factor: np.float32
    shape: tuple[int, int]
    fmt: str

    @property
    def block(self) -> int:
        """Block length along K."""
        return FORMATS[self.fmt]

    def values(self) -> np.ndarray:
        """Twice the E2M1 values as int8, (N, K padded)."""
        panels, groups = self.codes.shape[:2]
        nibbles = np.stack([self.codes & 15, self.codes >> 4], axis=2)  # (panels, K/8, 2, 16, 4)
        rows = nibbles.transpose(0, 3, 1, 2, 4).reshape(panels * 16, groups * 8)
        return DOUBLED[rows][: self.shape[0]]

    def half_scales(self) -> np.ndarray:
        """Half the decoded block scales as float32, (N, blocks)."""
        rows = self.scales.transpose(0, 2, 1).reshape(-1, self.scales.shape[1])
        return half_scales(self.fmt)[rows][: self.shape[0]]

    def dequantize(self) -> np.ndarray:
        """The float32 numbers, (N, K)."""
        scales = np.repeat(self.half_scales(), self.block, axis=1)
        return ((self.values() * scales) * self.factor)[:, : self.shape[1]]

    def nbytes(self) -> int:
        """Bytes held: 4.25 (mxfp4) or 4.5 (nvfp4) bits an element, padding included."""
        return self.codes.nbytes + self.scales.nbytes


def padded_length(length: int, block: int) -> int:
    """K rounded up to whole blocks."""
    return -(-length // block) * block


def empty_left(rows: int, length: int, fmt: str) -> LeftOperand:
    """An uninitialized left operand, to be filled by `quantize_left(..., out=)`: preallocate, then reuse."""
    block = _block(fmt)
    allocated, padded = -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE, padded_length(length, block)
    values = aligned_empty((allocated, padded), np.int8)
    values[rows:] = 0
    scales = aligned_empty((allocated, padded // block), np.float32)
    scales[rows:] = 0
    factors = aligned_empty((allocated,), np.float32)
    factors[:] = 1
    return LeftOperand(values, scales, factors, (rows, length), fmt)


def empty_right(rows: int, length: int, fmt: str) -> RightOperand:
    """An uninitialized right operand, to be filled by `quantize_right(..., out=)`."""
    block = _block(fmt)
    panels, padded = -(-rows // 16), padded_length(length, block)
    codes = aligned_empty((panels, padded // 8, 16, 4), np.uint8)
    scales = aligned_empty((panels, padded // block, 16), np.uint8)
    codes[-1:] = 0
    scales[-1:] = 0
    return RightOperand(codes, scales, np.float32(1), (rows, length), fmt)


def _block(fmt: str) -> int:
    if fmt not in FORMATS:
        raise ValueError(f"unknown operand format {fmt!r}; the tensor core multiplies {' and '.join(FORMATS)}")
    return FORMATS[fmt]


# ---- from packed bytes ---------------------------------------------------------------------------------------


def _check_packed(codes: np.ndarray, scales: np.ndarray, fmt: str, length: int | None) -> tuple[int, int]:
    block = _block(fmt)
    for name, array in (("codes", codes), ("scales", scales)):
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 2:
            found = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
            raise ValueError(f"{name} must be a uint8 matrix, got {found}")
    length = codes.shape[1] * 2 if length is None else length
    if codes.shape[1] != -(-length // 2):
        raise ValueError(f"codes of {length} elements a row have {-(-length // 2)} bytes a row, got {codes.shape[1]}")
    if scales.shape != (codes.shape[0], -(-length // block)):
        raise ValueError(
            f"{fmt} codes of shape {codes.shape} (K = {length}) need scales of shape "
            f"{(codes.shape[0], -(-length // block))}, got {scales.shape}"
        )
    return codes.shape[0], length


def left_from_packed(
    codes: np.ndarray,
    scales: np.ndarray,
    fmt: str,
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
    fmt : {"mxfp4", "nvfp4"}
    factor : second-level scale: a number, or float32 (M,) or (M, 1), one a row
    length : K, where it is not twice the bytes of a row
    out : LeftOperand of the same shape and format, to be overwritten
    """
    rows, length = _check_packed(codes, scales, fmt, length)
    left = _checked_out(out, empty_left, rows, length, fmt)
    _unpack_left(np.ascontiguousarray(codes), length, DOUBLED, left.values)
    left.scales[:rows] = half_scales(fmt)[scales]
    left.factors[:rows] = np.asarray(factor, np.float32).reshape(-1)
    return left


def right_from_packed(
    codes: np.ndarray, scales: np.ndarray, fmt: str, factor: float = 1.0, *, length: int | None = None
) -> RightOperand:
    """A right operand from packed rows: pack the panels once, use them often. Parameters as `left_from_packed`.

    `factor` is one number: the tensor's second-level scale.
    """
    rows, length = _check_packed(codes, scales, fmt, length)
    if np.size(factor) != 1:
        raise ValueError(f"a right operand takes one second-level factor for the tensor, got shape {np.shape(factor)}")
    right = empty_right(rows, length, fmt)
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
    return RightOperand(right.codes, right.scales, np.float32(np.asarray(factor).reshape(())), (rows, length), fmt)


def _checked_out(out, empty, rows, length, fmt):  # type: ignore[no-untyped-def]
    if out is None:
        return empty(rows, length, fmt)
    if out.shape != (rows, length) or out.fmt != fmt:
        raise ValueError(f"out is a {out.fmt} operand of shape {out.shape}; this one is {fmt}, {(rows, length)}")
    return out


@pjit
def _unpack_left(codes: np.ndarray, length: int, table: np.ndarray, values: np.ndarray) -> None:
    for m in numba.prange(codes.shape[0]):
        for i in range(codes.shape[1]):
            byte = codes[m, i]
            values[m, 2 * i] = table[byte & 15]
            if 2 * i + 1 < values.shape[1]:
                values[m, 2 * i + 1] = table[byte >> 4]
        for k in range(length, values.shape[1]):
            values[m, k] = 0


# ---- straight from float32 -----------------------------------------------------------------------------------


@jit
def _bits(x: np.float32) -> np.int32:
    return np.float32(x).view(np.int32)


@jit
def _float(u: np.int32) -> np.float32:
    return np.int32(u).view(np.float32)


@jit
def _scale_byte(amax: np.float32, rule: int, encode: np.float32) -> int:
    """The stored scale of a block (rules 0 mx-floor, 1 mx-rceil, 2 te with encode = S * (1/6))."""
    if rule == 2:
        scale = min(amax * encode, np.float32(448.0))
        if not amax <= np.float32(3.4028234663852886e38):
            return 0x7F
        if scale < np.float32(0.015625):  # subnormal: multiples of 2**-9, rounded to even by the float adder
            return int(((scale + np.float32(16384.0)) - np.float32(16384.0)) * np.float32(512.0))
        u = _bits(scale)
        return ((u + 0x7FFFF + ((u >> 20) & 1)) >> 20) - 960
    u = _bits(amax)
    if u >= 0x7F800000:
        return 255
    if rule == 0:
        return max((u >> 23) - 2, 0)
    u = _bits(amax / np.float32(6.0))
    exponent, mantissa = u >> 23, u & 0x7FFFFF
    if exponent == 0:
        return int(mantissa > 0x400000)
    return exponent + int(mantissa != 0)


@jit
def _reciprocal(byte: int, rule: int, decode: np.float32, table: np.ndarray) -> np.float32:
    """What an element is multiplied by before it is rounded (te: decode = 1/S)."""
    if rule == 2:
        product = (table[byte] + table[byte]) * decode
        if product == 0:
            return np.float32(3.4028234663852886e38)
        return min(np.float32(1.0) / product, np.float32(3.4028234663852886e38))
    if byte == 254:
        return _float(0x00400000)
    return _float((254 - byte) << 23) if byte < 255 else _float(0x7FC00000)


@jit
def _round_even(q: np.float32) -> int:
    """Twice the E2M1 value nearest to q, ties to the even code; saturating; -12..12.

    Adding 1.5 * 2**(e + 22), with e the exponent of q but at least 0, leaves exactly one mantissa bit below e:
    the float adder does the rounding, ties to even.
    """
    q = min(max(q, np.float32(-6.0)), np.float32(6.0))
    magic = _float((max(_bits(q) & 0x7F800000, 0x3F800000) + (22 << 23)) | 0x400000)
    return int(((q + magic) - magic) * np.float32(2.0))


@jit
def _te_encode(amax: np.float32) -> np.float32:
    """S = min(2688 / amax, FLT_MAX); 1 where that is 0 or amax is 0."""
    if amax == 0:
        return np.float32(1.0)
    encode = min(np.float32(2688.0) / amax, np.float32(3.4028234663852886e38))
    return np.float32(1.0) if encode == 0 else encode


@jit
def _row_amax(x: np.ndarray, start: int, stride: int, length: int) -> np.float32:
    amax = 0  # as bits: for magnitudes the order of the bits is that of the numbers, with NaN above all
    for k in range(length):
        amax = max(amax, _bits(x[start + k * stride]) & 0x7FFFFFFF)
    return _float(amax)


@jit
def _quantize_row(x, start, stride, length, block, rule, amax, table, values, scales):  # type: ignore[no-untyped-def]
    """Quantize one row of the operand: doubled int8 values and scale bytes."""
    encode, decode = np.float32(1.0), np.float32(1.0)
    if rule == 2:
        s = _te_encode(amax)
        encode, decode = s * (np.float32(1.0) / np.float32(6.0)), np.float32(1.0) / s
    for b in range(scales.shape[0]):
        first, last = b * block, min(b * block + block, length)
        byte = _scale_byte(_row_amax(x, start + first * stride, stride, last - first), rule, encode)
        factor = _reciprocal(byte, rule, decode, table)
        scales[b] = byte
        for k in range(first, last):
            values[k] = _round_even(x[start + k * stride] * factor)
        for k in range(last, first + block):
            values[k] = 0


@pjit
def _quantize_left(x, row_stride, stride, rows, length, block, rule, amax, table, values, scales, factors):  # type: ignore[no-untyped-def]
    """x is flat; amax is one number for the tensor, or empty: each row its own."""
    for m in numba.prange(rows):
        row_amax = np.float32(0.0)
        if rule == 2:
            row_amax = amax[0] if amax.size else _row_amax(x, m * row_stride, stride, length)
            factors[m] = row_amax / np.float32(2688.0)
        bytes_ = np.empty(scales.shape[1], np.uint8)
        _quantize_row(x, m * row_stride, stride, length, block, rule, row_amax, table, values[m], bytes_)
        for b in range(scales.shape[1]):
            scales[m, b] = table[bytes_[b]]


@jit
def _code(doubled: int) -> int:
    """The E2M1 code of a doubled value: the inverse of max(m, 2m - 4, 4m - 16)."""
    d = abs(doubled)
    magnitude = d if d <= 4 else (d + 4) // 2 if d < 8 else (d + 16) // 4
    return magnitude | (8 if doubled < 0 else 0)


@pjit
def _quantize_right(x, row_stride, stride, rows, length, block, rule, amax, table, codes, scales):  # type: ignore[no-untyped-def]
    blocks = scales.shape[1]
    for panel in numba.prange(scales.shape[0]):
        values = np.empty(blocks * block, np.int8)
        bytes_ = np.empty(blocks, np.uint8)
        for c in range(16):
            n = panel * 16 + c
            if n < rows:
                _quantize_row(x, n * row_stride, stride, length, block, rule, amax, table, values, bytes_)
            else:
                values[:] = 0
                bytes_[:] = 0
            for b in range(blocks):
                scales[panel, b, c] = bytes_[b]
            for g in range(codes.shape[1]):
                for i in range(4):
                    low, high = _code(values[8 * g + i]), _code(values[8 * g + 4 + i])
                    codes[panel, g, c, i] = low | (high << 4)


def _source(x: np.ndarray, fmt: str, rule: str | None, transpose: bool) -> tuple[int, int, int, int, int]:
    """Check a float32 source; rows, length, strides (in elements) and the rule's number."""
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim != 2 or not x.flags.c_contiguous:
        found = f"{getattr(x, 'dtype', type(x).__name__)} {getattr(x, 'shape', '')}"
        raise ValueError(f"x must be a C-contiguous float32 matrix, got {found}: np.ascontiguousarray(x, np.float32)")
    _block(fmt)
    rule = rule or RULES[fmt][0]
    if rule not in RULES[fmt]:
        raise ValueError(f"unknown scale rule {rule!r} for {fmt}; choose one of {', '.join(RULES[fmt])}")
    rows, length = x.shape[::-1] if transpose else x.shape
    strides = (1, x.shape[1]) if transpose else (x.shape[1], 1)
    return rows, length, *strides, _RULE_CODE[rule]


def quantize_left(
    x: np.ndarray,
    fmt: str = "nvfp4",
    *,
    rule: str | None = None,
    amax: float | None = None,
    transpose: bool = False,
    out: LeftOperand | None = None,
) -> LeftOperand:
    """Quantize a float32 matrix straight into a left operand.

    Parameters
    ----------
    x : float32, C-contiguous, (M, K); (K, M) with `transpose`
    fmt : {"mxfp4", "nvfp4"}
    rule : one of `RULES[fmt]`
        mxfp4: `mx-floor` (OCP) or `mx-rceil`; nvfp4: `te`.
    amax : float, optional
        nvfp4: the largest magnitude of the tensor, for one second-level scale. Default: each row of the operand
        takes its own amax, so that no row can change another.
    transpose : bool
        Quantize x.T: blocks run down the columns of x.
    out : LeftOperand of the same shape and format, to be overwritten

    Notes
    -----
    Equal to `vbw_np.formats.quantize` value for value (a zero loses its sign). Inf or NaN in a block makes its
    scale NaN.
    """
    rows, length, row_stride, stride, code = _source(x, fmt, rule, transpose)
    left = _checked_out(out, empty_left, rows, length, fmt)
    if cpu.jit_disabled():
        packed = _by_definition(x.T if transpose else x, fmt, rule, amax, "row")
        factor = 1.0 if packed.tensor_scale is None else packed.tensor_scale
        return left_from_packed(packed.codes, packed.scales, fmt, factor, length=length, out=left)
    given = np.array([] if amax is None else [amax], np.float32)
    source = x.reshape(-1), row_stride, stride, rows, length, left.block, code, given, half_scales(fmt)
    _quantize_left(*source, left.values, left.scales, left.factors)
    return left


def _by_definition(
    x: np.ndarray, fmt: str, rule: str | None, amax: float | None, level: str
) -> formats.PackedTensor:
    """The same by `vbw_np.formats`, for use without a compiler."""
    record = formats.get_format(fmt)
    rules = {"mx-floor": formats.scales.MX_FLOOR, "mx-rceil": formats.scales.MX_RCEIL, "te": formats.scales.TE}
    level = "none" if fmt == "mxfp4" else level if amax is None else "tensor"
    record = replace(record, rule=rules[rule or RULES[fmt][0]], tensor_level=level)
    fitted = formats.fit_scales(x, record, nonfinite="propagate")
    if fmt == "nvfp4" and amax is not None:
        stored = np.float32(amax)
        block = record.rule.block(formats.codec.block_amax(x, record), stored)
        fitted = formats.FittedScales(block, stored, np.float32(record.rule.multiplier(stored)))
    return formats.encode(x, record, fitted, nonfinite="propagate")


def quantize_right(
    w: np.ndarray,
    fmt: str = "nvfp4",
    *,
    rule: str | None = None,
    amax: float | None = None,
    transpose: bool = False,
    out: RightOperand | None = None,
) -> RightOperand:
    """Quantize a float32 matrix straight into panels. As `quantize_left`, with one second-level scale a tensor.

    w : float32, C-contiguous, (N, K); (K, N) with `transpose`. amax: default, found here (nvfp4).
    """
    rows, length, row_stride, stride, code = _source(w, fmt, rule, transpose)
    right = _checked_out(out, empty_right, rows, length, fmt)
    factor = np.float32(1)
    top = np.float32(0)
    if fmt == "nvfp4":
        top = np.float32(np.abs(w).max() if amax is None else amax)
        factor = top / np.float32(2688)
    if cpu.jit_disabled():
        packed = _by_definition(w.T if transpose else w, fmt, rule, amax, "tensor")
        filled = right_from_packed(packed.codes, packed.scales, fmt, factor, length=length)
        right.codes[...], right.scales[...] = filled.codes, filled.scales
        return RightOperand(right.codes, right.scales, factor, right.shape, fmt)
    source = w.reshape(-1), row_stride, stride, rows, length, right.block, code, top, half_scales(fmt)
    _quantize_right(*source, right.codes, right.scales)
    return RightOperand(right.codes, right.scales, factor, right.shape, fmt)
