"""Modes, and weights whose masters are gone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.device import Statistics, place
from vbw_np.engine import Tensor, nn, no_grad, optim
from vbw_np.models.claude4 import Claude4, Claude4Config

SMALL = Claude4Config(vocab_size=53, d_model=16, heads=4, hidden=32)


def ones() -> Tensor:
    return Tensor(np.ones((1, 64), np.float32))


def use_and_change(layer: nn.Linear, times: int) -> None:
    for _ in range(times):
        layer(ones())
        layer(ones())
        with layer.weight.mutate() as data:
            data *= 1.5


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("training", (1, 9, 0)), ("inference", (5, 5, 4)), ("precision", (5, 5, 4))],
)
def test_when_scales_are_computed_afresh(mode: str, expected: tuple[int, int, int], layer: nn.Linear) -> None:
    """Five weights, each used twice: training keeps its scales, the others make them at every change."""
    device = place(layer, "nvfp4", mode=mode)
    use_and_change(layer, 5)
    total = device.statistics
    assert (total.separations, total.hits, total.refreshes) == expected
    assert (total.computes, total.decodes) == (10, 5)


def test_old_scales_saturate_and_new_codes_follow(layer: nn.Linear) -> None:
    """In training the codes always follow the weight; the scales only at a refresh."""
    device = place(layer, "nvfp4", refresh_interval=2)
    (card,) = device.cards.values()
    layer(ones())
    first = card.packed
    layer.weight.assign(layer.weight.data * 8)
    layer(ones())
    np.testing.assert_array_equal(card.packed.scales, first.scales)
    assert not np.array_equal(card.packed.codes, first.codes)
    assert np.abs(card.packed.dequantize()).max() == np.abs(first.dequantize()).max()
    layer(ones())
    assert np.abs(card.packed.dequantize()).max() == pytest.approx(8 * np.abs(first.dequantize()).max(), rel=0.05)


def test_auto_follows_the_model(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4", mode="auto")
    assert device.mode_now() == "training"
    use_and_change(layer, 3)
    assert device.statistics.separations == 1
    layer.eval()
    assert device.mode_now() == "inference"
    use_and_change(layer, 3)
    assert device.statistics.separations == 1 + 3


def test_dropping_needs_inference(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4", mode="auto")
    with pytest.raises(RuntimeError, match="in mode 'inference' only, not 'training'"):
        device.drop_masters()
    assert device.dropped == []
    layer.eval()
    device.drop_masters()
    assert device.dropped == ["linear"]


@pytest.mark.parametrize("recipe", ["seed-v6", "fp4-row", "mxfp4", "nvfp4", "nvfp4-boh"])
def test_dropped_masters_change_no_output(recipe: str, ids) -> None:
    model = Claude4(dataclasses.replace(SMALL, route_out_proj=True))
    device = place(model, recipe, mode="inference")
    with no_grad(), model.evaluating():
        before = model(ids).data
        device.drop_masters()
        np.testing.assert_array_equal(model(ids).data, before)
        for card in device.cards.values():
            device.decode_cache.drop(card)
        np.testing.assert_array_equal(model(ids).data, before)
    assert np.isnan(model.output_head.weight.data).all()
    assert model.output_head.weight.shape == (53, 16)


def test_a_weight_that_was_read_past_its_card_goes_through_it_once_its_master_is_gone(model, ids) -> None:
    device = place(model, "nvfp4", mode="inference")
    names = [name for name in device.cards if name.endswith("out_proj")]
    with no_grad(), model.evaluating():
        model(ids)
        assert [device.cards[name].statistics.computes for name in names] == [0, 0]
        device.drop_masters()
        assert np.isfinite(model(ids).data).all()
    assert [device.cards[name].statistics.computes for name in names] == [1, 1]


class Tied(nn.Module):
    """A table of rows that is the head's weight as well."""

    def __init__(self) -> None:
        self.table = nn.Embedding(48, 32, rng=0)
        self.inside = nn.Linear(32, 32, rng=1)
        self.head = nn.Linear(32, 48, bias=False, rng=2)
        self.again = nn.Linear(32, 32, rng=3)
        self.head.weight, self.again.weight = self.table.weight, self.inside.weight

    def forward(self, ids: np.ndarray) -> Tensor:
        return self.head(self.again(self.inside(self.table(ids))))


