"""Operands of the virtual tensor core straight from float32, of an array or of its transpose.

The transpose is quantized along *its* rows from the float32 values, as training needs it: quantizing and transposing do
not commute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import formats
from ...definitions import support
from ...definitions.aligned import check_rows
from ...definitions.fp4 import packed_operand, tensor_factor
from ...definitions.panels import (
    FORMATS,
    LeftOperand,
    RightOperand,
    checked_out,
    empty_left,
    empty_right,
    left_from_packed,
    right_from_packed,
)
from ...formats import BlockFormat
from ...formats.hadamard import POINTS, SIGNS
from ...formats.random_bits import hash_keys
from ...formats.scales import RuleNumbers
from ...simd.jit import jit, pjit, read_only, share
from ...simd.lanes_memory import keep
from ...simd.variant import Variant
from .intrinsics_quantize import (
    RUN,
    column_amax,
    column_left,
    column_right,
    make_scales,
    row_amax,
    row_left,
    row_right,
)
from .quantize import tensor_amax

_ROWS_AT_ONCE = 8
RANGE, INVERSE, LEAST = range(3)  # places in a `span`: the numbers of a scale rule that the loops read


def span_of(numbers: RuleNumbers) -> np.ndarray:
    """Range, inverse and least multiplier of a scale rule, float32 (3,)."""
    return np.array([numbers.range, numbers.inverse, numbers.least], np.float32)


_FLT_MAX = np.float32(np.finfo(np.float32).max)


@jit
def _as_float(bits: np.int32) -> np.float32:
    return np.int32(bits).view(np.float32)


@jit
def _encode_scale(amax: np.float32, span: np.ndarray) -> np.float32:
    """S = min(range / amax, FLT_MAX); 1 where that is 0 or amax is 0 (`formats.scales.te_encode_scale`)."""
    if amax == 0:
        return np.float32(1.0)
    encode = min(span[RANGE] / amax, _FLT_MAX)
    return np.float32(1.0) if encode == 0 else encode


@jit
def _multiplier(amax: np.float32, span: np.ndarray) -> np.float32:
    """What decoding multiplies with: amax / range, not below the least (`formats.scales.te_multiplier`)."""
    return max(amax / span[RANGE], span[LEAST]) if amax > 0 else amax / span[RANGE]


@jit
def _largest(bits: np.ndarray) -> np.float32:
    """The largest magnitude of an array of magnitude bits (NaN above all)."""
    top = np.int32(0)
    for i in range(bits.size):
        top = max(top, bits[i])
    return _as_float(top)


@jit
def _row_scales(mode, x, start, length, block, two_level, span, given, tail, amax, pair, codes, factors, halves):  # type: ignore[no-untyped-def]
    """Scales of one row: fills amax, codes, factors, halves; returns the row's second-level amax.

    Of a ragged row, `tail` gets the last block, filled up with zeros.
    """
    whole = length // block
    row_amax(mode, x.ctypes.data + start * 4, whole, amax.ctypes.data)
    if whole * block < length:
        tail[:] = 0
        for k in range(whole * block, length):
            tail[k - whole * block] = x[start + k]
        row_amax(mode, tail.ctypes.data, 1, amax.ctypes.data + whole * 4)
    level, encode = np.float32(0.0), np.float32(1.0)
    if two_level:
        level = given[0] if given.size else _largest(amax)
        encode = _encode_scale(level, span)
    pair[0], pair[1] = encode * span[INVERSE], np.float32(1.0) / encode
    at = pair.ctypes.data
    vectors = amax.size // 16
    make_scales(mode, amax.ctypes.data, vectors, at, at + 4, codes.ctypes.data, factors.ctypes.data, halves.ctypes.data)
    return level


@jit
def _copy_to(source, target, first, step, count):  # type: ignore[no-untyped-def]
    """target[first], target[first + step], ... = the first `count` of source.

    A slice would do the same, but numba compiles a text for when its shape does not fit: half a second.
    """
    for i in range(count):
        target[first + i * step] = source[i]


@jit
def left_rows(mode, x, first, stop, length, block, two_level, span, given, key1, key2, values, scales, row_factors, sums):  # type: ignore[no-untyped-def]  # noqa: E501
    """Rows first .. stop of a flat matrix into the arrays of a left operand, on one thread."""
    blocks = scales.shape[1]
    padded = (blocks + 15) // 16 * 16
    amax, codes = np.zeros(padded, np.int32), np.empty(padded, np.uint8)
    factors, halves = np.empty(padded, np.float32), np.empty(padded, np.float32)
    tail, pair = np.empty(block, np.float32), np.ones(2, np.float32)
    for m in range(first, stop):
        level = _row_scales(mode, x, m * length, length, block, two_level, span, given, tail, amax, pair, codes, factors, halves)  # noqa: E501
        if two_level:
            row_factors[m] = _multiplier(level, span)
        _copy_to(halves, scales.reshape(-1), m * blocks, 1, blocks)
        whole = length // block
        source, target = x.ctypes.data + m * length * 4, values.ctypes.data + m * blocks * block
        sums_at = sums.ctypes.data + m * blocks * 2
        row_left(mode, source, factors.ctypes.data, whole, target, sums_at, m * length, key1, key2)
        if whole < blocks:
            at, done = factors.ctypes.data + whole * 4, whole * block
            sums_at += whole * 2
            row_left(mode, tail.ctypes.data, at, 1, target + done, sums_at, m * length + done, key1, key2)


@pjit
def rows_left(team, mode, x, rows, length, block, two_level, span, given, key1, key2, values, scales, row_factors, sums):  # type: ignore[no-untyped-def]  # noqa: E501
    for task in share(team, (rows + _ROWS_AT_ONCE - 1) // _ROWS_AT_ONCE):
        first, stop = task * _ROWS_AT_ONCE, min((task + 1) * _ROWS_AT_ONCE, rows)
        left_rows(mode, x, first, stop, length, block, two_level, span, given, key1, key2, values, scales, row_factors, sums)  # noqa: E501


@pjit
def _rows_right(team, mode, x, rows, length, block, two_level, span, given, key1, key2, panel_codes, panel_scales):  # type: ignore[no-untyped-def]
    panels, blocks = panel_scales.shape[:2]
    padded = (blocks + 15) // 16 * 16
    for panel in share(team, panels):
        amax, codes = np.zeros(padded, np.int32), np.empty(padded, np.uint8)
        factors, halves = np.empty(padded, np.float32), np.empty(padded, np.float32)
        tail, pair = np.empty(block, np.float32), np.ones(2, np.float32)
        if panel * 16 + 16 > rows:
            panel_codes[panel] = 0
            panel_scales[panel] = 0
        for n in range(panel * 16, min(panel * 16 + 16, rows)):
            _row_scales(mode, x, n * length, length, block, two_level, span, given, tail, amax, pair, codes, factors, halves)  # noqa: E501
            _copy_to(codes, panel_scales.reshape(-1), panel * blocks * 16 + n - panel * 16, 16, blocks)
            whole = length // block
            target = panel_codes.ctypes.data + panel * blocks * block * 8 + (n - panel * 16) * 4
            row_right(mode, x.ctypes.data + n * length * 4, factors.ctypes.data, whole, target, n * length, key1, key2)
            if whole < blocks:
                at, done = factors.ctypes.data + whole * 4, whole * block
                row_right(mode, tail.ctypes.data, at, 1, target + done * 8, n * length + done, key1, key2)


_STRIPS = 8
_COLUMNS = 16 * _STRIPS  # of a task


class _Strips(NamedTuple):
    """Up to `_STRIPS` strips of 16 columns, which a thread passes together, and its work memory for them.

    A thread passes a run of rows of all its strips before the next run: the rows of a wide matrix lie on different
    pages, and one strip alone would miss the address cache at every row.
    """

    count: int
    sources: NDArray  # int64, by strip: the address of its whole blocks, in x or in `buffer`
    strides: NDArray  # int64, by strip: bytes from row to row there
    buffer: NDArray  # float32: the whole blocks of a strip that is not 16 wide, filled up with zeros
    tail: NDArray  # float32: what is left of each strip's last block, filled up with zeros
    amax: NDArray  # int32, by column: bits
    encode: NDArray  # float32, by column: the second level's S * inverse
    decode: NDArray  # float32, by column: 1 / S


@jit
def _strips_of(task, x, width, length, block, inverse):  # type: ignore[no-untyped-def]
    """The strips of a task; the caller has to `keep` them.

    numba frees an array after its last use by name, and sources are plain addresses.
    """
    first = task * _COLUMNS
    count = min(_STRIPS, (width - first + 15) // 16)
    whole = length // block * block
    sources, strides = np.zeros(_STRIPS, np.int64), np.zeros(_STRIPS, np.int64)
    buffer = np.empty(length * 16 if first + _COLUMNS > width else 0, np.float32)
    tail = np.empty(block * _COLUMNS, np.float32)
    for s in range(count):
        column = first + s * 16
        have = min(16, width - column)
        sources[s], strides[s] = x.ctypes.data + column * 4, width * 4
        if have < 16:
            _copy_strip(x, width, 0, whole, column, have, buffer)
            sources[s], strides[s] = buffer.ctypes.data, 64
        if whole < length:
            part = tail[s * block * 16 : (s + 1) * block * 16]
            part[:] = 0
            _copy_strip(x, width, whole, length, column, have, part)
    amax, encode, decode = np.zeros(_COLUMNS, np.int32), np.full(_COLUMNS, inverse), np.ones(_COLUMNS, np.float32)
    return _Strips(count, sources, strides, buffer, tail, amax, encode, decode)


@jit
def _copy_strip(x, width, start, stop, column, have, target):  # type: ignore[no-untyped-def]
    for k in range(start, stop):
        for c in range(16):
            target[(k - start) * 16 + c] = x[k * width + column + c] if c < have else np.float32(0.0)


@jit
def _count_runs(length, block):  # type: ignore[no-untyped-def]
    """Runs of whole blocks, and one more for what is left of the last block."""
    return -(-(length // block) // (RUN // block)) + (length % block > 0)


@jit
def _place(strips, s, run, length, block):  # type: ignore[no-untyped-def]
    """Of a run of strip s: the number of its first block, its address, bytes from row to row, how many blocks."""
    whole = length // block
    b = min(run * (RUN // block), whole)
    if b == whole:
        return b, strips.tail.ctypes.data + s * block * 64, 64, 1
    stride = strips.strides[s]
    return b, strips.sources[s] + b * block * stride, stride, min(RUN // block, whole - b)


@jit
def _strip_amax(mode, strips, length, block, signs):  # type: ignore[no-untyped-def]
    """The amax bits of each column of the strips."""
    for run in range(_count_runs(length, block)):
        for s in range(strips.count):
            _, source, stride, n = _place(strips, s, run, length, block)
            column_amax(mode, source, stride, n, signs, strips.amax.ctypes.data + s * 64)


@jit
def _strip_levels(span, given, strips):  # type: ignore[no-untyped-def]
    """Second-level scales of columns; a given amax replaces theirs."""
    amax, encode, decode = strips.amax, strips.encode, strips.decode
    for c in range(amax.size):
        if given.size:
            amax[c] = given.view(np.int32)[0]
        scale = _encode_scale(_as_float(amax[c]), span)
        encode[c], decode[c] = scale * span[INVERSE], np.float32(1.0) / scale


@pjit
def _columns_left(team, mode, x, width, length, block, two_level, span, given, signs, index_length, key1, key2, values, scales, row_factors, sums):  # type: ignore[no-untyped-def]  # noqa: E501
    blocks = scales.shape[1]
    padded = blocks * block
    for task in share(team, (width + _COLUMNS - 1) // _COLUMNS):
        first = task * _COLUMNS
        strips = _strips_of(task, x, width, length, block, span[INVERSE])
        if two_level:
            if given.size == 0:
                _strip_amax(mode, strips, length, block, signs)
            _strip_levels(span, given, strips)
            for c in range(16 * strips.count):
                row_factors[first + c] = _multiplier(_as_float(strips.amax[c]), span)
        for run in range(_count_runs(length, block)):
            for s in range(strips.count):
                row = first + s * 16
                b, source, stride, n = _place(strips, s, run, length, block)
                index = row * index_length + b * block
                target = values.ctypes.data + row * padded + b * block
                scale_target = scales.ctypes.data + (row * blocks + b) * 4
                sums_at = sums.ctypes.data + (row * blocks + b) * 2
                enc, dec = strips.encode.ctypes.data + s * 64, strips.decode.ctypes.data + s * 64
                column_left(mode, source, stride, n, signs, enc, dec, index, index_length, key1, key2, target, padded, scale_target, blocks * 4, sums_at)  # noqa: E501
        keep(strips)


@pjit
def _columns_right(team, mode, x, width, length, block, two_level, span, given, signs, index_length, key1, key2, codes, scales):  # type: ignore[no-untyped-def]  # noqa: E501
    blocks = scales.shape[1]
    padded = blocks * block
    for task in share(team, (width + _COLUMNS - 1) // _COLUMNS):
        strips = _strips_of(task, x, width, length, block, span[INVERSE])
        if two_level:
            _strip_levels(span, given, strips)
        for run in range(_count_runs(length, block)):
            for s in range(strips.count):
                panel = task * _STRIPS + s
                b, source, stride, n = _place(strips, s, run, length, block)
                index = panel * 16 * index_length + b * block
                target = codes.ctypes.data + (panel * padded + b * block) * 8
                scale_target = scales.ctypes.data + (panel * blocks + b) * 16
                enc, dec = strips.encode.ctypes.data + s * 64, strips.decode.ctypes.data + s * 64
                column_right(mode, source, stride, n, signs, enc, dec, index, index_length, key1, key2, target, scale_target)  # noqa: E501
        keep(strips)


@pjit
def _columns_amax(team, mode, x, width, length, block, signs, tops):  # type: ignore[no-untyped-def]
    for task in share(team, tops.size):
        strips = _strips_of(task, x, width, length, block, np.float32(1))
        _strip_amax(mode, strips, length, block, signs)
        tops[task] = _largest(strips.amax)
        keep(strips)


@dataclass(frozen=True)
class _Job:
    """One checked request to quantize."""

    x: np.ndarray
    record: BlockFormat
    family: str
    rule: str
    rows: int
    length: int
    transpose: bool
    hadamard: bool
    seed: tuple[int, int] | None

    @property
    def mode(self) -> Variant:
        """What the inner loops are compiled for."""
        options = [self.rule, *["stochastic"] * (self.seed is not None), *["hadamard"] * self.hadamard]
        return Variant("+".join(options), FORMATS[self.family])

    @property
    def source(self) -> np.ndarray:
        """All of x as the kernels take it: one axis, and read-only, whether x is or not, so that they compile once."""
        return read_only(self.x.reshape(-1))

    @property
    def keys(self) -> tuple[int, int]:
        """Keys of the random bits."""
        return hash_keys(*self.seed) if self.seed is not None else (0, 0)

    @property
    def operand_length(self) -> int:
        """K of the operand: that of x, in whole groups where it is rotated."""
        return -(-self.length // POINTS) * POINTS if self.hadamard else self.length

    def amax(self) -> np.float32:
        """The largest magnitude of what will be quantized (rotated, where it will be); NaN if there is one."""
        if not self.hadamard:
            return tensor_amax(self.x)
        tops = np.empty(-(-self.rows // _COLUMNS), np.float32)
        _columns_amax(self.mode, self.source, self.rows, self.length, FORMATS[self.family], _SIGN_BITS, tops)
        return tops.max()

    def by_definition(self) -> formats.PackedTensor:
        """The same by the definition, which knows what becomes of NaN and Inf."""
        return packed_operand(self.x, self.record, self.transpose, self.hadamard, self.seed)


_SIGN_BITS = int(np.packbits(SIGNS < 0, bitorder="little").view(np.uint16)[0])


def _job(x, fmt, side, transpose, hadamard, seed) -> _Job:  # type: ignore[no-untyped-def]
    """Check a float32 source and the options."""
    record = formats.get_format(fmt)
    check_rows(x, 2)
    if x.size == 0:
        raise ValueError(f"x has shape {x.shape}: no elements, hence no amax and no scale")
    rule, why = support.fused(record, "even" if seed is None else "stochastic", side)
    if rule is None:
        raise ValueError(f"no kernel quantizes {record.name} straight into a {side} operand: {why}")
    if hadamard and not transpose:
        raise ValueError("hadamard=True rotates along the columns of x: it needs transpose=True (or rotate x yourself)")
    rows, length = x.shape[::-1] if transpose else x.shape
    return _Job(x, record, support.family(record).kernel, rule, rows, length, transpose, hadamard, seed)


def quantize_left(
    x: np.ndarray,
    fmt: str | BlockFormat,
    *,
    transpose: bool = False,
    hadamard: bool = False,
    seed: tuple[int, int] | None = None,
    out: LeftOperand | None = None,
) -> LeftOperand:
    """Quantize a float32 matrix straight into a left operand.

    Parameters
    ----------
    x : float32, C-contiguous, (M, K); (K, M) with `transpose`
    fmt : name or BlockFormat
        One that `support.fused` knows. ``"nvfp4-row-scaled"`` gives each row a second-level scale of its own, so that
        no row can change another; ``"nvfp4"`` has one for all (which costs one more pass to find it).
    transpose : bool
        Quantize x.T: blocks run down the columns of x.
    hadamard : bool
        Rotate every 16 elements along the reduction first (`formats.hadamard`); needs `transpose`. The operand's K is
        then a multiple of 16.
    seed : (seed, stream), optional
        Round stochastically, with the bits `formats.random_bits` has for this seed, stream and the element's index in
        the operand. Default: to nearest even.
    out : LeftOperand of the same shape and format, to be overwritten

    Notes
    -----
    Equal to `vbw_np.formats.quantize` value for value (a zero loses its sign). Inf or NaN in a block makes its scale
    NaN.
    """
    job = _job(x, fmt, "left", transpose, hadamard, seed)
    left = checked_out(out, empty_left, job.rows, job.operand_length, job.family)
    return _fill_left(job, left, job.amax() if job.record.tensor_level == "tensor" else None)


def _fill_left(job: _Job, left: LeftOperand, amax: float | None) -> LeftOperand:
    """The operand's arrays; one whose amax is not finite is left to the definition."""
    if amax is not None and not np.isfinite(amax):
        packed = job.by_definition()
        factor = 1.0 if packed.tensor_scale is None else packed.tensor_scale
        return left_from_packed(packed.codes, packed.scales, job.family, factor, length=left.shape[1], out=left)
    two_level = job.record.tensor_level != "none"
    if not two_level:
        left.factors[...] = 1
    given = np.array([] if amax is None or not two_level else [amax], np.float32)
    target = left.values, left.scales, left.factors, left.sums
    numbers = span_of(job.record.rule.numbers)
    source = job.mode, job.source, job.rows, job.length, left.block, two_level, numbers, given
    if job.transpose:
        _columns_left(*source, _SIGN_BITS, left.shape[1], *job.keys, *target)
    else:
        rows_left(*source, *job.keys, *target)
    return left


