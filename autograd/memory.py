"""Large arrays from a pool: a freed one is handed out again instead of going back to the system.

A fresh large array costs more than the arithmetic on it: the system maps and zeroes its pages one by one at the first
touch. A training step makes the same large arrays every time, so `empty` keeps the buffers of arrays that nobody uses
any more and hands them out again. An array from the pool is an ordinary ndarray; its buffer returns to the pool when
the last array that looks into it is gone.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict

import numpy as np
from numpy.typing import DTypeLike, NDArray

SMALLEST = 1 << 16  # bytes; below, the C library's allocator is as good
_ALIGNMENT = 64  # bytes: one cache line, one 512-bit vector
_SLAB = 1 << 24  # bytes asked of the system at once, for buffers up to an eighth of it: they lie in large pages
_PAGE = 1 << 21  # bytes of a large page, which NumPy asks Linux for from 4 MB on; a program that streams needs few

_free: dict[int, list[NDArray]] = defaultdict(list)
_rest = [np.empty(0, np.uint8)]  # of the newest slab
_lock = threading.RLock()  # reentrant: a buffer may come back while the lock is held, by garbage collection


class _Lease:
    """Owns one buffer for as long as an array looks into it; NumPy keeps the owner as the array's base."""

    __slots__ = ("__array_interface__", "_buffer")

    def __init__(self, buffer: NDArray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._buffer = buffer
        place = buffer.ctypes.data, False
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": place}

    def __del__(self, _lock: threading.RLock = _lock, _free: dict = _free) -> None:
        with _lock:
            _free[self._buffer.nbytes].append(self._buffer)


def _fresh(size: int, alignment: int) -> NDArray:
    raw = np.empty(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]


def _new_buffer(capacity: int) -> NDArray:
    if capacity > _SLAB // 8:
        return _fresh(capacity, _ALIGNMENT)
    if len(_rest[0]) < capacity:
        _rest[0] = _fresh(_SLAB, _PAGE)
    buffer, _rest[0] = _rest[0][:capacity], _rest[0][capacity:]
    return buffer


def _capacity(size: int) -> int:
    """`size` bytes rounded up to one of eight steps per power of two, so that similar sizes share buffers."""
    step = 1 << max(size.bit_length() - 4, 6)
    return -(-size // step) * step


def empty(shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray:
    """An uninitialized C-contiguous array, like `numpy.empty`, from the pool if it is large."""
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    capacity = _capacity(size)
    with _lock:
        buffer = _free[capacity].pop() if _free[capacity] else _new_buffer(capacity)
    return np.asarray(_Lease(buffer, shape, dtype))


def zeros(shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray:
    """Like `numpy.zeros`, from the pool if it is large."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def pooled(ufunc: np.ufunc, x: NDArray, y: NDArray) -> NDArray:
    """`ufunc(x, y)`, a large result in an array from the pool."""
    if x.nbytes < SMALLEST and y.nbytes < SMALLEST:
        return np.asarray(ufunc(x, y))  # of single numbers NumPy makes no array
    return ufunc(x, y, out=empty(np.broadcast_shapes(x.shape, y.shape), np.result_type(x, y)))


def copied(x: NDArray) -> NDArray:
    """A C-contiguous copy of `x`, from the pool if it is large."""
    copy = empty(x.shape, x.dtype)
    np.copyto(copy, x)
    return copy


def reshaped(x: NDArray, shape: int | tuple[int, ...]) -> NDArray:
    """`x.reshape(shape)`; where that copies a large array, the copy is from the pool."""
    if x.flags.c_contiguous or x.nbytes < SMALLEST:
        return x.reshape(shape)
    try:
        return np.reshape(x, shape, copy=False)
    except ValueError:  # it takes a copy
        return copied(x).reshape(shape)
    except TypeError:  # NumPy before 2.1 does not tell
        return x.reshape(shape)


def is_whole_pooled(array: NDArray) -> bool:
    """Whether `array` is a whole pooled array (not a view of a part), so that whoever holds it alone may keep it."""
    return isinstance(array.base, _Lease) and array.flags.c_contiguous


def clear() -> dict[int, int]:
    """Give waiting buffers that lie in no slab back to the system; how many there were of each size in bytes."""
    with _lock:
        return {size: len(_free.pop(size)) for size in list(_free) if size > _SLAB // 8 and _free[size]}
