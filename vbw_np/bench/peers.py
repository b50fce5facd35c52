"""``vbw bench peers``: the same work in other libraries, side by side in one process.

A peer that is not installed is named as missing and left out; ``make peers`` installs them all in an environment of
its own. The peers do not all produce the same format: the table says which one each does.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .. import options

VERBS = {"peers": "the same work in torch, torchao, bitsandbytes, gguf, ml_dtypes and ggml, where they are installed"}

PEERS = {name: name for name in ("torch", "torchao", "bitsandbytes", "gguf", "ml_dtypes")}
PEERS["llama_cpp"] = "llama-cpp-python"
"""What each is imported as, and its package's name; the last brings ggml."""


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add ``vbw bench peers``."""
    parser = subparsers.add_parser("peers", help=VERBS["peers"], description=__doc__)
    parser.add_argument("--size", type=options.whole(1), default=4096, metavar="N",
                        help="rows and columns of the matrix (4096)")  # fmt: skip
    parser.add_argument("--rounds", type=options.whole(1), default=5, metavar="N",
                        help="measurements of each function (5)")  # fmt: skip
    parser.add_argument("--threads", type=options.whole(1), metavar="N",
                        help="for every library (as many as they take)")  # fmt: skip
    parser.add_argument("--json", type=options.path, metavar="FILE",
                        help="write everything with raw samples; '-': to stdout, no table")  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    from ..errors import UserError
    from .environment import prepare_process
    from .output import emit

    if arguments.size < 64 or arguments.size % 64:
        raise UserError(f"--size {arguments.size}: give a multiple of 64, for every peer's blocks divide that")
    prepare_process(arguments.threads)
    return emit(arguments.json, lambda: measure(arguments.size, arguments.rounds), table)


def installed() -> dict[str, str | None]:
    """The version of every peer, None where it is missing."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name, package in PEERS.items():
        try:
            found[name] = version(package) if importlib.util.find_spec(name) else None
        except PackageNotFoundError:
            found[name] = None
    return found


Work = dict[str, Callable[[], object]]


def measure(size: int, rounds: int) -> dict[str, Any]:
    """Every work with every library that has it, in turns; raw samples in seconds."""
    from . import timing
    from .environment import describe

    versions = installed()
    has = {name for name, found in versions.items() if found is not None}
    groups = []
    for title, gigabytes, functions in _work(size, has):
        print(f"measuring {title}", file=sys.stderr)
        failed = _failures(functions)
        samples = timing.interleaved({n: f for n, f in functions.items() if n not in failed}, rounds)
        groups.append(
            {
                "work": title,
                "gigabytes": gigabytes,
                "failed": failed,
                "samples_s": samples,
                "median_s": {name: timing.median(values) for name, values in samples.items()},
            }
        )
    return {"schema_version": 1, "size": size, "peers": versions, "machine": describe(), "groups": groups}


def _failures(functions: Work) -> dict[str, str]:
    """The peers that cannot do this work on this machine, each with the first line of what it says."""
    failed = {}
    for name, function in functions.items():
        if name.startswith(("vbw-np", "numpy")):
            continue
        try:
            function()
        except Exception as error:  # whatever a foreign library raises
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    return failed


def _work(size: int, has: set[str]) -> Iterator[tuple[str, float, Work]]:
    import numpy as np

    rng = np.random.default_rng(0)
    w = rng.standard_normal((size, size), dtype=np.float32)
    x = rng.standard_normal((1024, size), dtype=np.float32)
    gigabytes = w.nbytes / 1e9
    yield f"quantize and pack {size} x {size} float32", gigabytes, _quantizers(w, has)
    yield f"dequantize {size} x {size} to float32", gigabytes, _dequantizers(w, has)
    yield f"y = W x, one vector, W {size} x {size}", gigabytes, _products(w, x[:1], has)
    yield f"8 vectors, W {size} x {size}", gigabytes, _products(w, x[:8], has)
    yield f"1024 rows, W {size} x {size}", gigabytes, _products(w, x, has)


def _quantizers(w: Any, has: set[str]) -> Work:
    from ..kernels.fp4.quantize import quantize as our_quantize
    from . import peers_ggml

    work: Work = {}
    for fmt in ("mxfp4", "nvfp4"):
        out = our_quantize(w, fmt)
        work[f"vbw-np {fmt}"] = lambda f=fmt, o=out: our_quantize(w, f, out=o)
    if "torch" in has:
        import torch

        tensor = torch.from_numpy(w)
        if "torchao" in has:
            from torchao.prototype.mx_formats.mx_tensor import to_mx
            from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

            work["torchao mxfp4 (eager)"] = lambda: to_mx(tensor, torch.float4_e2m1fn_x2, 32)
            work["torchao nvfp4 (eager)"] = lambda: nvfp4_quantize(
                tensor, 16, per_tensor_amax_to_scale(tensor.abs().max())
            )
        if "bitsandbytes" in has:
            from bitsandbytes.functional import quantize_4bit

            work["bitsandbytes nf4"] = lambda: quantize_4bit(tensor, blocksize=64, quant_type="nf4")
            work["bitsandbytes fp4"] = lambda: quantize_4bit(tensor, blocksize=64, quant_type="fp4")
    if "gguf" in has:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import quantize

        work["gguf-py mxfp4"] = lambda: quantize(w, GGMLQuantizationType.MXFP4)
    if "ml_dtypes" in has:
        import ml_dtypes

        work["ml_dtypes e2m1 (cast only: no scales, a byte an element)"] = lambda: w.astype(ml_dtypes.float4_e2m1fn)
    if "llama_cpp" in has:
        work |= peers_ggml.quantizers(w)
    return work


