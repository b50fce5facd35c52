"""One event of a recorded step, and the walk through all of them."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from .saying import fill
from .values import Place, Value, number, to_hex

PHASES = {
    "forward": "from tokens to logits",
    "loss": "how wrong the step was",
    "backward": "from the loss to every weight",
    "update": "the optimizer moves the master weights",
    "repack": "the next forward computation meets changed weights",
}
"""The parts of a step, in order."""


@dataclasses.dataclass(frozen=True, eq=False)
class Event:
    """One thing that happened, with all of its numbers.

    Attributes
    ----------
    order : int
    phase : str
        One of `PHASES`.
    card : str
        Name of the card, or "model" for what no card does.
    part : str
        Which array it is about: the weight, the activation, a gradient, a product.
    kind : str
    sentence : str
        A sentence with holes (`saying`).
    values : dict of str to Value
        Every number, to the bit.
    facts : dict
        Plain data: names, settings, lists of words.
    shows : tuple of str
        The values that a picture shows; the first of them is the event's own.
    place : dict
        The place whose numbers `str()` prints.
    """

    order: int
    phase: str
    card: str
    part: str
    kind: str
    sentence: str
    values: Mapping[str, Value]
    facts: Mapping[str, Any]
    shows: tuple[str, ...]
    place: Place = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """What, of what, where."""
        part = f"{self.part}: " if self.part else ""
        return f"{part}{self.kind}"

    def say(self, place: Place | None = None) -> str:
        """What a teacher would say, with the numbers of a place."""
        return fill(self.sentence, self.values, self.facts, self.place if place is None else place)

    def at(self, place: Place) -> Event:
        """The same event, about another place."""
        return dataclasses.replace(self, place=dict(place))

    def place_of(self, i: int, j: int = 0) -> dict[str, int]:
        """The place of entry [i, j] of the event's own array; what that does not say stays as it is."""
        place = dict(self.place)
        own = self.values[self.shows[0]] if self.shows else None
        indices = [i, j]
        for axis, length in zip(own.axes, own.data.shape) if own is not None else ():
            if axis.of is None or not axis.of:
                continue
            index = indices.pop(0) if indices else 0
            if not -length <= index < length:
                many = f", one entry for {axis.per} {axis.of[0][0]}s" if axis.per > 1 and len(axis.of) == 1 else ""
                raise IndexError(f"{self.title} has shape {own.data.shape}{many}; there is no entry {(i, j)}")
            first = (index % length) * axis.per
            if len(axis.of) == 1:
                label, stride = axis.of[0]
                if place[label] * stride // axis.per != index % length:
                    place[label] = first // stride
        return place

    def __str__(self) -> str:
        where = f"{self.phase}, {self.card}" if self.card else self.phase
        return f"[{self.order}] {where} | {self.title}\n    {self.say()}"

    __repr__ = __str__

    def numbers(self) -> list[tuple[str, str, str, str]]:
        """Every number at the place: its name, the number, its bytes, its kind."""
        found = []
        for name, value in self.values.items():
            entries = np.atleast_1d(value.at(self.place)).reshape(-1)
            hexes = ", ".join(to_hex(entry[None]) for entry in entries)
            found.append((name, ", ".join(map(number, entries)), hexes, value.data.dtype.name))
        return found

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(text)}</td>" for text in row) + "</tr>"
            for row in self.numbers()
        )
        head = "".join(f"<th style='text-align:left'>{word}</th>" for word in ("name", "number", "its bytes", "kind"))
        return (
            f"<p><b>{html.escape(self.title)}</b> <small>({self.order}: {html.escape(self.phase)}, "
            f"{html.escape(self.card)})</small><br>{html.escape(self.say())}</p>"
            + (f"<table><tr>{head}</tr>{rows}</table>" if rows else "")
        )
