"""The texts that methods are calibrated on and judged by, and their windows of tokens.

By default both are prose of the Python that runs: docstrings of its library for calibration, the topics of its `help()`
for the judgement. They are there on every machine and depend on the Python's version alone.
"""

from __future__ import annotations

import ast
import functools
import os
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import user_path

CALIBRATION = (
    "argparse", "ast", "asyncio/base_events", "asyncio/streams", "calendar", "codecs", "collections/__init__",
    "configparser", "contextlib", "csv", "dataclasses", "datetime", "decimal", "difflib", "doctest", "email/message",
    "fractions", "functools", "heapq", "http/client", "http/cookiejar", "inspect", "ipaddress", "json/__init__",
    "logging/__init__", "multiprocessing/connection", "optparse", "os", "pathlib", "pickle", "pickletools", "pprint",
    "queue", "random", "sched", "shutil", "socket", "statistics", "string", "subprocess", "tarfile", "tempfile",
    "textwrap", "threading", "timeit", "typing", "unittest/case", "unittest/mock", "urllib/request", "uuid",
    "weakref", "xml/dom/minidom", "zipfile",
)  # fmt: skip
"""Modules of the library whose docstrings make the default calibration text."""

Encode = Callable[[str], "NDArray[np.integer]"]


@functools.cache
def calibration_text() -> str:
    """Docstrings of the library, module by module; those that this Python does not have are left out."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for name in CALIBRATION:
        file = library / f"{name}.py"
        if not file.is_file():
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.append(ast.get_docstring(node) or "")
    return "\n\n".join(text for text in found if len(text) > 200)


def evaluation_text() -> str:
    """What `help()` says about the language, topic by topic."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def read_text(path: str | os.PathLike[str]) -> str:
    """A file of text.

    Raises
    ------
    UserError
    """
    path = user_path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file of text but a folder, a device or a pipe; name a file")
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Name a file of text.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 (byte {error.start}); convert it, or name another file") from None


def windows_of(text: str, encode: Encode, count: int, length: int, what: str) -> NDArray[np.int64]:
    """The first windows of a text, from evenly spaced places in it: token ids (count, length).

    Parameters
    ----------
    encode : callable
        Text to token ids.
    count, length : int
        Fewer windows are given where the text is shorter.
    what : str
        What the text is for, as errors say it.

    Raises
    ------
    UserError
        The text has fewer tokens than a window.
    """
    ids = np.asarray(encode(text), np.int64)
    if len(ids) < length:
        raise UserError(
            f"the {what} text has {len(ids)} tokens, fewer than one window of {length}; give a longer text, or shorter "
            "windows"
        )
    count = min(count, len(ids) // length)
    starts = np.linspace(0, len(ids) - length, count).astype(int) if count > 1 else [0]
    return np.stack([ids[start : start + length] for start in starts])
