"""What the libraries write, and decode, of the formats beyond four-bit floats: tests/oracles/mixed.npz.

Run by `make oracles` after `build.py`. For every profile: the first rows of codes, scales and offsets in full, digests
of all of them and of the decoded values, and the edge tensors that the library takes.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "oracles")]

import cases  # noqa: E402

ROWS = 256
Result = dict[str, np.ndarray]


def raw(tensor: torch.Tensor) -> np.ndarray:
    """The bytes of a tensor, a row a row."""
    tensor = tensor.detach().contiguous()
    return tensor.view(torch.uint8).numpy().reshape(len(tensor), -1).copy()


def decoded(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).contiguous().numpy().copy()


def torchao_mx(element: object, mode: str) -> Callable[[torch.Tensor], Result]:
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx

    def run(x: torch.Tensor) -> Result:
        scales, data = to_mx(x, element, 32, ScaleCalculationMode[mode])
        values = to_dtype(data, scales.view(torch.float8_e8m0fnu), element, 32, torch.float32)
        return {"codes": raw(data), "scales": raw(scales), "decoded": decoded(values)}

    return run


def modelopt_mxfp8(x: torch.Tensor) -> Result:
    from modelopt.torch.quantization.qtensor.mxfp8_tensor import MXFP8QTensor

    packed, scales = MXFP8QTensor.quantize(x.clone())
    values = packed.dequantize(dtype=torch.float32, scale=scales)
    return {"codes": raw(packed._quantized_data), "scales": raw(scales), "decoded": decoded(values)}


def modelopt_fp8(x: torch.Tensor) -> Result:
    from modelopt.torch.quantization.qtensor.fp8_tensor import FP8QTensor

    packed, scales = FP8QTensor.quantize(x.clone())
    values = packed.dequantize(dtype=torch.float32, scale=scales)
    return {"codes": raw(packed._quantized_data), "scales": raw(scales.reshape(1, 1)), "decoded": decoded(values)}


def compressed_tensors(**arguments: object) -> Callable[[torch.Tensor], Result]:
    """A weight as its observer would scale it, compressed and decompressed by the library."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(**arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    names = {"float": "float-quantized", "int": "int-quantized" if args.num_bits == 8 else "pack-quantized"}
    compressor = BaseCompressor.get_value_from_registry(names[str(getattr(args.type, "value", args.type))])

    def extremes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        strategy = str(getattr(args.strategy, "value", args.strategy))
        if strategy == "tensor":
            return x.amin().reshape(1), x.amax().reshape(1)
        if strategy == "channel":
            return x.amin(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)
        if strategy == "block":
            rows, columns = -len(x) % 128, -x.shape[1] % 128
            tiles = torch.nn.functional.pad(x, (0, columns, 0, rows)).unflatten(0, (-1, 128)).unflatten(2, (-1, 128))
            return tiles.amin(dim=(1, 3)), tiles.amax(dim=(1, 3))
        blocks = x.unflatten(1, (-1, args.group_size))
        return blocks.amin(dim=-1), blocks.amax(dim=-1)

    def run(x: torch.Tensor) -> Result:
        scales, zeros = calculate_qparams(*extremes(x), args)
        state = {"weight": x.clone(), "weight_scale": scales, "weight_zero_point": zeros.to(torch.int8)}
        out = compressor.compress(state, scheme)
        codes = out["weight_packed"] if "weight_packed" in out else out["weight"]
        values = compressor.decompress(out, scheme)["weight"]
        result = {"codes": raw(codes), "scales": raw(scales), "decoded": decoded(values)}
        if not args.symmetric:
            result["offsets"] = zeros.numpy().astype(np.float32) + 8
        return result

    return run


def ggml(kind: str) -> Callable[[torch.Tensor], Result]:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    def run(x: torch.Tensor) -> Result:
        number = GGMLQuantizationType[kind]
        data = quantize(x.numpy(), number)
        return {"codes": data.reshape(len(x), -1), "decoded": dequantize(data, number)}

    return run


