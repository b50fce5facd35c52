"""The inner loops of the virtual tensor core on Intel AMX: 16 x 16 tiles, one tile product a block.

An E2M1 value times its block scale (E4M3, or a power of two) has at most six significant bits: it is *exact in
bfloat16*. So both operands are scaled first, and one `tdpbf16ps` gives a block's scaled dot products for 16 x 16
outputs. Its sums are exact too: they are multiples of one unit with at most 21 bits, whatever the order inside.
Then the vector unit adds the 256 results to the float32 accumulators: the only roundings, block after block, as the
definition has it. The tile unit must not accumulate across blocks, since it would round within them.

The tile unit treats subnormals as zero; the caller keeps scales away from them (`tensor_core.fits`).

Two things decide the speed. `tilezero` stalls the pipelined tile products, while loading the same zero cache line 16
times does not. And everything a phase touches must stay in the first-level cache: 128 elements of the reduction of
four panels (16 KiB), a row tile (4 KiB), the results of a phase (16 KiB).
"""

from __future__ import annotations

from llvmlite import ir

from ...simd.intrinsics import F32, I8, I16, I32, Emitter, loop_intrinsic, vec
from ...simd.variant import Variant, constant_of, variant_intrinsic
from .intrinsics_tile import start_sums

PHASE = 128
"""Elements of the reduction between two visits of the accumulators."""

PHASE_PANELS = 4
"""Panels whose phase stays in the first-level cache while all rows pass."""

_ZERO_LINE = 64  # buffer layout: the configuration, a line of zeros, then the results of a phase
_RESULTS = 128
BUFFER = _RESULTS + 16 * 1024
"""Bytes of the buffer that the loops need."""

TILE_BFLOAT16_ARGUMENTS = (
    "a",  # scaled left values: one row tile, bfloat16 [blocks][16][block], at this phase's first block
    "b",  # scaled right values: bfloat16 [phase / 2][16][2], the first panel's
    "b_stride",  # bytes from one panel to the next
    "out",  # float32 accumulators
    "out_stride",  # bytes from one row to the next
    "fresh",  # 1: the accumulators start at zero
    "buffer",
)


def tile_width(block: int) -> int:
    """Panels one call of the tile loop covers: four blocks of 32, or eight of 16 for half the panels."""
    return block // 8


def _tile(e: Emitter, name: str, *args: object) -> None:
    e.call(f"llvm.x86.{name}", ir.VoidType(), *[e.int(x, I8) if isinstance(x, int) else x for x in args])


def _pointer(e: Emitter, address: ir.Value) -> ir.Value:
    return e.b.inttoptr(address, I8.as_pointer())


def _emit_tile(variant: Variant, e: Emitter, a, b, b_stride, out, out_stride, fresh, buffer, blocks: int) -> None:  # type: ignore[no-untyped-def]
    block, float_ty, rows = variant.block, vec(F32, 16), range(16)
    panels = tile_width(block)
    most = PHASE // block
    zeros = _pointer(e, e.at(buffer, _ZERO_LINE))
    turn = 0
    for u in range(blocks):
        _tile(e, "tileloadd64", 4, _pointer(e, e.at(a, u * block * 32)), e.int(block * 2))
        for v in range(panels):
            c, right = turn % 4, 5 + turn % 3
            _tile(e, "tileloadd64", right, _pointer(e, e.at(b, u * block * 32, e.times(b_stride, v))), e.int(64))
            _tile(e, "tileloadd64", c, zeros, e.int(0))
            _tile(e, "tdpbf16ps", c, 4, right)
            result = e.at(buffer, _RESULTS + (v * most + u) * 1024)
            _tile(e, "tilestored64", c, _pointer(e, result), e.int(64))
            turn += 1
    for v in range(panels):
        places = [e.at(out, e.times(out_stride, r), v * 64) for r in rows]
        sums = start_sums(e, float_ty, fresh, places)
        for u in range(blocks):
            result = e.at(buffer, _RESULTS + (v * most + u) * 1024)
            sums = [e.b.fadd(total, e.load(float_ty, e.at(result, r * 64))) for r, total in zip(rows, sums)]
        for place, total in zip(places, sums):
            e.store(total, place)


