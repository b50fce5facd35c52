"""Read a notebook, run it without Jupyter, and grade it. Standard library only, apart from what the cells import.

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
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError

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
        """The exercise that is answered here."""
        return self.metadata.get("vbw", {}).get("exercise")


def read_notebook(path: str | Path) -> list[Cell]:
    """The cells of an ``.ipynb`` file.

    Raises
    ------
    UserError
        There is no such file, or it is not a notebook.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text("utf-8"))
        cells = document["cells"]
        return [
            Cell(c["cell_type"], "".join(c["source"]), dict(c.get("metadata", {})))
            for c in cells
            if c["cell_type"] in ("code", "markdown")
        ]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a Jupyter notebook (JSON with a list of cells)") from None


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


def run_cell(cell: Cell, namespace: dict[str, Any], name: str) -> None:
    """Execute one code cell; what it printed, showed and raised is kept in it."""
    out = io.StringIO()
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


def grade(path: str | Path, seed: int = 20_001) -> dict[str, Any]:
    """Run a learner's notebook and judge every exercise in it, on other cases than the learner saw.

    Returns
    -------
    dict
        ``file``, ``right``, ``total``, ``errors`` (cells that raised) and ``exercises``: name, title, state, message.
    """
    from .core import RIGHT, judge

    cells = read_notebook(path)
    found = [(cell.exercise, cell) for cell in cells if cell.exercise]
    if not found:
        raise UserError(f"{path} has no exercises of this curriculum in it")
    folder = str(Path(path).resolve().parent)
    sys.path.insert(0, folder)
    try:
        namespace = run_cells(cells, Path(path).name, stop=False)
    finally:
        sys.path.remove(folder)
    from .core import get_exercise

    verdicts = []
    for name, cell in found:
        exercise = get_exercise(name)
        answer = None if cell.error else namespace.get(exercise.target)
        result = judge(exercise, answer, seed)
        message = result.message
        if cell.error:
            message = "the cell raised: " + cell.error.strip().splitlines()[-1]
        verdicts.append({"name": name, "title": exercise.title, "state": result.state, "message": message})
    errors = [
        {"cell": number, "error": cell.error.strip().splitlines()[-1]}
        for number, cell in enumerate(cells)
        if cell.error
    ]
    right = sum(v["state"] == RIGHT for v in verdicts)
    return {"file": str(path), "right": right, "total": len(verdicts), "errors": errors, "exercises": verdicts}
