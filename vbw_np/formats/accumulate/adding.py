"""How a tensor core adds: one step of a matrix instruction and a long sum, in integers.

A step takes up to `terms` products p_i = a_i * b_i and an accumulator c:

1. Every product has the significand s_a * s_b, in [1, 4) and not normalised again (less for subnormals), and the
   exponent e_a + e_b. Block scales multiply significands and add exponents too.
2. M is the largest exponent, c's included. A term that is zero counts with the unit's `zero_exponent`.
3. Every term is truncated toward zero to a multiple of 2**(M - F). This is what is lost.
4. The truncated terms are added exactly, and the sum is cut off (or rounded) to the output's fraction bits.

A long sum is a chain of such steps, c carried from one to the next. Nothing is normalised in between and nothing is
rounded to nearest, so the result depends on which terms share a step, and errs toward zero.

Why 64-bit integers hold it: significands are kept in units of 2**-23 of their exponent. A plain product is below
4 * 2**23 = 2**25, c below 2**24. A group of 16 products of E2M1 is at most 16 * 36 = 576, times two E4M3 significands
of at most 1.875 below 2**11, in units of 2**-23 below 2**34. Aligning shifts left by F - 23 at most: a sum of 32
products and c stays below (32 + 1) * 2**27 < 2**33 at F = 25, one of 4 groups and c below 5 * 2**46 < 2**49 at F = 35.
Products have at most 20 fraction bits (fp16, tf32), scaled groups 2 + 6, so the unit 2**-23 cuts nothing off.

Sources: arXiv:2511.10909 (MMA-Sim), arXiv:2512.07004; each record in `units.py` says which, and what it was held to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, ShapeError
from .decoding import FP16, FP32, SCALES, Parts, take_apart
from .units import Accumulator, Output, get_accumulator

UNIT = 23
"""Significands are integers in units of 2**-UNIT."""

NAN32, NAN16 = np.uint32(0x7FFFFFFF), np.uint16(0x7FFF)
"""The one NaN that tensor cores write."""


@dataclass(frozen=True)
class Terms:
    """What is added in one step, along the last axis; c is the last term where there is one.

    Attributes
    ----------
    significand : int64 (..., terms)
        In units of 2**-UNIT of the exponent, with its sign.
    exponent : int64 (..., terms)
        As it takes part in the maximum.
    nan, inf : bool (..., terms)
        Where a term is no number; `significand` then has only a sign.
    """

    significand: NDArray[np.int64]
    exponent: NDArray[np.int64]
    nan: NDArray[np.bool_]
    inf: NDArray[np.bool_]

    def __getitem__(self, index: object) -> Terms:
        return Terms(self.significand[index], self.exponent[index], self.nan[index], self.inf[index])


def _join(*parts: Terms) -> Terms:
    """Terms side by side along the last axis."""
    names = ("significand", "exponent", "nan", "inf")
    return Terms(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))


def products(a: Parts, b: Parts, zero_exponent: int) -> Terms:
    """The products of two arrays of numbers, element by element."""
    significand = a.significand * b.significand
    is_zero = significand == 0
    inf = a.inf | b.inf
    nan = a.nan | b.nan | (inf & is_zero)
    fraction = UNIT - a.fraction_bits - b.fraction_bits
    exponent = np.where(is_zero, zero_exponent, a.exponent + b.exponent)
    return Terms(significand << fraction, exponent, nan, inf & ~nan)


def accumulator_term(c: NDArray, zero_exponent: int) -> Terms:
    """The accumulator as a term of its own: c (...), to (..., 1)."""
    parts = take_apart(c, FP16 if c.dtype == np.float16 else FP32)
    significand = (parts.significand << (UNIT - parts.fraction_bits))[..., None]
    exponent = np.where(significand == 0, zero_exponent, parts.exponent[..., None])
    return Terms(significand, exponent, parts.nan[..., None], parts.inf[..., None])


def scale_products(terms: Terms, scale_a: Parts, scale_b: Parts, block: int, zero_exponent: int) -> Terms:
    """Products under power-of-two block scales: exponents move, significands do not."""
    exponent, nan = (np.repeat(part, block, axis=-1) for part in (
        scale_a.exponent + scale_b.exponent, scale_a.nan | scale_b.nan
    ))  # fmt: skip
    moved = np.where(terms.significand == 0, zero_exponent, terms.exponent + exponent)
    return Terms(terms.significand, moved, terms.nan | nan, terms.inf & ~nan)


def groups(a: Parts, b: Parts, scale_a: Parts, scale_b: Parts, unit: Accumulator) -> Terms:
    """Groups of products that are added exactly, each times its two block scales.

    A group has the exponent of its scales alone: the sum inside it is not normalised. It counts as zero only if all its
    products are zero (or a scale is); a group that cancels keeps its exponent.
    """
    lowest = a.exponent.min(initial=0) if a.exponent.size else 0  # E2M1: 0, so that values become whole halves
    values = [part.significand << (part.exponent - lowest) for part in (a, b)]
    product = np.multiply(*values)
    product = product.reshape(*product.shape[:-1], -1, unit.group)
    scale = scale_a.significand * scale_b.significand
    is_zero = (product == 0).all(axis=-1) | (scale == 0)
    exponent = np.where(is_zero, unit.zero_exponent, scale_a.exponent + scale_b.exponent + 2 * lowest)
    fraction = UNIT - a.fraction_bits - b.fraction_bits - scale_a.fraction_bits - scale_b.fraction_bits
    nan = scale_a.nan | scale_b.nan
    return Terms((product.sum(axis=-1) * scale) << fraction, exponent, nan, np.zeros(nan.shape, bool))


def align(terms: Terms, fraction_bits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Truncate every term to a multiple of 2**(M - fraction_bits): the integers (..., terms), and M (..., 1)."""
    largest = terms.exponent.max(axis=-1, keepdims=True)
    shift = fraction_bits - UNIT - (largest - terms.exponent)
    magnitude = np.abs(terms.significand)
    kept = (magnitude << np.maximum(shift, 0)) >> np.clip(-shift, 0, 62)
    return np.where(terms.significand < 0, -kept, kept), largest


