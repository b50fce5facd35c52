"""Mutated files: one line or a sound checkpoint, no other error, and no memory beyond what the file's size explains."""

from __future__ import annotations

import importlib.util
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from vbw_np.checkpoints import CheckpointError, open_checkpoint

_SPEC = importlib.util.spec_from_file_location("opening_cases", Path(__file__).with_name("test_opening.py"))
opening_cases = importlib.util.module_from_spec(_SPEC)
sys.modules["opening_cases"] = opening_cases
_SPEC.loader.exec_module(opening_cases)

WRITERS = {"safetensors": opening_cases.write_safetensors, "gguf": opening_cases.write_gguf}
INTERESTING = [0, 1, 2, 3, 4, 7, 8, 9, 0x22, 0x2C, 0x5B, 0x7B, 0x7D, 0x7F, 0x80, 0xFE, 0xFF]
SHORT, LONG = 500, 10_000


def mutate(data: bytes, rng: np.random.Generator, header: int) -> bytes:
    """Flip, set, insert, remove or repeat bytes, mostly in the header; or cut the file off."""
    result = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if len(result) < 2:
            break
        where = int(rng.integers(0, header if rng.random() < 0.9 else len(result))) % len(result)
        kind = int(rng.integers(0, 7))
        if kind == 0:
            result[where] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            result[where] = INTERESTING[int(rng.integers(0, len(INTERESTING)))]
        elif kind == 2:
            result[where : where + 8] = int(rng.integers(0, 2**63)).to_bytes(8, "little")
        elif kind == 3:
            result[where:where] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8))
        elif kind == 4:
            del result[where : where + int(rng.integers(1, 9))]
        elif kind == 5:
            result[where:where] = result[where : where + int(rng.integers(1, 60))]
        else:
            del result[where:]
    return bytes(result)


def header_size(kind: str, data: bytes, path: Path) -> int:
    path.write_bytes(data)
    return min(tensor.offset for tensor in open_checkpoint(path).tensors.values() if tensor.nbytes)


def walk(path: Path) -> None:
    """Open, and look at everything; what opens must be sound in all its bytes."""
    checkpoint = open_checkpoint(path)
    for tensor in checkpoint.tensors.values():
        assert len(tensor.bytes()) == tensor.nbytes <= path.stat().st_size


def run(kind: str, tmp_path: Path, count: int) -> dict[str, int]:
    path = tmp_path / f"m.{kind}"
    original = WRITERS[kind](path).read_bytes()
    header = header_size(kind, original, path)
    rng = np.random.default_rng(count)
    outcome = {"opened": 0, "refused": 0}
    allowed = 200_000 + 60 * header  # a Python object for every few bytes of header, never for a claimed count
    tracemalloc.start()
    try:
        for number in range(count):
            path.write_bytes(mutate(original, rng, header))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                walk(path)
                outcome["opened"] += 1
            except CheckpointError as error:
                assert str(error) and "\n" not in str(error) and len(str(error)) < 2000
                outcome["refused"] += 1
            except Exception as error:
                raise AssertionError(f"mutation {number} of {kind}") from error
            assert tracemalloc.get_traced_memory()[1] - before < allowed, f"mutation {number} of {kind}"
    finally:
        tracemalloc.stop()
    return outcome


@pytest.mark.parametrize("kind", WRITERS)
def test_mutations_end_in_one_line_or_open(tmp_path, kind):
    outcome = run(kind, tmp_path, SHORT)
    assert outcome["refused"] > SHORT // 2 and outcome["opened"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_ten_thousand_mutations(tmp_path, kind):
    outcome = run(kind, tmp_path, LONG)
    assert sum(outcome.values()) == LONG and outcome["opened"] > 0
