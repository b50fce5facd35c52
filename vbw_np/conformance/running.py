"""Run a quantizer on the vectors: a function here, or `module:function` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..formats import Profile
from .answers import Malformed, as_parts
from .judging import Outcome, Verdict, judge
from .vectors import Vectors, vectors
from .worker import plain

SECONDS = 60.0
PRINTED = 1 << 16
"""Bytes of what a quantizer prints that are kept."""
MAX_ANSWER = 64 << 20
"""Bytes of one answer."""


class Raised(Exception):
    """What a quantizer raised in its process: shown under the name that it had there."""


def conform(
    quantizer: Callable[[np.ndarray], Any] | str,
    profile: str | Profile,
    *,
    seconds: float = SECONDS,
    python: str | os.PathLike[str] | None = None,
) -> Verdict:
    """Whether a quantizer writes what a profile's library writes, in every bit.

    Parameters
    ----------
    quantizer : function, or "module:function" (a module, or a file ending in .py)
        Takes a float32 array (rows, columns) and returns a mapping with `codes` (one an element, or packed as the
        producer packs them), `scales` (one a block: bytes, or float32 where the format has float32 scales), and where
        the format has them `tensor_scale` (as the producer stores it) and `offsets`; `decoded` (float32) is compared
        if it is there. Also a tuple (codes, scales, tensor_scale), or GGUF's blocks as one array of bytes. A function
        is called here; a name runs in a process of its own.
    profile : str or Profile
    seconds : float
        Time limit of the process.
    python : path, optional
        The Python that the process runs; it needs NumPy. Default: this one.

    Raises
    ------
    UserError
        There is no such module or function, or no such Python.
    """
    document = vectors(profile)
    if callable(quantizer):
        return judge(document, [_called(quantizer, x) for x in _inputs(document)])
    return _run_apart(document, str(quantizer), seconds, str(python or sys.executable))


def _inputs(document: Vectors) -> list[np.ndarray]:
    """All inputs, the first one again at the end; copies, so that nobody spoils the vectors."""
    xs = [vector.case.x for vector in document.vectors]
    return [x.copy() for x in (*xs, xs[0])]


def _called(function: Callable[[np.ndarray], Any], x: np.ndarray) -> Outcome:
    try:
        value = function(x)
    except Exception as error:
        return error
    try:
        return {name: plain(part) for name, part in as_parts(value).items()}
    except Malformed as error:
        return str(error)


# ---- a process of its own


def _run_apart(document: Vectors, name: str, seconds: float, python: str) -> Verdict:
    module, colon, function = name.rpartition(":")
    if not colon or not module or not function:
        raise UserError(f"{name!r} names no function: write MODULE:FUNCTION, such as mine:quantize or mine.py:quantize")
    if not 0 < seconds < 1e6:
        raise UserError(f"a time limit is a positive number of seconds, not {seconds}")
    inputs = _inputs(document)
    with tempfile.TemporaryDirectory(prefix="vbw-conform-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        request = {"module": module, "function": function, "beside": os.getcwd()}
        (folder / "request.json").write_text(json.dumps(request), "utf-8")
        np.savez(folder / "inputs.npz", **{f"{i:04}": x for i, x in enumerate(inputs)})
        ended, printed = _process([python, str(Path(__file__).with_name("worker.py")), scratch], seconds)
        missing = _record(folder / "missing.json")
        if missing is not None:
            raise UserError(f"cannot load {name}: {missing}")
        if not (folder / "found.json").exists():
            raise UserError(f"cannot load {name}: its process {ended}. {printed[-300:]}".strip())
        outcomes = [_outcome(folder, number, ended) for number in range(len(inputs))]
    return replace(judge(document, outcomes), printed=printed)


def _process(argv: list[str], seconds: float) -> tuple[str, str]:
    """Run it; how it ended, and what it printed first."""
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        raise UserError(f"cannot run {argv[0]}: {error.strerror}. Name another --python.") from None
    printed = bytearray()
    drain = threading.Thread(target=_drain, args=(process.stdout, printed), daemon=True)
    drain.start()
    try:
        code = process.wait(seconds)
        ended = f"ended with signal {-code}" if code < 0 else f"ended with exit code {code}"
    except subprocess.TimeoutExpired:
        ended = f"did not end within {seconds:g} seconds"
    finally:
        _end(process)
    drain.join(timeout=1)
    return ended, bytes(printed).decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process, and those that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _drain(pipe: Any, printed: bytearray) -> None:
    while chunk := pipe.read1(1 << 16):
        if len(printed) < PRINTED:
            printed += chunk[: PRINTED - len(printed)]


def _record(path: Path) -> str | None:
    """`Type: words` of a file in which the process wrote down what was raised."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_ANSWER:
            return None
        record = json.loads(path.read_text("utf-8"))
        return f"{record['type']}: {record['words']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _outcome(folder: Path, number: int, ended: str) -> Outcome:
    error = _record(folder / f"{number:04}.json")
    if error is not None:
        return _raised(error)
    path = folder / f"{number:04}.npz"
    try:
        if not path.is_file() or path.stat().st_size > MAX_ANSWER:
            return f"there is no answer: the process {ended}"
        with np.load(path, allow_pickle=False) as file:
            return as_parts({name: file[name] for name in file.files})
    except Malformed as malformed:
        return str(malformed)
    except (OSError, ValueError, KeyError, MemoryError, zipfile.BadZipFile) as damage:
        return f"its answer cannot be read: {damage}"


def _raised(text: str) -> BaseException:
    kind, _, words = text.partition(": ")
    return type(kind, (Raised,), {})(words)
