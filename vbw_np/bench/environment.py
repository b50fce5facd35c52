"""The process that is measured: its threads, its BLAS kernel, what it compiles, what it holds in memory."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from .. import machine
from ..errors import UserError

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def prepare_process(threads: int | None = None, blas: str | None = None) -> dict[str, str]:
    """Set up the libraries for measuring; to be called before NumPy is loaded, for they read this once.

    Takes away the variables that replace OpenBLAS's own choice of kernel (they can halve the speed of its products,
    and with it everything that is measured against them), and sets the number of threads.

    Parameters
    ----------
    threads : int, optional
        For BLAS and numba; default: as many as the libraries take.
    blas : str, optional
        OpenBLAS's kernels, by its own name (``Haswell``); default: its own choice.

    Returns
    -------
    dict
        The variables taken away, with their values; empty once NumPy is loaded, for then it is too late.

    Raises
    ------
    UserError
        If there are not so many processors, or BLAS's kernels are to be others once NumPy is loaded.
    """
    if threads is not None and not 1 <= threads <= machine.cpu_count():
        raise UserError(
            f"--threads {threads}: this process may use {machine.cpu_count()} processors; "
            f"give a number from 1 to {machine.cpu_count()}, or leave it out"
        )
    if "numpy" in sys.modules:
        if blas is not None:
            raise UserError(f"BLAS kernel {blas}: NumPy is loaded already, and its BLAS has chosen; start afresh")
        if threads is not None:
            _set_threads_late(threads)
        return {}
    if threads is not None:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    taken_away = {name: os.environ.pop(name) for name in machine.SPEED_VARIABLES if name in os.environ}
    if blas is not None:
        os.environ["OPENBLAS_CORETYPE"] = blas
    return taken_away


def _set_threads_late(threads: int) -> None:
    """Ask the libraries themselves, loaded as they are."""
    if not machine.set_blas_threads(threads):
        raise UserError(f"--threads {threads}: NumPy is loaded already, and its BLAS takes no orders; start afresh")
    if "numba" in sys.modules:
        sys.modules["numba"].set_num_threads(threads)


# -------------------------------------------------------------------------------------------------------- compiling


class CompileClock:
    """Sums the seconds that numba spends compiling (not loading from its cache), in any thread.

    Listens to numba's own events, and only if numba is loaded: a run without kernels does not need it.

        with CompileClock() as clock:
            ...
        clock.seconds
    """

    def __init__(self) -> None:
        self._events = sys.modules.get("numba.core.event")
        self._listener = self._events.TimingListener() if self._events is not None else None

    @property
    def seconds(self) -> float:
        """Compiled so far; a compilation inside another counts once."""
        return self._listener.duration if self._listener is not None and self._listener.done else 0.0

    def __enter__(self) -> CompileClock:
        if self._events is not None:
            self._events.register("numba:compile", self._listener)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._events is not None:
            self._events.unregister("numba:compile", self._listener)


# ------------------------------------------------------------------------------------------------------ description


def describe(taken_away: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a result depends on besides the settings, as plain data.

    Parameters
    ----------
    taken_away : mapping, optional
        What `prepare_process` returned.
    """
    import numpy as np

    blas = machine.blas_info()
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": machine.cpu_name(),
        "processors": machine.cpu_count(),
        "load_average_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "numpy": np.__version__,
        "blas": {name: blas[name] for name in ("library", "kernel", "config", "threads", "variables")},
        "variables_taken_away": dict(taken_away or {}),
        "numba": _numba(),
        "twins": _twins(),
    }


def _numba() -> dict[str, Any] | None:
    """numba as it is loaded; None if this run has no use for it."""
    numba = sys.modules.get("numba")
    if numba is None:
        return None
    try:
        layer = numba.threading_layer()
    except ValueError:  # no parallel kernel has run
        layer = None
    return {
        "version": numba.__version__,
        "llvmlite": sys.modules["llvmlite"].__version__,
        "switched_off": bool(numba.config.DISABLE_JIT),
        "threads": numba.get_num_threads(),
        "threading_layer": layer,
    }


def _twins() -> dict[str, int]:
    """How many of the operations and procedures have a fast twin in place."""
    from ..engine import autograd

    everything = [*autograd.REGISTRY.values(), *autograd.PROCEDURES.values()]
    return {"installed": sum(entry.twin is not None for entry in everything), "operations": len(everything)}
