"""The text: the seed's report word for word from the seed's samples, and the same content in both languages."""

from __future__ import annotations

import copy
import json
import re
import string
from typing import Any

import pytest

from vbw_np.bench import speed
from vbw_np.bench.labels import CHINESE, ENGLISH
from vbw_np.bench.report import Report, gflop_text, memory_text, render, seconds_text, table, text_width
from vbw_np.bench.speed import Settings, measure
from vbw_np.models.claude4 import Claude4

# Samples from which the seed's figures follow: they give its means over five, its last times and its total.
SEED_TIMES = [6.41, *[2.8933] * 3, 2.72, *[2.7075] * 4, 2.72, *[2.73] * 4, 2.83, *[2.7876] * 4, 2.80]
SEED_LOSSES = [10.9786] * 5 + [10.9877] * 5 + [10.9826] * 5 + [10.9624] * 5


@pytest.fixture(scope="module")
def as_the_seed(result: dict[str, Any]) -> dict[str, Any]:
    """A result with the seed's model, settings, losses and times; the counts are those of a real run."""
    seeds = copy.deepcopy(result)
    run = seeds["runs"][0]
    run["batch_s"], run["loss"] = SEED_TIMES, SEED_LOSSES
    run["timing"] = speed._timing(run)
    seeds["settings"] = Settings().as_dict()
    seeds["model"] = speed._describe_model(Claude4(), Settings())
    return seeds


def unrepeated(lines: list[str]) -> list[str]:
    """Without the line that the seed prints before each of its 62 layers, but the first time."""
    mode = next(line for line in lines if line.startswith("[虚拟Blackwell]"))
    first = lines.index(mode)
    return lines[: first + 1] + [line for line in lines[first + 1 :] if line != mode]


def test_the_seeds_report_word_for_word(as_the_seed: dict[str, Any], seed_report: list[str]) -> None:
    """Every line of it, rules and empty ones too, in its order; ours stand between."""
    expected = [line.replace("v6.0", f"v{as_the_seed['vbw_np']}") for line in unrepeated(seed_report)]
    assert len(expected) > 100
    ours = iter(render(as_the_seed, "zh").splitlines())
    for line in expected:
        assert line in ours, f"not there, or not in its place: {line!r}"  # `in` moves the iterator forward


def test_the_english_report_says_the_same(as_the_seed: dict[str, Any]) -> None:
    text = render(as_the_seed)
    for line in (
        "Model parameters: 35,862,532",
        "[Virtual Blackwell] mode=training, FP4=on, BOH=on",
        "[OK] placed encoder.image_proj (1024 -> 256)",
        "[OK] placed output_head (256 -> 50000)",
        "Virtual Blackwell cards: 62",
        "Configuration: batch_size=8, seq_len=128, batches=20",
        "Batch  5/20 | Loss: 10.9786 | Time: 2.72s | Avg(last 5): 3.56s",
        "Batch 20/20 | Loss: 10.9624 | Time: 2.80s | Avg(last 5): 2.79s",
        "Total time: 59.06s",
        "Mean batch time: 2.95s",
        "First batch: 6.41s (with precision separation)",
        "Later batches, mean: 2.77s (with caches)",
        "Throughput: 0.34 batch/s",
        "Projected time of an epoch (100 batches): 280.7s (4.7 minutes)",
        "Total computes: 1,120",
        "Cache hits: 1,064 (95.0%)",
        "Cache refreshes: 0",
        "Precision separations: 56 (first + refreshes)",
        "Idle cards: 6",
        "  blocks.2.reflection.shortest_path_reflection.path_attn.out_proj",
        "[blocks.0.attn.W_q]",
        "  Computes: 20",
        "  Cache hit rate: 95.0%",
    ):
        assert line in text.splitlines(), line
    assert text.isascii()


def fields(template: str) -> list[tuple[str, str]]:
    return sorted((name, spec) for _, name, spec, _ in string.Formatter().parse(template) if name)


def test_both_languages_have_the_same_labels_with_the_same_fields() -> None:
    assert list(ENGLISH) == list(CHINESE)
    for label, template in ENGLISH.items():
        english = {name for name, _ in fields(template)}
        chinese = {name for name, _ in fields(CHINESE[label])}
        assert english == chinese or (label == "recipe" and chinese == {"recipe"}), label


