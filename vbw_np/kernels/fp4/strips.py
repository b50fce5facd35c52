"""The kernels that quantize rows.

A *strip* is sixteen blocks. Their largest magnitudes come into the sixteen lanes of one vector, so sixteen scales are
fitted at once; then each block is multiplied, rounded and packed. Rows are cut into strips; what is left at a row's
end is copied into a strip padded with zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...definitions.kernel_numbers import ABSMAX, CEIL, EVEN, KEEP, NEAREST, NEVER, RCEIL, STOCHASTIC, TE
from ...simd.jit import jit, leaf, pjit, share
from ...simd.lanes import (
    absolute,
    bits,
    floats,
    larger,
    lookup,
    max_lanes,
    mix,
    pair_max,
    places,
    select,
    smaller,
    splat,
    to_int,
    usplat,
)
from ...simd.lanes_memory import (
    at,
    keep,
    load,
    load_bytes,
    load_part,
    pointer,
    prefetch,
    put,
    store,
    store_bytes,
    store_nibbles,
)
from ...simd.wide import WIDTH
from .rounding import (
    e2m1,
    e2m1_nibble,
    e2m1_stochastic,
    e2m1_stochastic_8,
    mx_ceil,
    mx_even,
    mx_factor,
    mx_floor,
    mx_rceil,
    te_code,
    te_factor,
)

AHEAD = 2048
"""Elements between those that are being rounded and those that are fetched meanwhile."""


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
def fit(amax, rule, factor):
    """Scale codes from bit patterns of amax; for `ABSMAX` the bit patterns of amax / 6. See `formats.scales`."""
    if rule == TE:
        return te_code(amax, factor)
    if rule == ABSMAX:
        return bits(floats(amax) / 6.0)
    if rule == RCEIL:
        return mx_rceil(amax)
    if rule == EVEN:
        return mx_even(amax)
    return mx_ceil(amax) if rule == CEIL else mx_floor(amax)


@leaf
def factor_of(code, rule, s_dec):
    """What an element is multiplied with before rounding; for `ABSMAX` what it is divided by."""
    if rule == TE:
        return te_factor(code, s_dec)
    if rule == ABSMAX:
        return select(floats(code) == 0.0, 1.0, floats(code))
    return mx_factor(code)


# ---------------------------------------------------------------------------------------------------------- elements


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
            word = _words(index + j, settings.key1, settings.key2)
            magnitude = e2m1_stochastic(q, word) if settings.rounding == STOCHASTIC else e2m1_stochastic_8(q, word)
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
def _encode_plain(x, i, codes, c, factor, zero):
    """Sixteen elements to nearest even, packed; adding `zero` takes the sign from -0, or with -0 nothing."""
    q = load(x, i) * factor
    store_nibbles(codes, c, e2m1_nibble(q) | ((bits(q + zero) >> 28) & 8))


@leaf
def _is_plain(settings):
    return settings.rounding == NEAREST and settings.rule != ABSMAX and settings.sign != NEVER


@leaf
def _encode_plain_strips(x, i, codes, c, scratch, settings, count):
    """Strips by their factors in `scratch`: the common case, without a branch.

    While it computes, nothing would be read: so what lies `AHEAD` is fetched meanwhile.
    """
    zero = floats(usplat(0x80000000 if settings.sign == KEEP else 0))
    if settings.block == 32:
        for b in range(count * WIDTH):
            prefetch(x, i + 32 * b + AHEAD)
            prefetch(x, i + 32 * b + 16 + AHEAD)
            factor = splat(at(scratch, b))
            _encode_plain(x, i + 32 * b, codes, c + 16 * b, factor, zero)
            _encode_plain(x, i + 32 * b + 16, codes, c + 16 * b + 8, factor, zero)
    else:
        for b in range(count * WIDTH):
            prefetch(x, i + 16 * b + AHEAD)
            _encode_plain(x, i + 16 * b, codes, c + 8 * b, splat(at(scratch, b)), zero)


@leaf
def _fit_strip(arrays, x, s, place, tile, scratch, k, factor, s_dec, settings):
    """The scales of a strip of `tile` rows, which share them, and its factors to scratch[k ...]; the bits of amax."""
    amax = usplat(0)
    for r in range(tile):
        amax = larger(amax, strip_amax(arrays.x, x + r * place.x_step, settings.block))
    if settings.whole:
        store(scratch, k, splat(factor))
    elif settings.fresh:
        code = fit(amax, settings.rule, factor)
        for r in range(tile):
            _store_scales(arrays, s + r * place.scales_step, code, settings.rule)
        store(scratch, k, factor_of(code, settings.rule, s_dec))
    else:
        store(scratch, k, factor_of(_load_scales(arrays, s, settings.rule), settings.rule, s_dec))
    return amax


@leaf
def _two_strips(arrays, place, scratch, factor, s_dec, settings):
    """Two plain strips of a row: fitting a scale is a chain of slow steps, and two run side by side."""
    top = usplat(0)
    for k in range(2):
        x, s = place.x + k * WIDTH * settings.block, place.scales + k * WIDTH
        top = larger(top, _fit_strip(arrays, x, s, place, 1, scratch, k * WIDTH, factor, s_dec, settings))
    _encode_plain_strips(arrays.x, place.x, arrays.codes, place.codes, scratch, settings, 2)
    return top


@leaf
def _strip(arrays, place, tile, scratch, factor, s_dec, settings):
    """Quantize `tile` rows of sixteen blocks each, which share their scales; the bit patterns of the blocks' amax."""
    amax = _fit_strip(arrays, place.x, place.scales, place, tile, scratch, 0, factor, s_dec, settings)
    if _is_plain(settings):
        for r in range(tile):
            i, c = place.x + r * place.x_step, place.codes + r * place.codes_step
            _encode_plain_strips(arrays.x, i, arrays.codes, c, scratch, settings, 1)
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
    top, start = usplat(0), 0
    while start < length:
        begin = first * step + start
        codes, scales = first * code_bytes + start // 2, first * blocks + start // settings.block
        place = there = Place(begin, step, codes, code_bytes, scales, blocks, begin, step)
        source = arrays
        if tile == 1 and start + 2 * strip <= length and _is_plain(settings):
            top = larger(top, _two_strips(arrays, place, scratch, factor, s_dec, settings))
            start += 2 * strip
            continue
        short = start + strip > length
        if short:
            _copy_in(arrays, place, length - start, tile, own, settings)
            source, there = own, Place(0, strip, 0, strip // 2, 0, WIDTH, begin, step)
        top = larger(top, _strip(source, there, tile, scratch, factor, s_dec, settings))
        if short:
            _copy_out(arrays, place, length - start, tile, own, settings)
        start += strip
    return max_lanes(top)


@jit
def _quantize_group(arrays, first, tile, step, length, factor, s_dec, settings):
    """`_quantize_rows` with room of its own for a short strip."""
    strip = tile * WIDTH * settings.block
    words, octets = np.empty(strip + (tile + 2) * WIDTH, np.float32), np.zeros(strip + tile * WIDTH, np.uint8)
    x, wide, scratch = words[:strip], words[strip : strip + tile * WIDTH], words[strip + tile * WIDTH :]
    codes, fine, scales = octets[: strip // 2], octets[strip // 2 : strip], octets[strip:]
    own = Arrays(pointer(x), pointer(codes), pointer(fine), pointer(scales), pointer(wide), arrays.tables)
    top = _quantize_rows(arrays, first, tile, step, length, own, pointer(scratch), factor, s_dec, settings)
    keep(words)
    keep(octets)
    return top


@pjit
def quantize_strips(team, x, codes, fine, scales, wide, tables, rows, length, tile, factors, s_decs, settings, tops):
    """Rows of `length` elements, in groups of `tile` rows that share scales; `tops` gets each group's amax bits.

    The last row may be shorter. `factors` and `s_decs` hold one number for all rows, or one for each.
    """
    for group in share(team, (rows + tile - 1) // tile):
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
def amax_rows(team, x, length, tops):
    """Bit patterns of the largest magnitude of each stretch of `length` elements."""
    for i in share(team, len(tops)):
        tops[i] = _amax_piece(x, i * length, min((i + 1) * length, len(x)))
