"""``vbw bench scaling``: what a batch costs as one setting grows: length, batch, width, vocabulary, threads.

Every point is a run of ``vbw bench`` in a process of its own (threads are set before anything is loaded), on random
ids, so that each has the same data whatever its vocabulary.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from .. import options

VERBS = {"scaling": "what a batch costs as length, batch, width, vocabulary or threads grow"}

SWEEPS: dict[str, tuple[str, tuple[int, ...]]] = {
    "length": ("--seq-len", (32, 64, 128, 256)),
    "batch": ("--batch-size", (2, 4, 8, 16)),
    "width": ("--d-model", (64, 128, 256, 512)),
    "vocabulary": ("--vocab-size", (1_000, 10_000, 50_000, 100_000)),
    "threads": ("--threads", (1, 2)),
}
"""What is varied: the option of ``vbw bench``, and its values; all else stays at the report's settings."""


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add ``vbw bench scaling``."""
    parser = subparsers.add_parser("scaling", help=VERBS["scaling"], description=__doc__)
    parser.add_argument("--sweep", type=options.name, metavar="NAME",
                        help=f"one of {', '.join(SWEEPS)}; all of them if left out")  # fmt: skip
    parser.add_argument("--recipe", type=options.name, default="fp32", metavar="NAME",
                        help="what the cards compute with (fp32)")  # fmt: skip
    parser.add_argument("--batches", type=options.whole(2), default=5, metavar="N",
                        help="batches a point, the first left out (5)")  # fmt: skip
    parser.add_argument("--json", type=options.path, metavar="FILE",
                        help="write everything with raw samples; '-': to stdout, no table")  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    from ..device import get_recipe
    from ..errors import UserError
    from .output import emit

    if arguments.sweep is not None and arguments.sweep not in SWEEPS:
        raise UserError(f"--sweep {arguments.sweep}: there are {', '.join(SWEEPS)}")
    get_recipe(arguments.recipe)
    sweeps = [arguments.sweep] if arguments.sweep else list(SWEEPS)
    measure = lambda: {  # noqa: E731
        "schema_version": 1,
        "recipe": arguments.recipe,
        "sweeps": {name: measure_sweep(name, arguments.recipe, arguments.batches) for name in sweeps},
    }
    return emit(arguments.json, measure, table)


def measure_sweep(name: str, recipe: str, batches: int) -> list[dict[str, Any]]:
    """One point for each value that this machine can run."""
    from ..machine import cpu_count

    option, values = SWEEPS[name]
    if name == "threads":
        values = tuple(value for value in values if value <= cpu_count())
    points = []
    for value in values:
        print(f"measuring {name} {value:,}", file=sys.stderr)
        points.append({"value": value} | measure_point([option, str(value)], recipe, batches))
    return points


def measure_point(options: list[str], recipe: str, batches: int) -> dict[str, Any]:
    """A run of ``vbw bench`` with these options, in its own process."""
    from ..errors import UserError

    command = [sys.executable, "-m", "vbw_np", "bench", "--data", "random", "--json", "-", "--quiet"]
    command += ["--recipe", recipe, "--batches", str(batches), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}")
    found = json.loads(done.stdout)["runs"][0]
    return {
        "batch_s": found["batch_s"],
        "later_median_s": found["timing"]["later_median_s"],
        "floor_s": found["floor"]["median_s"],
        "times_floor": found["times_floor"],
    }


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"recipe {result['recipe']}; a later batch, median, and the fp32 floor of the same sizes"]
    for name, points in result["sweeps"].items():
        lines += ["", f"{name:>12}  seconds a batch     fp32 floor    times the floor"]
        lines += [
            f"{p['value']:>12,}  {p['later_median_s']:15.3f}  {p['floor_s']:13.3f}  {p['times_floor']:17.2f}"
            for p in points
        ]
    return "\n".join(lines)
