"""Lanes to and from memory: arrays or pointers of float32, uint32, bytes, 4-bit codes and bits; parts of sixteen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .intrinsics import I8, I16, I32, I64, vec
from .jit import leaf
from .lanes import B16, F16, U16, Lanes, as_lanes
from .wide import BYTES, INT, TRUTH, WIDTH, Wide, permutes


def _pointer(context, builder, kind: types.Array | types.CPointer, array: ir.Value, index: ir.Value) -> ir.Value:
    """The address of array[index] of a one-dimensional contiguous array, or of what a pointer points to."""
    data = array if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _place(context, builder, sig, args) -> ir.Value:
    """The address of x[i], of a function whose first arguments are x and i."""
    index = context.cast(builder, args[1], sig.args[1], types.intp)
    return _pointer(context, builder, sig.args[0], args[0], index)


def _address(context, builder, sig, args, vector: ir.Type) -> ir.Value:
    return builder.bitcast(_place(context, builder, sig, args), vector.as_pointer())


def _is_row(kind: types.Type, dtype: types.Type) -> bool:
    if isinstance(kind, types.CPointer):
        return kind.dtype == dtype
    return isinstance(kind, types.Array) and kind.ndim == 1 and kind.layout == "C" and kind.dtype == dtype


def _vector_of(kind: types.Type) -> Lanes | None:
    if _is_row(kind, types.float32):
        return F16
    return U16 if _is_row(kind, types.uint32) else None


@intrinsic
def pointer(typingctx, x):
    """Where a one-dimensional contiguous array lies. All functions here take a pointer in place of an array.

    A pointer has no reference count, which numba would otherwise keep moving up and down in loops with branches; so
    the array must be kept alive: see `keep`.
    """
    if not isinstance(x, types.Array) or x.ndim != 1 or x.layout != "C":
        return None

    def code(context, builder, sig, args):
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(x.dtype)(x), code


@intrinsic
def keep(typingctx, x):
    """Does nothing; an array named here is alive until here."""
    return types.void(x), lambda context, builder, sig, args: context.get_dummy_value()


@intrinsic
def at(typingctx, x, i):
    """x[i], one number, of a pointer or an array."""
    dtype = x.dtype

    def code(context, builder, sig, args):
        return builder.load(_place(context, builder, sig, args))

    return dtype(x, i), code


@intrinsic
def put(typingctx, x, i, value):
    """x[i] = value, one number, of a pointer or an array."""

    def code(context, builder, sig, args):
        number = context.cast(builder, args[2], sig.args[2], sig.args[0].dtype)
        builder.store(number, _place(context, builder, sig, args))
        return context.get_dummy_value()

    return types.void(x, i, value), code


@intrinsic
def load(typingctx, x, i):
    """x[i : i + 16] of a float32 or uint32 array."""
    lanes = _vector_of(x)
    if lanes is None:
        return None

    def code(context, builder, sig, args):
        return builder.load(_address(context, builder, sig, args, lanes.vector), align=4)

    return lanes(x, i), code


@intrinsic
def prefetch(typingctx, x, i):
    """Fetch the cache line of x[i], which need not exist, into the second level, and go on."""

    def code(context, builder, sig, args):
        Wide(builder).prefetch_line(builder.bitcast(_place(context, builder, sig, args), I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(x, i), code


@intrinsic
def store(typingctx, x, i, v):
    """x[i : i + 16] = v"""
    if _vector_of(x) != v:
        return None

    def code(context, builder, sig, args):
        builder.store(args[2], _address(context, builder, sig, args, args[2].type), align=4)
        return context.get_dummy_value()

    return types.void(x, i, v), code


def _masked(builder, kind: str, vector: ir.VectorType, count: ir.Value, pointer: ir.Value, value: ir.Value) -> ir.Value:
    """LLVM's masked load (`value`: the other lanes) or store (of `value`) of the lanes below `count`."""
    e = Wide(builder)
    mask = builder.icmp_signed("<", e.const(vec(I64, WIDTH), list(range(WIDTH))), e.splat(count, WIDTH))
    name = f"llvm.masked.{kind}.v16{'f32' if vector.element == F16.element else 'i32'}.p0"
    given = [pointer, e.int(4, I32), mask, value] if kind == "load" else [value, pointer, e.int(4, I32), mask]
    returns = vector if kind == "load" else ir.VoidType()
    function_type = ir.FunctionType(returns, [part.type for part in given])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), given)


@intrinsic
def load_part(typingctx, x, i, n, fill):
    """x[i : i + n] in the first n lanes, `fill` in the others; nothing beyond is touched."""
    lanes = _vector_of(x)
    if lanes is None:
        return None

    def code(context, builder, sig, args):
        pointer = _address(context, builder, sig, args, lanes.vector)
        count = context.cast(builder, args[2], sig.args[2], types.intp)
        rest = as_lanes(context, Wide(builder), args[3], sig.args[3], lanes)
        return _masked(builder, "load", lanes.vector, count, pointer, rest)

    return lanes(x, i, n, fill), code


@intrinsic
def store_part(typingctx, x, i, n, v):
    """x[i : i + n] = the first n lanes of v; nothing beyond is touched."""
    if _vector_of(x) != v:
        return None

    def code(context, builder, sig, args):
        pointer = _address(context, builder, sig, args, args[3].type)
        count = context.cast(builder, args[2], sig.args[2], types.intp)
        _masked(builder, "store", args[3].type, count, pointer, args[3])
        return context.get_dummy_value()

    return types.void(x, i, n, v), code


@leaf
def load_some(x, i, n, fill):
    """As `load_part`, where n is mostly all sixteen: then a plain load, far cheaper on CPUs without masks."""
    return load(x, i) if n == WIDTH else load_part(x, i, n, fill)


