"""MMA-Sim beside our model of how tensor cores add.

    make oracles                                        # writes tests/oracles/mma_sim.npz, among others
    python tools/oracles/mma_sim.py --compare 1000000   # compares at least so many outputs of each kind; exit code 1

Run it where torch and mmasim of `requirements.txt` are installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from mmasim.nv_ptx import MMA, WGMMA, TCGen05MMA, TCGen05MMABlockScale

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "oracles")]

import sum_cases  # noqa: E402
from sum_cases import CASES, Kind, case_input, kinds  # noqa: E402

from vbw_np.formats.accumulate import ACCUMULATORS, dot  # noqa: E402

PTX = {"fp16": "f16", "bf16": "bf16", "tf32": "tf32", "e8m0": "ue8m0"}
SHAPES = {"volta": "m8n8k4", "turing": "m16n8k8"}
ARCHITECTURES = {"ada": "Ada Lovelace"}
AT_ONCE = 20_000


def operation(kind: Kind) -> object:
    """MMA-Sim's instruction for a kind."""
    unit = ACCUMULATORS[kind.unit]
    family, _, rest = kind.unit.partition("-")
    architecture = ARCHITECTURES.get(family, family.capitalize())
    a, b = (PTX.get(name, name) for name in (kind.a, kind.b))
    d = "f16" if unit.output.dtype == "float16" else "f32"
    if kind.unit == "blackwell-mxf4nvf4":
        shape = f"m128n8k64.kind::mxf4nvf4.block{kind.block}.f32.e2m1.e2m1.{PTX.get(kind.scale, kind.scale)}"
        return TCGen05MMABlockScale(architecture, shape)
    if kind.unit == "blackwell-mxf8f6f4":
        return TCGen05MMABlockScale(architecture, f"m128n8k32.kind::mxf8f6f4.block32.f32.{a}.{b}.ue8m0")
    if rest.startswith("f8f6f4"):
        return TCGen05MMA(architecture, f"m64n8k32.kind::f8f6f4.{d}.{a}.{b}")
    if kind.unit.startswith("hopper-fp8"):
        return WGMMA(architecture, f"m64n8k32.{d}.{a}.{b}")
    shape = "m16n8k32" if rest.startswith("fp8") else SHAPES.get(family, "m16n8k8" if a == "tf32" else "m16n8k16")
    return MMA(architecture, f"{shape}.{d}.{a}.{b}.{d}")


def operand(codes: np.ndarray, name: str, unit: str) -> torch.Tensor:
    """Codes as MMA-Sim takes them."""
    if name in ("fp16", "bf16"):
        return torch.from_numpy(codes.view(np.int16)).view(torch.float16 if name == "fp16" else torch.bfloat16)
    if name == "tf32":
        return torch.from_numpy(codes.view(np.float32))
    if name in ("e4m3", "e5m2"):
        return torch.from_numpy(codes).view(torch.float8_e4m3fn if name == "e4m3" else torch.float8_e5m2)
    if unit == "blackwell-mxf4nvf4":  # two codes a byte, the first above
        return torch.from_numpy(codes[..., 0::2] << 4 | codes[..., 1::2])
    return torch.from_numpy(codes << 2 if name == "e2m1" else codes)  # FP4 lies in bits 5 to 2


