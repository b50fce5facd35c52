"""``vbw warmup``: compile every kernel now, on tiny inputs, so that nothing is compiled later.

Compiled kernels are kept on disk where a folder is writable, so this is worth doing once after an installation (or in
the recipe of a container image); it also shows what each kernel costs to compile or to load.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .. import formats, options
from ..errors import UserError
from .simd import jit

VERBS = {"warmup": "compile every kernel now, and say what each one takes"}


class Warmed(NamedTuple):
    """What warming up one piece of work took."""

    name: str
    seconds: float
    compile_seconds: float
    kernels: int


def _twin_work() -> Iterator[tuple[str, Callable[[], object]]]:
    from ..engine import autograd

    for table in (autograd.REGISTRY, autograd.PROCEDURES):
        for name, function in table.items():
            if function.twin is not None and function.twin.__module__.startswith(__package__):
                yield f"twin of {name}", lambda f=function: _run_twin(f)


def _run_twin(function: object) -> None:
    """The twin on its own samples, forward and backward."""
    for args, static in function.twin_samples(np.random.default_rng(0)):
        made = function.twin(*args, **static)
        if isinstance(made, tuple):
            output, vjp = made
            for part in (vjp,) if callable(vjp) else vjp:
                part(np.ones(output.shape, output.dtype))


def _format_work() -> Iterator[tuple[str, Callable[[], object]]]:
    from .fp4.quantize import dequantize, quantize

    x = np.random.default_rng(0).normal(size=(33, 96)).astype(np.float32)
    for name in ("nvfp4", "fp4-row", "seed-v6"):
        yield f"quantize to {name}", lambda n=name: quantize(x, n)
        packed = formats.quantize(x, name, measure=False)
        yield f"dequantize {name}", lambda p=packed: dequantize(p)


def _product_work() -> Iterator[tuple[str, Callable[[], object]]]:
    from .fp4 import tensor_core as core

    x = np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)
    for family in ("nvfp4", "mxfp4"):
        yield f"product of {family} operands", lambda f=family: core.matmul(
            core.quantize_left(x, f), core.quantize_right(x, f)
        )
        yield f"product of {family} operands, columns", lambda f=family: core.matmul(
            core.quantize_left(x, f, transpose=True, seed=(1, 2)), core.quantize_right(x, f, transpose=True)
        )


def warmup(report: Callable[[Warmed], object] | None = None, only: str | None = None) -> list[Warmed]:
    """Run every kernel once on tiny inputs.

    Parameters
    ----------
    report : callable, optional
        Called with each `Warmed` as it is done.
    only : str, optional
        Only the work whose name contains this.

    Returns
    -------
    list of Warmed
        In the order of work. With numba switched off nothing is compiled and the list is empty.
    """
    done: list[Warmed] = []
    if not jit.enabled():
        return done
    for source in (_twin_work, _format_work, _product_work):
        for name, work in source():
            if only is not None and only not in name:
                continue
            start, compiled, count = time.perf_counter(), jit.compile_seconds(), jit.compiled_count()
            work()
            took = time.perf_counter() - start
            done.append(Warmed(name, took, jit.compile_seconds() - compiled, jit.compiled_count() - count))
            if report is not None:
                report(done[-1])
    return done


def run(args: argparse.Namespace) -> int:
    """The command."""
    if not jit.enabled():
        print("numba is switched off (NUMBA_DISABLE_JIT): there is nothing to compile")
        return 0
    done = warmup(lambda w: print(f"{w.seconds:7.2f} s  {w.name}", flush=True), args.only)
    if not done:
        raise UserError(f"--only {args.only}: no work has that in its name; leave it out to see them all")
    total, compiling = sum(w.seconds for w in done), sum(w.compile_seconds for w in done)
    print(f"{total:7.2f} s  in all, {compiling:.2f} s of them compiling or loading compiled kernels")
    problem = jit.cache_problem()
    if problem:
        print(f"nothing is kept on disk ({problem}); set NUMBA_CACHE_DIR to a writable folder", file=sys.stderr)
    return 0


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add ``vbw warmup``."""
    parser = subparsers.add_parser("warmup", help=VERBS["warmup"], description=__doc__)
    parser.add_argument("--only", type=options.text, metavar="NAME", help="only the work whose name contains NAME")
    parser.set_defaults(run=run)
