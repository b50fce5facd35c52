"""Packed rows to panels, sixteen 32-bit words at a time, as vector IR without any instruction of one CPU.

Eight codes are one word. In a packed row its nibbles stand 0 1 2 3 4 5 6 7 from the lowest, in a panel 0 4 1 5 2 6 3 7.
"""

from __future__ import annotations

from llvmlite import ir

from ...simd.intrinsics import I32, Emitter, loop_intrinsic, vec

W = 16
WORDS = vec(I32, W)


def _transpose(e: Emitter, rows: list[ir.Value]) -> list[ir.Value]:
    """Sixteen vectors of sixteen, rows for columns: swap the off-diagonal squares of size 1, 2, 4, 8."""
    for span in (1, 2, 4, 8):
        upper = e.const(WORDS, [lane if not lane & span else lane - span + W for lane in range(W)])
        lower = e.const(WORDS, [lane + span if not lane & span else lane + W for lane in range(W)])
        for i in range(W):
            if not i & span:
                a, b = rows[i], rows[i + span]
                rows[i], rows[i + span] = e.b.shuffle_vector(a, b, upper), e.b.shuffle_vector(a, b, lower)
    return rows


def _interleaved(e: Emitter, words: ir.Value) -> ir.Value:
    """Nibbles 0 1 2 3 4 5 6 7 to 0 4 1 5 2 6 3 7."""
    b = e.b

    def spread(half: ir.Value) -> ir.Value:  # four nibbles to the low nibbles of four bytes
        pairs = b.and_(b.or_(half, b.shl(half, e.const(WORDS, 8))), e.const(WORDS, 0x00FF00FF))
        return b.and_(b.or_(pairs, b.shl(pairs, e.const(WORDS, 4))), e.const(WORDS, 0x0F0F0F0F))

    low, high = b.and_(words, e.const(WORDS, 0xFFFF)), b.lshr(words, e.const(WORDS, 16))
    return b.or_(spread(low), b.shl(spread(high), e.const(WORDS, 4)))


def _emit_to_panel(e: Emitter, rows: ir.Value, stride: ir.Value, sixteens: ir.Value, panel: ir.Value) -> None:
    def body(i: ir.Value) -> None:
        loaded = [e.load(WORDS, e.at(rows, e.times(stride, r), e.times(i, 64))) for r in range(W)]
        for g, words in enumerate(_transpose(e, loaded)):
            e.store(_interleaved(e, words), e.at(panel, e.times(i, 1024), g * 64))

    e.each(sixteens, body)


def _emit_to_transposed_panel(e: Emitter, rows: ir.Value, stride: ir.Value, groups: ir.Value, panel: ir.Value) -> None:
    b = e.b
    both = e.const(WORDS, [0] * 8 + [1] * 8)
    shifts, nibble = e.const(WORDS, [4 * (lane % 8) for lane in range(W)]), e.const(WORDS, 15)

    def body(g: ir.Value) -> None:
        total = None
        first = e.at(rows, e.times(stride, e.times(g, 8)))
        for i in range(8):
            pair = e.load(vec(I32, 2), e.at(first, e.times(stride, i)))
            words = b.shuffle_vector(pair, ir.Constant(pair.type, ir.Undefined), both)
            codes = b.and_(b.lshr(words, shifts), nibble)
            codes = b.shl(codes, e.const(WORDS, 8 * (i % 4) + 4 * (i // 4)))
            total = codes if total is None else b.or_(total, codes)
        e.store(total, e.at(panel, e.times(g, 64)))

    e.each(groups, body)


to_panel = loop_intrinsic(4, _emit_to_panel)
"""`to_panel(rows, stride, sixteens, panel)`: sixteen packed rows, `sixteens` x 16 words each, `stride` bytes apart."""

to_transposed_panel = loop_intrinsic(4, _emit_to_transposed_panel)
"""`to_transposed_panel(rows, stride, groups, panel)`: of `groups` x 8 rows two words, the 16 rows of the transpose."""