def _dequantizers(w: Any, has: set[str]) -> Work:
    from ..engine import autograd
    from ..kernels.fp4.dequantize import dequantize as our_dequantize
    from ..kernels.fp4.quantize import quantize as our_quantize
    from . import peers_ggml

    work: Work = {}
    for fmt in ("mxfp4", "nvfp4"):
        packed, out = our_quantize(w, fmt), autograd.memory.empty(w.shape)
        work[f"vbw-np {fmt}"] = lambda p=packed, o=out: our_dequantize(p, out=o)
    if "torch" in has:
        import torch

        tensor = torch.from_numpy(w)
        if "torchao" in has:
            from torchao.prototype.mx_formats.mx_tensor import MXTensor

            ours = MXTensor.to_mx(tensor, torch.float4_e2m1fn_x2, 32)
            work["torchao mxfp4 (eager)"] = lambda: ours.dequantize(torch.float32)
        if "bitsandbytes" in has:
            from bitsandbytes.functional import dequantize_4bit, quantize_4bit

            codes, state = quantize_4bit(tensor, blocksize=64, quant_type="nf4")
            work["bitsandbytes nf4"] = lambda: dequantize_4bit(codes, state)
    if "gguf" in has:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize, quantize

        codes_mx = quantize(w, GGMLQuantizationType.MXFP4)
        work["gguf-py mxfp4"] = lambda: dequantize(codes_mx, GGMLQuantizationType.MXFP4)
    if "llama_cpp" in has:
        work |= peers_ggml.dequantizers(w)
    return work


def _products(w: Any, x: Any, has: set[str]) -> Work:
    import numpy as np

    from ..definitions.panels import BY_ROWS
    from ..kernels.fp4 import gemv
    from ..kernels.fp4 import tensor_core as tc
    from . import peers_ggml

    out = np.empty((len(x), len(w)), np.float32)
    work: Work = {"numpy float32": lambda: np.matmul(x, w.T, out=out)}
    for fmt in ("mxfp4", "nvfp4"):
        if len(x) <= 8:
            for kind in ("int8", "fp4"):
                right, ours = tc.quantize_right(w, fmt), np.empty_like(out)
                work[f"vbw-np {fmt}, {kind} activations"] = lambda r=right, k=kind, o=ours: gemv.matvec(
                    x, r, o, activations=k
                )
        else:
            rows = BY_ROWS[fmt]
            right, left = tc.quantize_right(w, fmt), tc.quantize_left(x, rows)
            ours = np.empty_like(out)
            work[f"vbw-np {fmt} x {fmt}, quantizing included"] = lambda f=rows, r=right, l=left, o=ours: tc.matmul(
                tc.quantize_left(x, f, out=l), r, out=o
            )
    if "torch" in has:
        import torch

        weight, rows = torch.from_numpy(w), torch.from_numpy(x)
        weight16, rows16 = weight.bfloat16(), rows.bfloat16()
        work["torch float32"] = lambda: rows @ weight.T
        work["torch bfloat16"] = lambda: rows16 @ weight16.T
        if "bitsandbytes" in has:
            from bitsandbytes import matmul_4bit
            from bitsandbytes.functional import quantize_4bit

            codes, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
            work["bitsandbytes nf4, float32 activations"] = lambda: matmul_4bit(rows, codes.t(), state)
    if "llama_cpp" in has:
        work |= peers_ggml.products(w, x)
    return work


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    versions = result["peers"]
    present = ", ".join(f"{PEERS[name]} {version}" for name, version in versions.items() if version)
    missing = [PEERS[name] for name, version in versions.items() if version is None]
    lines = [f"peers: {present or 'none installed'}"]
    if missing:
        lines.append(f"missing (make peers installs them): {', '.join(missing)}")
    if "llama-cpp-python" in missing:
        lines.append("llama-cpp-python is built from its source, for this CPU: that takes a C++ compiler, and minutes")
    for group in result["groups"]:
        lines += ["", group["work"]]
        best = min(group["median_s"].values())
        for name, seconds in sorted(group["median_s"].items(), key=lambda item: item[1]):
            rate = group["gigabytes"] / seconds
            times = f"{1e3 * seconds:10.2f} ms {rate:8.2f} GB/s of W"
            lines.append(f"  {name:<58} {times}   {seconds / best:7.1f} x the best")
        lines += [f"  {name:<58} cannot do this here: {why}" for name, why in group["failed"].items()]
    return "\n".join(lines)
