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
    return e.b.add(acc, pairs)  # |a lane| <= 4 * 2 * 24 * 127 = 24384 before it is widened: no overflow


def _dot_sdot(e: Emitter, acc: ir.Value, right: ir.Value, left: ir.Value) -> ir.Value:
    bytes_ty = vec(I8, 16)
    return e.call(
        "llvm.aarch64.neon.sdot.v4i32.v16i8",
        acc.type,
        acc,
        e.b.bitcast(right, bytes_ty),
        e.b.bitcast(left, bytes_ty),
    )


class Dots:
    """Integer dot products under way, in 32 bits; where the instruction has 16, widened every 16 elements."""

    def __init__(self, e: Emitter, isa: DotIsa, starts: dict):
        self.e, self.isa, self.total = e, isa, dict(starts)
        self.short = {key: ir.Constant(vec(I16, isa.lanes * 2), None) for key in starts}

    def add(self, key: object, right: ir.Value, left: ir.Value) -> None:
        """Add the products of 4 consecutive k."""
        sums = self.total if self.isa.wide else self.short
        sums[key] = self.isa.dot(self.e, sums[key], right, left)

    def widen(self, group: int) -> None:
        """After every group of 4 k of all keys."""
        if self.isa.wide or group % 4 != 3:
            return
        e, ones = self.e, self.e.const(vec(I16, self.isa.lanes * 2), 1)
        for key, short in self.short.items():
            pairs = e.call("llvm.x86.avx2.pmadd.wd", vec(I32, self.isa.lanes), short, ones)
            self.total[key] = e.b.add(self.total[key], pairs)
            self.short[key] = ir.Constant(short.type, None)


