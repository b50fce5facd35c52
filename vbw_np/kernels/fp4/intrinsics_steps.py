"""The inner loop of sums as Blackwell forms them: one k64 step of a tile of some rows and 16 columns, on x86 vectors.

A step adds four groups of 16 products and the accumulator, each cut off at 35 bits below the largest exponent, and cuts
the sum off at 24 bits (`vbw_np.formats.accumulate`). Where nothing lies so far below the largest exponent, only the
last cut takes anything away. Then the sum is exact in float64 (49 bits) and one `and` truncates it. The loop does that,
and says for each output whether it was allowed to:

- groups: their smallest exponent is at most 27 below the largest (35, less the 8 fraction bits of a scaled group);
- c: its exponent is at most 12 below the largest (35 less its own 23), or it is zero.

Both are held against bounds: the largest and the smallest of a row's exponents in the step, times those of the column.
What fails is done again by the caller, step by step as the definition has it.

Two groups of a block of 32 (MXFP4) have one scale, so what they add is one number: their dot products are summed as
integers, which takes half the conversions.
"""

from __future__ import annotations

from llvmlite import ir

from ...simd.intrinsics import F32, I32, I64, Emitter, vec
from ...simd.variant import Variant, constant_of, variant_intrinsic
from .intrinsics_tile import ISAS, Dots, start_sums

ROWS = {"avx512vnni": 4, "avxvnni": 2, "avx2": 2}
"""The instruction sets that have the loop, and the rows of their tile: as many as registers hold."""

COLUMNS = 16
STEP, GROUP = 64, 16
F64 = ir.DoubleType()

STEP_ARGUMENTS = (
    "a",  # left values: int8, the first of the step
    "a_stride",  # bytes from one row to the next
    "words",  # a row's groups: int32 where its dot product starts, float32 half scale; a block's, in its first group
    "words_stride",  # bytes from one row to the next
    "limits",  # a row's float32 largest and smallest power of two (the latter times 2**27)
    "limits_stride",
    "b",  # right values + 12, bytes [K/4][16][4]
    "scales",  # float32 half scales [4][16]; a block's, in its first group
    "b_limits",  # float32 [2][16]: largest, smallest power of two of the columns
    "c",  # float32 [rows][16]: accumulators in
    "out",  # float32 [rows][16]: accumulators out
    "first",  # 1: c is zero, whatever lies there
)
"""The arguments of the loop, all int64; addresses unless said otherwise."""

_WHOLE_FLOAT = -(1 << 29)
"""The bits of a float64 that a float32 has."""


def _emit_step(variant: Variant, e: Emitter, a, a_stride, words, words_stride, limits, limits_stride,  # type: ignore[no-untyped-def]
               b, scales, b_limits, c, out, first) -> ir.Value:  # fmt: skip
    isa, build = ISAS[variant.name], e.b
    lanes, count, vectors = isa.lanes, ROWS[variant.name], range(COLUMNS // isa.lanes)
    float_ty, wide_ty, int_ty, bits_ty = (vec(each, lanes) for each in (F32, F64, I32, I64))
    tile = [(r, v) for r in range(count) for v in vectors]
    places = {(r, v): 4 * (COLUMNS * r + lanes * v) for r, v in tile}
    before = dict(zip(tile, start_sums(e, float_ty, first, [e.at(c, place) for place in places.values()]), strict=True))
    totals = {key: build.fpext(value, wide_ty) for key, value in before.items()}
    rows = [(e.at(a, e.times(a_stride, r)), e.at(words, e.times(words_stride, r))) for r in range(count)]
    for k in range(0, STEP, variant.block):
        g = k // GROUP
        starts = [e.splat(e.load(I32, e.at(word, 8 * g)), lanes) for _, word in rows]
        left_scales = [e.splat(e.load(F32, e.at(word, 8 * g + 4)), lanes) for _, word in rows]
        right_scales = [e.load(float_ty, e.at(scales, 64 * g + 4 * lanes * v)) for v in vectors]
        dots = Dots(e, isa, {(r, v): starts[r] for r, v in tile}, variant.block // 4, in_order=True)
        for part in range(variant.block // 4):
            right = [e.load(int_ty, e.at(b, 16 * k + 64 * part + 4 * lanes * v)) for v in vectors]
            for r, (row, _) in enumerate(rows):
                left = e.splat(e.load(I32, e.at(row, k + 4 * part), align=1), lanes)
                for v in vectors:
                    dots.add((r, v), right[v], left)
            dots.widen(part)
        for r, v in tile:  # at most 21 significant bits: exact in float32
            scaled = build.fmul(build.sitofp(dots.total[r, v], float_ty), build.fmul(left_scales[r], right_scales[v]))
            totals[r, v] = build.fadd(totals[r, v], build.fpext(scaled, wide_ty))
    for key, total in totals.items():
        cut = build.and_(build.bitcast(total, bits_ty), e.const(bits_ty, _WHOLE_FLOAT))
        e.store(build.fptrunc(build.bitcast(cut, wide_ty), float_ty), e.at(out, places[key]))
    return _emit_judgement(e, lanes, before, limits, limits_stride, b_limits)


def _emit_judgement(e: Emitter, lanes: int, before, limits, limits_stride, b_limits) -> ir.Value:  # type: ignore[no-untyped-def]
    """One bit an output, row by row: set where the sum has to be done again."""
    build, float_ty = e.b, vec(F32, lanes)
    mask, below, zero = e.int(0), e.const(float_ty, 2.0**-12), ir.Constant(float_ty, None)
    for (r, v), value in before.items():
        row = e.at(limits, e.times(limits_stride, r))
        largest, smallest = (
            build.fmul(
                e.splat(e.load(F32, e.at(row, 4 * i)), lanes),
                e.load(float_ty, e.at(b_limits, 4 * (COLUMNS * i + lanes * v))),
            )
            for i in range(2)
        )
        size = e.call(f"llvm.fabs.v{lanes}f32", float_ty, value)
        good = build.and_(build.fcmp_ordered("<=", largest, smallest), build.fcmp_ordered("<=", size, smallest))
        near = build.fcmp_ordered(">=", size, build.fmul(largest, below))
        good = build.and_(good, build.or_(near, build.fcmp_ordered("==", size, zero)))
        bits = build.zext(build.bitcast(build.not_(good), ir.IntType(lanes)), I64)
        mask = build.or_(mask, build.shl(bits, e.int(COLUMNS * r + lanes * v)))
    return mask


step_tile = variant_intrinsic(len(STEP_ARGUMENTS), _emit_step)
"""`step_tile(variant, *STEP_ARGUMENTS)`: the accumulators after one step; returns the bits of those to be done again.

The variant's block is 16, or 32 where two groups have one scale.
"""

step_rows = constant_of(lambda variant: ROWS[variant.name])
"""`step_rows(variant)`: the rows of the tile."""
