"""Where the time of W x with one column goes: a call's fixed cost, the arithmetic, and what reading W adds.

    python tools/profile_matvec.py

W has 4,096 columns. With 16 rows a call costs little but itself. From 64 to 256 rows, on one thread, W stays in the
second-level cache: what these rows add is arithmetic. With 4,096 rows W comes from the last level; the rest is reading.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")  # as the command vbw does, before NumPy is loaded

import numba
import numpy as np

from vbw_np.bench import timing
from vbw_np.kernels.fp4 import gemv, tensor_core

LENGTH, ROWS = 4096, 4096


def main() -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((rows, LENGTH), dtype=np.float32) for rows in (1, ROWS))
    plain, functions, held = np.empty((1, ROWS), np.float32), {}, {}
    threads = numba.get_num_threads()

    def product(fmt: str, rows: int, alone: bool):
        right, out = tensor_core.quantize_right(w[:rows], fmt), np.empty((1, rows), np.float32)
        held[fmt] = right.nbytes

        def run() -> None:
            numba.set_num_threads(1 if alone else threads)
            gemv.matvec(x, right, out)

        return run

    for fmt in ("mxfp4", "nvfp4"):
        functions |= {(fmt, 64): product(fmt, 64, True), (fmt, 256): product(fmt, 256, True)}
        functions |= {(fmt, 16): product(fmt, 16, False), (fmt, ROWS): product(fmt, ROWS, False)}
    functions["sgemv"] = lambda: np.matmul(x, w.T, out=plain)
    seconds = {name: timing.median(found) for name, found in timing.interleaved(functions).items()}
    print(f"numpy's sgemv: {1e6 * seconds['sgemv']:.0f} us, {1e-9 * w.nbytes / seconds['sgemv']:.0f} GB/s of W")
    for fmt in ("mxfp4", "nvfp4"):
        call, whole = seconds[fmt, 16], seconds[fmt, ROWS]
        arithmetic = (seconds[fmt, 256] - seconds[fmt, 64]) / (256 - 64) * ROWS / threads
        print(
            f"{fmt}: {1e6 * whole:5.1f} us = a call {1e6 * call:4.1f} + arithmetic {1e6 * arithmetic:4.1f} + reading "
            f"{1e6 * (whole - call - arithmetic):4.1f}; {1e-9 * held[fmt] / whole:.0f} GB/s of packed W; "
            f"{seconds['sgemv'] / whole:.1f} x numpy"
        )


if __name__ == "__main__":
    main()
