"""Arithmetic on sixteen lanes as LLVM IR, without any instruction of one CPU but for tables: LLVM fits it to all.

Loops that are written as IR use it directly; kernels written for numba through `lanes`. So what is here, and what is
made of it (`fp4.rounding`), exists once for both.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils

from . import cpu
from .intrinsics import F32, I1, I8, I32, Emitter, vec

WIDTH = 16
INT, FLOAT, BYTES, TRUTH = vec(I32, WIDTH), vec(F32, WIDTH), vec(I8, WIDTH), vec(I1, WIDTH)


def permutes() -> bool:
    """Whether the CPU has instructions that look up float32 in a vector."""
    return not cpu.features().isdisjoint(("avx2", "avx512f"))


class Wide(Emitter):
    """The emitter, with sixteen lanes of int32 and float32."""

    def i(self, value: int) -> ir.Constant:
        """An int32 in every lane."""
        return self.const(INT, value)

    def f(self, value: float) -> ir.Constant:
        """A float32 in every lane."""
        return self.const(FLOAT, value)

    def bits(self, x: ir.Value) -> ir.Value:
        """The bits of floats."""
        return self.b.bitcast(x, INT)

    def float(self, u: ir.Value) -> ir.Value:
        """Floats of bits."""
        return self.b.bitcast(u, FLOAT)

    def magnitude(self, x: ir.Value) -> ir.Value:
        """The bits of |x|: their order is that of the numbers, with NaN above all."""
        return self.b.and_(self.bits(x), self.i(0x7FFFFFFF))

    def mix(self, h: ir.Value) -> ir.Value:
        """Wellons' lowbias32, as `autograd.random.mix`."""
        b = self.b
        h = b.mul(b.xor(h, b.lshr(h, self.i(16))), self.i(0x7FEB352D))
        h = b.mul(b.xor(h, b.lshr(h, self.i(15))), self.i(0x846CA68B))
        return b.xor(h, b.lshr(h, self.i(16)))

    def pairs(self, combine: Callable[[ir.Value, ir.Value], ir.Value], x: ir.Value, y: ir.Value) -> ir.Value:
        """Each two neighbours combined: eight of x, then eight of y."""
        even, odd = (
            self.b.shuffle_vector(x, y, self.const(INT, list(range(first, 2 * WIDTH, 2)))) for first in (0, 1)
        )
        return combine(even, odd)

    def tree(self, combine: Callable[[ir.Value, ir.Value], ir.Value], x: ir.Value) -> ir.Value:
        """All lanes combined, halves first: 8 + 8, 4 + 4, 2 + 2, 1 + 1."""
        count = WIDTH
        while count > 1:
            count //= 2
            low, high = (self.part(x, start, count) for start in (0, count))
            x = combine(low, high)
        return self.b.extract_element(x, self.int(0, I32))

    def part(self, x: ir.Value, start: int, count: int) -> ir.Value:
        """Lanes start .. start + count."""
        return self.b.shuffle_vector(x, x, self.const(vec(I32, count), list(range(start, start + count))))

    def pick(self, table: ir.Value, index: ir.Value) -> ir.Value:
        """table[index] of sixteen float32, by the CPU's own permutation where it has one, else through memory."""
        have = cpu.features()
        if "avx512f" in have:
            return self.call("llvm.x86.avx512.permvar.sf.512", FLOAT, table, index)
        if "avx2" in have:
            eight, picked = vec(F32, 8), []
            low, high = (self.part(table, start, 8) for start in (0, 8))
            for places in (self.part(index, start, 8) for start in (0, 8)):
                upper = self.b.icmp_unsigned(">", places, self.const(places.type, 7))
                from_low, from_high = (self.call("llvm.x86.avx2.permps", eight, half, places) for half in (low, high))
                picked.append(self.b.select(upper, from_high, from_low))
            return self.b.shuffle_vector(*picked, self.const(INT, list(range(WIDTH))))
        memory = cgutils.alloca_once(self.b, FLOAT)
        self.b.store(table, memory)
        first = self.b.bitcast(memory, F32.as_pointer())
        result = ir.Constant(FLOAT, ir.Undefined)
        for lane in range(WIDTH):
            place = self.b.extract_element(index, self.int(lane, I32))
            result = self.b.insert_element(result, self.b.load(self.b.gep(first, [place])), self.int(lane, I32))
        return result
