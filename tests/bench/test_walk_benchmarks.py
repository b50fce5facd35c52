"""`vbw bench kernels`, `scaling` and `peers`: that they run, say what they measured, and refuse what they cannot do."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path

import pytest

from vbw_np import cli
from vbw_np.bench import floor, growth, isas, kernels, peers, scaling, timing
from vbw_np.bench import model as model_bench
from vbw_np.models.claude4 import Claude4, Claude4Config
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.simd import cpu, jit

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
    row = {"limit": "read", "goal": 0.85, "goal_kind": "limit", "met": False}
    assert kernels._goal(row) == "goal >= 85% of read: MISSED"
    assert kernels._goal(row | {"goal": 0.35, "goal_kind": "share", "met": True}) == "goal <= 0.35 of its time: met"


@pytest.mark.parametrize("isa", isas.LIKE)
def test_a_named_cpu_has_its_features_named(isa: str) -> None:
    """A name alone leaves numba the features of this machine, and its code is another's."""
    like = isas.LIKE[isa]
    assert (like.cpu is None) == (not like.features)


@needs_jit
@pytest.mark.variants
def test_another_instruction_set_is_measured_as_on_a_machine_that_has_no_more(capsys: pytest.CaptureFixture) -> None:
    """Its own kernels, BLAS's for such a CPU, its own limit of products; each table says which."""
    options = ["--quick", "--rounds", "1", "--only", "1 column, fp4", "--json", "-"]
    others = [isa for isa in cpu.available() if isa in ("avx2", "portable")]
    seen = {}
    for isa in others:
        assert cli.main(["bench", "kernels", "--isa", isa, *options]) == 0
        ((name, result),) = json.loads(capsys.readouterr().out)["tables"].items()
        assert name == result["instruction_set"] == isa
        like = isas.LIKE[isa]
        if result["machine"]["blas"]["library"] == "OpenBLAS" and platform.machine() == "x86_64":
            assert result["machine"]["blas"]["kernel"].lower() == like.blas.lower()
            assert result["compiled_for"] == like.cpu
        assert len(result["cases"]) == 2
        seen[isa] = kernels.table(result)
        assert f"instruction set {isa}" in seen[isa] and ("limit product" in seen[isa]) == (isa != "portable")


def test_instruction_sets_stand_side_by_side() -> None:
    case = {"group": "g", "name": "n", "limit": "read", "limit_share": 0.5, "speedup": 2.0, "met": True}
    missed = case | {"name": "m", "goal_kind": "share", "met": False}
    other = case | {"name": "k", "goal_kind": "speedup"}
    tables = {
        "avx2": {"cases": [case | {"goal_kind": "speedup"}, missed]},
        "portable": {"cases": [case | {"goal_kind": "limit", "met": None}, other]},
    }
    _, names, *rows = kernels.in_short(tables).splitlines()
    assert names.split() == ["avx2", "portable"]
    assert [" ".join(row.split()) for row in rows] == [
        "g: n 2.00 x 50% of read",
        "g: m 0.50 of its time! -",
        "g: k - 2.00 x",
    ]


def test_goals_depend_on_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for isa, goal in (("avx512vnni", 3.0), ("avxvnni", 2.6), ("avx2", 2.6), ("portable", 1), ("neon", None)):
        monkeypatch.setattr(cpu, "choose_vector", lambda isa=isa: isa)
        assert kernels._goal_of("product mxfp4") == goal


def test_every_case_can_be_made() -> None:
    names = [(case.group, case.name) for case in kernels.cases(quick=True)]
    assert len(set(names)) == len(names) > 25


@needs_jit
def test_a_point_of_scaling_is_a_run_of_its_own() -> None:
    small = ["--vocab-size", "61", "--d-model", "32", "--hidden", "32", "--batch-size", "2", "--layers", "2"]
    point = scaling.measure_point([*small, "--seq-len", "12"], "fp32", 2)
    assert len(point["batch_s"]) == 2 and point["times_floor"] > 0 and point["peak_memory_bytes"] > 1e7
    text = scaling.table({"recipe": "fp32", "sweeps": {"batch": [{"value": 12} | point]}})
    assert "batch" in text and "12" in text


def test_a_large_model_is_told_from_small_ones() -> None:
    """The report's totals; and a model of other sizes against itself, built."""
    report = growth.step(Claude4Config(), 8, 128)
    assert report.parameters == 35_862_532
    assert report.flop == sum(p.flop for p in floor.step_products(Claude4(Claude4Config(), seed=0), 8, 128))
    config = Claude4Config(vocab_size=777, d_model=160, hidden=640, layers=2, rank=3, experts=2, causal=True)
    model, told = Claude4(config, seed=0), growth.step(config, 3, 17)
    assert told.parameters == model.num_parameters()
    assert told.flop == sum(p.flop for p in floor.step_products(model, 3, 17))
    with pytest.raises(ValueError, match="hidden is 512: the interpolation is for 4 times the width"):
        growth.step(Claude4Config(d_model=256, hidden=512), 8, 128)


