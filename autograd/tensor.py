"""The tensor, the tape and the backward pass.

A `Tensor` is a NumPy array that may remember how it was made. Every operation that touches a tensor which requires a
gradient leaves one `Node` on the tape: which primitive ran, where its inputs came from, and its *vjp*, the function
that turns the gradient of the output into the gradients of the inputs. `Tensor.backward` walks these nodes from the
youngest to the oldest, so each one has its whole gradient before it passes it on.

First order only: gradients are NumPy arrays, not tensors, so they cannot be differentiated again.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .memory import is_whole_pooled

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# --------------------------------------------------------------------------------------------------------- switches


class _Switches(threading.local):
    grad_enabled = True
    anomaly: Callable[[], str] | None = None


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


# ------------------------------------------------------------------------------------------------------------- tape

_clock = itertools.count()


class Operation(Protocol):
    """What the tape knows of a primitive: how it is called."""

    name: str


class Node:
    """One recorded operation.

    Attributes
    ----------
    primitive : Operation
        What ran.
    sources : tuple of Node, Tensor or None
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
        primitive: Operation,
        sources: tuple[Node | Tensor | None, ...],
        shapes: tuple[tuple[int, ...], ...],
        dtype: np.dtype,
        vjp: Any,
        read: tuple[tuple[int, Parameter, int], ...] = (),
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
            self._sums[key] = (total + gradient, True)
        return False

    def pop(self, target: object) -> NDArray:
        return self._sums.pop(id(target))[0]


def _run_backward(root: Node, seed: NDArray) -> None:
    gradients = _Gradients()
    gradients.add(root, seed)
    leaves: dict[int, Tensor] = {}
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
        node.vjp, node.sources = None, ()  # frees what the vjp had saved, while the walk goes on
        for source, array in zip(sources, arrays):
            if source is None or array is None:
                continue
            first = gradients.add(source, array)
            if isinstance(source, Tensor):
                leaves[id(source)] = source
            elif first:
                heapq.heappush(waiting, (-source.order, source))
    handed_out: set[int] = set()  # a vjp may hand the same array to several inputs; each leaf gets its own
    for leaf in leaves.values():
        gradient = gradients.pop(leaf)
        leaf.accumulate_grad(gradient.copy() if id(gradient) in handed_out else gradient)
        handed_out.add(id(leaf.grad))


# ----------------------------------------------------------------------------------------------------------- tensor


def as_float_array(data: ArrayLike, dtype: DTypeLike | None = None) -> NDArray:
    """`data` as a float32 or float64 array: float arrays keep their precision, Python numbers become float32."""
    if dtype is None:
        dtype = data.dtype if isinstance(data, np.ndarray | np.generic) and data.dtype in FLOATS else np.float32
    if np.dtype(dtype) not in FLOATS:
        raise TypeError(f"a tensor holds float32 or float64, not {np.dtype(dtype)}; pass integers as NumPy arrays")
    array = np.asarray(data)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a tensor holds real numbers, not {array.dtype}")
    return np.asarray(array, dtype)


