"""``vbw doctor``: what this installation runs on, and what is in its way.

It asks each part by itself and reports a part that is missing or broken instead of failing with it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__, machine

VERBS = {"doctor": "what vbw-np runs on here, and what is in its way"}

_NEEDED_MEMORY = 3 << 30  # bytes: the speed test at its default settings stays below
_SHOWN_FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "avxvnni", "avxvnniint8",
    "avx512bf16", "amx-tile", "amx-int8", "amx-bf16", "neon", "dotprod", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


def _python() -> dict[str, Any]:
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "system": platform.platform(),
        "vbw_np": str(Path(__file__).parent),
    }


def _numpy() -> dict[str, Any]:
    import numpy as np

    return {"version": np.__version__, "blas": machine.blas_info()}


def _threading_layer() -> str:
    """The layer that kernels' threads will run on; started here, for numba chooses at the start."""
    import numba
    from numba.np.ufunc import parallel

    try:
        parallel._launch_threads()
        return numba.threading_layer()
    except Exception as error:  # a private door, and libraries that may be missing: anything can come
        return f"unknown ({error})"


def _numba() -> dict[str, Any]:
    import llvmlite
    import numba

    return {
        "version": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "switched_off": bool(numba.config.DISABLE_JIT),
        "threads": numba.config.NUMBA_NUM_THREADS,
        "threading_layer": _threading_layer(),
    }


def _cpu() -> dict[str, Any]:
    import llvmlite.binding as llvm

    host = llvm.get_host_cpu_features()
    return {
        "name": machine.cpu_name(),
        "processors": machine.cpu_count(),
        "llvm_name": llvm.get_host_cpu_name(),
        "features": [name for name in _SHOWN_FEATURES if host.get(name)],
    }


def _kernels() -> dict[str, Any]:
    cpu = importlib.import_module("vbw_np.simd.cpu")
    return {"instruction_set": cpu.choose(), "available": list(cpu.available())}


def _numba_cache_folders() -> list[Path]:
    """Where compiled kernels are kept: the folder the user named, or beside their sources."""
    own = os.environ.get("NUMBA_CACHE_DIR")
    if own:
        return [Path(own)]
    rooms = (Path(__file__).parent / room for room in ("kernels", "bench"))
    return sorted({file.parent / "__pycache__" for room in rooms for file in room.rglob("*.py")})


def _numba_cache_files() -> list[Path]:
    found = []
    for folder in _numba_cache_folders():
        found += [path for path in folder.rglob("*") if path.suffix in (".nbi", ".nbc")] if folder.is_dir() else []
    return found


