"""The run: its layers and counts are the report's; it is the same every time; it stops when it diverges."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from vbw_np.bench import speed
from vbw_np.bench.speed import Listener, Settings, measure
from vbw_np.data import batches, load_stream, random_ids
from vbw_np.engine import Tensor, optim
from vbw_np.errors import UserError
from vbw_np.models.claude4 import Claude4, Claude4Config

IDLE = [
    "encoder.image_proj",
    "encoder.audio_proj",
    "blocks.1.reflection.connectivity_analyzer.connectivity_proj",
    "blocks.1.reflection.shortest_path_reflection.path_attn.out_proj",
    "blocks.2.reflection.connectivity_analyzer.connectivity_proj",
    "blocks.2.reflection.shortest_path_reflection.path_attn.out_proj",
]


def test_the_seeds_parameters_and_62_layers_in_its_order_with_its_shapes(seed_report: list[str]) -> None:
    seeds = [re.fullmatch(r"\[OK\] 替换层: (\S+) \((\d+) -> (\d+)\)", line) for line in seed_report]
    expected = [(found[1], int(found[2]), int(found[3])) for found in seeds if found]
    model = speed._describe_model(Claude4(), Settings())
    assert [tuple(layer.values()) for layer in model["layers"]] == expected
    assert len(expected) == 62
    assert model["parameters"] == 35_862_532


def test_the_seeds_counts(result: dict[str, Any]) -> None:
    device = result["runs"][0]["device"]
    totals = device["totals"]
    assert [totals[name] for name in ("computes", "hits", "refreshes", "separations")] == [1120, 1064, 0, 56]
    assert totals["hit_rate"] == pytest.approx(0.95)
    assert device["idle"] == IDLE
    assert len(device["cards"]) == 62
    assert {card["computes"] for card in device["cards"] if card["name"] not in IDLE} == {20}


def test_refreshes_follow_the_interval(small: Settings) -> None:
    totals = measure(dataclasses.replace(small, refresh_interval=8))["runs"][0]["device"]["totals"]
    assert (totals["refreshes"], totals["separations"], totals["hits"]) == (2 * 56, 3 * 56, 20 * 56 - 3 * 56)


def test_every_sample_is_kept(result: dict[str, Any]) -> None:
    run = result["runs"][0]
    for name in ("loss", "batch_s", "forward_s", "backward_s", "update_s", "compile_s"):
        assert len(run[name]) == 20, name
    steps = np.add(run["forward_s"], run["backward_s"]) + run["update_s"]
    np.testing.assert_allclose(steps, run["batch_s"], rtol=1e-9)
    assert len(run["floor_passes_s"]) == speed.FLOOR_PASSES


def test_it_trains_exactly_as_by_hand(small: Settings, result: dict[str, Any]) -> None:
    """Without cards: the model, Adam and the batches, written out."""
    fp32 = measure(dataclasses.replace(small, recipes=("fp32",), n_batches=3))["runs"][0]["loss"]
    model = Claude4(small.model, seed=small.seed)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    windows = batches(random_ids(61, seed=0), 2, 8, 0)
    for expected in fp32:
        ids = next(windows)
        optimizer.zero_grad()
        loss = model.loss(ids)
        loss.backward()
        optimizer.step()
        assert float(loss.data) == expected


def test_every_recipe_starts_from_the_same_weights_on_the_same_batches(small: Settings) -> None:
    few = dataclasses.replace(small, n_batches=3)
    alone = {name: measure(dataclasses.replace(few, recipes=(name,)))["runs"][0] for name in ("fp32", "nvfp4")}
    together = measure(dataclasses.replace(few, recipes=("nvfp4", "fp32")))["runs"]
    assert [run["recipe"] for run in together] == ["nvfp4", "fp32"]
    for run in together:
        assert run["loss"] == alone[run["recipe"]]["loss"]
    assert alone["fp32"]["loss"] != alone["nvfp4"]["loss"]


def test_the_models_own_randomness_is_the_seeds(small: Settings) -> None:
    few = dataclasses.replace(small, n_batches=2)
    same, other = (measure(dataclasses.replace(few, seed=seed))["runs"][0]["loss"] for seed in (0, 1))
    assert measure(few)["runs"][0]["loss"] == same
    assert same != other


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "inference"},
        {"mode": "precision"},
        {"mode": "auto"},
        {"boh": False},
        {"model": Claude4Config(vocab_size=61, d_model=32, hidden=32, causal=True)},
        {"model": Claude4Config(vocab_size=61, d_model=40, heads=5, hidden=24, layers=1, experts=2, rank=3)},
        {"recipes": ("nvfp4-boh",), "error_budget": 0.05},
        {"recipes": ("nvfp4-train",)},
        {"recipes": ("nvfp4",), "compute": "fp4"},
    ],
    ids=str,
)
def test_every_setting_runs(small: Settings, change: dict[str, Any]) -> None:
    done = measure(dataclasses.replace(small, n_batches=2, **change))
    assert np.isfinite(done["runs"][0]["loss"]).all()


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_loss, seen = Claude4.loss, []

    def loss(model: Claude4, ids: np.ndarray) -> Tensor:
        value = true_loss(model, ids)
        if model.config.vocab_size == 61:  # not the warm-up's tiny model
            seen.append(value)
        return value * np.inf if len(seen) == 3 else value

    monkeypatch.setattr(Claude4, "loss", loss)
    message = r"^batch 3 of 20: the loss is inf \(recipe seed-v6\); the run stops here.* lower --lr, now 0.001$"
    with pytest.raises(UserError, match=message):
        measure(small)


def test_weights_that_are_not_finite_name_the_batch_too(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    true_step = optim.Adam.step

    def step(optimizer: optim.Adam) -> None:
        true_step(optimizer)
        for parameter in optimizer.params:
            if parameter.host is not None and parameter.shape[0] == 61:
                with parameter.mutate() as data:
                    data[0, 0] = np.nan

    monkeypatch.setattr(optim.Adam, "step", step)
    with pytest.raises(UserError, match=r"^batch 2 of 20: the loss cannot be computed, for weights are no longer fini"):
        measure(small)


def test_the_listener_hears_of_everything_in_order(small: Settings) -> None:
    heard: list[str] = []

    class Ear(Listener):
        def started(self, result: dict[str, Any]) -> None:
            heard.append(f"started {len(result['model']['layers'])}")

        def run_started(self, result: dict[str, Any], run: dict[str, Any]) -> None:
            heard.append(run["recipe"])

        def batch_done(self, result: dict[str, Any], run: dict[str, Any]) -> None:
            heard.append(f"batch {len(run['loss'])} {len(run['batch_s'])}")

        def run_done(self, result: dict[str, Any], run: dict[str, Any]) -> None:
            heard.append(f"computes {run['device']['totals']['computes']}")

        def done(self, result: dict[str, Any]) -> None:
            heard.append("done")

    measure(dataclasses.replace(small, n_batches=2, recipes=("fp32", "nvfp4")), listener=Ear())
    rest = ["batch 1 1", "batch 2 2", "computes 112"]
    assert heard == ["started 62", "fp32", *rest, "nvfp4", *rest, "done"]


def test_figures_of_the_seed_follow_from_its_samples() -> None:
    """Total 59.06 s and first batch 6.41 s make all the other figures of the seed's performance section."""
    later = (59.06 - 6.41) / 19
    run = {"batch_s": [6.41] + [later] * 19, "forward_s": [1.0] * 20, "backward_s": [1.0] * 20, "update_s": [1.0] * 20}
    timing = speed._timing(run)
    assert round(timing["mean_s"], 2) == 2.95
    assert round(timing["later_mean_s"], 2) == 2.77
    assert round(timing["batches_per_s"], 2) == 0.34
    assert round(timing["epoch_100_batches_s"], 1) == 280.7


