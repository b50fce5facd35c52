"""Folders that `vbw quantize` and `vbw convert` write, loaded by the producers' own libraries, give the same values.

Run by `make oracles`; ends with exit code 1 when a library refuses a folder or decodes it to other numbers in any bit.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from vbw_np.checkpoints import find_weights, open_checkpoint  # noqa: E402
from vbw_np.checkpoints.converting import convert_checkpoint  # noqa: E402
from vbw_np.checkpoints.quantizing import quantize_checkpoint  # noqa: E402

ORIGINAL = ROOT / "tests" / "checkpoints" / "data" / "original"
Values = dict[str, torch.Tensor]


def transformers(folder: Path) -> Values:
    """The model as transformers loads it through compressed-tensors, decompressed."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.quantization_config import CompressedTensorsConfig

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False)
    )
    return {f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}


def compressed_tensors(folder: Path) -> Values:
    """Every module through compressed-tensors' decompressor, by the scheme that the config names."""
    import json

    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    scheme = next(iter(QuantizationConfig.model_validate(config).config_groups.values()))
    single = BaseCompressor.get_value_from_registry(str(getattr(scheme.format, "value", scheme.format)))
    tensors = load_file(folder / "model.safetensors")
    values = {}
    for name in [n for n in tensors if n.endswith("weight_scale")]:
        prefix = name.removesuffix("weight_scale")
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        values[f"{prefix}weight"] = single.decompress(state, scheme)["weight"]
    return values


def torchao(folder: Path) -> Values:
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        state, left = unflatten_tensor_state_dict(tensors, file.metadata())
    assert not left, f"torchao leaves {list(left)[:3]} over"
    return {n: t.dequantize() for n, t in state.items() if type(t) is not torch.Tensor}


def modelopt(folder: Path) -> Values:
    from modelopt.torch.quantization.qtensor import FP8QTensor, MXFP8QTensor, NVFP4QTensor

    tensors, values = load_file(folder / "model.safetensors"), {}
    for name, scale in tensors.items():
        if not name.endswith("weight_scale"):
            continue
        name = name.removesuffix("_scale")
        weight = tensors[name]
        if weight.dtype == torch.uint8:
            packed = NVFP4QTensor(torch.Size((weight.shape[0], weight.shape[1] * 2)), torch.float32, weight)
            level = tensors[f"{name}_scale_2"]
            values[name] = packed.dequantize(torch.float32, scale=scale, double_scale=level, block_sizes={-1: 16})
        else:
            kind = MXFP8QTensor if scale.dtype == torch.uint8 else FP8QTensor
            values[name] = kind(weight.shape, torch.float32, weight).dequantize(dtype=torch.float32, scale=scale)
    return values


def gguf(folder: Path) -> Values:
    from gguf import GGMLQuantizationType, GGUFReader
    from gguf.quants import dequantize

    tensors = {t.name: t for t in GGUFReader(folder / "model.gguf").tensors}
    plain = {GGMLQuantizationType.F32, GGMLQuantizationType.BF16, GGMLQuantizationType.F16}
    return {
        name: torch.from_numpy(np.ascontiguousarray(dequantize(t.data, t.tensor_type)))
        for name, t in tensors.items()
        if t.tensor_type not in plain
    }


CASES: list[tuple[str, str, tuple[Callable[[Path], Values], ...]]] = [
    ("nvfp4", "compressed-tensors", (compressed_tensors, transformers)),
    ("mxfp4", "compressed-tensors", (compressed_tensors, transformers)),
    ("mxfp6-e2m3", "compressed-tensors", (compressed_tensors,)),
    ("mxfp8-e4m3", "compressed-tensors", (compressed_tensors,)),
    ("fp8-row", "compressed-tensors", (compressed_tensors, transformers)),
    ("fp8-tensor", "compressed-tensors", (compressed_tensors,)),
    ("fp8-128x128", "compressed-tensors", (compressed_tensors,)),
    ("int8-row", "compressed-tensors", (compressed_tensors, transformers)),
    ("int4-offset8-g64", "compressed-tensors", (compressed_tensors, transformers)),
    ("int4-zero-g64", "compressed-tensors", (compressed_tensors, transformers)),
    ("nvfp4", "modelopt", (modelopt,)),
    ("mxfp8-e4m3", "modelopt", (modelopt,)),
    ("fp8-tensor", "modelopt", (modelopt,)),
    ("nvfp4", "torchao", (torchao,)),
    ("mxfp4", "torchao", (torchao,)),
    ("mxfp8-e4m3", "torchao", (torchao,)),
    ("mxfp8-e5m2", "torchao", (torchao,)),
    ("q4_0", "gguf", (gguf,)),
    ("q4_1", "gguf", (gguf,)),
    ("q8_0", "gguf", (gguf,)),
    ("iq4_nl", "gguf", (gguf,)),
    ("mxfp4", "gguf", (gguf,)),
    ("nvfp4", "gguf", (gguf,)),
]


def compare(folder: Path, load: Callable[[Path], Values]) -> tuple[int, int]:
    """Weights compared, and those whose values differ once both are rounded to the library's dtype."""
    ours = {n: w for n, w in find_weights(open_checkpoint(folder)).items() if not w.is_plain}
    theirs = load(folder)
    differ = 0
    for name, weight in ours.items():
        value = theirs[name].detach()
        dtype = value.dtype
        if torch.equal(value, value.to(torch.bfloat16).to(dtype)):  # the decompressor of NVFP4 goes through bfloat16
            dtype = torch.bfloat16
        mine = torch.from_numpy(weight.float32().copy()).to(dtype).to(value.dtype)
        differ += not torch.equal(mine, value)
    return len(ours), differ


def main() -> None:
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for format_name, producer, loaders in CASES:
            folder = Path(scratch) / f"{producer}-{format_name}"
            quantize_checkpoint(open_checkpoint(ORIGINAL), folder, format_name, producer)
            for load in loaders:
                try:
                    count, differ = compare(folder, load)
                    text = f"{count} weights, {differ} differ"
                    failed += differ
                except Exception as error:
                    text, failed = f"FAILED {type(error).__name__}: {error}", failed + 1
                print(f"{producer} {format_name}: loaded by {load.__name__}: {text}"[:300], flush=True)
        chain = ORIGINAL.with_name("modelopt-nvfp4")
        for number, producer in enumerate(("compressed-tensors", "torchao", "modelopt")):
            folder = Path(scratch) / f"chain-{number}"
            convert_checkpoint(open_checkpoint(chain), folder, producer)
            count, differ = compare(
                folder, {"compressed-tensors": compressed_tensors}.get(producer) or globals()[producer]
            )
            print(f"ModelOpt's NVFP4 converted for {producer}: {count} weights, {differ} differ")
            failed += differ
            chain = folder
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
