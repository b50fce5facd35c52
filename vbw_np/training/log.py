"""The log of a run: one JSON object a line, each written at once, so that a killed process loses no whole line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError


class RunLog:
    """Appends to a file of JSON lines.

    Every entry names its step. `resume_after` forgets what a killed process wrote beyond its last checkpoint, and a
    last line that was cut, so a run that was interrupted leaves the same log as one that was not (but for the times).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, step: int, **values: Any) -> None:
        """Write one line in one system call; NaN and Inf become the strings "nan", "inf" and "-inf"."""
        line = json.dumps({"step": step, **{name: _plain(value) for name, value in values.items()}}) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def flush(self) -> None:
        """Have the system put all lines on the disk."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def resume_after(self, step: int) -> None:
        """Cut the file before its first line that is torn or belongs to a later step."""
        if not self.path.exists():
            return
        kept = 0
        for start, line in _lines(self.path.read_bytes()):
            entry = _parsed(line)
            if entry is None or entry["step"] > step:
                break
            kept = start + len(line)
        os.truncate(self.path, kept)

    def read(self) -> list[dict[str, Any]]:
        """All entries; a torn last line is left out, a damaged one in the middle is an error."""
        content = self.path.read_bytes() if self.path.exists() else b""
        entries = []
        for start, line in _lines(content):
            entry = _parsed(line)
            if entry is None:
                if start + len(line) < len(content):
                    raise UserError(f"log: {self.path} is damaged at byte {start}: {line[:60]!r} is no JSON object")
                break
            entries.append(entry)
        return entries


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    for line in content.splitlines(keepends=True):
        yield start, line
        start += len(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None
