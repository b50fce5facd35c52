"""A notebook's cells, run one at a time by a page in a browser where Python itself runs; plain data come back."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .claiming import CLAIMS, GUESSED
from .runner import Cell, run_cell


class Session:
    """One notebook's variables, and what its cells give.

    Parameters
    ----------
    label : str
        The notebook, as tracebacks call it.
    say : callable, optional
        Gets what a cell prints while it runs.
    """

    def __init__(self, label: str, say: Callable[[str], Any] | None = None) -> None:
        self.label = label
        self.say = say
        self.namespace: dict[str, Any] = {"__name__": "__main__", "display": print}

    def run(self, number: int, source: str, metadata: str = "{}") -> str:
        """Run a cell.

        Parameters
        ----------
        number : int
            Its place in the notebook.
        source : str
        metadata : str
            The notebook's metadata of the cell, as JSON.

        Returns
        -------
        str
            JSON: `stdout`; `html` (how its value shows itself) or `value` (its text); `error`, a traceback that begins
            in the notebook; `seconds`; `claims`, how many held so far; `unguessed`, whether it compared a guess
            that nobody has made.
        """
        cell = Cell("code", source, json.loads(metadata))
        before = len(GUESSED)
        run_cell(cell, self.namespace, self._name(number), _Watched(self.say))
        value = None if cell.html or cell.value is None else repr(cell.value)
        shown = cell.html and getattr(cell.value, "page_html", lambda: cell.html)()
        return json.dumps(
            {
                "stdout": cell.stdout, "html": shown, "value": value, "seconds": cell.seconds,
                "error": cell.error and self._own_part(cell.error), "claims": len(CLAIMS),
                "unguessed": not all(GUESSED[before:]),
            }
        )  # fmt: skip

    def _name(self, number: int) -> str:
        return f"<{self.label}, cell {number}>"

    def _own_part(self, error: str) -> str:
        """A traceback without the frames of what ran the cell."""
        frame = re.search(rf'^  File "<{re.escape(self.label)}, cell \d+>"', error, re.M)
        return f"Traceback (most recent call last):\n{error[frame.start():]}" if frame else error


class _Watched(io.StringIO):
    """What is printed, kept and handed on."""

    def __init__(self, say: Callable[[str], Any] | None) -> None:
        super().__init__()
        self._say = say

    def write(self, text: str) -> int:
        if self._say is not None and text:
            self._say(text)
        return super().write(text)


def save_notebook(folder: str, name: str, document: str, edits: str) -> None:
    """Write a notebook with the reader's cells in place of its own, where `own_parts` looks for it.

    Parameters
    ----------
    folder, name : str
    document : str
        The notebook's JSON.
    edits : str
        JSON: cell id to source.
    """
    notebook, changed = json.loads(document), json.loads(edits)
    for cell in notebook["cells"]:
        if cell["id"] in changed:
            cell["source"] = changed[cell["id"]].splitlines(keepends=True)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(json.dumps(notebook), "utf-8")
