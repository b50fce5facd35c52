"""Quantize and dequantize rows: fast twins of `vbw_np.formats`, equal bit for bit.

    quantize(x, "nvfp4")            -> PackedTensor, as formats.quantize(x, "nvfp4", measure=False)
    quantize(x, "nvfp4", axis=0)    -> of x transposed: blocks run down the columns of x
    dequantize(packed, out=buffer)  -> float32, as packed.dequantize()

A *strip* is sixteen blocks. Their largest magnitudes come into the sixteen lanes of one vector, so sixteen scales are
fitted at once; then each block is multiplied, rounded and packed. Rows are cut into strips; what is left at a row's
end is copied into a strip padded with zeros. Formats that no kernel knows are left to NumPy.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

from ... import formats
from ...engine import autograd
from ...formats.blocks import apply_options
from ...formats.codec import _check_fitted as check_fitted
from ...formats.packed import byte_shape, nested_edges, scale_shape
from ...formats.random_bits import hash_keys
from ...formats.scales import te_encode_scale
from ..simd.jit import block as block_ready
from ..simd.jit import enabled, jit, leaf, pjit
from ..simd.jit import row as jit_row
from ..simd.lanes import (
    WIDTH,
    absolute,
    at,
    bits,
    floats,
    keep,
    larger,
    load,
    load_bytes,
    load_part,
    lookup,
    max_lanes,
    pair_max,
    places,
    pointer,
    prefetch,
    put,
    scatter_bytes,
    select,
    smaller,
    splat,
    store,
    store_bits,
    store_bytes,
    store_nibbles,
    store_pairs,
    to_float,
    to_int,
    usplat,
    word_at,
)
from ..twins.elementwise import PIECE, mix
from .dequantize import dequantize

__all__ = ["dequantize", "fit_scales", "is_known", "quantize", "row_amax", "tensor_amax"]

empty = autograd.memory.empty

FLOOR, EVEN, CEIL, RCEIL, TE, ABSMAX = range(6)
"""Scale rules that kernels know; those of MX come first."""

NEAREST, STOCHASTIC, STOCHASTIC_8 = range(3)
KEEP, DROP, NEVER = range(3)
"""Rules for the sign of zero."""

AHEAD = 2048
"""Elements between those that are being rounded and those that are fetched meanwhile."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_INFINITY = 0x7F800000


# ------------------------------------------------------------------------------------------------------------- scales


@leaf
def _block_amax(x, i, block):
    """Bit patterns of magnitudes: the larger ones of a block's sixteens. (As integers they sort like the numbers.)"""
    top = bits(load(x, i)) & 0x7FFFFFFF
    if block == 32:
        top = larger(top, bits(load(x, i + WIDTH)) & 0x7FFFFFFF)
    return top


@leaf
def _two(x, i, block):
    return pair_max(_block_amax(x, i, block), _block_amax(x, i + block, block))


@leaf
def _four(x, i, block):
    return pair_max(_two(x, i, block), _two(x, i + 2 * block, block))


@leaf
def _eight(x, i, block):
    return pair_max(_four(x, i, block), _four(x, i + 4 * block, block))


@leaf
def strip_amax(x, i, block):
    """The largest magnitudes of sixteen blocks of 16 or 32, as bit patterns."""
    if block == 32:  # a constant in each branch, so that nothing below has to ask again
        return pair_max(_eight(x, i, 32), _eight(x, i + 256, 32))
    return pair_max(_eight(x, i, 16), _eight(x, i + 128, 16))


@leaf
def _e4m3(v):
    """Codes of non-negative numbers up to 448, nearest even: by the bits, and below 2**-6 by adding 2**14."""
    b = bits(v)
    normal = ((b + 0x7FFFF + ((b >> 20) & 1)) >> 20) - 960
    small = bits(v + 16384.0) - 0x46800000
    return select(v < 0.015625, small, normal)


@leaf
def _e4m3_value(code):
    return select(code < 8, to_float(code) * 0.001953125, floats((code + 960) << 20))


@leaf
def fit(amax, rule, factor):
    """Scale codes from bit patterns of amax; for `ABSMAX` the bit patterns of amax / 6. See `formats.scales`."""
    if rule == TE:
        scale = smaller(floats(amax) * factor, _FLOAT32_MAX)
        return _e4m3(smaller(scale, 448.0))
    if rule == ABSMAX:
        return bits(floats(amax) / 6.0)
    if rule == RCEIL:
        d = bits(floats(amax) / 6.0)
        exponent, mantissa = d >> 23, d & 0x7FFFFF
        tiny = select(mantissa > 0x400000, usplat(1), 0)
        return select(exponent == 0, tiny, exponent + select(mantissa != 0, usplat(1), 0))
    if rule == EVEN:
        amax = amax + 0x200000
    exponent = amax >> 23
    if rule == CEIL:
        exponent = exponent + select((amax & 0x7FFFFF) != 0, usplat(1), 0)
    return select(exponent > 2, exponent - 2, 0)


@leaf
def factor_of(code, rule, s_dec):
    """What an element is multiplied with before rounding; for `ABSMAX` what it is divided by."""
    if rule == TE:
        return smaller(1.0 / (_e4m3_value(code) * s_dec), _FLOAT32_MAX)
    if rule == ABSMAX:
        return select(floats(code) == 0.0, 1.0, floats(code))
    # A power of two, so multiplying is dividing; 2**-127, under code 254, is subnormal but exact.
    return floats(select(code == 254, 0x400000, (254 - code) << 23))


