"""The inner loop of products with few left rows: panels straight from their packed bytes, decoded in registers.

Such a product reads every byte of the weight once. What bounds it is how many instructions a byte costs: so
what belongs to a single left row (its bytes and scales, spread over a vector) is fetched once for several panels.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils

from ...simd.intrinsics import F32, I1, I8, I32, I64, Emitter, vec
from ...simd.variant import Variant, constant_of, variant_intrinsic
from .intrinsics_tile import ISAS, DotIsa, Dots, register_decoder, start_of
from .scale_words import PLAIN_SCALES, emit_half_scales, emit_plain_scales

AHEAD = 2048
"""Bytes of packed codes between those that are multiplied and those that are fetched meanwhile: for several rows.

One row costs so little arithmetic that the CPU looks far enough ahead by itself; asking it to costs more than it saves.
"""


def panels_at_once(isa: str, rows: int) -> int:
    """How many panels one pass multiplies: what belongs to the left is fetched once for all of them."""
    return 4 if rows == 1 and ISAS[isa].lanes == 16 else 1


def _emit_dots(e: Emitter, isa: DotIsa, block: int, right_of: Callable, lefts: dict, starts: dict, columns) -> dict:  # type: ignore[no-untyped-def]
    """The dot products of a block, float32 by (row, column): `right_of(group, column)` times the rows at `lefts`."""
    dots = Dots(e, isa, {(r, column): starts[r] for r in lefts for column in columns}, in_order=isa.lanes == 8)
    for group in range(block // 4):
        right = {column: right_of(group, column) for column in columns}
        for r, at in lefts.items():
            left = e.splat(e.load(I32, e.at(at, group * 4), align=1), isa.lanes)
            for column in columns:
                dots.add((r, column), right[column], left)
        dots.widen(group)
    return {key: e.b.sitofp(dot, vec(F32, isa.lanes)) for key, dot in dots.total.items()}


def _decoded(e: Emitter, isa: DotIsa, decoder: Callable, lines: dict, ahead: bool) -> Callable:
    """`right_of(group, column)` of the code bytes from `lines[column]` on, decoded when they are first asked for."""
    found: dict = {}

    def right_of(group: int, column: object) -> ir.Value:
        pair, half = divmod(group, 2)
        if (pair, column) not in found:
            line = e.at(lines[column], pair * 64)
            if ahead and column == 0:
                e.prefetch(e.at(line, AHEAD))
            found[pair, column] = decoder(e.load(vec(I8, isa.lanes * 4), line))
        return e.b.bitcast(found[pair, column][half], vec(I32, isa.lanes))

    return right_of


def emit_one_row(name: str, block: int, family: str) -> Callable[..., None]:
    """The code generator of the product of one left row with some panels, in one pass over their bytes.

    Decoding scale bytes is a large part of the work: `emit_plain_scales` does it, and all is done again with
    `emit_half_scales` if there was a byte that the former does not know, or a left scale made infinite by its factor.
    """
    isa, panels = ISAS[name], panels_at_once(name, 1)
    lanes = isa.lanes
    int_ty, float_ty = vec(I32, lanes), vec(F32, lanes)
    columns = [(p, v) for p in range(panels) for v in range(16 // lanes)]
    zeros = [ir.Constant(float_ty, None)] * len(columns)
    first_plain, last_plain, plain_factor = PLAIN_SCALES[family]

    def emit(e: Emitter, a, a_stride, start, a_scales, s_stride, codes, scales, blocks, have, out, out_stride):  # type: ignore[no-untyped-def]
        decoder = register_decoder(e, lanes * 4, isa.offset)

        def panel(p: int) -> ir.Value:
            """Its number; where there are fewer panels, the last one's again."""
            last = e.at(have, -1)
            return e.b.select(e.b.icmp_signed("<", e.int(p), last), e.int(p), last) if p else e.int(0)

        numbers = [panel(p) for p in range(panels)]
        first_codes = [e.at(codes, e.times(blocks, e.times(n, block * 8))) for n in numbers]
        scales_at = [e.at(scales, e.times(blocks, e.times(n, 16))) for n in numbers]

        def added(i: ir.Value, scales_of: Callable, left: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            """The accumulators with block i added."""
            lines = {(p, v): e.at(first_codes[p], e.times(i, block * 8), v * lanes * 4) for p, v in columns}
            starts = {0: start_of(e, isa, e.at(start, e.times(i, 4)))}
            right_of = _decoded(e, isa, decoder, lines, False)
            dots = _emit_dots(e, isa, block, right_of, {0: e.at(a, e.times(i, block))}, starts, columns)
            right = [scales_of(e, family, lanes, e.at(scales_at[p], e.times(i, 16), v * lanes)) for p, v in columns]
            return [e.fma(dots[0, c], e.b.fmul(left, x), y) for c, x, y in zip(columns, right, sums, strict=True)]

        def left_scale(i: ir.Value) -> ir.Value:
            return e.splat(e.load(F32, e.at(a_scales, e.times(i, 4))), lanes)

        def finish(totals: list[ir.Value]) -> None:
            for (p, v), total in zip(columns, totals, strict=True):
                e.store(total, e.at(out, p * 64 + v * lanes * 4))

        def short(i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            *sums, largest = carried
            left = e.b.fmul(left_scale(i), e.const(float_ty, plain_factor))
            bits = e.b.bitcast(left, int_ty)
            return [*added(i, emit_plain_scales, left, sums), e.call(f"llvm.umax.v{lanes}i32", int_ty, largest, bits)]

        *totals, largest = e.loop(blocks, [*zeros, ir.Constant(int_ty, None)], short)
        finish(totals)
        infinite = e.b.icmp_unsigned(">=", e.b.extract_element(largest, e.int(0, I32)), e.int(0x7F800000, I32))
        unknown = _emit_unknown(e, scales_at, blocks, first_plain, last_plain)
        with e.b.if_then(e.b.or_(infinite, unknown), likely=False):
            finish(e.loop(blocks, zeros, lambda i, sums: added(i, emit_half_scales, left_scale(i), sums)))

    return emit


def emit_rows(name: str, block: int, family: str, rows: int) -> Callable[..., None]:
    """The same of several rows with one panel: a block is decoded once for all of them.

    Where registers are few, all but one block's dot products is in memory: the decoded block, which stays in the
    first-level cache, and the sums, in `out`; and four rows are multiplied at a time, or two where sums of 16 bits take
    registers too.
    """
    isa = ISAS[name]
    lanes, many = isa.lanes, isa.lanes == 16
    at_once = rows if many else 4 if isa.wide else 2
    int_ty, float_ty, columns, n_bytes = vec(I32, lanes), vec(F32, lanes), list(range(16 // lanes)), lanes * 4
    keys = [(r, v) for r in range(rows) for v in columns]

    def emit(e: Emitter, a, a_stride, start, a_scales, s_stride, codes, scales, blocks, have, out, out_stride):  # type: ignore[no-untyped-def]
        decoder = register_decoder(e, n_bytes, isa.offset)
        places = {(r, v): e.at(out, e.times(out_stride, r), v * n_bytes) for r, v in keys}
        room = cgutils.alloca_once(e.b, ir.ArrayType(int_ty, block // 4 * len(columns)))
        decoded = e.opaque(e.b.ptrtoint(room, I64))

        def in_room(group: int, v: int) -> ir.Value:
            return e.at(decoded, (group * len(columns) + v) * n_bytes)

        def one_block(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            lines = {v: e.at(codes, e.times(i, block * 8), v * n_bytes) for v in columns}
            right_of, added = _decoded(e, isa, decoder, lines, True), []
            if not many:
                for group, v in [(group, v) for group in range(block // 4) for v in columns]:
                    e.store(right_of(group, v), in_room(group, v))
                right_of = lambda group, v: e.load(int_ty, in_room(group, v))  # noqa: E731
            scales_at = e.at(scales, e.times(i, 16))
            right = [emit_half_scales(e, family, lanes, e.at(scales_at, v * lanes)) for v in columns]
            for first in range(0, rows, at_once):
                some = range(first, min(first + at_once, rows))
                lefts = {r: e.at(a, e.times(a_stride, r), e.times(i, block)) for r in some}
                starts = {r: start_of(e, isa, e.at(start, e.times(s_stride, r), e.times(i, 4))) for r in some}
                for (r, v), dot in _emit_dots(e, isa, block, right_of, lefts, starts, columns).items():
                    left = e.splat(e.load(F32, e.at(a_scales, e.times(s_stride, r), e.times(i, 4))), lanes)
                    old = sums[keys.index((r, v))] if many else e.load(float_ty, places[r, v])
                    total = e.fma(dot, e.b.fmul(left, right[v]), old)
                    added.append(total) if many else e.store(total, places[r, v])
            return added

        zero = ir.Constant(float_ty, None)
        for place in places.values():
            e.store(zero, place)
        for place, total in zip(places.values(), e.loop(blocks, [zero] * len(keys) if many else [], one_block)):
            e.store(total, place)

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
    how = isa, variant.block, family
    (emit_one_row(*how) if rows == "1" else emit_rows(*how, int(rows)))(e, *args)


matvec_panels = variant_intrinsic(11, _emit_matvec_of)
"""`matvec_panels(Variant("isa+format+rows", block), a, a_stride, start, a_scales, scales_stride, codes, scales,
blocks, have, out, out_stride)`: the columns of `panels_at_once` panels, of which `have` exist, from packed bytes."""

pass_rows = constant_of(lambda variant: int(variant.words[2]))
"""How many rows one call of `matvec_panels(variant, ...)` multiplies."""

pass_panels = constant_of(lambda variant: panels_at_once(variant.words[0], int(variant.words[2])))
"""How many panels."""
