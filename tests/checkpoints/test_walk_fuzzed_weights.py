"""Mutated files and configs of every producer: whatever is asked of them ends in a result or in one line."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from vbw_np.checkpoints import find_weights, open_checkpoint
from vbw_np.checkpoints.differing import diff_checkpoints
from vbw_np.checkpoints.inspecting import inspect_checkpoint
from vbw_np.checkpoints.safetensors import header_bytes
from vbw_np.cli import main
from vbw_np.errors import UserError

DATA = Path(__file__).with_name("data")
FOLDERS = sorted(p.name for p in DATA.iterdir() if p.is_dir() and p.name != "gguf")
ODD = [None, True, -1, 0, 3, 2.5, "", "x", [], [1], {}, {"bits": "four"}, 10**30]
SHORT, LONG = 3, 100


def write(path: Path, tensors: dict, metadata: dict[str, str]) -> None:
    """Tensors as (dtype, shape, bytes)."""
    head = header_bytes({name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()}, metadata)
    path.write_bytes(head + b"".join(data for _, _, data in tensors.values()))


def mutate_tensors(tensors: dict, rng: np.random.Generator) -> dict:
    """Drop, rename, reshape, retype, cut or scramble some tensors; the file stays well formed."""
    tensors = dict(tensors)
    for _ in range(int(rng.integers(1, 4))):
        name = list(tensors)[int(rng.integers(len(tensors)))]
        dtype, shape, data = tensors[name]
        kind = int(rng.integers(6))
        if kind == 0 and len(tensors) > 1:
            del tensors[name]
        elif kind == 1:
            other = list(tensors)[int(rng.integers(len(tensors)))]
            tensors[name], tensors[other] = tensors[other], tensors[name]
        elif kind == 2:
            tensors[name] = (dtype, (*shape[::-1],), data)
        elif kind == 3:
            tensors[name] = ("U8", (len(data),), data)
        elif kind == 4:
            tensors[name] = ("U8", (0,), b"")
        else:
            tensors[name] = (dtype, shape, rng.integers(0, 256, len(data), np.uint8).tobytes())
    return tensors


def mutate_json(data: object, rng: np.random.Generator) -> object:
    """One value somewhere replaced by something odd."""
    data = copy.deepcopy(data)
    place, key = data, None
    for _ in range(6):
        keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
        if not keys:
            break
        parent, key = place, keys[int(rng.integers(len(keys)))]
        place = place[key]
        if rng.random() < 0.35:
            break
    if key is not None:
        parent[key] = ODD[int(rng.integers(len(ODD)))]
    return data


def look(folder: Path) -> None:
    """Everything that the verbs do with a file."""
    checkpoint = open_checkpoint(folder)
    inspect_checkpoint(checkpoint, stats=True).as_dict()
    for weight in find_weights(checkpoint).values():
        try:
            weight.load()
        except UserError as error:
            assert "\n" not in str(error)
    diff_checkpoints(checkpoint, checkpoint)
    diff_checkpoints(open_checkpoint(DATA / "original"), checkpoint)


def run(folder: str, tmp_path: Path, count: int) -> None:
    source = open_checkpoint(DATA / folder)
    tensors = {n: (t.dtype, t.shape, t.bytes().tobytes()) for n, t in source.tensors.items()}
    rng = np.random.default_rng(len(folder) * 1000 + count)
    shutil.copytree(DATA / folder, tmp_path / "m")
    for number in range(count):
        mutated = mutate_tensors(tensors, rng) if number % 2 else tensors
        metadata = {k: str(v) for k, v in source.metadata.items()}
        if number % 3 == 0 and metadata:
            key = list(metadata)[int(rng.integers(len(metadata)))]
            try:
                metadata[key] = json.dumps(mutate_json(json.loads(metadata[key]), rng))
            except ValueError:
                metadata[key] = "{"
        write(tmp_path / "m" / "model.safetensors", mutated, metadata)
        for name in ("config.json", "hf_quant_config.json"):
            if (DATA / folder / name).exists():
                config = json.loads((DATA / folder / name).read_text())
                (tmp_path / "m" / name).write_text(json.dumps(mutate_json(config, rng)))
        try:
            with np.errstate(all="ignore"):
                look(tmp_path / "m")
        except UserError as error:
            assert str(error) and "\n" not in str(error)
        except Exception as error:
            raise AssertionError(f"mutation {number} of {folder}") from error


@pytest.mark.parametrize("folder", FOLDERS)
def test_mutations_of_every_producer(tmp_path, folder):
    run(folder, tmp_path, SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_many_mutations_of_every_producer(tmp_path, folder):
    run(folder, tmp_path, LONG)


@pytest.mark.parametrize("verb", ["inspect", "diff", "explain", "convert", "quantize", "measure"])
def test_every_verb_ends_with_one_line_and_code_2_on_a_damaged_file(tmp_path, capsys, verb):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\xff" * 40)
    good = DATA / "original"
    arguments = {
        "inspect": [bad], "diff": [good, bad], "explain": [bad, "x", "0"],
        "convert": [bad, tmp_path / "out", "--to", "gguf"], "quantize": [bad, "--out", tmp_path / "out"],
        "measure": [good, bad],
    }[verb]  # fmt: skip
    assert main([verb, *map(str, arguments)]) == 2
    out = capsys.readouterr()
    assert not out.out and out.err.count("\n") == 1 and "safetensors" in out.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.safetensors"]


def test_safetensors_written_here_are_read_by_the_library(tmp_path):
    write(tmp_path / "m.safetensors", {"a": ("F32", (2,), bytes(8)), "b": ("U8", (3,), b"abc")}, {"k": "v"})
    assert set(safetensors.numpy.load_file(tmp_path / "m.safetensors")) == {"a", "b"}
