"""`vbw bench kernels`, `scaling` and `peers`: that they run, say what they measured, and refuse what they cannot do."""

from __future__ import annotations

import json

import pytest

from vbw_np import cli
from vbw_np.bench import kernels, peers, scaling, timing
from vbw_np.kernels.simd import jit

needs_jit = pytest.mark.skipif(not jit.enabled(), reason="kernels are switched off")


def test_functions_are_measured_in_turns() -> None:
    calls = []
    functions = {name: (lambda n=name: calls.append(n)) for name in "ab"}
    samples = timing.interleaved(functions, rounds=3)
    assert {name: len(values) for name, values in samples.items()} == {"a": 3, "b": 3}
    first, last = calls.index("b"), len(calls) - 1 - calls[::-1].index("a")
    assert first < last, "b ran before the last of a"


def test_slow_first_calls_do_not_make_a_measurement_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten calls that refill the caches take ten times as long as those that follow."""
    clock, calls = [0.0], [0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def function() -> None:
        clock[0] += 1e-3 if calls[0] < 10 else 1e-4
        calls[0] += 1

    assert 400 <= timing.calls_for(function, 50e-3) <= 500
    assert timing.calls_for(lambda: clock.__setitem__(0, clock[0] + 3), 50e-3) == 1


def test_ratios_are_paired() -> None:
    assert timing.paired_ratio([2, 20, 200], [1, 10, 100]) == 2


@needs_jit
def test_kernels_as_a_user_runs_it(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "kernels", "--quick", "--rounds", "1", "--only", "shortest", "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    (case,) = result["cases"]
    assert case["name"].startswith("shortest paths") and case["speedup"] > 0
    assert len(case["samples_s"]["ours"]) == len(case["samples_s"]["numpy"]) == 1
    assert result["limits"]["copy"] > 0 and case["goal"] is None
    text = kernels.table(result)
    assert "rest of a step" in text and "x numpy" in text and "limit copy" in text


def test_goals_say_whether_they_are_met() -> None:
    row = {"unit": "GB", "goal": 15.0, "goal_kind": "rate", "met": False}
    assert kernels._goal(row) == "goal >= 15 GB/s: MISSED"
    assert kernels._goal(row | {"goal": 0.35, "goal_kind": "share", "met": True}) == "goal <= 0.35 of its time: met"


def test_every_case_can_be_made() -> None:
    names = [(case.group, case.name) for case in kernels.cases(quick=True)]
    assert len(set(names)) == len(names) > 25


@needs_jit
def test_a_point_of_scaling_is_a_run_of_its_own() -> None:
    small = ["--vocab-size", "61", "--d-model", "32", "--hidden", "32", "--batch-size", "2", "--layers", "2"]
    point = scaling.measure_point([*small, "--seq-len", "12"], "fp32", 2)
    assert len(point["batch_s"]) == 2 and point["times_floor"] > 0
    text = scaling.table({"recipe": "fp32", "sweeps": {"length": [{"value": 12} | point]}})
    assert "length" in text and "12" in text


@needs_jit
def test_peers_that_are_missing_are_named(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "installed", lambda: dict.fromkeys(peers.PEERS))
    assert cli.main(["bench", "peers", "--size", "64", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "peers: none installed" in out and "missing (make peers installs them): torch, torchao" in out
    assert "vbw-np nvfp4" in out and "numpy float32" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["kernels", "--only", "nothing of the kind", "--quick", "--rounds", "1"], "group or name contains"),
        (["kernels", "--rounds", "0"], "argument --rounds: 0 is too small"),
        (["kernels", "--json", "no/such/folder/x.json"], "no/such/folder"),
        (["scaling", "--sweep", "depth"], "--sweep depth: there are length"),
        (["scaling", "--batches", "1"], "argument --batches: 1 is too small"),
        (["scaling", "--recipe", "fp3"], "there is no recipe 'fp3'"),
        (["peers", "--size", "100"], "--size 100: give a multiple of 64"),
        (["peers", "--rounds", "0"], "argument --rounds: 0 is too small"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("vbw: error:") and complaint in error
