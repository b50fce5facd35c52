"""``vbw bench`` as a user runs it: files, languages, two processes, and every kind of bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vbw_np import cli, machine
from vbw_np.bench import schema
from vbw_np.bench.floor import Floor

ROOT = Path(__file__).parents[2]
SMALL = (
    "--vocab-size 61 --d-model 32 --hidden 32 --batch-size 2 --seq-len 8 --batches 2 --data random --quiet".split()
)


def bench(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vbw_np", "bench", *SMALL, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **variables},
        timeout=900,
        check=False,
    )


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The same in this process: exit code, stdout, stderr."""
    monkeypatch.delenv("VBW_DEBUG", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["bench", *SMALL, *arguments])
        return (code, *capsys.readouterr())

    return call


# ----------------------------------------------------------------------------------------------------------- good input


def test_two_processes_give_the_same_losses_bit_for_bit(run) -> None:
    arguments = ("--recipe", "seed-v6,nvfp4-train", "--batches", "4", "--json", "-")
    outputs = bench(*arguments, "--seed", "1").stdout, *(run(*arguments, "--seed", seed)[1] for seed in "13")
    results = [json.loads(output) for output in outputs]
    losses = [[run["loss"] for run in result["runs"]] for result in results]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    hits = [[run["device"]["totals"] for run in result["runs"]] for result in results]
    assert hits[0] == hits[1]


def test_it_runs_with_numba_switched_off(run) -> None:
    """Every recipe, and the losses are those of the kernels up to rounding."""
    arguments = ("--recipe", "fp32,seed-v6,nvfp4,nvfp4-train", "--json", "-")
    done = bench(*arguments, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stderr
    off, on = json.loads(done.stdout), json.loads(run(*arguments)[1])
    assert off["environment"]["numba"] is None or off["environment"]["numba"]["switched_off"]
    for slow, fast in zip(off["runs"], on["runs"]):
        assert slow["loss"] == pytest.approx(fast["loss"], rel=1e-5 if "train" not in slow["recipe"] else 1e-2)


def test_the_default_is_the_reports_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from vbw_np.bench.commands import settings_of
    from vbw_np.bench.speed import Settings

    seen: list[Any] = []
    monkeypatch.setattr("vbw_np.bench.commands.run", lambda arguments: seen.append(arguments) or 0)
    assert cli.main(["bench"]) == 0
    assert settings_of(seen[0]) == Settings()
    assert Settings().recipes == ("seed-v6",)
    assert (Settings().n_batches, Settings().batch_size, Settings().seq_len, Settings().lr) == (20, 8, 128, 1e-3)


def test_json_has_its_schema(run, tmp_path: Path) -> None:
    code, out, _ = run("--json", str(tmp_path / "r.json"), "--recipe", "fp32,nvfp4-boh", "--error-budget", "0.1")
    assert code == 2  # a budget that decides nothing for fp32
    code, out, _ = run("--json", str(tmp_path / "r.json"), "--recipe", "fp32,nvfp4-boh")
    assert code == 0
    assert out.startswith("=" * 80)
    result = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert schema.problems(result, schema.RESULT) == []
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert result["schema_version"] == 1
    for run_ in result["runs"]:
        assert {len(run_[name]) for name in ("loss", "batch_s", "forward_s", "compile_s")} == {2}


def test_the_schema_check_finds_what_is_wrong(result: dict[str, Any]) -> None:
    assert schema.problems(result, schema.RESULT) == []
    for change, path in (
        (lambda r: r.pop("data"), "result.data: missing"),
        (lambda r: r["runs"][0].update(extra=1), "result.runs[0].extra: not in the schema"),
        (lambda r: r["runs"][0]["loss"].append(None), "result.runs[0].loss[20]: None instead of float"),
        (lambda r: r["floor"].update(flop=1.5), "result.floor.flop: 1.5 instead of int"),
        (lambda r: r["floor"].update(flop=True), "result.floor.flop: True instead of int"),
        (lambda r: r.update(duration_s=float("nan")), "result.duration_s: nan"),
        (lambda r: r.update(recipes={}), "result.recipes: dict instead of a list"),
    ):
        broken = json.loads(json.dumps(result))
        change(broken)
        assert schema.problems(broken, schema.RESULT) == [path]


def test_json_on_stdout_is_json_alone(run) -> None:
    code, out, err = run("--json", "-")
    assert code == 0
    assert json.loads(out)["settings"]["batch_size"] == 2
    assert err == ""


def test_what_is_printed_on_the_way_is_the_report(run, tmp_path: Path) -> None:
    from vbw_np.bench.report import render

    for language in ("en", "zh"):
        _, out, err = run("--lang", language, "--json", str(tmp_path / "r.json"), "--recipe", "fp32,nvfp4")
        assert out == render(json.loads((tmp_path / "r.json").read_text("utf-8")), language) + "\n"
        assert err == ""


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *(word for word in SMALL if word != "--quiet")]) == 0
    out, err = capsys.readouterr()
    assert "seed-v6 2/2" in err
    assert "tokens/s" in err
    assert "tokens/s" not in out