# ---------------------------------------------------------------------------------------------------------- elements


@leaf
def e2m1(q):
    """Magnitude codes, ties to even: adding 2**22 steps of the local spacing leaves the rounded multiple in the sum."""
    a = smaller(bits(q) & 0x7FFFFFFF, 0x40C00000)  # not above 6
    exponent = larger(a & 0x7F800000, 0x3F800000)  # the spacing is 1/2 below 2, then 1 and 2
    shift = exponent + 0x0B000000
    return bits(floats(a) + floats(shift)) - shift + ((exponent - 0x3F800000) >> 22)


@leaf
def _floor_code(a):
    """Magnitude codes rounded down, of bit patterns not above 8."""
    code = select(a < 0x3F800000, select(a < 0x3F000000, usplat(0), 1), (a >> 22) - 252)
    return smaller(code, 7)


@leaf
def e2m1_stochastic(q, word, rounding):
    """Magnitude codes: `ElementFormat._stochastic` and `._stochastic_8_bit` of `formats.elements`."""
    a = smaller(bits(q) & 0x7FFFFFFF, 0x40C00000)
    exponent = larger(a & 0x7F800000, 0x3F800000)
    if rounding == STOCHASTIC_8:
        step = floats(exponent - 0x00800000)
        return _floor_code(bits(floats(a) + to_float(word & 0xFF) * 0.00390625 * step))
    low = floats(select(a < 0x3F800000, select(a < 0x3F000000, usplat(0), 0x3F000000), a & 0x7FC00000))
    fraction = (floats(a) - low) * floats(0x7F800000 - exponent)
    up = to_float(word >> 8) * 5.9604644775390625e-08 < fraction
    return _floor_code(a) + select(up, usplat(1), 0)


@leaf
def _signs(q, code, rule):
    """The sign bits by the rule for zeros, as `ElementFormat._sign`."""
    if rule == KEEP:
        return (bits(q) >> 28) & 8
    negative = select(q < 0.0, usplat(8), 0)
    return select(code == 0, 0, negative) if rule == NEVER else negative


@leaf
def _words(index, first_key, second_key):
    """The counter's random words of sixteen elements from flat index `index` on (below 2**32)."""
    return mix(mix((places() + index) ^ first_key) + second_key)


@leaf
def nested_cells(q, magnitude, low, width):
    """The nested fine tier: see `formats.codec.nested_cells`; `low` and `width` / 16 by magnitude."""
    a = select(magnitude == 0, q, absolute(q))
    return to_int(smaller((a - lookup(low, magnitude)) / lookup(width, magnitude), 15.0))


class Settings(NamedTuple):
    """What a quantizing kernel needs to know besides its arrays. All integers; some are truth values."""

    block: int
    rule: int
    rounding: int
    sign: int
    key1: int
    key2: int
    fresh: int  # fit scales, instead of using those given
    whole: int  # one float32 scale a row
    nested: int
    tile: int  # rows that share a scale: 1 or 16


class Arrays(NamedTuple):
    """What a quantizing kernel reads and writes, flat; inside it, pointers. Those a format does not have are empty."""

    x: NDArray  # float32
    codes: NDArray  # uint8
    fine: NDArray  # uint8
    scales: NDArray  # uint8
    wide: NDArray  # float32: scales that are not coded
    tables: NDArray  # float32: lower edges and sixteenths of the widths of the nested fine tier's intervals


class Place(NamedTuple):
    """Where a strip lies: in x, codes, scales, and by the index of its random words; first row, and from row to row."""

    x: int
    x_step: int
    codes: int
    codes_step: int
    scales: int
    scales_step: int
    index: int
    index_step: int


# ------------------------------------------------------------------------------------------------------------- strips


