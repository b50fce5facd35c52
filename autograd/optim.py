"""Optimizers, gradient clipping and learning-rate schedules, with PyTorch's names and formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .parameter import Parameter
from .tensor import Tensor
from .twin import procedure


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


@procedure(samples=_adam_samples)
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


_NORM_PIECE = 1 << 16


def grad_norm(params: Iterable[Tensor]) -> float:
    """Euclidean length of all gradients together, the same on any number of threads.

    Squares are added in the gradient's dtype within pieces of 65,536 by NumPy's own loop, and the pieces in float64; a
    piece whose squares overflow, in float64 altogether; where that overflows too, after division by the largest
    magnitude. (A BLAS dot product of long vectors depends on the number of threads.)
    """
    gradients = [p.grad for p in params if p.grad is not None and p.grad.size]
    total = sum(_square_sum(gradient) for gradient in gradients)
    if math.isinf(total):
        largest = max(float(np.abs(gradient).max()) for gradient in gradients)
        if math.isfinite(largest):
            return largest * math.sqrt(sum(_square_sum(gradient / np.float64(largest)) for gradient in gradients))
    return math.sqrt(total)


def _square_sum(gradient: NDArray) -> float:
    flat = np.ascontiguousarray(gradient).reshape(-1)
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, _NORM_PIECE):
            piece = flat[start : start + _NORM_PIECE]
            squares = float(np.einsum("i,i->", piece, piece))
            total += squares if math.isfinite(squares) else float(np.square(piece, dtype=np.float64).sum())
    return total


def clip_grad_norm_(
    params: Tensor | Iterable[Tensor], max_norm: float, *, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients, in place, so that their common length is at most `max_norm`; return the length before.

    Parameters
    ----------
    params : Tensor or iterable of Tensor
    max_norm : float
        Not negative; ``inf`` only measures.
    error_if_nonfinite : bool
        Raise if the length is NaN or Inf. Otherwise, as in PyTorch, NaN makes every gradient NaN, and Inf makes the
        finite ones 0.

    Raises
    ------
    ValueError
        `max_norm` is negative or NaN.
    RuntimeError
        See `error_if_nonfinite`; no gradient was changed.
    """
    if not max_norm >= 0:
        raise ValueError(f"the largest norm is 0 or more, not {max_norm}")
    params = [params] if isinstance(params, Tensor) else list(params)
    norm = grad_norm(params)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the gradients' length is {norm}, so they cannot be clipped; none was changed")
    if not norm <= max_norm:
        factor = max_norm / (norm + 1e-6)
        with np.errstate(invalid="ignore"):
            for p in params:
                if p.grad is not None:
                    p.grad *= p.dtype.type(factor)
    return norm


# -------------------------------------------------------------------------------------------------------- schedules


def constant(step: int) -> float:
    """1 at every step."""
    return 1.0


def warmup_cosine(warmup: int, total: int, floor: float = 0.1) -> Callable[[int], float]:
    """Factor of the learning rate: linear from 0 to 1 over `warmup` steps, then half a cosine down to `floor`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(total - warmup, 1), 1.0)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def warmup_linear(warmup: int, total: int, floor: float = 0.0) -> Callable[[int], float]:
    """Factor of the learning rate: linear up over `warmup` steps, then linear down to `floor`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return floor + (1 - floor) * max(1 - (step - warmup) / max(total - warmup, 1), 0.0)

    return factor


class LambdaLR:
    """Sets the optimizer's learning rate to its first value times ``factor(step)``, counting steps from 0."""

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        self.optimizer, self.factor, self.base_lr, self.last_step = optimizer, factor, optimizer.lr, 0
        optimizer.lr = self.base_lr * factor(0)

    def step(self) -> None:
        """Call after `optimizer.step()`."""
        self.last_step += 1
        self.optimizer.lr = self.base_lr * self.factor(self.last_step)

    def state_dict(self) -> dict[str, float]:
        return {"base_lr": self.base_lr, "last_step": self.last_step}

    def load_state_dict(self, saved: dict[str, float]) -> None:
        self.base_lr, self.last_step = float(saved["base_lr"]), int(saved["last_step"])
        self.optimizer.lr = self.base_lr * self.factor(self.last_step)
