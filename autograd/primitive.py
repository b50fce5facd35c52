"""How an operation is declared: its forward computation and its gradient side by side, once.

    @primitive(samples=lambda rng: [((rng.normal(size=(3, 4)), rng.normal(size=4)), {})])
    def mul(x, y):
        return x * y, (lambda g: g * y, lambda g: g * x)

A primitive works on raw arrays. Positional arguments are differentiable, keyword arguments are static. It returns its
output and its vjp (vector-Jacobian product): either one function per input, of which only the needed ones run, or one
function for all of them when they share work. The engine alone records the tape, undoes broadcasting, checks dtypes
and shapes, and adds gradients up. A primitive has one output.

A *twin* is a faster function with the same contract. It never becomes a second truth: it is registered beside its
primitive and tested against it, forward and backward, on the primitive's samples and on its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .parameter import Parameter
from .tape import Node, check_finite, is_grad_enabled
from .tensor import Tensor, as_float_array
from .twin import Samples, Twinned

REGISTRY: dict[str, Primitive] = {}


class Primitive(Twinned):
    """A differentiable operation; call it with tensors, arrays and numbers, get a tensor.

    Its `reference` and `twin` work on raw arrays: ``(*inputs, **static) -> (output, vjp)``. Its `samples` are inputs
    on which tests check the gradient by finite differences. A `surrogate` says why its vjp is, on purpose, not the
    derivative of its output (a straight-through estimator); finite differences have no say there.
    """

    def __init__(
        self, reference: Callable, samples: Samples | None, name: str | None = None, surrogate: str | None = None
    ) -> None:
        super().__init__(reference, samples, name)
        self.surrogate = surrogate
        if self.name in REGISTRY:
            raise ValueError(f"a primitive named {self.name!r} is declared already")
        REGISTRY[self.name] = self

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"

    def __call__(self, *inputs: Any, **static: Any) -> Tensor:
        dtype = _common_dtype(self.name, inputs)
        bases = [(i, base, base.version) for i, base in enumerate(map(_base, inputs)) if base is not None]
        arrays = tuple(_array(value, dtype) for value in inputs)
        output, vjp = self.run(*arrays, **static)
        check_finite(self.name, output)
        result = Tensor(output)
        result.base = next((p for _, p, _ in bases if np.may_share_memory(result.data, p.data)), None)
        if is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in inputs):
            sources = tuple(_source(value) for value in inputs)
            shapes = tuple(() if array is None else array.shape for array in arrays)
            read = _read_later(bases, sources, vjp) if bases else ()
            result.node = Node(self, sources, shapes, result.dtype, vjp, read)
            result.requires_grad = True
        return result


def primitive(
    *, samples: Samples | None = None, name: str | None = None, surrogate: str | None = None
) -> Callable[[Callable], Primitive]:
    """Declare the decorated function as a primitive (see the module's text) and enter it in the registry."""
    return lambda reference: Primitive(reference, samples, name, surrogate)


def _common_dtype(name: str, inputs: tuple) -> np.dtype:
    """The one float type of the tensors (or else arrays) among `inputs`; numbers adapt to it."""
    dtypes = {value.dtype for value in inputs if isinstance(value, Tensor)}
    if len(dtypes) > 1:
        raise TypeError(f"{name}: float32 and float64 tensors do not mix; convert one of them")
    if dtypes:
        return dtypes.pop()
    for value in inputs:
        if isinstance(value, np.ndarray):
            return as_float_array(value[:0] if value.ndim else value).dtype
    return np.dtype(np.float32)


def _array(value: Any, dtype: np.dtype) -> NDArray | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value.data
    return as_float_array(value, dtype)


def _base(value: Any) -> Parameter | None:
    return value if isinstance(value, Parameter) else value.base if isinstance(value, Tensor) else None


_Read = tuple[int, Parameter, int]  # number of the input, parameter, version


def _read_later(bases: list[_Read], sources: tuple, vjp: Any) -> tuple[_Read, ...]:
    """The parameters whose very memory the vjp keeps: a change of them would change the gradient."""
    needed = vjp if callable(vjp) else tuple(f for f, source in zip(vjp, sources) if source is not None)
    kept = list(_arrays_in(needed, 6))
    return tuple(entry for entry in bases if any(np.may_share_memory(array, entry[1].data) for array in kept))


def _arrays_in(value: Any, depth: int) -> Iterator[NDArray]:
    """Arrays that a vjp holds: in its closure and defaults, in tuples, and in methods' objects."""
    if isinstance(value, np.ndarray):
        yield value
    elif depth:
        if isinstance(value, tuple | list):
            parts = value
        elif isinstance(value, FunctionType):
            parts = [cell.cell_contents for cell in value.__closure__ or ()] + [*(value.__defaults__ or ())]
        elif isinstance(value, MethodType):
            parts = [value.__self__, value.__func__]
        elif isinstance(value, functools.partial):
            parts = [value.func, *value.args, *value.keywords.values()]
        else:
            return
        for part in parts:
            yield from _arrays_in(part, depth - 1)


def _source(value: Any) -> Node | Tensor | None:
    if not isinstance(value, Tensor) or not value.requires_grad:
        return None
    return value if value.node is None else value.node
