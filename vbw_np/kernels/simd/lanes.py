"""Sixteen numbers at a time: explicit vectors for kernels, where the compiler would not find them by itself.

    v = load(x, i)                      # x[i : i + 16], a float32 array
    y = select(v < 0.0, v * 0.5, v)
    store(out, i, y)

Inside compiled code a `F16` (sixteen float32) or `U16` (sixteen uint32) is one LLVM vector value; LLVM splits it into
whatever registers the CPU has, so results do not depend on the CPU. Operators work lane by lane; a plain number stands
for sixteen copies of it, a float rounded to float32. No operation is contracted or reordered: every lane computes what
NumPy would. Sums over lanes are added as a tree of halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1.

With numba switched off the same functions work on NumPy arrays of sixteen.
"""

from __future__ import annotations

import operator

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

from . import cpu
from .jit import leaf

WIDTH = 16

PIECE = 1 << 14
"""Elements that one thread takes at a time: 64 KiB of float32, so that a few arrays of it fit a core's own cache."""

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
_F32 = ir.FloatType()


class Lanes(types.Type):
    """The numba type of a vector value."""

    def __init__(self, name: str, element: ir.Type) -> None:
        super().__init__(name)
        self.element = element


F16 = Lanes("F16", _F32)
U16 = Lanes("U16", _I32)
B16 = Lanes("B16", _I1)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type: Lanes) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(fe_type.element, WIDTH))


def _vector(element: ir.Type, count: int = WIDTH) -> ir.VectorType:
    return ir.VectorType(element, count)


def _constant(element: ir.Type, values: list) -> ir.Constant:
    return ir.Constant(_vector(element, len(values)), [ir.Constant(element, v) for v in values])


def _splat(builder: ir.IRBuilder, value: ir.Value, count: int = WIDTH) -> ir.Value:
    empty = ir.Constant(_vector(value.type, count), ir.Undefined)
    one = builder.insert_element(empty, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, empty, _constant(_I32, [0] * count))


def _cast_scalar(context, builder, value: ir.Value, source: types.Type, target: Lanes) -> ir.Value:
    """A number as the element of `target`."""
    if target is F16:
        return context.cast(builder, value, source, types.float32)
    return context.cast(builder, value, source, types.uint32)


# ------------------------------------------------------------------------------------------------ operators on lanes

_ARITHMETIC = {
    F16: {
        operator.add: "fadd",
        operator.sub: "fsub",
        operator.mul: "fmul",
        operator.truediv: "fdiv",
    },
    U16: {
        operator.add: "add",
        operator.sub: "sub",
        operator.mul: "mul",
        operator.and_: "and_",
        operator.or_: "or_",
        operator.xor: "xor",
        operator.lshift: "shl",
        operator.rshift: "lshr",
    },
    B16: {operator.and_: "and_", operator.or_: "or_"},
}
_COMPARE = {
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}


def _operand(builder, context, value, kind: types.Type, lanes: Lanes) -> ir.Value:
    return value if kind == lanes else _splat(builder, _cast_scalar(context, builder, value, kind, lanes))


def _declare(op) -> None:
    class Template(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) != 2 or not any(isinstance(a, Lanes) for a in args):
                return None
            lanes = args[0] if isinstance(args[0], Lanes) else args[1]
            other = args[1] if lanes is args[0] else args[0]
            if other != lanes and not isinstance(other, types.Number):
                return None
            if op in _COMPARE:
                return signature(B16, *args)
            return signature(lanes, *args) if op in _ARITHMETIC[lanes] else None

    infer_global(op)(Template)

    def lower(context, builder, sig, args):
        lanes = next(a for a in sig.args if isinstance(a, Lanes))
        left, right = (_operand(builder, context, v, t, lanes) for v, t in zip(args, sig.args))
        if op in _COMPARE:
            if lanes is F16:
                # != is true for NaN, as in IEEE; all the others are false
                compare = builder.fcmp_unordered if op is operator.ne else builder.fcmp_ordered
            else:
                compare = builder.icmp_unsigned
            return compare(_COMPARE[op], left, right)
        return getattr(builder, _ARITHMETIC[lanes][op])(left, right)

    for kinds in ((Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)):
        lower_builtin(op, *kinds)(lower)


for _op in (*_ARITHMETIC[F16], *_ARITHMETIC[U16], *_COMPARE):
    _declare(_op)


# -------------------------------------------------------------------------------------------- functions, both worlds


def _function(twin):
    """An intrinsic, or with numba switched off its NumPy `twin`."""

    def choose(implementation):
        return twin if config.DISABLE_JIT else intrinsic(implementation)

    return choose


