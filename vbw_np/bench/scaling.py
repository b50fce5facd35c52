"""``vbw bench scaling``: what a batch costs as one setting grows: length, batch, width, vocabulary, threads, or the
whole model, up to a training step with 350 million parameters.

Every point is a run of ``vbw bench`` in a process of its own (threads are set before anything is loaded), on random
ids, so that each has the same data whatever its vocabulary. Before a point starts, its memory and time are told; one
that would not fit is left out, and said to be. A sweep's exponent is the power of the setting that the time grows with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from .. import machine, options

VERBS = {"scaling": "what a batch costs as length, batch, width, vocabulary, threads or the model grow"}

SWEEPS: dict[str, tuple[str, tuple[int, ...]]] = {
    "length": ("--seq-len", (32, 64, 128, 256)),
    "batch": ("--batch-size", (2, 4, 8, 16)),
    "width": ("--d-model", (64, 128, 256, 512)),
    "vocabulary": ("--vocab-size", (1_000, 10_000, 50_000, 100_000)),
    "threads": ("--threads", ()),
    "model": ("--d-model", (128, 256, 512, 768, 1232)),
}
"""What is varied: the option of ``vbw bench``, and its values; all else stays at the report's settings. Threads go from
1 to as many as there are; "model" is the width with experts four times as wide, 15 to 353 million parameters."""

SAFE = 0.9  # of the memory that is free: a point that needs more is left out


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
        "schema_version": 2,
        "recipe": arguments.recipe,
        "sweeps": {name: measure_sweep(name, arguments.recipe, arguments.batches) for name in sweeps},
    }
    return emit(arguments.json, measure, table)


def values_of(name: str, threads: int) -> tuple[int, ...]:
    """The values of a sweep on a machine with so many threads: 1, 2, 4 ... and all of them."""
    if name != "threads":
        return SWEEPS[name][1]
    return tuple(sorted({2**i for i in range(threads.bit_length()) if 2**i < threads} | {threads}))


def options_of(name: str, value: int) -> list[str]:
    """The options of ``vbw bench`` for a point."""
    more = ["--hidden", str(4 * value)] if name == "model" else []
    return [SWEEPS[name][0], str(value), *more]


def measure_sweep(name: str, recipe: str, batches: int) -> list[dict[str, Any]]:
    """One point for each value that this machine can run; what does not fit is there without times."""
    points: list[dict[str, Any]] = []
    for value in values_of(name, machine.cpu_count()):
        point: dict[str, Any] = {"value": value} | foretold(name, value, points, recipe)
        print(f"measuring {name} {value:,}{_foretold_text(point)}", file=sys.stderr)
        free = machine.memory_bytes().get("available")
        needed = point.get("predicted_memory_bytes", 0)
        if free is not None and needed > SAFE * free:
            point["left_out"] = f"needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
            print(f"  left out: it {point['left_out']}", file=sys.stderr)
        else:
            point |= measure_point(options_of(name, value), recipe, batches)
            if name == "length":
                point["graph_s"] = graph_seconds(value)
        points.append(point)
    return points


def foretold(name: str, value: int, before: list[dict[str, Any]], recipe: str) -> dict[str, Any]:
    """Of a point of the sweep "model": parameters, operations and memory; time, where a smaller one was measured."""
    if name != "model":
        return {}
    from ..device import get_recipe
    from ..models.claude4 import Claude4Config
    from . import growth

    step = growth.step(Claude4Config(d_model=value, hidden=4 * value), 8, 128, get_recipe(recipe).weight is not None)
    found = {"parameters": step.parameters, "flop": step.flop, "predicted_memory_bytes": step.memory_bytes}
    measured = [point for point in before if "later_median_s" in point]
    if measured:
        last = measured[-1]
        found["predicted_s"] = last["later_median_s"] * step.flop / last["flop"]
    return found


def _foretold_text(point: dict[str, Any]) -> str:
    if "parameters" not in point:
        return ""
    text = f": {point['parameters']:,} parameters, about {point['predicted_memory_bytes'] / 1e9:.1f} GB"
    return text + (f" and {point['predicted_s']:.2f} s a batch" if "predicted_s" in point else "")


def graph_seconds(length: int, graphs: int = 64) -> float:
    """The shortest paths of a batch: a graph of `length` tokens a window and head in each of two reflections, (T^3)."""
    import numpy as np

    from .. import kernels  # noqa: F401  importing it puts the fast kernels in place
    from ..layers.graph import shortest_paths

    distances = np.random.default_rng(0).exponential(size=(graphs, length, length)).astype(np.float32)
    shortest_paths.run(distances)
    samples = []
    for _ in range(5):
        start = time.perf_counter()
        shortest_paths.run(distances)
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def measure_point(options: list[str], recipe: str, batches: int) -> dict[str, Any]:
    """A run of ``vbw bench`` with these options, in its own process."""
    from ..errors import UserError

    command = [sys.executable, "-m", "vbw_np", "bench", "--data", "random", "--json", "-", "--quiet"]
    command += ["--recipe", recipe, "--batches", str(batches), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}")
    result = json.loads(done.stdout)
    found = result["runs"][0]
    return {
        "batch_s": found["batch_s"],
        "later_median_s": found["timing"]["later_median_s"],
        "floor_s": found["floor"]["median_s"],
        "times_floor": found["times_floor"],
        "peak_memory_bytes": result["peak_memory_bytes"],
    }


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"recipe {result['recipe']}; a later batch, median, and the fp32 floor of the same sizes"]
    for name, points in result["sweeps"].items():
        lines += ["", f"{name:>12}  seconds a batch     fp32 floor    times the floor{_MORE.get(name, '')}"]
        lines += [_line(point) for point in points]
        lines += _exponents(name, [point for point in points if "later_median_s" in point])
    return "\n".join(lines)


_MORE = {"model": "   parameters  peak memory (told)  told before", "length": "  shortest paths, T^3"}


def _line(p: dict[str, Any]) -> str:
    if "left_out" in p:
        return f"{p['value']:>12,}  left out: {p.get('parameters', 0):,} parameters; it {p['left_out']}"
    text = f"{p['value']:>12,}  {p['later_median_s']:15.3f}  {p['floor_s']:13.3f}  {p['times_floor']:17.2f}"
    if "parameters" in p:
        peak = p["peak_memory_bytes"]
        measured = "?" if peak is None else f"{peak / 1e9:.2f}"
        told = f"{p['predicted_s']:8.2f} s" if "predicted_s" in p else "-"
        text += f"  {p['parameters']:>11,}  {measured:>7} GB ({p['predicted_memory_bytes'] / 1e9:.2f})  {told:>11}"
    if "graph_s" in p:
        text += f"  {p['graph_s']:8.3f} s, {p['graph_s'] / p['later_median_s']:4.0%}"
    return text


def _exponents(name: str, points: list[dict[str, Any]]) -> list[str]:
    """The powers that the points grow with; of lengths also that of the shortest paths alone."""
    from .growth import exponent

    if len(points) < 2:
        return []
    size = "parameters" if name == "model" else "value"
    sizes = [point[size] for point in points]
    parts = [f"a batch {exponent(sizes, [p['later_median_s'] for p in points]):.2f}"]
    parts += [f"the last doubling {exponent(sizes[-2:], [p['later_median_s'] for p in points[-2:]]):.2f}"]
    parts += [f"the floor {exponent(sizes, [p['floor_s'] for p in points]):.2f}"]
    if name == "length":
        parts += [f"shortest paths {exponent(sizes, [p['graph_s'] for p in points]):.2f}"]
    return [f"{'exponent':>12}  {', '.join(parts)}"]
