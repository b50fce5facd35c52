"""ggml's own C code for the types that the Python package gguf does not encode: NVFP4, Q4_K, IQ4_NL.

Writes tests/oracles/ggml_c.npz and ggml_c_blocks.npz, in the forms of `build.py` and `mixed.py`.

    python -m pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36     # and unpack it
    python tools/oracles/ggml_c.py .../vendor/llama.cpp/ggml

Needs a C compiler; `make oracles-ggml` does all of this (not part of `make oracles`, since the source is 77 MB).
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
import mixed
import numpy as np
import torch

from vbw_np.formats.ggml import BY_NAME

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = ROOT / "tests" / "oracles" / "ggml_c_blocks.npz"
SOURCE = "ggml-quants.c of llama-cpp-python 0.3.36 (quantize_row_nvfp4_ref, dequantize_row_nvfp4), compiled by cc -O2"
BLOCKS_SOURCE = SOURCE.replace("quantize_row_nvfp4_ref, dequantize_row_nvfp4", "quantize_row_q4_K_ref, quantize_iq4_nl")


def compiled(ggml: Path, folder: Path) -> ctypes.CDLL:
    """The quantizers as a shared library; what they call only to fail is left unbound."""
    out = folder / "quants.so"
    argv = ["cc", "-O2", "-DNDEBUG", "-shared", "-fPIC", "-Wl,-z,lazy", "-I", str(ggml / "include"),
            "-I", str(ggml / "src"), str(ggml / "src" / "ggml-quants.c"), "-o", str(out), "-lm"]  # fmt: skip
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


def searched(library: ctypes.CDLL, name: str, encode: str, decode: str) -> Callable[[torch.Tensor], mixed.Result]:
    """Whole blocks of a type whose encoder is a search, without an importance matrix."""
    kind = BY_NAME[name]
    encoder, decoder = getattr(library, encode), getattr(library, decode)

    def run(x: torch.Tensor) -> mixed.Result:
        if x.shape[-1] % kind.elements:
            raise ValueError(f"ggml quantizes rows of whole blocks of {kind.elements}")
        rows = np.ascontiguousarray(x.numpy())
        blocks, values = np.zeros(rows.size // kind.elements * kind.bytes, np.uint8), np.zeros_like(rows)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (rows, blocks, values)]
        if encode.endswith("_ref"):
            encoder(pointers[0], pointers[1], ctypes.c_int64(rows.size))
        else:
            encoder(pointers[0], pointers[1], *map(ctypes.c_int64, rows.shape), None)
        decoder(pointers[1], pointers[2], ctypes.c_int64(rows.size))
        return {"codes": blocks.reshape(len(rows), -1), "decoded": values}

    return run


def write_blocks(runs: dict[str, Callable[[torch.Tensor], mixed.Result]]) -> None:
    kept: dict[str, np.ndarray] = {}
    for name, run in runs.items():
        mixed.keep_all(kept, name, run)
    np.savez_compressed(BLOCKS, source=np.array(BLOCKS_SOURCE), **kept)
    print(f"wrote {BLOCKS.relative_to(ROOT)}: {BLOCKS.stat().st_size:,} bytes")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(Path(sys.argv[1]), Path(folder))
        run = nvfp4(library)
        build.write("ggml_c", (), SOURCE, build.record(run, "ggml-nvfp4"))
        blocks = {
            "ggml-q4_k": searched(library, "Q4_K", "quantize_row_q4_K_ref", "dequantize_row_q4_K"),
            "ggml-iq4_nl": searched(library, "IQ4_NL", "quantize_iq4_nl", "dequantize_row_iq4_nl"),
        }
        write_blocks(blocks)
        sys.exit(0 if conformance.write({"ggml-nvfp4": run} | blocks) else 1)


if __name__ == "__main__":
    main()
