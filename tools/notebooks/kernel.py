"""Run a notebook in a real Jupyter kernel, as a reader would, and hold its cells to their times.

    python tools/notebooks/kernel.py [02_e2m1 ...] [--seconds 3]

The tests run the notebooks in their own process; this shows that a kernel, its working directory and its display do
the same. Needs nbclient and ipykernel (the `docs` extra).
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import datetime
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", default=["02_e2m1"], help="notebooks (default: 02_e2m1)")
    parser.add_argument("--seconds", type=float, default=3.0, help="a cell may take, unless it is tagged slow")
    arguments = parser.parse_args()
    try:
        import nbformat
        from nbclient import NotebookClient
    except ImportError:
        sys.exit('nbclient is not installed: python -m pip install --editable ".[docs]"')
    os.environ.setdefault("VBW_FAST", "1")
    late = 0
    for name in arguments.names:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        client = NotebookClient(
            notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}
        )
        client.execute()
        slowest = 0.0
        for number, cell in enumerate(notebook.cells):
            times = cell.metadata.get("execution", {})
            if cell.cell_type != "code" or "iopub.execute_input" not in times:
                continue
            start, end = (
                datetime.fromisoformat(times[key].replace("Z", "+00:00"))
                for key in ("iopub.execute_input", "shell.execute_reply")
            )
            seconds = (end - start).total_seconds()
            slowest = max(slowest, seconds)
            if seconds > arguments.seconds and "slow" not in cell.metadata.get("tags", []):
                late += 1
                print(f"{name}: cell {number} took {seconds:.1f} s and is not tagged slow")
        pictures = sum("text/html" in out.get("data", {}) for c in notebook.cells for out in c.get("outputs", []))
        print(f"{name}: ran in a kernel; slowest cell {slowest:.1f} s; {pictures} outputs drawn as HTML")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
