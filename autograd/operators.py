"""Operators and methods of the tensor, and what NumPy's functions do with one; importing it installs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import ops
from .tensor import Tensor


def _getitem(self: Tensor, index: Any) -> Tensor:
    if any(isinstance(part, Tensor) for part in (index if isinstance(index, tuple) else (index,))):
        raise TypeError("a tensor holds floats, which are no positions: index with an integer or boolean array")
    return ops.getitem(self, index=index)


def _reduced(operation: Any) -> Any:
    def reduce(self: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
        return operation(self, axis=axis, keepdims=keepdims)

    reduce.__name__ = reduce.__qualname__ = operation.name  # what an error about its arguments says
    return reduce


def _reshape(self: Tensor, *shape: int | Sequence[int]) -> Tensor:
    return ops.reshape(self, shape=tuple(shape[0]) if len(shape) == 1 and np.ndim(shape[0]) else shape)


def _permute(self: Tensor, *axes: int | Sequence[int]) -> Tensor:
    return ops.permute(self, axes=axes[0] if len(axes) == 1 and np.ndim(axes[0]) else axes)


def _transpose(self: Tensor, first: int, second: int) -> Tensor:
    axes = list(range(self.ndim))
    axes[first], axes[second] = axes[second], axes[first]
    return ops.permute(self, axes=tuple(axes))


def _power(self: Tensor, exponent: float) -> Tensor:
    return ops.power(self, exponent=exponent)


def _compared(name: str) -> Any:
    """A comparison: a boolean array, element by element, as NumPy and PyTorch have it."""
    ufunc = getattr(np, name)

    def compare(self: Tensor, other: Any) -> Any:
        if not isinstance(other, Tensor | np.ndarray | np.generic | int | float):
            return NotImplemented
        return ufunc(self.data, other.data if isinstance(other, Tensor) else other)

    return compare


UFUNCS = {
    np.add: ops.add, np.subtract: ops.sub, np.multiply: ops.mul, np.divide: ops.div, np.matmul: ops.matmul,
    np.negative: ops.neg, np.exp: ops.exp, np.log: ops.log, np.sqrt: ops.sqrt, np.tanh: ops.tanh,
    np.absolute: ops.absolute, np.maximum: ops.maximum,
}  # fmt: skip
"""NumPy's functions that have an operation here: called with a tensor they are recorded like it."""
_COMPARISONS = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater",
                "ge": "greater_equal"}  # fmt: skip


def _array_ufunc(self: Tensor, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
    if method == "__call__" and not options:
        if ufunc in UFUNCS:
            return UFUNCS[ufunc](*inputs)
        if ufunc.__name__ in _COMPARISONS.values():
            return ufunc(*(value.data if isinstance(value, Tensor) else value for value in inputs))
    raise TypeError(
        f"np.{ufunc.__name__} is no operation on tensors; use a method of the tensor or a function of "
        "autograd.functional, or compute with the values, x.numpy(), which records nothing"
    )


def _array_function(self: Tensor, function: Any, types: Any, args: tuple, kwargs: dict) -> Any:
    if function in (np.shape, np.ndim, np.size):
        return function(*(value.data if isinstance(value, Tensor) else value for value in args), **kwargs)
    raise TypeError(
        f"np.{function.__name__} is no operation on tensors; use a method of the tensor or a function of "
        "autograd.ops, or compute with the values, x.numpy(), which records nothing"
    )


def _install() -> None:
    """Give `Tensor` its operators: here, since a tensor need not know which operations there are."""
    forward = {"add": ops.add, "sub": ops.sub, "mul": ops.mul, "truediv": ops.div, "matmul": ops.matmul}
    for name, operation in forward.items():
        setattr(Tensor, f"__{name}__", lambda self, other, op=operation: op(self, other))
        setattr(Tensor, f"__r{name}__", lambda self, other, op=operation: op(other, self))
    for name, ufunc_name in _COMPARISONS.items():
        setattr(Tensor, f"__{name}__", _compared(ufunc_name))
    Tensor.__hash__ = object.__hash__  # defining == takes it away
    Tensor.__array_ufunc__ = _array_ufunc
    Tensor.__array_function__ = _array_function
    Tensor.__array__ = lambda self, dtype=None, copy=None: np.array(self.data, dtype, copy=copy)
    Tensor.__neg__ = lambda self: ops.neg(self)
    Tensor.__abs__ = lambda self: ops.absolute(self)
    Tensor.__pow__ = _power
    Tensor.__getitem__ = _getitem
    Tensor.reshape = _reshape
    Tensor.permute = _permute
    Tensor.transpose = _transpose
    Tensor.T = property(lambda self: ops.permute(self, axes=tuple(reversed(range(self.ndim)))))
    for operation in (ops.exp, ops.log, ops.sqrt, ops.tanh, ops.sigmoid, ops.relu):
        setattr(Tensor, operation.name, lambda self, op=operation: op(self))
    for operation in (ops.sum, ops.mean, ops.max):
        setattr(Tensor, operation.name, _reduced(operation))


_install()
