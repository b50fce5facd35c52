"""What the device did, and when: spans that can be exported as a Chrome trace or walked one by one."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import itertools
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import write_whole
from ..formats import BlockFormat, PackedTensor
from ..formats.explain import Explanation, explain_element
from .largest import MASSIVE, Largest, largest_input
from .walk import Walk

KINDS = {
    "batch": "One training batch: forward, backward and the optimizer's step.",
    "forward": "The model's forward computation.",
    "backward pass": "The gradients, from the loss back to the parameters.",
    "optimizer": "The optimizer changes the master weights, and with them their version numbers.",
    "compute": "A product of the layer: everything below happens for it.",
    "hit": "The scale cache still holds this card's scales: they are used again.",
    "separate": "Precision separation: scales or codebook are computed afresh from the weight, the tiers agreed on.",
    "pack": "The weight has changed since it was packed: it is rounded to codes again, under the scales that are kept.",
    "handshake": "Card and compute unit agree on which tiers to transfer.",
    "coarse": "The coarse tier travels over the link.",
    "fine": "The asked-for bit planes of the fine tier travel over the link.",
    "decode": "Codes and scales become numbers again, laid out for the product.",
    "decode hit": "The decode cache holds this very version of the weight: nothing is decoded.",
    "matmul": "The matrix product itself.",
    "sum": "One output's sum inside the tensor core: terms, exponents, what is cut off.",
    "backward": "A gradient comes back and is multiplied, for the gradient `of` the layer's input, weight or bias.",
}

ENGINES = {"handshake": "link", "coarse": "link", "fine": "link"}  # kinds with a track of their own; else the card's

_PLAIN = (str, int, float, tuple, list, np.generic, type(None))  # what an event keeps as it is

SAMPLE = 8  # entries of an array that a step shows


@dataclasses.dataclass(frozen=True)
class Sample:
    """The first entries of an array that was at hand during an event.

    Attributes
    ----------
    shape : tuple of int
    dtype : str
    first : ndarray
        A copy of the first `SAMPLE` entries, in memory order.
    """

    shape: tuple[int, ...]
    dtype: str
    first: NDArray

    @classmethod
    def of(cls, array: NDArray) -> Sample:
        return cls(array.shape, str(array.dtype), array.reshape(-1)[:SAMPLE].copy())

    def __str__(self) -> str:
        if self.first.dtype == np.uint8:  # packed codes: two to a byte, the first in the low nibble
            shown = " ".join(f"{byte:02x}" for byte in self.first)
        else:
            shown = ", ".join(f"{value:.4g}" for value in self.first)
        more = " ..." if math.prod(self.shape) > len(self.first) else ""
        return f"{self.dtype}{list(self.shape)} {shown}{more}"


def samples_of(values: dict[str, Any]) -> dict[str, Sample]:
    """Samples of the arrays among `values`; of a packed weight, its bytes of codes and its decoded block scales."""
    samples = {}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            samples[name] = Sample.of(value)
        elif isinstance(value, PackedTensor):
            samples["codes"], samples["scales"] = Sample.of(value.codes), Sample.of(value.decoded_scales())
    return samples


@dataclasses.dataclass
class Event:
    """One thing the device did.

    Attributes
    ----------
    kind : str
        One of `KINDS`, or a name that a caller gave to a span of its own.
    card : str
        The card's (layer's) name, or that of another engine, such as the training loop.
    start, end : int
        Nanoseconds since the beginning of the recording.
    order : int
        Number of the event in the order of beginnings.
    depth : int
        How many events of the same thread were going on around it.
    thread : int
    values : dict
        The numbers at hand: bytes, errors, shapes.
    samples : dict of str to Sample
        First entries of the arrays at hand, where they were asked for.
    packed : PackedTensor or None
        The packed weight at hand, where samples were asked for.
    largest : Largest or None
        The largest number of the input at hand, where samples were asked for.
    """

    kind: str
    card: str
    start: int
    end: int
    order: int
    depth: int
    thread: int
    values: dict[str, Any]
    samples: dict[str, Sample]
    packed: PackedTensor | None = None
    largest: Largest | None = None

    @property
    def duration(self) -> float:
        """Seconds."""
        return (self.end - self.start) * 1e-9

    @property
    def sentence(self) -> str:
        """What this event means, in one sentence."""
        return KINDS.get(self.kind, "A span that the caller named.")

    def facts(self) -> list[tuple[str, str]]:
        """The values and samples at hand, as names and text."""
        values = [(name, f"{v:.4g}" if isinstance(v, float) else str(v)) for name, v in self.values.items()]
        massive = self.largest is not None and self.largest.times >= MASSIVE
        told = [("massive", str(self.largest))] if massive else []
        return values + [(name, str(sample)) for name, sample in self.samples.items()] + told

    def __str__(self) -> str:
        indent = "  " * self.depth
        lines = [f"{indent}[{self.card}] {self.kind} ({1e3 * self.duration:.3f} ms): {self.sentence}"]
        return "\n".join(lines + [f"{indent}    {name} = {value}" for name, value in self.facts()])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>"
            f"<code>{html.escape(value)}</code></td></tr>"
            for name, value in self.facts()
        )
        return (
            f"<p style='margin-left:{self.depth}em'><b>{html.escape(self.kind)}</b> on <code>{html.escape(self.card)}"
            f"</code>, {1e3 * self.duration:.3f} ms: {html.escape(self.sentence)}</p>"
            f"<table style='margin-left:{self.depth + 1}em'>{rows}</table>"
        )


class Recorder:
    """Collects events of all threads; counters for the cache's and the link's bytes ride along.

    Parameters
    ----------
    samples : bool
        Whether to keep the first entries of arrays that are at hand. (Never whole arrays: a recording stays small.)
    """

    def __init__(self, samples: bool = False) -> None:
        self.samples = samples
        self.events: list[Event] = []
        self.counters: list[tuple[int, str, dict[str, int]]] = []
        self._began = time.perf_counter_ns()
        self._order = itertools.count()
        self._depth = threading.local()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def span(self, kind: str, card: str, **values: Any) -> Iterator[dict[str, Any]]:
        """Record what happens inside the context; values and arrays may be added to the dict it yields."""
        order, depth = next(self._order), getattr(self._depth, "value", 0)
        self._depth.value = depth + 1
        start = time.perf_counter_ns()
        try:
            yield values
        finally:
            end = time.perf_counter_ns()
            self._depth.value = depth
            plain = {name: value for name, value in values.items() if isinstance(value, _PLAIN)}
            samples = samples_of(values) if self.samples else {}
            times = start - self._began, end - self._began
            held = [value for value in values.values() if isinstance(value, PackedTensor)] if self.samples else []
            packed = held[-1] if held else None
            largest = largest_input(values) if self.samples else None
            event = Event(kind, card, *times, order, depth, threading.get_ident(), plain, samples, packed, largest)
            with self._lock:
                self.events.append(event)

    def count(self, name: str, **values: int) -> None:
        """Record the state of a counter now."""
        with self._lock:
            self.counters.append((time.perf_counter_ns() - self._began, name, values))

    def in_order(self) -> list[Event]:
        """The events in the order of their beginnings; an outer one before those inside it."""
        return sorted(self.events, key=lambda event: event.order)

    def chrome_trace(self) -> dict[str, Any]:
        """The recording in Chrome's trace format: one track a card or engine (and thread), times in microseconds.

        Events of one track are strictly nested, since those of a thread are.
        """
        tracks: dict[tuple[str, int], int] = {}
        spans = []
        for event in self.in_order():
            engine = ENGINES.get(event.kind, event.card)
            values = {name: _jsonable(value) for name, value in event.values.items()}
            spans.append(
                {
                    "ph": "X",
                    "name": event.kind,
                    "cat": "device",
                    "pid": 1,
                    "tid": tracks.setdefault((engine, event.thread), len(tracks) + 1),
                    "ts": event.start / 1000,
                    "dur": (event.end - event.start) / 1000,
                    "args": values if engine == event.card else {"card": event.card, **values},
                }
            )
        names = [{"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "Virtual Blackwell"}}]
        threads = list(dict.fromkeys(thread for _, thread in tracks))
        for (engine, thread), track in tracks.items():
            label = engine if len(threads) == 1 else f"{engine} (thread {threads.index(thread)})"
            names.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": track, "args": {"name": label}})
            place = {"sort_index": track}
            names.append({"ph": "M", "name": "thread_sort_index", "pid": 1, "tid": track, "args": place})
        counters = [
            {"ph": "C", "name": name, "pid": 1, "tid": 0, "ts": at / 1000, "args": values}
            for at, name, values in self.counters
        ]
        other = {"clock": "measured wall time of the emulation, not of Blackwell hardware"}
        return {"traceEvents": names + spans + counters, "displayTimeUnit": "ms", "otherData": other}

    def save(self, path: str | Path) -> None:
        """Write the Chrome trace as JSON, whole or not at all; open it at ui.perfetto.dev."""
        write_whole(path, json.dumps(self.chrome_trace(), separators=(",", ":"), allow_nan=False))


class Steps(Walk[Event]):
    """The events of one call, to walk through: `next`, `back`, `goto("backward", card)`, `until("fine")`, `explain`.

    Attributes
    ----------
    result : Any
        What the function returned.
    inputs : str, BlockFormat or None
        The format that `explain_input` takes if none is named.
    """

    def __init__(self, events: Sequence[Event], result: Any, inputs: str | BlockFormat | None = None) -> None:
        super().__init__(events)
        self.result, self.inputs = result, inputs

    def massive(self) -> list[Event]:
        """The events that had an input at hand, the one with the most unusual number first."""
        return sorted((e for e in self if e.largest is not None), key=lambda event: -event.largest.times)

    def explain_input(self, fmt: str | BlockFormat | None = None) -> Explanation:
        """The largest input of the card at which the reader stands: its bits in a format, and what its block lost.

        Parameters
        ----------
        fmt : str or BlockFormat, optional
            That of the recipe's inputs if there is one, else that of its weights.

        Raises
        ------
        LookupError
            The reader stands before the first event, or no input of this card was at hand yet.
        """
        if self.now is None:
            raise LookupError("no event yet: call next(), or goto")
        seen = [e.largest for e in self[: self._next] if e.card == self.now.card and e.largest is not None]
        if not seen:
            raise LookupError(f"no input of {self.now.card!r} was at hand yet; go on with until('matmul')")
        fmt = self.inputs if fmt is None else fmt
        if fmt is None:
            raise LookupError("the recipe has no format; name one, such as nvfp4")
        return seen[-1].explain(fmt)

    def explain(self, i: int, j: int = 0) -> Explanation:
        """Entry [i, j] of the packed weight of the card at which the reader stands: its byte, its bits, its scale.

        Raises
        ------
        LookupError
            The reader stands before the first event, or at one that no packed weight was at hand for before.
        IndexError
            The weight has no such entry.
        """
        if self.now is None:
            raise LookupError("no event yet: call next(), or goto")
        seen = [e.packed for e in self[: self._next] if e.card == self.now.card and e.packed is not None]
        if not seen:
            raise LookupError(
                f"no packed weight of {self.now.card!r} was at hand yet; go on with until('separate') or "
                "until('decode')"
            )
        return explain_element(seen[-1], (i, j))

    def _repr_html_(self) -> str:
        here = self.now
        rows = "".join(
            f"<tr><td>{n}</td><td style='text-align:left;padding-left:{event.depth}em'>"
            f"{'<b>' if event is here else ''}{html.escape(event.kind)}</td><td>{html.escape(event.card)}</td>"
            f"<td style='text-align:left'>{html.escape(event.sentence)}</td></tr>"
            for n, event in enumerate(self)
        )
        head = "<tr><th></th><th>event</th><th>card</th><th></th></tr>"
        return f"<p>{html.escape(repr(self))}</p><table>{head}{rows}</table>"

    def __repr__(self) -> str:
        return f"Steps({len(self)} events; iterate, or walk: .next(), .back(), .goto(kind, card), .until(kind))"


def _jsonable(value: Any) -> Any:
    """JSON knows no NumPy numbers and no infinities."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return [_jsonable(part) for part in value] if isinstance(value, tuple | list) else value
