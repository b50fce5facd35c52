"""The recorded step as a whole: walk through it, ask about an element, keep it as JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..device.walk import Walk
from ..files import check_output, write_whole
from .event import PHASES, Event
from .page import Player
from .values import LABELS, Axis, Value, from_hex, to_hex

SCHEMA = "vbw-step/1"

CARDS = {"first": ("unit", "input"), "second": ("letter", "unit")}
"""The cards of the small model, and whose the rows and columns of their weights are."""

_OF_THE_WEIGHT = {"master", "codes", "fine tier", "decoding", "mean", "signs", "rotation", "random bits", "length",
                  "scale mended", "row-max", "update", "codes that changed", "same codes"}  # fmt: skip
_PRODUCTS = {"product", "product of the means", "both parts"}


class TrainingSteps(Walk[Event]):
    """The events of one training step.

        steps = vbw.step("nvfp4-train")
        print(steps.next())                       # one event at a time
        steps.goto("backward", "second")          # the first event of a phase, or of a kind, on a card
        steps.until("codes")                      # on to the next of a kind
        steps.follow("first", 3, 5, token=7)      # the same events, about another weight
        print(steps.explain(2, 4))                # this event, about another entry of its array

    Attributes
    ----------
    about : dict
        Recipe, seed, loss before and after.
    place : dict
        Token, input, unit and letter that sentences are about.
    """

    def __init__(self, events: Sequence[Event], about: dict[str, Any], place: dict[str, int]) -> None:
        super().__init__(events)
        self.about = about
        self.place = dict(place)

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return [event.at(self.place) for event in found] if isinstance(index, slice) else found.at(self.place)

    @property
    def sizes(self) -> dict[str, int]:
        """How many tokens, inputs, units and letters there are."""
        found: dict[str, int] = {}
        for event in self._events:
            for value in event.values.values():
                for axis, length in zip(value.axes, value.data.shape):
                    if axis.of and len(axis.of) == 1 and axis.per == 1 and axis.of[0][1] == 1:
                        found.setdefault(axis.of[0][0], length)  # what comes later may be filled up with zeros
        return {label: found[label] for label in LABELS}

    def follow(self, card: str, i: int, j: int, token: int | None = None) -> TrainingSteps:
        """Let all sentences be about weight [i, j] of a card, and about a token.

        The other card's weight is the one that lies on the same way: it reads what unit i made, or makes what is read.

        Raises
        ------
        LookupError, IndexError
        """
        if card not in CARDS:
            raise LookupError(f"there is no card {card!r}; there are: {', '.join(CARDS)}")
        wanted = dict(zip(CARDS[card], (i, j))) | ({} if token is None else {"token": token})
        for label, index in wanted.items():
            size = self.sizes[label]
            if not -size <= index < size:
                raise IndexError(f"there are {size} {label}s, and none of number {index}")
            self.place[label] = index % size
        return self

    def explain(self, i: int, j: int = 0) -> str:
        """What the event at which the reader stands says about entry [i, j] of its own array.

        Raises
        ------
        LookupError
            The reader stands before the first event.
        IndexError
        """
        event = self.now
        if event is None:
            raise LookupError("no event yet: call next(), or goto")
        place = event.place_of(i, j)
        for label, size in self.sizes.items():
            if place[label] >= size:
                raise IndexError(
                    f"entry {(i, j)} of {event.title} belongs to no {label}: the {size} {label}s were filled up with "
                    f"zeros before they were rotated; ask about {label} 0 to {size - 1}"
                )
        return str(event.at(place))

    def way(self, card: str) -> list[int]:
        """Numbers of the events on one weight's way: from a card's master weight to the loss, and back to its update.

        Raises
        ------
        LookupError
        """
        if card not in CARDS:
            raise LookupError(f"there is no card {card!r}; there are: {', '.join(CARDS)}")
        return [event.order for event in self._events if _on_the_way(event, card)]

    # -- as data

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data; arrays as hexadecimal digits of their bytes, each different one once."""
        arrays: dict[tuple[str, tuple[int, ...], str], str] = {}

        def stored(value: Value) -> dict[str, Any]:
            key = (value.data.dtype.name, value.data.shape, to_hex(value.data))
            name = arrays.setdefault(key, f"a{len(arrays)}")
            return {"array": name, "axes": [axis.as_json() for axis in value.axes]}

        events = [
            {
                "order": event.order, "phase": event.phase, "card": event.card, "part": event.part,
                "kind": event.kind, "sentence": event.sentence,
                "values": {name: stored(value) for name, value in event.values.items()},
                "facts": dict(event.facts), "shows": list(event.shows),
            }
            for event in self._events
        ]  # fmt: skip
        named = {name: {"dtype": d, "shape": list(s), "hex": h} for (d, s, h), name in arrays.items()}
        return {
            "schema": SCHEMA, "about": self.about, "place": self.place, "sizes": self.sizes, "phases": PHASES,
            "ways": {card: self.way(card) for card in CARDS}, "arrays": named, "events": events,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainingSteps:
        """The inverse of `as_json`.

        Raises
        ------
        ValueError
            Data of another kind.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"this is no recorded step: its schema is {data.get('schema')!r}, not {SCHEMA}")
        arrays = {
            name: from_hex(array["hex"], array["dtype"], tuple(array["shape"]))
            for name, array in data["arrays"].items()
        }

        def value(stored: dict[str, Any]) -> Value:
            axes = [Axis(None) if a is None else Axis(tuple(a["of"].items()), a["per"]) for a in stored["axes"]]
            return Value.of(arrays[stored["array"]], *axes)

        events = [
            Event(
                e["order"], e["phase"], e["card"], e["part"], e["kind"], e["sentence"],
                {name: value(stored) for name, stored in e["values"].items()}, e["facts"], tuple(e["shows"]),
            )
            for e in data["events"]
        ]  # fmt: skip
        return cls(events, data["about"], data["place"])

    def save(self, path: str | Path) -> None:
        """Write the events as JSON, whole or not at all."""
        write_whole(check_output(path), json.dumps(self.as_json(), separators=(",", ":"), allow_nan=False))

    # -- for people

    def player(self) -> Player:
        """The page that plays this step, shown in a notebook by a cell that ends with it."""
        return Player(self)

    def __repr__(self) -> str:
        about = self.about
        return (
            f"TrainingSteps({len(self)} events of one step under {about['recipe']['name']}; loss {about['loss']:.6g}, "
            f"after the step {about['loss_after']:.6g}; .next() walks, print() reads)"
        )

    def _repr_html_(self) -> str:
        now = self.now
        rows = "".join(
            f"<tr><td>{event.order}</td><td>{html.escape(event.phase)}</td><td>{html.escape(event.card)}</td>"
            f"<td style='text-align:left'>{'<b>' if now is not None and event.order == now.order else ''}"
            f"{html.escape(event.title)}</td><td style='text-align:left'>{html.escape(event.say())}</td></tr>"
            for event in self
        )
        return (
            f"<p>{html.escape(repr(self))}</p><table><tr><th></th><th>phase</th><th>card</th><th>event</th>"
            f"<th>what happened</th></tr>{rows}</table>"
        )


def _on_the_way(event: Event, card: str) -> bool:
    """Whether an event is on the way of the weights of `card`."""
    if event.card == "model":
        back = card == "second" and (event.phase, event.kind) == ("backward", "ReLU")  # on from there to the first card
        return event.kind not in ("tokens", "update", "gradient of the embedding") and not back
    if event.kind in _PRODUCTS:  # the second card's come after the first one's, and back before them
        back_through = event.part == "gradient of the weight" or (card == "second" and event.phase == "backward")
        return (event.card == card and event.part != "gradient of the input") or (
            event.card == "second" and card == "first" and not back_through
        )
    return event.card == card and event.kind in _OF_THE_WEIGHT and event.part not in ("gradient", "weight, transposed")
