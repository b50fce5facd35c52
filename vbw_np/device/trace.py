"""What the device did, and when: spans that can be exported as a Chrome trace or walked one by one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = {
    "compute": "A product of the layer: everything below happens for it.",
    "hit": "The scale cache still holds this card's scales: they are used again.",
    "separate": "Precision separation: scales or codebook are computed afresh from the weight.",
    "pack": "The weight is rounded to codes, two to a byte.",
    "handshake": "Card and compute unit agree on which tiers to transfer.",
    "coarse": "The coarse tier travels over the link.",
    "fine": "The asked-for bit planes of the fine tier travel over the link.",
    "decode": "Codes and scales become numbers again, laid out for the product.",
    "decode hit": "The decode cache holds this very version of the weight: nothing is decoded.",
    "matmul": "The matrix product itself.",
    "backward": "A gradient's product.",
}


@dataclasses.dataclass
class Event:
    """One thing the device did.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    card : str
    start, duration : float
        Seconds; start counts from the beginning of the recording.
    thread : int
    values : dict
        The numbers at hand: bytes, errors, shapes.
    """

    kind: str
    card: str
    start: float
    duration: float
    thread: int
    values: dict[str, Any]

    @property
    def sentence(self) -> str:
        """What this event means, in one sentence."""
        return KINDS[self.kind]

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.values.items())
        return f"[{self.card}] {self.kind} ({1e3 * self.duration:.3f} ms): {self.sentence}" + (
            f"  {values}" if values else ""
        )


class Recorder:
    """Collects events of all threads; counters for the cache's and the link's bytes ride along."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.counters: list[tuple[float, str, dict[str, int]]] = []
        self._began = time.perf_counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def span(self, kind: str, card: str, **values: Any) -> Iterator[dict[str, Any]]:
        """Record what happens inside the context; values may be added to the dict it yields."""
        start = time.perf_counter()
        try:
            yield values
        finally:
            end = time.perf_counter()
            event = Event(kind, card, start - self._began, end - start, threading.get_ident(), values)
            with self._lock:
                self.events.append(event)

    def count(self, name: str, **values: int) -> None:
        """Record the state of a counter now."""
        with self._lock:
            self.counters.append((time.perf_counter() - self._began, name, values))

    def in_order(self) -> list[Event]:
        """The events by start; an outer one before those inside it."""
        return sorted(self.events, key=lambda event: (event.start, -event.duration))

    def chrome_trace(self) -> dict[str, Any]:
        """The recording in Chrome's trace format: one track a card (and thread), times in microseconds."""
        tracks: dict[tuple[str, int], int] = {}
        spans = []
        for event in self.in_order():
            track = tracks.setdefault((event.card, event.thread), len(tracks) + 1)
            spans.append(
                {
                    "ph": "X",
                    "name": event.kind,
                    "cat": "device",
                    "pid": 1,
                    "tid": track,
                    "ts": round(1e6 * event.start, 3),
                    "dur": round(1e6 * event.duration, 3),
                    "args": event.values,
                }
            )
        names = [{"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "Virtual Blackwell"}}]
        threads = sorted({thread for _, thread in tracks})
        for (card, thread), track in tracks.items():
            label = card if len(threads) == 1 else f"{card} (thread {threads.index(thread)})"
            names.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": track, "args": {"name": label}})
        counters = [
            {"ph": "C", "name": name, "pid": 1, "tid": 0, "ts": round(1e6 * at, 3), "args": values}
            for at, name, values in self.counters
        ]
        other = {"clock": "measured wall time of the emulation, not of Blackwell hardware"}
        return {"traceEvents": names + spans + counters, "displayTimeUnit": "ms", "otherData": other}

    def save(self, path: str | Path) -> None:
        """Write the Chrome trace as JSON, whole or not at all; open it at ui.perfetto.dev."""
        write_text(path, json.dumps(self.chrome_trace(), separators=(",", ":")))


def write_text(path: str | Path, text: str) -> None:
    """Write a file whole or not at all: into a temporary one beside it, flushed, then renamed."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
