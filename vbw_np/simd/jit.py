"""The one door to numba: `jit` and `pjit` compile at the first call, cache on disk if they can, never fail at import.

**Cache.** Kernels are kept on disk (`cache`) where a folder is writable; elsewhere (a read-only install, a container
without a home) they are compiled in memory, and `cache_problem()` says why. A kernel's file is stale once any file of
`_ROOMS` has changed that it takes helpers or numbers from.

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

import functools
import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from numba import config, set_num_threads
from numba.core import event
from numpy.typing import NDArray

from ..engine import autograd
from .cache import KernelCache, note_problem
from .cache import problem as cache_problem
from .compiling import Kernel, part, team_kernel

_TOP = __package__.partition(".")[0]
_ROOMS = tuple(f"{_TOP}.{room}." for room in ("definitions", "simd", "kernels"))
"""What kernels are compiled from."""

KERNELS: list[Callable] = []
"""Every function compiled through `jit` or `pjit`, in order of declaration."""


def _calm_threads() -> None:
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "6000"


_calm_threads()


# ---------------------------------------------------------------------------------------------------------- the cache


_IMPORT = re.compile(r"^from (\.+)([\w.]*) import ([^\n(]*)", re.MULTILINE)


@cache
def _source(module: str) -> tuple[str, frozenset[str]]:
    """A digest of a module's file, and the modules of `_ROOMS` that the file imports."""
    source = Path(sys.modules[module].__file__).read_bytes()
    found = set()
    for dots, name, names in _IMPORT.findall(source.decode()):
        base = ".".join([*module.split(".")[: -len(dots)], *filter(None, [name])])
        found |= {base, *(f"{base}.{imported.split()[0]}" for imported in names.split(",") if imported.strip())}
    known = (name for name in found if name.startswith(_ROOMS) and name in sys.modules)
    return hashlib.sha256(source).hexdigest(), frozenset(known)


def modules_behind(module: str) -> set[str]:
    """The modules of `_ROOMS` whose functions or numbers `module` may use, itself included, however indirectly."""
    found, new = set(), {module}
    while new:
        found |= new
        new = {other for name in new for other in _source(name)[1]} - found
    return found


def source_stamp(function: Callable) -> str:
    """What changes whenever a file does that `function` may be compiled from: their names and digests."""
    if function.__module__.startswith(f"{_TOP}."):
        modules, own = modules_behind(function.__module__), ""
    else:  # a kernel declared elsewhere, in a test: whatever of these rooms is loaded
        modules = {name for name in list(sys.modules) if name.startswith(_ROOMS)}
        own = hashlib.sha256(Path(function.__code__.co_filename).read_bytes()).hexdigest()
    return own + "".join(f"{name} {_source(name)[0]}\n" for name in sorted(modules))


_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
"""For all kernels: x / 0 is what it is in NumPy; no entry for callers in C, which would only take time to compile."""


def _kept(kernel: Kernel, function: Callable) -> Kernel:
    """The kernel, with its place on disk."""
    try:
        kernel._cache = KernelCache(function, lambda: source_stamp(function))
    except (RuntimeError, OSError) as error:  # "cannot cache function ...: no locator available for file ..."
        note_problem(error)
    KERNELS.append(kernel)
    return kernel


def _switched_off(function: Callable) -> Callable:
    """What stands for a kernel with ``NUMBA_DISABLE_JIT=1``: an error, as the definitions do the work."""

    @functools.wraps(function)
    def refuse(*_: object) -> None:
        raise ValueError("this needs compiled kernels: unset NUMBA_DISABLE_JIT")

    return refuse


def jit(function: Callable) -> Callable:
    """Compile `function` for one thread, at its first call. No fastmath: results must equal NumPy's bit for bit."""
    return _kept(Kernel(function, **_OPTIONS), function) if enabled() else _switched_off(function)


def leaf(function: Callable) -> Callable:
    """Compile `function` into its callers: for the small functions that a kernel is made of.

    LLVM must inline it: vectors then stay in registers, and arrays that are handed on cost no reference counts.
    """
    return part(function, forceinline=True, **_OPTIONS)


def pjit(function: Callable) -> Callable:
    """Compile `function(team, ...)`, which every thread runs, at its first call; it is called without the team.

    Loops that threads share run over ``share(team, count)``. What stands before them is done by every thread.
    """
    return _kept(team_kernel(function, **_OPTIONS), function) if enabled() else _switched_off(function)


@leaf
def share(team: tuple[int, int], count: int) -> range:
    """A thread's share of 0 ... count - 1: `team` is its number and how many there are."""
    thread, threads = team
    return range(count * thread // threads, count * (thread + 1) // threads)


def kept(room: str) -> bool | None:
    """Whether compiled kernels of a room (``"fp4"``) are on disk; None where none can be."""
    caches = [k._cache for k in KERNELS if k.py_func.__module__.startswith(f"{_TOP}.kernels.{room}.")]
    known = [cache for cache in caches if isinstance(cache, KernelCache)]
    return any(cache.any() for cache in known) if known and cache_problem() is None else None


def set_threads(count: int) -> None:
    """Let kernels run on `count` threads from now on, or on as many as numba has (NUMBA_NUM_THREADS)."""
    set_num_threads(min(count, config.NUMBA_NUM_THREADS))


def enabled() -> bool:
    """Whether numba compiles; with ``NUMBA_DISABLE_JIT=1`` there are no kernels, and the definitions do the work."""
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
    return autograd.memory.copied(array)


def read_only(array: NDArray) -> NDArray:
    """A view that may not be written to, whether the array may or not: one kind of argument too, and never a copy."""
    view = array.view()
    view.flags.writeable = False
    return view


def rows(array: NDArray) -> NDArray:
    """Like `row`, as a matrix over the last axis."""
    return block(array).reshape(-1, array.shape[-1])
