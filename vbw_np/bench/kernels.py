"""``vbw bench kernels``: every kernel against numpy, in the same process and in turns.

A case has our function, numpy's (or the readable definition), the work that both do, and the goal, if there is one.
Speeds are ratios of medians within one run; the share of the machine's limit uses limits that small kernels of ours
measure in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .. import options

VERBS = {"kernels": "each kernel against numpy, in turns, with its share of the machine's limit"}

LIMITS = {
    "read": ("read_gbytes", "GB/s read from memory"),
    "cache": ("read_cache_gbytes", "GB/s read from 8 MB"),
    "copy": ("copy_gbytes", "GB/s copied, read and written"),
    "fp32": ("fma_gflops", "GFLOP/s of fp32 multiply-adds"),
    "product": ("product", "GOP/s of the products of the instruction set"),
}
"""The machine's limits: their key among the measured peaks, and what they are."""

QUICK = 4
"""``--quick`` divides the sizes by about this."""


@dataclasses.dataclass
class Case:
    """One comparison.

    Attributes
    ----------
    group, name : str
    unit : str
        Of `work` a second: "GB" for bytes moved, "GFLOP" for arithmetic.
    work : float
        Bytes or operations of one call, in units of 1e9.
    ours, numpy : callable
        Both do the same work; `numpy` may be None where there is nothing to compare with.
    goal : float or None
    goal_kind : str
        "speedup" (ours at least `goal` times as fast as numpy), "share" (time at most `goal` times numpy's) or "limit"
        (at least this share of the machine's limit).
    limit : str
        Which of `LIMITS` bounds it.
    """

    group: str
    name: str
    unit: str
    work: float
    ours: Callable[[], object]
    numpy: Callable[[], object] | None
    goal: float | None = None
    goal_kind: str = "speedup"
    limit: str = "copy"


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add ``vbw bench kernels``."""
    parser = subparsers.add_parser("kernels", help=VERBS["kernels"], description=__doc__)
    parser.add_argument("--only", type=options.text, metavar="TEXT", help="the cases whose group or name contains TEXT")
    parser.add_argument("--rounds", type=options.whole(1), default=9, metavar="N",
                        help="measurements of each function (9)")  # fmt: skip
    parser.add_argument("--threads", type=options.whole(1), metavar="N",
                        help="for BLAS and numba (as many as they take)")  # fmt: skip
    parser.add_argument("--isa", type=options.name, metavar="NAME",
                        help="as on a machine that has no more than it; 'all': a table for each")  # fmt: skip
    parser.add_argument("--blas", type=options.name, metavar="NAME",
                        help="let OpenBLAS use these kernels (Haswell, SkylakeX, ...)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that all runs, not how fast")
    parser.add_argument("--json", type=options.path, metavar="FILE",
                        help="write everything with raw samples; '-': to stdout, no table")  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    from .environment import prepare_process
    from .output import emit

    if arguments.isa is not None:
        from .isas import chosen

        names = chosen(arguments.isa)
        return emit(arguments.json, lambda: _measure_isas(names, arguments), lambda found: in_short(found["tables"]))
    taken_away = prepare_process(arguments.threads, arguments.blas)

    def result() -> dict[str, Any]:
        found = measure(arguments.only, arguments.rounds, arguments.quick)
        return found | {"variables_taken_away": taken_away}

    return emit(arguments.json, result, table)


def _measure_isas(names: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Each instruction set in a process of its own; its table is printed when it is there."""
    from . import isas

    given = {"--only": arguments.only, "--rounds": arguments.rounds, "--threads": arguments.threads}
    same = [text for name, value in given.items() if value is not None for text in (name, str(value))]
    same += ["--quick"] if arguments.quick else []
    tables = {}
    for name in names:
        tables[name] = isas.measure(name, same)
        if arguments.json != "-":
            print(table(tables[name]), end="\n\n\n", flush=True)
    return {"schema_version": 1, "tables": tables}


