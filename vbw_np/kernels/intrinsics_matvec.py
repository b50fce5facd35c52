"""The inner loop of products with few left rows: panels straight from their packed bytes, decoded in registers.

Such a product reads every byte of the weight once. What bounds it is how many instructions a byte costs: so
what belongs to a single left row (its bytes and scales, spread over a vector) is fetched once for several panels.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from .intrinsics import F32, I8, I32, Emitter, path_intrinsic, vec
from .intrinsics_tile import ISAS, Dots, KernelPath, emit_half_scales, register_decoder, start_of

AHEAD = 2048
"""Bytes of packed codes between those that are multiplied and those that are fetched meanwhile: for several rows.

One row costs so little arithmetic that the CPU looks far enough ahead by itself; asking it to costs more than it saves.
"""


def panels_at_once(path: str, rows: int) -> int:
    """How many panels one pass multiplies: what belongs to the left is fetched once for all of them."""
    return 4 if rows == 1 and ISAS[path].lanes == 16 else 1


def emit_matvec(kp: KernelPath, fmt: str, rows: int) -> Callable[..., None]:
    """The code generator of the product of a few left rows with some panels, in one pass over their bytes.

    Every 64 code bytes are decoded once for all rows; scale bytes are decoded where they are used.
    """
    isa, block, panels = ISAS[kp.path], kp.block, panels_at_once(kp.path, rows)
    lanes, parts = isa.lanes, 16 // isa.lanes
    n_bytes = lanes * 4
    byte_ty, int_ty, float_ty = vec(I8, n_bytes), vec(I32, lanes), vec(F32, lanes)
    columns = [(p, v) for p in range(panels) for v in range(parts)]
    keys = [(r, column) for r in range(rows) for column in columns]

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
        first_scales = [e.at(scales, e.times(blocks, e.times(n, 16))) for n in numbers]

        def one_block(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
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
            right = {
                (p, v): emit_half_scales(e, fmt, lanes, e.at(first_scales[p], e.times(i, 16), v * lanes))
                for p, v in columns
            }
            lefts = [e.splat(e.load(F32, e.at(row, s_at)), lanes) for row in scale_rows]
            return [
                e.fma(e.b.sitofp(dots.total[r, column], float_ty), e.b.fmul(lefts[r], right[column]), total)
                for (r, column), total in zip(keys, sums, strict=True)
            ]

        zeros = [ir.Constant(float_ty, None)] * len(keys)
        for (r, (p, v)), total in zip(keys, e.loop(blocks, zeros, one_block), strict=True):
            e.store(total, e.at(out, e.times(out_stride, r), p * 64 + v * n_bytes))

    return emit


def _emit_matvec_of(kp: KernelPath, e: Emitter, *args: ir.Value) -> None:
    path, fmt, rows = kp.path.split("+")
    emit_matvec(KernelPath(path, kp.block), fmt, int(rows))(e, *args)


matvec_panels = path_intrinsic(11, _emit_matvec_of)
"""`matvec_panels(KernelPath("path+format+rows", block), a, a_stride, start, a_scales, scales_stride, codes, scales,
blocks, have, out, out_stride)`: the columns of `panels_at_once` panels, of which `have` exist, from packed bytes."""


def _constant_of(number: Callable[[str, int], int]) -> Callable:
    def emit(kp: KernelPath, e: Emitter) -> ir.Value:
        path, _fmt, rows = kp.path.split("+")
        return e.int(number(path, int(rows)))

    return path_intrinsic(0, emit)


pass_rows, pass_panels = _constant_of(lambda path, rows: rows), _constant_of(panels_at_once)
"""How many rows and how many panels one call of `matvec_panels(kernel_path, ...)` multiplies."""
