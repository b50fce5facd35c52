"""The inner loop of sums as Blackwell forms them: one k64 step of a tile of 2 rows and 16 columns, on AVX2.

A step adds four groups of 16 products and the accumulator, each cut off at 35 bits below the largest exponent, and cuts
the sum off at 24 bits (`vbw_np.formats.accumulate`). Where nothing lies so far below the largest exponent, only the
last cut takes anything away. Then the sum is exact in float64 (49 bits) and one `and` truncates it. The loop does that,
and says for each output whether it was allowed to:

- groups: their smallest exponent is at most 27 below the largest (35, less the 8 fraction bits of a scaled group);
- c: its exponent is at most 12 below the largest (35 less its own 23).

Both are held against bounds: the largest and the smallest of a row's exponents in the step, times those of the column.
What fails is done again by the caller, step by step as the definition has it.
"""

from __future__ import annotations

from llvmlite import ir

from ..simd.intrinsics import F32, I32, I64, Emitter, loop_intrinsic, vec
from .intrinsics_tile import ISAS, Dots

ROWS, COLUMNS, LANES = 2, 16, 8
STEP, GROUP = 64, 16
F64 = ir.DoubleType()

STEP_ARGUMENTS = (
    "a",  # left values: int8, the first of the step
    "a_stride",  # bytes from one row to the next
    "words",  # a row's groups: int32 where its dot product starts, float32 half scale
    "words_stride",  # bytes from one row to the next
    "limits",  # a row's float32 largest and smallest power of two (the latter times 2**27)
    "limits_stride",
    "b",  # right values + 12, bytes [K/4][16][4]
    "scales",  # float32 half scales [4][16]
    "b_limits",  # float32 [2][16]: largest, smallest power of two of the columns
    "c",  # float32 [2][16]: accumulators in
    "out",  # float32 [2][16]: accumulators out
    "first",  # 1: c is zero, whatever lies there
)
"""The arguments of the loop, all int64; addresses unless said otherwise."""

_WHOLE_FLOAT = -(1 << 29)
"""The bits of a float64 that a float32 has."""


def _emit_step(e: Emitter, a, a_stride, words, words_stride, limits, limits_stride,  # type: ignore[no-untyped-def]
               b, scales, b_limits, c, out, first) -> ir.Value:  # fmt: skip
    isa, build = ISAS["avx2"], e.b
    float_ty, wide_ty, int_ty = vec(F32, LANES), vec(F64, LANES), vec(I32, LANES)
    tile = [(r, v) for r in range(ROWS) for v in range(COLUMNS // LANES)]
    fresh = build.icmp_signed("!=", first, e.int(0))
    zero = ir.Constant(float_ty, None)
    before = {key: build.select(fresh, zero, e.load(float_ty, e.at(c, 64 * key[0] + 32 * key[1]))) for key in tile}
    totals = {key: build.fpext(value, wide_ty) for key, value in before.items()}
    rows = [(e.at(a, e.times(a_stride, r)), e.at(words, e.times(words_stride, r))) for r in range(ROWS)]
    for g in range(STEP // GROUP):
        starts = [e.splat(e.load(I32, e.at(word, 8 * g)), LANES) for _, word in rows]
        left_scales = [e.splat(e.load(F32, e.at(word, 8 * g + 4)), LANES) for _, word in rows]
        right_scales = [e.load(float_ty, e.at(scales, 64 * g + 32 * v)) for v in range(COLUMNS // LANES)]
        dots = Dots(e, isa, {(r, v): starts[r] for r, v in tile})
        for part in range(GROUP // 4):
            right = [e.load(int_ty, e.at(b, 256 * g + 64 * part + 32 * v)) for v in range(COLUMNS // LANES)]
            for r, (row, _) in enumerate(rows):
                left = e.splat(e.load(I32, e.at(row, GROUP * g + 4 * part), align=1), LANES)
                for v in range(COLUMNS // LANES):
                    dots.add((r, v), right[v], left)
            dots.widen(part)
        for r, v in tile:  # at most 20 significant bits: exact in float32
            scaled = build.fmul(build.sitofp(dots.total[r, v], float_ty), build.fmul(left_scales[r], right_scales[v]))
            totals[r, v] = build.fadd(totals[r, v], build.fpext(scaled, wide_ty))
    wide_int = vec(I64, LANES)
    for key, total in totals.items():
        cut = build.and_(build.bitcast(total, wide_int), e.const(wide_int, _WHOLE_FLOAT))
        e.store(build.fptrunc(build.bitcast(cut, wide_ty), float_ty), e.at(out, 64 * key[0] + 32 * key[1]))
    return _emit_judgement(e, tile, before, limits, limits_stride, b_limits, fresh)


def _emit_judgement(e: Emitter, tile, before, limits, limits_stride, b_limits, fresh) -> ir.Value:  # type: ignore[no-untyped-def]
    """One bit an output, row by row: set where the sum has to be done again."""
    build, float_ty = e.b, vec(F32, LANES)
    mask, scalar = e.int(0), ir.Constant(F32, 2.0**-12)
    below = e.splat(build.select(fresh, ir.Constant(F32, 0.0), scalar), LANES)
    for r, v in tile:
        row = e.at(limits, e.times(limits_stride, r))
        largest, smallest = (
            build.fmul(e.splat(e.load(F32, e.at(row, 4 * i)), LANES), e.load(float_ty, e.at(b_limits, 64 * i + 32 * v)))
            for i in range(2)
        )
        size = e.call("llvm.fabs.v8f32", float_ty, before[r, v])
        good = build.and_(build.fcmp_ordered("<=", largest, smallest), build.fcmp_ordered("<=", size, smallest))
        good = build.and_(good, build.fcmp_ordered(">=", size, build.fmul(largest, below)))
        bits = build.zext(build.bitcast(build.not_(good), ir.IntType(LANES)), I64)
        mask = build.or_(mask, build.shl(bits, e.int(COLUMNS * r + LANES * v)))
    return mask


step_tile = loop_intrinsic(len(STEP_ARGUMENTS), _emit_step)
"""`step_tile(*STEP_ARGUMENTS)`: the accumulators after one step; returns the bits of those to be done again."""
