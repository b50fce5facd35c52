"""Comparisons: the same start and batches for all, paired gaps, tables, and going on after a stop."""

from __future__ import annotations

import builtins
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vbw_np.cli import main
from vbw_np.device.changes import (
    ABLATIONS,
    CHANGES,
    NOT_OF_NVFP4_TRAIN,
    get_recipe,
    get_recipes,
)
from vbw_np.errors import UserError
from vbw_np.training import compare
from vbw_np.training.config import TrainConfig

Make = Callable[..., TrainConfig]


def result(recipe: str, seed: int, curve: list[tuple[int, float]]) -> dict:
    return {"recipe": recipe, "seed": seed, "curve": curve, "step": curve[-1][0], "step_seconds": 0.5,
            "weight_bytes": 2**20, "error": None}  # fmt: skip


RESULTS = [
    result("fp32", 0, [(1, 5.0), (2, 4.0), (3, 3.0)]),
    result("nvfp4", 0, [(1, 5.1), (2, 4.04)]),
    result("fp32", 1, [(1, 6.0), (2, 5.0)]),
    result("nvfp4", 1, [(1, 6.1), (2, 5.15)]),
]


def test_the_gap_is_taken_seed_by_seed_at_a_step_that_all_runs_have() -> None:
    fp32, nvfp4 = compare.rows(RESULTS)
    assert (fp32.step, nvfp4.step, nvfp4.seeds) == (2, 2, 2)
    assert nvfp4.gap == pytest.approx((1.0 + 3.0) / 2)  # 4.04 / 4 is 1% above, 5.15 / 5 is 3%
    assert nvfp4.gap_spread == pytest.approx(math.sqrt(2))  # of 1 and 3, with n - 1
    assert fp32.val_spread == pytest.approx(math.sqrt(0.5)) and fp32.gap == 0


def test_tables() -> None:
    text = compare.as_text(compare.rows(RESULTS))
    assert "+2.00% ± 1.41%" in text and len({len(line) for line in text.splitlines()}) == 1
    markdown = compare.as_markdown(compare.rows(RESULTS)).splitlines()
    assert markdown[1].count("---") == markdown[0].count("|") - 1 == 7
    alone = compare.rows(RESULTS[1:2])
    assert alone[0].gap is None and "-" in compare.as_text(alone)
    failed = [*RESULTS, {**result("bad", 0, [(1, 9.0)]), "error": "training stopped at step 2"}]
    assert [row.recipe for row in compare.rows(failed)] == ["fp32", "nvfp4"]
    with pytest.raises(UserError, match="no validation that all runs have"):
        compare.rows([result("fp32", 0, [(1, 5.0)]), result("nvfp4", 0, [(2, 4.0)])])


def test_a_plan_is_seed_by_seed_and_its_folders_differ(config: Make) -> None:
    runs = compare.plan(config(), get_recipes("fp32,nvfp4-train:ste=off"), [0, 1])
    assert [(run.config.recipe.name, run.config.seed) for run in runs] == [
        ("fp32", 0), ("nvfp4-train:ste=off", 0), ("fp32", 1), ("nvfp4-train:ste=off", 1)]  # fmt: skip
    assert len({run.folder for run in runs}) == 4 and all(":" not in run.folder for run in runs)
    with pytest.raises(UserError, match="different numbers"):
        compare.plan(config(), [get_recipe("fp32")], [1, 1])


def test_a_comparison_goes_on_where_it_was_stopped(config: Make, tmp_path: Path) -> None:
    runs = compare.plan(config(), get_recipes("fp32,nvfp4-train:keep-all,nvfp4"), [0])
    assert compare.compare(runs, tmp_path / "a", minutes=0)[0]["step"] < 6
    first = compare.compare(runs, tmp_path / "a")
    whole = compare.compare(runs, tmp_path / "b")
    assert [run["curve"] for run in first] == [run["curve"] for run in whole]
    stamp = (tmp_path / "a" / runs[0].folder / "last.vbw").stat().st_mtime_ns
    assert compare.compare(runs, tmp_path / "a") == first  # nothing left to do
    assert (tmp_path / "a" / runs[0].folder / "last.vbw").stat().st_mtime_ns == stamp
    fp32, kept, nvfp4 = compare.rows(first)
    assert kept.gap == 0 and kept.val_loss == fp32.val_loss  # every layer kept: the same bits as fp32
    assert nvfp4.gap != 0 and nvfp4.weight_mib < fp32.weight_mib
    before, after = (compare.losses_by_step(tmp_path / name / runs[2].folder) for name in "ab")
    assert before == after and len(before) == 6


def test_a_recipe_that_breaks_is_a_result(config: Make, tmp_path: Path) -> None:
    (broken,) = compare.compare(compare.plan(config(lr=1e38, clip=0.0), get_recipes("fp32"), [0]), tmp_path)
    assert "training stopped at step" in broken["error"]


# ------------------------------------------------------------------------------------------------------------- recipes


