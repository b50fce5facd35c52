"""How threads go through the stages of one kernel together: tickets, and waiting for what others have taken.

A stage is a number of tasks. Every thread takes tasks by tickets, first of its own stretch, then of the others'; when
all are taken it waits until all are done. Whoever waits, waits for a task that a running thread has taken: so this
ends on any number of threads, also if one never comes or the threads run one after the other.
"""

from __future__ import annotations

import platform
import sys

from llvmlite import ir
from numba.core import cgutils

from ...simd.intrinsics import I32, I64, Emitter, fetch_add, loop_intrinsic
from ...simd.jit import leaf

LINE = 64
"""Bytes of a cache line: every counter has one."""

PATIENCE = 4000
"""Looks at a counter until a waiting thread offers its core to others."""


def _emit_finish(e: Emitter, address: ir.Value, count: ir.Value) -> None:
    e.b.atomic_rmw("add", e.b.inttoptr(address, I64.as_pointer()), count, "release")


finish = loop_intrinsic(2, _emit_finish)
"""`finish(address, count)`: so many tasks more are done, and what they wrote can be seen."""


def _load(e: Emitter, address: ir.Value) -> ir.Value:
    return e.b.load_atomic(e.b.inttoptr(address, I64.as_pointer()), "acquire", 8)


done = loop_intrinsic(1, _load)
"""`done(address)`: how many tasks are done."""


def _emit_wait(e: Emitter, address: ir.Value, count: ir.Value) -> None:
    b, before = e.b, e.b.block
    head, waiting, offering, again, after = (
        b.append_basic_block(name) for name in ("head", "waiting", "offering", "again", "after")
    )
    b.branch(head)
    b.position_at_end(head)
    looks = b.phi(I64)
    looks.add_incoming(e.int(0), before)
    b.cbranch(b.icmp_signed(">=", _load(e, address), count), after, waiting)
    b.position_at_end(waiting)
    if platform.machine().lower() in ("x86_64", "amd64"):
        e.call("llvm.x86.sse2.pause", ir.VoidType())
    more = b.add(looks, e.int(1))
    b.cbranch(b.icmp_signed(">", looks, e.int(PATIENCE)), offering, again)
    b.position_at_end(offering)
    if sys.platform != "win32":
        b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(I32, []), "sched_yield"), [])
    b.branch(again)
    b.position_at_end(again)
    looks.add_incoming(more, again)
    b.branch(head)
    b.position_at_end(after)


wait = loop_intrinsic(2, _emit_wait)
"""`wait(address, count)`: until so many tasks are done."""


@leaf
def take(tickets, tasks, team, step):  # type: ignore[no-untyped-def]
    """The next task of a stage, and the step to take the one after it with; -1 when all are taken.

    tickets : the address of a counter a thread, zero at first
    step : 0 at first
    """
    thread, threads = team
    while step < threads:
        other = (thread + step) % threads
        task = other * tasks // threads + fetch_add(tickets + other * LINE)
        if task < (other + 1) * tasks // threads:
            return task, step
        step += 1
    return -1, step
