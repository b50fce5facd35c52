"""A line on stderr that says how far a run is; nothing where nobody watches.

    with Progress(total=20, label="training", items_per_step=1024) as progress:
        for batch in ...:
            progress.step(note=f"loss {loss:.3f}")

On a terminal the line is drawn over itself, at most ten times a second. Elsewhere (a file, a pipe, a log) nothing is
written unless asked for (`enabled=True`), and then whole lines, seconds apart.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

_REDRAW_S = 0.1
_LOG_S = 10.0


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody watches `stream` on a terminal that can redraw a line."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # no isatty, or closed
        return False


def use_color(stream: TextIO) -> bool:
    """Whether color is welcome there: a terminal, and ``NO_COLOR`` (no-color.org) unset or empty."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def clock_text(seconds: float) -> str:
    """``0:07``, ``12:34`` or ``1:02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Progress:
    """Steps done, items a second, time left.

    Parameters
    ----------
    total : int
        Steps in all.
    label : str
        What is going on.
    items_per_step : int
        What one step handles, such as batch_size * seq_len tokens.
    item : str
        What an item is called.
    enabled : bool, optional
        Default: on a terminal yes, elsewhere no.
    stream : text stream, optional
        Default: `sys.stderr`.
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        items_per_step: int = 1,
        item: str = "tokens",
        enabled: bool | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.total, self.label, self.items_per_step, self.item = total, label, items_per_step, item
        self.stream = sys.stderr if stream is None else stream
        self.redraws = is_terminal(self.stream)
        self.enabled = self.redraws if enabled is None else enabled
        self.clock = clock
        self.done = 0
        self._started = clock()
        self._drawn_at: float | None = None
        self._drawn_length = 0

    def __enter__(self) -> Progress:
        self._draw("", force=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def step(self, note: str = "", steps: int = 1) -> None:
        """Count steps done; `note` is shown at the end of the line."""
        self.done += steps
        self._draw(note, force=self.done >= self.total)

    def line(self, note: str = "") -> str:
        """The line as it stands: ``training 5/20  1,234 tokens/s  0:31 left  loss 6.1``."""
        parts = [f"{self.label} {self.done}/{self.total}"]
        seconds = self.clock() - self._started
        if self.done and seconds > 0:
            parts.append(f"{self.done * self.items_per_step / seconds:,.0f} {self.item}/s")
            if self.done < self.total:
                parts.append(f"{clock_text(seconds / self.done * (self.total - self.done))} left")
        return "  ".join(parts + [note] * bool(note))

    def close(self) -> None:
        """Clear the line of a terminal; what matters is printed elsewhere."""
        if self.enabled and self.redraws and self._drawn_length:
            self._write("\r" + " " * self._drawn_length + "\r")
            self._drawn_length = 0

    def _draw(self, note: str, force: bool) -> None:
        if not self.enabled:
            return
        now = self.clock()
        wait = _REDRAW_S if self.redraws else _LOG_S
        if not force and self._drawn_at is not None and now - self._drawn_at < wait:
            return
        self._drawn_at = now
        text = self.line(note)
        if not self.redraws:
            self._write(text + "\n")
            return
        text = text[: shutil.get_terminal_size().columns - 1]  # a wrapped line cannot be drawn over
        self._write("\r" + text.ljust(self._drawn_length))
        self._drawn_length = len(text)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):  # whoever watched has gone
            self.enabled = False
