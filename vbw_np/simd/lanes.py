"""Sixteen numbers at a time, for kernels that numba compiles: explicit vectors where it would not find them by itself.

    v = load(x, i)                      # x[i : i + 16], a float32 array (`lanes_memory`)
    y = select(v < 0.0, v * 0.5, v)
    store(out, i, y)

Inside compiled code a `F16` (sixteen float32) or `U16` (sixteen uint32) is one LLVM vector value; LLVM splits it into
whatever registers the CPU has, so results do not depend on the CPU. Operators work lane by lane; a plain number stands
for sixteen copies of it, a float rounded to float32. No operation is contracted or reordered: every lane computes what
NumPy would. Sums over lanes are added as a tree of halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1.

The arithmetic is `wide`'s.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

from .intrinsics import F32, I1, I32, make_intrinsic, vec
from .wide import FLOAT, INT, WIDTH, Wide

PIECE = 1 << 14
"""Elements that one thread takes at a time: 64 KiB of float32, so that a few arrays of it fit a core's own cache."""


class Lanes(types.Type):
    """The numba type of a vector value."""

    def __init__(self, name: str, element: ir.Type) -> None:
        super().__init__(name)
        self.element = element
        self.vector = vec(element, WIDTH)


F16 = Lanes("F16", F32)
U16 = Lanes("U16", I32)
B16 = Lanes("B16", I1)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type: Lanes) -> None:
        super().__init__(dmm, fe_type, fe_type.vector)


def as_lanes(context, e: Wide, value: ir.Value, kind: types.Type, lanes: Lanes) -> ir.Value:
    """A value of that kind, or sixteen copies of a number."""
    if kind == lanes:
        return value
    return e.splat(context.cast(e.b, value, kind, types.float32 if lanes is F16 else types.uint32), WIDTH)


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
        lanes, e = next(a for a in sig.args if isinstance(a, Lanes)), Wide(builder)
        left, right = (as_lanes(context, e, v, t, lanes) for v, t in zip(args, sig.args, strict=True))
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


# ------------------------------------------------------------------------------------------------ functions of lanes


def on_lanes(returns: types.Type, *takes: Lanes) -> Callable:
    """A function of lanes from its code generator `emit(Wide, *values)`."""

    def choose(emit: Callable[..., ir.Value]) -> Callable:
        def make(given):
            def code(context, builder, sig, args):
                e = Wide(builder)
                values = (as_lanes(context, e, v, t, k) for v, t, k in zip(args, sig.args, takes, strict=True))
                return emit(e, *values)

            fits = all(g == k or isinstance(g, types.Number) for g, k in zip(given, takes, strict=True))
            return (returns(*given), code) if fits else None

        return make_intrinsic([f"lanes{i}" for i in range(len(takes))], make, emit)

    return choose


def _ramp(e: Wide) -> ir.Value:
    return e.const(INT, list(range(WIDTH)))


splat = on_lanes(F16, F16)(lambda e, x: x)
"""Sixteen copies of a number, as float32."""

usplat = on_lanes(U16, U16)(lambda e, x: x)
"""Sixteen copies of an integer, as uint32."""

places = on_lanes(U16)(_ramp)
"""0, 1, ..., 15 as uint32."""

bits = on_lanes(U16, F16)(lambda e, v: e.bits(v))
"""The bit patterns of sixteen float32."""

floats = on_lanes(F16, U16)(lambda e, v: e.float(v))
"""The float32 numbers of sixteen bit patterns."""

to_float = on_lanes(F16, U16)(lambda e, v: e.b.sitofp(v, FLOAT))
"""Sixteen integers (as int32) converted to float32."""

to_int = on_lanes(U16, F16)(lambda e, v: e.b.fptosi(v, INT))
"""Sixteen float32 truncated to integers; they must fit."""

sqrt = on_lanes(F16, F16)(lambda e, v: e.call("llvm.sqrt.v16f32", FLOAT, v))
"""The square roots, correctly rounded."""

absolute = on_lanes(F16, F16)(lambda e, v: e.call("llvm.fabs.v16f32", FLOAT, v))
"""The magnitudes."""

lookup = on_lanes(F16, F16, U16)(lambda e, table, index: e.pick(table, index))
"""table[index], lane by lane: a table of sixteen float32, indices 0 to 15."""

mix = on_lanes(U16, U16)(lambda e, h: e.mix(h))
"""Wellons' lowbias32 on sixteen words, as `autograd.random.mix`."""

pair_max = on_lanes(U16, U16, U16)(lambda e, a, b: e.pairs(e.umax, a, b))
"""The larger of each two neighbours: eight of a, then eight of b. Four rounds turn sixteen vectors into one."""


@intrinsic
def select(typingctx, m, a, b):
    """a where the comparison m holds, else b; either may be a number."""
    lanes = a if isinstance(a, Lanes) else b

    def code(context, builder, sig, args):
        e = Wide(builder)
        return builder.select(args[0], *(as_lanes(context, e, v, t, lanes) for v, t in zip(args[1:], sig.args[1:])))

    return lanes(m, a, b), code


def _choice(of_floats: str, of_integers: str) -> Callable:
    """The larger or smaller of two floats (the second where one is NaN), or of two unsigned integers."""

    def typed(typingctx, a, b):
        lanes = a if isinstance(a, Lanes) else b

        def code(context, builder, sig, args):
            e = Wide(builder)
            left, right = (as_lanes(context, e, v, t, lanes) for v, t in zip(args, sig.args))
            return getattr(e, of_floats if lanes is F16 else of_integers)(left, right)

        return lanes(a, b), code

    return typed


larger = intrinsic(_choice("fmax", "umax"))
"""a where a > b, else b"""

smaller = intrinsic(_choice("fmin", "umin"))
"""a where a < b, else b"""


sum_lanes = on_lanes(types.float32, F16)(lambda e, v: e.tree(e.b.fadd, v))
"""The sum of the lanes, as a tree of halves."""


@intrinsic
def max_lanes(typingctx, v):
    """The largest lane."""

    def code(context, builder, sig, args):
        e = Wide(builder)
        return e.tree(e.fmax if v is F16 else e.umax, args[0])

    return (types.float32 if v is F16 else types.uint32)(v), code
