"""How long the cells of each notebook run here, the first time ever and later, as the notebooks' heads say it.

    python tools/notebooks/times.py [--write]

Each notebook runs in a process of its own, in their order, twice: first from an empty cache of compiled kernels, so
that a notebook compiles what none before it has needed, then again. Counted are the seconds of the processor that all
cells take: what a machine takes by the clock that does nothing else and has one core. `--write` keeps them in
tools/notebooks/times.json; then build.py writes the heads anew.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.notebooks import build  # noqa: E402

ONE = """
import os, sys
sys.path.insert(0, {root!r})
os.chdir(os.path.join({root!r}, "notebooks"))
from tools.notebooks import build
from vbw_np.teach.runner import Cell, run_cells
source = next(s for s in build.sources() if s.name == {name!r})
cells = [Cell(c["cell_type"], "".join(c["source"]), c["metadata"]) for c in build.notebook(source)["cells"]]
run_cells(cells, source.name)
assert not any(cell.error for cell in cells), [cell.error for cell in cells if cell.error][0]
"""


def seconds(name: str, cache: str) -> float:
    """Of a process that runs all cells of one notebook, as it ships."""
    environment = {k: v for k, v in os.environ.items() if k not in ("VBW_FAST", "NUMBA_CACHE_DIR")}
    source = ONE.format(root=str(ROOT), name=name)
    before = _processor_seconds()
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, env=environment | {"NUMBA_CACHE_DIR": cache}
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-1500:]}")
    return _processor_seconds() - before


def _processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help=f"keep the times in {build.TIMES.name}")
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for when in ("first", "later"):
            for source in build.sources():
                found.setdefault(source.name, {})[when] = took = round(seconds(source.name, cache), 1)
                print(f"{source.name:28} {when:6} {took:6.1f} s", flush=True)
    if arguments.write:
        build.TIMES.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
