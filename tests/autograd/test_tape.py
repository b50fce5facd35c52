"""Watching a backward pass: every node once, the youngest first, with what arrives and what is handed on."""

from __future__ import annotations

import numpy as np

from vbw_np.engine import Tensor, autograd


def test_every_node_is_shown_once_with_its_whole_gradient() -> None:
    a, b, c = (Tensor(np.float64(v), requires_grad=True) for v in (2, -3, 10))
    seen = []
    with autograd.watch_backward(lambda node, g, out: seen.append((node.primitive.name, float(g), *map(float, out)))):
        ((a * b + c) * a).backward()
    assert seen == [("mul", 1, 2, 4), ("add", 2, 2, 2), ("mul", 2, -6, 4)]
    assert a.grad == 4 - 6


def test_nobody_watches_afterwards_nor_after_an_error() -> None:
    seen = []
    try:
        with autograd.watch_backward(lambda *visit: seen.append(visit)):
            raise KeyError
    except KeyError:
        pass
    (Tensor(np.ones(3), requires_grad=True) * 2).sum().backward()
    assert seen == []