def in_short(tables: dict[str, dict[str, Any]]) -> str:
    """What has a goal or is held against BLAS, an instruction set a column; a missed goal is marked with !."""
    cells: dict[str, dict[str, str]] = {}
    for isa, result in tables.items():
        for row in result["cases"]:
            if row["goal_kind"] == "limit" and row["limit_share"] is not None:
                value = f"{row['limit_share']:.0%} of {row['limit']}"
            elif row["speedup"] is not None:
                share = row["goal_kind"] == "share"
                value = f"{1 / row['speedup']:.2f} of its time" if share else f"{row['speedup']:.2f} x"
            else:
                continue
            mark = "!" if row["met"] is False else ""
            cells.setdefault(f"{row['group']}: {row['name']}", {})[isa] = value + mark
    lines = ["in short, each against numpy or the machine's limit; !: its goal is missed"]
    lines.append(f"{'':<110}" + "".join(f"{isa:>18}" for isa in tables))
    for name, values in cells.items():
        lines.append(f"{name:<110}" + "".join(f"{values.get(isa, '-'):>18}" for isa in tables))
    return "\n".join(lines)


def measure(only: str | None = None, rounds: int = 9, quick: bool = False) -> dict[str, Any]:
    """All cases (whose group or name contains `only`), as plain data with raw samples in seconds."""
    from ..errors import UserError
    from ..simd import cpu, jit
    from . import timing
    from .environment import describe

    limits = machine_limits(quick)
    rows = []
    for case in cases(quick):
        if only and only not in case.group and only not in case.name:
            continue
        print(f"measuring {case.group}: {case.name}", file=sys.stderr)
        functions = {"ours": case.ours} | ({"numpy": case.numpy} if case.numpy else {})
        samples = timing.interleaved(functions, rounds, timing.MIN_SECONDS / (10 if quick else 1))
        seconds = {name: timing.median(values) for name, values in samples.items()}
        rate = case.work / seconds["ours"]
        speedup = timing.paired_ratio(samples["numpy"], samples["ours"]) if case.numpy else None
        goal = None if quick else case.goal  # goals are for the full sizes
        limit = rate / limits[case.limit] if limits.get(case.limit) else None
        reached = {"speedup": speedup, "share": 1 / speedup if speedup else None, "limit": limit}[case.goal_kind]
        met = None
        if goal is not None and reached is not None:
            met = reached <= goal if case.goal_kind == "share" else reached >= goal
        rows.append(
            {
                "group": case.group,
                "name": case.name,
                "unit": case.unit,
                "work": case.work,
                "seconds": seconds,
                "samples_s": samples,
                "rate_per_s": rate,
                "speedup": speedup,
                "limit": case.limit,
                "limit_share": limit,
                "goal": goal,
                "goal_kind": case.goal_kind,
                "met": met,
            }
        )
    if not rows:
        raise UserError(f"no kernel's group or name contains {only!r}; leave --only out to see them all")
    return {
        "schema_version": 1,
        "quick": quick,
        "rounds": rounds,
        "instruction_set": cpu.choose(),
        "compiled_for": sys.modules["numba"].config.CPU_NAME,
        "limits": limits,
        "jit_seconds": jit.compile_seconds(),
        "machine": describe(),
        "cases": rows,
    }


def machine_limits(quick: bool) -> dict[str, float]:
    """What this machine can do, measured now by small kernels of ours; see `LIMITS` for the names and units."""
    from ..simd import cpu
    from . import peaks

    found = peaks.measure_peaks(sys.modules["numba"].get_num_threads(), quick)
    found["product"] = found["tile_gflops"] if cpu.choose() == "amx" else found["byte_dot_gops"]
    return {name: found[key] for name, (key, _) in LIMITS.items() if found[key] is not None}


def cases(quick: bool) -> Iterator[Case]:
    """The cases, made one at a time so that their arrays do not all live at once."""
    yield from _quantize_cases(quick)
    yield from _product_cases(quick)
    yield from _blackwell_cases(quick)
    yield from _fp8_cases(quick)
    yield from _fp32_cases(quick)
    yield from _vector_cases(quick)
    yield from _step_cases(quick)


GOALS = {
    "avx512vnni": {"product mxfp4": 3.0, "product nvfp4": 2.7, "column mxfp4": 15, "column nvfp4": 15, "columns": 15},
    "avx2": {"product mxfp4": 2.6, "product nvfp4": 2.2, "column mxfp4": 13, "column nvfp4": 10, "columns": 12},
    "portable": {"product mxfp4": 1, "product nvfp4": 1, "column mxfp4": 1, "column nvfp4": 1, "columns": 1},
}
"""How many times as fast as BLAS products are to be, where that depends on the instruction set."""


def _goal_of(what: str) -> float | None:
    from ..simd import cpu

    isa = cpu.choose_vector()
    return GOALS.get("avx2" if isa == "avxvnni" else isa, {}).get(what)


