"""Elementwise operations, shapes, reductions, matrix products and gathers, each with its gradient beside it."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .memory import empty, pooled, reshaped, zeros
from .primitive import primitive
from .twin import Samples, procedure

Axis = int | tuple[int, ...] | None


def _draws(*shapes: tuple[int, ...], **static: Any) -> Samples:
    """Samples: one set of normal inputs of these shapes."""
    return lambda rng: [(tuple(rng.normal(size=shape) for shape in shapes), static)]


def _positive(*shapes: tuple[int, ...]) -> Samples:
    return lambda rng: [(tuple(rng.uniform(0.5, 2.0, size=shape) for shape in shapes), {})]


# ------------------------------------------------------------------------------------------------------ elementwise


@primitive(samples=_draws((3, 4), (4,)))
def add(x, y):
    """x + y"""
    return pooled(np.add, x, y), (lambda g: g, lambda g: g)


@primitive(samples=_draws((3, 4), (3, 1)))
def sub(x, y):
    """x - y"""
    return pooled(np.subtract, x, y), (lambda g: g, lambda g: -g)


@primitive(samples=_draws((3, 4), (4,)))
def mul(x, y):
    """x * y"""
    return pooled(np.multiply, x, y), (lambda g: pooled(np.multiply, g, y), lambda g: pooled(np.multiply, g, x))


@primitive(samples=lambda rng: [((rng.normal(size=(3, 4)), rng.uniform(0.5, 2, size=(4,))), {})])
def div(x, y):
    """x / y"""
    quotient = x / y
    return quotient, (lambda g: g / y, lambda g: -g * quotient / y)


@primitive(samples=_draws((3, 4)))
def neg(x):
    """-x"""
    return -x, (lambda g: -g,)


def _plain_number(value: Any) -> int | float:
    """A Python number, which adapts to any dtype, from what NumPy may have made of it."""
    if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0:
        value = value.item()
    if not isinstance(value, int | float):
        raise TypeError(f"a tensor can be raised to a number only, not to {type(value).__name__}")
    return value


@primitive(samples=lambda rng: [((rng.uniform(0.5, 2, size=(3, 4)),), {"exponent": e}) for e in (2, 0.5, -1, 3, 0)])
def power(x, *, exponent):
    """x ** exponent, for a constant exponent; the slope of x ** 0 is 0 everywhere"""
    exponent = _plain_number(exponent)
    if exponent == 0:
        return x**exponent, (lambda g: np.zeros_like(g),)
    return x**exponent, (lambda g: g * (exponent * x ** (exponent - 1)),)


@primitive(samples=_draws((3, 4)))
def exp(x):
    """e ** x"""
    y = np.exp(x)
    return y, (lambda g: g * y,)


@primitive(samples=_positive((3, 4)))
def log(x):
    """Natural logarithm"""
    return np.log(x), (lambda g: g / x,)


@primitive(samples=_positive((3, 4)))
def sqrt(x):
    """Square root"""
    y = np.sqrt(x)
    return y, (lambda g: g / (2 * y),)


@primitive(samples=_draws((3, 4)))
def tanh(x):
    """Hyperbolic tangent"""
    y = np.tanh(x)
    return y, (lambda g: g * (1 - y * y),)


@primitive(samples=_draws((3, 4)))
def sigmoid(x):
    """1 / (1 + e ** -x), written with tanh so that it cannot overflow"""
    half = x.dtype.type(0.5)
    y = half * np.tanh(half * x) + half
    return y, (lambda g: g * y * (1 - y),)


@primitive(samples=_draws((3, 4)))
def relu(x):
    """max(x, 0); its gradient at 0 is 0"""
    return pooled(np.maximum, x, x.dtype.type(0)), (lambda g: pooled(np.multiply, g, x > 0),)


@primitive(samples=_draws((3, 4)))
def absolute(x):
    """abs(x); its gradient at 0 is 0"""
    return np.abs(x), (lambda g: g * np.sign(x),)


@primitive(samples=_draws((3, 4), (3, 4)))
def maximum(x, y):
    """The larger of x and y; where they are equal, each gets half of the gradient"""
    share = (x > y) + 0.5 * (x == y)
    return np.maximum(x, y), (lambda g: (g * share).astype(g.dtype), lambda g: (g * (1 - share)).astype(g.dtype))


@primitive(samples=lambda rng: [((rng.normal(size=(3, 4)), rng.normal(size=4)), {"condition": np.eye(3, 4) > 0})])
def where(x, y, *, condition):
    """x where `condition` (a boolean array) holds, else y"""
    return np.where(condition, x, y), (
        lambda g: np.where(condition, g, g.dtype.type(0)),
        lambda g: np.where(condition, g.dtype.type(0), g),
    )


# ----------------------------------------------------------------------------------------------------------- shapes


@primitive(samples=_draws((2, 3, 4), shape=(6, 4)))
def reshape(x, *, shape):
    """The same elements in another shape; one axis may be -1"""
    before = x.shape
    return reshaped(x, shape), (lambda g: reshaped(g, before),)


@primitive(samples=_draws((2, 3, 4), axes=(2, 0, 1)))
def permute(x, *, axes):
    """The axes in another order; negative ones count from the end"""
    axes = tuple(operator.index(axis) for axis in axes)
    axes = tuple(axis + x.ndim if axis < 0 else axis for axis in axes)
    if sorted(axes) != list(range(x.ndim)):
        raise ValueError(f"permute: {axes} does not name each of the {x.ndim} axes once")
    back = tuple(int(axis) for axis in np.argsort(axes))
    return x.transpose(axes), (lambda g: g.transpose(back),)


@primitive(samples=_draws((3, 1), shape=(2, 3, 4)))
def broadcast_to(x, *, shape):
    """Repeat along new axes and axes of size 1"""
    return np.broadcast_to(x, shape), (lambda g: g,)


@primitive(samples=_draws((2, 3), axis=1))
def flip(x, *, axis):
    """The reverse order along `axis`"""
    return np.flip(x, axis), (lambda g: np.flip(g, axis),)


@primitive(samples=_draws((2, 3), (2, 1), (2, 2), axis=1))
def concatenate(*parts, axis):
    """Arrays one after the other along an axis that exists"""
    ends = np.cumsum([part.shape[axis] for part in parts])[:-1]
    shape = list(parts[0].shape)
    shape[axis] = int(np.sum([part.shape[axis] for part in parts]))
    joined = np.concatenate(parts, axis, out=empty(tuple(shape), np.result_type(*parts)))
    return joined, lambda g: tuple(np.split(g, ends, axis))


@primitive(samples=_draws((2, 3), (2, 3), axis=1))
def stack(*parts, axis):
    """Arrays of one shape side by side along a new axis"""
    return np.stack(parts, axis), lambda g: tuple(np.take(g, i, axis) for i in range(len(parts)))


def _is_basic(index: Any) -> bool:
    """Whether NumPy answers `index` with a view, in which no element can stand twice."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(isinstance(part, slice | int | np.integer | type(None) | type(Ellipsis)) for part in parts)