def round_sum(total: NDArray[np.int64], unit_exponent: NDArray[np.int64], output: Output) -> NDArray:
    """The number total * 2**unit_exponent in the output's format; a zero is +0, and too large is Inf."""
    magnitude = np.abs(total)
    length = np.frexp(magnitude.astype(np.float64))[1]  # bits; exact, below 2**53
    too_many = length - (output.fraction_bits + 1)
    too_low = output.smallest_exponent - output.fraction_bits - unit_exponent
    drop = np.clip(np.maximum(too_many, too_low), 0, 62)
    kept = magnitude >> drop
    if output.nearest:
        rest, half = magnitude - (kept << drop), (np.int64(1) << drop) >> 1
        kept += (drop > 0) & ((rest > half) | ((rest == half) & (kept & 1 == 1)))
    with np.errstate(over="ignore"):
        value = np.ldexp(np.where(total < 0, -kept, kept).astype(np.float64), unit_exponent + drop)
        return value.astype(output.dtype)


def add_terms(terms: Terms, unit: Accumulator) -> NDArray:
    """One step: the sum of the terms along the last axis, as the unit writes it."""
    integers, largest = align(terms, unit.fraction_bits)
    result = round_sum(integers.sum(axis=-1), (largest - unit.fraction_bits)[..., 0], unit.output)
    if not (terms.nan.any() or terms.inf.any()):
        return result
    positive = (terms.inf & (terms.significand > 0)).any(axis=-1)
    negative = (terms.inf & (terms.significand < 0)).any(axis=-1)
    result[positive] = np.inf
    result[negative] = -np.inf
    return _with_nan(result, terms.nan.any(axis=-1) | (positive & negative))


def _with_nan(result: NDArray, nan: NDArray[np.bool_]) -> NDArray:
    """The result with the tensor core's NaN where `nan` says so."""
    if result.dtype == np.float16:
        result.view(np.uint16)[nan] = NAN16
    else:
        result.view(np.uint32)[nan] = NAN32
    return result


