"""IF4 as its authors quantize it: writes tests/oracles/if4.npz.

    python tools/oracles/if4.py CHECKOUT      # of github.com/mit-han-lab/fouroversix, commit dadfad6 (MIT)

Runs their PyTorch reference on the CPU, where torch of `requirements.txt` is installed; of their package only the files
that it needs are loaded, since the package itself wants a GPU's compiler.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fouroversix", "fouroversix.kernels", "fouroversix.quantize", "fouroversix.quantize.pytorch")
FILES = ("kernels/constants.py", "utils.py", "quantize/pytorch/fp6.py", "quantize/pytorch/reference.py")


def load(checkout: Path) -> types.ModuleType:
    """Their reference module."""
    for name in PACKAGES:
        package = types.ModuleType(name)
        package.__path__ = []  # type: ignore[attr-defined]
        sys.modules[name] = package
    layout = types.ModuleType("fouroversix.quantize.utils")
    layout.to_blocked = None  # type: ignore[attr-defined]  # the scales' tiles of 128 x 4, which are not asked for
    sys.modules[layout.__name__] = layout
    for file in FILES:
        name = "fouroversix." + file.removesuffix(".py").replace("/", ".")
        module = types.ModuleType(name)
        module.__package__ = name.rpartition(".")[0]
        sys.modules[name] = module
        exec(compile((checkout / "src" / "fouroversix" / file).read_text("utf-8"), file, "exec"), module.__dict__)
    return module


def inputs() -> np.ndarray:
    """Gaussian rows of many sizes, Laplace and even ones, zeros, outliers: float32 (48, 128)."""
    rng = np.random.default_rng(17)
    x = rng.standard_normal((48, 128)) * np.exp(rng.standard_normal((48, 1)))
    x[:8] = rng.laplace(size=(8, 128))
    x[8], x[9, :32] = 0, 0
    x[32:] = rng.uniform(-1, 1, (16, 128))
    x[11, ::3] *= 40
    return x.astype(np.float32)


def main() -> int:
    """Write the arrays."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    reference, x = load(Path(sys.argv[1])), inputs()
    arrays = {"x": x}
    for name, tiles in (("if4", False), ("if4-16x16", True)):
        codes, scales, amax = reference.quantize(
            torch.from_numpy(x), fp4_format=reference.DataType.if4, use_blackwell_scale_layout=False,
            block_scale_2d=tiles,
        )  # fmt: skip
        arrays |= {f"{name}/codes": codes.numpy(), "amax": amax.numpy()}
        arrays[f"{name}/scales"] = scales.contiguous().view(torch.uint8).numpy().reshape(len(x), -1)
    np.savez_compressed(ROOT / "tests" / "oracles" / "if4.npz", **arrays)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
