"""Saved and loaded in the middle of training, a device goes on bit for bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from vbw_np.device import RECIPES, place
from vbw_np.engine import optim


def train(model, optimizer, ids, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(ids).backward()
        optimizer.step()


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_resuming_is_bit_exact(recipe: str, make_model, ids) -> None:
    """Saved after 4 uses, with scales refreshed every 3: the scales are old then, and must stay old."""
    model = make_model()
    device = place(model, recipe, refresh_interval=3, seed=11)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    train(model, optimizer, ids, 4)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), device.state_dict()))
    draws = model.generator.state_dict()
    train(model, optimizer, ids, 3)

    other = make_model(seed=99)
    again = place(other, recipe, refresh_interval=3, seed=11)
    continued = optim.Adam(other.parameters(), lr=1e-2)
    other.load_state_dict(saved[0])
    other.generator.load_state_dict(draws)
    continued.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    train(other, continued, ids, 3)

    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], value, err_msg=name)
    assert again.statistics == device.statistics
    assert again.link.coarse_bytes == device.link.coarse_bytes


def test_without_the_state_the_scales_would_be_others(make_model, ids) -> None:
    model = make_model()
    place(model, "nvfp4", refresh_interval=3)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    train(model, optimizer, ids, 4)
    saved = copy.deepcopy(model.state_dict())
    model.eval()
    loss = model.loss(ids).item()
    other = make_model(seed=99)
    place(other, "nvfp4", refresh_interval=3)
    other.load_state_dict(saved)
    other.eval()
    assert other.loss(ids).item() != loss


def test_loading_into_a_device_that_was_used(make_model, ids) -> None:
    """What its caches hold was packed under other scales, even where all version numbers and counts agree."""
    model, other = make_model().eval(), make_model().eval()
    device, used = place(model, "nvfp4"), place(other, "nvfp4")
    model.loss(ids)  # scales of the first weights
    for one, another in zip(model.parameters(), other.parameters()):
        values = one.data * 1.5
        one.assign(values)
        another.assign(values)
    loss = model.loss(ids).item()  # the second weights under the first ones' scales
    assert other.loss(ids).item() != loss
    used.load_state_dict(device.state_dict())
    assert other.loss(ids).item() == loss


def test_a_state_of_something_else(make_model, ids) -> None:
    device = place(make_model(), "nvfp4", select="blocks.0.*")
    state = device.state_dict()
    before = copy.deepcopy(state)
    wrong = {
        "recipe 'nvfp4', this one has 'mxfp4'": place(make_model(), "mxfp4", select="blocks.0.*"),
        "not of these cards: it lacks": place(make_model(), "nvfp4"),
        "and has .* besides": place(make_model(), "nvfp4", select="blocks.0.attn.*"),
    }
    for message, other in wrong.items():
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="version 7"):
        device.load_state_dict(state | {"version": 7})
    state["cards"]["blocks.0.attn.W_q"]["shape"] = [2, 2]
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.W_q: the state is of a weight of shape \(2, 2\)"):
        device.load_state_dict(state)
    assert device.state_dict().keys() == before.keys()
