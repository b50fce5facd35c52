"""Massive activations: found where they were put, explained in their block, and taken away."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.engine import no_grad
from vbw_np.models.llama import Llama
from vbw_np.ptq import activations_at, explain_activation, massive, silenced, without
from vbw_np.ptq.activations import Activation, places_of
from vbw_np.ptq.errors import CalibrationError

PLACE = "model.layers.1.mlp.down_proj"


@pytest.fixture
def loud(llama: Llama) -> Llama:
    """One channel of the last down_proj's input is a thousand times what it was."""
    up = llama.model.layers[1].mlp.up_proj.weight
    up.assign(up.data * np.where(np.arange(64) == 37, 1000, 1)[:, None])
    return llama


def inputs_by_hand(model: Llama, ids: np.ndarray) -> np.ndarray:
    """What flows into the last down_proj, computed from the layers themselves."""
    with no_grad():
        first, last = model.model.layers
        tables, x = model.model.tables(0, len(ids)), model.model.embed_tokens(ids[None])
        x = first(x, tables)
        x = x + last.self_attn(last.input_layernorm(x), tables)
        normal = last.post_attention_layernorm(x)
        gate, up = last.mlp.gate_proj(normal).data[0], last.mlp.up_proj(normal).data[0]
    return gate / (1 + np.exp(-gate)) * up


def test_it_is_found_where_it_was_put(loud: Llama, windows: np.ndarray) -> None:
    ids = windows[0]
    found, exact = massive(loud, ids), inputs_by_hand(loud, ids)
    assert len(found) == len(places_of(loud)) == 2 * 5
    first = next(each for each in found if each.place == PLACE)
    at = np.unravel_index(np.abs(exact).argmax(), exact.shape)
    assert (first.token, first.channel) == at and at[1] == 37
    np.testing.assert_allclose(first.value, exact[at], rtol=1e-5)
    np.testing.assert_allclose(first.usual, np.median(np.abs(exact).max(axis=1)), rtol=1e-5)
    assert [each.times for each in found] == sorted((each.times for each in found), reverse=True)
    np.testing.assert_allclose(activations_at(loud, ids, PLACE), exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())
    assert not any("forward" in vars(module) for module in loud.modules())  # everything is as it was


def test_what_its_block_lost() -> None:
    """int4 with one scale a row, by hand: scale 70 / 7 = 10, so all below 5 become zero."""
    x = np.array([[70, 1, -2, 4, 6, 0, 3, 1]], np.float32)
    told = explain_activation(x, Activation("a place", 0, 0, 70.0, 3.5), "int4-row")
    assert told.data["became_zero"] == 5 and told.data["others"] == 7 and told.data["usual"] == 3.5
    squares, errors = 1 + 4 + 16 + 36 + 9 + 1, 1 + 4 + 16 + 16 + 9 + 1
    assert told.data["error_of_others"] == pytest.approx(errors / squares)
    assert told.data["usual_error"] == pytest.approx(errors / (squares + 4900))
    assert "5 of 7" in str(told) and "20 times" in str(told)


def test_only_the_numbers_of_its_block_pay_in_nvfp4() -> None:
    x = np.ones((3, 40), np.float32)
    x[1, 20] = 2000
    told = explain_activation(x, Activation("a place", 1, 20, 2000.0, 1.0), "nvfp4-row-scaled")
    assert told.data["became_zero"] == 15 and told.data["usual_error"] == pytest.approx(0, abs=1e-3)
    assert "channels 16 to 31" in str(told)


@pytest.mark.parametrize("place", ["model.layers.0", "model.layers.1.self_attn.q_proj", PLACE])
def test_without_it(place: str, loud: Llama, windows: np.ndarray) -> None:
    ids = windows[0]
    target = next(each for each in massive(loud, ids) if each.place == place)
    with silenced(loud, target):
        behind = activations_at(loud, ids, "model.layers.1")
    assert np.abs(behind - activations_at(loud, ids, "model.layers.1")).max() > 0
    deleted = without(loud, ids, target)
    assert deleted.kl > 0 and deleted.without != deleted.perplexity
    with no_grad():
        logits = loud(ids[None]).data[0].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert deleted.perplexity == pytest.approx(np.exp(-logs[np.arange(31), ids[1:]].mean()), rel=1e-6)


def test_all_readers_of_an_input_lose_it(loud: Llama, windows: np.ndarray) -> None:
    """q, k and v share an input: with the number gone it is as if all three had a column of zeros."""
    target = Activation("model.layers.0.self_attn.q_proj", 0, 7, 1.0, 1.0)
    ids = windows[0, :1]
    with silenced(loud, target), no_grad():
        ours = loud(ids[None]).data
    for name in ("q_proj", "k_proj", "v_proj"):
        weight = getattr(loud.model.layers[0].self_attn, name).weight
        weight.assign(weight.data * (np.arange(48) != 7))
    with no_grad():
        np.testing.assert_allclose(ours, loud(ids[None]).data, rtol=1e-5, atol=1e-5)


def test_a_place_that_is_not_there(llama: Llama, windows: np.ndarray) -> None:
    with pytest.raises(CalibrationError, match="no place 'model.layers.7'; it has model.layers.0.self_attn.q_proj"):
        activations_at(llama, windows[0], "model.layers.7")
