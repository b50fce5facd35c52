"""The inner loops of the float32 product: one output tile, and bringing operands into the order it reads them in.

The right operand is packed into panels of 16 columns, `[K][16]`, where one vector load after the other finds what it
needs. The left operand's rows are read where they lie, or, if the operand is stored transposed, from tiles packed as
`[K][rows of a tile]`. A tile's sums are one chain of fused multiply-adds an element, in the order of K: their bits are
the same on every instruction set and however the matrix is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from ...simd.intrinsics import F32, I32, Emitter, loop_intrinsic, vec
from ...simd.variant import constant_of, variant_intrinsic

STORE, ADD, STREAM = 0, 1, 2
"""What a finished tile does to `out`: overwrites it, is added to it, overwrites it past the caches (64-aligned)."""

UNROLL = 4
"""Terms of the sums between two looks at the loop's end."""


@dataclass(frozen=True)
class FloatTile:
    """The shape of a tile: its accumulators, a row's vectors and one left element fill the CPU's registers."""

    lanes: int
    rows: int
    vectors: int

    @property
    def panels(self) -> int:
        """Panels (of 16 columns) that one tile covers."""
        return self.lanes * self.vectors // 16


TILES = {
    "avx512vnni": FloatTile(16, 12, 2),
    "avxvnni": FloatTile(8, 6, 2),
    "avx2": FloatTile(8, 6, 2),
    "neon": FloatTile(4, 6, 4),
}
"""By instruction set. All have fused multiply-adds; `portable` may not, and has no tile."""

WIDEST = max(tile.rows for tile in TILES.values()), max(16 * tile.panels for tile in TILES.values())
"""Most rows and columns of a tile."""