def test_one_batch_has_no_later_ones(small: Settings) -> None:
    run = measure(dataclasses.replace(small, n_batches=1))["runs"][0]
    assert run["times_floor"] is None
    assert {name for name, value in run["timing"].items() if value is None} == {
        name for name in run["timing"] if name.startswith(("later", "epoch"))
    }


def test_floor_passes_are_spread_over_the_run() -> None:
    assert speed._spread(20, 7) == [3, 6, 9, 11, 14, 17, 20]
    assert speed._spread(2, 7) == [1, 1, 1, 1, 1, 2, 2]
    assert len(speed._spread(1, 7)) == 7


def test_relative_error_is_that_of_all_weights_together(small: Settings) -> None:
    """Against the definition, over the concatenation of all packed weights."""
    model = Claude4(small.model)
    device = dataclasses.replace(small, recipes=("nvfp4",)).new_device("nvfp4")
    device.place(model)
    model.loss(np.zeros((2, 8), np.int64))
    cards = [card for card in device.cards.values() if card.packed is not None]
    exact = np.concatenate([card.parameter.data.ravel() for card in cards]).astype(np.float64)
    decoded = np.concatenate([card.packed.dequantize().ravel() for card in cards])
    expected = np.linalg.norm(exact - decoded) / np.linalg.norm(exact)
    assert speed._relative_error(device, device.report().as_dict()["cards"]) == pytest.approx(expected, rel=1e-6)
    assert 0.05 < expected < 0.15


def test_data_is_described_as_it_is(tmp_path, small: Settings) -> None:
    import hashlib

    text = "the cat sat on the mat and the dog sat on the log " * 20 + "once"
    (tmp_path / "book.txt").write_text(text)
    settings = dataclasses.replace(
        small, data=str(tmp_path / "book.txt"), model=dataclasses.replace(small.model, vocab_size=6), n_batches=1
    )
    data = measure(settings)["data"]
    words = re.findall(r"\w+|\s+|[^\w\s]", text)
    stream = load_stream(str(tmp_path / "book.txt"), vocab_size=6)
    known = sum(word in stream.vocab for word in words)
    assert data["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert (data["corpus_bytes"], data["tokens"], data["files"]) == (len(text), len(words), 1)
    assert data["unk_share"] == pytest.approx(1 - known / len(words))
    assert data["different_tokens"] == 6
