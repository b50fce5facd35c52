"""The inner loops of the virtual tensor core: one output tile, all blocks of the reduction, per instruction set.

A tile multiplies `rows` rows of the left operand (int8 values, row-major) with the columns of one or two panels
of the right operand (`[K/4][16][4]` bytes: 4 consecutive k of 16 columns). For every block of the reduction it

1. forms the exact integer dot products,
2. converts them to float32 (exact: at most 13 bits),
3. adds `dot * (left scale * right scale)` to the float32 accumulators.

The scaled dot product has at most 20 significant bits, so it is exact however it is formed, and the addition is the
only rounding: every instruction set, and NumPy, gets the same bits. How it is formed is a matter of speed
(`Multiplied`, `ByExponent`, `ByTable`): on AVX-512 a multiplication waits for the two units that also do the byte dot
products, while `vscalefps` (x * 2**n), additions and permutations run beside them.

Byte dot instructions of x86 multiply *unsigned* by signed bytes. There the right operand's values are stored as
value + 12 (0..24) and every block's accumulator starts at -12 * (sum of the left block), which the caller
precomputes, so that the correction costs nothing: the accumulator must start somewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from ...simd import cpu
from ...simd.intrinsics import F32, I8, I16, I32, I64, Emitter, vec
from ...simd.variant import Variant, constant_of, variant_intrinsic
from .scale_words import ByExponent, ByTable, Multiplied, emit_right_words, scale_word

TILE_ARGUMENTS = (
    "a",  # left values: int8
    "a_stride",  # bytes from one row to the next
    "words",  # int32 [blocks][2][rows]: where accumulators start; a scale, as `DotIsa.scaling` wants it
    "b",  # right values: the first panel, bytes [K/4][16][4]
    "b_stride",  # bytes from one panel to the next
    "b_scales",  # four bytes each, [blocks][16], the first panel's
    "b_scales_stride",  # bytes from one panel's scales to the next
    "blocks",  # how many blocks
    "sums",  # float32 accumulators
    "sums_stride",  # bytes from one row to the next
    "fresh",  # 1: accumulators start at zero; 0: they continue from `sums`
    "finish",  # 0: they go back to `sums`; else `STORE`, `ADD` or `STREAM`: times the rows' factors into `out`
    "factors",  # float32, one a row
    "out",  # float32
    "out_stride",  # bytes from one row to the next
)
"""The arguments of every tile loop, all int64; addresses unless said otherwise."""

STORE, ADD, STREAM = 1, 2, 3
"""What a finished tile does to `out`: overwrites it, is added to it, overwrites it past the caches (64-aligned)."""


def _emit_finish(e: Emitter, tile: list, totals: list, lanes: int, sums, sums_stride, finish, factors, out, out_stride) -> None:  # type: ignore[no-untyped-def]  # noqa: E501
    """Accumulators, by (row, vector of columns), to where `finish` says."""
    rows = sorted({r for r, _ in tile})

    def scaled(r: int, total: ir.Value) -> ir.Value:
        return e.b.fmul(total, e.splat(e.load(F32, e.at(factors, 4 * r)), lanes))

    def to_sums() -> None:
        at = {r: e.at(sums, e.times(sums_stride, r)) for r in rows}
        for (r, v), total in zip(tile, totals, strict=True):
            e.store(total, e.at(at[r], v * lanes * 4))

    def to_out(write: Callable[[ir.Value, ir.Value], None]) -> None:
        at = {r: e.at(out, e.times(out_stride, r)) for r in rows}
        for (r, v), total in zip(tile, totals, strict=True):
            write(scaled(r, total), e.at(at[r], v * lanes * 4))

    ways = {
        0: to_sums,
        STORE: lambda: to_out(e.store),
        ADD: lambda: to_out(e.add_to),
        STREAM: lambda: to_out(lambda value, address: e.stream(value, address, align=lanes * 4)),
    }
    e.switch(finish, ways)


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
    scaling: Callable[[int], Multiplied] = lambda block: Multiplied()

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
    # |a lane| <= 4 * 2 * 24 * 127 = 24384 before it is widened, of a block of E2M1 8 * 2 * 24 * 12: no overflow
    return e.b.add(acc, pairs)


def _dot_sdot(e: Emitter, acc: ir.Value, right: ir.Value, left: ir.Value) -> ir.Value:
    bytes_ty = vec(I8, 16)
    return e.call(
        "llvm.aarch64.neon.sdot.v4i32.v16i8",
        acc.type,
        acc,
        e.b.bitcast(right, bytes_ty),
        e.b.bitcast(left, bytes_ty),
    )


def start_sums(e: Emitter, ty: ir.VectorType, fresh: ir.Value, places: list[ir.Value]) -> list[ir.Value]:
    """Accumulators: zero where `fresh` is 1, else what lies at the places."""
    is_fresh, zero = e.b.icmp_signed("!=", fresh, e.int(0)), ir.Constant(ty, None)
    return [e.b.select(is_fresh, zero, e.load(ty, place)) for place in places]


class Dots:
    """Integer dot products under way, in 32 bits; where the instruction has 16, widened every `groups` of 4 elements.

    Four groups are few enough for left values of 8 bits; of E2M1 values 16 bits hold a whole block's. `in_order` keeps
    LLVM from anything but the order written, for as many keys as registers can hold.
    """

    def __init__(self, e: Emitter, isa: DotIsa, starts: dict, groups: int = 4, in_order: bool = False):
        self.e, self.isa, self.total, self.groups, self.in_order = e, isa, dict(starts), groups, in_order
        self.short = {key: ir.Constant(vec(I16, isa.lanes * 2), None) for key in starts}

    def add(self, key: object, right: ir.Value, left: ir.Value) -> None:
        """Add the products of 4 consecutive k."""
        sums = self.total if self.isa.wide else self.short
        sums[key] = self.isa.dot(self.e, sums[key], right, left)

    def widen(self, group: int) -> None:
        """After every group of 4 k of all keys."""
        if self.isa.wide:
            return
        if group % self.groups != self.groups - 1:
            if self.in_order:
                self.short = dict(zip(self.short, self.e.in_order(list(self.short.values())), strict=True))
            return
        e, ones = self.e, self.e.const(vec(I16, self.isa.lanes * 2), 1)
        for key, short in self.short.items():
            pairs = e.call("llvm.x86.avx2.pmadd.wd", vec(I32, self.isa.lanes), short, ones)
            self.total[key] = e.b.add(self.total[key], pairs)
            self.short[key] = ir.Constant(short.type, None)


def start_of(e: Emitter, isa: DotIsa, address: ir.Value) -> ir.Value:
    """What the accumulators of a row start a block with."""
    if not isa.offset:
        return ir.Constant(vec(I32, isa.lanes), None)
    return e.splat(e.load(I32, address), isa.lanes)


ISAS = {
    "avx512vnni": DotIsa(
        "avx512vnni", 16, 6, 2, 12, _dot_vpdpbusd(512), scaling=lambda block: ByTable() if block == 16 else ByExponent()
    ),
    "avxvnni": DotIsa("avxvnni", 8, 3, 2, 12, _dot_vpdpbusd(256)),
    "avx2": DotIsa("avx2", 8, 3, 2, 12, _dot_maddubs, wide=False),
    "neon": DotIsa("neon", 4, 4, 4, 0, _dot_sdot),
}


def emit_tile(isa: DotIsa, block: int) -> Callable[..., None]:
    """The code generator of one tile loop on vectors."""
    lanes, rows, vectors, scaling = isa.lanes, isa.rows, isa.vectors, isa.scaling(block)
    int_ty, float_ty = vec(I32, lanes), vec(F32, lanes)
    tile = [(r, v) for r in range(rows) for v in range(vectors)]

    def emit(e: Emitter, a, a_stride, words, b, b_stride, b_scales, bs_stride,  # type: ignore[no-untyped-def]
             blocks, sums_at, sums_stride, fresh, *finish):  # fmt: skip
        places = [e.at(sums_at, e.times(sums_stride, r), v * lanes * 4) for r, v in tile]
        a_stride, b_stride, bs_stride = (e.opaque(stride) for stride in (a_stride, b_stride, bs_stride))
        firsts = range(0, rows, 3)  # three rows share a base: base, base + stride, base + 2 * stride
        bases = [e.at(a, e.times(a_stride, r)) for r in firsts]

        def column(base, stride, v):  # type: ignore[no-untyped-def]
            panel, lane = divmod(v * lanes, 16)
            return e.at(base, e.times(stride, panel), lane * 4) if panel else e.at(base, lane * 4)

        def one_block(i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            sums, pointers = carried[: len(tile)], [e.opaque(p) for p in carried[len(tile) :]]
            words_at, b_at, scales_at, *bases = pointers
            a_rows = [e.at(bases[r // 3], e.times(a_stride, r % 3)) if r % 3 else bases[r // 3] for r in range(rows)]
            starts = [start_of(e, isa, e.at(words_at, 4 * r)) for r in range(rows)]
            dots = Dots(e, isa, {(r, v): starts[r] for r, v in tile}, block // 4, in_order=True)
            for group in range(block // 4):
                right = [e.load(int_ty, e.at(column(b_at, b_stride, v), group * 64)) for v in range(vectors)]
                for r in range(rows):
                    left = e.splat(e.load(I32, e.at(a_rows[r], group * 4), align=1), lanes)
                    for v in range(vectors):
                        dots.add((r, v), right[v], left)
                dots.widen(group)
            right_scales = [scaling.right(e, float_ty, column(scales_at, bs_stride, v)) for v in range(vectors)]
            left_scales = [scaling.left(e, lanes, e.at(words_at, 4 * (rows + r))) for r in range(rows)]
            steps = 8 * rows, block * 16, 64, *[block] * len(bases)
            return [
                scaling.add(e, e.b.sitofp(dots.total[r, v], float_ty), left_scales[r], right_scales[v], total)
                for (r, v), total in zip(tile, sums, strict=True)
            ] + [e.at(p, step) for p, step in zip(pointers, steps, strict=True)]

        sums = start_sums(e, float_ty, fresh, places)
        done = e.loop(blocks, [*sums, words, b, b_scales, *bases], one_block)
        _emit_finish(e, tile, done[: len(tile)], lanes, sums_at, sums_stride, *finish)

    return emit


_SHUFFLE = {64: "llvm.x86.avx512.pshuf.b.512", 32: "llvm.x86.avx2.pshuf.b", 16: "llvm.aarch64.neon.tbl1.v16i8"}
_PERMUTE = "llvm.x86.avx512.permvar.qi.512"  # looks up by the low six bits of each byte and ignores the others


def register_decoder(
    e: Emitter, n_bytes: int, offset: int
) -> Callable[[ir.Value], tuple[ir.Value, ir.Value]]:
    """A function from a vector of code bytes to two of values (+ offset): low nibbles, high nibbles."""
    magnitudes = (0, 1, 2, 3, 4, 6, 8, 12)
    values = [m + offset for m in magnitudes] + [offset - m for m in magnitudes]
    ty, short_ty = vec(I8, n_bytes), vec(I16, n_bytes // 2)
    table = e.const(ty, [v & 0xFF for v in values] * (n_bytes // 16))
    low_mask, four = e.const(ty, 15), e.const(short_ty, 4)

    def halves(codes: ir.Value) -> tuple[ir.Value, ir.Value]:
        return codes, e.b.bitcast(e.b.lshr(e.b.bitcast(codes, short_ty), four), ty)

    def permuted(codes: ir.Value) -> tuple[ir.Value, ir.Value]:
        low, high = (e.call(_PERMUTE, ty, table, x) for x in halves(codes))
        return low, high

    def shuffled(codes: ir.Value) -> tuple[ir.Value, ir.Value]:
        low, high = (e.call(_SHUFFLE[n_bytes], ty, table, e.b.and_(x, low_mask)) for x in halves(codes))
        return low, high

    # the table four times over needs no mask: whatever stands above a nibble is ignored or finds the same value
    return permuted if n_bytes == 64 and "avx512vbmi" in cpu.features() else shuffled


def emit_decode(isa_lanes: int, offset: int) -> Callable[..., None]:
    """Decode panels: `count` times 64 bytes of codes become 128 bytes of values (+ offset): low nibbles, high."""
    n_bytes = isa_lanes * 4

    def emit(e: Emitter, source: ir.Value, target: ir.Value, count: ir.Value) -> None:
        decoder = register_decoder(e, n_bytes, offset)

        def body(i: ir.Value) -> None:
            for part in range(64 // n_bytes):
                halves = decoder(e.load(vec(I8, n_bytes), e.at(source, e.times(i, 64), part * n_bytes)))
                for half, decoded in enumerate(halves):
                    e.store(decoded, e.at(target, e.times(i, 128), half * 64 + part * n_bytes))

        e.each(count, body)

    return emit


def emit_tile_portable(block: int, rows: int = 4) -> Callable[..., None]:
    """The code generator of a tile loop in plain vector IR, for any CPU: right values are int8 `[K][16]`.

    Products of 16 k are summed in 16 bits (|sum| <= 16 * 12 * 127), so a register holds twice the lanes.
    """
    short_ty, float_ty = vec(I16, 16), vec(F32, 16)

    def emit(e: Emitter, a, a_stride, words, b, b_stride, b_scales, bs_stride,  # type: ignore[no-untyped-def]
             blocks, sums_at, sums_stride, fresh, *finish):  # fmt: skip
        a_rows = [e.at(a, e.times(a_stride, r)) for r in range(rows)]
        places = [e.at(sums_at, e.times(sums_stride, r)) for r in range(rows)]

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
            words_at = e.at(words, e.times(i, 8 * rows))
            lefts = [e.splat(e.load(F32, e.at(words_at, 4 * (rows + r))), 16) for r in range(rows)]
            return [
                e.fma_exact(e.b.sitofp(d, float_ty), e.b.fmul(x, right), y)
                for d, x, y in zip(dots, lefts, sums, strict=True)
            ]

        sums = start_sums(e, float_ty, fresh, places)
        tile = [(r, 0) for r in range(rows)]
        _emit_finish(e, tile, e.loop(blocks, sums, one_block), 16, sums_at, sums_stride, *finish)

    return emit


def emit_decode_portable(e: Emitter, source: ir.Value, target: ir.Value, count: ir.Value) -> None:
    """Decode panels to int8 `[K][16]` by arithmetic: |value| = max(m, 2m - 4, 4m - 16) of the 3-bit magnitude m."""
    ty = vec(I8, 64)

    def body(i: ir.Value) -> None:
        codes = e.load(ty, e.at(source, e.times(i, 64)))
        for half, nibbles in enumerate((codes, e.b.lshr(codes, e.const(ty, 4)))):
            m = e.b.and_(nibbles, e.const(ty, 7))
            twice = e.b.sub(e.b.add(m, m), e.const(ty, 4))
            fourfold = e.b.sub(e.b.shl(m, e.const(ty, 2)), e.const(ty, 16))
            magnitude = e.imax(e.imax(m, twice), fourfold)
            negative = e.b.icmp_signed("!=", e.b.and_(nibbles, e.const(ty, 8)), ir.Constant(ty, None))
            value = e.b.select(negative, e.b.sub(ir.Constant(ty, None), magnitude), magnitude)
            for k in range(4):  # [16][4] -> [4][16]
                mask = e.const(vec(I32, 16), [4 * lane + k for lane in range(16)])
                part = e.b.shuffle_vector(value, ir.Constant(ty, ir.Undefined), mask)
                e.store(part, e.at(target, e.times(i, 128), half * 64 + k * 16))

    e.each(count, body)


# ---- one name for all instruction sets: the first argument's *type* picks the code ---------------------------


def tile_rows_of(variant: Variant) -> int:
    """Rows of one tile."""
    return ISAS[variant.name].rows if variant.name in ISAS else 4


def offset_of(variant: Variant) -> int:
    """What is added to the right operand's values."""
    return ISAS[variant.name].offset if variant.name in ISAS else 0