@primitive(
    samples=lambda rng: [
        ((rng.normal(size=(4, 5)),), {"index": index})
        for index in ((slice(None, -1), 2), (np.array([0, 2, 2]), np.array([1, 3, 3])), (Ellipsis, slice(1, 3)))
    ]
)
def getitem(x, *, index):
    """x[index], by slices or by integer arrays; the gradient of an element taken twice adds up"""

    shape = x.shape

    def vjp(g: NDArray) -> NDArray:
        gradient = zeros(shape, g.dtype)
        if _is_basic(index):
            gradient[index] = g
        else:
            np.add.at(gradient, index, g)
        return gradient

    return x[index], (vjp,)


def _scatter_rows(g: NDArray, rows: NDArray, count: int) -> NDArray:
    """Sum the rows of `g` into `count` rows by number, in the order in which they stand."""
    total = np.zeros((count, g.shape[-1]), g.dtype)
    np.add.at(total, rows.reshape(-1), g.reshape(-1, g.shape[-1]))
    return total


@primitive(samples=lambda rng: [((rng.normal(size=(5, 3)),), {"rows": np.array([[0, 4], [4, 2]])})])
def take_rows(x, *, rows):
    """x[rows]: rows of a matrix (N, D) by an integer array of any shape, giving rows.shape + (D,)

    The lookup of an embedding, and the gather along a path.
    """
    count = x.shape[0]
    return np.take(x, rows, axis=0), (lambda g: _scatter_rows(g, rows, count),)


# ------------------------------------------------------------------------------------------------------- reductions


