"""The tape and the backward pass.

Every operation that touches a tensor which requires a gradient leaves one `Node` on the tape: which primitive ran,
where its inputs came from, and its *vjp*, the function that turns the gradient of the output into the gradients of the
inputs. `run_backward` walks these nodes from the youngest to the oldest, so each one has its whole gradient before it
passes it on.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .memory import pooled

Watcher = Callable[["Node", NDArray, "list[NDArray | None]"], None]
"""What `watch_backward` calls at every node."""

# --------------------------------------------------------------------------------------------------------- switches


class _Switches(threading.local):
    grad_enabled = True
    anomaly: Callable[[], str] | None = None
    watcher: Watcher | None = None


_switches = _Switches()


def is_grad_enabled() -> bool:
    """Whether operations are recorded on the tape in this thread."""
    return _switches.grad_enabled


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing on the tape inside this context (this thread only)."""
    before, _switches.grad_enabled = _switches.grad_enabled, False
    try:
        yield
    finally:
        _switches.grad_enabled = before


@contextlib.contextmanager
def detect_anomaly(where: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Check every output and every gradient for NaN and Inf, and name the first operation that makes one.

    Parameters
    ----------
    where
        Called at each operation; what it returns (a module's path, say) is put into the error.

    Raises
    ------
    FloatingPointError
        At the first operation with a non-finite output, forward or backward.
    """
    before, _switches.anomaly = _switches.anomaly, where
    try:
        yield
    finally:
        _switches.anomaly = before


@contextlib.contextmanager
def watch_backward(watcher: Watcher) -> Iterator[None]:
    """Show every node that a backward pass of this thread visits inside the context, in the order of the visits.

    Parameters
    ----------
    watcher
        Called with the node, the whole gradient that has arrived at its output, and what it hands to each of its
        inputs (None where nothing goes). It may look at the arrays and must not write to them; `node.vjp` is still
        there.
    """
    before, _switches.watcher = _switches.watcher, watcher
    try:
        yield
    finally:
        _switches.watcher = before


def check_finite(name: str, output: NDArray) -> None:
    """Under `detect_anomaly`, raise if `output` of the primitive `name` has a NaN or Inf.

    `where` only chooses among values that it is given, and a causal mask gives it -inf on purpose.
    """
    if name == "where":
        return
    if _switches.anomaly is not None and not np.isfinite(output).all():
        place = _switches.anomaly()
        where = f" in {place}" if place else ""
        raise FloatingPointError(f"the output of {name}{where} is not finite")


# ------------------------------------------------------------------------------------------------------------- tape

_clock = itertools.count()


class Leaf(Protocol):
    """Where a gradient ends: a tensor that no operation made."""

    grad: NDArray | None

    def accumulate_grad(self, gradient: NDArray) -> None:
        """Add to `grad`."""


class Node:
    """One recorded operation.

    Attributes
    ----------
    primitive : Primitive
        What ran.
    sources : tuple of Node, Leaf or None
        Per input, where its gradient goes: to the node that made it, to a leaf tensor, or nowhere. Inner *tensors*
        are not kept, so an activation lives exactly as long as some vjp needs it.
    shapes : tuple of tuple of int
        Per input, the shape that its gradient must have.
    vjp : callable or tuple of callables, or None once used
        See `autograd.primitive.primitive`.
    order : int
        Position on the tape. A consumer is always younger than what it consumes.
    read : tuple of (int, Parameter, int)
        Inputs that are parameters whose values the vjp will read: number of the input, parameter, version.
    """

    __slots__ = ("dtype", "order", "place", "primitive", "read", "shapes", "sources", "vjp")

    def __init__(
        self,
        primitive: Any,
        sources: tuple[Node | Leaf | None, ...],
        shapes: tuple[tuple[int, ...], ...],
        dtype: np.dtype,
        vjp: Any,
        read: tuple[tuple[int, Any, int], ...] = (),
    ) -> None:
        self.read = read
        self.primitive = primitive
        self.sources = sources
        self.shapes = shapes
        self.dtype = dtype
        self.vjp = vjp
        self.order = next(_clock)
        self.place = _switches.anomaly() if _switches.anomaly is not None else ""

    def __repr__(self) -> str:
        return f"<{self.primitive.name} #{self.order}>"


def unbroadcast(gradient: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Sum `gradient` over the axes along which an input of `shape` was repeated by broadcasting.

    Raises
    ------
    ValueError
        No broadcasting makes the shape of `gradient` out of `shape`.
    """
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    if extra < 0 or any(size not in (1, got) for size, got in zip(shape, gradient.shape[extra:])):
        raise ValueError(f"shape {gradient.shape} does not come from {shape} by broadcasting")
    stretched = tuple(range(extra)) + tuple(
        extra + axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[extra + axis] != 1
    )
    return gradient.sum(axis=stretched, keepdims=True).reshape(shape)


def _input_gradients(node: Node, gradient: NDArray) -> list[NDArray | None]:
    """Run the node's vjp for the inputs that need it; check and unbroadcast what comes back."""
    raw = _run_vjp(node, gradient)
    checked: list[NDArray | None] = []
    for index, (array, source, shape) in enumerate(zip(raw, node.sources, node.shapes)):
        if source is None:
            checked.append(None)
            continue
        if array is None:
            raise TypeError(f"{node.primitive.name}: no gradient for input {index}, which requires one")
        array = np.asarray(array)
        if array.dtype != node.dtype:
            raise TypeError(f"{node.primitive.name}: gradient {index} is {array.dtype}, not {node.dtype}")
        try:
            array = unbroadcast(array, shape)
        except ValueError:
            raise ValueError(
                f"{node.primitive.name}: gradient {index} has shape {array.shape}, its input {shape}"
            ) from None
        if _switches.anomaly is not None and not np.isfinite(array).all():
            where = f" in {node.place}" if node.place else ""
            raise FloatingPointError(f"the gradient of input {index} of {node.primitive.name}{where} is not finite")
        checked.append(array)
    return checked


def _run_vjp(node: Node, gradient: NDArray) -> tuple[NDArray | None, ...]:
    """What the vjp returns, if the parameters that it reads are what they were, before it runs and after."""
    _check_unchanged(node)
    if callable(node.vjp):  # one for all inputs
        raw = node.vjp(gradient)
        if not isinstance(raw, tuple) or len(raw) != len(node.sources):
            raise TypeError(f"{node.primitive.name}: its vjp must return a tuple of {len(node.sources)} gradients")
    else:  # one per input; those not needed never run
        raw = tuple(
            function(gradient) if source is not None else None
            for function, source in zip(node.vjp, node.sources)
        )
    _check_unchanged(node)
    return raw


def _check_unchanged(node: Node) -> None:
    for index, parameter, version in node.read:
        with parameter.lock:  # who is writing now gets done first, and moves the version
            now = parameter.version
        if now != version:
            raise RuntimeError(
                f"backward through {node.primitive.name}: its input {index}, {parameter.title()}, was changed after "
                f"the forward computation (version {version} then, {now} now), and the gradient needs the values of "
                "then. Call backward before optimizer.step(), assign() or load_state_dict()"
            )


class _Gradients:
    """Sums of gradients by target. The first is kept as it comes; only a sum that we own is added to in place."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[NDArray, bool]] = {}

    def add(self, target: object, gradient: NDArray) -> bool:
        """Add; True if this was the target's first."""
        key = id(target)
        if key not in self._sums:
            self._sums[key] = (gradient, False)
            return True
        total, owned = self._sums[key]
        if owned:
            total += gradient
        else:
            self._sums[key] = (pooled(np.add, total, gradient), True)
        return False

    def pop(self, target: object) -> NDArray:
        return self._sums.pop(id(target))[0]


def run_backward(root: Node, seed: NDArray) -> None:
    gradients = _Gradients()
    gradients.add(root, seed)
    leaves: dict[int, Leaf] = {}
    waiting = [(-root.order, root)]  # a heap: the youngest node first; all its consumers are younger, so it is complete
    while waiting:
        _, node = heapq.heappop(waiting)
        if node.vjp is None:
            raise RuntimeError(
                f"backward through {node!r} a second time: the graph is freed as it is walked. "
                "Run the forward computation again, or add the losses up and call backward once."
            )
        gradient = gradients.pop(node)
        sources = node.sources
        arrays = _input_gradients(node, gradient)
        if _switches.watcher is not None:
            _switches.watcher(node, gradient, arrays)
        node.vjp, node.sources = None, ()  # frees what the vjp had saved, while the walk goes on
        for source, array in zip(sources, arrays):
            if source is None or array is None:
                continue
            first = gradients.add(source, array)
            if not isinstance(source, Node):
                leaves[id(source)] = source
            elif first:
                heapq.heappush(waiting, (-source.order, source))
    handed_out: set[int] = set()  # a vjp may hand the same array to several inputs; each leaf gets its own
    for leaf in leaves.values():
        gradient = gradients.pop(leaf)
        leaf.accumulate_grad(gradient.copy() if id(gradient) in handed_out else gradient)
        handed_out.add(id(leaf.grad))
