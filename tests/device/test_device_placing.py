"""Placing, releasing, placing again; and what cannot be placed."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.device import RECIPES, Device, place, release
from vbw_np.engine import Parameter, Tensor, autograd, nn, optim

ENOUGH = {"fp32": 1e-6, "seed-v6": 0.2, "nvfp4-boh": 0.2}


def step(model, optimizer, ids) -> float:
    optimizer.zero_grad()
    loss = model.loss(ids)
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_placing_and_releasing_change_nothing(recipe: str, model, ids) -> None:
    optimizer = optim.Adam(model.parameters())
    step(model, optimizer, ids)
    model.eval()
    names = list(model.state_dict())
    parameters = dict(model.named_parameters())
    values = {name: parameter.data.copy() for name, parameter in parameters.items()}
    versions = {name: parameter.version for name, parameter in parameters.items()}
    moments = {i: {n: np.copy(v) for n, v in state.items()} for i, state in optimizer.state.items()}
    loss = model.loss(ids).item()
    for _ in range(2):
        device = place(model, recipe)
        placed = model.loss(ids).item()
        assert abs(placed - loss) <= ENOUGH.get(recipe, 0.5)
        assert len(device.cards) == 62
        release(model)
        assert device.cards == {} and device.decode_cache.bytes == 0
        assert model.loss(ids).item() == loss
    assert list(model.state_dict()) == names
    assert all(after is parameters[name] for name, after in model.named_parameters())
    for name, parameter in parameters.items():
        assert parameter.host is None and parameter.version == versions[name]
        np.testing.assert_array_equal(parameter.data, values[name])
    for index, state in moments.items():
        for name, value in state.items():
            np.testing.assert_array_equal(optimizer.state[index][name], value)


def test_training_goes_on_across_placing(model, ids) -> None:
    """The master weights and the optimizer are the same objects, so what a card learns the released model keeps."""
    optimizer = optim.Adam(model.parameters())
    place(model, "nvfp4")
    losses = [step(model, optimizer, ids) for _ in range(8)]
    release(model)
    losses += [step(model, optimizer, ids) for _ in range(2)]
    assert losses[-1] < losses[0] - 0.5


def test_the_cards_are_the_reports_62_in_its_order(model) -> None:
    lines: list[str] = []
    place(model, "nvfp4", log=lines.append)
    assert len(lines) == 62
    assert lines[0] == "placed encoder.image_proj (1024 -> 16)"
    assert lines[2] == "placed blocks.0.attn.W_q (16 -> 16)"
    assert lines[-1] == "placed output_head (16 -> 53)"


def test_select_by_pattern_by_size_and_by_predicate(model) -> None:
    def names(select) -> list[str]:
        device = place(model, "nvfp4", select=select)
        found = list(device.cards)
        release(model)
        return found

    assert names("blocks.1.ffn.*") == [f"blocks.1.ffn.experts.{i}.{j}" for i in range(4) for j in (0, 2)] + [
        "blocks.1.ffn.gate"
    ]
    assert names(["*.W_q", "output_head"]) == [*(f"blocks.{i}.attn.W_q" for i in range(3)), "output_head"]
    assert names(lambda name, weight: weight.shape[0] == 53) == ["output_head"]
    packed = names("all")
    assert len(packed) == 62 + 2 * 3
    assert "blocks.1.reflection.shortest_path_reflection.path_encoder.weight_ih_l0" in packed
    assert "blocks.2.reflection.shortest_path_reflection.path_attn.in_proj_weight" in packed
    with pytest.raises(ValueError, match="nothing in this Claude4 matches select='large'; there are 62 matrices"):
        names("large")


def test_large_are_weights_of_65536_entries() -> None:
    layers = nn.Sequential(nn.Linear(256, 256, rng=0), nn.Linear(256, 255, rng=0))
    assert list(place(layers, "nvfp4", select="large").cards) == ["0"]


def test_packed_weights_compute_on_their_cards(model, ids) -> None:
    device = place(model, "nvfp4", select="all")
    model.loss(ids).backward()
    gru = device.cards["blocks.1.reflection.shortest_path_reflection.path_encoder.weight_hh_l0"]
    assert gru.statistics.computes == 5  # one step for each of the five nearest tokens
    assert gru.parameter.grad is not None
    in_projection = device.cards["blocks.1.reflection.shortest_path_reflection.path_attn.in_proj_weight"]
    assert in_projection.statistics.computes == 2


def test_a_weight_that_two_layers_share_has_one_card() -> None:
    layers = nn.Sequential(nn.Linear(32, 32, rng=0), nn.Linear(32, 32, rng=1))
    layers[1].weight = layers[0].weight
    device = place(layers, "nvfp4")
    assert list(device.cards) == ["0"]
    layers(Tensor(np.ones((1, 32), np.float32)))
    assert (device.statistics.computes, device.statistics.decodes) == (2, 1)


def test_a_model_without_a_matching_layer() -> None:
    with pytest.raises(ValueError, match=r"nothing in this Sequential matches select='decoder\.\*'; there are 1 matr"):
        place(nn.Sequential(nn.Linear(4, 4, rng=0)), "nvfp4", select="decoder.*")
    with pytest.raises(ValueError, match="it has no matrices"):
        place(nn.LayerNorm(4), "nvfp4")


def test_a_layer_placed_twice(model) -> None:
    device = place(model, "nvfp4", select="blocks.0.*")
    with pytest.raises(ValueError, match=r"placed already: blocks\.0\.attn\.W_q.*release"):
        place(model, "mxfp4")
    with pytest.raises(ValueError, match="placed already"):
        device.place(model, "blocks.0.ffn.*")
    cards = {p.host for p in model.parameters() if p.host is not None}
    assert cards == set(device.cards.values()), "a refused placing places nothing"
    assert len(device.place(model, "blocks.1.ffn.*")) == 9, "other layers of the model may follow"


def test_a_device_holds_one_model(make_model) -> None:
    device = place(make_model(), "nvfp4")
    with pytest.raises(ValueError, match="this device holds the 62 cards of another model"):
        device.place(make_model())


def test_a_card_whose_parameter_was_replaced(model, ids) -> None:
    device = place(model, "nvfp4")
    model.blocks[0].attn.W_q.weight = Parameter(np.zeros((16, 16), np.float32))
    for act in (device.check, device.report, device.state_dict, lambda: device.step(model, ids)):
        with pytest.raises(RuntimeError, match=r"blocks\.0\.attn\.W_q were replaced after placing.*assign"):
            act()
    assert device.recorder is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "train"}, "there is no mode 'train'; the modes are: training, inference"),
        ({"refresh_interval": 0}, "at least 1, not 0"),
        ({"refresh_interval": 2.5}, "at least 1, not 2.5"),
        ({"recipe": "nvfp4-boh", "error_budget": 0}, "positive number, not 0"),
        ({"recipe": "nvfp4", "error_budget": 0.01}, "recipe nvfp4 chooses no tiers by an error budget.*nvfp4-boh"),
        ({"recipe": "nvpf4"}, "there is no recipe 'nvpf4'; did you mean nvfp4"),
        ({"compute": "tensor"}, "there is no way to compute 'tensor'"),
        ({"cache_bytes": -5}, "number of bytes, not -5"),
    ],
)
def test_options_that_mean_nothing(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Device(**options)


def test_a_recipe_with_a_change_is_a_recipe_everywhere() -> None:
    device = place(nn.Linear(32, 16, rng=0), "nvfp4-train:no-sr+blackwell-sums")
    assert device.recipe.accumulate == "blackwell" and not device.recipe.gradient.stochastic
    with pytest.raises(ValueError, match="no change of a recipe 'no-st'; did you mean no-sr"):
        place(nn.Linear(32, 16, rng=0), "nvfp4-train:no-st")


def test_float64_models_compute_with_the_decoded_weight() -> None:
    layer = nn.Linear(32, 16, rng=0, dtype=np.float64)
    device = place(layer, "nvfp4")
    x = Tensor(np.random.default_rng(0).normal(size=(3, 32)), requires_grad=True)
    y = layer(x)
    assert y.dtype == np.float64
    (card,) = device.cards.values()
    np.testing.assert_allclose(y.data, x.data @ card.packed.dequantize().T + layer.bias.data, rtol=1e-12)
    y.sum().backward()
    assert layer.weight.grad.dtype == np.float64


@pytest.mark.parametrize(("recipe", "compute"), [("nvfp4-train", "auto"), ("nvfp4", "fp4"), ("mxfp4", "packed")])
def test_fp4_operands_are_made_of_float32(recipe: str, compute: str) -> None:
    layer = nn.Linear(32, 16, rng=0, dtype=np.float64)
    with pytest.raises(ValueError, match=r"linear is float64, and FP4 products are made of float32.*dtype=np\.float32"):
        place(layer, recipe, compute=compute)
    assert layer.weight.host is None


def test_gradients_pass_straight_through(layer: nn.Linear) -> None:
    """x sees the decoded weight; the master gets the gradient as if there were no rounding."""
    device = place(layer, "nvfp4")
    rng = np.random.default_rng(0)
    x = Tensor(rng.normal(size=(7, 64)).astype(np.float32), requires_grad=True)
    g = rng.normal(size=(7, 48)).astype(np.float32)
    layer(x).backward(g)
    (card,) = device.cards.values()
    np.testing.assert_array_equal(x.grad, g @ card.packed.dequantize())
    np.testing.assert_allclose(layer.weight.grad, g.T @ x.data, rtol=1e-5, atol=1e-5)
    assert autograd.is_grad_enabled()


def test_row_max_gradient_reaches_one_weight_a_row(layer: nn.Linear) -> None:
    """The original's rule: 1 of 256 weights is 0.39%."""
    import dataclasses

    broken = dataclasses.replace(RECIPES["nvfp4"], name="broken", gradient_rule="row-max")
    device = place(layer, broken)
    layer(Tensor(np.ones((3, 64), np.float32))).sum().backward()
    assert (np.count_nonzero(layer.weight.grad, axis=1) == 1).all()
    (card,) = device.cards.values()
    residual = np.abs(layer.weight.data - card.packed.coarse().dequantize())
    np.testing.assert_array_equal(np.nonzero(layer.weight.grad)[1], residual.argmax(axis=1))