def quantize_right(
    w: np.ndarray,
    fmt: str | BlockFormat,
    *,
    transpose: bool = False,
    hadamard: bool = False,
    seed: tuple[int, int] | None = None,
    out: RightOperand | None = None,
) -> RightOperand:
    """Quantize a float32 matrix straight into panels. As `quantize_left`, with at most one second-level scale.

    w : float32, C-contiguous, (N, K); (K, N) with `transpose`.
    """
    job = _job(w, fmt, "right", transpose, hadamard, seed)
    right = checked_out(out, empty_right, job.rows, job.operand_length, job.family)
    two_level = job.record.tensor_level == "tensor"
    amax = job.amax() if two_level else None
    if amax is not None and not np.isfinite(amax):
        packed = job.by_definition()
        factor = tensor_factor(packed)
        filled = right_from_packed(packed.codes, packed.scales, job.family, factor, length=right.shape[1])
        right.codes[...], right.scales[...] = filled.codes, filled.scales
        return RightOperand(right.codes, right.scales, factor, right.shape, job.family)
    given = np.zeros(1, np.float32)
    if two_level:
        given[0] = amax
    target = right.codes, right.scales
    numbers = span_of(job.record.rule.numbers)
    source = job.mode, job.source, job.rows, job.length, right.block, two_level, numbers, given
    if transpose:
        _columns_right(*source, _SIGN_BITS, right.shape[1], *job.keys, *target)
    else:
        _rows_right(*source, *job.keys, *target)
    factor = np.float32(job.record.rule.multiplier(given[0]) if two_level else 1)
    return RightOperand(right.codes, right.scales, factor, right.shape, job.family)


def fused_left(x, fmt, *, transpose=False, hadamard=False, seed=None):  # type: ignore[no-untyped-def]
    """Twin of `definitions.quantize_left`; leaves to it what is not fused."""
    ties = fmt.ties if seed is None else "stochastic"
    if not support.fused(fmt, ties, "left").kernel or (hadamard and not transpose):
        return NotImplemented
    return quantize_left(np.ascontiguousarray(x), fmt, transpose=transpose, hadamard=hadamard, seed=seed)


def fused_right(x, fmt, *, transpose=False, hadamard=False):  # type: ignore[no-untyped-def]
    """Twin of `definitions.quantize_right`; leaves to it what is not fused."""
    if not support.fused(fmt, fmt.ties, "right").kernel or (hadamard and not transpose):
        return NotImplemented
    return quantize_right(np.ascontiguousarray(x), fmt, transpose=transpose, hadamard=hadamard)
