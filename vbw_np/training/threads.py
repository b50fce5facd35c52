"""How many threads compute."""

from __future__ import annotations

import contextlib
import ctypes

from ..errors import UserError
from ..machine import blas_info


def set_threads(count: int) -> None:
    """Let NumPy's OpenBLAS and the compiled kernels use `count` threads each, from now on.

    A BLAS other than OpenBLAS keeps its own number. More threads than the process was started with are possible for
    OpenBLAS, not for the kernels (NUMBA_NUM_THREADS), which then use all that they have.
    """
    if count < 1:
        raise UserError(f"--threads {count} leaves nobody to compute; give 1 or more")
    file = blas_info().get("file")
    if file:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(file)
            for prefix in ("scipy_openblas", "openblas"):
                for suffix in ("64_", "_64", "64", ""):
                    setter = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
                    if setter is not None:
                        setter(ctypes.c_int(count))
    with contextlib.suppress(ImportError):
        from ..kernels.jit import numba

        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
