"""Quantizing to FP4, 16 lanes at a time, as vector IR without any instruction of one CPU: LLVM fits it to all.

The arithmetic is that of `vbw_np.formats` operation by operation (see `formats.scales`), so the bits are equal.

- *Rounding to nearest even* is done by the float adder: adding 1.5 * 2**(e + 22), where e is the exponent of the
  quotient but at least 0, leaves room for exactly one mantissa bit below e; subtracting it gives the rounded value.
- *Stochastic rounding* truncates by the same means and compares the exact fraction with 24 bits of the
  counter-based hash of `formats.random_bits`.
- *Rows*: a block is contiguous; its amax is a horizontal maximum. *Columns* (the transpose of the source): 16
  columns are 16 lanes, a block runs down the rows, nothing is horizontal, and the 16-point Hadamard transform of a
  block is butterflies between registers.

The words of a `Variant` say what to do: a scale rule, then options, for example `te+stochastic+hadamard`; its block is
the block length. The rule `int8` rounds rows to 8-bit integers (`gemv`).
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ..simd.intrinsics import F32, I8, I16, I32, I64, Emitter, vec
from ..simd.variant import Variant, variant_intrinsic

W = 16
INT, FLOAT, BYTES = vec(I32, W), vec(F32, W), vec(I8, W)
AHEAD = 8192
"""Bytes of a row that are fetched ahead of those that are read: the CPU by itself fetches too late to keep up."""

RUN = 64
"""Rows of a strip of 16 columns that are quantized before the next strip."""

_MAX_BITS, _INF_BITS, _NAN_BITS = 0x7F7FFFFF, 0x7F800000, 0x7FC00000


class Lanes(Emitter):
    """16-lane arithmetic on top of the emitter."""

    def i(self, value: int) -> ir.Constant:
        """An int32 vector constant."""
        return self.const(INT, value)

    def f(self, value: float) -> ir.Constant:
        """A float32 vector constant."""
        return self.const(FLOAT, value)

    def bits(self, x: ir.Value) -> ir.Value:
        """The bits of floats."""
        return self.b.bitcast(x, INT)

    def float(self, u: ir.Value) -> ir.Value:
        """Floats of bits."""
        return self.b.bitcast(u, FLOAT)

    def imax(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Signed maximum."""
        return self.b.select(self.b.icmp_signed(">", x, y), x, y)

    def imin(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Signed minimum."""
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def fmin(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x where x < y, else y (so NaN gives y)."""
        return self.b.select(self.b.fcmp_ordered("<", x, y), x, y)

    def fmax(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x where x > y, else y."""
        return self.b.select(self.b.fcmp_ordered(">", x, y), x, y)

    def magnitude(self, x: ir.Value) -> ir.Value:
        """The bits of |x|: their order is that of the numbers, with NaN above all."""
        return self.b.and_(self.bits(x), self.i(0x7FFFFFFF))


# ---- scales --------------------------------------------------------------------------------------------------


def scales_of(e: Lanes, rule: str, amax: ir.Value, encode: ir.Value, decode: ir.Value) -> tuple[ir.Value, ...]:
    """Of 16 blocks: stored bytes (int32 lanes), what elements are multiplied by, and half the decoded scales.

    amax: bits. encode, decode: S * (1/6) and 1/S, for the rule `te`. The rule `int8` stores no bytes, and its scale is
    the whole one: the least power of two not below amax / 127 (`gemv.quantize_left_int8`).
    """
    b = e.b
    nonfinite = b.icmp_signed(">", amax, e.i(_MAX_BITS))
    nan = e.float(e.i(_NAN_BITS))
    if rule == "te":
        scale = e.fmin(b.fmul(e.float(amax), encode), e.f(448.0))
        u = e.bits(scale)
        odd = b.and_(b.lshr(u, e.i(20)), e.i(1))
        normal = b.sub(b.lshr(b.add(b.add(u, e.i(0x7FFFF)), odd), e.i(20)), e.i(960))
        fixed = b.fsub(b.fadd(scale, e.f(16384.0)), e.f(16384.0))  # a multiple of 2**-9, ties to even
        small = b.fptosi(b.fmul(fixed, e.f(512.0)), INT)
        code = b.select(b.fcmp_ordered("<", scale, e.f(2.0**-6)), small, normal)
        code = b.select(nonfinite, e.i(0x7F), code)
        normal_value = e.float(b.add(b.shl(code, e.i(20)), e.i(120 << 23)))
        small_value = b.fmul(b.sitofp(code, FLOAT), e.f(2.0**-9))
        value = b.select(b.icmp_signed("<", code, e.i(8)), small_value, normal_value)
        value = b.select(nonfinite, nan, value)
        factor = e.fmin(b.fdiv(e.f(1.0), b.fmul(value, decode)), e.float(e.i(_MAX_BITS)))
        return code, factor, b.fmul(value, e.f(0.5))
    if rule == "int8":
        share = e.bits(b.fdiv(e.float(amax), e.f(127.0)))
        exponent = e.imin(e.imax(b.lshr(b.add(share, e.i(0x7FFFFF)), e.i(23)), e.i(1)), e.i(254))
        inverse = e.imax(b.shl(b.sub(e.i(254), exponent), e.i(23)), e.i(0x00400000))
        scale, factor = e.float(b.shl(exponent, e.i(23))), e.float(inverse)
        return e.i(0), b.select(nonfinite, nan, factor), b.select(nonfinite, nan, scale)
    if rule == "mx-floor":
        code = e.imax(b.sub(b.lshr(amax, e.i(23)), e.i(2)), e.i(0))
    else:
        u = e.bits(b.fdiv(e.float(amax), e.f(6.0)))
        exponent, mantissa = b.lshr(u, e.i(23)), b.and_(u, e.i(0x7FFFFF))
        up = b.zext(b.icmp_signed("!=", mantissa, e.i(0)), INT)
        tiny = b.zext(b.icmp_signed(">", mantissa, e.i(0x400000)), INT)
        code = e.imin(b.select(b.icmp_signed("==", exponent, e.i(0)), tiny, b.add(exponent, up)), e.i(252))
    factor = b.select(nonfinite, nan, e.float(b.shl(b.sub(e.i(254), code), e.i(23))))
    subnormal = b.shl(e.i(0x00200000), code)
    half = b.select(b.icmp_signed("<", code, e.i(2)), subnormal, b.shl(b.sub(code, e.i(1)), e.i(23)))
    return b.select(nonfinite, e.i(255), code), factor, b.select(nonfinite, nan, e.float(half))


def _emit_scales(variant: Variant, e0: Emitter, amax, vectors, encode, decode, codes, factors, halves) -> None:  # type: ignore[no-untyped-def]
    """Arrays of amax bits to bytes, factors and half scales; encode and decode are addresses of one float each."""
    e = Lanes(e0.b)
    rule = variant.words[0]
    enc, dec = (e.splat(e.load(F32, at), W) for at in (encode, decode))

    def body(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        code, factor, half = scales_of(e, rule, e.load(INT, e.at(amax, e.times(i, 64))), enc, dec)
        e.store(e.b.trunc(code, BYTES), e.at(codes, e.times(i, 16)))
        e.store(factor, e.at(factors, e.times(i, 64)))
        e.store(half, e.at(halves, e.times(i, 64)))
        return []

    e.loop(vectors, [], body)


# ---- elements ------------------------------------------------------------------------------------------------


def round_even(e: Lanes, q: ir.Value) -> ir.Value:
    """Twice the nearest E2M1 value, int32 lanes."""
    q = e.fmin(e.fmax(q, e.f(-6.0)), e.f(6.0))
    exponent = e.imax(e.b.and_(e.bits(q), e.i(0x7F800000)), e.i(127 << 23))
    magic = e.float(e.b.or_(e.b.add(exponent, e.i(22 << 23)), e.i(0x400000)))
    rounded = e.b.fsub(e.b.fadd(q, magic), magic)
    return e.b.fptosi(e.b.fadd(rounded, rounded), INT)


def round_stochastic(e: Lanes, q: ir.Value, random: ir.Value) -> ir.Value:
    """Twice an E2M1 neighbour of q: up in magnitude where the 24-bit uniform is below the fraction.

    In steps of the local grid, 2**(exponent - 1), every operation but the comparison is exact.
    """
    b = e.b
    m = e.fmin(e.float(e.magnitude(q)), e.f(6.0))
    exponent = e.imax(b.and_(e.bits(m), e.i(0x7F800000)), e.i(127 << 23))
    steps = b.fmul(m, e.float(b.sub(e.i(255 << 23), exponent)))
    whole = e.call("llvm.floor.v16f32", FLOAT, steps)
    uniform = b.fmul(b.sitofp(b.lshr(random, e.i(8)), FLOAT), e.f(2.0**-24))
    up = b.fcmp_ordered("<", uniform, b.fsub(steps, whole))
    rounded = b.fadd(whole, b.select(up, e.f(1.0), e.f(0.0)))
    doubled = b.fptosi(b.fmul(rounded, e.float(exponent)), INT)
    return b.select(b.icmp_signed("<", e.bits(q), e.i(0)), b.sub(e.i(0), doubled), doubled)


def round_int8(e: Lanes, q: ir.Value) -> ir.Value:
    """The nearest integer, ties to even, int32 lanes; 0 for NaN. For |q| <= 127.5."""
    q = e.b.select(e.b.fcmp_ordered("==", q, q), q, e.f(0.0))
    return e.b.fptosi(e.call("llvm.rint.v16f32", FLOAT, q), INT)


class RandomBits:
    """32 random bits a lane by an element's flat index, as `formats.random_bits.hash_bits`.

    An index has 64 bits. Its low half is counted up from where a block begins; the rare carry raises the other half.
    """

    def __init__(self, e: Lanes, first: ir.Value, stride: ir.Value | None, keys: tuple[ir.Value, ir.Value]):
        """Indices first + stride * lane; stride None: 1."""
        b = e.b
        key1, key2 = (e.splat(b.trunc(key, I32), W) for key in keys)
        lanes = e.const(INT, list(range(W)))
        if stride is None:
            start = e.splat(b.trunc(first, I32), W)
            low = b.add(start, lanes)
            high = e.splat(b.trunc(b.lshr(first, e.int(32)), I32), W)
            high = b.add(high, b.zext(b.icmp_unsigned("<", low, start), INT))
        else:
            wide = vec(I64, W)
            index = b.add(e.splat(first, W), b.mul(e.splat(stride, W), e.const(wide, list(range(W)))))
            low, high = b.trunc(index, INT), b.trunc(b.lshr(index, e.const(wide, 32)), INT)
        self.e, self.low, self.key1 = e, low, key1
        self.high = b.add(key2, b.mul(high, e.i(0xC2B2AE35)))

    def __call__(self, offset: int) -> ir.Value:
        """Of the indices `offset` (below 2**32) further on."""
        e, b = self.e, self.e.b

        def mix(h: ir.Value) -> ir.Value:
            h = b.mul(b.xor(h, b.lshr(h, e.i(16))), e.i(0x7FEB352D))
            h = b.mul(b.xor(h, b.lshr(h, e.i(15))), e.i(0x846CA68B))
            return b.xor(h, b.lshr(h, e.i(16)))

        low, high = b.add(self.low, e.i(offset)), self.high
        if offset:
            carry = b.icmp_unsigned("<", low, self.low)
            high = b.select(carry, b.add(high, e.i(0xC2B2AE35)), high)
        return mix(b.add(mix(b.xor(low, self.key1)), high))


def nibble(e: Lanes, doubled: ir.Value) -> ir.Value:
    """The E2M1 code of doubled values: magnitude min(a, (a + 4) / 2, (a + 16) / 4), and the sign bit."""
    b = e.b
    negative = b.icmp_signed("<", doubled, e.i(0))
    a = b.select(negative, b.sub(e.i(0), doubled), doubled)
    code = e.imin(a, e.imin(b.lshr(b.add(a, e.i(4)), e.i(1)), b.lshr(b.add(a, e.i(16)), e.i(2))))
    return b.or_(code, b.select(negative, e.i(8), e.i(0)))


def _is_stochastic(variant: Variant) -> bool:
    return "stochastic" in variant.words


# ---- along rows ----------------------------------------------------------------------------------------------


def _pairs(e: Lanes, combine: Callable[[ir.Value, ir.Value], ir.Value], a: ir.Value, b: ir.Value) -> ir.Value:
    """Each two neighbours combined: eight of a, then eight of b."""
    even, odd = (e.b.shuffle_vector(a, b, e.const(INT, list(range(first, 2 * W, 2)))) for first in (0, 1))
    return combine(even, odd)


def _emit_row_amax(variant: Variant, e0: Emitter, x, blocks, amax) -> None:  # type: ignore[no-untyped-def]
    """The amax bits of each block of a row, int32: eight blocks at a time, then what is left one by one."""
    e = Lanes(e0.b)

    def lanes_of(block: ir.Value, number: int) -> ir.Value:
        """The larger magnitudes of the sixteens of a block."""
        top = None
        for part in range(variant.block // W):
            at = e.at(x, e.times(block, variant.block * 4), number * variant.block * 4 + part * 64)
            e.prefetch(e.at(at, AHEAD))
            m = e.magnitude(e.load(FLOAT, at))
            top = m if top is None else e.imax(top, m)
        return top

    def eight_blocks(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        first = e.times(i, 8)
        tops = [lanes_of(first, number) for number in range(8)]
        while len(tops) > 1:
            tops = [_pairs(e, e.imax, a, b) for a, b in zip(tops[::2], tops[1::2], strict=True)]
        top = _pairs(e, e.imax, tops[0], tops[0])
        low = e.b.shuffle_vector(top, top, e.const(vec(I32, 8), list(range(8))))
        e.store(low, e.at(amax, e.times(i, 32)))
        return []

    def one_block(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        top = lanes_of(i, 0)
        for _round in range(4):
            top = _pairs(e, e.imax, top, top)
        e.store(e.b.extract_element(top, e.int(0, I32)), e.at(amax, e.times(i, 4)))
        return []

    eights = e.b.lshr(blocks, e.int(3))
    e.loop(eights, [], eight_blocks)
    e.loop(blocks, [], one_block, start=e.times(eights, 8))


def _row_values(variant: Variant, e: Lanes, x, factors, index, key1, key2) -> Callable[[ir.Value], list[ir.Value]]:  # type: ignore[no-untyped-def]
    """A function from a block's number in the row to the doubled values of its sixteens."""
    nearest = round_int8 if variant.words[0] == "int8" else round_even

    def values(i: ir.Value) -> list[ir.Value]:
        factor = e.splat(e.load(F32, e.at(factors, e.times(i, 4))), W)
        random = None
        if _is_stochastic(variant):
            random = RandomBits(e, e.at(index, e.times(i, variant.block)), None, (key1, key2))
        doubled = []
        for part in range(variant.block // W):
            q = e.b.fmul(e.load(FLOAT, e.at(x, e.times(i, variant.block * 4), part * 64)), factor)
            doubled.append(round_stochastic(e, q, random(part * W)) if random else nearest(e, q))
        return doubled

    return values


def _emit_row_left(variant: Variant, e0: Emitter, x, factors, blocks, out, sums, index, key1, key2) -> None:  # type: ignore[no-untyped-def]
    """Blocks of a row to int8 doubled values, and the sum of each block's as int16; eight blocks, then one by one.

    Eight sums across vectors cost little more than one. (Random bits are so long that one copy of them is enough.)
    """
    e = Lanes(e0.b)
    values = _row_values(variant, e, x, factors, index, key1, key2)

    def store(i: ir.Value) -> ir.Value:
        """Stores a block's values; the sums of each lane."""
        total = None
        for part, doubled in enumerate(values(i)):
            e.store(e.b.trunc(doubled, BYTES), e.at(out, e.times(i, variant.block), part * W))
            total = doubled if total is None else e.b.add(total, doubled)
        return total

    def eight_blocks(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        first = e.times(i, 8)
        totals = [store(e.at(first, number)) for number in range(8)]
        while len(totals) > 1:
            totals = [_pairs(e, e.b.add, a, b) for a, b in zip(totals[::2], totals[1::2], strict=True)]
        total = _pairs(e, e.b.add, totals[0], totals[0])
        low = e.b.shuffle_vector(total, total, e.const(vec(I32, 8), list(range(8))))
        e.store(e.b.trunc(low, vec(I16, 8)), e.at(sums, e.times(first, 2)))
        return []

    def one_block(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        total = e.call("llvm.vector.reduce.add.v16i32", I32, store(i))
        e.store(e.b.trunc(total, I16), e.at(sums, e.times(i, 2)))
        return []

    eights = e.int(0) if _is_stochastic(variant) else e.b.lshr(blocks, e.int(3))
    if not _is_stochastic(variant):
        e.loop(eights, [], eight_blocks)
    e.loop(blocks, [], one_block, start=e.times(eights, 8))


def _emit_row_right(variant: Variant, e0: Emitter, x, factors, blocks, out, index, key1, key2) -> None:  # type: ignore[no-untyped-def]
    """Blocks of a row to its places in a panel: 4 bytes (8 codes) in every 64."""
    e = Lanes(e0.b)
    pair = vec(I32, 2)
    values = _row_values(variant, e, x, factors, index, key1, key2)

    def body(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        for part, doubled in enumerate(values(i)):
            words = e.b.bitcast(e.b.trunc(nibble(e, doubled), BYTES), vec(I32, 4))
            none = ir.Constant(words.type, ir.Undefined)
            low, high = (e.b.shuffle_vector(words, none, e.const(pair, [k, k + 2])) for k in (0, 1))
            packed = e.b.or_(low, e.b.shl(high, e.const(pair, 4)))
            for k in range(2):
                word = e.b.extract_element(packed, e.int(k, I32))
                e.store(word, e.at(out, e.times(i, variant.block * 8), (part * 2 + k) * 64))
        return []

    e.loop(blocks, [], body)


# ---- down columns --------------------------------------------------------------------------------------------


def _block_columns(variant: Variant, e: Lanes, x, stride, i, signs) -> list[ir.Value]:  # type: ignore[no-untyped-def]
    """A block's rows of 16 columns; with the Hadamard transform along the block where the mode says so.

    Rows lie far apart, so the CPU does not see which come next: those `RUN` further down are fetched ahead.
    """
    ahead = e.at(x, e.times(stride, RUN))
    for k in range(variant.block):
        e.prefetch(e.at(ahead, e.times(stride, e.at(e.times(i, variant.block), k))))
    rows = [e.load(FLOAT, e.at(x, e.times(stride, e.at(e.times(i, variant.block), k)))) for k in range(variant.block)]
    if "hadamard" not in variant.words:
        return rows
    for first in range(0, variant.block, 16):
        part = []
        for k in range(16):
            bit = e.b.shl(e.b.and_(e.b.lshr(signs, e.int(k)), e.int(1)), e.int(31))
            flip = e.splat(e.b.trunc(bit, I32), W)
            flipped = e.float(e.b.xor(e.bits(rows[first + k]), flip))
            part.append(e.b.fmul(flipped, e.f(0.25)))  # before the sums, so that these do not overflow
        for span in (1, 2, 4, 8):
            for k in range(16):
                if not k & span:
                    low, high = part[k], part[k + span]
                    part[k], part[k + span] = e.b.fadd(low, high), e.b.fsub(low, high)
        rows[first : first + 16] = part
    return rows


def _emit_column_amax(variant: Variant, e0: Emitter, x, stride, blocks, signs, out) -> None:  # type: ignore[no-untyped-def]
    """The amax bits of 16 columns, int32 (16): raises what `out` holds."""
    e = Lanes(e0.b)

    def body(i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        (top,) = carried
        for value in _block_columns(variant, e, x, stride, i, signs):
            top = e.imax(top, e.magnitude(value))
        return [top]

    e.store(e.loop(blocks, [e.load(INT, out)], body)[0], out)


def _column_values(variant: Variant, e: Lanes, x, stride, i, signs, encode, decode, index, length, key1, key2):  # type: ignore[no-untyped-def]
    """Block i of 16 columns: scale bytes, half scales, and the doubled values of each of its rows."""
    rows = _block_columns(variant, e, x, stride, i, signs)
    amax = e.i(0)
    for value in rows:
        amax = e.imax(amax, e.magnitude(value))
    code, factor, half = scales_of(e, variant.words[0], amax, e.load(FLOAT, encode), e.load(FLOAT, decode))
    random = None
    if _is_stochastic(variant):
        random = RandomBits(e, e.at(index, e.times(i, variant.block)), length, (key1, key2))
    doubled = []
    for k, value in enumerate(rows):
        q = e.b.fmul(value, factor)
        doubled.append(round_stochastic(e, q, random(k)) if random else round_even(e, q))
    return code, half, doubled


def _emit_column_right(variant: Variant, e0, x, stride, blocks, signs, encode, decode, index, length, key1, key2, out, scales) -> None:  # type: ignore[no-untyped-def]  # noqa: E501
    """16 columns to one panel: codes [K/8][16][4] and scale bytes [blocks][16]."""
    e = Lanes(e0.b)

    def body(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        code, _half, doubled = _column_values(
            variant, e, x, stride, i, signs, encode, decode, index, length, key1, key2
        )
        for group in range(variant.block // 8):
            word = None
            for k in range(8):
                shift = 8 * (k % 4) + (4 if k >= 4 else 0)
                part = e.b.shl(nibble(e, doubled[group * 8 + k]), e.i(shift))
                word = part if word is None else e.b.or_(word, part)
            e.store(word, e.at(out, e.times(i, variant.block * 8), group * 64))
        e.store(e.b.trunc(code, BYTES), e.at(scales, e.times(i, 16)))
        return []

    e.loop(blocks, [], body)


def _emit_column_left(variant: Variant, e0, x, stride, blocks, signs, encode, decode, index, length, key1, key2, out, out_stride, scales, scales_stride, sums) -> None:  # type: ignore[no-untyped-def]  # noqa: E501
    """16 columns to 16 rows of int8 doubled values, of half scales and of the blocks' sums as int16."""
    e = Lanes(e0.b)
    sums_stride = e.b.lshr(scales_stride, e.int(1))

    def body(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        _code, half, doubled = _column_values(
            variant, e, x, stride, i, signs, encode, decode, index, length, key1, key2
        )
        lines = variant.block // 4  # of the rows' next 64 bytes, a share with each block
        row = e.times(e.b.and_(i, e.int(RUN // variant.block - 1)), lines)
        ahead = e.at(out, e.times(out_stride, row), e.times(i, variant.block), RUN)
        for line in range(lines):
            e.prefetch(e.at(ahead, e.times(out_stride, line)), write=True)
        for first in range(0, variant.block, 16):
            words = []
            for quad in range(first, first + 16, 4):  # 4 consecutive k of a column: one int32 lane
                word = None
                for k in range(4):
                    byte = e.b.and_(doubled[quad + k], e.i(255)) if k < 3 else doubled[quad + k]
                    part = e.b.shl(byte, e.i(8 * k))
                    word = part if word is None else e.b.or_(word, part)
                words.append(word)
            for lane, row in enumerate(_transpose_words(e, words)):
                e.store(row, e.at(out, e.times(out_stride, lane), e.times(i, variant.block), first), align=1)
        total = doubled[0]
        for values in doubled[1:]:
            total = e.b.add(total, values)
        total = e.b.trunc(total, vec(I16, W))
        for lane in range(W):
            value = e.b.extract_element(half, e.int(lane, I32))
            e.store(value, e.at(scales, e.times(scales_stride, lane), e.times(i, 4)))
            value = e.b.extract_element(total, e.int(lane, I32))
            e.store(value, e.at(sums, e.times(sums_stride, lane), e.times(i, 2)))
        return []

    e.loop(blocks, [], body)


def _transpose_words(e: Lanes, words: list[ir.Value]) -> list[ir.Value]:
    """Four vectors of 16 words to 16 vectors of four: 4 x 4 transposes within 128 bits, then their quarters."""

    def mix(x: ir.Value, y: ir.Value, pattern: list[int]) -> ir.Value:
        mask = [4 * quarter + (p if p < 4 else p - 4 + W) for quarter in range(4) for p in pattern]
        return e.b.shuffle_vector(x, y, e.const(INT, mask))

    low01, high01 = mix(words[0], words[1], [0, 4, 1, 5]), mix(words[0], words[1], [2, 6, 3, 7])
    low23, high23 = mix(words[2], words[3], [0, 4, 1, 5]), mix(words[2], words[3], [2, 6, 3, 7])
    columns = [mix(low01, low23, [0, 1, 4, 5]), mix(low01, low23, [2, 3, 6, 7])]
    columns += [mix(high01, high23, [0, 1, 4, 5]), mix(high01, high23, [2, 3, 6, 7])]
    none = ir.Constant(INT, ir.Undefined)
    rows = []
    for lane in range(W):
        quarter, place = divmod(lane, 4)
        mask = e.const(vec(I32, 4), list(range(4 * quarter, 4 * quarter + 4)))
        rows.append(e.b.shuffle_vector(columns[place], none, mask))
    return rows


make_scales = variant_intrinsic(7, _emit_scales)
"""`make_scales(mode, amax, vectors of 16, encode, decode, bytes, factors, halves)`."""

row_amax = variant_intrinsic(3, _emit_row_amax)
"""`row_amax(mode, x, blocks, amax bits)`."""

row_left = variant_intrinsic(8, _emit_row_left)
"""`row_left(mode, x, factors, blocks, out, sums, index of the first element, key1, key2)`."""

row_right = variant_intrinsic(7, _emit_row_right)
"""`row_right(mode, ...)`, as `row_left` without sums; out is the row's first word in its panel."""

column_amax = variant_intrinsic(5, _emit_column_amax)
"""`column_amax(mode, x, stride, blocks, signs, out)`: 16 columns."""

column_right = variant_intrinsic(12, _emit_column_right)
"""`column_right(mode, x, stride, blocks, signs, encode, decode, index, length, key1, key2, codes, scale bytes)`."""

column_left = variant_intrinsic(15, _emit_column_left)
"""`column_left(mode, ..., key2, out, out_stride, scales, scales_stride, sums)`."""