def test_a_trace_has_a_track_for_each_computing_card(run, tmp_path: Path) -> None:
    assert run("--trace", str(tmp_path / "t.json"), "--recipe", "nvfp4")[0] == 0
    events = json.loads((tmp_path / "t.json").read_text("utf-8"))["traceEvents"]
    computes = [event for event in events if event["ph"] == "X" and event["name"] == "compute"]
    assert len(computes) == 2 * 56
    assert {event["name"] for event in events} >= {"separate", "pack", "decode", "matmul", "backward"}


def test_threads_are_those_asked_for() -> None:
    found = json.loads(bench("--threads", "1", "--json", "-").stdout)["environment"]
    assert found["blas"]["threads"] in (1, None)
    assert found["numba"]["threads"] == 1


@pytest.mark.skipif(machine.blas_info()["library"] != "OpenBLAS", reason="the variable is OpenBLAS's")
def test_a_variable_that_slows_blas_down_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.BLAS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    asking = [sys.executable, "-c", "from vbw_np import machine; print(machine.blas_info()['kernel'])"]
    usual = subprocess.run(asking, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    other = next(name for name in ("Haswell", "Nehalem", "ARMV8") if name != usual)
    done = bench("--json", "-", OPENBLAS_CORETYPE=other, OPENBLAS_L2_SIZE="1024")
    found = json.loads(done.stdout)["environment"]
    assert found["variables_taken_away"] == {"OPENBLAS_CORETYPE": other, "OPENBLAS_L2_SIZE": "1024"}
    assert found["blas"]["kernel"] == usual
    assert found["blas"]["variables"] == {}


def test_the_peak_is_this_programs_own() -> None:
    """Not that of the program that started it, which Linux keeps in `ru_maxrss` across exec."""
    ballast = bytearray(400 << 20)
    ballast[:: 1 << 12] = b"x" * len(ballast[:: 1 << 12])
    peak = json.loads(bench("--json", "-").stdout)["peak_memory_bytes"]
    assert 50e6 < peak < 400e6
    assert machine.peak_memory_bytes() > 400e6
    del ballast


def test_own_text(run, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("one two three four five six seven eight nine ten " * 9, "utf-8")
    code, out, _ = run("--data", str(tmp_path / "book.txt"))
    assert code == 0
    assert "Data: book.txt: 180 tokens, 12 different" in out
    assert "Text: 1 files, 441 bytes, <unk> 0.00%, sha256 " in out


# ------------------------------------------------------------------------------------------------------------ bad input

BAD = {
    "--recipe nvfp5": "there is no recipe 'nvfp5'; did you mean nvfp4?",
    "--recipe ,": "no recipe to run; name one or several",
    "--recipe fp32,fp32": "the recipe fp32 is listed twice",
    "--mode fast": "there is no mode 'fast'; the modes are: training, inference, auto, precision",
    "--compute magic": "there is no way to compute 'magic'",
    "--refresh-interval 0": "argument --refresh-interval: 0 is too small; give 1 or more",
    "--error-budget 0 --recipe nvfp4-boh": "argument --error-budget: 0 is too small; give more than 0",
    "--error-budget 0.1 --recipe nvfp4": "would decide nothing; take a recipe that does, such as nvfp4-boh",
    "--batches 0": "argument --batches: 0 is too small",
    "--batch-size 0": "argument --batch-size: 0 is too small",
    "--batch-size two": "argument --batch-size: invalid int value: 'two'",
    "--seq-len 4": "give --seq-len 5 or more",
    "--lr 0": "argument --lr: 0 is too small; give more than 0",
    "--lr nan": "argument --lr: nan is no finite number",
    "--seed -1": "argument --seed: -1 is negative; give 0 or more",
    "--threads 0": "argument --threads: 0 is too small",
    "--threads 4096": "give a number from 1 to",
    "--tokenizer letters": "unknown tokenizer 'letters'; choose one of: word, byte",
    "--vocab-size 0": "argument --vocab-size/--vocab: 0 is too small",
    "--vocab-size 1": "a vocabulary of 1 is too small",
    "--heads 5": "d_model 32 is not a multiple of heads 5",
    "--d-model 36": "d_model 36 is not a multiple of 8, the heads of the reflection's attention",
    "--hidden 0": "argument --hidden: 0 is too small",
    "--layers -3": "argument --layers: -3 is negative",
    "--rank 0": "argument --rank: 0 is too small",
    "--experts 0": "argument --experts: 0 is too small",
    "--dropout 1": "dropout lies in [0, 1), not 1.0",
    "--lang fr": "invalid choice: 'fr'",
    "--batch 3": "unrecognized arguments: --batch (see: vbw bench --help)",
    "--data TMP/missing.txt": "missing.txt does not exist",
    "--data TMP/empty.txt": "empty.txt is empty (0 bytes, no words)",
    "--data TMP/blank.txt": "blank.txt is empty (3 bytes, no words)",
    "--data TMP/binary.bin": "binary.bin is not a text file: it has a NUL byte at offset 2",
    "--data TMP/short.txt": "short.txt is too short for a batch: it has 5 tokens, and a window is 8 long",
    "--data TMP/none": "nothing to read in the folder",
    "--json TMP/no/r.json": "does not exist. Make it first, or name another one",
    "--json TMP": "it is a folder. Name a file in it",
    "--trace TMP/no/t.json": "does not exist. Make it first, or name another one",
    "--trace -": "--trace needs the name of a file",
    "--trace TMP/x.json --json TMP/x.json": "give each a file of its own",
    "--trace TMP/t.json --recipe fp32,nvfp4": "--trace shows one recipe at a time",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank.txt").write_bytes(b" \n ")
    (tmp_path / "binary.bin").write_bytes(b"ab\0cd")
    (tmp_path / "short.txt").write_bytes(b"one two three")
    (tmp_path / "none").mkdir()
    return tmp_path


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_refused_before_the_run(
    arguments: str, run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says what and why, exit code 2, nothing on stdout, nothing written, nothing computed."""
    monkeypatch.setattr("vbw_np.bench.speed.measure", lambda *a, **k: pytest.fail("the run started"))
    before = sorted(folder.rglob("*"))
    code, out, err = run(*arguments.replace("TMP", str(folder)).split())
    assert code == 2
    assert BAD[arguments] in err
    assert err.startswith("vbw: error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(folder.rglob("*")) == before


def test_a_run_that_diverges_writes_nothing(run, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("old")
    names = ("--json", str(tmp_path / "r.json"), "--trace", str(tmp_path / "t.json"))
    code, _, err = run("--lr", "1e30", *names)
    assert code == 2
    assert err.startswith("vbw: error: batch 2 of 2: the loss ")
    assert "lower --lr, now 1e+30" in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert (tmp_path / "r.json").read_text() == "old"


def test_an_interrupted_run_writes_nothing(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_pass, passes = Floor.run, []

    def floor_pass(floor: Floor) -> float:
        passes.append(floor)
        if len(passes) == 4:
            raise KeyboardInterrupt
        return true_pass(floor)

    monkeypatch.setattr(Floor, "run", floor_pass)
    names = ("--json", str(tmp_path / "r.json"), "--trace", str(tmp_path / "t.json"))
    assert run(*names)[0] == 130
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_error_budget_names_the_card(run) -> None:
    code, _, err = run("--recipe", "nvfp4-boh", "--error-budget", "1e-9")
    assert code == 2
    assert "the error budget 1e-09 is below what" in err


def test_help_tells_the_defaults(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for option in ("--batches", "--vocab-size", "--recipe", "--refresh-interval", "--no-boh", "--json", "--trace"):
        assert option in out
    assert "(50,000)" in out
    assert "vbw bench --recipe fp32,seed-v6,nvfp4" in out


def test_light_until_it_runs() -> None:
    """NumPy reads the number of threads when it is loaded, so the verb's module must not load it."""
    code = "import sys, vbw_np.bench.commands; sys.exit('numpy' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