def _writable(folder: Path) -> bool:
    """Whether files can be made in the folder, or the folder itself can be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _caches() -> dict[str, Any]:
    from .data import cache

    streams, size = cache.cache_usage()
    kernels = _numba_cache_files()
    folder = _numba_cache_folders()[0]
    return {
        "tokens": {
            "folder": str(cache.cache_folder()),
            "writable": _writable(cache.cache_folder()),
            "streams": streams,
            "bytes": size,
        },
        "kernels": {
            "folder": str(folder),
            "writable": _writable(folder),
            "files": len(kernels),
            "bytes": sum(path.stat().st_size for path in kernels),
        },
    }


def _memory() -> dict[str, Any]:
    return {f"{name}_bytes": value for name, value in machine.memory_bytes().items()}


def claimed_twice(ours: str = "vbw-np") -> dict[str, Any] | None:
    """Files that this distribution and another one both say that they installed; pip overwrites without a word."""
    claims: dict[str, set[str]] = {}
    for distribution in metadata.distributions():
        files = {str(file) for file in distribution.files or () if not str(file).endswith(".pyc")}
        claims.setdefault(distribution.metadata["Name"] or "", set()).update(files)
    mine = claims.pop(ours, set())
    for name, files in sorted(claims.items()):
        both = sorted(file for file in mine & files if not file.startswith("..") and ".dist-info" not in file)
        if both:
            return {"distributions": f"{ours} and {name}", "files": both}
    return None


def _engine() -> dict[str, Any]:
    try:
        door = importlib.import_module("vbw_np.door")
    except ImportError as error:
        return {"file": None, "foreign": error.path, "problem": str(error), "claimed_twice": claimed_twice()}
    return {
        "file": door.autograd.__file__,
        "foreign": door.foreign_file(),
        "problem": None,
        "claimed_twice": claimed_twice(),
    }


_PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "python": _python,
    "numpy": _numpy,
    "numba": _numba,
    "cpu": _cpu,
    "kernels": _kernels,
    "autograd": _engine,
    "caches": _caches,
    "memory": _memory,
}


def examine() -> dict[str, Any]:
    """Everything ``vbw doctor --json`` prints.

    Returns
    -------
    dict
        A dict a part (one with the single key ``problem`` where the part could not be examined), and ``findings``: a
        list of ``{"level": "note" or "fault", "text": ...}``. With a fault the package does not work.
    """
    found: dict[str, Any] = {"vbw-np": {"version": __version__}}
    for name, examine_part in _PARTS.items():
        try:
            found[name] = examine_part()
        except Exception as error:  # a doctor reports what is broken, whatever it is
            found[name] = {"problem": f"{type(error).__name__}: {error}"}
    found["findings"] = [{"level": level, "text": text} for level, text in _findings(found)]
    return found


def _findings(found: dict[str, Any]) -> list[tuple[str, str]]:
    findings: list[tuple[str, str]] = []
    for name in _PARTS:
        if problem := found[name].get("problem"):
            findings.append(("fault", f"{name}: {problem}"))
    foreign = found["autograd"].get("foreign")
    if shared := found["autograd"].get("claimed_twice"):
        findings.append((
            "fault",
            f"two distributions claim the same files: {shared['distributions']} both have {shared['files'][0]} and "
            f"{len(shared['files']) - 1} more, so one of them overwrote the other. Install vbw-np into an environment "
            "of its own, or reinstall the one that you want to keep last",
        ))  # fmt: skip
    if foreign and not found["autograd"].get("problem"):
        findings.append(
            (
                "note",
                f"'import autograd' gives {foreign}, another project. vbw_np uses its own all the same; for your own "
                "'import autograd', put the checkout first on sys.path, or give vbw-np an environment of its own.",
            )
        )
    changed = [name for name in machine.SPEED_VARIABLES if name in os.environ]
    if changed:
        findings.append(
            (
                "note",
                f"{' and '.join(changed)} replaces OpenBLAS's own choice for this processor, "
                "which changes the speed of every product. Unset it to measure.",
            )
        )
    if found["numba"].get("switched_off"):
        findings.append(("note", "NUMBA_DISABLE_JIT is set: all runs on the NumPy definitions, many times slower."))
    caches = found["caches"]
    for name, cost in (("tokens", "text is split anew at each start"), ("kernels", "kernels may be compiled anew")):
        if name in caches and not caches[name]["writable"]:
            findings.append(("note", f"{caches[name]['folder']} cannot be written: {cost}. Set VBW_CACHE "
                             "(tokens) or NUMBA_CACHE_DIR (kernels) to a folder of yours."))  # fmt: skip
    available = found["memory"].get("available_bytes")
    if available is not None and available < _NEEDED_MEMORY:
        findings.append(
            ("note", f"{_size(available)} of memory are free; the speed test at its default settings may use 3 GB.")
        )
    return findings


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "unknown"
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= step:
            return f"{n_bytes / step:.1f} {unit}"
    return f"{n_bytes} bytes"


def _numpy_lines(part: dict[str, Any]) -> list[tuple[str, str]]:
    blas = part["blas"]
    kernel = f", kernel {blas['kernel']}" if blas["kernel"] else ""
    threads = f", {blas['threads']} threads" if blas["threads"] else ""
    lines = [("numpy", part["version"]), ("BLAS", f"{blas['library']}{kernel}{threads}"), ("", blas["config"] or "")]
    return lines + [("", f"{name}={value} is set") for name, value in blas["variables"].items()]


def _numba_lines(part: dict[str, Any]) -> list[tuple[str, str]]:
    off = ", switched off" if part["switched_off"] else ""
    layer = f"{part['threads']} threads, layer {part['threading_layer']}"
    return [("numba", f"{part['version']} (llvmlite {part['llvmlite']}), {layer}{off}")]


def _cache_lines(part: dict[str, Any]) -> list[tuple[str, str]]:
    tokens, kernels = part["tokens"], part["kernels"]
    return [
        ("token cache", f"{tokens['folder']} ({tokens['streams']} streams, {_size(tokens['bytes'])})"),
        ("kernel cache", f"{kernels['folder']} ({kernels['files']} files, {_size(kernels['bytes'])})"),
    ]


_LINES: dict[str, Callable[[dict[str, Any]], list[tuple[str, str]]]] = {
    "python": lambda part: [
        ("Python", f"{part['version']} ({part['implementation']}), {part['executable']}"),
        ("system", part["system"]),
        ("vbw_np", part["vbw_np"]),
    ],
    "numpy": _numpy_lines,
    "numba": _numba_lines,
    "cpu": lambda part: [
        ("processor", f"{part['name']}, {part['processors']} usable ({part['llvm_name']} to LLVM)"),
        ("features", " ".join(part["features"]) or "none of those the kernels know"),
    ],
    "kernels": lambda part: [
        ("instruction set", f"{part['instruction_set']} (available: {', '.join(part['available'])})")
    ],
    "autograd": lambda part: [("autograd", part["file"] or "none")],
    "caches": _cache_lines,
    "memory": lambda part: [
        ("memory", f"{_size(part.get('total_bytes'))}, {_size(part.get('available_bytes'))} available")
    ],
}


def render(found: dict[str, Any]) -> str:
    """The findings of `examine` as text."""
    lines = [("vbw-np", found["vbw-np"]["version"])]
    for name, show in _LINES.items():
        part = found[name]
        lines += [(name, "not usable, see below")] if set(part) == {"problem"} else show(part)
    text = [f"{label:<13} {value}".rstrip() for label, value in lines if label or value]
    findings = [f"{finding['level']}: {finding['text']}" for finding in found["findings"]]
    return "\n".join([*text, "", *(findings or ["nothing in the way"])])


def clear_caches() -> int:
    """Remove encoded ids and compiled kernels; both are made again when needed. The number of files removed."""
    from .data import clear_cache

    removed = clear_cache()
    for path in _numba_cache_files():
        with contextlib.suppress(OSError):
            path.unlink()
            removed += 1
    return removed


def run(arguments: argparse.Namespace) -> int:
    if arguments.clear_cache:
        print(f"removed {clear_caches()} cache files", file=sys.stderr)
    found = examine()
    print(json.dumps(found, indent=2) if arguments.json else render(found))
    return 1 if any(finding["level"] == "fault" for finding in found["findings"]) else 0


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add ``vbw doctor``."""
    parser = subparsers.add_parser(
        "doctor",
        help=VERBS["doctor"],
        description="Print what vbw-np runs on: Python, NumPy and the BLAS kernel that really runs, numba and its "
        "threading layer,\nCPU features and the kernels' instruction set, caches, memory, and whether a foreign "
        "autograd is in the way.\nExit code 1 if something keeps it from working.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--clear-cache", action="store_true", help="first remove encoded texts and compiled kernels")
    parser.set_defaults(run=run)