def emit_tile(shape: FloatTile, packed: bool) -> Callable[..., None]:
    """The code generator of one tile."""
    rows, lanes, vectors = shape.rows, shape.lanes, shape.vectors
    float_ty = vec(F32, lanes)
    keys = [(r, v) for r in range(rows) for v in range(vectors)]

    def emit(e: Emitter, a, a_stride, b, b_stride, count, out, out_stride, finish) -> None:  # type: ignore[no-untyped-def]
        a_stride, b_stride = e.opaque(a_stride), e.opaque(b_stride)
        bases = [a] if packed else [e.at(a, e.times(a_stride, r)) for r in range(0, rows, 3)]
        step = rows * 4 if packed else 4

        def place(pointers: list[ir.Value], r: int) -> ir.Value:
            """Where row r goes on."""
            if packed:
                return e.at(pointers[0], r * 4)
            return e.at(pointers[r // 3], e.times(a_stride, r % 3)) if r % 3 else pointers[r // 3]

        def left(pointers: list[ir.Value], r: int, k: int) -> ir.Value:
            """Element k of row r, in every lane."""
            return e.splat(e.load(F32, e.at(place(pointers, r), k * step)), lanes)

        def right(pointer: ir.Value, v: int, k: int) -> ir.Value:
            panel, lane = divmod(v * lanes, 16)
            base = e.at(pointer, e.times(b_stride, panel)) if panel else pointer
            return e.load(float_ty, e.at(base, k * 64 + lane * 4))

        def terms(n: int) -> Callable[[ir.Value, list[ir.Value]], list[ir.Value]]:
            def body(_i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
                sums = dict(zip(keys, carried[: len(keys)], strict=True))
                b_at, *pointers = [e.opaque(p) for p in carried[len(keys) :]]
                for k in range(n):
                    columns = [right(b_at, v, k) for v in range(vectors)]
                    for r in range(rows):
                        x = left(pointers, r, k)
                        for v in range(vectors):
                            sums[r, v] = e.fma(x, columns[v], sums[r, v])
                return [*sums.values(), e.at(b_at, n * 64), *[e.at(p, n * step) for p in pointers]]

            return body

        whole = e.b.sdiv(count, e.int(UNROLL))
        zeros = [ir.Constant(float_ty, None)] * len(keys)
        done = e.loop(whole, [*zeros, b, *bases], terms(UNROLL))
        done = e.loop(count, done, terms(1), start=e.times(whole, UNROLL))
        _emit_finish(e, keys, done[: len(keys)], lanes, out, out_stride, finish)

    return emit


def _emit_finish(e: Emitter, keys: list, totals: list, lanes: int, out, out_stride, finish) -> None:  # type: ignore[no-untyped-def]
    at = {r: e.at(out, e.times(out_stride, r)) for r, _ in keys}

    def to_out(write: Callable[[ir.Value, ir.Value], None]) -> None:
        for (r, v), total in zip(keys, totals, strict=True):
            write(total, e.at(at[r], v * lanes * 4))

    ways = {
        STORE: lambda: to_out(e.store),
        ADD: lambda: to_out(e.add_to),
        STREAM: lambda: to_out(lambda value, address: e.stream(value, address, align=lanes * 4)),
    }
    e.switch(finish, ways)


def _tile_of(packed: bool) -> Callable:
    return variant_intrinsic(8, lambda variant, e, *args: emit_tile(TILES[variant.name], packed)(e, *args))


tile, tile_packed = _tile_of(False), _tile_of(True)
"""`tile(variant, a, a_stride, b, b_stride, count, out, out_stride, finish)`: `count` terms; strides in bytes.

`a` is the first element of the tile's first row, or (`tile_packed`, where `a_stride` means nothing) of `[K][rows]`; `b`
that of `[K][16]`, `b_stride` leads from panel to panel."""


tile_rows = constant_of(lambda variant: TILES[variant.name].rows)
tile_panels = constant_of(lambda variant: TILES[variant.name].panels)


def _emit_pack_row(lanes: int) -> Callable[..., None]:
    def emit(e: Emitter, source, ahead, count, target, stride) -> None:  # type: ignore[no-untyped-def]
        def body(i: ir.Value) -> None:
            at = e.at(source, e.times(i, lanes * 4))
            e.prefetch(e.at(at, ahead))
            e.store(e.load(vec(F32, lanes), at), e.at(target, e.times(stride, i)))

        e.each(count, body)

    return emit


pack_panels = loop_intrinsic(5, _emit_pack_row(16))
"""`pack_panels(source, ahead, count, target, stride)`: 16 floats each to `count` places `stride` bytes apart.

Meanwhile what lies `ahead` bytes further on is fetched: the CPU does not see that the next row comes next."""

pack_tiles = variant_intrinsic(5, lambda variant, e, *args: _emit_pack_row(TILES[variant.name].rows)(e, *args))
"""`pack_tiles(variant, source, ahead, count, target, stride)`: the same with as many floats as a tile has rows."""


def _emit_pack_transposed(e: Emitter, source, ahead, stride, count, target) -> None:  # type: ignore[no-untyped-def]
    """16 rows, 16 elements of each at a time: interleaved with the rows 8, 4, 2 and 1 further on."""
    ty = vec(F32, 16)
    halves = [e.const(vec(I32, 16), [lane // 2 + 16 * (lane % 2) + half for lane in range(16)]) for half in (0, 8)]
    places = [e.at(source, e.times(stride, r)) for r in range(16)]

    def body(i: ir.Value) -> None:
        for place in places:
            e.prefetch(e.at(place, e.times(i, 64), ahead))
        rows = [e.load(ty, e.at(place, e.times(i, 64))) for place in places]
        for _round in range(4):
            pairs = [(rows[r], rows[r + 8]) for r in range(8)]
            rows = [e.b.shuffle_vector(x, y, half) for x, y in pairs for half in halves]
        for k, row in enumerate(rows):
            e.store(row, e.at(target, e.times(i, 1024), k * 64))

    e.each(count, body)


pack_transposed = loop_intrinsic(5, _emit_pack_transposed)
"""`pack_transposed(source, ahead, stride, count, target)`: 16 rows of 16 `count` floats to `[16 count][16]`."""
