"""What a recipe does as training goes on: oscillation, the last steps, the stop sign, in any loop and in a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vbw_np.device import RECIPES, Recipe, Schedule, place
from vbw_np.device.changes import get_recipe
from vbw_np.engine import Tensor, nn
from vbw_np.errors import UserError
from vbw_np.formats import quantize
from vbw_np.training.config import TrainConfig
from vbw_np.training.habits import Habits
from vbw_np.training.loop import Trainer

Make = Callable[..., TrainConfig]


def watched(schedule: Schedule, weight: np.ndarray, recipe: str = "nvfp4") -> tuple[nn.Linear, Habits]:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.assign(weight)
    device = place(layer, recipe, refresh_interval=1)
    layer(Tensor(np.ones((1, weight.shape[1]), np.float32)))
    return layer, Habits(schedule, device, steps=100)


def test_a_weight_between_two_codes_oscillates_and_is_set_to_the_one_it_has() -> None:
    """0.75 lies halfway between 0.5 and 1: to and fro by 0.02 its code moves by 0.5, 25 times that. 2.2 stays at 2."""
    weight = np.zeros((1, 16), np.float32)
    weight[0, :3] = 6, 0.74, 2.2  # amax 6: the scale is that of 1
    layer, habits = watched(Schedule("reset", window=4, ratio=16), weight)
    for step in range(6):
        habits.before_step(step)
        with layer.weight.mutate() as data:
            data[0, 1] = 0.76 if step % 2 else 0.74
            data[0, 2] += np.float32(0.01)
        habits.after_step()
        assert habits.seen == ({"oscillating": 1, "reset": 1} if step == 4 else {})
        if step == 4:
            decoded = quantize(weight, "nvfp4").dequantize()
            assert layer.weight.data[0, 1] == decoded[0, 1] == pytest.approx(0.5, rel=1e-6)
            assert layer.weight.data[0, 2] == np.float32(2.2) + 5 * np.float32(0.01)


@pytest.mark.parametrize(("ratio", "found"), [(24, 1), (26, 0)])
def test_the_ratio_is_that_of_the_two_distances(ratio: float, found: int) -> None:
    weight = np.zeros((1, 16), np.float32)
    weight[0, :2] = 6, 0.74
    layer, habits = watched(Schedule("count", window=2, ratio=ratio), weight)
    for step in range(3):
        habits.before_step(step)
        with layer.weight.mutate() as data:
            data[0, 1] = 0.76 if step % 2 else 0.74
        habits.after_step()
    assert habits.seen == {"oscillating": found}
    assert layer.weight.data[0, 1] == np.float32(0.74)  # counting changes nothing


def test_counting_changes_no_bit(config: Make, tmp_path: Path) -> None:
    found = {}
    for name in ("nvfp4-train", "nvfp4-train:count-oscillation"):
        settings = config(name)
        if settings.recipe.schedule:
            shorter = dataclasses.replace(settings.recipe.schedule, window=2)
            settings = dataclasses.replace(settings, recipe=dataclasses.replace(settings.recipe, schedule=shorter))
        trainer = Trainer(settings, tmp_path / name.replace(":", "-"))
        trainer.run(progress=False)
        found[name] = [p.data.tobytes() for p in trainer.parameters]
        counts = [entry["oscillating"] for entry in trainer.log.read() if "oscillating" in entry]
        trainer.close()
    assert len(counts) == 2 and len(set(map(tuple, found.values()))) == 1


def test_in_the_last_steps_products_are_those_of_the_masters(config: Make, tmp_path: Path) -> None:
    """6 steps, the last third of them: from step 4 on the loss is the float32 model's, before it is not."""
    recipe = dataclasses.replace(RECIPES["nvfp4-train"], name="last", schedule=Schedule(last=1 / 3))
    settings = config(eval_every=1)
    trainer = Trainer(dataclasses.replace(settings, recipe=recipe), tmp_path / "run")
    for step in range(6):
        trainer.run(stop=lambda: True, progress=False)
        now = trainer.validation_loss()
        with trainer.habits.in_float32():
            exact = trainer.validation_loss()
        assert (now == exact) == (step >= 4)
        assert trainer.habits.seen == ({"precise": True} if step == 4 else {})
    trainer.close()