@leaf
def store_some(x, i, n, v):
    """As `store_part`, where n is mostly all sixteen."""
    if n == WIDTH:
        store(x, i, v)
    else:
        store_part(x, i, n, v)


# ------------------------------------------------------------------------------------------------ bytes, nibbles, bits


def _reads(returns: Lanes) -> Callable:
    """A function of a uint8 array and a place from `emit(e, address)`; `address(type)` is the place as a pointer."""

    def choose(emit: Callable) -> Callable:
        def typed(typingctx, x, i):
            def code(context, builder, sig, args):
                return emit(Wide(builder), lambda ty: _address(context, builder, sig, args, ty))

            return (returns(x, i), code) if _is_row(x, types.uint8) else None

        return intrinsic(typed)

    return choose


def _writes(takes: Lanes, dtype: types.Type = types.uint8) -> Callable:
    """A function of an array, a place and lanes from `emit(e, address, value)`."""

    def choose(emit: Callable) -> Callable:
        def typed(typingctx, x, i, v):
            def code(context, builder, sig, args):
                emit(Wide(builder), lambda ty: _address(context, builder, sig, args, ty), args[2])
                return context.get_dummy_value()

            return (types.void(x, i, v), code) if v is takes and _is_row(x, dtype) else None

        return intrinsic(typed)

    return choose


_PAIRS, _HALF = vec(I64, WIDTH // 2), vec(I8, WIDTH // 2)  # two lanes as one word; sixteen nibbles


@_reads(U16)
def load_bytes(e, address):
    """`load_bytes(x, i)`: x[i : i + 16] of a uint8 array."""
    return e.b.zext(e.b.load(address(BYTES), align=1), INT)


@_writes(U16)
def store_bytes(e, address, v):
    """`store_bytes(x, i, v)`: x[i : i + 16] = the low bytes of v, into a uint8 array."""
    e.b.store(e.b.trunc(v, BYTES), address(BYTES), align=1)


@_writes(U16)
def store_nibbles(e, address, v):
    """`store_nibbles(x, i, v)`: x[i : i + 8] = the lowest four bits of sixteen words, two a byte, low nibble first."""
    pairs = e.b.bitcast(v, _PAIRS)
    low, high = e.const(_PAIRS, 0x0F), e.const(_PAIRS, 0xF0)
    joined = e.b.or_(e.b.and_(pairs, low), e.b.and_(e.b.lshr(pairs, e.const(_PAIRS, 28)), high))
    e.b.store(e.b.trunc(joined, _HALF), address(_HALF), align=1)


def _nibbles(e, address):
    value = e.b.zext(e.b.load(address(_HALF), align=1), _PAIRS)
    low = e.b.and_(value, e.const(_PAIRS, 15))
    high = e.b.and_(e.b.shl(value, e.const(_PAIRS, 28)), e.const(_PAIRS, 15 << 32))
    return e.b.bitcast(e.b.or_(low, high), INT)


load_nibbles = _reads(U16)(_nibbles)
"""`load_nibbles(x, i)`: sixteen 4-bit codes from x[i : i + 8] of a uint8 array, low nibble first."""


def nibble_table(table):
    """What `lookup_nibbles` reads of sixteen float32: these, or on a CPU without permutations those of two codes."""
    codes = np.arange(256)
    return table if permutes() else np.stack([table[codes & 15], table[codes >> 4]], axis=1).reshape(-1)


@intrinsic
def lookup_nibbles(typingctx, table, x, i):
    """What sixteen 4-bit codes at x[i : i + 8] stand for, by a `nibble_table`.

    Where the CPU cannot permute, a byte's two numbers are one load: indices taken out of a vector cost far more.
    """

    def code(context, builder, sig, args):
        e = Wide(builder)
        table = builder.bitcast(_pointer(context, builder, sig.args[0], args[0], e.int(0)), F16.vector.as_pointer())
        index = context.cast(builder, args[2], sig.args[2], types.intp)
        place = _pointer(context, builder, sig.args[1], args[1], index)
        if permutes():
            loaded = builder.load(table, align=4)
            loaded.set_metadata("invariant.load", builder.module.add_metadata([]))  # so that it is loaded once
            return e.pick(loaded, _nibbles(e, lambda ty: builder.bitcast(place, ty.as_pointer())))
        pairs, found = builder.bitcast(table, I64.as_pointer()), ir.Constant(_PAIRS, ir.Undefined)
        for k in range(WIDTH // 2):
            pair = builder.gep(pairs, [builder.zext(builder.load(builder.gep(place, [e.int(k)])), I64)])
            found = builder.insert_element(found, builder.load(pair, align=4), e.int(k, I32))
        return builder.bitcast(found, F16.vector)

    return F16(table, x, i), code


@_writes(B16)
def store_bits(e, address, m):
    """`store_bits(x, i, m)`: x[i : i + 2] = sixteen comparison results, the first in bit 0, into a uint8 array."""
    e.b.store(e.b.bitcast(m, I16), address(I16), align=1)


@_reads(B16)
def load_bits(e, address):
    """`load_bits(x, i)`: sixteen truth values from x[i : i + 2] of a uint8 array, the first in bit 0."""
    return e.b.bitcast(e.b.load(address(I16), align=1), TRUTH)


@_writes(F16, types.float32)
def stream(e, address, v):
    """`stream(x, i, v)`: x[i : i + 16] = v past the caches, float32; x[i] lies at a multiple of 64.

    See `intrinsics.fence`.
    """
    stored = e.b.store(v, address(v.type), align=64)
    stored.set_metadata("nontemporal", e.b.module.add_metadata([e.int(1, I32)]))
