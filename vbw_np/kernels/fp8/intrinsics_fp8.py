"""The inner loop of FP8 sums: one step of 32 products and the accumulator, 2 rows and 16 columns, in any vectors.

A product of two FP8 numbers has at most 8 significant bits and is exact in float32. The numbers stand beside their
powers of two: 2**e for a significand in [1, 2), the smallest normal power for a subnormal, 0 for a zero; so the largest
product of powers is 2**M. Every product, and the accumulator, is multiplied by 2**(F - M) and truncated to an integer.

- F = 13 (Hopper): integers below 2**15, 33 of them below 2**21: added up in float32. 13 fraction bits are kept.
- F = 25 (Blackwell): below 1.875**2 * 2**25, so sixteen are added up as int32, two sums in float64. It keeps 23 bits.

FP8 products reach from 2**-32 to 2**32, so nothing here is subnormal and nothing overflows.
"""

from __future__ import annotations

from llvmlite import ir

from ...simd.intrinsics import F32, I32, I64, Emitter, loop_intrinsic, vec

ROWS, COLUMNS, STEP, LANES = 2, 16, 32, 8
F64 = ir.DoubleType()

STEP_ARGUMENTS = (
    "values",  # float32, the first of a row's 32 left values; their powers lie `powers` bytes further
    "stride",  # bytes from one row to the next
    "powers",  # bytes from values to powers, left
    "right",  # float32 [32][16]: right values; their powers lie `right_powers` bytes further
    "right_powers",
    "c",  # float32 [2][16]: accumulators, in and out
)
"""The arguments of the loops, all int64; addresses unless said otherwise."""

_FRACTION = {13: (F32, I32, -(1 << 10)), 25: (F64, I64, -(1 << 29))}
"""By F: the type that sums are exact in, its integers, the bits of it that the output keeps."""


def _step(fraction_bits: int):  # type: ignore[no-untyped-def]
    real, integer, kept = _FRACTION[fraction_bits]
    float_ty, word_ty, wide_ty = vec(F32, LANES), vec(I32, LANES), vec(real, LANES)

    def emit(e: Emitter, values, stride, powers, right, right_powers, c) -> None:  # type: ignore[no-untyped-def]
        b = e.b
        tile = [(r, v) for r in range(ROWS) for v in range(COLUMNS // LANES)]
        rows = [e.at(values, e.times(stride, r)) for r in range(ROWS)]
        before = {key: e.load(float_ty, e.at(c, 64 * key[0] + 32 * key[1])) for key in tile}

        def both(k: ir.Value, left: int | ir.Value, wanted: int | ir.Value) -> tuple[list, list]:
            """A column of left numbers, and 16 right ones."""
            ours = [e.splat(e.load(F32, e.at(row, e.times(k, 4), left)), LANES) for row in rows]
            theirs = [e.load(float_ty, e.at(right, e.times(k, 64), 32 * v, wanted)) for v in range(COLUMNS // LANES)]
            return ours, theirs

        def largest(k: ir.Value, found: list[ir.Value]) -> list[ir.Value]:
            ours, theirs = both(k, powers, right_powers)
            products = [b.fmul(ours[r], theirs[v]) for r, v in tile]
            return [e.fmax(product, most) for product, most in zip(products, found, strict=True)]

        exponent = e.const(word_ty, 0x7F800000)
        most = [b.bitcast(b.and_(b.bitcast(before[key], word_ty), exponent), float_ty) for key in tile]
        most = e.loop(e.int(STEP), most, largest)
        zero, one = ir.Constant(float_ty, None), e.const(float_ty, 1.0)
        most = [b.select(b.fcmp_ordered("==", value, zero), one, value) for value in most]
        grids = [b.fdiv(e.const(float_ty, 2.0**fraction_bits), value) for value in most]

        def cut(value: ir.Value, grid: ir.Value) -> ir.Value:
            scaled = b.fmul(value, grid)
            return e.call(f"llvm.trunc.v{LANES}f32", float_ty, scaled) if real is F32 else b.fptosi(scaled, word_ty)

        def add(k: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
            ours, theirs = both(k, 0, 0)
            terms = [cut(b.fmul(ours[r], theirs[v]), grid) for (r, v), grid in zip(tile, grids, strict=True)]
            return [(b.fadd if real is F32 else b.add)(*pair) for pair in zip(totals, terms, strict=True)]

        start = [cut(before[key], grid) for key, grid in zip(tile, grids, strict=True)]
        totals = e.loop(e.int(STEP), start, add) if real is F32 else [b.sitofp(x, wide_ty) for x in start]
        for first in (0, STEP // 2) if real is F64 else ():
            half = e.loop(e.int(first + STEP // 2), [ir.Constant(word_ty, None)] * len(tile), add, start=first)
            totals = [b.fadd(x, b.sitofp(y, wide_ty)) for x, y in zip(totals, half, strict=True)]
        int_ty = vec(integer, LANES)
        for (r, v), total, value in zip(tile, totals, most, strict=True):
            short = b.bitcast(b.and_(b.bitcast(total, int_ty), e.const(int_ty, kept)), wide_ty)
            short = short if real is F32 else b.fptrunc(short, float_ty)
            unit = b.fmul(value, e.const(float_ty, 2.0**-fraction_bits))
            e.store(b.fadd(b.fmul(short, unit), zero), e.at(c, 64 * r + 32 * v))  # + 0: a zero has no sign

    return emit


step_hopper = loop_intrinsic(len(STEP_ARGUMENTS), _step(13))
step_blackwell = loop_intrinsic(len(STEP_ARGUMENTS), _step(25))
"""`step_*(*STEP_ARGUMENTS)`: the accumulators after one step."""
