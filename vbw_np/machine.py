"""What the program runs on: processor, memory, and the BLAS kernel that NumPy's products really use.

Needs nothing but NumPy, and asks the libraries themselves: OpenBLAS picks its kernel when it is loaded, so its own
answer, not the build's, says which one runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLAS_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
SPEED_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables that replace OpenBLAS's own choice of kernel and block sizes: they can halve the speed of its products."""


def cpu_name() -> str:
    """The processor's name as its system gives it."""
    try:
        if sys.platform == "linux":
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith(("model name", "Model")):
                    return line.split(":", 1)[1].strip()
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine()


def cpu_count() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> dict[str, int]:
    """`total` and `available` memory in bytes, as far as the system tells; a container's limit counts."""
    found: dict[str, int] = {}
    try:
        if sys.platform == "linux":
            lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
            found = {
                name: int(lines[key].split()[0]) * 1024
                for name, key in (("total", "MemTotal"), ("available", "MemAvailable"))
            }
            _apply_container_limit(found)
        elif sys.platform == "darwin":
            found["total"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        elif sys.platform == "win32":
            found = _windows_memory()
    except (OSError, ValueError, KeyError):
        pass
    return found


def _apply_container_limit(found: dict[str, int]) -> None:
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    try:
        total = int(limit.read_text())  # "max" where there is no limit
        found["available"] = max(min(found["available"], total - int(used.read_text())), 0)
        found["total"] = min(found["total"], total)
    except (OSError, ValueError):
        pass


def environment_of_another() -> dict[str, str]:
    """The environment in which another Python of this one's kind finds this very package."""
    folders = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders)}


def release_free_memory() -> None:
    """Let the C library give what it holds free back to the system; glibc keeps it otherwise. Elsewhere nothing."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _windows_memory() -> dict[str, int]:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "available", "a", "b", "c", "d", "e")),
        )

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return {"total": status.total, "available": status.available}


def peak_memory_bytes() -> int | None:
    """The most memory this process has held so far (resident set), or None where the system does not tell.

    Linux keeps `ru_maxrss` across exec, so a small program started by a large one reports the large one's; its
    high-water mark in ``/proc`` starts afresh.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    if sys.platform == "win32":
        return _windows_peak()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes, but bytes on macOS


def _windows_peak() -> int | None:
    class Counters(ctypes.Structure):
        _fields_ = (
            ("size", ctypes.c_ulong),
            ("page_faults", ctypes.c_ulong),
            ("peak_working_set", ctypes.c_size_t),
            *((name, ctypes.c_size_t) for name in ("working_set", "a", "b", "c", "d", "pagefile", "peak_pagefile")),
        )

    counters = Counters(size=ctypes.sizeof(Counters))
    process = ctypes.windll.kernel32.GetCurrentProcess  # type: ignore[attr-defined]
    process.restype = ctypes.c_void_p
    ask = ctypes.windll.psapi.GetProcessMemoryInfo  # type: ignore[attr-defined]
    done = ask(ctypes.c_void_p(process()), ctypes.byref(counters), counters.size)
    return counters.peak_working_set if done else None


def _loaded_libraries() -> Iterator[str]:
    """Paths of shared libraries that may hold NumPy's BLAS."""
    import numpy as np

    if sys.platform == "linux":
        try:
            maps = Path("/proc/self/maps").read_text(errors="replace")
            yield from sorted({line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count("/")})
        except OSError:
            pass
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs", package / ".libs"):
        if folder.is_dir():
            yield from sorted(map(str, folder.iterdir()))


def _function(library: ctypes.CDLL, name: str) -> Any:
    """A function of OpenBLAS, or None; NumPy's wheels rename them, so all known spellings are tried."""
    for prefix in ("scipy_openblas", "openblas"):
        for suffix in ("64_", "_64", "64", ""):
            found = getattr(library, f"{prefix}_{name}{suffix}", None)
            if found is not None:
                return found
    return None


def _openblas(path: str) -> dict[str, Any] | None:
    """What an OpenBLAS library says of itself."""
    try:
        library = ctypes.CDLL(path)  # already loaded: this is only another handle to it
    except OSError:
        return None
    core, config, threads = (_function(library, f"get_{name}") for name in ("corename", "config", "num_threads"))
    if None in (core, config, threads):
        return None
    core.restype = config.restype = ctypes.c_char_p
    threads.restype = ctypes.c_int
    return {
        "library": "OpenBLAS",
        "kernel": core().decode(errors="replace"),
        "config": config().decode(errors="replace").strip(),
        "threads": int(threads()),
        "file": path,
    }


def blas_info() -> dict[str, Any]:
    """The BLAS behind NumPy's matrix products.

    Returns
    -------
    dict
        ``library``, ``kernel`` (such as ``SkylakeX``: the one chosen at load time), ``config``, ``threads``, ``file``;
        for a library other than OpenBLAS only what NumPy knows of its build, with None for the rest. Also
        ``variables``: the environment variables set that change it.
    """
    import numpy as np

    np.dot(np.ones((2, 2)), np.ones((2, 2)))  # so that the library is loaded
    variables = {name: os.environ[name] for name in BLAS_VARIABLES if name in os.environ}
    for path in _loaded_libraries():
        if "blas" in os.path.basename(path).lower() and (found := _openblas(path)):
            return {**found, "variables": variables}
    try:
        build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    except (TypeError, KeyError):
        build = {}
    return {
        "library": build.get("name", "unknown"),
        "kernel": None,
        "config": build.get("version"),
        "threads": None,
        "file": build.get("lib directory"),
        "variables": variables,
    }


def set_blas_threads(count: int) -> bool:
    """Let the BLAS behind NumPy's products use `count` threads from now on; whether it took the order.

    Only OpenBLAS takes it: any other library keeps its own number.
    """
    path = blas_info()["file"]
    setter = _function(ctypes.CDLL(path), "set_num_threads") if path is not None and os.path.isfile(path) else None
    if setter is None:
        return False
    setter(ctypes.c_int(count))
    return True
