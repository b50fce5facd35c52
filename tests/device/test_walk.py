"""The tape as a walk: what arrives, the slope, what is handed on; and the walk of a device's own events."""

from __future__ import annotations

import numpy as np
import pytest

import vbw_np as vbw
from vbw_np.device import place
from vbw_np.engine import Tensor, autograd, nn
from vbw_np.viz import walk_tape as tape


def test_the_graph_of_the_first_notebook() -> None:
    walk = tape(lambda a, b, c: (a * b + c) * a, a=2.0, b=-3.0, c=10.0)
    assert {name: float(g) for name, g in walk.gradients.items()} == {"a": -2, "b": 4, "c": 2}
    assert [e.card for e in walk if e.phase == "forward"] == ["mul #0", "add #1", "mul #2"]
    start = walk.goto("backward")
    assert (start.kind, start.card, float(start.gradient)) == ("start", "mul #2", 1)
    last = walk.until("mul", "mul #0")
    assert [(s.to, float(s.slope), float(s.amount), float(s.total)) for s in last.sends] == [
        ("a", -3, -6, -2), ("b", 2, 4, 4),
    ]  # fmt: skip
    assert "hands -6 on to a, 2 times its slope -3. With what came before, -2 is there now." in str(last)
    assert walk.back().card == "add #1" and walk.until("leaf").card == "a"


def test_every_gradient_is_slope_times_what_arrived_and_sums_to_the_leaves() -> None:
    def f(x, y):
        return (x * y).tanh() * (x + 0.5) / y + x

    walk = tape(f, x=0.7, y=-1.3)
    x, y = (Tensor(np.float64(v), requires_grad=True) for v in (0.7, -1.3))
    f(x, y).backward()
    assert walk.gradients == {"x": x.grad, "y": y.grad}
    total: dict[str, float] = {}
    for event in walk:
        for send in event.sends:
            assert float(send.amount) == pytest.approx(float(event.gradient) * float(send.slope), rel=1e-15)
            total[send.to] = total.get(send.to, 0.0) + float(send.amount)
        if event.kind == "leaf":
            assert total[event.card] == pytest.approx(float(event.gradient), rel=1e-15)


def test_arrays_have_no_single_slope() -> None:
    walk = tape(lambda w: (w * w).sum(), w=np.arange(6.0).reshape(2, 3))
    (mul,) = (e for e in walk if e.phase == "backward" and e.kind == "mul")
    assert all(send.slope is None for send in mul.sends)
    assert walk.gradients["w"].tolist() == (2 * np.arange(6.0)).reshape(2, 3).tolist()
    assert "2 x 3 numbers (1, 1, 1, ...) has arrived at mul #0" in str(mul)


@pytest.mark.parametrize("function", [lambda a: 3.0, lambda a: Tensor(np.float64(1)), lambda a: a * np.ones(2)])
def test_what_is_no_tape_is_refused(function) -> None:
    with pytest.raises(ValueError, match="must return one number"):
        tape(function, a=2.0)


def test_a_device_step_is_a_walk() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 16))
    device = place(model, "nvfp4")
    x = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    with autograd.use_twins(False):
        steps = device.step(lambda: (model(Tensor(x)) ** 2).mean().backward())
    with pytest.raises(LookupError, match="no event yet"):
        steps.explain(0, 0)
    names = list(device.cards)
    assert steps.goto("backward", names[0]).card == names[0]
    steps.goto("compute", names[1])
    with pytest.raises(LookupError, match="no packed weight of"):
        steps.explain(0, 0)
    steps.until("decode", names[1])
    weight = vbw.quantize(model[1].weight.data, "nvfp4")
    for i, j in ((0, 0), (15, 31), (3, 5)):
        assert steps.explain(i, j).data["code"] == (weight.codes[i, j // 2] >> 4 * (j % 2)) & 15
    assert steps.back().order < steps.next().order
    html = steps._repr_html_()
    assert (html.count("<tr>") == len(steps) + 1 and "<b>decode</b>" in html) or "<b>" in html
