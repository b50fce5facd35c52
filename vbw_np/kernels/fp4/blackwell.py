"""FP4 products whose sums are those of Blackwell's tensor cores, bit for bit: the twin of `formats.accumulate`.

    y[m, n] = (chain of k64 steps as `blackwell-mxf4nvf4` adds them)  *  (factor_x[m] * factor_w)

`fp4_products.blackwell_reference` is the definition, in NumPy. `matmul` takes the operands of `tensor_core.matmul` and
has the bits of the definition: `intrinsics_steps` sums a step in float64 wherever that is exact, and what is left is
done again as the definition has it, with 64-bit floating point numbers as integers of at most 49 bits.

K is filled up with zeros to whole steps of 64, as software has to. Where AVX2 is missing, or MXFP4 scales leave
2**-40 .. 2**40, everything is done the second way: right, and slow.
"""

from __future__ import annotations

import math

import numpy as np

from ...definitions.aligned import aligned_empty, result_of
from ...definitions.fp4_products import check_pair
from ...definitions.panels import LeftOperand, RightOperand, half_scales
from ...simd import cpu
from ...simd.jit import jit, pjit, share
from ...simd.variant import Variant
from .intrinsics_steps import GROUP, ROWS, STEP, step_rows, step_tile
from .intrinsics_tile import decode

GROUPS = STEP // GROUP
OFFSET = 12
"""What `decode` adds to right values on x86."""

FRACTION_BITS, ZERO_EXPONENT = 35, -139
"""The record's parameters, as numbers that the kernels are compiled with (a test holds them to it)."""

_ROWS_AT_ONCE = 256
_SAFE = 40  # exponents of MXFP4 scales up to which float32 holds all that the fast loop forms


# ---- operands, made ready


@jit
def _exponent(half, is_e4m3):  # type: ignore[no-untyped-def]
    """The exponent of a stored scale from half its value: E4M3's subnormals keep -6, E8M0's code 0 is 2**-127."""
    exponent = math.frexp(half)[1]
    return max(exponent, -6) if is_e4m3 else exponent