def simulate(kind: Kind, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """MMA-Sim's outputs, (rows,)."""
    instruction = operation(kind)
    a, b = (operand(inputs[side], getattr(kind, side), kind.unit) for side in "ab")
    c = torch.from_numpy(inputs["c"].copy())
    if kind.scale is None:
        return instruction.dpa(a, b, c).numpy()
    dtype = torch.float8_e8m0fnu if kind.scale == "e8m0" else torch.float8_e4m3fn
    scales = [torch.from_numpy(inputs[f"scale_{side}"]).view(dtype) for side in "ab"]
    if kind.unit == "blackwell-mxf4nvf4":
        return instruction.dpa(a, b, c, *scales).numpy()
    for step in range(kind.length // 32):  # a k32 instruction has one scale a row
        part = slice(32 * step, 32 * step + 32)
        c = instruction.dpa(a[..., part], b[..., part], c, *(s[..., step : step + 1] for s in scales))
    return c.numpy()


def ours(kind: Kind, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Our model's outputs, (rows,)."""
    options = {"a_format": kind.a, "b_format": kind.b}
    if kind.scale:
        options |= {"scale_format": kind.scale, "scale_block": kind.block}
        options |= {name: inputs[name] for name in ("scale_a", "scale_b")}
    return dot(kind.unit, inputs["a"], inputs["b"], inputs["c"], **options)


def write() -> None:
    """The golden arrays: outputs of every kind and case; the inputs come from `sum_cases`."""
    arrays = {
        f"{kind.name}/{case}": simulate(kind, case_input(kind, case, sum_cases.SMALL_ROWS))
        for kind in kinds()
        for case in CASES
    }
    about = {"source": "MMA-Sim", "versions": {p: importlib.metadata.version(p) for p in ("mmasim", "torch", "numpy")}}
    path = ROOT / "tests" / "oracles" / "mma_sim.npz"
    np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)
    print(f"wrote {path.relative_to(ROOT)}: {path.stat().st_size:,} bytes, {len(arrays)} cases")


FAMILIES = {
    "NVFP4": lambda kind: kind.scale == "ue4m3",
    "MXFP4": lambda kind: kind.unit == "blackwell-mxf4nvf4" and kind.scale == "e8m0",
    "MXFP8": lambda kind: kind.unit == "blackwell-mxf8f6f4" and {kind.a, kind.b} <= {"e4m3", "e5m2"},
    "MXFP6": lambda kind: kind.unit == "blackwell-mxf8f6f4" and {kind.a, kind.b} <= {"e2m3", "e3m2"},
    "FP8, Ada": lambda kind: kind.unit.startswith("ada-fp8"),
    "FP8, Hopper": lambda kind: kind.unit.startswith("hopper-fp8"),
    "FP8, Blackwell": lambda kind: kind.unit.startswith("blackwell-f8") and {kind.a, kind.b} <= {"e4m3", "e5m2"},
    "fp16, bf16, tf32": lambda kind: kind.a in ("fp16", "bf16", "tf32"),
}


def compare(outputs: int, only: str) -> int:
    """Compare at least so many outputs of each family; prints a line each."""
    differ = total = 0
    for name, is_member in FAMILIES.items():
        if only.lower() not in name.lower():
            continue
        start, members, wrong, count = time.perf_counter(), [k for k in kinds() if is_member(k)], 0, 0
        each = -(-outputs // (len(members) * len(CASES)))
        for kind in members:
            for case in CASES:
                for draw in range(-(-each // AT_ONCE)):
                    inputs = case_input(kind, case, min(AT_ONCE, each - draw * AT_ONCE), draw + 1)
                    theirs, mine = simulate(kind, inputs), ours(kind, inputs)
                    bits = f"u{theirs.itemsize}"
                    wrong += int((theirs.view(bits) != mine.view(bits)).sum())
                    count += len(theirs)
        print(
            f"{name:18} {len(members):3} kinds, {len(CASES)} cases: {count - wrong:>11,} of {count:>11,} outputs equal"
            f" in every bit ({time.perf_counter() - start:.0f} s)",
            flush=True,
        )
        differ, total = differ + wrong, total + count
    print(f"MMA-Sim {importlib.metadata.version('mmasim')}: {total - differ:,} of {total:,} outputs equal")
    return int(differ > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", type=int, metavar="OUTPUTS", help="compare instead of writing")
    parser.add_argument("--only", default="", metavar="TEXT", help="families whose name contains TEXT")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.compare:
        return compare(arguments.compare, arguments.only)
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
