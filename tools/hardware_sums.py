"""Hold the model of tensor cores' sums against what GPUs computed.

    python tools/hardware_sums.py FOLDER

FOLDER holds one `GPU_FORMAT.npz` a set (A100_fp16.npz, ...): `a`, `b` (rows, K) the bits of the operands, `c`, `d`
(rows,) the float32 bits of accumulator and result. Such rows are those of north-numerical-computing/MATLAB-tensor-core
(BSD-2, arXiv:2512.07004), `model_validation/`, packed into arrays. The FP8 results of H100 and H200 there were computed
from zero, whatever c says. Prints one line a set; exit code 1 if a row differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vbw_np.formats.accumulate import dot

FAMILY = {
    "V100": "volta",
    "A100": "ampere",
    "A2": "ampere",
    "Ada": "ada",
    "L40S": "ada",
    "H100": "hopper",
    "H200": "hopper",
    "B200": "blackwell",
}


def unit_of(gpu: str, operand: str) -> str:
    """The record for a GPU and an operand format. FP8 on B200 came from mma.sync, which it emulates."""
    if operand in ("e4m3", "e5m2"):
        return f"{FAMILY[gpu]}-fp8" + ("-mma" if gpu == "B200" else "")
    return f"{FAMILY[gpu]}-{operand}"


def equal_rows(file: Path) -> tuple[str, int, int]:
    """The record that a set was held to, its rows that are equal in every bit (NaNs by being NaN), and its rows."""
    gpu, operand = file.stem.split("_")
    unit, operand = unit_of(gpu, operand.lower()), operand.lower()
    with np.load(file) as data:
        a, b, c, d = (data[name] for name in "abcd")
    if unit == "hopper-fp8":
        c = np.zeros_like(c)
    got = dot(unit, a, b, c.view(np.float32), a_format=operand, b_format=operand)
    wanted = d.view(np.float32)
    same = (got.view(np.uint32) == d) | (np.isnan(got) & np.isnan(wanted))
    return unit, int(same.sum()), len(d)


def main() -> int:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    files = sorted(Path(sys.argv[1]).glob("*_*.npz"))
    if not files:
        print(f"no GPU_FORMAT.npz in {sys.argv[1]}", file=sys.stderr)
        return 2
    results = []
    for file in files:
        unit, same, rows = equal_rows(file)
        results.append((same, rows))
        print(f"{file.stem:12} {unit:20} {same:6,} of {rows:6,} rows equal" + ("" if same == rows else "   DIFFERS"))
    same, rows = map(sum, zip(*results, strict=True))
    print(f"{len(files)} sets: {same:,} of {rows:,} rows equal in every bit")
    return int(same != rows)


if __name__ == "__main__":
    sys.exit(main())