@leaf
def _encode_block(arrays, i, c, index, factor, settings, low, width):
    """Round and pack one block of 16 or 32."""
    for j in range(0, settings.block, WIDTH):
        v = load(arrays.x, i + j)
        q = v / factor if settings.rule == ABSMAX else v * factor
        if settings.rounding == NEAREST:
            magnitude = e2m1(q)
        else:
            magnitude = e2m1_stochastic(q, _words(index + j, settings.key1, settings.key2), settings.rounding)
        store_nibbles(arrays.codes, c + j // 2, magnitude | _signs(q, magnitude, settings.sign))
        if settings.nested:
            store_nibbles(arrays.fine, c + j // 2, nested_cells(q, magnitude, low, width))


@leaf
def _load_scales(arrays, s, rule):
    """Sixteen scale codes, or the bit patterns of sixteen float32 scales."""
    return bits(load(arrays.wide, s)) if rule == ABSMAX else load_bytes(arrays.scales, s)


@leaf
def _store_scales(arrays, s, code, rule):
    if rule == ABSMAX:
        store(arrays.wide, s, floats(code))
    else:
        store_bytes(arrays.scales, s, code)


@leaf
def _encode_plain(x, i, codes, c, factor, minus):
    """Sixteen elements to nearest even, packed; `minus` is 8 where -0 keeps its sign, else 0."""
    q = load(x, i) * factor
    sign = (bits(q) >> 28) & select(q != 0.0, usplat(8), minus)
    store_nibbles(codes, c, e2m1(q) | sign)


@leaf
def _encode_plain_strip(x, i, codes, c, scratch, block, minus):
    """Sixteen blocks by their factors in `scratch`: the common case, without a branch.

    While it computes, nothing would be read: so what lies `AHEAD` is fetched meanwhile.
    """
    if block == 32:
        for b in range(WIDTH):
            prefetch(x, i + 32 * b + AHEAD)
            prefetch(x, i + 32 * b + 16 + AHEAD)
            factor = splat(at(scratch, b))
            _encode_plain(x, i + 32 * b, codes, c + 16 * b, factor, minus)
            _encode_plain(x, i + 32 * b + 16, codes, c + 16 * b + 8, factor, minus)
    else:
        for b in range(WIDTH):
            prefetch(x, i + 16 * b + AHEAD)
            _encode_plain(x, i + 16 * b, codes, c + 8 * b, splat(at(scratch, b)), minus)


@leaf
def _strip(arrays, place, tile, scratch, factor, s_dec, settings):
    """Quantize `tile` rows of sixteen blocks each, which share their scales; the bit patterns of the blocks' amax."""
    amax = usplat(0)
    for r in range(tile):
        amax = larger(amax, strip_amax(arrays.x, place.x + r * place.x_step, settings.block))
    if settings.whole:
        store(scratch, 0, splat(factor))
    elif settings.fresh:
        code = fit(amax, settings.rule, factor)
        for r in range(tile):
            _store_scales(arrays, place.scales + r * place.scales_step, code, settings.rule)
        store(scratch, 0, factor_of(code, settings.rule, s_dec))
    else:
        store(scratch, 0, factor_of(_load_scales(arrays, place.scales, settings.rule), settings.rule, s_dec))
    if settings.rounding == NEAREST and settings.rule != ABSMAX and settings.sign != NEVER:
        minus = usplat(8 if settings.sign == KEEP else 0)
        for r in range(tile):
            i, c = place.x + r * place.x_step, place.codes + r * place.codes_step
            _encode_plain_strip(arrays.x, i, arrays.codes, c, scratch, settings.block, minus)
        return amax
    low, width = load(arrays.tables, 0), load(arrays.tables, WIDTH)
    for r in range(tile):
        for b in range(WIDTH):
            start = b * settings.block
            i, c = place.x + r * place.x_step + start, place.codes + r * place.codes_step + start // 2
            index = place.index + r * place.index_step + start
            _encode_block(arrays, i, c, index, splat(at(scratch, b)), settings, low, width)
    return amax


@leaf
def _copy_rows(source, start, step, target, to, to_step, count, rows):
    for r in range(rows):
        for k in range(count):
            put(target, to + r * to_step + k, at(source, start + r * step + k))


@leaf
def _copy_in(arrays, place, count, tile, own, settings):
    """`count` elements a row, fewer than a strip, into a strip padded with zeros; and their scales, if given."""
    length, n_scales = WIDTH * settings.block, (count + settings.block - 1) // settings.block
    for i in range(0, tile * length, WIDTH):
        store(own.x, i, splat(0.0))
    _copy_rows(arrays.x, place.x, place.x_step, own.x, 0, length, count, tile)
    if not settings.fresh and not settings.whole:
        if settings.rule == ABSMAX:
            _copy_rows(arrays.wide, place.scales, place.scales_step, own.wide, 0, WIDTH, n_scales, tile)
        else:
            _copy_rows(arrays.scales, place.scales, place.scales_step, own.scales, 0, WIDTH, n_scales, tile)


@leaf
def _copy_out(arrays, place, count, tile, own, settings):
    """What was made of them, back to where it belongs."""
    length, n_scales = WIDTH * settings.block, (count + settings.block - 1) // settings.block
    n_codes = (count + 1) // 2
    _copy_rows(own.codes, 0, length // 2, arrays.codes, place.codes, place.codes_step, n_codes, tile)
    if settings.nested:
        if count % 2:  # the odd last nibble of a row holds nothing
            for r in range(tile):
                last = r * length // 2 + count // 2
                put(own.fine, last, at(own.fine, last) & 15)
        _copy_rows(own.fine, 0, length // 2, arrays.fine, place.codes, place.codes_step, n_codes, tile)
    if settings.fresh and not settings.whole:
        if settings.rule == ABSMAX:
            _copy_rows(own.wide, 0, WIDTH, arrays.wide, place.scales, place.scales_step, n_scales, tile)
        else:
            _copy_rows(own.scales, 0, WIDTH, arrays.scales, place.scales, place.scales_step, n_scales, tile)


@leaf
def _quantize_rows(arrays, first, tile, step, length, own, scratch, factor, s_dec, settings):
    """`tile` rows of `length` elements, `step` apart, from row `first` on, strip by strip; the bit pattern of amax."""
    strip = WIDTH * settings.block
    code_bytes, blocks = (step + 1) // 2, (step + settings.block - 1) // settings.block
    if settings.whole:
        blocks = 1
    top = usplat(0)
    for start in range(0, length, strip):
        begin = first * step + start
        codes, scales = first * code_bytes + start // 2, first * blocks + start // settings.block
        place = there = Place(begin, step, codes, code_bytes, scales, blocks, begin, step)
        source = arrays
        short = start + strip > length
        if short:
            _copy_in(arrays, place, length - start, tile, own, settings)
            source, there = own, Place(0, strip, 0, strip // 2, 0, WIDTH, begin, step)
        top = larger(top, _strip(source, there, tile, scratch, factor, s_dec, settings))
        if short:
            _copy_out(arrays, place, length - start, tile, own, settings)
    return max_lanes(top)


@jit
def _quantize_group(arrays, first, tile, step, length, factor, s_dec, settings):
    """`_quantize_rows` with room of its own for a short strip."""
    strip = tile * WIDTH * settings.block
    words, octets = np.empty(strip + (tile + 1) * WIDTH, np.float32), np.zeros(strip + tile * WIDTH, np.uint8)
    x, wide, scratch = words[:strip], words[strip : strip + tile * WIDTH], words[strip + tile * WIDTH :]
    codes, fine, scales = octets[: strip // 2], octets[strip // 2 : strip], octets[strip:]
    own = Arrays(pointer(x), pointer(codes), pointer(fine), pointer(scales), pointer(wide), arrays.tables)
    top = _quantize_rows(arrays, first, tile, step, length, own, pointer(scratch), factor, s_dec, settings)
    keep(words)
    keep(octets)
    return top


@pjit
def _quantize(x, codes, fine, scales, wide, tables, rows, length, tile, factors, s_decs, settings, tops):
    """Rows of `length` elements, in groups of `tile` rows that share scales; `tops` gets each group's amax bits.

    The last row may be shorter. `factors` and `s_decs` hold one number for all rows, or one for each.
    """
    for group in prange((rows + tile - 1) // tile):
        arrays = Arrays(
            pointer(x), pointer(codes), pointer(fine), pointer(scales), pointer(wide), pointer(tables)
        )
        first = group * tile
        here, rest = min(tile, rows - first), min(length, len(x) - first * length)
        k = first if len(factors) > 1 else 0
        tops[group] = _quantize_group(arrays, first, here, length, rest, factors[k], s_decs[k], settings)


@leaf
def _amax_piece(x, start, stop):
    top = usplat(0)
    whole = stop - (stop - start) % WIDTH
    for i in range(start, whole, WIDTH):
        top = larger(top, bits(load(x, i)) & 0x7FFFFFFF)
    if whole < stop:
        top = larger(top, bits(load_part(x, whole, stop - whole, 0.0)) & 0x7FFFFFFF)
    return max_lanes(top)


@pjit
def _amax_rows(x, length, tops):
    """Bit patterns of the largest magnitude of each stretch of `length` elements."""
    for i in prange(len(tops)):
        tops[i] = _amax_piece(x, i * length, min((i + 1) * length, len(x)))


# ------------------------------------------------------------------------------------------------------------ columns
#
# Blocks that run down the columns of a row-major matrix need no shuffling at all: a lane is a column. Amax is a
# running maximum over rows, sixteen columns' scales are fitted at once, and the codes of eight rows, each shifted to
# its nibble, add up to one word a column.

COLUMNS = 64
"""Columns that one thread takes down the matrix at a time."""


@leaf
def _column_code(v, factor, index, settings, minus):
    """The quotients, magnitude codes, and codes with their signs, of one row of sixteen columns."""
    q = v / factor if settings.rule == ABSMAX else v * factor
    if settings.rounding == NEAREST:
        magnitude = e2m1(q)
    else:
        word = mix(mix(index ^ settings.key1) + settings.key2)
        magnitude = e2m1_stochastic(q, word, settings.rounding)
    sign = (bits(q) >> 28) & select(q != 0.0, usplat(8), minus)
    if settings.sign == NEVER:
        sign = select(magnitude == 0, 0, sign)
    return q, magnitude, magnitude | sign


@leaf
def _column_words(x, i, step, n, rows, factor, index, settings, minus, low, width):
    """The codes of up to eight rows of sixteen columns, a nibble each; and those of the fine tier."""
    codes, fine = usplat(0), usplat(0)
    for r in range(rows):
        v = load_part(x, i + r * step, n, 0.0)
        q, magnitude, code = _column_code(v, factor, index + r, settings, minus)
        codes = codes | (code << (4 * r))
        if settings.nested:
            fine = fine | (nested_cells(q, magnitude, low, width) << (4 * r))
    return codes, fine


@leaf
def _plain_word(x, i, step, factor, minus):
    """The codes of eight rows of sixteen columns, to nearest even: the common case, without a branch."""
    word = usplat(0)
    for r in range(8):
        q = load(x, i + r * step) * factor
        sign = (bits(q) >> 28) & select(q != 0.0, usplat(8), minus)
        word = word | ((e2m1(q) | sign) << (4 * r))
    return word


@leaf
def _column_amax(x, i, step, n, count):
    """Bit patterns of the largest magnitudes of n columns over `count` rows."""
    top = usplat(0)
    if n == WIDTH:
        for r in range(count):
            top = larger(top, bits(load(x, i + r * step)) & 0x7FFFFFFF)
    else:
        for r in range(count):
            top = larger(top, bits(load_part(x, i + r * step, n, 0.0)) & 0x7FFFFFFF)
    return top


@leaf
def _put_words(target, start, step, first, n, count, low, high, scratch):
    """Bytes `first` ... of what low and high hold, `count` of them a column, for n columns."""
    store(scratch, 0, floats(low))
    store(scratch, WIDTH, floats(high))
    for lane in range(n):
        for k in range(count):
            word = word_at(scratch, (k // 4) * WIDTH + lane)
            put(target, start + lane * step + first + k, (word >> (8 * (k % 4))) & 255)


@leaf
def _column_scales(arrays, s, step, n, rule):
    """Given scales of n columns: codes, or bit patterns."""
    found = usplat(0)
    for lane in range(n):
        place = s + lane * step
        value = word_at(arrays.wide, place) if rule == ABSMAX else np.uint32(at(arrays.scales, place))
        found = select(places() == lane, value, found)
    return found


@leaf
def _put_scales(arrays, s, step, n, code, rule, scratch):
    if n == WIDTH and rule != ABSMAX:
        scatter_bytes(arrays.scales, s, step, code)
        return
    store(scratch, 0, floats(code))
    for lane in range(n):
        if rule == ABSMAX:
            put(arrays.wide, s + lane * step, at(scratch, lane))
        else:
            put(arrays.scales, s + lane * step, word_at(scratch, lane))


@leaf
def _column_block(arrays, column, n, row, count, width, length, factor, s_dec, settings, scratch):
    """One block of `count` rows in n <= 16 columns of a matrix (length, width); the bit patterns of amax."""
    i, step, c = row * width + column, width, column * ((length + 1) // 2) + row // 2
    amax = _column_amax(arrays.x, i, step, n, count)
    multiplier = factor
    if not settings.whole:
        blocks = (length + settings.block - 1) // settings.block
        s = column * blocks + row // settings.block
        if settings.fresh:
            shared = usplat(max_lanes(amax)) if settings.tile > 1 else amax
            code = fit(shared, settings.rule, factor)
            _put_scales(arrays, s, blocks, n, code, settings.rule, scratch)
        else:
            code = _column_scales(arrays, s, blocks, n, settings.rule)
        multiplier = factor_of(code, settings.rule, s_dec)
    minus = usplat(8 if settings.sign == KEEP else 0)
    low, wide = load(arrays.tables, 0), load(arrays.tables, WIDTH)
    code_bytes = (length + 1) // 2
    plain = settings.rounding == NEAREST and settings.rule != ABSMAX and settings.sign != NEVER
    if plain and n == WIDTH and count == settings.block:
        for start in range(0, count, WIDTH):
            a = _plain_word(arrays.x, i + start * step, step, multiplier, minus)
            b = _plain_word(arrays.x, i + (start + 8) * step, step, multiplier, minus)
            store_pairs(arrays.codes, c + start // 2, code_bytes, a, b)
        return amax
    for start in range(0, count, WIDTH):
        index = (places() + column) * length + (row + start)
        from_row = i + start * step
        first, second = min(8, count - start), max(0, min(8, count - start - 8))
        a, fine_a = _column_words(arrays.x, from_row, step, n, first, multiplier, index, settings, minus, low, wide)
        b, fine_b = _column_words(
            arrays.x, from_row + 8 * step, step, n, second, multiplier, index + 8, settings, minus, low, wide
        )
        if n == WIDTH and first + second == WIDTH:
            store_pairs(arrays.codes, c + start // 2, code_bytes, a, b)
            if settings.nested:
                store_pairs(arrays.fine, c + start // 2, code_bytes, fine_a, fine_b)
        else:
            n_bytes = (first + second + 1) // 2
            _put_words(arrays.codes, c, code_bytes, start // 2, n, n_bytes, a, b, scratch)
            if settings.nested:
                _put_words(arrays.fine, c, code_bytes, start // 2, n, n_bytes, fine_a, fine_b, scratch)
    return amax


@jit
def _quantize_column_group(arrays, first, last, width, length, factors, s_decs, settings):
    """Columns first ... last of a matrix (length, width), block by block; the bit pattern of amax."""
    room = np.empty(2 * WIDTH, np.float32)
    scratch = pointer(room)
    top = usplat(0)
    rows = settings.block
    for row in range(0, length, rows):
        for column in range(first, last, WIDTH):
            n, count = min(WIDTH, last - column), min(rows, length - row)
            if len(factors) > 1:
                factor, s_dec = load_part(factors, column, n, 1.0), load_part(s_decs, column, n, 1.0)
            else:
                factor, s_dec = splat(factors[0]), splat(s_decs[0])
            amax = _column_block(arrays, column, n, row, count, width, length, factor, s_dec, settings, scratch)
            top = larger(top, amax)
    keep(room)
    return max_lanes(top)


@pjit
def _quantize_columns(x, codes, fine, scales, wide, tables, width, length, factors, s_decs, settings, tops):
    """The rows of the transposed matrix: x is (length, width), flat. As `_quantize`, one top a group of columns."""
    for index in prange(len(tops)):
        group = np.int64(index)
        arrays = Arrays(
            pointer(x), pointer(codes), pointer(fine), pointer(scales), pointer(wide), pointer(tables)
        )
        first = group * COLUMNS
        last = min(first + COLUMNS, width)
        tops[group] = _quantize_column_group(arrays, first, last, width, length, factors, s_decs, settings)


# ------------------------------------------------------------------------------------------ the seed's two tiers

PARTS = 4
"""Parts of an array whose histograms are made by one thread each."""


@pjit
def _count_upper(x, counts):
    """Histograms, one a part, of the upper halves of the bit patterns of magnitudes."""
    step = (len(x) + PARTS - 1) // PARTS
    for index in prange(PARTS):
        part = np.int64(index)
        for i in range(part * step, min((part + 1) * step, len(x))):
            counts[part, (x[i] >> np.uint32(16)) & np.uint32(0x7FFF)] += 1


@pjit
def _count_lower(x, wanted, counts):
    """Histograms of the lower halves, one for each upper half h with ``wanted[h] >= 0``."""
    step = (len(x) + PARTS - 1) // PARTS
    for index in prange(PARTS):
        part = np.int64(index)
        for i in range(part * step, min((part + 1) * step, len(x))):
            which = wanted[(x[i] >> np.uint32(16)) & np.uint32(0x7FFF)]
            if which >= 0:
                counts[part, which, x[i] & np.uint32(0xFFFF)] += 1


def fast_quantile_codebook(w: NDArray, levels: int = 16) -> NDArray:
    """Twin of `formats.quantile_codebook`: order statistics by counting, in two passes, without sorting.

    Magnitudes sort like their bit patterns, so the first pass finds the upper half of each wanted number, the second
    its lower half.
    """
    words = jit_row(w).view(np.uint32)
    ranks = np.arange(levels) * words.size // levels
    counts = np.zeros((PARTS, 1 << 15), np.int64)
    _count_upper(words, counts)
    ends = np.cumsum(counts.sum(axis=0))
    upper = np.searchsorted(ends, ranks, side="right")
    wanted = np.full(1 << 15, -1, np.int64)
    distinct = np.unique(upper)
    wanted[distinct] = np.arange(len(distinct))
    counts = np.zeros((PARTS, len(distinct), 1 << 16), np.int64)
    _count_lower(words, wanted, counts)
    inside = np.cumsum(counts.sum(axis=0), axis=-1)
    before = np.concatenate([[0], ends])[upper]
    lower = [np.searchsorted(inside[wanted[h]], rank, side="right") for h, rank in zip(upper, ranks - before)]
    return ((upper.astype(np.uint32) << np.uint32(16)) | np.array(lower, np.uint32)).view(np.float32)



@leaf
def _quantile_code(a, codebook):
    """The last level not above each magnitude; below the first level, the first."""
    code = usplat(0)
    for k in range(1, 16):
        code = code + select(splat(at(codebook, k)) <= a, usplat(1), 0)
    return code


@leaf
def _quantile_residual_max(x, start, count, codebook):
    """The largest abs(abs(w) - level) of a row."""
    levels, top = load(codebook, 0), splat(0.0)
    for j in range(0, count, WIDTH):
        n = min(WIDTH, count - j)
        a = absolute(load_part(x, start + j, n, at(codebook, 0)))
        top = larger(absolute(a - lookup(levels, _quantile_code(a, codebook))), top)
    return max_lanes(top)


@leaf
def _quantile_row(x, start, count, codebook, scale, codes, c, fine, signs, s):
    levels = load(codebook, 0)
    safe = np.float32(1) if scale == 0 else scale
    for j in range(0, count, WIDTH):
        w = load(x, start + j)
        code = _quantile_code(absolute(w), codebook)
        level = lookup(levels, code)
        step = (w - select(w < 0.0, level * -1.0, level)) / safe
        step = larger(smaller(step, 7.0), -7.0)
        store_nibbles(codes, c + j // 2, code)
        store_nibbles(fine, c + j // 2, bits(step + 12582912.0) & 15)  # the nearest integer, in two's complement
        store_bits(signs, s + j // 8, w < 0.0)


@pjit
def _quantize_quantile_rows(x, length, codebook, fresh, scales, codes, fine, signs):
    """Rows of `length` elements, a multiple of 16."""
    for index in prange(len(scales)):
        row = np.int64(index)
        if fresh:
            top = _quantile_residual_max(pointer(x), row * length, length, pointer(codebook))
            scales[row] = top / np.float32(7.5)
        c, s = row * length // 2, row * length // 8
        _quantile_row(
            pointer(x), row * length, length, pointer(codebook), scales[row], pointer(codes), c, pointer(fine),
            pointer(signs), s,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- from Python

_RULES = {"mx-floor": FLOOR, "mx-even": EVEN, "mx-ceil": CEIL, "mx-rceil": RCEIL}
_ROUNDINGS = {"even": NEAREST, "stochastic": STOCHASTIC, "stochastic-8": STOCHASTIC_8}
_SIGNS = {"keep": KEEP, "drop": DROP, "never": NEVER}
_NOTHING = np.empty(0, np.float32), np.empty(0, np.uint8)


def tensor_amax(x: NDArray) -> np.float32:
    """The largest magnitude of a float32 array; NaN or Inf if there is one in it."""
    flat = jit_row(x.T if x.flags.f_contiguous else x)
    tops = np.empty(-(-flat.size // PIECE), np.uint32)
    _amax_rows(flat, PIECE, tops)
    return tops.max().view(np.float32)


def row_amax(x: NDArray) -> NDArray:
    """The largest magnitude of each row: (..., K) to (..., 1)."""
    tops = np.empty((*x.shape[:-1], 1), np.uint32)
    _amax_rows(jit_row(x), x.shape[-1], tops.reshape(-1))
    return tops.view(np.float32)


def rule_of(fmt: formats.BlockFormat) -> int | None:
    """The kernels' number of a format's scale rule, or None if they do not know it."""
    rule = fmt.rule
    if rule.name in _RULES and fmt.block == 32:
        return _RULES[rule.name]
    if rule.name in _TE_HEADROOM and fmt.block == 16:
        return TE
    return ABSMAX if rule.name == "absmax-6" and fmt.block in (None, 16, 32) else None


_TE_HEADROOM = {"te": 1.0, "te-one-level": 1.0, "te-headroom": 16 / 17}


def is_known(fmt: formats.BlockFormat, ties: str) -> bool:
    """Whether a kernel quantizes this format with this rounding."""
    return (
        enabled()
        and fmt.element is formats.E2M1
        and rule_of(fmt) is not None
        and fmt.four_over_six == "off"
        and not fmt.flat
        and fmt.signed_zero in _SIGNS
        and ties in _ROUNDINGS
        and (fmt.fine is None or (fmt.fine.kind == "nested" and ties == "even"))
        and (fmt.tensor_level != "row" or fmt.block_rows == 1)
    )


def _level(x: NDArray, fmt: formats.BlockFormat, amax: NDArray | np.float32 | None) -> NDArray | np.float32 | None:
    """The second level's amax, measured where it is not given: None, a number, or (..., 1)."""
    if fmt.tensor_level == "none":
        return None
    if amax is not None:
        return np.asarray(amax, np.float32) if fmt.tensor_level == "row" else np.float32(amax)
    return row_amax(x) if fmt.tensor_level == "row" else tensor_amax(x)


def _te_numbers(fmt: formats.BlockFormat, stored: NDArray | np.float32 | None) -> tuple[NDArray, NDArray]:
    """S * (1 / 6) and 1 / S of TransformerEngine's rule, in its order of operations; one number, or one a row."""
    encode_scale = np.float32(1) if stored is None else te_encode_scale(stored)
    inverse = np.float32(1) / np.float32(6 * _TE_HEADROOM[fmt.rule.name])
    return np.reshape(encode_scale * inverse, -1), np.reshape(np.float32(1) / encode_scale, -1)


def _nested_tables(fmt: formats.BlockFormat) -> NDArray:
    tables = np.zeros(2 * WIDTH, np.float32)
    if fmt.fine is not None:
        low, width = nested_edges(fmt.fine.top)
        tables[:8], tables[WIDTH : WIDTH + 8] = low, width / np.float32(16)
    return tables


def _groups(size: int, rows: int, length: int, tile: int, fmt: formats.BlockFormat, whole: bool) -> tuple[int, int]:
    """Rows and their length as the kernel shall see them: one long row, cut, where rows are whole blocks."""
    if tile > 1 or whole or fmt.tensor_level == "row" or length % (fmt.block or 1):
        return rows, length
    return -(-size // PIECE), PIECE


def _trusted(**fields: object) -> formats.PackedTensor:
    """A PackedTensor of arrays that a kernel has just made; checking them again would cost as much as making them."""
    packed = object.__new__(formats.PackedTensor)
    for field in dataclasses.fields(formats.PackedTensor):
        object.__setattr__(packed, field.name, fields.get(field.name, field.default))
    return packed


def quantize(
    x: NDArray,
    format: str | formats.BlockFormat = "nvfp4",
    *,
    axis: int = -1,
    ties: str | None = None,
    seed: int | None = None,
    stream: int = 0,
    amax: NDArray | np.float32 | float | None = None,
    reuse: formats.PackedTensor | formats.FittedScales | None = None,
    out: formats.PackedTensor | None = None,
) -> formats.PackedTensor:
    """Twin of `formats.quantize`, without measuring the error.

    Parameters
    ----------
    x : float32 (..., K)
    format : name or BlockFormat
    axis : {-1, 0}
        0, for a matrix (M, N): the result is that of ``x.T``, an (N, M) tensor with blocks along M.
    ties, seed, stream, reuse : as in `formats.quantize`
    amax : float32, or (..., 1) for a format with one level a row
        The second level's amax where it is known already; it must not be below the largest magnitude.
    out : PackedTensor of the same shape and format, optional
        Overwritten: its arrays become those of the result.

    Returns
    -------
    PackedTensor

    Raises
    ------
    As `formats.quantize`.
    """
    fmt = apply_options(formats.get_format(format), ties)
    if axis == 0:
        if np.ndim(x) != 2:
            raise formats.ShapeError(f"axis=0 quantizes the columns of a matrix; x has shape {np.shape(x)}")
        x = x.T
        if fmt.quantile_codebook:
            x = np.ascontiguousarray(x)
    plain = isinstance(x, np.ndarray) and x.dtype == np.float32 and x.ndim and 0 < x.size < 2**32
    if fmt.quantile_codebook and plain and enabled() and x.shape[-1] % WIDTH == 0:
        return _quantize_quantiles(x, fmt, reuse, out)
    stochastic = fmt.ties.startswith("stochastic")
    stacked = fmt.block_rows > 1 and np.ndim(x) != 2
    if not plain or stacked or not is_known(fmt, fmt.ties) or (stochastic and seed is None):
        return _by_numpy(x, fmt, seed, stream, amax, reuse)
    scales = formats.FittedScales.of(reuse) if isinstance(reuse, formats.PackedTensor) else reuse
    if scales is not None:
        check_fitted(scales, x.shape, fmt)
        stored = scales.stored
    else:
        stored = _level(x, fmt, amax)
        if stored is not None and not np.isfinite(stored).all():
            return _by_numpy(x, fmt, seed, stream, None, reuse)
    packed, tops = _run(x, axis, fmt, stored, scales, hash_keys(seed or 0, stream), out)
    if tops.max() >= _INFINITY:
        return _by_numpy(x, fmt, seed, stream, None, reuse)  # which says where the NaN or Inf is
    return packed


def fit_scales(x: NDArray, format: str | formats.BlockFormat) -> formats.FittedScales:
    """Twin of `formats.fit_scales`: what `quantize(x, format, reuse=...)` takes."""
    return formats.FittedScales.of(quantize(x, format))


def _quantize_quantiles(
    x: NDArray,
    fmt: formats.BlockFormat,
    reuse: formats.PackedTensor | formats.FittedScales | None,
    out: formats.PackedTensor | None,
) -> formats.PackedTensor:
    """`seed-v6`: a codebook of quantiles, signs, and the residual in INT4."""
    if not np.isfinite(tensor_amax(x)):
        return _by_numpy(x, fmt, None, 0, None, reuse)
    scales = formats.FittedScales.of(reuse) if isinstance(reuse, formats.PackedTensor) else reuse
    if scales is not None:
        check_fitted(scales, x.shape, fmt)
    codes, fine, row_scales = _outputs(x, fmt, scales, out)
    signs = empty(byte_shape(x.shape, fmt, bits=1), np.uint8) if out is None else out.signs
    codebook = block_ready(scales.codebook) if scales is not None else fast_quantile_codebook(x)
    _quantize_quantile_rows(
        jit_row(x), x.shape[-1], codebook, int(scales is None), row_scales.reshape(-1), codes.reshape(-1),
        fine.reshape(-1), signs.reshape(-1),
    )  # fmt: skip
    return _trusted(
        codes=codes, scales=row_scales, shape=x.shape, format=fmt, fine=fine, planes=4, signs=signs, codebook=codebook
    )


def _by_numpy(x, fmt, seed, stream, amax, reuse) -> formats.PackedTensor:
    if amax is not None and fmt.tensor_level != "none":
        raise formats.FormatError(f"amax= is for formats that a kernel knows; leave it out for {fmt.name}")
    return formats.quantize(x, fmt, seed=seed, stream=stream, reuse=reuse, measure=False)


def _run(
    x: NDArray,
    axis: int,
    fmt: formats.BlockFormat,
    stored: NDArray | np.float32 | None,
    scales: formats.FittedScales | None,
    keys: tuple[int, int],
    out: formats.PackedTensor | None,
) -> tuple[formats.PackedTensor, NDArray]:
    """Allocate, run the kernel, wrap; also the bit patterns of amax by groups."""
    rule, block, whole = rule_of(fmt), fmt.block or WIDTH, fmt.block is None
    length = x.shape[-1]
    rows, tile = x.size // length, fmt.block_rows
    codes, fine, block_scales = _outputs(x, fmt, scales, out)
    factors = s_decs = np.ones(1, np.float32)
    if rule == TE:
        factors, s_decs = _te_numbers(fmt, stored)
    elif whole:
        if scales is None:
            np.divide(row_amax(x), np.float32(6), out=block_scales)
        factors = np.where(block_scales == 0, np.float32(1), block_scales).reshape(-1)
        s_decs = factors
    settings = Settings(
        block, rule, _ROUNDINGS[fmt.ties], _SIGNS[fmt.signed_zero], *keys, int(scales is None), int(whole),
        int(fine is not None), tile,
    )  # fmt: skip
    flat, nothing = block_scales.reshape(-1), _NOTHING
    arrays = Arrays(
        jit_row(x.T) if axis == 0 else jit_row(x),
        codes.reshape(-1),
        nothing[1] if fine is None else fine.reshape(-1),
        nothing[1] if rule == ABSMAX else flat,
        flat if rule == ABSMAX else nothing[0],
        _nested_tables(fmt),
    )
    if axis == 0:
        tops = np.zeros(-(-rows // COLUMNS), np.uint32)
        _quantize_columns(*arrays, rows, length, factors, s_decs, settings, tops)
    else:
        rows, length = _groups(x.size, rows, length, tile, fmt, whole)
        tops = np.zeros(-(-rows // tile), np.uint32)
        _quantize(*arrays, rows, length, tile, factors, s_decs, settings, tops)
    multiplier = None
    if stored is not None:
        multiplier = scales.tensor if scales is not None else fmt.rule.multiplier(stored)
        multiplier = np.float32(multiplier) if np.ndim(multiplier) == 0 else multiplier
    packed = _trusted(
        codes=codes, scales=block_scales, shape=x.shape, format=fmt, tensor_scale=multiplier, stored_scale=stored,
        fine=fine, planes=0 if fine is None else 4,
    )  # fmt: skip
    return packed, tops


def _outputs(x, fmt, scales, out) -> tuple[NDArray, NDArray | None, NDArray]:
    """Arrays for codes, fine codes and scales: those of `out`, or fresh; given scales are used as they are."""
    codes_shape, scales_shape = byte_shape(x.shape, fmt), scale_shape(x.shape, fmt)
    if out is not None and (out.shape != x.shape or out.format.name != fmt.name):
        raise formats.ShapeError(
            f"out is a {out.format.name} tensor of shape {out.shape}; the result is {fmt.name} of shape {x.shape}"
        )
    codes = empty(codes_shape, np.uint8) if out is None else out.codes
    fine = None
    if fmt.fine is not None:
        fine = empty(codes_shape, np.uint8) if out is None else out.fine
    if scales is not None:
        return codes, fine, block_ready(scales.block)
    dtype = np.uint8 if fmt.rule.scale_element else np.float32
    return codes, fine, empty(scales_shape, dtype) if out is None else out.scales