def profiles() -> dict[str, Callable[[torch.Tensor], Result]]:
    from torchao.prototype.mx_formats.constants import DTYPE_FP6_E2M3, DTYPE_FP6_E3M2

    weight = {"num_bits": 8, "type": "float", "symmetric": True}
    whole = {"num_bits": 4, "type": "int", "strategy": "group"}
    return {
        "torchao-0.18-mxfp8-e4m3-floor": torchao_mx(torch.float8_e4m3fn, "FLOOR"),
        "torchao-0.18-mxfp8-e4m3-rceil": torchao_mx(torch.float8_e4m3fn, "RCEIL"),
        "torchao-0.18-mxfp8-e5m2-floor": torchao_mx(torch.float8_e5m2, "FLOOR"),
        "torchao-0.18-mxfp6-e2m3-floor": torchao_mx(DTYPE_FP6_E2M3, "FLOOR"),
        "torchao-0.18-mxfp6-e3m2-floor": torchao_mx(DTYPE_FP6_E3M2, "FLOOR"),
        "modelopt-mxfp8": modelopt_mxfp8,
        "modelopt-fp8-tensor": modelopt_fp8,
        "compressed-tensors-0.20-fp8-tensor": compressed_tensors(**weight, strategy="tensor"),
        "compressed-tensors-0.20-fp8-row": compressed_tensors(**weight, strategy="channel"),
        "compressed-tensors-0.20-fp8-128x128": compressed_tensors(
            **weight, strategy="block", block_structure=[128, 128]
        ),
        "compressed-tensors-0.20-int8-row": compressed_tensors(
            num_bits=8, type="int", symmetric=True, strategy="channel"
        ),
        "compressed-tensors-0.20-int4-g32": compressed_tensors(**whole, group_size=32, symmetric=True),
        "compressed-tensors-0.20-int4-g128": compressed_tensors(**whole, group_size=128, symmetric=True),
        "compressed-tensors-0.20-int4-zero-g128": compressed_tensors(**whole, group_size=128, symmetric=False),
        "ggml-q4_0": ggml("Q4_0"),
        "ggml-q4_1": ggml("Q4_1"),
        "ggml-q8_0": ggml("Q8_0"),
    }


def keep(kept: dict[str, np.ndarray], key: str, result: Result) -> None:
    """Codes, scales and offsets in full for a few rows, and digests of everything."""
    for part, array in result.items():
        array = np.ascontiguousarray(array)
        if part == "decoded":
            array = cases.one_nan(array)
        if part != "decoded":
            kept[f"{key}/{part}-head"] = array[:1]
        kept[f"{key}/{part}-sha256"] = cases.digests(array)


def keep_nonfinite(kept: dict[str, np.ndarray], name: str, run: Callable[[torch.Tensor], Result]) -> None:
    """One digest a tensor with NaN or Inf, of each part."""
    found: dict[str, list[np.ndarray]] = {}
    for x in cases.mixed_nonfinite():
        with np.errstate(all="ignore"):
            result = run(torch.from_numpy(x.copy()))
        for part, array in result.items():
            array = cases.one_nan(array) if part == "decoded" else array
            found.setdefault(part, []).append(cases.digests(array))
    kept.update({f"{name}/nonfinite/{part}-sha256": np.concatenate(rows) for part, rows in found.items()})


def keep_all(kept: dict[str, np.ndarray], name: str, run: Callable[[torch.Tensor], Result]) -> None:
    """Every case of a profile."""

    def given(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(cases.for_blocks(x, name).copy())

    for case in cases.LARGE:
        keep(kept, f"{name}/{case}", run(given(getattr(cases, case)()[:ROWS])))
    for i, row in enumerate(cases.mixed_edges()):
        with np.errstate(all="ignore"):
            keep(kept, f"{name}/edge-{i}", run(given(row[None])))
    keep_nonfinite(kept, name, lambda x: run(given(x.numpy())))
    print(name, flush=True)


def main() -> None:
    torch.set_num_threads(1)
    torch.compiler.set_stance("force_eager")
    kept: dict[str, np.ndarray] = {}
    for name, run in profiles().items():
        keep_all(kept, name, run)
    packages = ("torch", "numpy", "torchao", "nvidia-modelopt", "compressed-tensors", "gguf")
    about = {"versions": {p: importlib.metadata.version(p) for p in packages}, "python": sys.version.split()[0]}
    path = ROOT / "tests" / "oracles" / "mixed.npz"
    np.savez_compressed(path, about=np.array(json.dumps(about)), **kept)
    print(f"wrote {path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
