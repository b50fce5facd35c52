"""Build tests/oracles/gptq.npz: weights that llm-compressor's GPTQ rounded, given scales and second moments.

Run in an environment that has torch and compressed-tensors, and llm-compressor's files:

    python -m pip install --no-deps llmcompressor==0.14.0.1
    python tools/oracles/gptq.py

Only its `quantize_weight` runs. The package itself would import data sets, which that needs nothing of; so its modules
are found without running the package's `__init__`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import types
from pathlib import Path

import compressed_tensors
import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

OUT = Path(__file__).parents[2] / "tests" / "oracles" / "gptq.npz"
ROWS, WIDTH, TOKENS = 160, 128, 900
SCHEMES = {
    "nvfp4": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
              "scale_dtype": torch.float8_e4m3fn, "zp_dtype": torch.float8_e4m3fn},
    "int4": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32},
    "int4-by-activation": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "actorder": "weight"},
}  # fmt: skip


def packages_without_init(*names: str) -> None:
    """Make these importable as folders of modules, their own `__init__` left out."""
    root = Path(importlib.util.find_spec(names[0]).origin).parent
    for name in names:
        module = types.ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module


def scales_of(weight: torch.Tensor, args: QuantizationArgs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The library's own scales, zero points and global scale, from every group's smallest and largest weight."""
    groups = weight.reshape(len(weight), -1, args.group_size)
    level = generate_gparam(weight.min(), weight.max()) if args.strategy == "tensor_group" else None
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args, global_scale=level)
    return scale, zero, level


def main() -> None:
    packages_without_init("llmcompressor", "llmcompressor.modifiers", "llmcompressor.modifiers.gptq")
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

    rng = np.random.default_rng(7)
    mixed = rng.standard_normal((WIDTH, WIDTH)) * rng.lognormal(0, 1, WIDTH)  # correlated channels of different sizes
    inputs = (rng.standard_normal((TOKENS, WIDTH)) @ mixed).astype(np.float32)
    hessian = (inputs.T @ inputs / TOKENS).astype(np.float32)
    weight = (0.05 * rng.standard_t(5, (ROWS, WIDTH))).astype(np.float32)
    versions = [f"llmcompressor {importlib.metadata.version('llmcompressor')}", f"torch {torch.__version__}"]
    versions.append(f"compressed-tensors {compressed_tensors.__version__}")
    arrays = {"versions": np.array(versions), "weight": weight, "hessian": hessian}
    for name, options in SCHEMES.items():
        args = QuantizationArgs(symmetric=True, **options)
        scale, zero, level = scales_of(torch.from_numpy(weight), args)
        rounded, _, fell_back = quantize_weight(
            torch.from_numpy(weight.copy())[None],
            torch.from_numpy(hessian.copy())[None],
            scale[None],
            zero[None],
            None if level is None else level.reshape(1),
            args,
            percdamp=0.01,
        )
        assert not fell_back.any()
        arrays[f"{name}/rounded"] = rounded[0].float().numpy()
        arrays[f"{name}/scale"] = scale.float().numpy()
        if level is not None:
            arrays[f"{name}/level"] = level.float().numpy()
    np.savez_compressed(OUT, **arrays)
    print(f"wrote {OUT.name}: {', '.join(versions)}; {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
