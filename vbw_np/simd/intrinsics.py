"""Vector instructions for numba: each intrinsic emits one whole inner loop as LLVM IR.

numba cannot name an instruction such as `vpdpbusd`, and LLVM does not find it from scalar loops reliably. An
intrinsic can: its code generator builds LLVM IR by hand. Emitting the *whole* loop in one intrinsic keeps the
accumulators in registers; one intrinsic per instruction would spill them between calls.

Every intrinsic here takes addresses as plain integers (`array.ctypes.data` plus an offset), so that slicing
costs nothing, and returns an int64 that means nothing. None checks bounds: the callers own that.

`Emitter` is the small vocabulary all loops are written in. The IR avoids everything that changed between LLVM 15
and 22 (pointer types appear only in the address-to-pointer cast and in loads and stores).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I1, I8, I16, I32, I64 = (ir.IntType(b) for b in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD


def vec(element: ir.Type, lanes: int) -> ir.Type:
    """A vector type."""
    return ir.VectorType(element, lanes)


class Emitter:
    """An IR builder with the few operations the kernels need, on integer addresses."""

    def __init__(self, builder: ir.IRBuilder):
        self.b = builder

    # -- constants and addresses -------------------------------------------------------------------
    def int(self, value: int, ty: ir.Type = I64) -> ir.Constant:
        """An integer constant."""
        return ir.Constant(ty, value)

    def const(self, ty: ir.VectorType, values: object) -> ir.Constant:
        """A vector constant: one value for all lanes, or one a lane."""
        given = values if isinstance(values, Sequence) else [values] * ty.count
        return ir.Constant(ty, [ir.Constant(ty.element, v) for v in given])

    def at(self, address: ir.Value, *offsets: object) -> ir.Value:
        """address + the sum of byte offsets (Python ints or i64 values)."""
        fixed = sum(o for o in offsets if isinstance(o, int))
        for offset in offsets:
            if not isinstance(offset, int):
                address = self.b.add(address, offset)
        return self.b.add(address, self.int(fixed)) if fixed else address

    def times(self, a: ir.Value, factor: int | ir.Value) -> ir.Value:
        """a * factor on i64."""
        return self.b.mul(a, factor if isinstance(factor, ir.Value) else self.int(factor))

    def opaque(self, value: ir.Value) -> ir.Value:
        """The same integer, but LLVM no longer knows what it is made of.

        Left to itself, LLVM gives every address of a long loop a register of its own, or adds it up anew; with opaque
        bases it uses the CPU's base + index * scale.
        """
        return self.b.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [value], side_effect=False)

    def in_order(self, values: Sequence[ir.Value]) -> list[ir.Value]:
        """The same vectors of x86 registers, but none is made before all are: LLVM keeps what follows behind them.

        Left to itself, LLVM adds long sums up as trees and one after the other; what several of them read then needs
        more registers than there are.
        """
        kind = ir.LiteralStructType([value.type for value in values])
        places = ["=v"] * len(values) + [str(place) for place in range(len(values))]
        asm = ir.InlineAsm(ir.FunctionType(kind, kind.elements), "", ",".join(places), side_effect=False)
        made = self.b.call(asm, values)
        return [self.b.extract_value(made, place) for place in range(len(values))]

    # -- memory ------------------------------------------------------------------------------------
    def load(self, ty: ir.Type, address: ir.Value, align: int | None = None) -> ir.Value:
        """Load a scalar or an (unaligned) vector."""
        pointer = self.b.inttoptr(address, ty.as_pointer())
        return self.b.load(pointer, align=align or _natural(ty))

    def store(self, value: ir.Value, address: ir.Value, align: int | None = None) -> None:
        """Store a scalar or an (unaligned) vector."""
        pointer = self.b.inttoptr(address, value.type.as_pointer())
        self.b.store(value, pointer, align=align or _natural(value.type))

    def stream(self, value: ir.Value, address: ir.Value, align: int) -> None:
        """Store past the caches (aligned): for results too large to be read back from them."""
        pointer = self.b.inttoptr(address, value.type.as_pointer())
        stored = self.b.store(value, pointer, align=align)
        stored.set_metadata("nontemporal", self.b.module.add_metadata([self.int(1, I32)]))

    def add_to(self, value: ir.Value, address: ir.Value) -> None:
        """Add to the float32 numbers at an address."""
        self.store(self.b.fadd(self.load(value.type, address), value), address)

    def prefetch(self, address: ir.Value, *, write: bool = False) -> None:
        """Fetch the cache line at an address, which need not exist, into the second level, to read or to `write`."""
        self.prefetch_line(self.b.inttoptr(address, I8.as_pointer()), write=write)

    def prefetch_line(self, pointer: ir.Value, *, write: bool = False) -> None:
        """As `prefetch`, of a byte's pointer."""
        how = (self.int(number, I32) for number in (int(write), 2, 1))
        self.call("llvm.prefetch.p0", ir.VoidType(), pointer, *how)

    def splat(self, scalar: ir.Value, lanes: int) -> ir.Value:
        """A vector with the scalar in every lane."""
        ty = vec(scalar.type, lanes)
        one = self.b.insert_element(ir.Constant(ty, ir.Undefined), scalar, self.int(0, I32))
        return self.b.shuffle_vector(one, ir.Constant(ty, ir.Undefined), self.const(vec(I32, lanes), 0))

    # -- the larger and the smaller ---------------------------------------------------------------
    def imax(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Signed maximum."""
        return self.b.select(self.b.icmp_signed(">", x, y), x, y)

    def imin(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Signed minimum."""
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def umax(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Unsigned maximum."""
        return self.b.select(self.b.icmp_unsigned(">", x, y), x, y)

    def umin(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Unsigned minimum."""
        return self.b.select(self.b.icmp_unsigned("<", x, y), x, y)

    def fmin(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x where x < y, else y (so NaN gives y)."""
        return self.b.select(self.b.fcmp_ordered("<", x, y), x, y)

    def fmax(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x where x > y, else y."""
        return self.b.select(self.b.fcmp_ordered(">", x, y), x, y)

    # -- calls -------------------------------------------------------------------------------------
    def call(self, name: str, returns: ir.Type, *args: ir.Value) -> ir.Value:
        """Call an LLVM intrinsic by name."""
        fnty = ir.FunctionType(returns, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, fnty, name), args)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c, rounded once."""
        suffix = f"v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else "f32"
        return self.call(f"llvm.fma.{suffix}", a.type, a, b, c)

    def fma_exact(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c where a * b is exact: multiply and add, for CPUs that may lack fma (there a library call)."""
        return self.b.fadd(self.b.fmul(a, b), c)

    # -- control -----------------------------------------------------------------------------------
    def loop(
        self,
        count: ir.Value,
        carried: Sequence[ir.Value],
        body: Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value]],
        start: int | ir.Value = 0,
    ) -> list[ir.Value]:
        """`for i in range(start, count): carried = body(i, carried)`; returns the carried values after it."""
        b = self.b
        before = b.block
        head, inside, after = (b.append_basic_block(n) for n in ("head", "body", "after"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(self.int(start) if isinstance(start, int) else start, before)
        phis = []
        for value in carried:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        b.cbranch(b.icmp_signed("<", index, count), inside, after)
        b.position_at_end(inside)
        results = body(index, list(phis))
        end = b.block
        index.add_incoming(b.add(index, self.int(1)), end)
        for phi, value in zip(phis, results, strict=True):
            phi.add_incoming(value, end)
        b.branch(head)
        b.position_at_end(after)
        return list(phis)

    def each(self, count: ir.Value, body: Callable[[ir.Value], None], start: int | ir.Value = 0) -> None:
        """`for i in range(start, count): body(i)`"""

        def one(i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            body(i)
            return carried

        self.loop(count, [], one, start)

    def switch(self, choice: ir.Value, ways: dict[int, Callable[[], None]]) -> None:
        """What the way with the number `choice` does; the first one, where none has it."""
        after = self.b.append_basic_block("after")
        blocks = {number: self.b.append_basic_block(f"way{number}") for number in ways}
        (_, first), *others = blocks.items()
        cases = self.b.switch(choice, first)
        for number, block in others:
            cases.add_case(self.int(number), block)
        for number, way in ways.items():
            self.b.position_at_end(blocks[number])
            way()
            self.b.branch(after)
        self.b.position_at_end(after)


def _natural(ty: ir.Type) -> int:
    """The alignment promised by a load: that of one element."""
    element = ty.element if isinstance(ty, ir.VectorType) else ty
    return 4 if isinstance(element, ir.FloatType) else max(1, element.width // 8)


def make_intrinsic(names: Sequence[str], make: Callable, emit: Callable) -> Callable:
    """An intrinsic whose arguments have these names; `make(types)` gives its signature and code generator, or None."""

    def kernel(typingctx, *arguments):  # type: ignore[no-untyped-def]
        return make(arguments)

    parameters = [inspect.Parameter(n, _POSITIONAL) for n in ("typingctx", *names)]  # numba reads the arity off here
    kernel.__signature__ = inspect.Signature(parameters)  # type: ignore
    kernel.__module__ = emit.__module__
    return intrinsic(kernel)


def addresses(n_args: int) -> list[str]:
    """Names for integer arguments."""
    return [f"address{i}" for i in range(n_args)]


def loop_intrinsic(n_args: int, emit: Callable[..., ir.Value | None]) -> Callable:
    """Make a numba intrinsic of `n_args` integer arguments from `emit(emitter, *i64 values)`."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return emit(Emitter(builder), *args) or ir.Constant(I64, 0)

    made = types.int64(*[types.int64] * n_args), codegen
    return make_intrinsic(addresses(n_args), lambda arguments: made, emit)


def _emit_fetch_add(e: Emitter, address: ir.Value) -> ir.Value:
    pointer = e.b.inttoptr(address, I64.as_pointer())
    return e.b.atomic_rmw("add", pointer, e.int(1), "monotonic")


fetch_add = loop_intrinsic(1, _emit_fetch_add)
"""Atomically add 1 to the int64 at an address and return what was there: a shared ticket counter."""


def _emit_stream(e: Emitter, source: ir.Value, factor: ir.Value, out: ir.Value, count: ir.Value) -> None:
    scale = e.splat(e.load(F32, factor), 16)

    def body(i: ir.Value) -> None:
        value = e.load(scale.type, e.at(source, e.times(i, 64)))
        e.stream(e.b.fmul(value, scale), e.at(out, e.times(i, 64)), align=64)

    e.each(count, body)


stream_scaled = loop_intrinsic(4, _emit_stream)
"""`stream_scaled(source, factor, out, count)`: count x 16 floats times *factor, past the caches; out 64-aligned."""

fence = loop_intrinsic(0, lambda e: e.b.fence("seq_cst") and None)
"""After streaming stores, before another thread reads them."""
