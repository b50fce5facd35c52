"""What this CPU can do, and which instruction set the kernels use.

The compiler, not the processor, decides which instructions may be emitted: numba compiles for the host's unless
`NUMBA_CPU_FEATURES` say otherwise (`NUMBA_CPU_NAME` alone does not), so the features are read where numba reads them.

| instruction set | dot product instruction | width |
|---|---|---|
| `amx` | `tdpbf16ps` on 16 x 16 tiles (Intel AMX, Linux only: the system must grant the tile registers) | 1024 bytes |
| `avx512vnni` | `vpdpbusd` | 64 bytes |
| `avxvnni` | `vpdpbusd` | 32 bytes |
| `avx2` | `vpmaddubsw`, then `vpmaddwd` once a block | 32 bytes |
| `neon` | `sdot` (ARMv8.2 dot product) | 16 bytes |
| `portable` | none: plain loops that LLVM vectorizes for whatever it compiles for | any |

FP4 kernels (quantizing, decoding, products of packed operands) give the same bits on all of them, and those of the
definitions. Float32 is another matter: `portable` leaves large float32 products to NumPy's BLAS, whose sums run in
another order than the project's own (`fp32/product.py`), so weights after a training step differ from those of the
others in their last bits. `VBW_KERNELS=<name>` forces one; one that the machine cannot run is one clear error.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import lru_cache

INSTRUCTION_SETS = ("amx", "avx512vnni", "avxvnni", "avx2", "neon", "portable")
"""Every one, fastest first."""

_NEEDS = {
    "amx": ("amx-tile", "amx-bf16", "avx512f", "avx512bw", "avx512vl"),
    "avx512vnni": ("avx512f", "avx512bw", "avx512vl", "avx512vnni"),
    "avxvnni": ("avx2", "avxvnni"),
    "avx2": ("avx2", "fma"),
    "neon": ("dotprod",),
    "portable": (),
}

_ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA, _SYS_ARCH_PRCTL = 0x1023, 18, 158


@lru_cache(maxsize=1)
def features() -> frozenset[str]:
    """The instruction-set features numba compiles for, by LLVM's names (`avx512vnni`, `amx-bf16`, `dotprod`, ...)."""
    import llvmlite.binding as llvm
    from numba import config

    if config.CPU_FEATURES is not None:
        given = config.CPU_FEATURES.split(",")
        return frozenset(f[1:] for f in given if f.startswith("+"))
    try:
        return frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)
    except RuntimeError:  # LLVM cannot tell on this system
        return frozenset()


@lru_cache(maxsize=1)
def _tiles_granted() -> bool:
    """Ask Linux for the AMX tile registers (a grant for the whole process, needed once before first use)."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return libc.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0
    except (OSError, AttributeError):
        return False


@lru_cache(maxsize=1)
def available() -> tuple[str, ...]:
    """The instruction sets this machine can run, fastest first. `portable` is always among them."""
    have = features()
    found = [p for p in INSTRUCTION_SETS if all(need in have for need in _NEEDS[p])]
    if "amx" in found and not _tiles_granted():
        found.remove("amx")
    return tuple(found)


def choose(isa: str | None = None) -> str:
    """The instruction set to use: the argument, else `VBW_KERNELS`, else the fastest available.

    Raises
    ------
    ValueError
        For an unknown name, or one that this machine cannot run.
    """
    asked = isa or os.environ.get("VBW_KERNELS") or available()[0]
    if asked not in INSTRUCTION_SETS:
        known = ", ".join(INSTRUCTION_SETS)
        raise ValueError(f"unknown instruction set {asked!r} (VBW_KERNELS or isa=); choose one of {known}")
    if asked not in available():
        missing = [need for need in _NEEDS[asked] if need not in features()]
        why = f"missing CPU features: {', '.join(missing)}" if missing else "the system does not grant AMX tiles"
        raise ValueError(
            f"instruction set {asked!r} cannot run here ({why}); available: {', '.join(available())}"
        )
    return asked


def choose_vector(isa: str | None = None) -> str:
    """As `choose`, for kernels that AMX has no instructions for: they take `avx512vnni` there."""
    chosen = choose(isa)
    return "avx512vnni" if chosen == "amx" and "avx512vnni" in available() else chosen
