"""Variants of a kernel: one source function, compiled for each of them, without a branch in the machine code.

numba compiles a function once for every type of its arguments, and every `Variant` has a type of its own. So a kernel
that takes one is compiled for that instruction set, scale rule or number of rows, and the code generators of its inner
loops are told which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from llvmlite import ir
from numba import types
from numba.extending import NativeValue, models, register_model, typeof_impl, unbox

from .intrinsics import I64, Emitter, addresses, make_intrinsic


@dataclass(frozen=True)
class Variant:
    """What a kernel is compiled for.

    Parameters
    ----------
    name : str
        An instruction set of `cpu.INSTRUCTION_SETS`, or what else the loops of a file tell apart: words joined by `+`.
    block : int
        The block length, or another number that the loops are made for.
    """

    name: str
    block: int

    @cached_property
    def _numba_type_(self) -> VariantType:
        """The type, where numba's dispatcher looks for it first: by `typeof_impl` alone a call costs 1 us more."""
        return _type_of(self.name, self.block)

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the name."""
        return tuple(self.name.split("+"))


class VariantType(types.Type):
    """numba's type of one `Variant`."""

    def __init__(self, name: str, block: int) -> None:
        self.variant = Variant(name, block)
        super().__init__(name=f"Variant({name}, {block})")


register_model(VariantType)(models.OpaqueModel)

_type_of = lru_cache(VariantType)


@typeof_impl.register(Variant)
def _typeof_variant(value: Variant, context: object) -> VariantType:
    return _type_of(value.name, value.block)


@unbox(VariantType)
def _unbox_variant(typ, obj, c):  # type: ignore[no-untyped-def]
    return NativeValue(c.context.get_dummy_value())


def variant_intrinsic(n_args: int, emit: Callable[..., ir.Value | None]) -> Callable:
    """As `loop_intrinsic` with a `Variant` before the integers: `emit(variant, emitter, *i64 values)`."""

    def make(arguments):  # type: ignore[no-untyped-def]
        variant_type = arguments[0]

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return emit(variant_type.variant, Emitter(builder), *args[1:]) or ir.Constant(I64, 0)

        return types.int64(variant_type, *[types.int64] * n_args), codegen

    return make_intrinsic(["variant", *addresses(n_args)], make, emit)


def constant_of(number: Callable[[Variant], int]) -> Callable:
    """An intrinsic of a variant alone: a number that the compiler knows."""

    def emit(variant: Variant, e: Emitter) -> ir.Value:
        return e.int(number(variant))

    emit.__module__ = number.__module__
    return variant_intrinsic(0, emit)
