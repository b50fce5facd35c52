"""Kernels: the same as the readable NumPy functions of `autograd` and `vbw_np.formats`, fast.

Importing this package registers the twins of autograd's operations and of what a device does with packed numbers
(`registry.install`); nothing is compiled before its first call. `autograd.use_twins(False)` switches back to the
definitions. Without numba there is nothing to register: everything runs on the definitions.
"""

from __future__ import annotations

from importlib.util import find_spec

HAVE_NUMBA = find_spec("numba") is not None

if HAVE_NUMBA:
    from .registry import install
else:

    def install() -> None:
        """Nothing: there is no numba to compile kernels with."""


install()
