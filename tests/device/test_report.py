"""The report: what it says is what is so, in text, HTML and JSON."""

from __future__ import annotations

import html.parser
import json
import math
from pathlib import Path

import numpy as np
import pytest

from vbw_np.device import place
from vbw_np.device.report import error_histogram
from vbw_np.engine import Tensor, nn, no_grad, optim
from vbw_np.formats import quantize


def strict_json(text: str) -> dict:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def two_layers() -> nn.Sequential:
    """A smooth weight that meets a budget of 0.1 in the coarse tier, and a rough one that does not."""
    layers = nn.Sequential(nn.Linear(64, 32, rng=0), nn.Linear(32, 64, rng=1), nn.Linear(64, 8, rng=2))
    layers[0].weight.assign(np.where(np.arange(64) % 2, 1.0, -0.5) * np.ones((32, 1)))
    layers[1].weight.assign(np.random.default_rng(0).normal(size=(64, 32)) ** 3)
    return layers


def test_cards_tiers_and_what_they_saved_and_cost() -> None:
    layers = two_layers()
    device = place(layers, "nvfp4-boh", error_budget=0.08)
    with no_grad():
        for _ in range(2):
            layers[1](layers[0](Tensor(np.ones((1, 64), np.float32))))
    data = strict_json(device.report().as_json())
    first, second, third = data["cards"]
    assert (first["planes"], third["computes"], data["idle"]) == (0, 0, ["2"])
    assert second["planes"] > 0
    assert data["tiers"]["coarse_only"] == ["0"]
    assert data["tiers"]["with_fine_tier"] == {"1": second["planes"]}
    whole = quantize(layers[0].weight.data, "nvfp4-nested")
    saved_on_second = 64 * 16 - second["planes"] * 64 * 4
    assert first["fine_bytes_saved"] == 32 * 32
    assert second["fine_bytes_saved"] == saved_on_second
    assert data["tiers"]["fine_bytes_saved"] == 32 * 32 + saved_on_second
    weight = layers[0].weight.data.astype(np.float64)
    for planes, key in ((0, "relative_error"), (0, "coarse_error"), (4, "error_with_all_tiers")):
        error = np.linalg.norm(weight - whole.dequantize(planes=planes)) / np.linalg.norm(weight)
        assert first[key] == pytest.approx(error, rel=1e-9)
    assert data["tiers"]["coarse_only_error"] == first["relative_error"]
    assert data["link"]["fine_bytes"] == second["fine_bytes"]
    assert third["relative_error"] is None and third["bits_per_value"] == 32
    text = str(device.report())
    assert "1 cards ran on the coarse tier alone, 1 with planes of the fine one" in text
    assert "idle: 2" in text
    assert "(nvfp4-nested)" in text, "an idle card has packed nothing yet"


def test_errors_are_those_of_the_weight_as_it_is_now(layer: nn.Linear) -> None:
    """The optimizer moves the weight after its last use; the report packs it again, under the card's own scales."""
    device = place(layer, "nvfp4")
    layer(Tensor(np.ones((1, 64), np.float32)))
    scales = quantize(layer.weight.data, "nvfp4")
    layer.weight.assign(layer.weight.data * 1.4)
    (card,) = device.report().as_dict()["cards"]
    now = quantize(layer.weight.data, "nvfp4", reuse=scales).dequantize()
    weight = layer.weight.data.astype(np.float64)
    error = np.linalg.norm(weight - now) / np.linalg.norm(weight)
    assert card["relative_error"] == pytest.approx(error, rel=1e-9)
    assert card["sqnr_db"] == pytest.approx(-20 * math.log10(error), rel=1e-9)


def test_a_report_counts_for_nothing(model, ids) -> None:
    device = place(model, "nvfp4-boh")
    optimizer = optim.Adam(model.parameters())
    model.loss(ids).backward()
    optimizer.step()
    before, state = device.statistics, device.state_dict()
    str(device.report())
    assert device.statistics == before
    np.testing.assert_equal(device.state_dict(), state)


@pytest.mark.parametrize("recipe", ["fp32", "seed-v6", "nvfp4-boh", "mxfp4-train"])
def test_text_html_and_json_of_all_recipes(recipe: str, model, ids, tmp_path: Path) -> None:
    device = place(model, recipe)
    model.loss(ids)
    report = device.report()
    text = str(report)
    assert all(name in text for name in device.cards)
    assert "computes 56" in text
    page = report.as_html()
    tags: list[str] = []

    class Balance(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            if tag != "meta":
                tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert tags.pop() == tag

    Balance().feed(page)
    assert tags == []
    assert report._repr_html_() in page
    for suffix, content in ((".json", report.as_json()), (".html", page), (".txt", text + "\n")):
        report.save(tmp_path / f"report{suffix}")
        assert (tmp_path / f"report{suffix}").read_text("utf-8") == content
    data = strict_json(report.as_json())
    assert data["totals"]["computes"] == 56
    assert sum(bin_["cards"] for bin_ in data["error_histogram"]) == (0 if recipe == "fp32" else 56)


def test_a_report_is_written_in_three_ways_only(layer: nn.Linear, tmp_path: Path) -> None:
    report = place(layer, "nvfp4").report()
    with pytest.raises(ValueError, match=r"written as \.json, \.html, \.txt; .*'\.pdf'"):
        report.save(tmp_path / "report.pdf")


def test_names_are_escaped() -> None:
    layers = nn.Sequential()
    setattr(layers, "<b>", nn.Linear(4, 4, rng=0))
    page = place(layers, "nvfp4").report()._repr_html_()
    assert "<td>&lt;b&gt;</td>" in page and "<td><b>" not in page


def test_the_histogram_counts_every_card_once_in_bins_of_one_decibel() -> None:
    errors = [0.1, 0.1 * 0.999, 0.0562, 0.0]  # 20 dB is the lower edge of its bin
    bins = error_histogram(errors)
    assert [(b["sqnr_db"], b["cards"]) for b in bins] == [([20, 21], 2), ([25, 26], 1), (None, 1)]
    low, high = bins[0]["relative_error"]
    assert low < 0.0999 and high == pytest.approx(0.1)
    assert error_histogram([]) == []


def test_a_weight_of_zeros_is_exact_and_still_json(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4")
    layer.weight.assign(np.zeros((48, 64)))
    layer(Tensor(np.ones((1, 64), np.float32)))
    (card,) = strict_json(device.report().as_json())["cards"]
    assert card["relative_error"] == 0 and card["sqnr_db"] is None
    assert "exact" in str(device.report())


def test_dropped_masters_leave_nothing_to_measure_against(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4", mode="inference")
    device.drop_masters()
    (card,) = strict_json(device.report().as_json())["cards"]
    assert card["relative_error"] is None and card["master_dropped"]
    assert card["bytes"] == 48 * 32 + 48 * 4 + 8