def test_each_ablation_changes_one_thing() -> None:
    base = get_recipe("nvfp4-train")
    for name in ABLATIONS:
        recipe = get_recipe(name)
        assert recipe.name == name and recipe != base
    assert get_recipe("nvfp4-train:no-hadamard").weight_gradient.hadamard == 0
    assert not get_recipe("nvfp4-train:no-sr").gradient.stochastic
    assert get_recipe("nvfp4-train:sr-everywhere").activation.stochastic
    assert get_recipe("nvfp4-train:1d-scales").weight == "nvfp4"
    assert get_recipe("nvfp4-train:four-over-six").weight == "nvfp4-16x16-4over6"
    assert get_recipe("nvfp4-train:keep-head").keeps("output_head")
    assert get_recipe("nvfp4:ste=off").gradient_rule == "row-max"
    both = get_recipe("nvfp4-train:1d-scales+four-over-six")
    assert both.weight == "nvfp4-4over6"
    assert get_recipe("nvfp4-boh:fine-always").fine == "always"  # nvfp4-train has no fine tier
    assert set(CHANGES) - {name.partition(":")[2] for name in ABLATIONS} == set(NOT_OF_NVFP4_TRAIN)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_stands_in_a_table(change: str) -> None:
    docs = Path(__file__).parents[2] / "docs"
    rows = [line for page in ("recipes.md", "training.md") for line in (docs / page).read_text("utf-8").splitlines()]
    assert any(f"`{change}`" in row.split("|")[1] for row in rows if row.startswith("| `"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nvfp4-trian", "no recipe 'nvfp4-trian'; did you mean nvfp4-train"),
        ("nvfp4-train:no-st", "no change of a recipe 'no-st'; did you mean no-sr"),
        ("nvfp4:no-sr", "keeps the operand 'gradient' in float32"),
        ("mxfp4-train:1d-scales", "is for weights in nvfp4-16x16, not mxfp4-rceil"),
    ],
)
def test_recipes_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_recipe(name)


# -------------------------------------------------------------------------------------------------------- the commands

FAST = ["--preset", "tiny", "--steps", "4", "--batch-size", "2", "--eval-batches", "1"]


def test_vbw_train_and_resume(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, summary = tmp_path / "run", tmp_path / "summary.json"
    train = ["train", *FAST, "--data", str(text), "--out", str(folder), "--recipe", "nvfp4"]
    assert main([*train, "--prompt", "def x(", "--sample", "3", "--json", str(summary)]) == 0
    out, err = capsys.readouterr()
    assert "trained 4 of 4 steps" in out and "def x(" in out and "validation" in err and "tokens/s" in err
    assert json.loads(summary.read_text())["result"]["step"] == 4
    assert main(train) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(["train", "--resume", str(folder), "--steps", "5", "--quiet", "--sample", "0"]) == 0
    out, err = capsys.readouterr()
    assert "trained 5 of 5 steps" in out and not err
    assert main(["train", "--resume", str(folder), "--seed", "1"]) == 2
    assert "--seed is decided when a run begins" in capsys.readouterr().err


def test_vbw_train_stops_in_time(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["train", *FAST, "--data", str(text), "--out", str(tmp_path / "run"), "--minutes", "0"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "stopped after 1 of 4 steps" in out and f"vbw train --resume {tmp_path / 'run'}" in out


def test_vbw_compare(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["compare", *FAST, "--data", str(text), "--out", str(tmp_path / "out"), "--quiet", "--seeds", "x2",
               "--recipes", "fp32,nvfp4", "--json", str(tmp_path / "c.json"), "--markdown"]  # fmt: skip
    assert main(command) == 0
    table = capsys.readouterr().out
    assert table.startswith("| recipe | seeds | step |") and table.count("\n") == 4
    saved = json.loads((tmp_path / "c.json").read_text())
    assert [row["recipe"] for row in saved["table"]] == ["fp32", "nvfp4"] and len(saved["runs"]) == 4
    assert np.isfinite([row["val_loss"] for row in saved["table"]]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--preset", "big"], "there is no preset 'big'; the presets are: report, bytes, tiny"),
        (["train", "--steps", "0"], "argument --steps: 0 is too small"),
        (["train", "--json", "/nowhere/x.json"], "its folder /nowhere does not exist"),
        (["train", "--data", "/nowhere"], "does not exist"),
        (["train", "--resume", "/nowhere"], "does not exist"),
        (["compare", "--seeds", "a"], "give numbers from 0 on, joined by commas"),
        (["compare", "--recipes", ","], "no recipes given"),
        (["compare", "--threads", "0"], "argument --threads: 0 is too small"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs matplotlib.*pip install"):
        compare.plot(RESULTS, tmp_path / "x.svg", "title")


def test_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    program = (
        "import json, sys; from vbw_np.training import compare; "
        "compare.plot(json.loads(sys.argv[1]), sys.argv[2], 'title')"
    )
    subprocess.run([sys.executable, "-c", program, json.dumps(RESULTS), str(tmp_path / "x.svg")], check=True)
    picture = (tmp_path / "x.svg").read_text()
    assert picture.lstrip().startswith("<?xml")
    gaps = picture.partition('id="axes_2"')[2]  # in the second picture a recipe has the color of the first
    assert "#ff7f0e" in gaps and "#1f77b4" not in gaps and "#1f77b4" in picture
