"""A causal model cannot see the answer: whatever comes after t, every bit of the logits up to t stays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.device import RECIPES, place
from vbw_np.engine import Tensor, no_grad
from vbw_np.models.claude4 import Claude4, Claude4Config, shift_tokens

LENGTH = 12
CONFIG = Claude4Config(
    vocab_size=61, d_model=32, heads=4, hidden=32, layers=3, rank=4, experts=2, dropout=0.1, causal=True
)


def logits(model: Claude4, ids: np.ndarray) -> np.ndarray:
    with no_grad(), model.evaluating():
        return model(ids).data


def build(recipe: str, refresh_interval: int = 100, **changes: object) -> Claude4:
    model = Claude4(dataclasses.replace(CONFIG, **changes), seed=3)
    for name, parameter in model.named_parameters():  # attention far from uniform, so that edges and paths matter
        if name.endswith(("W_q.weight", "W_k.weight")):
            parameter.assign(8 * parameter.data)
    place(model, recipe, refresh_interval=refresh_interval)
    return model


def leaks(model: Claude4) -> list[int]:
    """The positions t whose past changed when every token after t did."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, CONFIG.vocab_size, (2, LENGTH))
    before = logits(model, ids)
    found = []
    for t in range(LENGTH - 1):
        other = ids.copy()
        other[:, t + 1 :] = (ids[:, t + 1 :] + rng.integers(1, CONFIG.vocab_size, ids[:, t + 1 :].shape)) % 61
        after = logits(model, other)
        assert (after[:, t + 1 :] != before[:, t + 1 :]).any()  # the change is seen where it may be
        if before[:, : t + 1].tobytes() != after[:, : t + 1].tobytes():
            found.append(t)
    return found


@pytest.mark.parametrize(("token_shift", "refresh_interval"), [(False, 1), (True, 100)])
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_nothing_looks_ahead(recipe: str, token_shift: bool, refresh_interval: int) -> None:
    """Weights packed anew for every use, or once for all."""
    assert leaks(build(recipe, refresh_interval, token_shift=token_shift)) == []


def test_the_test_sees_a_model_that_does_look_ahead() -> None:
    assert leaks(build("fp32", causal=False))


def test_shift_tokens() -> None:
    x = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    shifted = shift_tokens(Tensor(x)).data
    assert (shifted[:, 0, :2] == 0).all() and (shifted[:, 1:, :2] == x[:, :-1, :2]).all()
    assert (shifted[..., 2:] == x[..., 2:]).all()
    assert (shift_tokens(Tensor(x[:, :1])).data == shifted[:, :1]).all()  # one token alone, as when generating


def test_a_shift_adds_no_parameters_and_is_off_by_default() -> None:
    assert not Claude4Config().token_shift
    plain, shifted = build("fp32"), build("fp32", token_shift=True)
    assert list(plain.state_dict()) == list(shifted.state_dict())
