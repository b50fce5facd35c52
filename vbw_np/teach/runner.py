"""Read a notebook and run it without Jupyter. Standard library only, apart from what the cells import.

The runner does what a kernel does for the cells of these notebooks: it executes them top to bottom in one namespace,
catches what they print, and shows the value of a last expression. There are no magics in the notebooks, so nothing
else is needed, and a run costs no more than its code.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import linecache
import re
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError

MAX_BYTES = 64 << 20
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


@dataclass
class Cell:
    """One cell, and after a run what came out of it.

    Attributes
    ----------
    kind : {"code", "markdown"}
    source : str
    metadata : dict
    stdout : str
    value : object or None
        Of the last expression.
    html : str or None
        How the value shows itself in a notebook.
    seconds : float
    error : str or None
        A traceback.
    """

    kind: str
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)
    stdout: str = ""
    value: Any = None
    html: str | None = None
    seconds: float = 0.0
    error: str | None = None

    @property
    def exercise(self) -> str | None:
        """The exercise that is answered here, by the cell's metadata: ours, or nbgrader's, which survives its tools."""
        return self._marked("exercise")

    @property
    def check(self) -> str | None:
        """The exercise that is checked here, by the cell's metadata."""
        return self._marked("check")

    @property
    def predicts(self) -> bool:
        """Whether the cell compares a guess with what is so: a page covers what comes out where nobody has guessed."""
        return re.search(r"\bpredict\(", self.source) is not None

    def _marked(self, kind: str) -> str | None:
        ours, nbgrader = self.metadata.get("vbw"), self.metadata.get("nbgrader")
        if isinstance(ours, dict) and isinstance(ours.get(kind), str):
            return ours[kind]
        grade_id = str(nbgrader.get("grade_id", "")) if isinstance(nbgrader, dict) else ""
        found = re.fullmatch(rf"{kind}-(\d\d)-(\d+)", grade_id)
        return f"{found[1]}.{found[2]}" if found else None


def read_notebook(path: str | Path) -> list[Cell]:
    """The cells of an ``.ipynb`` file.

    Raises
    ------
    UserError
        There is no such file, or it is not a notebook.
    """
    path = Path(path)
    try:
        document = json.loads(read_learners_file(path))
        cells = document["cells"]
        return [
            Cell(c["cell_type"], "".join(c["source"]), dict(c.get("metadata") or {}))
            for c in cells
            if c["cell_type"] in ("code", "markdown")
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a Jupyter notebook (JSON with a list of cells)") from None


def read_learners_file(path: Path) -> str:
    """The text of a file that somebody handed in.

    Raises
    ------
    UserError
        It is not there, not a file (a pipe would be waited for), not UTF-8, or larger than a notebook can be.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES // 2**20} MiB")
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def answer_with(source: str, body: str) -> str:
    """A cell's source with other lines between its solution marks, indented as the mark is.

    Raises
    ------
    UserError
        The cell has no pair of marks.
    """
    lines = source.splitlines()
    begins = [i for i, line in enumerate(lines) if line.strip() == BEGIN]
    ends = [i for i, line in enumerate(lines) if line.strip() == END]
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        raise UserError(f"the cell has no pair of marks {BEGIN!r} and {END!r}")
    begin, end = begins[0], ends[0]
    indent = re.match(r"\s*", lines[begin]).group()  # type: ignore[union-attr]
    new = [indent + line if line.strip() else "" for line in body.strip("\n").splitlines()]
    return "\n".join(lines[: begin + 1] + new + lines[end:])


def run_cell(cell: Cell, namespace: dict[str, Any], name: str, out: io.StringIO | None = None) -> None:
    """Execute one code cell; what it printed, showed and raised is kept in it. `out` may watch what it prints."""
    out = io.StringIO() if out is None else out
    start = time.perf_counter()
    linecache.cache[name] = (len(cell.source), None, cell.source.splitlines(True), name)  # so inspect finds sources
    try:
        tree = ast.parse(cell.source, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        quiet = cell.source.rstrip().endswith(";")
        with contextlib.redirect_stdout(out):
            exec(compile(tree, name, "exec"), namespace)
            if last is not None:
                cell.value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
        if quiet:
            cell.value = None
        show = getattr(cell.value, "_repr_html_", None)
        cell.html = show() if show is not None and not isinstance(cell.value, type) else None
    except Exception:
        cell.error = traceback.format_exc()
    cell.stdout = out.getvalue()
    cell.seconds = time.perf_counter() - start


def run_cells(cells: list[Cell], label: str = "notebook", *, stop: bool = True) -> dict[str, Any]:
    """Execute cells top to bottom in a fresh namespace, and return it; `stop` at the first that raises."""
    namespace: dict[str, Any] = {"__name__": "__main__", "display": _display}
    for number, cell in enumerate(cells):
        if cell.kind != "code":
            continue
        run_cell(cell, namespace, f"<{label}, cell {number}>")
        if cell.error and stop:
            break
    return namespace


def _display(*values: Any) -> None:
    for value in values:
        print(value)
