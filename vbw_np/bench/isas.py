"""``vbw bench kernels --isa``: the same table for other instruction sets than this machine's best.

Each is measured in a process of its own, in which everything is as on a machine that has no more than that: our kernels
take that instruction set, numba compiles for such a CPU, and BLAS takes the kernels that it would take there. Only the
silicon is this machine's.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class Like:
    """A machine with one instruction set: OpenBLAS's kernels there, and the CPU that LLVM compiles for.

    Parameters
    ----------
    blas : str
    cpu, features : str or None
        LLVM's names; None: this machine's own. A CPU's name without features would leave numba this machine's.
    """

    blas: str
    cpu: str | None = None
    features: str | None = None

    def variables(self, isa: str) -> dict[str, str]:
        """The environment of its process."""
        given = {"VBW_KERNELS": isa, "NUMBA_CPU_NAME": self.cpu, "NUMBA_CPU_FEATURES": self.features}
        return {name: value for name, value in given.items() if value is not None}


LIKE = {
    "amx": Like("SapphireRapids"),
    "avx512vnni": Like("SkylakeX"),
    "avxvnni": Like("Haswell", "alderlake", "+avx2,+fma,+avxvnni"),
    "avx2": Like("Haswell", "haswell", "+avx2,+fma"),
    "portable": Like("Nehalem", "nehalem", "+sse4.2"),
}
"""What stands for each on x86; elsewhere a machine is like itself."""


def chosen(asked: str) -> list[str]:
    """The instruction sets that ``--isa`` means: one, or with ``all`` every one that this machine can run."""
    from ..simd import cpu

    if asked == "all":
        return list(cpu.available())
    try:
        return [cpu.choose(asked)]
    except ValueError as error:
        raise UserError(f"--isa {asked}: {error}") from None


def measure(isa: str, options: Sequence[str]) -> dict[str, Any]:
    """What ``vbw bench kernels`` measures with these options in a process that is like a machine with `isa`."""
    like = LIKE.get(isa) if platform.machine().lower() in ("x86_64", "amd64") else None
    command = [sys.executable, "-m", "vbw_np", "bench", "kernels", "--json", "-", *options]
    if like is not None:
        command += ["--blas", like.blas]
    environment = os.environ | (like.variables(isa) if like is not None else {"VBW_KERNELS": isa})
    print(f"instruction set {isa}", file=sys.stderr)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"the process that measures {isa} ended with code {done.returncode}; what it said stands above")
    return json.loads(done.stdout)
