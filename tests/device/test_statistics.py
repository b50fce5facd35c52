"""Every count against a closed form, and the seed report's totals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vbw_np.device import RECIPES, Statistics, place
from vbw_np.engine import Tensor, nn, no_grad, optim

SCALED = [name for name, recipe in RECIPES.items() if recipe.weight is not None]


def coarse_bytes(recipe: str, out: int, width: int) -> int:
    """Bytes of a coarse tier, from the formats' definitions: two codes a byte, and the scales."""
    codes = out * math.ceil(width / 2)
    return {
        "seed-v6": codes + out * math.ceil(width / 8) + 16 * 4,  # signs and codebook
        "fp4-row": codes + 4 * out,
        "mxfp4": codes + out * math.ceil(width / 32),
        "mxfp4-train": codes + out * math.ceil(width / 32),
        "nvfp4": codes + out * math.ceil(width / 16) + 4,
        "nvfp4-boh": codes + out * math.ceil(width / 16) + 4,
        "nvfp4-train": codes + out * math.ceil(width / 16) + 4,
        "fp8-train": out * width + 4 * out,
        "fp8-block-train": math.ceil(int(out * width * (8 + 32 / 128**2)) / 8),
    }[recipe]


def fine_bytes(recipe: str, planes: int, out: int, width: int) -> int:
    """Bytes of `planes` bit planes of a fine tier."""
    if recipe == "seed-v6":
        return out * math.ceil(width / 2) + 4 * out  # a scale a row
    return {0: 0, 4: out * math.ceil(width / 2)}.get(planes, planes * out * math.ceil(width / 8))


def train(model, ids: np.ndarray, batches: int) -> None:
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(batches):
        optimizer.zero_grad()
        model.loss(ids).backward()
        optimizer.step()


@pytest.mark.parametrize("recipe", SCALED)
def test_the_seed_reports_totals(recipe: str, model, ids) -> None:
    device = place(model, recipe)
    train(model, ids, 20)
    total = device.statistics
    assert len(device.cards) == 62
    assert (total.computes, total.hits, total.separations, total.refreshes) == (1120, 1064, 56, 0)
    assert total.hit_rate == 0.95
    assert device.idle == [
        "encoder.image_proj",
        "encoder.audio_proj",
        "blocks.1.reflection.connectivity_analyzer.connectivity_proj",
        "blocks.1.reflection.shortest_path_reflection.path_attn.out_proj",
        "blocks.2.reflection.connectivity_analyzer.connectivity_proj",
        "blocks.2.reflection.shortest_path_reflection.path_attn.out_proj",
    ]
    # Every batch has a new weight, so each of them is laid out and carried once.
    assert (total.decodes, total.decode_hits, total.handshakes) == (1120, 0, 1120)
    shapes = {name: card.parameter.shape for name, card in device.cards.items() if name not in device.idle}
    assert device.link.coarse_bytes == sum(20 * coarse_bytes(recipe, *shape) for shape in shapes.values())
    fine = {name: fine_bytes(recipe, device.cards[name].planes, *shape) for name, shape in shapes.items()}
    assert device.link.fine_bytes == 20 * sum(fine.values())
    assert (total.coarse_bytes, total.fine_bytes) == (device.link.coarse_bytes, device.link.fine_bytes)
    assert device.link.handshakes == total.handshakes
    card = device.cards["blocks.0.attn.W_q"]
    assert (card.statistics.computes, card.statistics.hits, card.statistics.refreshes) == (20, 19, 0)


def test_full_precision_counts_its_computes_and_nothing_else(model, ids) -> None:
    device = place(model, "fp32")
    train(model, ids, 2)
    assert device.statistics == Statistics(computes=112)
    assert device.nbytes == sum(4 * card.parameter.size for card in device.cards.values())


@pytest.mark.parametrize("interval", [1, 7, 100])
@pytest.mark.parametrize("uses", [1, 7, 8, 100, 101, 215])
def test_scale_cache_follows_the_closed_form(interval: int, uses: int, layer: nn.Linear) -> None:
    """n uses, interval R: ceil(n / R) separations, n less that many hits, one refresh less than separations."""
    device = place(layer, "nvfp4", refresh_interval=interval)
    x = Tensor(np.ones((1, 64), np.float32))
    for _ in range(uses):
        with layer.weight.mutate():
            pass
        layer(x)
    separations = math.ceil(uses / interval)
    assert device.statistics == Statistics(
        computes=uses,
        hits=uses - separations,
        separations=separations,
        refreshes=separations - 1,
        decodes=uses,
        handshakes=uses,
        coarse_bytes=uses * coarse_bytes("nvfp4", 48, 64),
    )


@pytest.mark.parametrize("recipe", SCALED)
@pytest.mark.parametrize("shape", [(48, 64), (5, 37), (1, 16), (33, 1)])
def test_packed_bytes_are_the_formats(recipe: str, shape: tuple[int, int]) -> None:
    out, width = shape
    layer = nn.Linear(width, out, rng=0)
    device = place(layer, recipe)
    layer(Tensor(np.ones((1, width), np.float32)))
    (card,) = device.cards.values()
    expected = coarse_bytes(recipe, out, width) + fine_bytes(recipe, card.planes, out, width)
    assert card.packed.nbytes == expected
    arrays = {id(a): a for a in vars(card.packed).values() if isinstance(a, np.ndarray | np.generic)}
    assert card.nbytes == device.nbytes == sum(array.nbytes for array in arrays.values())


def test_evaluation_counts_too_and_repeats_decode_nothing(model, ids) -> None:
    device = place(model, "nvfp4", mode="inference")
    with no_grad(), model.evaluating():
        for _ in range(5):
            model(ids)
    total = device.statistics
    assert (total.computes, total.separations, total.hits) == (280, 56, 224)
    assert (total.decodes, total.decode_hits, total.handshakes) == (56, 224, 56)


def test_accumulating_gradients_over_micro_batches_decodes_once(model, ids) -> None:
    device = place(model, "nvfp4")
    optimizer = optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(4):
            model.loss(ids).backward()
        optimizer.step()
    total = device.statistics
    assert (total.computes, total.decodes, total.decode_hits) == (3 * 4 * 56, 3 * 56, 3 * 3 * 56)


def test_statistics_add_up() -> None:
    one = Statistics(computes=3, hits=2, separations=1, coarse_bytes=10)
    assert one + Statistics(computes=1, fine_bytes=5) == Statistics(
        computes=4, hits=2, separations=1, coarse_bytes=10, fine_bytes=5
    )
    assert one.as_dict()["hits"] == 2
    assert Statistics().hit_rate == 0