def test_every_label_is_used(result: dict[str, Any], small: Settings) -> None:
    said: set[str] = set()

    class Spy(Report):
        def say(self, label: str, **values: Any) -> str:
            said.add(label)
            return super().say(label, **values)

        def title(self, label: str, **values: Any) -> Any:
            said.add(label)
            return super().title(label, **values)

    text_data = copy.deepcopy(result)
    text_data["data"]["sha256"] = "0" * 64
    text_data["environment"]["variables_taken_away"] = {"OPENBLAS_CORETYPE": "Haswell"}
    text_data["environment"]["blas"]["variables"] = {"OPENBLAS_L2_SIZE": "1024"}
    text_data["environment"]["numba"] = {"version": "0", "threads": 2, "threading_layer": None, "switched_off": True}
    text_data["runs"][0]["compile_s"][0] = 1.5
    without_numba = copy.deepcopy(result)
    without_numba["environment"]["numba"] = None
    two = measure(small.__class__(**{**small.__dict__, "n_batches": 1, "recipes": ("fp32", "nvfp4-boh")}))
    for data in (text_data, without_numba, two):
        report = Spy()
        [*report.head(data)]
        for run in data["runs"]:
            [*report.training_head(data, run), *report.batch_line(data, run, len(run["loss"]))]
            [*report.run_tail(data, run)]
        [*report.tail(data)]
    assert set(ENGLISH) - said == {"mode.inference", "mode.auto", "mode.precision"}


@pytest.mark.parametrize("mode", ["training", "inference", "auto", "precision"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_mode_has_a_word(mode: str, language: str) -> None:
    line = Report(language).mode_line({"mode": mode, "boh": False}, fp4=False)
    assert ("off" if language == "en" else "禁用") in line


def test_it_can_be_printed_again_from_its_json(result: dict[str, Any]) -> None:
    for language in ("en", "zh"):
        assert render(json.loads(json.dumps(result)), language) == render(result, language)


def test_the_floor_is_named_with_its_multiple(as_the_seed: dict[str, Any]) -> None:
    numbers = copy.deepcopy(as_the_seed)
    numbers["floor"].update(flop=158_738_743_296, head_rows_a_window=127)
    numbers["floor"]["flop_by_part"] = {"head": 78_028_800_000, "experts": 1, "reflection": 1, "attention": 1}
    numbers["runs"][0]["floor"].update(median_s=0.41, gflop_per_s=158.7 / 0.41)
    numbers["runs"][0]["times_floor"] = 2.77 / 0.41
    text = render(numbers)
    assert "fp32 floor: 0.41s, numpy's sgemm alone on the step's 158.7 GFLOP at 387 GFLOP/s" in text
    assert "head 78.03, " in text
    assert "head rows 8 x 127; median of 7 passes between batches" in text
    assert "A later batch takes 6.76 times the fp32 floor." in text


def test_the_last_line_of_batches_covers_what_is_left(result: dict[str, Any]) -> None:
    seven = copy.deepcopy(result)
    seven["settings"]["n_batches"] = 7
    run = seven["runs"][0]
    run["loss"], run["batch_s"] = [float(i) for i in range(7)], [1.0] * 5 + [2.0, 4.0]
    lines = [line for count in range(1, 8) for line in Report().batch_line(seven, run, count)]
    assert lines == [
        "Batch  5/7 | Loss: 2.0000 | Time: 1.00s | Avg(last 5): 1.00s",
        "Batch  7/7 | Loss: 5.5000 | Time: 4.00s | Avg(last 2): 3.00s",
    ]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_several_recipes_side_by_side(small: Settings, language: str) -> None:
    two = measure(Settings(**{**small.__dict__, "n_batches": 2, "recipes": ("fp32", "seed-v6", "nvfp4")}))
    lines = render(two, language).splitlines()
    head = next(i for i, line in enumerate(lines) if line.split()[:1] in (["recipe"], ["配方"]) and "fp32" in line)
    rows = lines[head : head + 4]
    assert len({text_width(row) for row in rows}) == 1
    for row, run in zip(rows[1:], two["runs"]):
        cells = row.split()
        assert cells[0] == run["recipe"]
        assert cells[3] == f"{sum(run['loss']) / 2:.4f}"
        assert cells[5] == f"{run['device']['bytes']:,}"
    assert rows[1].split()[4] == "-"
    assert re.fullmatch(r"[+-]\d+\.\d\d%", rows[2].split()[4])
    assert float(rows[1].split()[6]) == 32
    assert 4.5 < float(rows[3].split()[6]) < 4.7


def test_small_figures_keep_digits() -> None:
    assert [seconds_text(s) for s in (2.719, 0.1, 0.0123, 0.0)] == ["2.72s", "0.10s", "0.0123s", "0.00s"]
    assert [memory_text(size) for size in (1_420_000_000, 52_000, None)] == ["1.42 GB", "0.1 MB", "?"]
    assert [gflop_text(flop) for flop in (158_738_743_296, 31_140_000)] == ["158.7", "0.03114"]


def test_wide_characters_take_two_columns() -> None:
    assert text_width("配方 a") == 6
    assert list(table([["配方", "损失"], ["fp32", "1.0"]])) == ["配方  损失", "fp32   1.0"]
