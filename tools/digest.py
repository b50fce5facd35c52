"""A digest of bits: run before and after a change that must not move any, and compare the lines.

    python tools/digest.py > before.txt
    python tools/digest.py > after.txt && diff before.txt after.txt

A line a subject: every format with every rounding and every producer's profile by the readable definition, the same by
the kernels, and three training steps under every recipe, on every instruction set that this machine can run and without
compiled code. The arrays are made here, from a counter; lines name what they are of, so that a subject which comes new
or goes is one line and moves no other.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vbw_np import definitions, formats  # noqa: E402
from vbw_np.device import RECIPES, Device  # noqa: E402
from vbw_np.engine import optim  # noqa: E402
from vbw_np.models.claude4 import Claude4, Claude4Config  # noqa: E402

PARTS = ("definition", "kernels", "steps")
TINY = Claude4Config(
    vocab_size=256, d_model=32, heads=2, hidden=64, layers=2, rank=16, experts=2, causal=True, token_shift=True
)


def arrays() -> dict[str, np.ndarray]:
    """Normal and heavy-tailed numbers, ties, zeros of both signs, subnormals, huge ones, ragged rows."""
    rng = np.random.default_rng(11)
    ties = rng.integers(-48, 49, (32, 64)).astype(np.float32) / 8
    wide = np.ldexp(rng.normal(size=(32, 64)), rng.integers(-140, 120, (32, 1))).astype(np.float32)
    zeros = np.zeros((32, 64), np.float32)
    zeros[1], zeros[::3, ::5] = -0.0, 1e-30
    return {
        "normal": rng.normal(size=(48, 128)).astype(np.float32),
        "tails": rng.standard_t(2, (32, 96)).astype(np.float32),
        "ties": ties,
        "wide": wide,
        "zeros": zeros,
        "ragged": rng.normal(size=(16, 41)).astype(np.float32),
    }


def digest(*parts: object) -> str:
    """The first 16 hex digits of SHA-256 over dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for part in parts:
        if part is not None:
            array = np.ascontiguousarray(part)
            total.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()[:16]


def of_packed(make: object) -> str:
    """Codes, fine codes, scales, second-level scales and decoded values; or what kind of refusal."""
    try:
        with np.errstate(all="ignore"):
            packed = make()
            return digest(packed.codes, packed.fine, packed.scales, packed.tensor_scale, packed.dequantize())
    except (ValueError, formats.FormatError) as error:
        return f"refused: {type(error).__name__}"


def quantized(quantize: object) -> Iterator[tuple[str, str]]:
    """Every format with every rounding on every array."""
    for name in formats.FORMATS:
        for ties in formats.TIES:
            options = {"seed": 7, "stream": 3} if ties.startswith("stochastic") else {}
            for kind, x in arrays().items():
                yield f"{name} {ties} {kind}", of_packed(lambda: quantize(x, name, ties=ties, **options))  # noqa: B023


def profiles() -> Iterator[tuple[str, str]]:
    """Every producer's profile on every array."""
    for name, profile in formats.PROFILES.items():
        for kind, x in arrays().items():
            yield (
                f"profile {name} {kind}",
                of_packed(lambda: formats.quantize(x, profile.family, profile=name)),  # noqa: B023
            )


def steps() -> Iterator[tuple[str, str]]:
    """Loss and weights after each of three steps of Adam, under every recipe."""
    rng = np.random.default_rng(5)
    batches = [rng.integers(0, 256, (4, 16)) for _ in range(3)]
    for recipe in RECIPES:
        model = Claude4(TINY, seed=3)
        device = Device(recipe, refresh_interval=1, seed=1)
        device.place(model)
        optimizer = optim.Adam(list(model.parameters()), lr=1e-2)
        for number, ids in enumerate(batches, 1):
            optimizer.zero_grad()
            loss = model.loss(ids)
            loss.backward()
            optimizer.step()
            yield f"{recipe} step {number}", digest(loss.data, *(p.data for p in model.parameters()))


def report(part: str, label: str) -> None:
    """Print one part's lines."""
    if part == "definition":
        lines = [*quantized(formats.quantize), *profiles()]
    elif part == "kernels":
        lines = quantized(definitions.quantize)  # its twin, where there is compiled code
    else:
        lines = steps()
    for name, bits in lines:
        print(f"{part} [{label}] {name}: {bits}", flush=True)


def instruction_sets() -> list[str]:
    """Names for VBW_KERNELS, as the doctor's module of the kernels knows them."""
    from vbw_np.simd import cpu

    return list(cpu.available())


def main() -> int:
    """Parts in processes of their own: the instruction set is chosen when kernels are compiled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part (may be repeated)")
    parser.add_argument("--isa", action="append", help="only this instruction set; 'none' is without compiled code")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        report(arguments.part[0], arguments.child)
        return 0
    for part in arguments.part or PARTS:
        sets = ["none"] if part == "definition" else arguments.isa or [*instruction_sets(), "none"]
        for isa in sets:
            chosen = {"NUMBA_DISABLE_JIT": "1"} if isa == "none" else {"VBW_KERNELS": isa}
            command = [sys.executable, __file__, "--part", part, "--child", isa]
            if subprocess.run(command, env={**os.environ, **chosen}, check=False).returncode:
                print(f"{part} [{isa}] failed", flush=True)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