def _pointer(context, builder, kind: types.Array | types.CPointer, array: ir.Value, index: ir.Value) -> ir.Value:
    """The address of array[index] of a one-dimensional contiguous array, or of what a pointer points to."""
    data = array if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _address(context, builder, sig, args, vector: ir.Type) -> ir.Value:
    index = context.cast(builder, args[1], sig.args[1], types.intp)
    return builder.bitcast(_pointer(context, builder, sig.args[0], args[0], index), vector.as_pointer())


def _is_row(kind: types.Type, dtype: types.Type) -> bool:
    if isinstance(kind, types.CPointer):
        return kind.dtype == dtype
    return isinstance(kind, types.Array) and kind.ndim == 1 and kind.layout == "C" and kind.dtype == dtype


def _vector_of(kind: types.Type) -> Lanes | None:
    if _is_row(kind, types.float32):
        return F16
    return U16 if _is_row(kind, types.uint32) else None


@_function(lambda x: x)
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


@_function(lambda x: None)
def keep(typingctx, x):
    """Does nothing; an array named here is alive until here."""
    return types.void(x), lambda context, builder, sig, args: context.get_dummy_value()


@_function(lambda x, i: x[i])
def at(typingctx, x, i):
    """x[i], one number, of a pointer or an array."""
    dtype = x.dtype

    def code(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.intp)
        return builder.load(_pointer(context, builder, sig.args[0], args[0], index))

    return dtype(x, i), code


def _put_numpy(x, i, value):
    x[i] = value


@_function(_put_numpy)
def put(typingctx, x, i, value):
    """x[i] = value, one number, of a pointer or an array."""

    def code(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.intp)
        number = context.cast(builder, args[2], sig.args[2], sig.args[0].dtype)
        builder.store(number, _pointer(context, builder, sig.args[0], args[0], index))
        return context.get_dummy_value()

    return types.void(x, i, value), code


@_function(lambda x, i: x[i : i + WIDTH].copy())
def load(typingctx, x, i):
    """x[i : i + 16] of a float32 or uint32 array."""
    lanes = _vector_of(x)
    if lanes is None:
        return None

    def code(context, builder, sig, args):
        return builder.load(_address(context, builder, sig, args, _vector(lanes.element)), align=4)

    return lanes(x, i), code


@_function(lambda x, i: None)
def prefetch(typingctx, x, i):
    """Fetch the cache line of x[i], which need not exist, into the second level, and go on."""

    def code(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.intp)
        address = builder.bitcast(_pointer(context, builder, sig.args[0], args[0], index), _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, *(ir.Constant(_I32, n) for n in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(x, i), code


def _store_numpy(x, i, v):
    x[i : i + WIDTH] = v


@_function(_store_numpy)
def store(typingctx, x, i, v):
    """x[i : i + 16] = v"""
    if _vector_of(x) != v:
        return None

    def code(context, builder, sig, args):
        builder.store(args[2], _address(context, builder, sig, args, args[2].type), align=4)
        return context.get_dummy_value()

    return types.void(x, i, v), code


def _first_lanes(builder, count: ir.Value) -> ir.Value:
    """The mask of lanes below `count`."""
    places = _constant(_I64, list(range(WIDTH)))
    return builder.icmp_signed("<", places, _splat(builder, count))


def _load_part_numpy(x, i, n, fill):
    v = np.full(WIDTH, fill, x.dtype)
    v[:n] = x[i : i + n]
    return v


@_function(_load_part_numpy)
def load_part(typingctx, x, i, n, fill):
    """x[i : i + n] in the first n lanes, `fill` in the others; nothing beyond is touched."""
    lanes = _vector_of(x)
    if lanes is None:
        return None

    def code(context, builder, sig, args):
        vector = _vector(lanes.element)
        pointer = _address(context, builder, sig, args, vector)
        count = context.cast(builder, args[2], sig.args[2], types.intp)
        rest = _splat(builder, _cast_scalar(context, builder, args[3], sig.args[3], lanes))
        return _masked_load(builder, pointer, _first_lanes(builder, count), rest)

    return lanes(x, i, n, fill), code


def _suffix(vector: ir.VectorType) -> str:
    element = {_F32: "f32", _I32: "i32", _I8: "i8", _I16: "i16"}[vector.element]
    return f"v{vector.count}{element}"


def _pointer_suffix(pointer: ir.Type, vector: ir.VectorType) -> str:
    """How LLVM spells the pointer in an intrinsic's name: opaque from LLVM 15 on, whatever llvmlite prints."""
    return "p0"


def _masked_load(builder, pointer, mask, rest) -> ir.Value:
    vector = rest.type
    kind = ir.FunctionType(vector, [pointer.type, _I32, mask.type, vector])
    name = f"llvm.masked.load.{_suffix(vector)}.{_pointer_suffix(pointer.type, vector)}"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [pointer, ir.Constant(_I32, 4), mask, rest])


def _masked_store(builder, value, pointer, mask) -> None:
    vector = value.type
    kind = ir.FunctionType(ir.VoidType(), [vector, pointer.type, _I32, mask.type])
    name = f"llvm.masked.store.{_suffix(vector)}.{_pointer_suffix(pointer.type, vector)}"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [value, pointer, ir.Constant(_I32, 4), mask])