def _size(n: int, quick: bool) -> int:
    return max(n // QUICK, 1) if quick else n


def _normal(*shape: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _quantize_cases(quick: bool) -> Iterator[Case]:
    import numpy as np

    from ..engine import autograd
    from ..kernels.fp4.dequantize import dequantize
    from ..kernels.fp4.quantize import quantize

    empty = autograd.memory.empty  # rows that begin at cache lines, as in training
    for rows, columns in ((4096, 4096), (50_000, 256)):
        x = _normal(_size(rows, quick), columns)
        amax = np.float32(np.abs(x).max())
        shape = f"{x.shape[0]} x {x.shape[1]}"
        gigabytes = x.nbytes / 1e9
        for fmt, goal, known in (("mxfp4", 0.85, None), ("nvfp4", 0.75, amax), ("nvfp4", 0.375, None)):  # reads twice
            out = quantize(x, fmt)
            label = f"{fmt}{', amax known' if known is not None else ''}, {shape}"
            yield Case(
                "quantize and pack", label, "GB", gigabytes,
                lambda f=fmt, k=known, o=out, x=x: quantize(x, f, amax=k, out=o), None, goal, "limit", "read",
            )  # fmt: skip
        for fmt in ("mxfp4", "nvfp4"):
            packed = quantize(x, fmt)
            out = empty(x.shape)
            yield Case(
                "dequantize", f"{fmt}, {shape}", "GB", gigabytes,
                lambda p=packed, o=out: dequantize(p, out=o), None, 0.85, "limit", "copy",
            )  # fmt: skip


def _product_cases(quick: bool) -> Iterator[Case]:
    import numpy as np

    from ..definitions.panels import BY_ROWS
    from ..engine import autograd
    from ..kernels.fp4 import tensor_core as tc

    for n, k in ((1024, 1024), (4096, 4096), (50_000, 256)):
        m, n = _size(1024, quick), _size(n, quick)
        x, w = _normal(m, k), _normal(n, k)
        out, plain = autograd.memory.empty((m, n)), autograd.memory.empty((m, n))
        for fmt in ("mxfp4", "nvfp4"):
            right, left = tc.quantize_right(w, fmt), tc.quantize_left(x, BY_ROWS[fmt])
            yield Case(
                "FP4 x FP4 against sgemm", f"{fmt}, {m} x {k} times {k} x {n}, activations quantized too", "GFLOP",
                2e-9 * m * n * k,
                lambda x=x, f=BY_ROWS[fmt], r=right, l=left, o=out: tc.matmul(tc.quantize_left(x, f, out=l), r, out=o),
                lambda x=x, w=w, o=plain: np.matmul(x, w.T, out=o), _goal_of(f"product {fmt}"), "speedup", "product",
            )  # fmt: skip


def _blackwell_cases(quick: bool) -> Iterator[Case]:
    """Sums as Blackwell forms them; beside them, in numpy's place, today's product of the same operands."""
    from ..definitions.panels import BY_ROWS
    from ..engine import autograd
    from ..kernels.fp4 import blackwell
    from ..kernels.fp4 import tensor_core as tc

    fast = blackwell.fast_isa() is not None  # elsewhere it is right and slow: a case to see how slow
    for m, n, k in ((1024, 1024, 1024), (1024, 4096, 1024)) if fast else ((64, 64, 1024),):
        m, n, k = _size(m, quick), _size(n, quick), _size(k, quick)
        out, plain = autograd.memory.empty((m, n)), autograd.memory.empty((m, n))
        for fmt in ("mxfp4", "nvfp4"):
            left, right = tc.quantize_left(_normal(m, k), BY_ROWS[fmt]), tc.quantize_right(_normal(n, k), fmt)
            yield Case(
                "sums as Blackwell adds, against float32 sums", f"{fmt}, {m} x {k} times {k} x {n}", "GFLOP",
                2e-9 * m * n * k,
                lambda r=right, l=left, o=out: blackwell.matmul(l, r, o),
                lambda r=right, l=left, o=plain: tc.matmul(l, r, o), 6.0 if fast else None, "share", "product",
            )  # fmt: skip


def _fp8_cases(quick: bool) -> Iterator[Case]:
    """FP8 sums as Hopper and Blackwell form them; beside them the same operands decoded and multiplied in float32."""
    from ..definitions.fp8_operands import from_packed
    from ..engine import autograd
    from ..formats import quantize
    from ..kernels.fp8 import sums

    m, n, k = (_size(1024, quick) for _ in range(3))
    left, right = (from_packed(quantize(_normal(rows, k), "fp8-row", measure=False)) for rows in (m, n))
    out, plain = autograd.memory.empty((m, n)), autograd.memory.empty((m, n))
    for how, promote in (("hopper", 0), ("hopper", 128), ("blackwell", 0)):
        words = f"as {how.capitalize()} adds" + (f", promoted every {promote}" if promote else "")
        yield Case(
            "FP8 sums as tensor cores add, against float32 sums", f"{words}, {m} x {k} times {k} x {n}", "GFLOP",
            2e-9 * m * n * k,
            lambda h=how, p=promote: sums.matmul_fp8(left, right, out, sums=h, promote=p),
            lambda: autograd.ops.matmul_arrays(left.dequantize(), right.dequantize().T, plain), 6.0, "share", "fp32",
        )  # fmt: skip


def _fp32_cases(quick: bool) -> Iterator[Case]:
    """The three products of a layer, as `autograd` asks for them, on two layers of the report's model."""
    import numpy as np

    from ..engine import autograd

    multiply, empty = autograd.ops.matmul_arrays, autograd.memory.empty
    for rows, inner, columns in ((1016, 256, 50_000), (1024, 256, 1024)):
        m, n = _size(rows, quick), _size(columns, quick)
        x, w, g = _normal(m, inner), _normal(n, inner), _normal(m, n)
        for name, left, right in (("forward", x, w.T), ("input's gradient", g, w), ("weight's gradient", g.T, x)):
            out, plain = (empty((left.shape[0], right.shape[1])) for _ in range(2))
            yield Case(
                "float32 product against sgemm", f"{inner} -> {n}, {m} rows, {name}", "GFLOP", 2e-9 * m * n * inner,
                lambda x=left, y=right, o=out: multiply(x, y, o),
                lambda x=left, y=right, o=plain: np.matmul(x, y, out=o), None, "speedup", "fp32",
            )  # fmt: skip


def _vector_cases(quick: bool) -> Iterator[Case]:
    import numpy as np

    from ..kernels.fp4 import gemv, tensor_core

    size = _size(4096, quick)
    w = _normal(size, size)
    for columns in (1, 8):
        x = _normal(columns, size)
        plain = np.empty((columns, size), np.float32)
        for fmt in ("mxfp4", "nvfp4"):
            for kind in ("int8", "fp4"):
                right = tensor_core.quantize_right(w, fmt)
                out = np.empty((columns, size), np.float32)
                yield Case(
                    "W x from packed bytes against sgemv",
                    f"{fmt}, {size} x {size}, {columns} column{'s' if columns > 1 else ''}, {kind} activations",
                    "GFLOP", 2e-9 * size * size * columns,
                    lambda r=right, x=x, k=kind, o=out: gemv.matvec(x, r, o, activations=k),
                    lambda x=x, o=plain: np.matmul(x, w.T, out=o),
                    _goal_of(f"column {fmt}" if columns == 1 else "columns"), "speedup", "read",
                )  # fmt: skip


def _step_cases(quick: bool) -> Iterator[Case]:
    """Twins against the readable definitions that they stand for."""
    import numpy as np

    from ..engine import F, autograd, optim
    from ..layers import fused_loss, graph, gru_gates, mix_experts
    from . import peaks

    rng = np.random.default_rng(0)
    rows, classes = _size(1016, quick), _size(50_000, quick)
    logits, targets = _normal(rows, classes), rng.integers(0, classes, rows)
    yield Case(
        "rest of a step", f"cross-entropy and its gradient, {rows} x {classes}", "GB", 2e-9 * logits.nbytes,
        lambda: fused_loss.cross_entropy_into_gradient.run(logits, targets, 1.0),
        lambda: _plain_cross_entropy(logits, targets), 0.35, "share", "copy",
    )  # fmt: skip
    size = _size(35_862_532, quick)
    arrays = [np.zeros(size, np.float32) + np.float32(1e-3) for _ in range(4)]
    settings = {"step": 3, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.0, "decoupled": False}
    source, target = np.ones(7 * size // 2, np.float32), np.ones(7 * size // 2, np.float32)
    yield Case(
        "rest of a step", f"Adam, {size:,} parameters, against a copy of the bytes it must move", "GB",
        7 * 4e-9 * size, lambda: optim.adam_update.run(*arrays, **settings), lambda: peaks.copy(source, target),
        1.1, "share", "copy",
    )  # fmt: skip
    tokens, width, hidden = _size(1024, quick), 256, 1024
    table = (
        (F.gelu, (_normal(tokens, hidden),), {}),
        (F.layer_norm, (_normal(tokens, width), _normal(width), _normal(width)), {}),
        (F.softmax, (_normal(8, 4, 128, 128),), {"axis": -1}),
        (F.dropout_by_key, (_normal(tokens, width),), {"p": 0.1, "key": (1, 2)}),
        (gru_gates, (_normal(tokens, 3 * width), _normal(tokens, 3 * width), _normal(tokens, width)), {}),
        (mix_experts, (_normal(tokens, 4), *(_normal(tokens, width) for _ in range(4))), {}),
        (autograd.ops.take_rows, (_normal(classes, width),), {"rows": rng.integers(0, classes, tokens)}),
    )
    for primitive, inputs, static in table:
        shape = " x ".join(map(str, inputs[0].shape))
        yield Case(
            "rest of a step", f"{primitive.name} forward and backward, {shape}", "GB",
            2e-9 * sum(a.nbytes for a in inputs),
            lambda p=primitive, a=inputs, s=static: _both_ways(p.run, a, s),
            lambda p=primitive, a=inputs, s=static: _both_ways(p.reference, a, s), None, "speedup", "copy",
        )  # fmt: skip
    distances = rng.exponential(size=(32, 128, 128)).astype(np.float32)
    yield Case(
        "rest of a step", "shortest paths, 32 graphs of 128", "GFLOP", 2e-9 * 32 * 128**3,
        lambda: graph.shortest_paths.run(distances),
        lambda: graph.shortest_paths.reference(distances), None, "speedup", "fp32",
    )  # fmt: skip


def _plain_cross_entropy(logits: Any, targets: Any) -> Any:
    """What a careful numpy program does: loss and gradient, over all logits, in place where it can."""
    import numpy as np

    gradient = logits - logits.max(axis=1, keepdims=True)
    hit = gradient[np.arange(len(targets)), targets]
    np.exp(gradient, out=gradient)
    total = gradient.sum(axis=1, keepdims=True)
    gradient /= total
    gradient[np.arange(len(targets)), targets] -= 1
    return (np.log(total[:, 0]) - hit).mean(), gradient


def _both_ways(function: Callable, inputs: tuple, static: dict[str, Any]) -> None:
    output, vjp = function(*inputs, **static)
    if callable(vjp):
        vjp(output)
    else:
        for part in vjp:
            part(output)


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['numba']['threads']} threads, load {machine['load_average_1min']:.1f} "
        f"(these figures want a quiet machine), BLAS kernel {machine['blas']['kernel']}, "
        f"instruction set {result['instruction_set']}"
        + (f", compiled for {result['compiled_for']}" if result["compiled_for"] else ""),
        *(f"limit {name:<8} {value:9.1f} {LIMITS[name][1]}" for name, value in result["limits"].items()),
        f"compiling and loading kernels took {result['jit_seconds']:.1f} s, which is not in the times below",
    ]
    group = None
    order = list(dict.fromkeys(row["group"] for row in result["cases"]))
    for row in sorted(result["cases"], key=lambda row: order.index(row["group"])):
        if row["group"] != group:
            group = row["group"]
            lines += ["", group]
        times = f"{1e3 * row['seconds']['ours']:9.3f} ms {row['rate_per_s']:8.1f} {row['unit']}/s"
        share = "" if row["limit_share"] is None else f"{row['limit_share']:5.0%} of {row['limit']}"
        ratio = "" if row["speedup"] is None else f"{row['speedup']:6.2f} x numpy"
        lines.append(f"  {row['name']:<66} {times}  {share:<14} {ratio:<14} {_goal(row)}".rstrip())
    return "\n".join(lines)


def _goal(row: dict[str, Any]) -> str:
    if row["goal"] is None:
        return ""
    kind = {"speedup": ">= {:g} x numpy", "share": "<= {:g} of its time", "limit": ">= {:.3g}% of " + row["limit"]}
    goal = 100 * row["goal"] if row["goal_kind"] == "limit" else row["goal"]
    return f"goal {kind[row['goal_kind']].format(goal)}: {'met' if row['met'] else 'MISSED'}"
