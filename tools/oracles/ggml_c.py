"""ggml's own C code for NVFP4, which the Python package gguf does not encode: tests/oracles/ggml_c.npz.

    python -m pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36     # and unpack it
    python tools/oracles/ggml_c.py .../vendor/llama.cpp/ggml

Needs a C compiler; not part of `make oracles`, since the source is 77 MB. What it writes has the form of `build.py`'s.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import build
import cases
import conformance
import numpy as np
import torch

SOURCE = "ggml-quants.c of llama-cpp-python 0.3.36 (quantize_row_nvfp4_ref, dequantize_row_nvfp4), compiled by cc -O2"


def compiled(ggml: Path, folder: Path) -> ctypes.CDLL:
    """The quantizers as a shared library; what they call only to fail is left unbound."""
    out = folder / "quants.so"
    argv = ["cc", "-O2", "-shared", "-fPIC", "-Wl,-z,lazy", "-I", str(ggml / "include"), "-I", str(ggml / "src"),
            str(ggml / "src" / "ggml-quants.c"), "-o", str(out), "-lm"]  # fmt: skip
    subprocess.run(argv, check=True)
    return ctypes.CDLL(str(out), mode=os.RTLD_LAZY)


def nvfp4(library: ctypes.CDLL) -> Callable[[torch.Tensor], build.Result]:
    """36 bytes for 64 elements: four scales, then halves of 16."""

    def run(x: torch.Tensor) -> build.Result:
        if x.shape[-1] % 64:
            raise ValueError("ggml quantizes rows of whole blocks of 64")
        rows = np.ascontiguousarray(x.numpy())
        blocks, values = np.zeros(rows.size // 64 * 36, np.uint8), np.zeros_like(rows)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (rows, blocks, values)]
        library.quantize_row_nvfp4_ref(pointers[0], pointers[1], ctypes.c_int64(rows.size))
        library.dequantize_row_nvfp4(pointers[1], pointers[2], ctypes.c_int64(rows.size))
        parts = blocks.reshape(len(rows), -1, 36)
        return {
            "codes": np.ascontiguousarray(parts[..., 4:]).reshape(len(rows), -1),
            "scales": np.ascontiguousarray(parts[..., :4]).reshape(len(rows), -1),
            "decoded": cases.one_nan(values),
        }

    return run


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = nvfp4(compiled(Path(sys.argv[1]), Path(folder)))
        build.write("ggml_c", (), SOURCE, build.record(run, "ggml-nvfp4"))
        sys.exit(0 if conformance.write({"ggml-nvfp4": run}) else 1)


if __name__ == "__main__":
    main()