def _store_part_numpy(x, i, n, v):
    x[i : i + n] = v[:n]


@_function(_store_part_numpy)
def store_part(typingctx, x, i, n, v):
    """x[i : i + n] = the first n lanes of v; nothing beyond is touched."""
    if _vector_of(x) != v:
        return None

    def code(context, builder, sig, args):
        pointer = _address(context, builder, sig, args, args[3].type)
        count = context.cast(builder, args[2], sig.args[2], types.intp)
        _masked_store(builder, args[3], pointer, _first_lanes(builder, count))
        return context.get_dummy_value()

    return types.void(x, i, n, v), code


@_function(lambda x: np.full(WIDTH, x, np.float32))
def splat(typingctx, x):
    """Sixteen copies of a number, as float32."""
    def code(context, builder, sig, args):
        return _splat(builder, _cast_scalar(context, builder, args[0], sig.args[0], F16))

    return F16(x), code


@_function(lambda x: np.full(WIDTH, x, np.uint32))
def usplat(typingctx, x):
    """Sixteen copies of an integer, as uint32."""
    def code(context, builder, sig, args):
        return _splat(builder, _cast_scalar(context, builder, args[0], sig.args[0], U16))

    return U16(x), code


@_function(lambda: np.arange(WIDTH, dtype=np.uint32))
def places(typingctx):
    """0, 1, ..., 15 as uint32."""
    return U16(), lambda context, builder, sig, args: _constant(_I32, list(range(WIDTH)))


@_function(lambda m, a, b: np.where(m, a, b))
def select(typingctx, m, a, b):
    """a where the comparison m holds, else b; either may be a number."""
    lanes = a if isinstance(a, Lanes) else b

    def code(context, builder, sig, args):
        values = (_operand(builder, context, v, t, lanes) for v, t in zip(args[1:], sig.args[1:]))
        return builder.select(args[0], *values)

    return lanes(m, a, b), code


@_function(lambda v: v.view(np.uint32))
def bits(typingctx, v):
    """The bit patterns of sixteen float32."""
    return U16(F16), lambda context, builder, sig, args: builder.bitcast(args[0], _vector(_I32))


@_function(lambda v: v.view(np.float32))
def floats(typingctx, v):
    """The float32 numbers of sixteen bit patterns."""
    return F16(U16), lambda context, builder, sig, args: builder.bitcast(args[0], _vector(_F32))


@_function(lambda v: v.view(np.int32).astype(np.float32))
def to_float(typingctx, v):
    """Sixteen integers (as int32) converted to float32."""
    return F16(U16), lambda context, builder, sig, args: builder.sitofp(args[0], _vector(_F32))


def _float_intrinsic(name: str):
    def code(context, builder, sig, args):
        vector = args[0].type
        kind = ir.FunctionType(vector, [vector] * len(args))
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.{_suffix(vector)}")
        return builder.call(function, args)

    return code


@_function(np.sqrt)
def sqrt(typingctx, v):
    """The square roots, correctly rounded."""
    return F16(F16), _float_intrinsic("sqrt")


@_function(np.abs)
def absolute(typingctx, v):
    """The magnitudes."""
    return F16(F16), _float_intrinsic("fabs")


def _choice(name: str):
    """The larger or smaller of two unsigned integers, or of two floats (the second where one is NaN)."""

    def code(context, builder, sig, args):
        lanes = next(a for a in sig.args if isinstance(a, Lanes))
        left, right = (_operand(builder, context, v, t, lanes) for v, t in zip(args, sig.args))
        compare = builder.fcmp_ordered if lanes is F16 else builder.icmp_unsigned
        return builder.select(compare(">" if name == "max" else "<", left, right), left, right)

    return code


def _lanes_of(a, b):
    return a if isinstance(a, Lanes) else b


@_function(lambda a, b: np.where(a > b, a, b))
def larger(typingctx, a, b):
    """a where a > b, else b"""
    return _lanes_of(a, b)(a, b), _choice("max")


