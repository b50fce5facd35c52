"""The inner loop of products with few left rows: panels straight from their packed bytes, decoded in registers.

Such a product reads every byte of the weight once. What bounds it is how many instructions a byte costs: so
what belongs to a single left row (its bytes and scales, spread over a vector) is fetched once for several panels.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ..simd.intrinsics import F32, I1, I8, I32, Emitter, vec
from ..simd.variant import Variant, constant_of, variant_intrinsic
from .intrinsics_tile import (
    ISAS,
    Dots,
    register_decoder,
    start_of,
)
from .scale_words import PLAIN_SCALES, emit_half_scales, emit_plain_scales

AHEAD = 2048
"""Bytes of packed codes between those that are multiplied and those that are fetched meanwhile: for several rows.

One row costs so little arithmetic that the CPU looks far enough ahead by itself; asking it to costs more than it saves.
"""


def panels_at_once(isa: str, rows: int) -> int:
    """How many panels one pass multiplies: what belongs to the left is fetched once for all of them."""
    return 4 if rows == 1 and ISAS[isa].lanes == 16 else 1


def emit_matvec(name: str, block: int, family: str, rows: int) -> Callable[..., None]:
    """The code generator of the product of a few left rows with some panels, in one pass over their bytes.

    Every 64 code bytes are decoded once for all rows; scale bytes are decoded where they are used. With one row that
    is a large part of the work: it is done by `emit_plain_scales`, and then all over again by `emit_half_scales` if
    there was a byte that the former does not know, or a left scale that its factor makes infinite.
    """
    isa, panels = ISAS[name], panels_at_once(name, rows)
    lanes, parts = isa.lanes, 16 // isa.lanes
    n_bytes = lanes * 4
    byte_ty, int_ty, float_ty = vec(I8, n_bytes), vec(I32, lanes), vec(F32, lanes)
    columns = [(p, v) for p in range(panels) for v in range(parts)]
    keys = [(r, column) for r in range(rows) for column in columns]
    zeros = [ir.Constant(float_ty, None)] * len(keys)
    first_plain, last_plain, plain_factor = PLAIN_SCALES[family]

    def emit(e: Emitter, a, a_stride, start, a_scales, s_stride, codes, scales, blocks, have, out, out_stride):  # type: ignore[no-untyped-def]
        decoder = register_decoder(e, n_bytes, isa.offset)
        a_rows = [e.at(a, e.times(a_stride, r)) for r in range(rows)]
        start_rows = [e.at(start, e.times(s_stride, r)) for r in range(rows)]
        scale_rows = [e.at(a_scales, e.times(s_stride, r)) for r in range(rows)]

        def panel(p: int) -> ir.Value:
            """Its number; where there are fewer panels, the last one's again."""
            last = e.at(have, -1)
            return e.b.select(e.b.icmp_signed("<", e.int(p), last), e.int(p), last) if p else e.int(0)

        numbers = [panel(p) for p in range(panels)]
        first_codes = [e.at(codes, e.times(blocks, e.times(n, block * 8))) for n in numbers]
        scales_at = [e.at(scales, e.times(blocks, e.times(n, 16))) for n in numbers]

        def dots_of(i: ir.Value) -> list[ir.Value]:
            """The dot products of block i, float32."""
            a_at, b_at, s_at = (e.times(i, n) for n in (block, block * 8, 4))
            starts = [start_of(e, isa, e.at(start_rows[r], s_at)) for r in range(rows)]
            dots = Dots(e, isa, {(r, column): starts[r] for r, column in keys})
            for pair in range(block // 8):
                decoded = {}
                for p, v in columns:
                    line = e.at(first_codes[p], b_at, pair * 64)
                    if rows > 1 and v == 0:
                        e.prefetch(e.at(line, AHEAD))
                    decoded[p, v] = decoder(e.load(byte_ty, e.at(line, v * n_bytes)))
                for half in range(2):
                    group = pair * 2 + half
                    for r in range(rows):
                        left = e.splat(e.load(I32, e.at(a_rows[r], a_at, group * 4), align=1), lanes)
                        for column in columns:
                            dots.add((r, column), e.b.bitcast(decoded[column][half], int_ty), left)
                    dots.widen(group)
            return [e.b.sitofp(dots.total[key], float_ty) for key in keys]

        def added(i: ir.Value, scales_of: Callable, lefts: list[ir.Value], sums: list[ir.Value]) -> list[ir.Value]:
            """The accumulators with block i added."""
            dots = dots_of(i)
            right = {
                (p, v): scales_of(e, family, lanes, e.at(scales_at[p], e.times(i, 16), v * lanes)) for p, v in columns
            }
            return [
                e.fma(dot, e.b.fmul(lefts[r], right[column]), total)
                for (r, column), dot, total in zip(keys, dots, sums, strict=True)
            ]

        def left_scales(i: ir.Value) -> list[ir.Value]:
            return [e.splat(e.load(F32, e.at(row, e.times(i, 4))), lanes) for row in scale_rows]

        def finish(totals: list[ir.Value]) -> None:
            for (r, (p, v)), total in zip(keys, totals, strict=True):
                e.store(total, e.at(out, e.times(out_stride, r), p * 64 + v * n_bytes))

        def in_full() -> None:
            finish(e.loop(blocks, zeros, lambda i, sums: added(i, emit_half_scales, left_scales(i), sums)))

        def short(i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            *sums, largest = carried
            (left,) = (e.b.fmul(x, e.const(float_ty, plain_factor)) for x in left_scales(i))
            bits = e.b.bitcast(left, int_ty)
            return [*added(i, emit_plain_scales, [left], sums), e.call(f"llvm.umax.v{lanes}i32", int_ty, largest, bits)]

        if rows > 1:
            in_full()
            return
        *totals, largest = e.loop(blocks, [*zeros, ir.Constant(int_ty, None)], short)
        finish(totals)
        infinite = e.b.icmp_unsigned(">=", e.b.extract_element(largest, e.int(0, I32)), e.int(0x7F800000, I32))
        unknown = _emit_unknown(e, scales_at, blocks, first_plain, last_plain)
        with e.b.if_then(e.b.or_(infinite, unknown), likely=False):
            in_full()

    return emit


def _emit_unknown(e: Emitter, addresses: list[ir.Value], blocks: ir.Value, first: int, last: int) -> ir.Value:
    """Whether a byte outside first .. last is among the 16 bytes a block that begin at each address."""
    tops = []

    def look(wide: int, count: ir.Value, start: ir.Value) -> None:
        ty = vec(I8, wide)

        def one(i: ir.Value, tops: list[ir.Value]) -> list[ir.Value]:
            stored = [e.load(ty, e.at(address, e.times(i, wide))) for address in addresses]
            places = [e.b.sub(x, e.const(ty, first)) if first else x for x in stored]
            return [e.call(f"llvm.umax.v{wide}i8", ty, top, x) for top, x in zip(tops, places, strict=True)]

        for top in e.loop(count, [ir.Constant(ty, None)] * len(addresses), one, start=start):
            tops.append(e.call(f"llvm.vector.reduce.umax.v{wide}i8", I8, top))

    fours = e.b.udiv(blocks, e.int(4))
    look(64, fours, e.int(0))
    look(16, blocks, e.times(fours, 4))
    found = e.int(0, I1)
    for top in tops:
        found = e.b.or_(found, e.b.icmp_unsigned(">", top, e.int(last - first, I8)))
    return found


def _emit_matvec_of(variant: Variant, e: Emitter, *args: ir.Value) -> None:
    isa, family, rows = variant.words
    emit_matvec(isa, variant.block, family, int(rows))(e, *args)


matvec_panels = variant_intrinsic(11, _emit_matvec_of)
"""`matvec_panels(Variant("isa+format+rows", block), a, a_stride, start, a_scales, scales_stride, codes, scales,
blocks, have, out, out_stride)`: the columns of `panels_at_once` panels, of which `have` exist, from packed bytes."""

pass_rows = constant_of(lambda variant: int(variant.words[2]))
"""How many rows one call of `matvec_panels(variant, ...)` multiplies."""

pass_panels = constant_of(lambda variant: panels_at_once(variant.words[0], int(variant.words[2])))
"""How many panels."""