def test_exponents_are_slopes() -> None:
    assert growth.exponent([1, 2, 4, 8], [3 * n**2.5 for n in (1, 2, 4, 8)]) == pytest.approx(2.5)


def test_threads_go_from_one_to_all() -> None:
    assert [scaling.values_of("threads", n) for n in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]
    assert scaling.values_of("length", 6) == (32, 64, 128, 256)


def _measured(options: list[str], recipe: str, batches: int) -> dict:
    return {"batch_s": [2, 2], "later_median_s": 2.0, "floor_s": 1.0, "times_floor": 2.0, "peak_memory_bytes": 10**9}


def test_what_does_not_fit_is_left_out_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(scaling, "measure_point", _measured)
    monkeypatch.setattr(scaling.machine, "memory_bytes", lambda: {"total": 8 * 10**9, "available": 3 * 10**9})
    points = scaling.measure_sweep("model", "fp32", 2)
    assert [("left_out" in point) for point in points] == [False, False, False, True, True]
    first, second = points[:2]
    assert "predicted_s" not in first and second["predicted_s"] == pytest.approx(2 * second["flop"] / first["flop"])
    assert points[-1]["parameters"] == 352_953_220
    err = capsys.readouterr().err
    assert "measuring model 1,232: 352,953,220 parameters, about" in err and "GB are free" in err
    text = scaling.table({"recipe": "fp32", "sweeps": {"model": points}})
    assert "left out: 352,953,220 parameters; it needs about" in text and "told before" in text
    assert "exponent  a batch 0.00, the last doubling 0.00, the floor 0.00" in text


def test_the_cubic_part_of_lengths_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "measure_point", _measured)
    monkeypatch.setattr(scaling, "graph_seconds", lambda length: 1e-9 * length**3)
    points = scaling.measure_sweep("length", "fp32", 2)
    text = scaling.table({"recipe": "fp32", "sweeps": {"length": points}})
    assert "shortest paths, T^3" in text and "shortest paths 3.00" in text and "0.017 s,   1%" in text


def test_shortest_paths_are_timed() -> None:
    assert scaling.graph_seconds(8, graphs=2) > 0


@needs_jit
def test_peers_that_are_missing_are_named(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "installed", lambda: dict.fromkeys(peers.PEERS))
    assert cli.main(["bench", "peers", "--size", "64", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "peers: none installed" in out and "missing (make peers installs them): torch, torchao" in out
    assert "ml_dtypes, llama-cpp-python\n" in out and "that takes a C++ compiler" in out and "ggml" not in out
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


def tiny_model(folder: Path) -> Path:
    """A safetensors folder with a random Llama."""
    from safetensors.numpy import save_file

    config = LlamaConfig(vocab_size=300, hidden_size=64, intermediate_size=96, head_dim=16, num_hidden_layers=1)
    named = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    named |= {"num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta"}
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key in named}
    stored = settings | {"model_type": "llama", "hidden_act": "silu", "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(stored))
    save_file({n: p.data for n, p in Llama(config).named_parameters()}, folder / "model.safetensors")
    return folder


def test_a_model_as_a_user_measures_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("safetensors")
    words = ["bench", "model", "--model", str(tiny_model(tmp_path)), "--contexts", "5,9", "--tokens", "2"]
    words += ["--clock", "cpu", "--rounds", "2", "--recipe", "nvfp4,fp32", "--json", "-"]
    assert cli.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    samples = result["samples_s"]
    assert list(samples) == ["vbw-np nvfp4", "vbw-np fp32"]
    kinds = ["prompt 5", "token 5", "prompt 9", "token 9"]
    assert all(sorted(found) == sorted(kinds) for found in samples.values())
    assert all(len(found[kind]) == 2 and min(found[kind]) > 0 for found in samples.values() for kind in kinds)
    packed, plain = result["contestants"].values()
    assert packed["in_one_call"] and plain["why_not"].endswith("is in full precision")
    assert 4.5 < packed["bits_a_weight"] < 9 and plain["bits_a_weight"] == 32
    text = model_bench.table(result)
    assert "processor time" in text and "tokens/s after 9" in text
    assert "layer by layer: model.layers.0.self_attn.q_proj is in full" in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--contexts", "64,many"], "give numbers of tokens, such as 64,512"),
        (["--recipe", "nvfp5"], "nvfp5"),
        (["--model", "nowhere.gguf"], "nowhere.gguf"),
        (["--contexts", "5000"], "are more than the 2048 that this model was made for"),
    ],
)
def test_a_model_that_cannot_be_measured(
    words: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("safetensors")
    assert cli.main(["bench", "model", "--model", str(tiny_model(tmp_path)), *words]) == 2
    assert complaint in capsys.readouterr().err.strip().splitlines()[-1]
