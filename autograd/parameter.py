"""The parameter: a tensor that training changes; and the seam through which somebody else may compute with it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .tensor import Tensor


class Host(Protocol):
    """Whoever keeps a weight in a form of its own, and computes with it: the one seam between models and devices."""

    def linear(self, x: Tensor, weight: Parameter, bias: Tensor | None) -> Tensor:
        """x W^T + b, as `functional.linear` has it."""

    def linear_cross_entropy(self, x: Tensor, weight: Parameter, targets: NDArray) -> Tensor:
        """Mean cross-entropy of the logits x W^T: x (N, D), targets (N,)."""

    def has_only_copy(self) -> bool:
        """Whether the parameter's own values are gone, and nobody but the host can compute with it."""


class Parameter(Tensor):
    """A tensor that training changes, with a version number that moves when, and only when, its values do.

    Whatever keeps something derived from the values compares versions. So every change goes through `mutate`:
    optimizers, loading and initialization do.

    Attributes
    ----------
    version : int
        How many times the values were changed.
    name : str
        For people: the class and attribute it was first assigned to (``Linear.weight``), or empty.
    host : Host or None
        Who computes with this parameter in place of `functional.linear`, or None: it is computed right here.
    lock : threading.RLock
        Held while the values change; hold it to read values and version together.
    """

    __slots__ = ("host", "lock", "name", "version")

    def __init__(self, data: ArrayLike, *, dtype: DTypeLike | None = None) -> None:
        super().__init__(data, requires_grad=True, dtype=dtype)
        if not self.data.flags.writeable or not self.data.flags.c_contiguous:
            self.data = np.array(self.data, order="C")
        self.version = 0
        self.name = ""
        self.host: Host | None = None
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

    def __reduce__(self) -> tuple:
        with self.lock:
            kind, (data,), (_, state) = super().__reduce__()
            return kind, (data.copy(),), (None, state | {"name": self.name})

    def title(self) -> str:
        """Name and shape, for errors."""
        return f"the parameter {self.name or '(without a name)'} {self.shape}"

    def __repr__(self) -> str:
        return "Parameter" + super().__repr__()[6:]
