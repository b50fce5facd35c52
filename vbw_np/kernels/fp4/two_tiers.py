"""`seed-v6` by kernels: a codebook of quantiles, signs, and the residual in INT4."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...formats import quantile_codebook
from ...simd.jit import leaf, pjit, share
from ...simd.jit import row as jit_row
from ...simd.lanes import absolute, bits, larger, lookup, max_lanes, select, smaller, splat, usplat
from ...simd.lanes_memory import at, load, load_part, pointer, store_bits, store_nibbles
from ...simd.wide import WIDTH

PARTS = 4
"""Parts of an array whose histograms are made by one thread each."""
SORTED = 1 << 14
"""Arrays of up to so many numbers are sorted, which takes less time than to clear the histograms."""


@pjit
def _count_upper(team, x, counts):
    """Histograms, one a part, of the upper halves of the bit patterns of magnitudes."""
    step = (len(x) + PARTS - 1) // PARTS
    for index in share(team, PARTS):
        part = np.int64(index)
        for i in range(part * step, min((part + 1) * step, len(x))):
            counts[part, (x[i] >> np.uint32(16)) & np.uint32(0x7FFF)] += 1


@pjit
def _count_lower(team, x, wanted, counts):
    """Histograms of the lower halves, one for each upper half h with ``wanted[h] >= 0``."""
    step = (len(x) + PARTS - 1) // PARTS
    for index in share(team, PARTS):
        part = np.int64(index)
        for i in range(part * step, min((part + 1) * step, len(x))):
            which = wanted[(x[i] >> np.uint32(16)) & np.uint32(0x7FFF)]
            if which >= 0:
                counts[part, which, x[i] & np.uint32(0xFFFF)] += 1


def fast_quantile_codebook(w: NDArray, levels: int = 16) -> NDArray:
    """Twin of `formats.quantile_codebook`: order statistics of large arrays by counting, in two passes.

    Magnitudes sort like their bit patterns, so the first pass finds the upper half of each wanted number, the second
    its lower half.
    """
    if w.size <= SORTED:
        return quantile_codebook(w)
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
def quantize_quantile_rows(team, x, length, codebook, fresh, scales, codes, fine, signs):
    """Rows of `length` elements, a multiple of 16."""
    for index in share(team, len(scales)):
        row = np.int64(index)
        if fresh:
            top = _quantile_residual_max(pointer(x), row * length, length, pointer(codebook))
            scales[row] = top / np.float32(7.5)
        c, s = row * length // 2, row * length // 8
        _quantile_row(
            pointer(x), row * length, length, pointer(codebook), scales[row], pointer(codes), c, pointer(fine),
            pointer(signs), s,
        )  # fmt: skip
