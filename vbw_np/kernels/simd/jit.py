"""The one door to numba: `jit` and `pjit` compile at the first call, cache on disk if they can, never fail at import.

**Cache.** `numba.njit(cache=True)` raises at decoration when no folder is writable (a read-only install, a container
without a home). Here the same decorator then falls back to compiling in memory, and `cache_problem()` says why. numba
looks at the file of a function only to tell whether its cached code is stale; kernels call helpers in other files, so
here the stamp is that of all files of `kernels` that the kernel's file uses.

**Threads.** NumPy's BLAS has worker threads of its own, and both kinds wait for work by spinning. GNU OpenMP, numba's
usual threading layer on Linux, spins for milliseconds after every parallel loop unless told otherwise, which takes
half of a two-core machine away from the matrix product that follows; without any spinning, waking a thread costs as
much as a small product. So before the layer is loaded, which is at the first parallel call, it is told to spin for
some 50 microseconds, as long as the next kernel of one operation lets it wait, unless `OMP_WAIT_POLICY` or
`GOMP_SPINCOUNT` are set already. Nothing else about threads is changed; results never depend on their number.

**Time.** `compile_seconds()` is what compiling, and loading compiled code from disk, has taken so far in this process,
so that measurements can report it apart.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from numba import config
from numba.core import event
from numpy.typing import NDArray

_cache_problem: str | None = None

_ROOM = __package__.rpartition(".")[0]

KERNELS: list[Callable] = []
"""Every function compiled through `jit` or `pjit`, in order of declaration."""


def _calm_threads() -> None:
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "6000"


_calm_threads()


# ---------------------------------------------------------------------------------------------------------- the cache


def cache_problem() -> str | None:
    """Why compiled kernels are not kept on disk, or None when they are."""
    return _cache_problem


def _modules_behind(module: str, found: set[str]) -> set[str]:
    """The modules of `kernels` whose functions `module` uses, itself included, however indirectly."""
    if module in found or not module.startswith(_ROOM) or module not in sys.modules:
        return found
    found.add(module)
    for value in list(vars(sys.modules[module]).values()):
        function = getattr(value, "py_func", getattr(value, "_defn", value))  # a kernel's, an intrinsic's, or itself
        name = getattr(function, "__module__", None) or getattr(function, "__name__", None)
        if isinstance(name, str):
            _modules_behind(name, found)
    return found


def _source_stamp(function: Callable) -> tuple:
    """What changes whenever a file that `function` may compile from does: names, times and sizes."""
    files = [Path(sys.modules[name].__file__) for name in sorted(_modules_behind(function.__module__, set()))]
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
"""For all kernels: x / 0 is what it is in NumPy; no entry for callers in C, which would only take time to compile."""


def _njit(function: Callable, **options: object) -> Callable:
    global _cache_problem
    if config.DISABLE_JIT:
        return function
    try:
        kernel = numba.njit(cache=True, **_OPTIONS, **options)(function)
        cache_file = getattr(kernel._cache, "_cache_file", None)
        if hasattr(cache_file, "_source_stamp"):
            cache_file._source_stamp = _source_stamp(function)
    except (RuntimeError, OSError) as error:  # "cannot cache function ...: no locator available for file ..."
        _cache_problem = str(error)
        kernel = numba.njit(**_OPTIONS, **options)(function)
    KERNELS.append(kernel)
    return kernel


def jit(function: Callable) -> Callable:
    """Compile `function` for one thread, at its first call. No fastmath: results must equal NumPy's bit for bit."""
    return _njit(function)


def leaf(function: Callable) -> Callable:
    """Compile `function` into its callers: for the small functions that a kernel is made of.

    It is not cached by itself, and LLVM must inline it: vectors then stay in registers, and arrays that are handed on
    cost no reference counts.
    """
    if config.DISABLE_JIT:
        return function
    return numba.njit(forceinline=True, no_cpython_wrapper=True, **_OPTIONS)(function)


def pjit(function: Callable) -> Callable:
    """Compile `function` with its `numba.prange` loops spread over threads, at its first call, and nothing else.

    Left to itself, numba also makes a parallel loop of every `np.zeros`, each of which starts all threads.
    """
    others = "comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"
    return _njit(function, parallel=dict.fromkeys(others, False))


def enabled() -> bool:
    """Whether numba compiles at all; with ``NUMBA_DISABLE_JIT=1`` kernels are plain Python, for study, not for use."""
    return not config.DISABLE_JIT


# ----------------------------------------------------------------------------------------------------------- the time


class _CompileClock(event.Listener):
    """Adds up the time in which some thread compiles or loads compiled code; nested compilations count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._local = threading.local()

    def on_start(self, event: event.Event) -> None:
        depth = getattr(self._local, "depth", 0)
        if depth == 0:
            self._local.start = time.perf_counter()
        self._local.depth = depth + 1

    def on_end(self, event: event.Event) -> None:
        self._local.depth = getattr(self._local, "depth", 1) - 1
        if self._local.depth == 0:
            self.seconds += time.perf_counter() - self._local.start


_clock = _CompileClock()
event.register("numba:compiler_lock", _clock)


def compile_seconds() -> float:
    """Seconds spent so far in this process on compiling kernels and on loading compiled ones from disk."""
    return _clock.seconds


def compiled_count() -> int:
    """How many specialisations of kernels this process has compiled or loaded."""
    return sum(len(getattr(kernel, "signatures", ())) for kernel in KERNELS)


# ----------------------------------------------------------------------------------------------------- the arguments


def row(array: NDArray) -> NDArray:
    """An array as the one kind of argument that kernels are compiled for: one axis, contiguous, writable flag set.

    A view of the same memory where that is possible, else a copy; kernels do not write to their inputs.
    """
    return block(array).reshape(-1)


def block(array: NDArray) -> NDArray:
    """Like `row`, with the axes kept."""
    if array.flags.c_contiguous and array.flags.writeable and array.flags.aligned:
        return array
    return np.array(array, order="C")


def rows(array: NDArray) -> NDArray:
    """Like `row`, as a matrix over the last axis."""
    return block(array).reshape(-1, array.shape[-1])