def _emit_configuration(variant: Variant, e: Emitter, buffer: ir.Value) -> None:  # type: ignore[no-untyped-def]
    """Tiles 0-3: float32 sums; 4: left, 16 rows of a block; 5-7: right, block/2 rows of 16 pairs."""
    for offset in range(0, 128, 8):
        e.store(e.int(0), e.at(buffer, offset))
    e.store(e.int(1, I8), e.at(buffer, 0))  # palette 1
    for t in range(8):
        e.store(e.int(variant.block * 2 if t == 4 else 64, I16), e.at(buffer, 16 + 2 * t))  # bytes a row
        e.store(e.int(variant.block // 2 if t > 4 else 16, I8), e.at(buffer, 48 + t))  # rows
    _tile(e, "ldtilecfg", _pointer(e, buffer))


def _to_bfloat16(e: Emitter, x: ir.Value) -> ir.Value:
    """The upper halves of float32 numbers that are exact in bfloat16, as int32 lanes."""
    ty = vec(I32, x.type.count)
    return e.b.lshr(e.b.bitcast(x, ty), e.const(ty, 16))


def _emit_scale_left(variant: Variant, e: Emitter, values, stride, scales, scales_stride, blocks, out) -> None:  # type: ignore[no-untyped-def]
    """One row tile: int8 values (16 rows, `stride` bytes apart) times their scales, to bfloat16 [blocks][16][block]."""

    def one_block(i: ir.Value) -> None:
        for r in range(16):
            scale = e.splat(e.load(F32, e.at(scales, e.times(scales_stride, r), e.times(i, 4))), 16)
            for part in range(0, variant.block, 16):
                row = e.at(values, e.times(stride, r), e.times(i, variant.block), part)
                wide = e.b.sext(e.load(vec(I8, 16), row), vec(I32, 16))
                scaled = e.b.fmul(e.b.sitofp(wide, vec(F32, 16)), scale)
                target = e.at(out, e.times(i, variant.block * 32), (r * variant.block + part) * 2)
                e.store(e.b.trunc(_to_bfloat16(e, scaled), vec(I16, 16)), target)

    e.each(blocks, one_block)


def _emit_scale_right(variant: Variant, e: Emitter, codes, scales, blocks, out) -> None:  # type: ignore[no-untyped-def]
    """One panel: codes [K/8][16][4] times their scales (float32 [blocks][16]), to bfloat16 [K/2][16][2]."""
    magnitudes = (0, 1, 2, 3, 4, 6, 8, 12)
    int_ty, float_ty = vec(I32, 16), vec(F32, 16)
    table = e.const(float_ty, [float(m) for m in magnitudes] + [-float(m) for m in magnitudes])

    def one_block(i: ir.Value) -> None:
        scale = e.load(float_ty, e.at(scales, e.times(i, 64)))
        for group in range(variant.block // 8):
            words = e.load(int_ty, e.at(codes, e.times(i, variant.block * 8), group * 64))

            def value(k: int) -> ir.Value:
                shift = 8 * (k % 4) + (4 if k >= 4 else 0)
                index = e.b.lshr(words, e.const(int_ty, shift))  # noqa: B023  (the lookup reads the low four bits)
                return e.b.fmul(e.call("llvm.x86.avx512.permvar.sf.512", float_ty, table, index), scale)

            for pair in range(4):
                low = _to_bfloat16(e, value(2 * pair))
                high = e.b.and_(e.b.bitcast(value(2 * pair + 1), int_ty), e.const(int_ty, 0xFFFF0000))
                e.store(e.b.or_(low, high), e.at(out, e.times(i, variant.block * 32), (group * 4 + pair) * 64))

    e.each(blocks, one_block)


def _emit_full_phase(variant: Variant, e: Emitter, *args: ir.Value) -> None:  # type: ignore[no-untyped-def]
    _emit_tile(variant, e, *args, blocks=PHASE // variant.block)


def _emit_one_block(variant: Variant, e: Emitter, *args: ir.Value) -> None:  # type: ignore[no-untyped-def]
    _emit_tile(variant, e, *args, blocks=1)


tile_phase = variant_intrinsic(len(TILE_BFLOAT16_ARGUMENTS), _emit_full_phase)
"""`tile_phase(variant, *TILE_BFLOAT16_ARGUMENTS)`: 16 rows by `tile_width` panels, a whole phase."""

tile_block = variant_intrinsic(len(TILE_BFLOAT16_ARGUMENTS), _emit_one_block)
"""The same for a single block (the end of a reduction that is not a multiple of `PHASE`)."""

scale_left = variant_intrinsic(6, _emit_scale_left)
"""`scale_left(variant, values, stride, scales, scales_stride, blocks, out)`."""

scale_right = variant_intrinsic(4, _emit_scale_right)
"""`scale_right(variant, codes, scales, blocks, out)`."""

configure = variant_intrinsic(1, _emit_configuration)
"""`configure(variant, buffer)`: set this thread's tile registers up."""

release = loop_intrinsic(0, lambda e: e.call("llvm.x86.tilerelease", ir.VoidType()) and None)
"""`release()`: give them back (a thread that keeps them makes every context switch dearer)."""

width = constant_of(lambda variant: tile_width(variant.block))
"""`width(variant)`: panels of one call."""
