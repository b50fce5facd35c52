"""The autograd tape as a walk: every operation forwards, then the walk backwards, node by node.

    from vbw_np import viz

    walk = viz.walk_tape(lambda a, b, c: (a * b + c) * a, a=2.0, b=-3.0, c=10.0)
    print(walk.goto("backward"))         # the youngest operation: what arrives, its slopes, what it hands on
    print(walk.next())
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..device.walk import Walk
from ..engine import Tensor, autograd
from .timelines import watched


@dataclasses.dataclass(frozen=True)
class Send:
    """What a node hands on to one of its inputs: `amount`, with which `total` has arrived there.

    `slope` is the local derivative where input and output are single numbers, else None.
    """

    to: str
    slope: NDArray | None
    amount: NDArray
    total: NDArray


@dataclasses.dataclass(frozen=True)
class TapeEvent:
    """One operation, forwards or backwards.

    Attributes
    ----------
    order : int
    phase : str
        "forward" or "backward".
    kind : str
        The primitive's name; "start" where the walk back begins, "leaf" where it ends.
    card : str
        Name of the node: the primitive and its number, or the leaf's name.
    inputs : tuple of (str, ndarray)
        What it was made from: names and values.
    gradient : ndarray or None
        What has arrived, whole; None forwards.
    """

    order: int
    phase: str
    kind: str
    card: str
    value: NDArray
    inputs: tuple[tuple[str, NDArray], ...] = ()
    gradient: NDArray | None = None
    sends: tuple[Send, ...] = ()

    def say(self) -> str:
        """As a sentence with its numbers."""
        if self.phase == "forward":
            made = " and ".join(f"{name} = {text(value)}" for name, value in self.inputs)
            return f"{self.card} is made of {made}; its value is {text(self.value)}."
        if self.kind == "start":
            return f"The walk back begins at {self.card}: it moves as far as itself, so its gradient is one."
        if self.kind == "leaf":
            return f"{self.card} is a leaf: all has arrived, and its gradient is {text(self.gradient)}."
        told = [f"{text(self.gradient)} has arrived at {self.card}, all that will."]
        for send in self.sends:
            by = f", {text(self.gradient)} times its slope {text(send.slope)}" if send.slope is not None else ""
            first = send.amount.tobytes() == send.total.tobytes()
            sums = "" if first else f" With what came before, {text(send.total)} is there now."
            told.append(f"It hands {text(send.amount)} on to {send.to}{by}.{sums}")
        return " ".join(told)

    def __str__(self) -> str:
        return f"[{self.order}] {self.phase} | {self.card}\n    {self.say()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return (
            f"<p><b>{html.escape(self.card)}</b> <small>({self.order}: {self.phase})</small><br>"
            f"{html.escape(self.say())}</p>"
        )


class TapeSteps(Walk[TapeEvent]):
    """The events of one tape: `next`, `back`, `goto("backward", "mul #0")`, `until("leaf")`; `gradients` of leaves."""

    def __init__(self, events: list[TapeEvent], gradients: dict[str, NDArray]) -> None:
        super().__init__(events)
        self.gradients = gradients

    def __repr__(self) -> str:
        return f"TapeSteps({len(self)} events; .next() walks, print() reads)"


def walk_tape(function: Callable[..., Tensor], **leaves: Any) -> TapeSteps:
    """Run a function on named leaves in double precision, walk back, and record both.

    Parameters
    ----------
    function : callable
        Takes tensors by name and returns a tensor of one element.
    leaves : numbers or arrays

    Raises
    ------
    ValueError
        The function returns something that does not come from the leaves, or is no single number.
    """
    tensors = {name: Tensor(np.asarray(value, np.float64), requires_grad=True) for name, value in leaves.items()}
    output, made = watched(function, tensors)
    if not isinstance(output, Tensor) or output.node is None or output.data.size != 1:
        raise ValueError("walk_tape: the function must return one number that it computed from its arguments")
    names: dict[int, str] = {id(tensor): name for name, tensor in tensors.items()}
    names |= {id(result): f"{result.node.primitive.name} #{n}" for n, (result, _) in enumerate(made)}
    by_node = {id(result.node): result for result, _ in made}
    events: list[TapeEvent] = []
    for result, inputs in made:
        data = [np.asarray(x.data if isinstance(x, Tensor) else x) for x in inputs]
        known = tuple(zip((names.get(id(x), "a constant") for x in inputs), data))
        kind = result.node.primitive.name
        events.append(TapeEvent(len(events), "forward", kind, names[id(result)], result.data, known))
    one = np.ones_like(output.data)
    events.append(TapeEvent(len(events), "backward", "start", names[id(output)], output.data, (), one))
    totals: dict[str, NDArray] = {}

    def watch(node: Any, gradient: NDArray, handed: list[NDArray | None]) -> None:
        result = by_node[id(node)]
        inputs = next(given for made_, given in made if made_ is result)
        sends = []
        for source, slope, amount in zip(inputs, _slopes(node, gradient), handed):
            if amount is not None:
                to = names[id(source)]
                totals[to] = amount + totals[to] if to in totals else np.array(amount)
                sends.append(Send(to, slope, np.array(amount), totals[to].copy()))
        events.append(
            TapeEvent(len(events), "backward", node.primitive.name, names[id(result)], result.data, (),
                      np.array(gradient), tuple(sends))
        )  # fmt: skip

    with autograd.watch_backward(watch):
        output.backward()
    gradients = {name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}
    for name, gradient in gradients.items():
        events.append(TapeEvent(len(events), "backward", "leaf", name, tensors[name].data, (), gradient))
    return TapeSteps(events, gradients)


def _slopes(node: Any, gradient: NDArray) -> list[NDArray | None]:
    """The local derivative by each input where all are single numbers: what the rule sends back for a one."""
    if gradient.size != 1 or any(np.prod(shape, dtype=int) != 1 for shape in node.shapes):
        return [None] * len(node.sources)
    one = np.ones_like(gradient)
    if callable(node.vjp):
        return [None if slope is None else np.asarray(slope) for slope in node.vjp(one)]
    return [np.asarray(f(one)) if source is not None else None for f, source in zip(node.vjp, node.sources)]


def text(value: Any) -> str:
    """A number as it is; of an array its shape and first entries."""
    array = np.asarray(value)
    if array.size == 1:
        return number(array.reshape(()))
    first = ", ".join(map(number, array.reshape(-1)[:3]))
    return f"{' x '.join(map(str, array.shape))} numbers ({first}{', ...' if array.size > 3 else ''})"


def number(value: Any) -> str:
    """A float64 in the fewest digits that give it back; whole numbers without a point."""
    return repr(float(value)).removesuffix(".0")
