"""Modules: names, state, switches, and the parts whose rules no other file tests."""

from __future__ import annotations

import numpy as np
import pytest

from autograd import Generator, Tensor, nn
from autograd import functional as F
from vbw_np import optim


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4, rng=0), nn.GELU(), nn.Dropout(0.5), nn.Linear(4, 2, rng=1))


def test_names_are_pytorchs() -> None:
    assert list(small().state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert [name for name, _ in small().named_modules()] == ["", "0", "1", "2", "3"]


def test_loading_names_every_problem_and_changes_nothing() -> None:
    model = small()
    before = {name: value.copy() for name, value in model.state_dict().items()}
    state = {"0.weight": np.ones((9, 9)), "0.bias": np.ones(4), "extra.key": np.ones(1), "3.bias": np.ones(2)}
    with pytest.raises(ValueError) as caught:
        model.load_state_dict(state)
    for part in ("missing: 3.weight", "unexpected: extra.key", "wrong shape: 0.weight (9, 9) for (4, 3)"):
        assert part in str(caught.value)
    for name, value in model.state_dict().items():
        assert (value == before[name]).all()


def test_loading_moves_versions() -> None:
    model = small()
    versions = [p.version for p in model.parameters()]
    model.load_state_dict({name: value.copy() for name, value in model.state_dict().items()})
    assert [p.version for p in model.parameters()] == [v + 1 for v in versions]


def test_train_eval_and_evaluating() -> None:
    model = small()
    model[2].training = False
    with model.evaluating():
        assert not any(module.training for module in model.modules())
    assert model.training and not model[2].training
    model.train()
    assert all(module.training for module in model.modules())


def test_dropout_draws_anew_and_repeats_from_a_saved_state() -> None:
    generator = Generator(7)
    layer = nn.Dropout(0.5, generator)
    x = Tensor(np.ones(64))
    state = generator.state_dict()
    first, second = layer(x).data, layer(x).data
    assert (first != second).any()
    generator.load_state_dict(state)
    assert (layer(x).data == first).all()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: nn.Linear(0, 3), "in_features must be a positive integer"),
        (lambda: nn.Dropout(1.0), "not 1.0"),
        (lambda: optim.Adam([]), "at least one parameter"),
        (lambda: optim.Adam([Tensor([1.0])]), "Parameters"),
        (lambda: optim.SGD([nn.Linear(2, 2).weight], lr=-1), "not negative"),
        (lambda: Generator(-1), "non-negative"),
    ],
)
def test_bad_sizes_are_refused(make, complaint: str) -> None:
    with pytest.raises((ValueError, TypeError), match=complaint):
        make()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_ids_are_what_numpy_indexes_with(dtype):
    """Where addresses have 32 bits, NumPy takes no int64 (the browser's build)."""
    ids = F.check_ids("embedding", np.array([0, 3], dtype), 4)
    assert ids.dtype == np.intp and ids.tolist() == [0, 3]
