"""How many threads compute."""

from __future__ import annotations

import contextlib
from functools import lru_cache

import numpy as np

from ..errors import UserError
from ..machine import blas_info, set_blas_threads


def set_threads(count: int) -> None:
    """Let NumPy's OpenBLAS and the compiled kernels use `count` threads each, from now on.

    A BLAS other than OpenBLAS keeps its own number. More threads than the process was started with are possible for
    OpenBLAS, not for the kernels (NUMBA_NUM_THREADS), which then use all that they have.
    """
    if count < 1:
        raise UserError(f"--threads {count} leaves nobody to compute; give 1 or more")
    set_blas_threads(count)
    with contextlib.suppress(ModuleNotFoundError):  # without numba there are no kernels
        from ..simd import jit

        jit.set_threads(count)


@lru_cache
def _blas_is_steady(threads: int) -> bool:
    """Whether this BLAS, which now has `threads` of them, gives the same bits as with one."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape, np.float32) for shape in ((1014, 64), (64, 1500)))
    shared_out = x @ w
    set_blas_threads(1)
    alone = x @ w
    set_blas_threads(threads)
    return bool((shared_out == alone).all())


def steady_blas() -> None:
    """See to it that products have the same bits whatever the number of threads.

    OpenBLAS's kernels for AVX-512 add in one order; those for AVX2 (Haswell, Zen) in one that depends on how the rows
    were shared out, and there its products go on one thread from now on: the small ones and stacks, for large ones have
    a compiled kernel (`kernels.fp32.product`), and compiled kernels keep all threads.
    """
    threads = blas_info().get("threads") or 1
    if threads > 1 and not _blas_is_steady(threads):
        set_blas_threads(1)