class LongSum:
    """Dot products along the last axis, as one kind of instruction forms them: checked operands, then step by step.

    Parameters
    ----------
    unit : str or Accumulator
    a, b : code arrays (..., K), whose leading axes broadcast
        Bit patterns (see `operands.as_codes`).
    a_format, b_format : str, optional
        Formats of the two sides; by default the first that the unit takes.
    scale_a, scale_b : uint8 arrays (..., ceil(K / block)), for units with block scales
        Codes; the sign bit of an E4M3 scale is ignored.
    scale_format : str, optional
        `e8m0` or `ue4m3`; by default the first that the unit takes.
    scale_block : int, optional
        Elements of one scale; by default the first that the unit takes with that format.

    Raises
    ------
    UnknownNameError, FormatError, ShapeError, DtypeError
        What no source describes is refused.
    """

    def __init__(
        self,
        unit: str | Accumulator,
        a: NDArray,
        b: NDArray,
        *,
        a_format: str | None = None,
        b_format: str | None = None,
        scale_a: NDArray | None = None,
        scale_b: NDArray | None = None,
        scale_format: str | None = None,
        scale_block: int | None = None,
    ) -> None:
        self.unit = get_accumulator(unit)
        self.a = take_apart(a, self.unit.operand(a_format))
        self.b = take_apart(b, self.unit.operand(b_format))
        self.length = self.a.significand.shape[-1]
        if self.length != self.b.significand.shape[-1]:
            raise ShapeError(f"a has {self.length} elements to sum over, b has {self.b.significand.shape[-1]}")
        self._take_scales(scale_a, scale_b, scale_format, scale_block)
        self.shape = np.broadcast_shapes(self.a.significand.shape[:-1], self.b.significand.shape[:-1])

    def _take_scales(
        self, scale_a: NDArray | None, scale_b: NDArray | None, name: str | None, block: int | None
    ) -> None:
        unit = self.unit
        if not unit.scales:
            if scale_a is not None or scale_b is not None or name is not None or block is not None:
                raise FormatError(f"{unit.name} multiplies without block scales")
            self.scale_a = self.scale_b = None
            return
        fitting = [(f, n) for f, n in unit.scales if name in (None, f) and block in (None, n)]
        if not fitting:
            known = ", ".join(f"{f} for {n}" for f, n in unit.scales)
            raise FormatError(f"{unit.name} has no scales of format {name} for blocks of {block}; it has {known}")
        self.scale_format, self.block = fitting[0]
        if scale_a is None or scale_b is None:
            raise FormatError(f"{unit.name} needs block scales on both sides: pass scale_a= and scale_b=, codes")
        if self.length % self.block:
            raise ShapeError(
                f"K is {self.length}, no whole number of blocks of {self.block}; fill up with zeros, as software does"
            )
        self.scale_a, self.scale_b = (self._scale(scale, side) for scale, side in ((scale_a, "a"), (scale_b, "b")))

    def _scale(self, scale: NDArray, side: str) -> Parts:
        codes = np.asarray(scale)
        if codes.dtype == np.uint8 and self.scale_format == "ue4m3":
            codes = codes & np.uint8(0x7F)
        if codes.shape[-1:] != (self.length // self.block,):
            raise ShapeError(
                f"scale_{side} has shape {codes.shape}; K = {self.length} in blocks of {self.block} needs "
                f"{self.length // self.block} along its last axis"
            )
        return take_apart(codes, SCALES[self.scale_format])

    def terms(self, start: int, stop: int) -> Terms:
        """What is added of the elements start to stop, without c."""
        unit, zero = self.unit, self.unit.zero_exponent
        a, b = (_part(side, slice(start, stop)) for side in (self.a, self.b))
        if self.scale_a is None:
            return products(a, b, zero)
        blocks = slice(start // self.block, -(-stop // self.block))
        scales = [_part(scale, blocks) for scale in (self.scale_a, self.scale_b)]
        if unit.group == 1:
            return scale_products(products(a, b, zero), *scales, self.block, zero)
        repeat = self.block // unit.group
        return groups(a, b, *(_repeated(scale, repeat) for scale in scales), unit)

    def steps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The first and last element of each step of a span."""
        ends = range(start, stop, self.unit.terms)
        return [(at, min(at + self.unit.terms, stop)) for at in ends]

    def span(self, c: NDArray, start: int, stop: int) -> NDArray:
        """The sum of c and the products of the elements start to stop."""
        if self.unit.separate:
            return self._separate_span(c, start, stop)
        for first, last in self.steps(start, stop):
            c = add_terms(self.with_c(self.terms(first, last), c), self.unit)
        return c

    def with_c(self, terms: Terms, c: NDArray) -> Terms:
        """The terms of a step and its accumulator, broadcast to one shape."""
        last = accumulator_term(np.broadcast_to(c, self.shape), self.unit.zero_exponent)
        shape = (*self.shape, terms.significand.shape[-1])
        names = ("significand", "exponent", "nan", "inf")
        return _join(Terms(*(np.broadcast_to(getattr(terms, name), shape) for name in names)), last)

    def _separate_span(self, c: NDArray, start: int, stop: int) -> NDArray:
        for at in range(start, stop, self.unit.separate):
            partial = np.zeros(self.shape, np.float32)
            for first, last in self.steps(at, min(at + self.unit.separate, stop)):
                partial = add_terms(self.with_c(self.terms(first, last), partial), self.unit)
            c = add_float32(c, partial)
        return c


def add_float32(c: NDArray, partial: NDArray) -> NDArray:
    """A float32 addition outside the tensor core, to nearest even."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.asarray(c, np.float32) + partial
    return _with_nan(np.atleast_1d(total), np.isnan(np.atleast_1d(total))).reshape(total.shape)


def _part(parts: Parts, where: slice) -> Parts:
    fields = (parts.significand, parts.exponent, parts.nan, parts.inf)
    significand, exponent, nan, inf = (field[..., where] for field in fields)
    return Parts(significand, exponent, parts.fraction_bits, nan, inf)


def _repeated(parts: Parts, times: int) -> Parts:
    fields = (parts.significand, parts.exponent, parts.nan, parts.inf)
    significand, exponent, nan, inf = (np.repeat(field, times, axis=-1) for field in fields)
    return Parts(significand, exponent, parts.fraction_bits, nan, inf)


def dot(
    unit: str | Accumulator,
    a: NDArray,
    b: NDArray,
    c: NDArray | float | None = None,
    *,
    promote: int | None = None,
    **formats: object,
) -> NDArray:
    """The sums over the last axis of a * b, plus c, in the bits that a tensor core gives.

    Parameters
    ----------
    unit : str or Accumulator
        A name in `ACCUMULATORS`, or a record.
    a, b : code arrays (..., K), whose leading axes broadcast
    c : float32 array (float16 where the output is), optional
        The accumulator to begin with; 0 by default. Volta takes a float16 one for fp32 outputs too.
    promote : int, optional
        Partial sums of so many products begin at zero and are added up in float32, to nearest even, outside the core
        (DeepSeek-V3, arXiv:2412.19437, section 3.3: 128). A multiple of the unit's `terms`.
    **formats
        `a_format`, `b_format`, `scale_a`, `scale_b`, `scale_format`, `scale_block` of `LongSum`.

    Returns
    -------
    float32 (float16) array of the broadcast leading axes. Its NaN is the tensor core's, 0x7FFFFFFF (0x7FFF).

    Raises
    ------
    UnknownNameError, FormatError, ShapeError, DtypeError

    Examples
    --------
    >>> from vbw_np.formats import E4M3
    >>> ones = E4M3.encode(np.ones(4096, np.float32))
    >>> float(dot("hopper-fp8", ones, ones)), float(dot("blackwell-f8f6f4", ones, ones))
    (4096.0, 4096.0)
    """
    total = LongSum(unit, a, b, **formats)  # type: ignore[arg-type]
    record = total.unit
    c = np.zeros((), record.output.dtype) if c is None else np.asarray(c)
    if c.dtype.name not in record.accumulators:
        raise FormatError(f"c has dtype {c.dtype.name}; {record.name} takes {' or '.join(record.accumulators)}")
    if promote is None:
        result = total.span(np.broadcast_to(c, total.shape), 0, total.length)
        return np.array(result, record.output.dtype)
    check_promotion(record, promote)
    result = np.broadcast_to(c, total.shape).astype(np.float32)
    for at in range(0, total.length, promote):
        partial = total.span(np.zeros(total.shape, np.float32), at, min(at + promote, total.length))
        result = add_float32(result, partial)
    return result


def check_promotion(unit: Accumulator, promote: int) -> None:
    """Refuse partial sums that are no whole number of steps, or whose output is not float32."""
    if unit.output.dtype != "float32":
        raise FormatError(f"{unit.name} writes fp16; partial sums are promoted to float32 from float32")
    if promote < 1 or promote % unit.terms:
        raise FormatError(
            f"promote is {promote}; partial sums are of whole steps, a multiple of {unit.terms} for {unit.name}"
        )


AT_ONCE = 1 << 18
"""Terms that `matmul` forms at once."""


def matmul(
    unit: str | Accumulator, a: NDArray, b: NDArray, *, promote: int | None = None, **formats: NDArray
) -> NDArray:
    """All dot products of the rows of a (M, K) with the rows of b (N, K), to (M, N); see `dot`. Slow."""
    record, (count, _), columns = get_accumulator(unit), a.shape, b.shape[0]
    scale_a, scale_b = (formats.pop(name, None) for name in ("scale_a", "scale_b"))
    result = np.zeros((count, columns), record.output.dtype)
    rows = max(1, AT_ONCE // max(1, record.terms * columns))
    for first in range(0, count, rows):
        part = slice(first, first + rows)
        scales = {} if scale_a is None else {"scale_a": scale_a[part, None], "scale_b": scale_b[None]}
        result[part] = dot(record, a[part, None], b[None], promote=promote, **scales, **formats)
    return result
