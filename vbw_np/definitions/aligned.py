"""Arrays that start where a cache line does, and work memory that is kept between calls."""

from __future__ import annotations

import math
import threading

import numpy as np

from ..engine import autograd


def aligned_empty(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An uninitialized C-contiguous array that starts at a multiple of 64 bytes (one cache line, one vector).

    A large one comes from the engine's pool: operands are made anew for every product, and fresh pages cost more than
    the arithmetic on them.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size >= autograd.memory.SMALLEST:
        return autograd.memory.empty(shape, dtype)
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def check_rows(x: object, *axes: int) -> None:
    """Refuse rows that are no C-contiguous float32 array with one of these numbers of axes: kernels go by addresses."""
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim not in axes or not x.flags.c_contiguous:
        found = f"{getattr(x, 'dtype', type(x).__name__)} {getattr(x, 'shape', '')}"
        wanted = f"C-contiguous float32 with {' or '.join(map(str, axes))} axes"
        raise ValueError(f"x must be {wanted}, got {found}: np.ascontiguousarray(x, np.float32)")


def result_of(out: np.ndarray | None, shape: tuple[int, ...], accumulate: bool = False) -> np.ndarray:
    """Where a product goes: into `out`, which has to fit, or into a new array.

    Raises
    ------
    ValueError
        `out` is no C-contiguous float32 array of this shape that can be written to, or there is none to add to.
    """
    if out is None:
        if accumulate:
            raise ValueError("accumulate=True adds to out: pass the array to add to")
        return aligned_empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.carray:
        raise ValueError(f"out must be writable, C-contiguous float32 {shape}, got {out.dtype} {out.shape}")
    return out


_local = threading.local()


def kept(name: str, size: int, dtype: type) -> np.ndarray:
    """Work memory of this Python thread, at least `size` elements, kept between calls."""
    array = getattr(_local, name, None)
    if array is None or array.size < size:
        array = aligned_empty((size,), dtype)
        setattr(_local, name, array)
    return array[:size]
