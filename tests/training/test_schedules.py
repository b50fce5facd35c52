"""Learning rates by step."""

from __future__ import annotations

import pytest

from vbw_np.engine import nn, optim
from vbw_np.training.schedules import LambdaLR, warmup_cosine, warmup_linear


def test_schedules() -> None:
    factor = warmup_cosine(4, 10, floor=0.1)
    assert [factor(0), factor(3)] == [0.25, 1.0]
    assert factor(10) == pytest.approx(0.1) and factor(50) == pytest.approx(0.1)
    linear = warmup_linear(2, 6)
    assert [linear(0), linear(1), linear(4), linear(6)] == [0.5, 1.0, 0.5, 0.0]
    optimizer = optim.SGD([nn.Linear(2, 2).weight], lr=0.5)
    schedule = LambdaLR(optimizer, linear)
    schedule.step()
    assert optimizer.lr == 0.5 and schedule.last_step == 1
    schedule.load_state_dict({"base_lr": 0.5, "last_step": 4})
    assert optimizer.lr == 0.25
