"""The process that a learner's code runs in: it executes cells, asks the answer, and writes plain data into a file.

`serve` is a template of such processes: it has imported what all of them need, has never run a learner's code, and
makes a copy of itself (a fork) for every answer. Where a system has no fork, every answer gets a new interpreter.

What such a process may do: run for its seconds of wall time, use 8 GiB of addresses, print 64 KiB (the rest is thrown
away), and read files, write files and use the network with the rights of whoever grades. What it may not: start
processes, or send signals to others. This keeps mistakes and tricks out of the judge. It is no prison for malware: for
code that you do not trust with your files, run the grader in a container or as another user.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import asking
from .needed import runnable

REQUEST, ANSWERS = "request.json", "answers.jsonl"
PRINTED = 1 << 16  # bytes of what an answer prints that are kept
MEMORY = 8 << 30  # bytes of addresses
FILE = 256 << 20  # bytes
PROCESSES = 256  # more than there are of this user's already


# ---- inside the process of one answer


def answer(folder: Path) -> None:
    """Run the cells that `request.json` holds, ask the answer for every case, and write a line about each."""
    request = json.loads((folder / REQUEST).read_text("utf-8"))
    channel = os.open(folder / ANSWERS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    forbid_processes()

    def write(record: dict[str, Any]) -> None:
        os.write(channel, json.dumps(record).encode() + b"\n")

    sys.path.insert(0, request["folder"])
    answer_request(request, write)


def answer_request(request: dict[str, Any], write: Callable[[dict[str, Any]], Any]) -> None:
    """Run a request's cells, ask what they define for every case, and `write` a record about each."""
    namespace: dict[str, Any] = {"__name__": "__main__", "display": print}
    errors = []
    for cell in request["cells"]:
        error = execute(cell["source"], f"<{cell['label']}>", namespace)
        if error is not None:
            errors.append({"cell": cell["number"], **error})
    target = request["target"]
    write({"errors": errors, "found": target in namespace})
    if target in namespace:
        for record in asking.outcomes(namespace[target], request["cases"], request["rules"], catch=BaseException):
            write(record)


def execute(source: str, label: str, namespace: dict[str, Any]) -> dict[str, Any] | None:
    """Run one cell; what it raised, exits included, as plain data."""
    source = runnable(source)
    linecache.cache[label] = (len(source), None, source.splitlines(True), label)
    try:
        exec(compile(source, label, "exec"), namespace)
    except BaseException as error:
        return asking.described(error)
    return None


def forbid_processes() -> None:
    """No fork, no other program, no signal to another process; limits on memory and on what forks all the same."""
    me = os.getpid()
    starting = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen")

    def guard(event: str, args: tuple) -> None:
        if event in starting:
            raise PermissionError(f"an answer starts no processes ({event})")
        if event in ("os.kill", "os.killpg") and args[0] != me:
            raise PermissionError(f"an answer sends no signals to other processes ({event})")

    sys.addaudithook(guard)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limits = {resource.RLIMIT_AS: MEMORY, resource.RLIMIT_FSIZE: FILE}
        if (running := _running_here()) is not None:
            limits[resource.RLIMIT_NPROC] = running + PROCESSES
        for what, least in limits.items():
            _, hard = resource.getrlimit(what)
            least = least if hard == resource.RLIM_INFINITY else min(least, hard)
            resource.setrlimit(what, (least, least))


def _running_here() -> int | None:
    """How many threads this user has, where the system says so."""
    if os.getuid() == 0 or not os.path.isdir("/proc/self/task"):
        return None  # the limit does not hold for root
    count = 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{process}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{process}/task"))
    return count


# ---- the template


class Forked:
    """A copy of this process, with as much of `subprocess.Popen` as `supervise` needs."""

    def __init__(self, folder: Path) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _become_worker(folder, writing)  # does not return
        os.close(writing)
        self.stdout = os.fdopen(reading, "rb")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def _become_worker(folder: Path, writing: int) -> None:
    code = 1
    try:
        os.setsid()
        end_with_template()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for mine, fd in ((nothing, 0), (writing, 1), (writing, 2)):
            os.dup2(mine, fd)
        os.closerange(3, 256)  # the template's channels are not an answer's
        answer(folder)
        code = 0
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def _started(folder: Path) -> Any:
    if hasattr(os, "fork"):
        return Forked(folder)
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from vbw_np.teach import worker; "
        f"worker.answer(worker.Path({str(folder)!r}))"
    )
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def supervise(folder: Path, seconds: float) -> dict[str, Any]:
    """Run one answer in a process of its own; say how it ended and what it printed first."""
    process = _started(folder)
    printed = bytearray()
    drain = threading.Thread(target=_drain, args=(process.stdout, printed), daemon=True)
    drain.start()
    deadline, pause = time.monotonic() + seconds, 0.001
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    late = process.poll() is None
    _end(process)
    drain.join(timeout=1)
    return {"late": late, "code": process.poll(), "printed": bytes(printed[:PRINTED]).decode("utf-8", "replace")}


def _drain(pipe: Any, printed: bytearray) -> None:
    while chunk := pipe.read1(1 << 16):
        if len(printed) < PRINTED:
            printed += chunk


def _end(process: Any) -> None:
    """Kill a process, its group, and what escaped the group."""
    if isinstance(process, Forked):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        while process.poll() is None:
            time.sleep(0.001)
        _end_strays()
    else:
        process.kill()
        process.wait()


def _end_strays() -> None:
    """Linux hands orphans to this process (see `adopt_orphans`): end them."""
    children = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
    for _ in range(1000):
        try:
            left = Path(children).read_text().split()
        except OSError:
            return
        if not left:
            return
        for pid in map(int, left):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def adopt_orphans() -> None:
    """Ask Linux to hand this process the orphans of its children, so that none gets away."""
    if sys.platform == "linux":
        import ctypes

        subreaper = 36  # PR_SET_CHILD_SUBREAPER, linux/prctl.h
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(subreaper, 1, 0, 0, 0)


def end_with_template() -> None:
    """Ask Linux to kill this answer when the template dies, however it dies: an endless loop has no other end then."""
    if sys.platform == "linux":
        import ctypes

        death_signal = 1  # PR_SET_PDEATHSIG, linux/prctl.h
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL, 0, 0, 0)


def serve() -> None:
    """Read requests from stdin, one a line (a folder and seconds), and answer each with a line about how it ended."""
    adopt_orphans()
    for line in sys.stdin:
        request = json.loads(line)
        ending = supervise(Path(request["folder"]), request["seconds"])
        print(json.dumps(ending), flush=True)
