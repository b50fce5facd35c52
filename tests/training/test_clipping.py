"""Gradients are cut to a length as PyTorch cuts them, from the smallest to what overflows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vbw_np.engine import Parameter
from vbw_np.training.clipping import clip_grad_norm_, grad_norm


def with_gradients(*gradients) -> list[Parameter]:
    parameters = [Parameter(np.zeros(np.shape(g), np.asarray(g).dtype)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = np.array(gradient)
    return parameters


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e20, 3e37])
def test_clipping_scales_to_the_norm(size: float, dtype) -> None:
    parameters = with_gradients(dtype([3 * size, 0]), dtype([4 * size]))
    assert clip_grad_norm_(parameters, 1e-4) == pytest.approx(5 * size, rel=1e-6)
    np.testing.assert_allclose([parameters[0].grad[0], parameters[1].grad[0]], [0.6e-4, 0.8e-4], rtol=2e-3)


def test_squares_that_overflow_float64() -> None:
    parameters = with_gradients(np.array([3e200, 4e200]))
    assert clip_grad_norm_(parameters, 1.0) == pytest.approx(5e200)
    np.testing.assert_allclose(parameters[0].grad, [0.6, 0.8])


@pytest.mark.parametrize("size", [1e-13, 1e-20, 1e-30, 2.0**-149])
def test_lengths_whose_squares_vanish_in_float32(size: float) -> None:
    gradients = [np.array([3 * size, 0], np.float32), np.array([4 * size], np.float32)]
    exact = math.hypot(*(float(np.abs(g).max()) for g in gradients))
    assert grad_norm(with_gradients(*gradients)) == pytest.approx(exact, rel=1e-6, abs=0)


def test_clipping_changes_only_what_is_too_long() -> None:
    rng = np.random.default_rng(0)
    parameters = with_gradients(*(rng.standard_normal(s).astype(np.float32) for s in ((300, 401), (7,))))
    parameters.append(Parameter(np.zeros(3, np.float32)))  # without a gradient
    exact = math.sqrt(sum((p.grad.astype(np.float64) ** 2).sum() for p in parameters[:2]))
    before = parameters[0].grad
    for most in (1e9, math.inf):
        # float32 squares in pieces of 65,536: rounding of each piece is below 65,536 ulps, in practice a few
        assert clip_grad_norm_(parameters, most) == pytest.approx(exact, rel=1e-5)
        assert parameters[0].grad is before
    assert clip_grad_norm_(iter(parameters), 2.0) == pytest.approx(exact, rel=1e-5)
    assert parameters[0].grad is before, "in place, as in PyTorch"
    assert grad_norm(parameters) == pytest.approx(2.0, rel=1e-5)
    assert clip_grad_norm_(parameters[1], 0.0) > 0 and not parameters[1].grad.any()


@pytest.mark.parametrize("most", [-1.0, math.nan, -math.inf])
def test_a_norm_that_cannot_be_is_refused(most: float) -> None:
    parameters = with_gradients(np.float32([1, 2]))
    with pytest.raises(ValueError, match="largest norm"):
        clip_grad_norm_(parameters, most)
    assert parameters[0].grad.tolist() == [1, 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite(bad: float) -> None:
    parameters = with_gradients(np.float32([1, 2]), np.float32([bad, 3]))
    with pytest.raises(RuntimeError, match="none was changed"):
        clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert parameters[0].grad.tolist() == [1, 2]
    assert not math.isfinite(clip_grad_norm_(parameters, 1.0))
    expected = [math.nan] * 2 if math.isnan(bad) else [0, 0]
    np.testing.assert_array_equal(parameters[0].grad, expected)  # all of them, not only some
    assert math.isnan(parameters[1].grad[0])
