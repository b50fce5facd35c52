"""Kernels: the same as the readable NumPy functions of `autograd` and `vbw_np.formats`, fast.

Importing this package registers the twins of autograd's operations (`registry.install`); nothing is compiled before its
first call. `autograd.use_twins(False)` switches back to the definitions.
"""

from __future__ import annotations

from .registry import install

install()