def test_a_weight_that_another_kind_of_layer_reads_keeps_its_master() -> None:
    model, ids = Tied(), np.array([[0, 5, 47]])
    device = place(model, "nvfp4", mode="inference")
    with no_grad():
        before = model(ids).data
        assert device.drop_masters() == ["head"]
        assert device.dropped == ["inside"]  # two layers share it, and both go through its card
        np.testing.assert_array_equal(model(ids).data, before)
    assert np.isfinite(model.table.weight.data).all()


def test_a_mode_that_needs_a_dropped_master(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4-boh", mode="inference")
    device.drop_masters()
    for mode in ("training", "precision"):
        with pytest.raises(RuntimeError, match=f"mode '{mode}' needs the master weights.*restore_masters"):
            device.mode = mode
    assert device.mode == "inference"
    with pytest.raises(RuntimeError, match="no state to train on from"):
        device.state_dict()
    with pytest.raises(RuntimeError, match="restore_masters"):
        device.release()
    device.mode = "auto"
    layer.train()
    with pytest.raises(RuntimeError, match="card linear: its master weight was dropped.*'training'"):
        layer(ones())
    layer.eval()
    layer(ones())
    device.error_budget = 1e-3
    with pytest.raises(RuntimeError, match="with the tiers as they were agreed on"):
        layer(ones())


def test_restored_masters_train_on_from_the_decoded_weight(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4", mode="inference")
    (card,) = device.cards.values()
    device.drop_masters()
    decoded = card.packed.dequantize()
    device.restore_masters()
    np.testing.assert_array_equal(layer.weight.data, decoded)
    device.mode = "training"
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    layer(ones()).sum().backward()
    optimizer.step()
    assert not np.array_equal(layer.weight.data, decoded)
    device.release()


@pytest.mark.parametrize("recipe", ["nvfp4", "mxfp4-train", "nvfp4-train"])
def test_gradients_pass_through_a_dropped_weight_but_none_reaches_it(recipe: str, layer: nn.Linear) -> None:
    device = place(layer, recipe, mode="inference")
    device.drop_masters()
    x = Tensor(np.ones((2, 64), np.float32), requires_grad=True)
    layer(x).sum().backward()
    assert np.isfinite(x.grad).all() and np.abs(x.grad).max() > 0
    assert layer.weight.grad is None and layer.bias.grad is not None
    optim.AdamW(layer.parameters()).step()
    device.restore_masters()
    assert layer.weight.requires_grad


@pytest.mark.parametrize("compute", ["auto", "packed"])
def test_losses_of_few_tokens_are_evaluated_too(compute: str, model, ids) -> None:
    place(model, "nvfp4", mode="inference", compute=compute)
    with no_grad(), model.evaluating():
        few = model.loss(ids[:1, :6]).item()
    with model.evaluating():
        assert few == pytest.approx(model.loss(ids[:1, :6]).item(), abs=0.1)


def test_idle_cards_drop_their_masters_as_well(model) -> None:
    device = place(model, "nvfp4", mode="inference")
    device.drop_masters()
    assert len(device.dropped) == 62
    assert device.statistics == Statistics(separations=62)


def owned_bytes(array: np.ndarray) -> int:
    """Bytes of the memory that an array keeps alive, whatever part of it the array shows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.nbytes


def test_a_dropped_model_of_36_million_parameters_holds_4_6_bits_a_weight() -> None:
    model = Claude4()
    device = place(model, "nvfp4", mode="inference")
    device.drop_masters()
    held: dict[int, int] = {}
    for card in device.cards.values():
        values = [*vars(card.packed).values(), *vars(card.scales).values(), card.parameter.data]
        for value in values:
            if isinstance(value, np.ndarray | np.generic):
                base = value
                while isinstance(base, np.ndarray) and isinstance(base.base, np.ndarray):
                    base = base.base
                held[id(base)] = owned_bytes(value) if isinstance(value, np.ndarray) else value.nbytes
    weights = sum(card.parameter.size for card in device.cards.values())
    assert weights == 21_848_064
    assert 8 * sum(held.values()) / weights <= 4.6
    assert device.nbytes <= sum(held.values())
    assert 8 * device.nbytes / weights == pytest.approx(4.5, abs=0.01)
