"""Compare gradients with finite differences.

One random projection of the whole Jacobian is enough to catch a wrong gradient, and costs two calls an input; only to
explain a failure is the full Jacobian computed, entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tape import no_grad
from .tensor import Tensor


class GradcheckError(AssertionError):
    """A gradient does not agree with finite differences."""


def gradcheck(
    function: Callable[..., Tensor],
    inputs: Sequence[Any],
    *,
    eps: float = 1e-6,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    seed: int = 0,
    **static: Any,
) -> bool:
    """Check the gradient of `function` at `inputs`, in float64.

    Along a random direction v and a random cotangent c, the number ``c . J v`` is computed twice: by central
    differences of the function, and from the gradient of ``c . function``.

    Parameters
    ----------
    function : callable
        Takes tensors (and the keyword arguments `static`), returns a tensor of any shape.
    inputs : sequence of array_like or None
        Converted to float64 tensors that require gradients.
    eps : float
        Length of the step. The central difference is wrong by about eps ** 2 (truncation) + 1e-16 / eps (rounding).
    rtol, atol : float
        Allowed difference, relative to the sizes of the terms that are added up, and absolute.
    seed : int
        For the directions.

    Returns
    -------
    bool
        True.

    Raises
    ------
    GradcheckError
        Names the input, the entry of the Jacobian that is worst, and both values.
    """
    arrays = [None if value is None else np.array(value, np.float64) for value in inputs]
    rng = np.random.default_rng(seed)
    tensors = [None if array is None else Tensor(array, requires_grad=True) for array in arrays]
    output = function(*tensors, **static)
    cotangent = rng.normal(size=output.shape)
    output.backward(cotangent)
    value = _plain(function, static)
    for index, array in enumerate(arrays):
        if array is None:
            continue
        gradient = tensors[index].grad
        if gradient is None:
            gradient = np.zeros_like(array)
        direction = rng.normal(size=array.shape)
        numeric = (_moved(value, arrays, index, eps * direction) * cotangent).sum() / (2 * eps)
        analytic = (gradient * direction).sum()
        scale = np.abs(gradient * direction).sum() + np.abs(cotangent).sum()
        if not abs(numeric - analytic) <= atol + rtol * scale:
            _explain(function, value, arrays, index, gradient, cotangent, eps, numeric, analytic)
    return True


def _plain(function: Callable[..., Tensor], static: dict[str, Any]) -> Callable[[list[NDArray | None]], NDArray]:
    """The function from arrays to an array, without a tape."""

    def value(arrays: list[NDArray | None]) -> NDArray:
        with no_grad():
            return function(*(None if a is None else Tensor(a) for a in arrays), **static).data

    return value


def _moved(value: Callable, arrays: list, index: int, step: NDArray) -> NDArray:
    """value at inputs[index] + step minus value at inputs[index] - step"""
    up, down = list(arrays), list(arrays)
    up[index], down[index] = arrays[index] + step, arrays[index] - step
    return value(up) - value(down)


def _explain(
    function: Callable,
    value: Callable,
    arrays: list,
    index: int,
    gradient: NDArray,
    cotangent: NDArray,
    eps: float,
    numeric: float,
    analytic: float,
) -> None:
    """Find the worst entry of the gradient of cotangent . function, and raise with it."""
    truth = np.zeros_like(gradient)
    for place in np.ndindex(gradient.shape):
        step = np.zeros_like(gradient)
        step[place] = eps
        truth[place] = (_moved(value, arrays, index, step) * cotangent).sum() / (2 * eps)
    worst = np.unravel_index(np.argmax(np.abs(truth - gradient)), gradient.shape) if gradient.shape else ()
    name = getattr(function, "name", getattr(function, "__name__", repr(function)))
    raise GradcheckError(
        f"the gradient of {name} in input {index} (shape {gradient.shape}) is wrong: along a random direction "
        f"{analytic:.9g}, by finite differences {numeric:.9g}. Worst entry {tuple(int(i) for i in worst)}: "
        f"gradient {gradient[worst]:.9g}, finite difference {truth[worst]:.9g}"
    )