def _start(e: Emitter, isa: DotIsa, address: ir.Value) -> ir.Value:
    """What the accumulators of a row start a block with."""
    if not isa.offset:
        return ir.Constant(vec(I32, isa.lanes), None)
    return e.splat(e.load(I32, address), isa.lanes)


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
            starts = [_start(e, isa, e.at(start_rows[r], s_at)) for r in range(rows)]
            dots = Dots(e, isa, {(r, v): starts[r] for r, v in tile})
            for group in range(block // 4):
                right = [e.load(int_ty, e.at(c, b_at, group * 64)) for c in b_columns]
                for r in range(rows):
                    left = e.splat(e.load(I32, e.at(a_rows[r], a_at, group * 4), align=1), lanes)
                    for v in range(vectors):
                        dots.add((r, v), right[v], left)
                dots.widen(group)
            right_scales = [e.load(float_ty, e.at(c, sc_at)) for c in scale_columns]
            left_scales = [e.splat(e.load(F32, e.at(c, s_at)), lanes) for c in scale_rows]
            return [
                e.fma(e.b.sitofp(dots.total[r, v], float_ty), e.b.fmul(left_scales[r], right_scales[v]), total)
                for (r, v), total in zip(tile, sums, strict=True)
            ]

        is_fresh = e.b.icmp_signed("!=", fresh, e.int(0))
        zero = ir.Constant(float_ty, None)
        sums = [e.b.select(is_fresh, zero, e.load(float_ty, place)) for place in places]
        for place, total in zip(places, e.loop(blocks, sums, one_block), strict=True):
            e.store(total, place)

    return emit


_SHUFFLE = {64: "llvm.x86.avx512.pshuf.b.512", 32: "llvm.x86.avx2.pshuf.b", 16: "llvm.aarch64.neon.tbl1.v16i8"}


def _register_decoder(e: Emitter, n_bytes: int, offset: int) -> Callable[[ir.Value], tuple[ir.Value, ir.Value]]:
    """A function from a vector of code bytes to two of values (+ offset): low nibbles, high nibbles."""
    magnitudes = (0, 1, 2, 3, 4, 6, 8, 12)
    values = [m + offset for m in magnitudes] + [offset - m for m in magnitudes]
    ty, short_ty = vec(I8, n_bytes), vec(I16, n_bytes // 2)
    table = e.const(ty, [v & 0xFF for v in values] * (n_bytes // 16))
    low_mask, four = e.const(ty, 15), e.const(short_ty, 4)

    def decode_bytes(codes: ir.Value) -> tuple[ir.Value, ir.Value]:
        high = e.b.bitcast(e.b.lshr(e.b.bitcast(codes, short_ty), four), ty)
        low, high = (e.call(_SHUFFLE[n_bytes], ty, table, e.b.and_(x, low_mask)) for x in (codes, high))
        return low, high

    return decode_bytes


def emit_decode(isa_lanes: int, offset: int) -> Callable[..., None]:
    """Decode panels: `count` times 64 bytes of codes become 128 bytes of values (+ offset): low nibbles, high."""
    n_bytes = isa_lanes * 4

    def emit(e: Emitter, source: ir.Value, target: ir.Value, count: ir.Value) -> None:
        decoder = _register_decoder(e, n_bytes, offset)

        def body(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            for part in range(64 // n_bytes):
                halves = decoder(e.load(vec(I8, n_bytes), e.at(source, e.times(i, 64), part * n_bytes)))
                for half, decoded in enumerate(halves):
                    e.store(decoded, e.at(target, e.times(i, 128), half * 64 + part * n_bytes))
            return []

        e.loop(count, [], body)

    return emit


def emit_tile_portable(block: int, rows: int = 4) -> Callable[..., None]:
    """The code generator of a tile loop in plain vector IR, for any CPU: right values are int8 `[K][16]`.

    Products of 16 k are summed in 16 bits (|sum| <= 16 * 12 * 127), so a register holds twice the lanes.
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

            dots = None
            for part in range(0, block, 16):
                first = e.at(e.times(i, block), part)
                zeros = [ir.Constant(short_ty, None)] * rows
                sums16 = e.loop(e.at(first, 16), zeros, one_k, start=first)
                wide = [e.b.sext(d, vec(I32, 16)) for d in sums16]
                dots = wide if dots is None else [e.b.add(x, y) for x, y in zip(dots, wide, strict=True)]
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


def emit_matvec(kp: KernelPath, fmt: str, rows: int) -> Callable[..., None]:
    """The code generator of a product of one panel, straight from its packed bytes, with a few left rows.

    Every 64 code bytes are decoded in registers, once for all rows; scale bytes are decoded where they are used.
    """
    isa, block = ISAS[kp.path], kp.block
    lanes, parts = isa.lanes, 16 // isa.lanes
    n_bytes = lanes * 4
    byte_ty, int_ty, float_ty = vec(I8, n_bytes), vec(I32, lanes), vec(F32, lanes)
    keys = [(r, v) for r in range(rows) for v in range(parts)]

    def half_scale(e: Emitter, address: ir.Value) -> ir.Value:
        """Half the value of 16 / parts scale bytes."""
        code = e.b.zext(e.load(vec(I8, lanes), address), int_ty)
        if fmt == "nvfp4":  # E4M3's fields in float32's places; the multiplication moves the bias, subnormals too
            fields = e.b.bitcast(e.b.shl(code, e.const(int_ty, 20)), float_ty)
            value = e.b.fmul(fields, e.const(float_ty, 2.0**119))
            bad = e.b.icmp_signed("==", e.b.and_(code, e.const(int_ty, 127)), e.const(int_ty, 127))
        else:
            low = e.b.shl(e.const(int_ty, 0x00200000), e.b.and_(code, e.const(int_ty, 1)))
            high = e.b.shl(e.b.sub(code, e.const(int_ty, 1)), e.const(int_ty, 23))
            small = e.b.icmp_signed("<", code, e.const(int_ty, 2))
            value = e.b.bitcast(e.b.select(small, low, high), float_ty)
            bad = e.b.icmp_signed("==", code, e.const(int_ty, 255))
        nan = e.b.bitcast(e.const(int_ty, 0x7FC00000), float_ty)
        return e.b.select(bad, nan, value)

    def emit(e: Emitter, a, a_stride, start, a_scales, s_stride, codes, scales, blocks, out, out_stride):  # type: ignore[no-untyped-def]
        decoder = _register_decoder(e, n_bytes, isa.offset)
        a_rows = [e.at(a, e.times(a_stride, r)) for r in range(rows)]
        start_rows = [e.at(start, e.times(s_stride, r)) for r in range(rows)]
        scale_rows = [e.at(a_scales, e.times(s_stride, r)) for r in range(rows)]

        def one_block(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            a_at, b_at, s_at = (e.times(i, n) for n in (block, block * 8, 4))
            starts = [_start(e, isa, e.at(start_rows[r], s_at)) for r in range(rows)]
            dots = Dots(e, isa, {(r, v): starts[r] for r, v in keys})
            for pair in range(block // 8):
                halves = [decoder(e.load(byte_ty, e.at(codes, b_at, pair * 64 + v * n_bytes))) for v in range(parts)]
                for half in range(2):
                    group = pair * 2 + half
                    for r in range(rows):
                        left = e.splat(e.load(I32, e.at(a_rows[r], a_at, group * 4), align=1), lanes)
                        for v in range(parts):
                            dots.add((r, v), e.b.bitcast(halves[v][half], int_ty), left)
                    dots.widen(group)
            right = [half_scale(e, e.at(scales, e.times(i, 16), v * lanes)) for v in range(parts)]
            lefts = [e.splat(e.load(F32, e.at(row, s_at)), lanes) for row in scale_rows]
            return [
                e.fma(e.b.sitofp(dots.total[r, v], float_ty), e.b.fmul(lefts[r], right[v]), total)
                for (r, v), total in zip(keys, sums, strict=True)
            ]

        zeros = [ir.Constant(float_ty, None)] * len(keys)
        for (r, v), total in zip(keys, e.loop(blocks, zeros, one_block), strict=True):
            e.store(total, e.at(out, e.times(out_stride, r), v * n_bytes))

    return emit


def _emit_matvec_of(kp: KernelPath, e: Emitter, *args: ir.Value) -> None:
    path, fmt, rows = kp.path.split("+")
    emit_matvec(KernelPath(path, kp.block), fmt, int(rows))(e, *args)


def _emit_tile_of(kp: KernelPath, e: Emitter, *args: ir.Value) -> None:
    kp.emitters()[0](e, *args)


def _emit_decode_of(kp: KernelPath, e: Emitter, *args: ir.Value) -> None:
    kp.emitters()[1](e, *args)


tile = path_intrinsic(len(TILE_ARGUMENTS), _emit_tile_of)
"""`tile(kernel_path, *TILE_ARGUMENTS)`: one output tile."""

decode = path_intrinsic(3, _emit_decode_of)
"""`decode(kernel_path, source, target, count)`: `count` x 64 code bytes to 128 bytes of what `tile` reads."""

matvec_panel = path_intrinsic(10, _emit_matvec_of)
"""`matvec_panel(KernelPath("path+format+rows", block), a, a_stride, start, a_scales, scales_stride, codes, scale bytes,
blocks, out, out_stride)`: 16 columns of the product, from packed bytes."""


def _constant_of(attribute: str) -> Callable:
    return path_intrinsic(0, lambda kp, e: e.int(getattr(kp, attribute)))


tile_rows, tile_panels, block_length = (_constant_of(name) for name in ("tile_rows", "tile_panels", "block"))
