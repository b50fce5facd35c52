"""``vbw warmup``: compile every kernel now, on tiny inputs, so that nothing is compiled later.

Compiled kernels are kept on disk where a folder is writable, so this is worth doing once after an installation (or in
the recipe of a container image); it also shows what each piece of work costs to compile or to load. Several processes
compile side by side into the one cache, each taking the next piece of work when it is done with one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from . import machine, options
from .errors import UserError
from .progress import Progress

if TYPE_CHECKING:
    from .engine import autograd

VERBS = {"warmup": "compile every kernel now, and say what each one takes"}

MOST_PROCESSES = 4  # each holds a compiler: some 200 MB
Work = Callable[[], object]

_WORKER = f"from {__name__} import serve; serve()"


class Warmed(NamedTuple):
    """What warming up one piece of work took."""

    name: str
    seconds: float
    compile_seconds: float
    kernels: int


# --------------------------------------------------------------------------------------------------------- the work


def _product_work() -> Iterator[tuple[str, Work]]:
    import numpy as np

    from .definitions.panels import BY_ROWS
    from .kernels.fp4 import blackwell
    from .kernels.fp4 import tensor_core as core

    x = np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)
    rows = {"transpose": True, "seed": (1, 2)}
    rotated = {"transpose": True, "hadamard": True}
    for family in ("nvfp4", "mxfp4"):
        yield f"product of {family} operands", lambda f=family: core.matmul(
            core.quantize_left(x, BY_ROWS[f]), core.quantize_right(x, f)
        )
        yield f"product of {family} operands, columns", lambda f=family: core.matmul(
            core.quantize_left(x, BY_ROWS[f], **rows), core.quantize_right(x, f, transpose=True)
        )
        yield f"product of {family} operands, columns rotated", lambda f=family: core.matmul(
            core.quantize_left(x, BY_ROWS[f], **rotated), core.quantize_right(x, f, **rotated)
        )
        yield f"product of {family} operands, as Blackwell adds", lambda f=family: blackwell.matmul(
            core.quantize_left(x, BY_ROWS[f]), core.quantize_right(x, f)
        )
        yield f"few rows times a packed {family} weight", lambda f=family: _few_rows(x, f)
    yield "few rows times an 8-bit weight", lambda: _few_rows_of_bytes(x)
    yield "product of fp8 operands", lambda: _fp8_product(x)


def _few_rows(x, family):  # type: ignore[no-untyped-def]
    """By 8-bit and by 4-bit activations; one row, and several."""
    from .kernels.fp4 import gemv
    from .kernels.fp4 import tensor_core as core

    weight = core.quantize_right(x, family)
    for activations in gemv.ACTIVATIONS:
        for rows in (x[:1], x[:8]):
            gemv.matvec(rows, weight, activations=activations)


def _few_rows_of_bytes(x) -> None:  # type: ignore[no-untyped-def]
    import numpy as np

    from . import formats
    from .definitions.byte_rows import byte_rows
    from .kernels.fp4.gemv_bytes import matvec_bytes

    weight = byte_rows(formats.quantize(x, "q8_0", measure=False))
    matvec_bytes(x[:1], weight, np.empty((1, len(x)), np.float32))


def _fp8_product(x):  # type: ignore[no-untyped-def]
    """As Hopper adds, promoted every 128 products, and as Blackwell adds."""
    import numpy as np

    from . import formats
    from .definitions.fp8_operands import from_packed
    from .kernels.fp8.sums import matmul_fp8

    operand = from_packed(formats.quantize(np.tile(x, 4), "fp8-row", measure=False))
    out = np.empty((len(x), len(x)), np.float32)
    for sums, promote in (("hopper", 0), ("hopper", 128), ("blackwell", 0)):
        matmul_fp8(operand, operand, out, sums=sums, promote=promote)


def _lay_out(packed) -> None:  # type: ignore[no-untyped-def]
    """A packed weight as an operand of the products, as it stands and transposed."""
    from .kernels.fp4.relayout import right_operand, transposed_right_operand

    right_operand(packed)
    transposed_right_operand(packed)


def _format_work() -> Iterator[tuple[str, Work]]:
    import numpy as np

    from . import formats
    from .kernels.fp4.measure import relative_error
    from .kernels.fp4.quantize import dequantize, quantize
    from .kernels.fp4.two_tiers import SORTED, fast_quantile_codebook

    x = np.random.default_rng(0).normal(size=(33, 96)).astype(np.float32)
    for name in ("nvfp4", "fp4-row", "seed-v6"):
        yield f"quantize to {name}", lambda n=name: quantize(x, n)
        packed = formats.quantize(x, name, measure=False)
        yield f"dequantize {name}", lambda p=packed: dequantize(p)
    yield "the codebook of a large weight", lambda: fast_quantile_codebook(np.resize(x, SORTED + 1))
    yield "a packed weight laid out", lambda: _lay_out(formats.quantize(x[:32], "nvfp4-16x16", measure=False))
    yield "relative error", lambda: relative_error(x, x)


def _twin_work() -> Iterator[tuple[str, Work]]:
    from . import kernels
    from .engine import autograd

    for table in (autograd.REGISTRY, autograd.PROCEDURES):
        for name, function in table.items():
            if function.twin is not None and function.twin.__module__.startswith(kernels.__name__):
                yield f"twin of {name}", lambda f=function: _run_twin(f)


def _run_twin(function: autograd.primitive) -> None:
    """The twin on its own samples, forward and backward."""
    import numpy as np

    for args, static in function.twin_samples(np.random.default_rng(0)):
        made = function.twin(*args, **static)
        if isinstance(made, tuple):
            output, vjp = made
            for part in (vjp,) if callable(vjp) else vjp:
                part(np.ones(output.shape, output.dtype))


def work() -> dict[str, Work]:
    """All there is to compile, by name; what takes longest comes first. Nothing where numba is switched off."""
    from .kernels import HAVE_NUMBA

    if not HAVE_NUMBA:
        return {}
    from .simd import jit

    sources = (_product_work, _format_work, _twin_work) if jit.enabled() else ()
    return {name: each for source in sources for name, each in source()}


# ---------------------------------------------------------------------------------------------- in this process


def warmup(report: Callable[[Warmed], object] | None = None, only: str | None = None) -> list[Warmed]:
    """Run every kernel once on tiny inputs, in this process.

    Parameters
    ----------
    report : callable, optional
        Called with each `Warmed` as it is done.
    only : str, optional
        Only the work whose name contains this.

    Returns
    -------
    list of Warmed
        In the order of work. With numba switched off, or not there, nothing is compiled and the list is empty.
    """
    done: list[Warmed] = []
    for name, each in work().items():
        if only is None or only in name:
            done.append(_timed(name, each))
            if report is not None:
                report(done[-1])
    return done


def _timed(name: str, each: Work) -> Warmed:
    from .simd import jit

    start, compiled, count = time.perf_counter(), jit.compile_seconds(), jit.compiled_count()
    each()
    took = time.perf_counter() - start
    return Warmed(name, took, jit.compile_seconds() - compiled, jit.compiled_count() - count)


# ---------------------------------------------------------------------------------------------- in several processes


def serve() -> None:
    """Do the work that is named on stdin, a line each, and write what each took to stdout as JSON."""
    known = work()
    for line in sys.stdin:
        print(json.dumps(_timed(line.strip(), known[line.strip()])), flush=True)


def side_by_side(
    names: list[str], processes: int, report: Callable[[Warmed], object] | None = None
) -> list[Warmed]:
    """Do the named work in processes of their own, which fill the cache on disk.

    Parameters
    ----------
    names : list of str
        Keys of `work()`.
    processes : int
    report : callable, optional
        Called with each `Warmed` as it is done, by one thread at a time.

    Returns
    -------
    list of Warmed
        In the order in which they were done.

    Raises
    ------
    UserError
        A process ended before its work was done: with the last line of what it said.
    """
    waiting, done, failed, lock = list(reversed(names)), [], [], threading.Lock()

    def keep_busy() -> None:
        process = _start()
        with process, process.stdin, process.stdout:
            while True:
                with lock:
                    name = waiting.pop() if waiting and not failed else None
                if name is None:
                    return
                line = _ask(process, name)
                with lock:
                    if not line:
                        failed.append((name, process.stderr.read().strip()))
                        return
                    done.append(Warmed(*json.loads(line)))
                    if report is not None:
                        report(done[-1])

    threads = [threading.Thread(target=keep_busy) for _ in range(min(processes, len(names)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        name, said = failed[0]
        raise UserError(f"compiling stopped at {name!r}: {said.splitlines()[-1] if said else 'its process ended'}")
    return done


def _start() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER], env=machine.environment_of_another(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip


def _ask(process: subprocess.Popen, name: str) -> str:
    """What a process answers; nothing if it is gone."""
    try:
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
    except OSError:
        return ""
    return process.stdout.readline()


# ---------------------------------------------------------------------------------------------- the command


def run(args: argparse.Namespace) -> int:
    """The command."""
    names = [name for name in work() if args.only is None or args.only in name]
    if not work():
        print("numba is switched off (NUMBA_DISABLE_JIT) or not installed: there is nothing to compile")
        return 0
    if not names:
        raise UserError(f"--only {args.only}: no work has that in its name; leave it out to see them all")
    from .simd import jit

    kept = jit.cache_problem() is None  # else another process's kernels help nobody
    processes = min(args.processes or machine.cpu_count(), MOST_PROCESSES, len(names)) if kept else 1
    start = time.perf_counter()
    with Progress(len(names), "compiling", item="pieces") as progress:

        def report(warmed: Warmed) -> None:
            progress.close()
            print(f"{warmed.seconds:7.2f} s  {warmed.name}", flush=True)
            progress.step(warmed.name)

        done = side_by_side(names, processes, report) if processes > 1 else warmup(report, args.only)
    compiling = sum(w.compile_seconds for w in done)
    print(
        f"{time.perf_counter() - start:7.2f} s  in all, in {processes} process{'es' * (processes > 1)}, "
        f"which spent {compiling:.2f} s compiling or loading compiled kernels"
    )
    if not kept:
        print(
            f"nothing is kept on disk ({jit.cache_problem()}); set NUMBA_CACHE_DIR to a writable folder",
            file=sys.stderr,
        )
    return 0


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add ``vbw warmup``."""
    parser = subparsers.add_parser("warmup", help=VERBS["warmup"], description=__doc__)
    parser.add_argument("--only", type=options.text, metavar="NAME", help="only the work whose name contains NAME")
    parser.add_argument("--processes", type=options.whole(1), metavar="N",
                        help=f"that compile side by side (one a processor, up to {MOST_PROCESSES})")  # fmt: skip
    parser.set_defaults(run=run)