def test_the_stop_sign_measures_the_gradients_error(config: Make, tmp_path: Path) -> None:
    schedule = Schedule(stop_below=math.sqrt(3), every=1)
    recipe = dataclasses.replace(RECIPES["nvfp4-train"], name="sign", schedule=schedule)
    trainer = Trainer(dataclasses.replace(config(), recipe=recipe), tmp_path / "a")
    before = trainer._random_states()
    drawn = [next(trainer.batches)]
    trainer._set_random_states(before)
    states = trainer.model.generator.state_dict(), trainer.device.generator.state_dict()
    trainer._gradients(drawn)
    ours = [np.array(p.grad) for p in trainer.parameters if p.grad is not None]
    trainer.model.generator.load_state_dict(states[0])
    with trainer.habits.in_float32():
        trainer._gradients(drawn)
    error = math.sqrt(sum(((a - p.grad).astype(np.float64) ** 2).sum() for a, p in
                          zip(ours, (p for p in trainer.parameters if p.grad is not None), strict=True)))  # fmt: skip
    length = math.sqrt(sum((a.astype(np.float64) ** 2).sum() for a in ours))
    trainer.close()
    again = Trainer(dataclasses.replace(config(), recipe=recipe), tmp_path / "b")
    again.train_step()
    assert again.habits.seen["noise_ratio"] == pytest.approx(length / error, rel=1e-6)
    assert again.habits._stop == (length / error < math.sqrt(3))
    again.close()


@pytest.mark.parametrize(("below", "switches"), [(1e9, True), (1e-9, False)])
def test_below_the_sign_products_become_float32(below: float, switches: bool, config: Make, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["nvfp4-train"], name="sign", schedule=Schedule(stop_below=below, every=2))
    trainer = Trainer(dataclasses.replace(config(), recipe=recipe), tmp_path / "run")
    trainer.run(progress=False)
    log = [entry for entry in trainer.log.read() if "loss" in entry]
    assert [entry["step"] for entry in log if entry.get("precise")] == ([2] if switches else [])
    assert [entry["step"] for entry in log if "noise_ratio" in entry] == ([1] if switches else [1, 3, 5])
    assert trainer.habits.precise == switches
    trainer.close()


def test_measuring_the_error_changes_no_bit(config: Make, tmp_path: Path) -> None:
    measured = dataclasses.replace(RECIPES["nvfp4-train"], schedule=Schedule(stop_below=1e-9, every=1))
    found = []
    for number, recipe in enumerate((RECIPES["nvfp4-train"], measured)):
        trainer = Trainer(dataclasses.replace(config(), recipe=recipe), tmp_path / str(number))
        trainer.run(progress=False)
        found.append([p.data.tobytes() for p in trainer.parameters])
        trainer.close()
    assert found[0] == found[1]


HABITS = {
    "reset": Schedule("reset", window=2, ratio=2),
    "last": Schedule(last=0.5),
    "sign": Schedule(stop_below=1e9, every=3),
}


@pytest.mark.parametrize("name", HABITS)
def test_a_resumed_run_is_an_uninterrupted_one(name: str, config: Make, tmp_path: Path, ending: Callable) -> None:
    recipe = dataclasses.replace(RECIPES["nvfp4"], name=name, schedule=HABITS[name])
    settings = dataclasses.replace(config(), recipe=recipe)
    for folder, stops in (("whole", ()), ("parts", (1, 2, 4, 5))):
        for until in (*stops, 6):
            trainer = Trainer.start_or_resume(settings, tmp_path / folder)
            trainer.run(stop=lambda until=until, trainer=trainer: trainer.step >= until, progress=False)
            trainer.close()
    assert ending(tmp_path / "whole") == ending(tmp_path / "parts")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"oscillation": "often"}, "off, count, reset"), ({"window": 0}, "window is a number of steps"),
        ({"every": 0}, "every is a number"), ({"last": 1.5}, "share of the steps"), ({"ratio": 0}, "ratio=0"),
        ({"stop_below": -1}, "stop_below=-1"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(fields: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Schedule(**fields)


def test_the_changes_by_name() -> None:
    def of(name: str) -> Recipe:
        return get_recipe(name)

    assert of("nvfp4:reset-oscillation").schedule == Schedule("reset")
    assert of("mxfp4-train:stop-sign+last-steps").schedule == Schedule(stop_below=math.sqrt(3), last=0.1)
    assert of("nvfp4-train:ue5m3").weight == "fp4-ue5m3-16x16"
    assert of("nvfp4-train:ue5m3").weight_gradient.right == "fp4-ue5m3"
    assert of("nvfp4-train:if4").gradient.format == "if4-row" and of("nvfp4-train:if4").gradient.stochastic
    assert of("nvfp4-train:ms-eden").gradient.eden and of("nvfp4-train:split-mean").weight_gradient.split_mean
    assert of("nvfp4-train:hadamard-64").weight_gradient.hadamard == 64
    assert of("nvfp4-train:four-over-six-activations-mae-448").activation.format == "nvfp4-row-4over6-mae-448"
    assert of("fp8-train:no-promotion").promote == 0
    for name, match in (
        ("fp32:last-steps", "quantizes nothing"), ("mxfp4-train:if4", "not mxfp4-rceil"),
        ("nvfp4:ms-eden", "float32"), ("mxfp4-train:ms-eden", "gradients in NVFP4"),
        ("nvfp4-train:no-promotion", "promotes no partial sums"), ("nvfp4:four-over-six-activations", "not float32"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=match):
            of(name)
