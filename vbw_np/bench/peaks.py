"""What this machine can do at most: small kernels that measure the limits the others are compared with.

Each measures one thing and nothing else, with the given number of threads, and returns a rate in units of 10**9 a
second: fused multiply-adds in float32 (2 operations each), byte dot products (2 operations a byte pair), reading
memory, copying memory (bytes read plus bytes written). The best of several repetitions counts: a limit is what the
machine can do, not what it did while something else ran.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numba
import numpy as np
from llvmlite import ir

from ..kernels.fp4.intrinsics_amx import configure, release
from ..kernels.fp4.intrinsics_tile import ISAS
from ..simd import cpu
from ..simd.intrinsics import F32, I32, Emitter, vec
from ..simd.jit import enabled, jit, pjit, share
from ..simd.variant import Variant, variant_intrinsic

_CHAINS = 12
"""Independent chains of operations: enough to hide the latency of two units."""


def _lanes() -> int:
    chosen = cpu.choose_vector()
    return 16 if chosen == "avx512vnni" else 8 if chosen in ("avxvnni", "avx2") else 4


def _emit_fma(variant: Variant, e: Emitter, count: ir.Value, out: ir.Value) -> None:
    ty = vec(F32, variant.block)
    fma = e.fma if variant.name == "fma" else e.fma_exact  # without the instruction, fma is a call
    a, b = e.const(ty, 0.999), e.const(ty, 0.001)
    start = [e.const(ty, float(i)) for i in range(_CHAINS)]
    sums = e.loop(count, start, lambda i, values: [fma(v, a, b) for v in values])
    for value in sums:  # the results must be used, or LLVM drops the work
        e.store(e.b.fadd(value, e.load(ty, out)), out)


def _emit_dots(variant: Variant, e: Emitter, count: ir.Value, out: ir.Value) -> None:
    isa = ISAS[variant.name]
    ty = vec(I32, isa.lanes)
    right, left = e.load(ty, out), e.load(ty, e.at(out, 64))
    wide = ty if isa.wide else vec(ir.IntType(16), 2 * isa.lanes)
    start = [ir.Constant(wide, None)] * _CHAINS
    factor = (lambda s: left) if isa.wide else (lambda s: e.b.bitcast(s, ty))  # or LLVM adds up one product for all

    for value in e.loop(count, start, lambda i, sums: [isa.dot(e, s, right, factor(s)) for s in sums]):
        e.store(e.b.xor(value, e.load(wide, out)), out)


def _emit_tile_products(variant: Variant, e: Emitter, count: ir.Value) -> None:
    def body(i: ir.Value) -> None:
        for c in range(4):
            tiles = [ir.Constant(ir.IntType(8), t) for t in (c, 4, 5 + c % 2)]
            e.call("llvm.x86.tdpbf16ps", ir.VoidType(), *tiles)

    e.each(count, body)


_fma_loop = variant_intrinsic(2, _emit_fma)
_dot_loop = variant_intrinsic(2, _emit_dots)
_tile_loop = variant_intrinsic(1, _emit_tile_products)


@pjit
def _run_fma(team, mode, count, out):  # type: ignore[no-untyped-def]
    for t in share(team, out.shape[0]):
        _fma_loop(mode, count, out[t].ctypes.data)


@pjit
def _run_dots(team, mode, count, out):  # type: ignore[no-untyped-def]
    for t in share(team, out.shape[0]):
        _dot_loop(mode, count, out[t].ctypes.data)


@pjit
def _run_tiles(team, mode, count, out):  # type: ignore[no-untyped-def]
    for t in share(team, out.shape[0]):
        configure(mode, out[t].ctypes.data)
        _tile_loop(mode, count)
        release()


@jit
def _sum_piece(x):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for i in range(x.size):
        total += x[i]
    return total


@pjit
def _run_read(team, x, totals):  # type: ignore[no-untyped-def]
    parts = totals.size
    for t in share(team, parts):
        totals[t] = _sum_piece(x[t * x.size // parts : (t + 1) * x.size // parts])


@jit
def _copy_piece(x, y):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        y[i] = x[i]


@pjit
def _run_copy(team, x, y, parts):  # type: ignore[no-untyped-def]
    for t in share(team, parts):
        first, last = t * x.size // parts, (t + 1) * x.size // parts
        _copy_piece(x[first:last], y[first:last])


def _best_seconds(run: Callable[[], object], repetitions: int) -> float:
    run()  # compiles
    best = np.inf
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def _with_threads(threads: int, run: Callable[[], float]) -> float:
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        return run()
    finally:
        numba.set_num_threads(before)


def fma_gflops(threads: int, repetitions: int = 7, count: int = 200_000) -> float:
    """float32 fused multiply-adds, on `portable` multiplications and additions, GFLOP/s."""
    lanes = _lanes()
    out = np.zeros((threads, 64), np.float32)
    name = "multiply and add" if cpu.choose_vector() == "portable" else "fma"
    seconds = _best_seconds(partial(_run_fma, Variant(name, lanes), count, out), repetitions)
    return threads * count * _CHAINS * lanes * 2 / seconds / 1e9


def byte_dot_gops(threads: int, repetitions: int = 7, count: int = 200_000) -> float | None:
    """Byte dot products by the instruction of the set that kernels use, GOP/s; None for `portable`, which has none."""
    isa = cpu.choose_vector()
    if isa not in ISAS:
        return None
    out = np.zeros((threads, 64), np.int32)
    seconds = _best_seconds(partial(_run_dots, Variant(isa, 32), count, out), repetitions)
    return threads * count * _CHAINS * ISAS[isa].lanes * 4 * 2 / seconds / 1e9


def tile_gflops(threads: int, repetitions: int = 7, count: int = 20_000) -> float | None:
    """bfloat16 tile products on AMX (16 x 16 x 32), GFLOP/s; None without AMX."""
    if "amx" not in cpu.available():
        return None
    out = np.zeros((threads, 256), np.uint8)
    seconds = _best_seconds(partial(_run_tiles, Variant("amx", 32), count, out), repetitions)
    return threads * count * 4 * 16 * 16 * 32 * 2 / seconds / 1e9


def read_gbytes(threads: int, megabytes: float = 256, repetitions: int = 5) -> float:
    """Reading an array of the given size again and again, GB/s (a size within a cache measures that cache)."""
    x, totals = np.ones(int(megabytes * 1e6) // 8, np.int64), np.zeros(threads, np.int64)
    return x.nbytes / _best_seconds(partial(_run_read, x, totals), repetitions) / 1e9


def copy(x: np.ndarray, y: np.ndarray) -> None:
    """y = x by all threads, for 1-D float32 arrays of one size: what any kernel that moves memory is held against."""
    _run_copy(x, y, numba.get_num_threads())


def copy_gbytes(threads: int, megabytes: float = 256, repetitions: int = 5) -> float:
    """Copying an array of the given size, GB/s: bytes read plus bytes written."""
    x, y = np.ones(int(megabytes * 1e6) // 4, np.float32), np.zeros(int(megabytes * 1e6) // 4, np.float32)
    return 2 * x.nbytes / _best_seconds(partial(_run_copy, x, y, threads), repetitions) / 1e9


def measure_peaks(threads: int, quick: bool = False) -> dict[str, float | None]:
    """All limits with a number of threads.

    Returns
    -------
    dict
        `fma_gflops`, `byte_dot_gops` (None without a byte dot instruction), `tile_gflops` (None without AMX),
        `read_gbytes`, `read_cache_gbytes` (8 MB), `copy_gbytes`.

    Raises
    ------
    ValueError
        For fewer than one thread, or more than numba has.
    """
    most = numba.config.NUMBA_NUM_THREADS
    if not 1 <= threads <= most:
        raise ValueError(f"threads must be 1 to {most} (NUMBA_NUM_THREADS), got {threads}")
    if not enabled():
        raise ValueError("peaks are measured by compiled kernels: unset NUMBA_DISABLE_JIT")
    n, size = (2, 32.0) if quick else (7, 256.0)
    measures: dict[str, Callable[[], float | None]] = {
        "fma_gflops": lambda: fma_gflops(threads, n),
        "byte_dot_gops": lambda: byte_dot_gops(threads, n),
        "tile_gflops": lambda: tile_gflops(threads, n),
        "read_gbytes": lambda: read_gbytes(threads, size, n),
        "read_cache_gbytes": lambda: read_gbytes(threads, 8.0, 3 * n),
        "copy_gbytes": lambda: copy_gbytes(threads, size, n),
    }
    return {name: _with_threads(threads, measure) for name, measure in measures.items()}
