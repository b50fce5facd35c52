"""The inner loops of the virtual tensor core: one output tile, all blocks of the reduction, per instruction set.

A tile multiplies `rows` rows of the left operand (int8 values, row-major) with the columns of one or two panels
of the right operand (`[K/4][16][4]` bytes: 4 consecutive k of 16 columns). For every block of the reduction it

1. forms the exact integer dot products,
2. converts them to float32 (exact: at most 13 bits),
3. adds `dot * (left scale * right scale)` to the float32 accumulators with one fma.

The scaled dot product has at most 20 significant bits, so the product inside the fma is exact and the fma rounds
as a separate add would: every instruction set, and NumPy, gets the same bits.

Byte dot instructions of x86 multiply *unsigned* by signed bytes. There the right operand's values are stored as
value + 12 (0..24) and every block's accumulator starts at -12 * (sum of the left block), which the caller
precomputes, so that the correction costs nothing: the accumulator must start somewhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llvmlite import ir
from numba import types
from numba.extending import NativeValue, models, register_model, typeof_impl, unbox

from .intrinsics import F32, I8, I16, I32, Emitter, path_intrinsic, vec

TILE_ARGUMENTS = (
    "a",  # left values: int8
    "a_stride",  # bytes from one row to the next
    "start",  # int32 accumulator starts, one a row and block
    "a_scales",  # float32, one a row and block
    "a_scales_stride",  # bytes from one row of `start` and `a_scales` to the next
    "b",  # right values: the first panel, bytes [K/4][16][4]
    "b_stride",  # bytes from one panel to the next
    "b_scales",  # float32 [blocks][16], the first panel's
    "b_scales_stride",  # bytes from one panel's scales to the next
    "blocks",  # how many blocks
    "out",  # float32 accumulators
    "out_stride",  # bytes from one row to the next
    "fresh",  # 1: accumulators start at zero; 0: they continue from `out`
)
"""The arguments of every tile loop, all int64; addresses unless said otherwise."""


@dataclass(frozen=True)
class DotIsa:
    """One instruction set: its shape of tile and its byte dot product."""

    name: str
    lanes: int  # int32 lanes of a vector
    rows: int  # rows of a tile
    vectors: int  # vectors of columns of a tile
    offset: int  # what is added to the right operand's values (12 where the instruction wants them unsigned)
    dot: Callable[[Emitter, ir.Value, ir.Value, ir.Value], ir.Value]  # (accumulator, right, left) -> accumulator
    wide: bool = True  # int32 accumulators; False: int16 within a block

    @property
    def panels(self) -> int:
        """Panels (of 16 columns) that one tile covers."""
        return self.vectors * self.lanes // 16


def _dot_vpdpbusd(bits: int) -> Callable:
    name = f"llvm.x86.avx512.vpdpbusd.{bits}"
    return lambda e, acc, right, left: e.call(name, acc.type, acc, right, left)


def _dot_maddubs(e: Emitter, acc: ir.Value, right: ir.Value, left: ir.Value) -> ir.Value:
    bytes_ty = vec(I8, 32)
    pairs = e.call(
        "llvm.x86.avx2.pmadd.ub.sw", vec(I16, 16), e.b.bitcast(right, bytes_ty), e.b.bitcast(left, bytes_ty)
    )
    return e.b.add(acc, pairs)  # |sum of a lane| <= 8 * 2 * 24 * 12 = 4608: no saturation, no overflow


def _dot_sdot(e: Emitter, acc: ir.Value, right: ir.Value, left: ir.Value) -> ir.Value:
    bytes_ty = vec(I8, 16)
    return e.call(
        "llvm.aarch64.neon.sdot.v4i32.v16i8",
        acc.type,
        acc,
        e.b.bitcast(right, bytes_ty),
        e.b.bitcast(left, bytes_ty),
    )


ISAS = {
    "avx512vnni": DotIsa("avx512vnni", 16, 6, 2, 12, _dot_vpdpbusd(512)),
    "avxvnni": DotIsa("avxvnni", 8, 3, 2, 12, _dot_vpdpbusd(256)),
    "avx2": DotIsa("avx2", 8, 3, 2, 12, _dot_maddubs, wide=False),
    "neon": DotIsa("neon", 4, 4, 4, 0, _dot_sdot),
}


def emit_tile(isa: DotIsa, block: int) -> Callable[..., None]:
    """The code generator of one tile loop on vectors."""
    lanes, rows, vectors = isa.lanes, isa.rows, isa.vectors
    int_ty, float_ty = vec(I32, lanes), vec(F32, lanes)
    tile = [(r, v) for r in range(rows) for v in range(vectors)]

    def emit(e: Emitter, a, a_stride, start, a_scales, s_stride, b, b_stride, b_scales, bs_stride,  # type: ignore[no-untyped-def]
             blocks, out, out_stride, fresh):  # fmt: skip
        def column(base, stride, v):  # type: ignore[no-untyped-def]
            panel, lane = divmod(v * lanes, 16)
            return e.at(base, e.times(stride, panel), lane * 4)

        a_rows = [e.at(a, e.times(a_stride, r)) for r in range(rows)]
        start_rows = [e.at(start, e.times(s_stride, r)) for r in range(rows)]
        scale_rows = [e.at(a_scales, e.times(s_stride, r)) for r in range(rows)]
        b_columns = [column(b, b_stride, v) for v in range(vectors)]
        scale_columns = [column(b_scales, bs_stride, v) for v in range(vectors)]
        places = [e.at(out, e.times(out_stride, r), v * lanes * 4) for r, v in tile]

        def one_block(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            a_at, b_at, s_at, sc_at = (e.times(i, n) for n in (block, block * 16, 4, 64))
            dots = {}
            for r in range(rows):
                first = None
                if isa.offset and isa.wide:
                    first = e.splat(e.load(I32, e.at(start_rows[r], s_at)), lanes)
                for v in range(vectors):
                    zero = ir.Constant(int_ty if isa.wide else vec(I16, lanes * 2), None)
                    dots[r, v] = first if first is not None else zero
            for group in range(block // 4):
                right = [e.load(int_ty, e.at(c, b_at, group * 64)) for c in b_columns]
                for r in range(rows):
                    left = e.splat(e.load(I32, e.at(a_rows[r], a_at, group * 4), align=1), lanes)
                    for v in range(vectors):
                        dots[r, v] = isa.dot(e, dots[r, v], right[v], left)
            if not isa.wide:
                ones = e.const(vec(I16, lanes * 2), 1)
                for r in range(rows):
                    first = e.splat(e.load(I32, e.at(start_rows[r], s_at)), lanes)
                    for v in range(vectors):
                        total = e.call("llvm.x86.avx2.pmadd.wd", int_ty, dots[r, v], ones)
                        dots[r, v] = e.b.add(total, first)
            right_scales = [e.load(float_ty, e.at(c, sc_at)) for c in scale_columns]
            left_scales = [e.splat(e.load(F32, e.at(c, s_at)), lanes) for c in scale_rows]
            return [
                e.fma(e.b.sitofp(dots[r, v], float_ty), e.b.fmul(left_scales[r], right_scales[v]), total)
                for (r, v), total in zip(tile, sums, strict=True)
            ]

        is_fresh = e.b.icmp_signed("!=", fresh, e.int(0))
        zero = ir.Constant(float_ty, None)
        sums = [e.b.select(is_fresh, zero, e.load(float_ty, place)) for place in places]
        for place, total in zip(places, e.loop(blocks, sums, one_block), strict=True):
            e.store(total, place)

    return emit


def emit_decode(isa_lanes: int, offset: int) -> Callable[..., None]:
    """Decode panels: `count` times 64 bytes of codes become 128 bytes of values (+ offset): low nibbles, high."""
    magnitudes = (0, 1, 2, 3, 4, 6, 8, 12)
    values = [m + offset for m in magnitudes] + [offset - m for m in magnitudes]
    n_bytes = isa_lanes * 4
    shuffle = {64: "llvm.x86.avx512.pshuf.b.512", 32: "llvm.x86.avx2.pshuf.b", 16: "llvm.aarch64.neon.tbl1.v16i8"}

    def emit(e: Emitter, source: ir.Value, target: ir.Value, count: ir.Value) -> None:
        ty = vec(I8, n_bytes)
        table = e.const(ty, [v & 0xFF for v in values] * (n_bytes // 16))
        low_mask, four = e.const(ty, 15), e.const(vec(I16, n_bytes // 2), 4)

        def body(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            for part in range(64 // n_bytes):
                codes = e.load(ty, e.at(source, e.times(i, 64), part * n_bytes))
                high = e.b.bitcast(e.b.lshr(e.b.bitcast(codes, vec(I16, n_bytes // 2)), four), ty)
                for half, nibbles in enumerate((codes, high)):
                    decoded = e.call(shuffle[n_bytes], ty, table, e.b.and_(nibbles, low_mask))
                    e.store(decoded, e.at(target, e.times(i, 128), half * 64 + part * n_bytes))
            return []

        e.loop(count, [], body)

    return emit


def emit_tile_portable(block: int, rows: int = 4) -> Callable[..., None]:
    """The code generator of a tile loop in plain vector IR, for any CPU: right values are int8 `[K][16]`.

    A block's products are summed in 16 bits (|sum| <= 32 * 144 = 4608), so a register holds twice the lanes.
    """
    short_ty, float_ty = vec(I16, 16), vec(F32, 16)

    def emit(e: Emitter, a, a_stride, start, a_scales, s_stride, b, b_stride, b_scales, bs_stride,  # type: ignore[no-untyped-def]
             blocks, out, out_stride, fresh):  # fmt: skip
        a_rows = [e.at(a, e.times(a_stride, r)) for r in range(rows)]
        scale_rows = [e.at(a_scales, e.times(s_stride, r)) for r in range(rows)]
        places = [e.at(out, e.times(out_stride, r)) for r in range(rows)]

        def one_block(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            def one_k(k: ir.Value, dots: list[ir.Value]) -> list[ir.Value]:
                right = e.b.sext(e.load(vec(I8, 16), e.at(b, e.times(k, 16))), short_ty)
                lefts = [e.b.sext(e.load(I8, e.at(row, k)), I16) for row in a_rows]
                return [e.b.add(d, e.b.mul(e.splat(x, 16), right)) for d, x in zip(dots, lefts, strict=True)]

            first, last = e.times(i, block), e.times(e.at(i, 1), block)
            zeros = [ir.Constant(short_ty, None)] * rows
            dots = e.loop(last, zeros, one_k, start=first)
            right = e.load(float_ty, e.at(b_scales, e.times(i, 64)))
            lefts = [e.splat(e.load(F32, e.at(row, e.times(i, 4))), 16) for row in scale_rows]
            return [
                e.fma_exact(e.b.sitofp(d, float_ty), e.b.fmul(x, right), y)
                for d, x, y in zip(dots, lefts, sums, strict=True)
            ]

        is_fresh = e.b.icmp_signed("!=", fresh, e.int(0))
        zero = ir.Constant(float_ty, None)
        sums = [e.b.select(is_fresh, zero, e.load(float_ty, place)) for place in places]
        for place, total in zip(places, e.loop(blocks, sums, one_block), strict=True):
            e.store(total, place)

    return emit


def emit_decode_portable(e: Emitter, source: ir.Value, target: ir.Value, count: ir.Value) -> None:
    """Decode panels to int8 `[K][16]` by arithmetic: |value| = max(m, 2m - 4, 4m - 16) of the 3-bit magnitude m."""
    ty = vec(I8, 64)

    def largest(x: ir.Value, y: ir.Value) -> ir.Value:
        return e.b.select(e.b.icmp_signed(">", x, y), x, y)

    def body(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        codes = e.load(ty, e.at(source, e.times(i, 64)))
        for half, nibbles in enumerate((codes, e.b.lshr(codes, e.const(ty, 4)))):
            m = e.b.and_(nibbles, e.const(ty, 7))
            twice = e.b.sub(e.b.add(m, m), e.const(ty, 4))
            fourfold = e.b.sub(e.b.shl(m, e.const(ty, 2)), e.const(ty, 16))
            magnitude = largest(largest(m, twice), fourfold)
            negative = e.b.icmp_signed("!=", e.b.and_(nibbles, e.const(ty, 8)), ir.Constant(ty, None))
            value = e.b.select(negative, e.b.sub(ir.Constant(ty, None), magnitude), magnitude)
            for k in range(4):  # [16][4] -> [4][16]
                mask = e.const(vec(I32, 16), [4 * lane + k for lane in range(16)])
                part = e.b.shuffle_vector(value, ir.Constant(ty, ir.Undefined), mask)
                e.store(part, e.at(target, e.times(i, 128), half * 64 + k * 16))
        return []

    e.loop(count, [], body)


# ---- one name for all instruction sets: the first argument's *type* picks the code ---------------------------


@dataclass(frozen=True)
class KernelPath:
    """Which instructions (a path of `cpu.PATHS`) and which block length a kernel is compiled for.

    (AMX has loops of its own, in `intrinsics_amx`; they too are told the block by this type.)

    numba compiles a kernel once for every type of argument, and every KernelPath has its own type; so one source
    function serves every path, without a branch in the machine code.
    """

    path: str
    block: int

    @property
    def tile_rows(self) -> int:
        """Rows of one tile."""
        return ISAS[self.path].rows if self.path in ISAS else 4

    @property
    def tile_panels(self) -> int:
        """Panels of one tile."""
        return ISAS[self.path].panels if self.path in ISAS else 1

    @property
    def offset(self) -> int:
        """What is added to the right operand's values."""
        return ISAS[self.path].offset if self.path in ISAS else 0

    def emitters(self) -> tuple[Callable, Callable]:
        """The code generators of the tile loop and of the decoder."""
        if self.path == "portable":
            return emit_tile_portable(self.block), emit_decode_portable
        isa = ISAS[self.path]
        return emit_tile(isa, self.block), emit_decode(isa.lanes, isa.offset)


