"""Compiled kernels on disk: one file for each specialisation, so that several processes can fill one folder.

numba's own cache has an index file a function, in which one process overwrites what another has just entered, and
numbered data files, of which two processes write different ones under the same number; and it reads an index before it
asks whether the index is stale, so types that no longer exist are an error. Here a file's name says what is in it: the
function, a digest of the sources it may be compiled from, and one of its signature and of the CPU it is compiled for.
A file appears whole or not at all; one that cannot be read is compiled anew; one that cannot be written is no error
(`problem`).

The files are pickles and machine code, so reading one is running it. Only a file that no one else could have written is
read: owned by this user or by root, and writable by its owner alone (`others_can_write`). Any other is compiled anew.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

import numba
from numba.core.caching import FunctionCache

_problem: str | None = None


def problem() -> str | None:
    """Why compiled kernels are not kept on disk, or None when they are."""
    return _problem


def note_problem(error: Exception) -> None:
    """Remember why kernels are not kept."""
    global _problem
    _problem = str(error)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def others_can_write(status: os.stat_result) -> bool:
    """Whether someone but this user and root may have written a file: its owner, its group or all the world can.

    Windows has neither owners by number nor such modes; there the answer is no.
    """
    if not hasattr(os, "getuid"):
        return False
    return status.st_uid not in {os.getuid(), 0} or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


class _Files:
    """The files of one function, in place of numba's index and its data files."""

    def __init__(self, folder: str, base: str, stamp: Callable[[], str]) -> None:
        self._folder, self._base, self._stamp = Path(folder), base, stamp

    def path(self, key: object) -> Path:
        """Where the specialisation with this key is kept."""
        return self._folder / f"{self._base}.{_digest(self._stamp() + numba.__version__)}.{_digest(repr(key))}.nbc"

    def load(self, key: object) -> object | None:
        """What was saved under the key, or None."""
        path = self.path(key)
        try:
            with path.open("rb") as file:
                if others_can_write(os.fstat(file.fileno())):
                    note_problem(PermissionError(f"{path} can be written by others: not read, compiled anew"))
                    return None
                return pickle.load(file)
        except FileNotFoundError:
            return None
        except Exception:  # cut off, of another numba, not to be read: compiled anew and overwritten
            return None

    def save(self, key: object, data: object) -> None:
        """Keep it, whole or not at all, and remove what older sources left of this function."""
        path = self.path(key)
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            part.write_bytes(pickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL))
            part.chmod(0o644)  # whatever the umask: a file that a group can write is not read
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        current = path.name[: -len(path.suffixes[-1]) - 17]
        for old in self._folder.glob(f"{self._base}.*.nbc"):
            if not old.name.startswith(current):
                old.unlink(missing_ok=True)

    def any(self) -> bool:
        """Whether something is kept that was compiled from today's sources."""
        current = self.path(None).name[: -len(".0123456789abcdef.nbc")]
        return any(self._folder.glob(f"{current}.*.nbc"))

    def flush(self) -> None:
        """Forget all."""
        for path in self._folder.glob(f"{self._base}.*.nbc"):
            path.unlink(missing_ok=True)


class KernelCache(FunctionCache):
    """numba's cache of one function, with `_Files` below it.

    Parameters
    ----------
    function : callable
    stamp : callable
        Gives a text that changes whenever a source does that `function` may be compiled from.

    Raises
    ------
    RuntimeError
        No folder is writable.
    """

    def __init__(self, function: Callable, stamp: Callable[[], str]) -> None:
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, stamp)

    def any(self) -> bool:
        """Whether a specialisation is there."""
        return self._cache_file.any()

    def load_overload(self, sig: object, target_context: object) -> object | None:
        """The compiled specialisation, if it is there and can be used."""
        try:
            return super().load_overload(sig, target_context)
        except OSError as error:
            note_problem(error)
            return None

    def save_overload(self, sig: object, data: object) -> None:
        """Keep a specialisation where that is possible."""
        try:
            super().save_overload(sig, data)
        except OSError as error:  # a full disk, a folder taken away
            note_problem(error)
