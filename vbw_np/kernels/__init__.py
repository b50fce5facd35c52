"""Kernels: the same as the readable NumPy functions of `autograd`, `vbw_np.formats` and `vbw_np.definitions`, fast.

Importing this package registers the twins of autograd's operations and of what a device does with packed numbers
(`registry.install`); nothing is compiled before its first call. `autograd.use_twins(False)` switches back to the
definitions. Without numba there is nothing to register: everything runs on the definitions.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from ..engine import autograd

HAVE_NUMBA = find_spec("numba") is not None

if HAVE_NUMBA:
    from ..simd.jit import kept
    from . import telling  # noqa: F401
    from .registry import install
else:

    def install() -> None:
        """Nothing: there is no numba to compile kernels with."""

    def kept(room: str) -> bool | None:
        """None: no kernel is kept on disk, for there is none."""


install()


def _after_fork() -> None:
    """In a child that was forked off after kernels ran on GNU OpenMP's threads, which would kill it or wait for ever.

    Such a child computes by the definitions. Started by ``multiprocessing.get_context("spawn")`` it has kernels of its
    own.
    """
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    if parallel is None or not getattr(parallel, "_is_initialized", False):
        return  # no parallel kernel ran in the parent
    if sys.modules["numba"].threading_layer() == "omp":
        autograd.twin.switch(False)
        print(
            "vbw: this process was forked after kernels ran, whose threads do not survive that; it computes by the "
            "NumPy definitions, slowly. Start it with multiprocessing.get_context('spawn') instead.",
            file=sys.stderr,
        )


if HAVE_NUMBA and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
