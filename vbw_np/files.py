"""Output files: refused before the work if they cannot be written, and written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UserError


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user wrote it, with ``~`` and ``~user`` replaced by that user's home folder.

    Raises
    ------
    UserError
        If it is empty, has a NUL in it, or names a user that there is not.
    """
    text = os.fspath(path)
    if not text:
        raise UserError("the name of a file or folder is empty. Give one, or leave the option out.")
    if "\0" in text:
        raise UserError(f"{text!r} cannot be the name of a file: it has a NUL in it.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0]
        raise UserError(
            f"{text}: there is no home folder of {user[1:] or 'yours'} here. Write ./{text} for a name that begins "
            "with a tilde."
        ) from None


def check_output(path: str | os.PathLike[str]) -> Path:
    """The path, if a file can be written there; called before a long run, not after it.

    Raises
    ------
    UserError
        If its folder does not exist or cannot be written, or the path is a folder.
    """
    path = user_path(path)
    folder = path.parent
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder. Name a file in it, such as {path / 'report.json'}.")
    if not folder.is_dir():
        why = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"cannot write {path}: its folder {folder} {why}. Make it first, or name another one.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"cannot write {path}: no permission. Name a file in a folder of yours.")
    return path


def write_whole(path: str | os.PathLike[str], content: str | bytes | Callable[[BinaryIO], Any]) -> None:
    """Write beside `path` and move into its place, so that nobody ever sees half a file.

    Parameters
    ----------
    path : path
    content : str, bytes or callable
        Text (stored as UTF-8), bytes, or a function that writes into an open binary file.

    Raises
    ------
    OSError
        If that fails; what was at `path` before is then still there, untouched.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a device such as /dev/stdout: nothing to replace
        with path.open("wb") as file:
            _fill(file, content)
        return
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:16]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _named(error, path) from error
    try:
        with os.fdopen(handle, "wb") as file:
            _fill(file, content)
        if os.name != "nt":
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)  # mkstemp makes files for the owner only
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise _named(error, path) from error
        raise


def _named(error: OSError, path: Path) -> OSError:
    """The same error, about the file that was asked for instead of none or the one beside it."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def _fill(file: BinaryIO, content: str | bytes | Callable[[BinaryIO], Any]) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
