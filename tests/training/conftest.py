"""A run that takes a second: a small model on a small text of several files."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from vbw_np.device.changes import get_recipe
from vbw_np.models.claude4 import Claude4Config
from vbw_np.training import checkpoint
from vbw_np.training.config import TrainConfig

MODEL = Claude4Config(
    vocab_size=256, d_model=16, heads=2, hidden=32, layers=2, rank=4, experts=2, dropout=0.1, causal=True,
    token_shift=True,
)  # fmt: skip


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ten files of words drawn at random, the same for every test."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    words = ["def", "class", "return", "self", "x", "y", "(", ")", ":", "\n    ", "\n", " = ", "+", "0"]
    for number in range(10):
        (folder / f"{number}.py").write_text(" ".join(draw.choice(words) for _ in range(400)))
    return folder


@pytest.fixture
def config(text: Path) -> Callable[..., TrainConfig]:
    """Makes a configuration; takes its fields, and a recipe by name."""

    def make(recipe: str = "fp32", **changes: object) -> TrainConfig:
        defaults = TrainConfig(
            model=MODEL, data=str(text), tokenizer="byte", held_out=0.2, steps=6, batch_size=2, seq_len=16, lr=1e-2,
            warmup=2, eval_every=3, eval_batches=2,
        )  # fmt: skip
        return dataclasses.replace(defaults, recipe=get_recipe(recipe), **changes)

    return make


@pytest.fixture
def ending() -> Callable[[Path], tuple]:
    """All that a run came to: every array's bytes, the other state, and the log, but for the times."""

    def read(folder: Path) -> tuple:
        kept = checkpoint.load(folder / "last.vbw")
        arrays = {name: array.tobytes() for name, array in kept.arrays.items()}
        meta = {name: value for name, value in kept.meta.items() if name not in ("seconds", "run")}
        lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        log = [{name: value for name, value in line.items() if name not in ("seconds", "run")} for line in lines]
        return arrays, meta, log

    return read
