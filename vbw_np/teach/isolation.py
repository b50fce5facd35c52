"""Ask a learner's answer without sharing a process with it.

The code runs in a process of its own (`worker`), and what comes back is read as untrusted plain data: it may be cut
short, made up, or absent, and the worst that follows is a wrong answer. Python in a browser has no processes: there the
code runs in this one, which is the page's own and ends with it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UserError
from .worker import ANSWERS, REQUEST, answer_request

SECONDS = 60.0
MAX_ANSWERS = 64 << 20  # bytes
GRACE = 10.0  # seconds that the template gets for its own part


@dataclass
class Answers:
    """What came out of one process.

    Attributes
    ----------
    outcomes : list of dict
        As `asking.outcomes` writes them.
    errors : list of dict
        Cells that raised: `cell`, `type`, `words`, `line`, `text`.
    found : bool or None
        Whether the cells defined the target; None if they did not come to an end.
    ended : str
        How the process ended before it had answered everything.
    printed : str
    """

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    found: bool | None = None
    ended: str = "gave no answer"
    printed: str = ""


class Isolation:
    """Runs answers, each in a process of its own, from one template process. A context manager.

    Parameters
    ----------
    seconds : float
        Of wall time for each answer: its cells, and all its cases.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        if not 0 < seconds < 1e6:
            raise UserError(f"a time limit is a positive number of seconds, not {seconds}")
        self.seconds = seconds
        self._template: subprocess.Popen[str] | None = None

    def __enter__(self) -> Isolation:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def ask(
        self, cells: Sequence[dict[str, Any]], target: str, cases: Sequence[dict], rules: dict[str, bool], beside: Path
    ) -> Answers:
        """Run cells and ask what they define as `target` for every case.

        Parameters
        ----------
        cells : sequence of dict
            `source`, `label` and `number` of each.
        target : str
        cases : sequence of dict
            From `judging.plain_cases`.
        rules : dict
            From `Exercise.rules`.
        beside : Path
            The folder whose modules the code may import.
        """
        request = {"cells": list(cells), "target": target, "cases": list(cases), "rules": rules, "folder": str(beside)}
        if not has_processes():
            return _answers_here(request)
        with tempfile.TemporaryDirectory(prefix="vbw-answer-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            (folder / REQUEST).write_text(json.dumps(request), "utf-8")
            ending = self._run(folder)
            return _read(folder / ANSWERS, ending, self.seconds)

    def _run(self, folder: Path) -> dict[str, Any]:
        template = self._started()
        assert template.stdin is not None and template.stdout is not None
        try:
            template.stdin.write(json.dumps({"folder": str(folder), "seconds": self.seconds}) + "\n")
            template.stdin.flush()
            line = _line(template, self.seconds + GRACE)
            return json.loads(line)
        except (OSError, ValueError):
            self._stop()  # the template is gone or stuck; the next answer gets a new one
            return {"late": True, "code": None, "printed": ""}

    def _started(self) -> subprocess.Popen[str]:
        if self._template is None or self._template.poll() is not None:
            root = str(Path(__file__).resolve().parents[2])
            code = f"import sys; sys.path.insert(0, {root!r}); from vbw_np.teach import worker; worker.serve()"
            quiet = {k: v for k, v in os.environ.items() if k not in ("VBW_STRICT", "NBGRADER_EXECUTION")}
            self._template = subprocess.Popen(
                [sys.executable, "-P", "-c", code], env=quiet, text=True, encoding="utf-8",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        return self._template

    def _stop(self) -> None:
        if self._template is not None:
            with contextlib.suppress(OSError):
                self._template.stdin.close()  # type: ignore[union-attr]
            self._template.kill()
            self._template.wait()
            self._template.stdout.close()  # type: ignore[union-attr]
            self._template = None


def has_processes() -> bool:
    """Whether this system can start a process: WebAssembly cannot."""
    return sys.platform not in ("emscripten", "wasi")


def _answers_here(request: dict[str, Any]) -> Answers:
    """The same in this process, with no limits."""
    printed, records = io.StringIO(), []
    with contextlib.redirect_stdout(printed):
        answer_request(request, records.append)
    answers = Answers(printed=printed.getvalue())
    return _filled(answers, json.loads(json.dumps(records)))


def _line(template: subprocess.Popen[str], seconds: float) -> str:
    """A line of the template's; an empty one after so many seconds. (Only its own answers' strays could hold it up.)"""
    if os.name == "posix":
        ready, _, _ = select.select([template.stdout], [], [], seconds)
        if not ready:
            return ""
    return template.stdout.readline()  # type: ignore[union-attr]


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of an answer, up to the first that is none."""
    try:
        if not path.is_file():  # a pipe in its place would be waited for
            return
        with path.open("rb") as file:
            text = file.read(MAX_ANSWERS)
    except OSError:
        return
    for line in text.split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            return
        yield record


def _error(record: dict[str, Any]) -> dict[str, Any]:
    """A cell's exception, with every part of the type that it should have."""
    numbers = {key: record.get(key) if type(record.get(key)) is int else 0 for key in ("cell", "line")}
    return numbers | {key: str(record.get(key, ""))[:500] for key in ("type", "words", "text")}


def _read(path: Path, ending: dict[str, Any], seconds: float) -> Answers:
    answers = Answers(printed=ending["printed"])
    if ending["late"]:
        answers.ended = f"did not end within {seconds:g} seconds"
    elif ending["code"] is not None and ending["code"] < 0:
        answers.ended = f"ended the process with signal {-ending['code']}"
    else:
        answers.ended = f"ended the process (exit code {ending['code']})"
    return _filled(answers, list(_records(path)))


def _filled(answers: Answers, records: list[dict[str, Any]]) -> Answers:
    if records and isinstance(records[0].get("errors"), list):
        answers.found = records[0].get("found") is True
        answers.errors = [_error(e) for e in records[0]["errors"] if isinstance(e, dict)]
        answers.outcomes = records[1:]
    return answers