@_function(lambda a, b: np.where(a < b, a, b))
def smaller(typingctx, a, b):
    """a where a < b, else b"""
    return _lanes_of(a, b)(a, b), _choice("min")


def _tree(builder, value: ir.Value, join) -> ir.Value:
    count = value.type.count
    while count > 1:
        count //= 2
        low, high = (
            builder.shuffle_vector(value, value, _constant(_I32, list(range(start, start + count))))
            for start in (0, count)
        )
        value = join(low, high)
    return builder.extract_element(value, ir.Constant(_I32, 0))


def _tree_numpy(v, join):
    while len(v) > 1:
        v = join(v[: len(v) // 2], v[len(v) // 2 :])
    return v[0]


@_function(lambda v: _tree_numpy(v, np.add))
def sum_lanes(typingctx, v):
    """The sum of the lanes, as a tree of halves."""
    return types.float32(F16), lambda context, builder, sig, args: _tree(builder, args[0], builder.fadd)


@_function(lambda v: _tree_numpy(v, lambda a, b: np.where(a > b, a, b)))
def max_lanes(typingctx, v):
    """The largest lane."""
    def code(context, builder, sig, args):
        def join(a, b):
            if v is F16:
                return builder.select(builder.fcmp_ordered(">", a, b), a, b)
            return builder.select(builder.icmp_unsigned(">", a, b), a, b)

        return _tree(builder, args[0], join)

    return (types.float32 if v is F16 else types.uint32)(v), code


# --------------------------------------------------------------------------------------- bytes, nibbles, bits, tables


def _is_bytes(kind: types.Type) -> bool:
    return _is_row(kind, types.uint8)


@_function(lambda x, i: x[i : i + WIDTH].astype(np.uint32))
def load_bytes(typingctx, x, i):
    """x[i : i + 16] of a uint8 array."""
    if not _is_bytes(x):
        return None

    def code(context, builder, sig, args):
        value = builder.load(_address(context, builder, sig, args, _vector(_I8)), align=1)
        return builder.zext(value, _vector(_I32))

    return U16(x, i), code


@_function(_store_numpy)
def store_bytes(typingctx, x, i, v):
    """x[i : i + 16] = the low bytes of v, into a uint8 array."""
    if not _is_bytes(x) or v is not U16:
        return None

    def code(context, builder, sig, args):
        value = builder.trunc(args[2], _vector(_I8))
        builder.store(value, _address(context, builder, sig, args, value.type), align=1)
        return context.get_dummy_value()

    return types.void(x, i, v), code


def _store_nibbles_numpy(x, i, v):
    x[i : i + WIDTH // 2] = v[::2] | (v[1::2] << 4)


@_function(_store_nibbles_numpy)
def store_nibbles(typingctx, x, i, v):
    """x[i : i + 8] = sixteen 4-bit codes, two a byte, low nibble first, into a uint8 array."""
    if not _is_bytes(x) or v is not U16:
        return None

    def code(context, builder, sig, args):
        pairs = builder.bitcast(args[2], _vector(_I64, WIDTH // 2))
        joined = builder.or_(pairs, builder.lshr(pairs, _constant(_I64, [28] * (WIDTH // 2))))
        value = builder.trunc(joined, _vector(_I8, WIDTH // 2))
        builder.store(value, _address(context, builder, sig, args, value.type), align=1)
        return context.get_dummy_value()

    return types.void(x, i, v), code


def _load_nibbles_numpy(x, i):
    v = np.empty(WIDTH, np.uint32)
    v[::2], v[1::2] = x[i : i + WIDTH // 2] & 15, x[i : i + WIDTH // 2] >> 4
    return v


@_function(_load_nibbles_numpy)
def load_nibbles(typingctx, x, i):
    """Sixteen 4-bit codes from x[i : i + 8] of a uint8 array, low nibble first."""
    if not _is_bytes(x):
        return None

    def code(context, builder, sig, args):
        half = _vector(_I8, WIDTH // 2)
        value = builder.zext(builder.load(_address(context, builder, sig, args, half), align=1), _vector(_I64, 8))
        low = builder.and_(value, _constant(_I64, [15] * 8))
        high = builder.and_(builder.shl(value, _constant(_I64, [28] * 8)), _constant(_I64, [15 << 32] * 8))
        return builder.bitcast(builder.or_(low, high), _vector(_I32))

    return U16(x, i), code


def _store_bits_numpy(x, i, m):
    x[i : i + WIDTH // 8] = np.packbits(m, bitorder="little")


@_function(_store_bits_numpy)
def store_bits(typingctx, x, i, m):
    """x[i : i + 2] = sixteen comparison results, the first in bit 0, into a uint8 array."""
    if not _is_bytes(x) or m is not B16:
        return None

    def code(context, builder, sig, args):
        value = builder.bitcast(args[2], _I16)
        builder.store(value, _address(context, builder, sig, args, value.type), align=1)
        return context.get_dummy_value()

    return types.void(x, i, m), code


@_function(lambda x, i: np.unpackbits(x[i : i + WIDTH // 8], bitorder="little").astype(bool))
def load_bits(typingctx, x, i):
    """Sixteen truth values from x[i : i + 2] of a uint8 array, the first in bit 0."""
    if not _is_bytes(x):
        return None

    def code(context, builder, sig, args):
        value = builder.load(_address(context, builder, sig, args, _I16), align=1)
        return builder.bitcast(value, _vector(_I1))

    return B16(x, i), code


@_function(lambda a, b: np.concatenate([np.maximum(v[::2], v[1::2]) for v in (a, b)]))
def pair_max(typingctx, a, b):
    """The larger of each two neighbours: eight of a, then eight of b. Four rounds turn sixteen vectors into one."""
    if a is not U16 or b is not U16:
        return None

    def code(context, builder, sig, args):
        even, odd = (
            builder.shuffle_vector(*args, _constant(_I32, list(range(first, 2 * WIDTH, 2)))) for first in (0, 1)
        )
        return builder.select(builder.icmp_unsigned(">", even, odd), even, odd)

    return U16(a, b), code


@_function(lambda v: v.astype(np.int32).view(np.uint32))
def to_int(typingctx, v):
    """Sixteen float32 truncated to integers; they must fit."""
    return U16(F16), lambda context, builder, sig, args: builder.fptosi(args[0], _vector(_I32))


def _halves(builder, value: ir.Value) -> list[ir.Value]:
    return [
        builder.shuffle_vector(value, value, _constant(_I32, list(range(start, start + 8)))) for start in (0, 8)
    ]


def _pick(builder, table: ir.Value, index: ir.Value) -> ir.Value:
    """table[index] by the CPU's own permutation where it has one, else through memory."""
    have = cpu.features()
    module, v8, i8 = builder.module, _vector(_F32, 8), _vector(_I32, 8)
    if "avx512f" in have:
        kind = ir.FunctionType(table.type, [table.type, index.type])
        function = cgutils.get_or_insert_function(module, kind, "llvm.x86.avx512.permvar.sf.512")
        return builder.call(function, [table, index])
    if "avx2" in have:
        function = cgutils.get_or_insert_function(module, ir.FunctionType(v8, [v8, i8]), "llvm.x86.avx2.permps")
        low, high = _halves(builder, table)
        picked = []
        for part in _halves(builder, index):
            upper = builder.icmp_unsigned(">", part, _constant(_I32, [7] * 8))
            from_low, from_high = (builder.call(function, [half, part]) for half in (low, high))
            picked.append(builder.select(upper, from_high, from_low))
        return builder.shuffle_vector(*picked, _constant(_I32, list(range(WIDTH))))
    memory = cgutils.alloca_once(builder, table.type)
    builder.store(table, memory)
    first = builder.bitcast(memory, _F32.as_pointer())
    result = ir.Constant(table.type, ir.Undefined)
    for lane in range(WIDTH):
        place = builder.extract_element(index, ir.Constant(_I32, lane))
        result = builder.insert_element(result, builder.load(builder.gep(first, [place])), ir.Constant(_I32, lane))
    return result


@_function(lambda table, index: table[index])
def lookup(typingctx, table, index):
    """table[index], lane by lane: a table of sixteen float32, indices 0 to 15."""
    if table is not F16 or index is not U16:
        return None
    return F16(table, index), lambda context, builder, sig, args: _pick(builder, *args)


@_function(_store_numpy)
def stream(typingctx, x, i, v):
    """x[i : i + 16] = v past the caches, into a float32 array; x[i]'s address is a multiple of 64. See `fence`."""
    if v is not F16 or not _is_row(x, types.float32):
        return None

    def code(context, builder, sig, args):
        instruction = builder.store(args[2], _address(context, builder, sig, args, args[2].type), align=64)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))
        return context.get_dummy_value()

    return types.void(x, i, v), code


@_function(lambda: None)
def fence(typingctx):
    """Stores that went past the caches are visible to other threads from here on."""

    def code(context, builder, sig, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code


@leaf
def mix(h):
    """Wellons' lowbias32 on sixteen words, as `autograd.random.mix`."""
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h ^ (h >> 16)