class Tensor:
    """A NumPy array that remembers how it was made.

    Parameters
    ----------
    data : array_like
        Numbers of any shape; float32 and float64 arrays are kept as they are (not copied), everything else becomes
        float32 unless `dtype` says otherwise.
    requires_grad : bool
        Whether `backward` shall leave this tensor's gradient in `grad`.
    dtype : float32 or float64, optional

    Attributes
    ----------
    data : ndarray
        The values.
    grad : ndarray or None
        After `backward`, the gradient, same shape and dtype as `data`. Leaves only; gradients add up over calls.
    base : Parameter or None
        The parameter whose memory these values share, where they are a slice or a transpose of one.

    Examples
    --------
    >>> x = Tensor([3.0], requires_grad=True)
    >>> (x * x).backward()
    >>> float(x.grad[0])
    6.0
    """

    __slots__ = ("__weakref__", "base", "data", "grad", "node", "requires_grad")

    def __init__(self, data: ArrayLike, requires_grad: bool = False, *, dtype: DTypeLike | None = None) -> None:
        if isinstance(data, Tensor):
            raise TypeError("this is a tensor already; use .detach() for one that shares its values")
        self.data: NDArray = as_float_array(data, dtype)
        self.grad: NDArray | None = None
        self.requires_grad = requires_grad
        self.node: Node | None = None
        self.base: Parameter | None = None

    # -- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made this tensor."""
        return self.node is None

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without axes has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("a tensor without axes cannot be iterated over; .item() is its value")
        return (self[index] for index in range(len(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self.node is not None:
            raise RuntimeError(
                f"a tensor made by {self.node.primitive.name} cannot be copied with its history; copy .detach() of it"
            )
        memo[id(self)] = copied = type(self)(self.data.copy())  # without a graph, on no card
        copied.requires_grad = self.requires_grad
        copied.grad = None if self.grad is None else self.grad.copy()
        return copied

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return self.item()

    def __repr__(self) -> str:
        made = f", made by {self.node.primitive.name}" if self.node is not None else ""
        leaf = ", requires_grad=True" if self.requires_grad and self.node is None else ""
        values = np.array2string(self.data, precision=4, threshold=24, edgeitems=2, separator=", ", prefix="Tensor(")
        return f"Tensor({values}, shape={self.shape}, {self.dtype}{made}{leaf})"

    # -- its values

    def numpy(self) -> NDArray:
        """The values, shared, not copied."""
        return self.data

    def item(self) -> float:
        """The value of a tensor with one element, as a Python float."""
        if self.size != 1:
            raise ValueError(f"item() is for a tensor of one element; this one has shape {self.shape}")
        return float(self.data.reshape(()))

    def detach(self) -> Tensor:
        """A tensor with the same values (shared) and no history."""
        return Tensor(self.data)

    # -- its gradient

    def accumulate_grad(self, gradient: NDArray) -> None:
        """Add to `grad`: what `backward` does at a leaf."""
        if self.grad is None:
            # Some vjps hand out a view of what another tensor keeps, or a read-only broadcast: own what is stored.
            own = gradient.base is None and gradient.flags.writeable and gradient.flags.c_contiguous
            self.grad = gradient if own or is_whole_pooled(gradient) else np.array(gradient, order="C")
        else:
            self.grad = self.grad + gradient

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def backward(self, gradient: ArrayLike | None = None) -> None:
        """Compute the gradient of this tensor in every leaf that requires one, and free the graph.

        Parameters
        ----------
        gradient : array_like, optional
            The gradient to start from, of this tensor's shape; 1 for a tensor of one element.

        Raises
        ------
        RuntimeError
            Nothing here requires a gradient, or the graph was walked before.
        ValueError
            `gradient` is missing for a tensor of several elements, or has another shape.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: nothing that made this tensor requires a gradient")
        if gradient is None:
            if self.size != 1:
                raise ValueError(f"backward from shape {self.shape} needs a gradient of that shape")
            gradient = 1.0
        seed = np.asarray(gradient, self.dtype)
        if seed.shape not in ((), self.shape):
            raise ValueError(f"backward: the gradient has shape {seed.shape}, the tensor {self.shape}")
        seed = np.broadcast_to(seed, self.shape)
        if self.node is None:
            self.accumulate_grad(seed)
        else:
            _run_backward(self.node, seed)


class Parameter(Tensor):
    """A tensor that training changes, with a version number that moves when, and only when, its values do.

    Whatever keeps something derived from the values (a packed or decoded copy) compares versions. So every change
    goes through `mutate`: optimizers, loading and initialization do.

    Attributes
    ----------
    version : int
        How many times the values were changed.
    name : str
        For people: the class and attribute it was first assigned to (``Linear.weight``), or empty.
    card : object or None
        Where a device computes with this parameter (see `functional.linear`), or None: compute right here.
    lock : threading.RLock
        Held while the values change; hold it to read values and version together.
    """

    __slots__ = ("card", "lock", "name", "version")

    def __init__(self, data: ArrayLike, *, dtype: DTypeLike | None = None) -> None:
        super().__init__(data, requires_grad=True, dtype=dtype)
        if not self.data.flags.writeable or not self.data.flags.c_contiguous:
            self.data = np.array(self.data, order="C")
        self.version = 0
        self.name = ""
        self.card: Any = None
        self.lock = threading.RLock()

    @contextlib.contextmanager
    def mutate(self) -> Iterator[NDArray]:
        """The values, for writing in place; the version moves when the context ends, also by an error."""
        with self.lock:
            try:
                yield self.data
            finally:
                self.version += 1

    def assign(self, values: ArrayLike) -> None:
        """Replace the values by others of the same shape (cast to this parameter's dtype)."""
        values = np.asarray(values)
        if values.shape != self.shape:
            raise ValueError(f"cannot assign values of shape {values.shape} to a parameter of shape {self.shape}")
        with self.mutate() as data:
            data[...] = values

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        with self.lock:
            copied = super().__deepcopy__(memo)
        copied.name = self.name
        return copied

    def title(self) -> str:
        """Name and shape, for errors."""
        return f"the parameter {self.name or '(without a name)'} {self.shape}"

    def __repr__(self) -> str:
        return "Parameter" + super().__repr__()[6:]


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


def tensors_of(values: Sequence[object]) -> list[Tensor]:
    """Those of `values` that are tensors."""
    return [value for value in values if isinstance(value, Tensor)]
