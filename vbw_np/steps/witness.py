"""What really happened: every span of the device with whole arrays, every node of the backward pass.

The events of a step are computed by the definitions, apart from the device. The witness is what they are held against.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..engine import autograd
from ..formats import PackedTensor

Key = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
    """One span of the device.

    Attributes
    ----------
    kind, card : str
    values : dict
        Numbers, packed tensors, and copies of arrays.
    keys : list of (int, int)
        Of the random draws that began inside it.
    """

    kind: str
    card: str
    values: dict[str, Any]
    keys: list[Key]


@dataclasses.dataclass(frozen=True, eq=False)
class Visit:
    """One node of the backward pass: the gradient that arrived, and what was handed on."""

    name: str
    arrived: NDArray
    handed_on: list[NDArray | None]


class Witness:
    """Watches a device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.spans: list[Span] = []
        self.visits: list[Visit] = []
        self.counters: list[tuple[str, dict[str, int]]] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[Witness]:
        """Record everything inside the context."""
        with self.device.trace() as recorder:
            recorder.span = self._span  # whole arrays in place of times
            with autograd.watch_backward(self._visit):
                yield self
            self.counters += [(name, values) for _, name, values in recorder.counters]

    @contextlib.contextmanager
    def _span(self, kind: str, card: str, **values: Any) -> Iterator[dict[str, Any]]:
        place, before = len(self.spans), self.device.generator.draws
        self.spans.append(Span(kind, card, {}, []))  # an outer one stands before those inside it
        yield values
        kept = {name: np.array(v) if isinstance(v, np.ndarray) else v for name, v in values.items() if _is_plain(v)}
        self.spans[place] = Span(kind, card, kept, self._keys(before))

    def _keys(self, before: int) -> list[Key]:
        again = autograd.Generator(self.device.generator.seed)
        again.draws = before
        return [again.next_key() for _ in range(self.device.generator.draws - before)]

    def _visit(self, node: autograd.Node, gradient: NDArray, arrays: list[NDArray | None]) -> None:
        handed_on = [None if array is None else np.array(array) for array in arrays]
        self.visits.append(Visit(node.primitive.name, np.array(gradient), handed_on))

    def of(self, card: str, kind: str) -> list[Span]:
        """The spans of one kind on one card."""
        return [span for span in self.spans if span.card == card and span.kind == kind]

    def visits_of(self, name: str) -> list[Visit]:
        """The visits of one primitive, in order."""
        return [visit for visit in self.visits if visit.name == name]


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | tuple | list | np.generic | np.ndarray | PackedTensor | type(None))
