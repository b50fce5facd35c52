"""Quantizing to FP4, 16 lanes at a time, as vector IR without any instruction of one CPU: LLVM fits it to all.

The arithmetic is `rounding`'s.

- *Rows*: a block is contiguous; its amax is a horizontal maximum. *Columns* (the transpose of the source): 16
  columns are 16 lanes, a block runs down the rows, nothing is horizontal, and the 16-point Hadamard transform of a
  block is butterflies between registers.

The words of a `Variant` say what to do: a scale rule, then options, for example `te+stochastic+hadamard`; its block is
the block length. The rule `int8` rounds rows to 8-bit integers (`gemv`).
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ...simd.intrinsics import F32, I16, I32, I64, Emitter, vec
from ...simd.variant import Variant, variant_intrinsic
from ...simd.wide import BYTES, FLOAT, INT, WIDTH, Wide
from .rounding import (
    emit_e4m3_value,
    emit_mx_code,
    emit_mx_factor,
    emit_nearest,
    emit_stochastic,
    emit_te_code,
    emit_te_factor,
)

AHEAD = 8192
"""Bytes of a row that are fetched ahead of those that are read: the CPU by itself fetches too late to keep up."""

RUN = 64
"""Rows of a strip of 16 columns that are quantized before the next strip."""

_MAX_BITS, _NAN_BITS = 0x7F7FFFFF, 0x7FC00000


# ---- scales --------------------------------------------------------------------------------------------------


def scales_of(e: Wide, rule: str, amax: ir.Value, encode: ir.Value, decode: ir.Value) -> tuple[ir.Value, ...]:
    """Of 16 blocks: stored bytes (int32 lanes), what elements are multiplied by, and half the decoded scales.

    amax: bits; not finite makes the scale NaN. encode, decode: S * (1/6) and 1/S, for the rule `te`. The rule `int8`
    stores no bytes, and its scale is the whole one: the least power of two not below amax / 127.
    """
    b = e.b
    nonfinite = b.icmp_signed(">", amax, e.i(_MAX_BITS))
    nan = e.float(e.i(_NAN_BITS))
    if rule == "te":
        code = b.select(nonfinite, e.i(0x7F), emit_te_code(e, amax, encode))
        value = b.select(nonfinite, nan, emit_e4m3_value(e, code))
        return code, emit_te_factor(e, value, decode), b.fmul(value, e.f(0.5))
    if rule == "int8":
        share = e.bits(b.fdiv(e.float(amax), e.f(127.0)))
        exponent = e.imin(e.imax(b.lshr(b.add(share, e.i(0x7FFFFF)), e.i(23)), e.i(1)), e.i(254))
        inverse = e.imax(b.shl(b.sub(e.i(254), exponent), e.i(23)), e.i(0x00400000))
        scale, factor = e.float(b.shl(exponent, e.i(23))), e.float(inverse)
        return e.i(0), b.select(nonfinite, nan, factor), b.select(nonfinite, nan, scale)
    code = emit_mx_code(e, rule, amax)
    subnormal = b.shl(e.i(0x00200000), code)
    half = b.select(b.icmp_signed("<", code, e.i(2)), subnormal, b.shl(b.sub(code, e.i(1)), e.i(23)))
    factor = b.select(nonfinite, nan, emit_mx_factor(e, code))
    return b.select(nonfinite, e.i(255), code), factor, b.select(nonfinite, nan, e.float(half))


def _emit_scales(variant: Variant, e0: Emitter, amax, vectors, encode, decode, codes, factors, halves) -> None:  # type: ignore[no-untyped-def]
    """Arrays of amax bits to bytes, factors and half scales; encode and decode are addresses of one float each."""
    e = Wide(e0.b)
    rule = variant.words[0]
    enc, dec = (e.splat(e.load(F32, at), WIDTH) for at in (encode, decode))

    def body(i: ir.Value) -> None:
        code, factor, half = scales_of(e, rule, e.load(INT, e.at(amax, e.times(i, 64))), enc, dec)
        e.store(e.b.trunc(code, BYTES), e.at(codes, e.times(i, 16)))
        e.store(factor, e.at(factors, e.times(i, 64)))
        e.store(half, e.at(halves, e.times(i, 64)))

    e.each(vectors, body)


# ---- elements ------------------------------------------------------------------------------------------------


def round_int8(e: Wide, q: ir.Value) -> ir.Value:
    """The nearest integer, ties to even, int32 lanes; 0 for NaN. For |q| <= 127.5."""
    q = e.b.select(e.b.fcmp_ordered("==", q, q), q, e.f(0.0))
    return e.b.fptosi(e.call("llvm.rint.v16f32", FLOAT, q), INT)


class RandomBits:
    """32 random bits a lane by an element's flat index, as `formats.random_bits.hash_bits`.

    An index has 64 bits. Its low half is counted up from where a block begins; the rare carry raises the other half.
    """

    def __init__(self, e: Wide, first: ir.Value, stride: ir.Value | None, keys: tuple[ir.Value, ir.Value]):
        """Indices first + stride * lane; stride None: 1."""
        b = e.b
        key1, key2 = (e.splat(b.trunc(key, I32), WIDTH) for key in keys)
        lanes = e.const(INT, list(range(WIDTH)))
        if stride is None:
            start = e.splat(b.trunc(first, I32), WIDTH)
            low = b.add(start, lanes)
            high = e.splat(b.trunc(b.lshr(first, e.int(32)), I32), WIDTH)
            high = b.add(high, b.zext(b.icmp_unsigned("<", low, start), INT))
        else:
            wide = vec(I64, WIDTH)
            index = b.add(e.splat(first, WIDTH), b.mul(e.splat(stride, WIDTH), e.const(wide, list(range(WIDTH)))))
            low, high = b.trunc(index, INT), b.trunc(b.lshr(index, e.const(wide, 32)), INT)
        self.e, self.low, self.key1 = e, low, key1
        self.high = b.add(key2, b.mul(high, e.i(0xC2B2AE35)))

    def __call__(self, offset: int) -> ir.Value:
        """Of the indices `offset` (below 2**32) further on."""
        e, b = self.e, self.e.b
        low, high = b.add(self.low, e.i(offset)), self.high
        if offset:
            carry = b.icmp_unsigned("<", low, self.low)
            high = b.select(carry, b.add(high, e.i(0xC2B2AE35)), high)
        return e.mix(b.add(e.mix(b.xor(low, self.key1)), high))


def nibble(e: Wide, doubled: ir.Value) -> ir.Value:
    """The E2M1 code of doubled values: magnitude min(a, (a + 4) / 2, (a + 16) / 4), and the sign bit."""
    b = e.b
    negative = b.icmp_signed("<", doubled, e.i(0))
    a = b.select(negative, b.sub(e.i(0), doubled), doubled)
    code = e.imin(a, e.imin(b.lshr(b.add(a, e.i(4)), e.i(1)), b.lshr(b.add(a, e.i(16)), e.i(2))))
    return b.or_(code, b.select(negative, e.i(8), e.i(0)))


def _is_stochastic(variant: Variant) -> bool:
    return "stochastic" in variant.words


# ---- along rows ----------------------------------------------------------------------------------------------


def _of_eight(e: Wide, combine: Callable[[ir.Value, ir.Value], ir.Value], vectors: list[ir.Value]) -> ir.Value:
    """The sixteen lanes of each of eight vectors combined: eight lanes. This costs little more than one vector's."""
    while len(vectors) > 1:
        vectors = [e.pairs(combine, a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    return e.part(e.pairs(combine, vectors[0], vectors[0]), 0, 8)


def _emit_row_amax(variant: Variant, e0: Emitter, x, blocks, amax) -> None:  # type: ignore[no-untyped-def]
    """The amax bits of each block of a row, int32: eight blocks at a time, then what is left one by one."""
    e = Wide(e0.b)

    def lanes_of(block: ir.Value, number: int) -> ir.Value:
        """The larger magnitudes of the sixteens of a block."""
        top = None
        for part in range(variant.block // WIDTH):
            at = e.at(x, e.times(block, variant.block * 4), number * variant.block * 4 + part * 64)
            e.prefetch(e.at(at, AHEAD))
            m = e.magnitude(e.load(FLOAT, at))
            top = m if top is None else e.imax(top, m)
        return top

    def eight_blocks(i: ir.Value) -> None:
        first = e.times(i, 8)
        tops = [lanes_of(first, number) for number in range(8)]
        e.store(_of_eight(e, e.imax, tops), e.at(amax, e.times(i, 32)))

    def one_block(i: ir.Value) -> None:
        top = lanes_of(i, 0)
        for _round in range(4):
            top = e.pairs(e.imax, top, top)
        e.store(e.b.extract_element(top, e.int(0, I32)), e.at(amax, e.times(i, 4)))

    eights = e.b.lshr(blocks, e.int(3))
    e.each(eights, eight_blocks)
    e.each(blocks, one_block, start=e.times(eights, 8))


def _row_values(variant: Variant, e: Wide, x, factors, index, key1, key2) -> Callable[[ir.Value], list[ir.Value]]:  # type: ignore[no-untyped-def]
    """A function from a block's number in the row to the doubled values of its sixteens."""
    nearest = round_int8 if variant.words[0] == "int8" else emit_nearest

    def values(i: ir.Value) -> list[ir.Value]:
        factor = e.splat(e.load(F32, e.at(factors, e.times(i, 4))), WIDTH)
        random = None
        if _is_stochastic(variant):
            random = RandomBits(e, e.at(index, e.times(i, variant.block)), None, (key1, key2))
        doubled = []
        for part in range(variant.block // WIDTH):
            q = e.b.fmul(e.load(FLOAT, e.at(x, e.times(i, variant.block * 4), part * 64)), factor)
            doubled.append(emit_stochastic(e, q, random(part * WIDTH)) if random else nearest(e, q))
        return doubled

    return values


def _emit_row_left(variant: Variant, e0: Emitter, x, factors, blocks, out, sums, index, key1, key2) -> None:  # type: ignore[no-untyped-def]
    """Blocks of a row to int8 doubled values, and the sum of each block's as int16; eight blocks, then one by one.

    (Random bits are so long that one copy of them is enough.)
    """
    e = Wide(e0.b)
    values = _row_values(variant, e, x, factors, index, key1, key2)

    def store(i: ir.Value) -> ir.Value:
        """Stores a block's values; the sums of each lane."""
        total = None
        for part, doubled in enumerate(values(i)):
            e.store(e.b.trunc(doubled, BYTES), e.at(out, e.times(i, variant.block), part * WIDTH))
            total = doubled if total is None else e.b.add(total, doubled)
        return total

    def eight_blocks(i: ir.Value) -> None:
        first = e.times(i, 8)
        sums_of = _of_eight(e, e.b.add, [store(e.at(first, number)) for number in range(8)])
        e.store(e.b.trunc(sums_of, vec(I16, 8)), e.at(sums, e.times(first, 2)))

    def one_block(i: ir.Value) -> None:
        total = e.call("llvm.vector.reduce.add.v16i32", I32, store(i))
        e.store(e.b.trunc(total, I16), e.at(sums, e.times(i, 2)))

    eights = e.int(0) if _is_stochastic(variant) else e.b.lshr(blocks, e.int(3))
    if not _is_stochastic(variant):
        e.each(eights, eight_blocks)
    e.each(blocks, one_block, start=e.times(eights, 8))


def _emit_row_right(variant: Variant, e0: Emitter, x, factors, blocks, out, index, key1, key2) -> None:  # type: ignore[no-untyped-def]
    """Blocks of a row to its places in a panel: 4 bytes (8 codes) in every 64."""
    e = Wide(e0.b)
    pair = vec(I32, 2)
    values = _row_values(variant, e, x, factors, index, key1, key2)

    def body(i: ir.Value) -> None:
        for part, doubled in enumerate(values(i)):
            words = e.b.bitcast(e.b.trunc(nibble(e, doubled), BYTES), vec(I32, 4))
            none = ir.Constant(words.type, ir.Undefined)
            low, high = (e.b.shuffle_vector(words, none, e.const(pair, [k, k + 2])) for k in (0, 1))
            packed = e.b.or_(low, e.b.shl(high, e.const(pair, 4)))
            for k in range(2):
                word = e.b.extract_element(packed, e.int(k, I32))
                e.store(word, e.at(out, e.times(i, variant.block * 8), (part * 2 + k) * 64))

    e.each(blocks, body)


# ---- down columns --------------------------------------------------------------------------------------------


def _block_columns(variant: Variant, e: Wide, x, stride, i, signs) -> list[ir.Value]:  # type: ignore[no-untyped-def]
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
            flip = e.splat(e.b.trunc(bit, I32), WIDTH)
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
    e = Wide(e0.b)

    def body(i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        (top,) = carried
        for value in _block_columns(variant, e, x, stride, i, signs):
            top = e.imax(top, e.magnitude(value))
        return [top]

    e.store(e.loop(blocks, [e.load(INT, out)], body)[0], out)


def _column_values(variant: Variant, e: Wide, x, stride, i, signs, encode, decode, index, length, key1, key2):  # type: ignore[no-untyped-def]
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
        doubled.append(emit_stochastic(e, q, random(k)) if random else emit_nearest(e, q))
    return code, half, doubled


def _emit_column_right(variant: Variant, e0, x, stride, blocks, signs, encode, decode, index, length, key1, key2, out, scales) -> None:  # type: ignore[no-untyped-def]  # noqa: E501
    """16 columns to one panel: codes [K/8][16][4] and scale bytes [blocks][16]."""
    e = Wide(e0.b)

    def body(i: ir.Value) -> None:
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

    e.each(blocks, body)


def _emit_column_left(variant: Variant, e0, x, stride, blocks, signs, encode, decode, index, length, key1, key2, out, out_stride, scales, scales_stride, sums) -> None:  # type: ignore[no-untyped-def]  # noqa: E501
    """16 columns to 16 rows of int8 doubled values, of half scales and of the blocks' sums as int16."""
    e = Wide(e0.b)
    sums_stride = e.b.lshr(scales_stride, e.int(1))

    def body(i: ir.Value) -> None:
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
        total = e.b.trunc(total, vec(I16, WIDTH))
        for lane in range(WIDTH):
            value = e.b.extract_element(half, e.int(lane, I32))
            e.store(value, e.at(scales, e.times(scales_stride, lane), e.times(i, 4)))
            value = e.b.extract_element(total, e.int(lane, I32))
            e.store(value, e.at(sums, e.times(sums_stride, lane), e.times(i, 2)))

    e.each(blocks, body)


def _transpose_words(e: Wide, words: list[ir.Value]) -> list[ir.Value]:
    """Four vectors of 16 words to 16 vectors of four: 4 x 4 transposes within 128 bits, then their quarters."""

    def mix(x: ir.Value, y: ir.Value, pattern: list[int]) -> ir.Value:
        mask = [4 * quarter + (p if p < 4 else p - 4 + WIDTH) for quarter in range(4) for p in pattern]
        return e.b.shuffle_vector(x, y, e.const(INT, mask))

    low01, high01 = mix(words[0], words[1], [0, 4, 1, 5]), mix(words[0], words[1], [2, 6, 3, 7])
    low23, high23 = mix(words[2], words[3], [0, 4, 1, 5]), mix(words[2], words[3], [2, 6, 3, 7])
    columns = [mix(low01, low23, [0, 1, 4, 5]), mix(low01, low23, [2, 3, 6, 7])]
    columns += [mix(high01, high23, [0, 1, 4, 5]), mix(high01, high23, [2, 3, 6, 7])]
    none = ir.Constant(INT, ir.Undefined)
    rows = []
    for lane in range(WIDTH):
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
