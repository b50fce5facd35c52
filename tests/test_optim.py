"""The step that a benchmark and a training share."""

from __future__ import annotations

import math

import numpy as np

from vbw_np.engine import Parameter, optim


def squares(parameter):
    return lambda batch: ((parameter * batch) ** 2).mean()


def test_gradients_are_those_of_the_mean_loss():
    """d/dp mean over batches of mean((p x)^2) = 2 p mean(x^2), written out here."""
    parameter = Parameter(np.float32([2.0]))
    batches = [np.float32([1.0, 3.0]), np.float32([5.0, 7.0])]
    parameter.grad = np.float32([99.0])
    found = optim.mean_gradients(optim.SGD([parameter], lr=0.1), squares(parameter), batches)
    assert found.loss == 4.0 * (1 + 9 + 25 + 49) / 4
    assert parameter.grad.tolist() == [4.0 * (1 + 9 + 25 + 49) / 4]
    assert found.forward_s > 0


def test_a_loss_that_is_not_finite_ends_it_before_its_gradient():
    parameter = Parameter(np.float32([2.0]))
    batches = [np.float32([1.0]), np.float32([math.inf]), np.float32([1.0])]
    seen = []

    def loss(batch):
        seen.append(float(batch[0]))
        return squares(parameter)(batch)

    found = optim.mean_gradients(optim.SGD([parameter], lr=0.1), loss, batches)
    assert found.loss == math.inf and seen == [1.0, math.inf]
    assert np.isfinite(parameter.grad).all()