def _source_digest() -> int:
    """A checksum of the code generators: numba's disk cache only watches the file of the function it compiled."""
    here = Path(__file__).parent
    return zlib.crc32(b"".join(f.read_bytes() for f in sorted(here.glob("intrinsics*.py"))))


_DIGEST = _source_digest()


class KernelPathType(types.Type):
    """numba's type of one `KernelPath`."""

    def __init__(self, path: str, block: int, digest: int = _DIGEST):
        self.kernel_path = KernelPath(path, block)
        super().__init__(name=f"KernelPath({path}, {block}, {digest:08x})")


register_model(KernelPathType)(models.OpaqueModel)


@typeof_impl.register(KernelPath)
def _typeof_kernel_path(value: KernelPath, context: object) -> KernelPathType:
    return KernelPathType(value.path, value.block)


@unbox(KernelPathType)
def _unbox_kernel_path(typ, obj, c):  # type: ignore[no-untyped-def]
    return NativeValue(c.context.get_dummy_value())


def _emit_tile_of(kp: KernelPath, e: Emitter, *args: ir.Value) -> None:
    kp.emitters()[0](e, *args)


def _emit_decode_of(kp: KernelPath, e: Emitter, *args: ir.Value) -> None:
    kp.emitters()[1](e, *args)


tile = path_intrinsic(len(TILE_ARGUMENTS), _emit_tile_of)
"""`tile(kernel_path, *TILE_ARGUMENTS)`: one output tile."""

decode = path_intrinsic(3, _emit_decode_of)
"""`decode(kernel_path, source, target, count)`: `count` x 64 code bytes to 128 bytes of what `tile` reads."""

def _constant_of(attribute: str) -> Callable:
    return path_intrinsic(0, lambda kp, e: e.int(getattr(kp, attribute)))


tile_rows, tile_panels, block_length = (_constant_of(name) for name in ("tile_rows", "tile_panels", "block"))