@pjit
def _ready_left(team, values, scales, is_e4m3, block, ready, words, exponents, nonzero, limits, nan):  # type: ignore[no-untyped-def]
    """Rows of the left operand, filled up to whole steps: group by group its start, scale, exponent, nonzero places."""
    length, groups = values.shape[1], exponents.shape[1]
    for m in share(team, values.shape[0]):
        row = words[m].view(np.float32)
        for k in range(length):
            ready[m, k] = values[m, k]
        for k in range(length, groups * GROUP):
            ready[m, k] = 0
        for g in range(groups):
            total, places = 0, 0
            for i in range(GROUP):
                value = ready[m, g * GROUP + i]
                total += value
                places |= (value != 0) << i
            half = scales[m, g * GROUP // block] if g * GROUP < length else np.float32(0)
            if half != half:
                nan[m], half = 1, np.float32(0)
            half = np.float32(half if places != 0 else 0)
            words[m, 2 * g] = -OFFSET * total
            row[2 * g + 1] = half
            exponents[m, g] = _exponent(np.float64(half), is_e4m3) if half != 0 else 0
            nonzero[m, g] = places if half != 0 else 0
        _limits_of(exponents[m], nonzero[m], limits[m])
        if block == 2 * GROUP:  # the fast loop takes a block at a time; a group of zeros adds none, whatever its scale
            for g in range(0, groups, 2):
                words[m, 2 * g] += words[m, 2 * g + 2]
                row[2 * g + 1] = max(row[2 * g + 1], row[2 * g + 3])


@jit
def _limits_of(exponents, nonzero, limits):  # type: ignore[no-untyped-def]
    """Of each step, the largest and the smallest power of two (the latter times 2**27); 0 and 2**87 without any."""
    for s in range(limits.shape[0]):
        largest, smallest = -200, 200
        for g in range(s * GROUPS, s * GROUPS + GROUPS):
            if nonzero[g] != 0:
                largest, smallest = max(largest, exponents[g]), min(smallest, exponents[g])
        limits[s, 0] = np.float32(math.ldexp(1.0, largest)) if largest > -200 else np.float32(0)
        limits[s, 1] = np.float32(math.ldexp(1.0, min(smallest, 60) + 27))


@pjit
def _ready_right(team, codes, scales, table, is_e4m3, block, halves, exponents, nonzero, limits, nan):  # type: ignore[no-untyped-def]
    """Panels of the right operand: half scales, exponents, nonzero places [groups][16], limits [steps][2][16]."""
    panels, eights = codes.shape[0], codes.shape[1]
    for p in share(team, panels):
        for g in range(halves.shape[1]):
            for c in range(16):
                places = 0
                for i in range(2 * g, min(2 * g + 2, eights)):
                    for j in range(4):
                        byte = codes[p, i, c, j]
                        places |= ((byte & 7) != 0) << (i % 2 * 8 + j) | ((byte & 0x70) != 0) << (i % 2 * 8 + 4 + j)
                half = table[scales[p, g * GROUP // block, c]] if 2 * g < eights else np.float32(0)
                if half != half:
                    nan[p, c], half = 1, np.float32(0)
                half = np.float32(abs(half) if places != 0 else 0)
                halves[p, g, c] = half
                exponents[p, g, c] = _exponent(np.float64(half), is_e4m3) if half != 0 else 0
                nonzero[p, g, c] = places if half != 0 else 0
        for c in range(16):
            own = np.empty((limits.shape[1], 2), np.float32)
            _limits_of(exponents[p, :, c], nonzero[p, :, c], own)
            for s in range(limits.shape[1]):
                limits[p, s, 0, c] = own[s, 0]
                limits[p, s, 1, c] = own[s, 1] * np.float32(2.0**-27)
            if block == 2 * GROUP:
                for g in range(0, halves.shape[1], 2):
                    halves[p, g, c] = max(halves[p, g, c], halves[p, g + 1, c])


def _left_ready(left: LeftOperand) -> tuple[np.ndarray, ...]:
    most = max(ROWS.values())
    rows, groups = -(-left.shape[0] // most) * most, -(-left.shape[1] // STEP) * GROUPS
    ready = aligned_empty((rows, groups * GROUP), np.int8)
    words, exponents = aligned_empty((rows, 2 * groups), np.int32), aligned_empty((rows, groups), np.int32)
    nonzero, limits = aligned_empty((rows, groups), np.int32), aligned_empty((rows, groups // GROUPS, 2), np.float32)
    nan = np.zeros(rows, np.uint8)
    arguments = left.values[:rows], left.scales[:rows], left.family == "nvfp4", left.block
    _ready_left(*arguments, ready, words, exponents, nonzero, limits, nan)
    return ready, words, exponents, nonzero, limits, nan


def _right_ready(right: RightOperand) -> tuple[np.ndarray, ...]:
    panels, groups = right.codes.shape[0], -(-right.shape[1] // STEP) * GROUPS
    shape = panels, groups, 16
    halves, exponents, nonzero = (aligned_empty(shape, t) for t in (np.float32, np.int32, np.int32))
    limits, nan = aligned_empty((panels, groups // GROUPS, 2, 16), np.float32), np.zeros((panels, 16), np.uint8)
    table = half_scales(right.family)
    arguments = right.codes, right.scales, table, right.family == "nvfp4", right.block
    _ready_right(*arguments, halves, exponents, nonzero, limits, nan)
    return halves, exponents, nonzero, limits, nan


# ---- one step as the definition has it


@jit
def _truncated(v):  # type: ignore[no-untyped-def]
    """A float64 truncated toward zero to float32; 2**128 and more is Inf."""
    nearest = np.float32(v)
    if abs(v) >= 2.0**128 or abs(np.float64(nearest)) <= abs(v):
        return nearest
    return np.nextafter(nearest, np.float32(0))


@jit
def _exact_step(c, left, right, left_words, right_halves, left_exponents, right_exponents, left_nonzero, right_nonzero):  # type: ignore[no-untyped-def]
    """c and four groups. Arguments are those of one row and one column: 64 values each, 4 of everything else."""
    if not math.isfinite(c):
        return c
    largest = -10000
    for g in range(GROUPS):
        any_product = (left_nonzero[g] & right_nonzero[g]) != 0
        largest = max(largest, left_exponents[g] + right_exponents[g] if any_product else ZERO_EXPONENT)
    largest = max(largest, max(math.frexp(c)[1] - 1, -126) if c != 0 else ZERO_EXPONENT)
    grid = math.ldexp(1.0, FRACTION_BITS - largest)
    total = np.trunc(np.float64(c) * grid)
    for g in range(GROUPS):
        dot = 0
        for i in range(g * GROUP, g * GROUP + GROUP):
            dot += np.int64(left[i]) * (np.int64(right[i]) - OFFSET)
        scale = np.float64(left_words[2 * g + 1]) * np.float64(right_halves[g])
        total += np.trunc(np.float64(dot) * scale * grid)
    return _truncated(math.ldexp(total, largest - FRACTION_BITS)) + np.float32(0)


@jit
def _gather(decoded, k, column, into):  # type: ignore[no-untyped-def]
    """64 decoded values of one column, from bytes [K/4][16][4]."""
    for i in range(STEP):
        at = k + i
        into[i] = decoded[(at // 4 * 16 + column) * 4 + at % 4]


@jit
def _decode_plain(codes, decoded):  # type: ignore[no-untyped-def]
    """The values of a panel, plus `OFFSET`, column by column: bytes [16][K]."""
    for i in range(codes.shape[0]):
        for c in range(16):
            for j in range(4):
                byte = codes[i, c, j]
                for half in range(2):
                    code = (byte >> (4 * half)) & 15
                    m = np.int64(code & 7)
                    size = max(m, 2 * m - 4, 4 * m - 16)
                    decoded[c, 8 * i + 4 * half + j] = OFFSET + (-size if code & 8 else size)


# ---- the product


@jit
def _redo(bits, m, s, old, new, decoded, left, right, values):  # type: ignore[no-untyped-def]
    """The outputs whose bits are set, of the tile from row m on, step s, again: from `old` accumulators into `new`."""
    ready, words, left_exponents, left_nonzero = left
    halves, right_exponents, right_nonzero = right
    groups = slice(s * GROUPS, s * GROUPS + GROUPS)
    columns = bits | bits >> 16 | bits >> 32 | bits >> 48
    for c in range(16):
        if (columns >> c) & 1:
            _gather(decoded, s * STEP, c, values)
            for r in range(len(old)):
                if (bits >> (16 * r + c)) & 1:
                    new[r, c] = _exact_step(
                        old[r, c],
                        ready[m + r, s * STEP : s * STEP + STEP],
                        values,
                        words[m + r, 2 * s * GROUPS : 2 * (s + 1) * GROUPS].view(np.float32),
                        halves[groups, c],
                        left_exponents[m + r, groups],
                        right_exponents[groups, c],
                        left_nonzero[m + r, groups],
                        right_nonzero[groups, c],
                    )


@pjit
def _fast_product(team, variant, left, right, codes, factors, add, out):  # type: ignore[no-untyped-def]
    ready, words, left_exponents, left_nonzero, limits = left
    halves, right_exponents, right_nonzero, right_limits = right
    steps, panels, rows = limits.shape[1], codes.shape[0], ready.shape[0]
    chunks, at_once = -(-rows // _ROWS_AT_ONCE), step_rows(variant)
    for task in share(team, panels * chunks):
        p, chunk = task // chunks, task % chunks
        decoded = np.full(steps * STEP * 16, OFFSET, np.uint8)
        decode(variant, codes[p].ctypes.data, decoded.ctypes.data, codes.shape[1])
        sums, values = np.zeros((2, at_once, 16), np.float32), np.empty(STEP, np.uint8)
        sums_at, values_at, words_at = sums.ctypes.data, ready.ctypes.data, words.ctypes.data
        limits_at, decoded_at = limits.ctypes.data, decoded.ctypes.data
        halves_at, right_limits_at = halves[p].ctypes.data, right_limits[p].ctypes.data
        left_parts = ready, words, left_exponents, left_nonzero
        right_parts = halves[p], right_exponents[p], right_nonzero[p]
        for m in range(chunk * _ROWS_AT_ONCE, min(rows, (chunk + 1) * _ROWS_AT_ONCE), at_once):
            for s in range(steps):
                old, new = s % 2, 1 - s % 2
                bits = step_tile(
                    variant, values_at + m * steps * STEP + s * STEP, steps * STEP, words_at + (m * steps + s) * 32,
                    steps * 32, limits_at + (m * steps + s) * 8, steps * 8, decoded_at + s * STEP * 16,
                    halves_at + s * GROUPS * 64, right_limits_at + s * 128, sums_at + old * at_once * 64,
                    sums_at + new * at_once * 64, 1 if s == 0 else 0,
                )  # fmt: skip
                if s == 0:
                    sums[0] = 0
                if bits != 0:
                    _redo(bits, m, s, sums[old], sums[new], decoded, left_parts, right_parts, values)
            last = sums[steps % 2]
            for r in range(min(at_once, out.shape[0] - m)):
                for c in range(min(16, out.shape[1] - p * 16)):
                    value = last[r, c] * factors[m + r]
                    out[m + r, p * 16 + c] = out[m + r, p * 16 + c] + value if add else value


@pjit
def _plain_product(team, left, right, codes, factors, add, out):  # type: ignore[no-untyped-def]
    """Every step as the definition has it: for machines without AVX2, and for scales far from 1."""
    ready, words, left_exponents, left_nonzero = left
    halves, right_exponents, right_nonzero = right
    groups = halves.shape[1]
    for p in share(team, codes.shape[0]):
        decoded = np.full((16, groups * GROUP), OFFSET, np.uint8)
        _decode_plain(codes[p], decoded)
        for m in range(out.shape[0]):
            for c in range(min(16, out.shape[1] - p * 16)):
                total = np.float32(0)
                for g in range(0, groups, GROUPS):
                    at, part = slice(g * GROUP, g * GROUP + STEP), slice(g, g + GROUPS)
                    total = _exact_step(
                        total,
                        ready[m, at],
                        decoded[c, at],
                        words[m, 2 * g : 2 * (g + GROUPS)].view(np.float32),
                        halves[p, part, c],
                        left_exponents[m, part],
                        right_exponents[p, part, c],
                        left_nonzero[m, part],
                        right_nonzero[p, part, c],
                    )
                value = total * factors[m]
                out[m, p * 16 + c] = out[m, p * 16 + c] + value if add else value


def _is_safe(exponents: np.ndarray, nonzero: np.ndarray) -> bool:
    return not (np.abs(np.where(nonzero != 0, exponents, 0)) > _SAFE).any()


def fast_isa() -> str | None:
    """The instruction set of the fast loop: the chosen one, or the widest here that has the loop, or none."""
    chosen = cpu.choose_vector()
    return chosen if chosen in ROWS else next((isa for isa in ROWS if isa in cpu.available()), None)


def matmul(
    left: LeftOperand, right: RightOperand, out: np.ndarray | None = None, *, accumulate: bool = False
) -> np.ndarray:
    """The product `left @ right.T` of two FP4 operands, summed as Blackwell sums; parameters of `tensor_core.matmul`.

    Returns
    -------
    float32 (M, N): `out`, or a new array.

    Raises
    ------
    ValueError
        Operands of two formats or lengths, or an `out` of another shape.
    """
    check_pair(left, right)
    shape = (left.shape[0], right.shape[0])
    out = result_of(out, shape, accumulate)
    *left_parts, left_nan = _left_ready(left)
    *right_parts, right_nan = _right_ready(right)
    isa = fast_isa()
    fast = isa is not None
    if fast and left.family == "mxfp4":
        fast = _is_safe(left_parts[2], left_parts[3]) and _is_safe(right_parts[1], right_parts[2])
    factors = np.zeros(len(left_nan), np.float32)
    factors[: shape[0]] = left.factors[: shape[0]] * right.factor
    factors[left_nan != 0] = np.nan
    if fast:
        variant = Variant(isa, min(left.block, 2 * GROUP))
        _fast_product(variant, tuple(left_parts), tuple(right_parts), right.codes, factors, accumulate, out)
    else:
        _plain_product(tuple(left_parts[:-1]), tuple(right_parts[:-1]), right.codes, factors, accumulate, out)
    if right_nan.any():
        out[:, right_nan.reshape(-1)[: shape[1]] != 0] = np.nan
    return out
