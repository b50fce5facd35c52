"""Collects events while a step is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .event import Event
from .values import Value


class RecordingError(RuntimeError):
    """The definitions and the device disagree about a number of a step: a defect of one of them."""


class Story:
    """The events so far; what is added belongs to the current phase and card."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.phase, self.card, self.part = "forward", "model", ""

    def at(self, phase: str, card: str = "model", part: str = "") -> Story:
        """Go on in another phase, on another card, with another array."""
        self.phase, self.card, self.part = phase, card, part
        return self

    def add(
        self,
        kind: str,
        sentence: str,
        values: Mapping[str, Value] | None = None,
        facts: Mapping[str, Any] | None = None,
        shows: tuple[str, ...] = (),
    ) -> Event:
        """Tell one event."""
        place = (len(self.events), self.phase, self.card, self.part)
        event = Event(*place, kind, sentence, dict(values or {}), dict(facts or {}), shows)
        self.events.append(event)
        return event

    def agree(self, what: str, told: NDArray, seen: NDArray | None) -> None:
        """Raise if what was told is not, to the last bit, what the device did.

        Raises
        ------
        RecordingError
        """
        if seen is None or told.shape != np.shape(seen) or told.dtype != seen.dtype or told.tobytes() != seen.tobytes():
            raise RecordingError(
                f"{self.phase}, {self.card}: {what} by the definitions is not what the device computed; the step is "
                "not shown, since its numbers would not be the device's"
            )