def _spread(g: NDArray, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> NDArray:
    """Repeat the gradient of a reduction over what was reduced."""
    if axis is not None and not keepdims:
        g = np.expand_dims(g, axis)
    return np.broadcast_to(g, shape)


_AXES = ({"axis": None, "keepdims": False}, {"axis": 1, "keepdims": True}, {"axis": (0, 2), "keepdims": False})


@primitive(samples=lambda rng: [((rng.normal(size=(2, 3, 4)),), static) for static in _AXES])
def sum(x, *, axis=None, keepdims=False):
    """Sum over all elements, or over `axis`"""
    shape = x.shape
    return np.asarray(x.sum(axis=axis, keepdims=keepdims)), (lambda g: _spread(g, shape, axis, keepdims),)


@primitive(samples=lambda rng: [((rng.normal(size=(2, 3, 4)),), static) for static in _AXES])
def mean(x, *, axis=None, keepdims=False):
    """Arithmetic mean over all elements, or over `axis`; of no elements, NaN"""
    shape = x.shape
    if x.size == 0:
        with np.errstate(invalid="ignore"):
            y = np.asarray(x.sum(axis=axis, keepdims=keepdims) / x.dtype.type(0))
        return y, (lambda g: np.zeros(shape, g.dtype),)
    y = np.asarray(x.mean(axis=axis, keepdims=keepdims))
    count = x.size // (y.size or 1)
    return y, (lambda g: _spread(g / g.dtype.type(count), shape, axis, keepdims),)


@primitive(samples=lambda rng: [((rng.normal(size=(3, 4)),), {"axis": 1, "keepdims": k}) for k in (True, False)])
def max(x, *, axis=None, keepdims=False):
    """The largest element, of all or along `axis`; equal ones share the gradient"""
    y = np.asarray(x.max(axis=axis, keepdims=keepdims))

    def vjp(g: NDArray) -> NDArray:
        hit = x == (y if keepdims or axis is None else np.expand_dims(y, axis))
        share = hit / hit.sum(axis=axis, keepdims=True)
        return (_spread(g, x.shape, axis, keepdims) * share).astype(g.dtype)

    return y, (vjp,)


@primitive(samples=_draws((2, 3, 4), axis=-1))
def vector_norm(x, *, axis=None, keepdims=False):
    """Euclidean length over all elements, or along `axis`; its gradient at the zero vector is 0"""
    y = np.asarray(np.sqrt(pooled(np.multiply, x, x).sum(axis=axis, keepdims=keepdims)))

    def vjp(g: NDArray) -> NDArray:
        length = _spread(y, x.shape, axis, keepdims)
        return _spread(g, x.shape, axis, keepdims) * np.divide(x, length, out=np.zeros_like(x), where=length != 0)

    return y, (vjp,)


# --------------------------------------------------------------------------------------------------- matrix product


_SHORT_SUM, _SUM_STEP = 256, 32


@procedure(
    samples=lambda rng: [
        ((rng.normal(size=a), rng.normal(size=b)), {})
        for a, b in (((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((3, 300), (300, 1)))
    ]
)
def matmul_arrays(x: NDArray, y: NDArray, out: NDArray | None = None) -> NDArray:
    """x @ y over raw arrays, into `out` or a pooled array, with bits that do not depend on the number of threads.

    A stack of matrices times one matrix is one large product. OpenBLAS cuts long sums into blocks, with one thread in
    other places than with several, unless they are short or a multiple of 32 terms; and it shares out the sum itself
    of a matrix times a vector. So the terms beyond a multiple of 32 are added apart, and vectors go without it.
    """
    if y.ndim == 2 and x.ndim > 2:
        return matmul_arrays(reshaped(x, (-1, x.shape[-1])), y).reshape(*x.shape[:-1], y.shape[-1])
    if out is None and x.ndim >= 2 and y.ndim >= 2:
        stacks = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        out = empty((*stacks, x.shape[-2], y.shape[-1]), np.result_type(x, y))
    length = x.shape[-1]
    if length <= _SHORT_SUM or x.ndim != y.ndim or x.dtype != y.dtype:
        return np.matmul(x, y, out=out)
    if x.shape[-2] == 1 or y.shape[-1] == 1:
        return np.einsum("...ik,...kj->...ij", x, y, out=out)
    whole = length - length % _SUM_STEP
    product = np.matmul(x[..., :whole], y[..., :whole, :], out=out)
    if whole < length:
        product += np.matmul(x[..., whole:], y[..., whole:, :])
    return product


@primitive(
    samples=lambda rng: [
        ((rng.normal(size=a), rng.normal(size=b)), {})
        for a, b in (((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (3, 4, 2)))
    ]
)
def matmul(x, y):
    """x @ y for matrices and stacks of matrices (at least two axes each)"""
    if x.ndim < 2 or y.ndim < 2:
        raise ValueError(f"matmul takes matrices or stacks of them, not shapes {x.shape} and {y.shape}")
    if x.shape[-1] != y.shape[-2]:
        raise ValueError(f"matmul: {x.shape} times {y.shape}: {x.shape[-1]} columns do not meet {y.shape[-2]} rows")

    def vjp_y(g: NDArray) -> NDArray:
        if y.ndim == 2 and x.ndim > 2:
            return matmul_arrays(reshaped(x, (-1, x.shape[-1])).T, reshaped(g, (-1, g.shape[-1])))
        return matmul_arrays(x.swapaxes(-1, -2), g)

    return matmul_arrays(x, y), (lambda g: matmul_arrays(g, y.swapaxes(-1, -2)), vjp_y)
