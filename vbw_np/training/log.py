"""The log of a run: one JSON object a line, each written at once, so that a killed process loses no whole line."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_whole


class RunLog:
    """Appends to a file of JSON lines.

    Every entry names its step, the first one (step 0) the run. `resume_after` forgets what a killed process wrote
    beyond its last checkpoint, and a last line that was cut, so a run that was interrupted leaves the same log as one
    that was not (but for the times).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, step: int, **values: Any) -> None:
        """Write one line in one system call; NaN and Inf become the strings "nan", "inf" and "-inf"."""
        line = json.dumps({"step": step, **{name: _plain(value) for name, value in values.items()}}).encode() + b"\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            before = os.fstat(handle).st_size
            try:
                if os.write(handle, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                os.truncate(self.path, before)
                raise UserError(
                    f"log: cannot write {self.path}: {error.strerror}. The last checkpoint is as it was: free space, "
                    f"then go on with it (vbw train --resume {self.path.parent})."
                ) from error
        finally:
            os.close(handle)

    def run_id(self) -> str | None:
        """The id of the run that began this log, or None."""
        for _, line in _lines(self.path.read_bytes()):
            entry = _parsed(line)
            found = entry.get("run") if entry else None
            return found if isinstance(found, str) else None
        return None

    def flush(self) -> None:
        """Have the system put all lines on the disk."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def resume_after(self, step: int) -> None:
        """Take out what a killed process wrote beyond its checkpoint: lines of later steps, and a torn last one.

        A line that is no entry of a log is kept as it is: nobody knows whose it is.
        """
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        kept = []
        for _, line in _lines(content):
            entry = _parsed(line)
            if entry["step"] <= step if entry is not None else line.endswith(b"\n"):
                kept.append(line)
        whole = b"".join(kept)
        if content.startswith(whole):
            os.truncate(self.path, len(whole))
        else:
            write_whole(self.path, whole)

    def read(self) -> list[dict[str, Any]]:
        """All entries in order; lines that are none are left out, see `damaged`."""
        content = self.path.read_bytes() if self.path.exists() else b""
        parsed = (_parsed(line) for _, line in _lines(content))
        return [entry for entry in parsed if entry is not None]

    def damaged(self) -> list[int]:
        """Numbers of the lines, from 1, that are no entry of a log; a torn last one is not counted."""
        content = self.path.read_bytes() if self.path.exists() else b""
        lines = [line for _, line in _lines(content) if line.endswith(b"\n")]
        return [number for number, line in enumerate(lines, 1) if _parsed(line) is None]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    for line in content.split(b"\n"):
        line += b"\n"
        if start + len(line) > len(content):  # what follows the last line's end
            line = line[:-1]
            if not line:
                return
        yield start, line
        start += len(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None