def words_of(variant: Variant) -> str:
    """In which form the tile loop wants scales: `numbers`, `exponents` or `places` (see `scale_words`)."""
    return ISAS[variant.name].scaling(variant.block).words if variant.name in ISAS else Multiplied.words


def _emit_tile_of(variant: Variant, e: Emitter, *args: ir.Value) -> None:
    if variant.name == "portable":
        emit_tile_portable(variant.block)(e, *args)
    else:
        emit_tile(ISAS[variant.name], variant.block)(e, *args)


def _emit_decode_of(variant: Variant, e: Emitter, *args: ir.Value) -> None:
    if variant.name == "portable":
        emit_decode_portable(e, *args)
    else:
        emit_decode(ISAS[variant.name].lanes, ISAS[variant.name].offset)(e, *args)


tile = variant_intrinsic(len(TILE_ARGUMENTS), _emit_tile_of)
"""`tile(variant, *TILE_ARGUMENTS)`: one output tile."""

decode = variant_intrinsic(3, _emit_decode_of)
"""`decode(variant, source, target, count)`: `count` x 64 code bytes to 128 bytes of what `tile` reads."""


tile_rows = constant_of(tile_rows_of)
tile_panels = constant_of(lambda variant: ISAS[variant.name].panels if variant.name in ISAS else 1)
block_length = constant_of(lambda variant: variant.block)


