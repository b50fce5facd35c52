"""The one door to numba: `jit` and `pjit` compile lazily, cache on disk where they can, and never fail at import.

`numba.njit(cache=True)` raises at decoration when no folder is writable (a read-only install, a container without a
home). Here the same decorator then falls back to compiling in memory, once, with `cache_problem()` saying why.
"""

from __future__ import annotations

from collections.abc import Callable

import numba

_cache_problem: str | None = None


def cache_problem() -> str | None:
    """Why compiled kernels are not kept on disk, or None when they are."""
    return _cache_problem


def _njit(function: Callable, **options: object) -> Callable:
    global _cache_problem
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError as error:  # "cannot cache function ...: no locator available for file ..."
        _cache_problem = str(error)
        return numba.njit(**options)(function)


def jit(function: Callable) -> Callable:
    """Compile `function` for one thread, at its first call. No fastmath: results must equal NumPy's bit for bit."""
    return _njit(function, nogil=True)


def pjit(function: Callable) -> Callable:
    """Compile `function` with `numba.prange` loops spread over threads, at its first call."""
    return _njit(function, nogil=True, parallel=True)
