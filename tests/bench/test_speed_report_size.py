"""The main job at the report's own settings: minutes, so run by ``make test-slow``."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def bench(*arguments: str) -> dict[str, Any]:
    """A run in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "vbw_np", "bench", "--json", "-", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def three() -> dict[str, Any]:
    """Three recipes on real text: random windows, 20 batches, lr 1e-3."""
    return bench("--recipe", "fp32,seed-v6,nvfp4")


def test_random_ids_start_at_the_seeds_loss() -> None:
    """ln 50,000 = 10.82, and a little for logits that are not all equal; the seed's first batches: 10.98."""
    (loss,) = bench("--data", "random", "--batches", "1")["runs"][0]["loss"]
    assert 10.93 < loss < 11.03
    assert loss > math.log(50_000)


def test_real_text_is_learned_and_fp4_keeps_up(three: dict[str, Any]) -> None:
    """Plain PyTorch reaches 5.3; the original's gradient reached 0.39% of the weights, and its loss stayed at 10.96."""
    fp32, *others = (run["loss_last_mean"] for run in three["runs"])
    assert fp32 < 6.0
    for loss in others:
        assert abs(loss / fp32 - 1) < 0.03


def test_the_counts_of_the_report(three: dict[str, Any]) -> None:
    for run in three["runs"][1:]:
        totals = run["device"]["totals"]
        assert [totals[name] for name in ("computes", "hits", "refreshes", "separations")] == [1120, 1064, 0, 56]
        assert len(run["device"]["idle"]) == 6
    assert three["model"]["parameters"] == 35_862_532


def test_the_data_is_the_standard_library(three: dict[str, Any]) -> None:
    data = three["data"]
    assert data["corpus_bytes"] > 20e6
    assert data["different_tokens"] == 50_000
    assert 0 < data["unk_share"] < 0.02


@pytest.mark.parametrize("recipe", ["seed-v6", "nvfp4-train"])
def test_no_batch_compiles_anything(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where no kernel is on disk yet: all is compiled, and told apart, before."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    (run,) = bench("--recipe", recipe, "--data", "random", "--batches", "2")["runs"]
    assert run["warm_up_compile_s"] > 1
    assert run["compile_s"] == [0, 0]


def test_memory_stays_below_a_gigabyte_and_a_half() -> None:
    """Of the default run: one recipe."""
    assert bench("--batches", "3")["peak_memory_bytes"] < 1.5e9