def _emit_right_words_of(variant: Variant, e: Emitter, stored: ir.Value, count: ir.Value, target: ir.Value) -> None:
    family = "nvfp4" if variant.block == 16 else "mxfp4"

    def body(i: ir.Value) -> None:
        words = emit_right_words(e, family, words_of(variant), e.at(stored, e.times(i, 16)))
        e.store(words, e.at(target, e.times(i, 64)))

    e.each(count, body)


fill_right_words = variant_intrinsic(3, _emit_right_words_of)
"""`fill_right_words(variant, scale bytes, count, target)`: `count` x 16 scale bytes to `right_words`."""


def _emit_left_words_of(variant: Variant, e: Emitter, sums, scales, blocks, words) -> ir.Value:  # type: ignore[no-untyped-def]
    """One row: where its accumulators start, and its scales in the form that the tile loop wants."""
    b, step = e.b, 8 * tile_rows_of(variant)

    def some(lanes: int) -> Callable[[ir.Value, list[ir.Value]], list[ir.Value]]:
        """The loop body for `lanes` blocks at a time."""
        short_ty, int_ty = vec(I16, lanes), vec(I32, lanes)

        def body(i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            target = e.at(words, e.times(i, step * lanes))

            def spread(values: ir.Value, offset: int) -> None:
                for lane in range(lanes):
                    e.store(b.extract_element(values, e.int(lane, I32)), e.at(target, offset + lane * step))

            if offset_of(variant):
                total = b.sext(e.load(short_ty, e.at(sums, e.times(i, 2 * lanes))), int_ty)
                spread(b.mul(total, e.const(int_ty, -offset_of(variant))), 0)
            scale = e.load(int_ty, e.at(scales, e.times(i, 4 * lanes)))
            spread(scale_word(e, scale, words_of(variant)), 4 * tile_rows_of(variant))
            magnitude = b.and_(scale, e.const(int_ty, 0x7FFFFFFF))
            nan = b.icmp_signed(">", magnitude, e.const(int_ty, 0x7F800000))
            any_nan = b.icmp_signed("!=", b.bitcast(nan, ir.IntType(lanes)), ir.Constant(ir.IntType(lanes), 0))
            return [b.or_(carried[0], b.zext(any_nan, I64))]

        return body

    sixteens = b.lshr(blocks, e.int(4))
    found = e.loop(sixteens, [e.int(0)], some(16))
    return e.loop(blocks, found, some(1), start=e.times(sixteens, 16))[0]


fill_left_words = variant_intrinsic(4, _emit_left_words_of)
"""`fill_left_words(variant, sums, scales, blocks, words)`: a row's `words` from its blocks' sums and half scales.

Returns 1 if one of the scales is NaN, else 0."""
