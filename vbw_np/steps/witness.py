"""What really happened: every span of the device with whole arrays, every node of the backward pass.

The events of a step are computed by the definitions, apart from the device. The witness is what they are held against.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..device.cache import OperandCache
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


@dataclasses.dataclass(frozen=True)
class Shared:
    """One question to the cache of shared operands: by which card, for which side of a product, and whether it knew."""

    card: str
    side: str
    hit: bool


class Witness:
    """Watches a device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.spans: list[Span] = []
        self.visits: list[Visit] = []
        self.shared: list[Shared] = []
        self.counters: list[tuple[str, dict[str, int]]] = []
        self._open: list[str] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[Witness]:
        """Record everything inside the context."""
        with self.device.trace() as recorder, self._asking():
            recorder.span = self._span  # whole arrays in place of times
            with autograd.watch_backward(self._visit):
                yield self
            self.counters += [(name, values) for _, name, values in recorder.counters]

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Note what the cache of shared operands is asked, inside the context."""
        unit, cache = self.device.unit, self.device.unit.operands
        unit.operands = _Asked(cache, lambda side, hit: self.shared.append(Shared(self._open[-1], side, hit)))
        try:
            yield
        finally:
            unit.operands = cache

    @contextlib.contextmanager
    def _span(self, kind: str, card: str, **values: Any) -> Iterator[dict[str, Any]]:
        place, before = len(self.spans), self.device.generator.draws
        self.spans.append(Span(kind, card, {}, []))  # an outer one stands before those inside it
        self._open.append(card)
        yield values
        self._open.pop()
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Asked:
    """The cache of shared operands, telling each question and whether the answer was there."""

    cache: OperandCache
    tell: Callable[[str, bool], None]

    def get(self, x: NDArray, kind: tuple, make: Callable[[], Any]) -> Any:
        made = []

        def making() -> Any:
            made.append(kind)
            return make()

        operand = self.cache.get(x, kind, making)
        self.tell(kind[0], not made)
        return operand


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | tuple | list | np.generic | np.ndarray | PackedTensor | type(None))
