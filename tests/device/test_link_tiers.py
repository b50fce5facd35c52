"""Tiers: what the handshake negotiates, what travels, and what it is worth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.device import RECIPES, Link, Recipe, place
from vbw_np.engine import Tensor, nn
from vbw_np.formats import quantize


def ones(width: int = 64) -> Tensor:
    return Tensor(np.ones((1, width), np.float32))


def errors_by_planes(weight: np.ndarray) -> list[float]:
    """Relative RMS error of the nested format with 0 to 4 planes, straight from its definition."""
    packed = quantize(weight, "nvfp4-nested")
    exact = weight.astype(np.float64)
    return [float(np.linalg.norm(exact - packed.dequantize(planes=p)) / np.linalg.norm(exact)) for p in range(5)]


@pytest.fixture
def gaussian() -> nn.Linear:
    layer = nn.Linear(256, 128, bias=False, rng=0)
    layer.weight.assign(np.random.default_rng(7).normal(size=(128, 256)))
    return layer


def test_each_plane_is_worth_about_six_decibels(gaussian: nn.Linear) -> None:
    """The ladder of 20.4, 26.9, 32.8, 38.7 and 44.8 dB on Gaussian weights."""
    decibels = [-20 * np.log10(error) for error in errors_by_planes(gaussian.weight.data)]
    np.testing.assert_allclose(decibels, [20.4, 26.9, 32.8, 38.7, 44.8], atol=0.3)


@pytest.mark.parametrize("planes", [0, 1, 2, 3, 4])
def test_the_budget_chooses_the_fewest_planes_that_meet_it(planes: int, gaussian: nn.Linear) -> None:
    ladder = errors_by_planes(gaussian.weight.data)
    device = place(gaussian, "nvfp4-boh", error_budget=ladder[planes] * 1.0001)
    y = gaussian(Tensor(np.eye(256, dtype=np.float32)))
    (card,) = device.cards.values()
    assert card.planes == planes
    assert card.coarse_error == pytest.approx(ladder[0], rel=1e-6)
    assert card.error == pytest.approx(ladder[planes], rel=1e-6)
    expected = quantize(gaussian.weight.data, "nvfp4-nested").dequantize(planes=planes)
    np.testing.assert_array_equal(y.data.T, expected)
    assert device.link.fine_bytes == {0: 0, 4: 128 * 128}.get(planes, planes * 128 * 32)
    assert device.link.coarse_bytes == 128 * 128 + 128 * 16 + 4


def test_a_budget_below_the_formats_floor(gaussian: nn.Linear) -> None:
    floor = errors_by_planes(gaussian.weight.data)[4]
    device = place(gaussian, "nvfp4-boh", error_budget=floor * 0.99)
    (card,) = device.cards.values()
    for _ in range(2):  # nothing half-made is left behind that a second try would compute with
        with pytest.raises(ValueError, match=f"card linear: .* reaches with all its tiers .{floor:.3g}"):
            gaussian(ones(256))
        assert card.packed is None and card.planes == 0
        assert card.statistics.separations == card.statistics.decodes == device.link.handshakes == 0
    device.error_budget = floor * 1.01
    gaussian(ones(256))
    assert card.planes == 4


def test_another_budget_is_negotiated_at_once(gaussian: nn.Linear) -> None:
    device = place(gaussian, "nvfp4-boh", error_budget=0.2)
    (card,) = device.cards.values()
    planes = []
    for budget in (0.2, 0.03, 0.03, 0.2):
        device.error_budget = budget
        gaussian(ones(256))
        planes.append(card.planes)
    assert planes == [0, 2, 2, 0]
    assert card.statistics.separations == 3


def test_without_boh_the_coarse_tier_travels_alone_and_without_a_word(gaussian: nn.Linear) -> None:
    ladder = errors_by_planes(gaussian.weight.data)
    device = place(gaussian, "nvfp4-boh", error_budget=0.01, boh=False)
    gaussian(ones(256))
    (card,) = device.cards.values()
    assert (card.planes, device.link.handshakes, device.link.fine_bytes) == (0, 0, 0)
    assert device.report().as_dict()["cards"][0]["relative_error"] == pytest.approx(ladder[0], rel=1e-6)
    assert card.packed.fine is None


def test_the_seeds_fine_tier_is_always_asked_for_unless_boh_is_off(gaussian: nn.Linear) -> None:
    """About 4.7% relative error on Gaussian weights (26.6 dB) at over 9 bits."""
    errors = {}
    for boh in (True, False):
        device = place(gaussian, "seed-v6", boh=boh)
        gaussian(ones(256))
        errors[boh] = device.report().as_dict()["cards"][0]["relative_error"]
        device.release()
    assert errors[True] == pytest.approx(0.047, abs=0.003)
    assert errors[False] > 2 * errors[True]


def test_precision_mode_asks_for_everything(gaussian: nn.Linear) -> None:
    device = place(gaussian, "nvfp4-boh", error_budget=0.5, mode="precision")
    gaussian(ones(256))
    (card,) = device.cards.values()
    assert card.planes == 4
    np.testing.assert_array_equal(card.packed.dequantize(), quantize(gaussian.weight.data, "nvfp4-nested").dequantize())


def test_precision_mode_asks_even_where_the_recipe_never_does(gaussian: nn.Linear) -> None:
    quiet = dataclasses.replace(RECIPES["nvfp4-boh"], name="quiet", fine="never")
    device = place(gaussian, quiet)
    (card,) = device.cards.values()
    gaussian(ones(256))
    assert card.planes == 0
    device.mode = "precision"
    gaussian(ones(256))
    assert card.planes == 4
    device.mode = "training"
    gaussian(ones(256))
    assert card.planes == 0


def test_errors_are_measured_where_they_decide_or_somebody_watches(gaussian: nn.Linear) -> None:
    """Measuring costs a decode of every weight, so a training step does not do it for nothing."""
    device = place(gaussian, "nvfp4", refresh_interval=1)
    (card,) = device.cards.values()
    gaussian(ones(256))
    assert card.error is card.coarse_error is None
    device.step(gaussian, ones(256))
    assert card.error == card.coarse_error == pytest.approx(0.0955, abs=0.001)


@pytest.mark.parametrize("fine", ["tied", "own"])
def test_tiers_that_are_not_nested_travel_whole(fine: str, gaussian: nn.Linear) -> None:
    weight = f"nvfp4-{fine}7" if fine == "tied" else "nvfp4-own"
    device = place(gaussian, Recipe("mine", weight, "", fine="budget", error_budget=0.05))
    gaussian(ones(256))
    (card,) = device.cards.values()
    assert card.planes == 4
    assert card.error < 0.02
    assert device.link.fine_bytes == 128 * 128 + (4 * 128 * 16 if fine == "own" else 0)


def test_a_tier_that_nobody_asks_for_is_not_made(gaussian: nn.Linear) -> None:
    device = place(gaussian, "nvfp4-boh", error_budget=0.2)
    gaussian(ones(256))
    (card,) = device.cards.values()
    assert card.packed.fine is None
    assert 8 * card.nbytes / card.parameter.size < 4.51
    whole = quantize(gaussian.weight.data, "nvfp4-nested")
    np.testing.assert_array_equal(card.packed.codes, whole.codes)
    np.testing.assert_array_equal(card.packed.scales, whole.scales)


def test_the_handshake_names_both_ends_and_all_sizes() -> None:
    link = Link()
    whole = quantize(np.ones((8, 32), np.float32), "nvfp4-nested")
    agreed = link.handshake("head", whole.with_planes(2), offered_planes=4)
    assert (agreed.sender, agreed.receiver) == ("head", "compute unit")
    assert (agreed.coarse_bytes, agreed.fine_bytes) == (8 * 16 + 8 * 2 + 4, 2 * 8 * 4)
    assert (agreed.offered_planes, agreed.planes) == (4, 2)
    assert (link.handshakes, link.coarse_bytes) == (1, 0), "a handshake moves nothing"
    link.carry(coarse_bytes=agreed.coarse_bytes)
    link.carry(fine_bytes=agreed.fine_bytes)
    assert (link.coarse_bytes, link.fine_bytes) == (148, 64)


# -- recipes as data


def test_a_recipe_of_ones_own(model, ids) -> None:
    mine = dataclasses.replace(RECIPES["nvfp4"], name="mine", keep=("*.ffn.gate", "output_head"))
    device = place(model, mine)
    model.loss(ids).backward()
    kept = [name for name, card in device.cards.items() if card.format is None]
    assert kept == [*(f"blocks.{i}.ffn.gate" for i in range(3)), "output_head"]
    assert device.statistics.separations == 52
    assert device.cards["output_head"].statistics.computes == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": "nvfp5"}, "nvfp5"),
        ({"weight": "nvfp4-nested", "fine": "sometimes"}, "fine is one of never, budget, always"),
        ({"fine": "always"}, "format nvfp4 has no fine tier"),
        ({"error_budget": 0.0}, "positive number"),
        ({"gradient_rule": "none"}, "gradient_rule is one of"),
    ],
)
def test_a_recipe_that_cannot_be(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPES["nvfp4"], **change)


def test_full_precision_has_no_fp4_products() -> None:
    with pytest.raises(ValueError, match="FP4 products need an FP4 weight"):
        dataclasses.replace(RECIPES["nvfp4-train"], weight=None)
