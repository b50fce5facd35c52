"""Optimizers, with PyTorch's names and formulas."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .door import autograd

Parameter = autograd.Parameter
Tensor = autograd.Tensor


class Optimizer:
    """Changes parameters by their gradients. Parameters without a gradient are skipped, with their state untouched.

    Attributes
    ----------
    params : list of Parameter
    lr : float
        Learning rate; a schedule changes it between steps.
    state : dict
        Per index of the parameter, its arrays and counters.
    """

    def __init__(self, params: Iterable[Parameter], lr: float) -> None:
        self.params = list(params)
        if not self.params:
            raise ValueError("an optimizer needs at least one parameter")
        if not all(isinstance(p, Parameter) for p in self.params):
            raise TypeError("an optimizer changes Parameters; wrap the tensors in Parameter(...)")
        if len({id(p) for p in self.params}) != len(self.params):
            raise ValueError("a parameter is listed twice; each would be stepped twice")
        if not lr >= 0:
            raise ValueError(f"a learning rate is not negative: {lr}")
        self.lr = float(lr)
        self.state: dict[int, dict[str, Any]] = {}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient."""
        for index, p in enumerate(self.params):
            if p.grad is not None:
                with p.mutate() as data:
                    self.update(data, p.grad, self.state.setdefault(index, {}))

    def update(self, data: NDArray, grad: NDArray, state: dict[str, Any]) -> None:
        """Change `data` in place; `state` is this parameter's own."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Arrays and numbers to continue from; the arrays are shared, not copied."""
        return {"lr": self.lr, "state": {index: dict(state) for index, state in self.state.items()}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from `state_dict()` of an optimizer over parameters of the same shapes."""
        state = {int(index): dict(entries) for index, entries in saved["state"].items()}
        for index, entries in state.items():
            if index >= len(self.params):
                raise ValueError(f"the saved state has a parameter {index}; this optimizer has {len(self.params)}")
            for name, value in entries.items():
                if isinstance(value, np.ndarray) and value.ndim and value.shape != self.params[index].shape:
                    raise ValueError(
                        f"the saved {name} of parameter {index} has shape {value.shape}, "
                        f"the parameter {self.params[index].shape}"
                    )
        self.lr = float(saved["lr"])
        self.state = {
            index: {name: np.array(v) if isinstance(v, np.ndarray) else v for name, v in entries.items()}
            for index, entries in state.items()
        }


class SGD(Optimizer):
    """Gradient descent: v = momentum v + g + weight_decay w; w -= lr v.

    With `nesterov`, w -= lr (g + weight_decay w + momentum v), PyTorch's form of Nesterov's momentum.
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, lr)
        if not momentum >= 0:
            raise ValueError(f"momentum is not negative: {momentum}")
        if nesterov and not momentum:
            raise ValueError("Nesterov's momentum needs a momentum above 0")
        self.momentum, self.weight_decay, self.nesterov = float(momentum), float(weight_decay), nesterov

    def update(self, data: NDArray, grad: NDArray, state: dict[str, Any]) -> None:
        kind = data.dtype.type
        if self.weight_decay:
            grad = grad + kind(self.weight_decay) * data
        if self.momentum:
            if "momentum" in state:
                state["momentum"] *= kind(self.momentum)
                state["momentum"] += grad
            else:
                state["momentum"] = np.array(grad)
            grad = grad + kind(self.momentum) * state["momentum"] if self.nesterov else state["momentum"]
        data -= kind(self.lr) * grad


def _adam_samples(rng: np.random.Generator) -> list[tuple[tuple, dict]]:
    settings = {"step": 3, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    return [
        (
            (rng.normal(size=(7, 5)), rng.normal(size=(7, 5)), rng.normal(size=(7, 5)), rng.random((7, 5))),
            settings | {"decay": decay, "decoupled": decoupled},
        )
        for decay, decoupled in ((0.0, False), (0.1, False), (0.1, True))
    ]


@autograd.procedure(samples=_adam_samples)
def adam_update(
    data: NDArray,
    grad: NDArray,
    exp_avg: NDArray,
    exp_avg_sq: NDArray,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    decoupled: bool,
) -> None:
    """One step of Adam, in place (arXiv 1412.6980); decoupled weight decay after arXiv 1711.05101.

        m = m + (1 - beta1) (g - m)            v = beta2 v + (1 - beta2) g g
        w = w - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
    """
    kind = data.dtype.type
    if decay and decoupled:
        data *= kind(1 - lr * decay)
    elif decay:
        grad = grad + kind(decay) * data
    exp_avg += kind(1 - beta1) * (grad - exp_avg)
    exp_avg_sq *= kind(beta2)
    exp_avg_sq += kind(1 - beta2) * (grad * grad)
    step_size = kind(lr / (1 - beta1**step))
    correction = kind(math.sqrt(1 - beta2**step))
    data -= step_size * (exp_avg / (np.sqrt(exp_avg_sq) / correction + kind(eps)))


class Adam(Optimizer):
    """Adam (arXiv 1412.6980); with `weight_decay`, the L2 term is part of the gradient.

    Parameters
    ----------
    params : iterable of Parameter
    lr, betas, eps, weight_decay
        As in PyTorch, with its defaults.
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas lie in [0, 1): {betas}")
        self.betas = (float(betas[0]), float(betas[1]))
        self.eps, self.weight_decay = float(eps), float(weight_decay)

    def update(self, data: NDArray, grad: NDArray, state: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, exp_avg=np.zeros_like(data), exp_avg_sq=np.zeros_like(data))
        state["step"] += 1
        adam_update(
            data,
            grad,
            state["exp_avg"],
            state["exp_avg_sq"],
            step=state["step"],
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            decay=self.weight_decay,
            decoupled=self.decoupled,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (arXiv 1711.05101): w shrinks by lr * weight_decay each step."""

    decoupled = True

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class Gradients(NamedTuple):
    """What `mean_gradients` computed: the mean loss, and the seconds until the losses were there."""

    loss: float
    forward_s: float


def mean_gradients(optimizer: Optimizer, loss: Callable[[Any], Tensor], batches: Sequence[Any]) -> Gradients:
    """The gradients of the mean loss over some batches, in the optimizer's parameters: all of a step but its update.

    Parameters
    ----------
    optimizer : Optimizer
        Whose parameters forget their gradients first.
    loss : callable
        The loss of one batch, a scalar Tensor.
    batches : sequence
        One after the other, so that memory holds the graph of one.

    Returns
    -------
    Gradients
        Where the loss of a batch is not finite it comes back at once, with the gradients of the batches before it.
    """
    start = time.perf_counter()
    optimizer.zero_grad()
    total = forward = 0.0
    for batch in batches:
        value = loss(batch)
        forward += time.perf_counter() - start
        total += value.item() / len(batches)
        if not math.isfinite(total):
            break
        value.backward(1 / len(batches))
        start = time.perf_counter()
    return Gradients(total, forward)
