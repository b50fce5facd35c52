"""Checkpoints: whole or absent, checked to the last bit, and refused in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vbw_np.device import Operands, Recipe
from vbw_np.errors import UserError
from vbw_np.formats import FORMATS
from vbw_np.formats.scales import te_rule
from vbw_np.models.claude4 import Claude4Config
from vbw_np.training import checkpoint, folder
from vbw_np.training.checkpoint import CheckpointError
from vbw_np.training.config import TrainConfig

ARRAYS = {
    "model/weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "model/tau": np.array(0.18, np.float64),
    "empty": np.zeros((0, 5), np.float32),
    "vocabulary": np.frombuffer(b"[1]", np.uint8),
    "mask": np.array([True, False]),
}
META = {"step": 3, "random": {"state": 2**127 + 1}, "names": ["größe", "名"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "last.vbw", ARRAYS, META)
    return tmp_path / "last.vbw"


def test_round_trip(path: Path) -> None:
    kept = checkpoint.load(path)
    assert kept.meta == META == checkpoint.load_meta(path)
    assert list(kept.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert kept.arrays[name].dtype == array.dtype and kept.arrays[name].shape == array.shape
        assert kept.arrays[name].tobytes() == array.tobytes()
        assert kept.arrays[name].flags.writeable


def test_a_part_can_be_read_alone(path: Path) -> None:
    kept = checkpoint.load(path, "model/")
    assert list(kept.arrays) == ["model/weight", "model/tau"]
    assert list(kept.below("model/")) == ["weight", "tau"]


def test_views_and_big_endian_arrays_are_written_as_their_values(tmp_path: Path) -> None:
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    checkpoint.save(tmp_path / "x", {"t": base.T, "big": base.astype(">f4")}, {})
    kept = checkpoint.load(tmp_path / "x").arrays
    assert (kept["t"] == base.T).all() and (kept["big"] == base).all()


def test_objects_are_not_pickled(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="array 'x' has dtype object"):
        checkpoint.save(tmp_path / "x", {"x": np.array([object()])}, {})
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_is_found(path: Path) -> None:
    """Every bit of the file's start, and every 13th of the rest: no byte of it is outside a check."""
    good = path.read_bytes()
    for bit in [*range(8 * 60), *range(8 * 60, 8 * len(good), 13)]:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"not a vbw-np checkpoint|version|damaged|cut short"):
            checkpoint.load(path)


def test_every_truncation_is_found(path: Path) -> None:
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="cut short"):
            checkpoint.load(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(CheckpointError, match="damaged: its length"):
        checkpoint.load(path)


def test_the_damaged_array_is_named(path: Path) -> None:
    bad = bytearray(path.read_bytes())
    bad[bad.index(ARRAYS["model/weight"].tobytes()) + 5] ^= 1
    path.write_bytes(bad)
    with pytest.raises(CheckpointError, match=r"last.vbw is damaged: the SHA-256 of array 'model/weight'"):
        checkpoint.load(path)


def test_foreign_and_newer_files_are_refused(path: Path) -> None:
    newer = bytearray(path.read_bytes())
    newer[8] = 9
    path.write_bytes(newer)
    with pytest.raises(CheckpointError, match="layout version 9; this vbw-np reads version 1"):
        checkpoint.load(path)
    np.savez(path.with_suffix(".npz"), x=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"not a vbw-np checkpoint: it starts with b'PK"):
        checkpoint.load(path.with_suffix(".npz"))
    with pytest.raises(CheckpointError, match="nowhere.vbw does not exist"):
        checkpoint.load("nowhere.vbw")
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoint.load(path.parent)


def test_a_failed_write_leaves_the_last_good_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(CheckpointError, match=r"disk is full.*is untouched"):
            patch.setattr(os, broken, fail)
            checkpoint.save(path, {"x": np.zeros(9)}, {})
        assert path.read_bytes() == before
        assert [entry.name for entry in path.parent.iterdir()] == ["last.vbw"]
    with pytest.raises(CheckpointError, match=r"cannot write .*: No such file or directory\. Nothing was left"):
        checkpoint.save(path.parent / "missing" / "x", {}, {})


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_disk_that_fills_up_while_writing(path: Path) -> None:
    """A real failure of the real system call, after part of the file is written (a limit stands for the disk's end)."""
    before = path.read_bytes()
    program = f"""
import resource, signal, sys
import numpy as np
from vbw_np.training import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    checkpoint.save({str(path)!r}, {{"x": np.ones(1 << 16)}}, {{}})
except checkpoint.CheckpointError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout and "untouched" in done.stdout
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["last.vbw"]


def test_a_new_file_has_the_permissions_that_the_user_gives_new_files(path: Path) -> None:
    plain = path.parent / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


def test_sweep_removes_what_killed_writers_left(path: Path) -> None:
    (path.parent / ".last.vbw.1234-abcd0123.part").write_bytes(b"half")
    (path.parent / ".download.part").write_bytes(b"somebody's")
    assert checkpoint.sweep(path.parent, folder._PARTS) == [".last.vbw.1234-abcd0123.part"]
    assert {entry.name for entry in path.parent.iterdir()} == {"last.vbw", ".download.part"}


def test_flatten_and_unflatten() -> None:
    state = {"lr": 0.5, "state": {0: {"step": 2, "exp_avg": np.ones(3)}, 1: {}}}
    arrays, rest = checkpoint.flatten("optimizer", state)
    assert list(arrays) == ["optimizer/state/0/exp_avg"]
    back = checkpoint.unflatten(arrays, rest)
    assert back["lr"] == 0.5 and back["state"]["0"]["step"] == 2 and back["state"]["1"] == {}
    assert back["state"]["0"]["exp_avg"] is arrays["optimizer/state/0/exp_avg"]


def test_a_recipe_of_records_is_kept_by_their_names() -> None:
    """A run of a user's own recipe ended with a TypeError at its first checkpoint: a record holds functions."""
    recipe = Recipe("mine", FORMATS["nvfp4-16x16"], "", activation=Operands(FORMATS["nvfp4-row-scaled"]),
                    weight_gradient=Operands("nvfp4-row-scaled", right=FORMATS["nvfp4"]))  # fmt: skip
    config = TrainConfig(Claude4Config(vocab_size=64), recipe=recipe)
    again = TrainConfig.from_dict(json.loads(json.dumps(config.as_dict())))
    assert again == config and again.recipe.weight == "nvfp4-16x16" and again.recipe.weight_gradient.right == "nvfp4"
    own = replace(FORMATS["nvfp4"], name="mine", rule=te_rule(cap=256))
    for slot in ("weight", "activation", "gradient", "weight_gradient"):
        parts = {"weight": "nvfp4", slot: own if slot == "weight" else Operands(own)}
        with pytest.raises(UserError, match=f"recipe mine: {slot} is a record of your own, mine, .*FORMATS"):
            TrainConfig(Claude4Config(vocab_size=64), recipe=Recipe("mine", summary="", **parts))
