"""When a loss or a gradient is not finite: which step, which layer, which tensor, and what to do."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..engine import autograd, nn
from ..errors import UserError
from ..formats import NonFiniteError


class NonFiniteTraining(UserError):
    """A loss, gradient or weight became NaN or Inf, and the run stopped before it was written anywhere."""


@contextlib.contextmanager
def layer_names(model: nn.Module) -> Iterator[Callable[[], str]]:
    """A function that names the layer whose forward computation runs, such as ``blocks.1.ffn.gate``.

    Each module's `forward` is shadowed by one that notes its name, on the instance, and only inside the context.
    """
    running: list[str] = []

    def noting(name: str, forward: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            running.append(name)
            try:
                return forward(*args, **kwargs)
            finally:
                running.pop()

        return run

    modules = {id(module): (name, module) for name, module in reversed(list(model.named_modules())) if name}
    for name, module in modules.values():  # a shared module once, under its first name
        module.__dict__["forward"] = noting(name, module.forward)
    try:
        yield lambda: running[-1] if running else "the model's own part (embedding, output head or loss)"
    finally:
        for _, module in modules.values():
            del module.__dict__["forward"]


def broken_parameter(model: nn.Module) -> str | None:
    """The first parameter with a NaN or Inf in words, or None."""
    for name, parameter in model.named_parameters():
        bad = parameter.size - int(np.isfinite(parameter.data).sum())
        if bad:
            return f"parameter {name} {parameter.shape} has {bad:,} non-finite values of {parameter.size:,}"
    return None


def first_offender(model: nn.Module, backward: Callable[[], None]) -> str:
    """Run a step's computation again, watched, and say which tensor is the first with a NaN or Inf.

    Parameters
    ----------
    model : Module
    backward : callable
        Computes the loss and all gradients again, from the same random states.
    """
    broken = broken_parameter(model)
    if broken:
        return f"{broken}, written by an earlier step"
    try:
        with layer_names(model) as name, np.errstate(all="ignore"):
            with autograd.detect_anomaly(name):
                try:
                    backward()
                except NonFiniteError as error:
                    return f"what is quantized in {name()}: {error}"
    except FloatingPointError as error:
        return str(error)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not np.isfinite(parameter.grad).all():
            return f"the gradient of parameter {name} {parameter.shape}"
    return "none when the step was computed again, so the computation itself is not reproducible here"


def report(step: int, what: str, offender: str, lr: float, clip: float, recipe: str, back: str) -> str:
    """The error's text; `back` says which checkpoints there are."""
    advice = [f"lower the learning rate (now {lr:g}: try --lr {lr / 3:.1g})"]
    if not clip:
        advice.append("clip gradients (--clip 1)")
    if recipe != "fp32":
        advice.append("see whether --recipe fp32 does the same: then it is not the format")
    return (
        f"training stopped at step {step}: {what}. First non-finite tensor: {offender}. "
        f"Nothing of this step was kept. {back}. What may help: {'; or '.join(advice)}."
    )


def is_finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)
