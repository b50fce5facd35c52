"""A run's folder: what in it is provably this run's, which is all that may be overwritten or removed.

A run has a random name of its own, its id. It stands in ``.lock``, in the meta of ``last.vbw`` and ``best.vbw``, in the
first line of ``log.jsonl`` and in ``run.json``. Before anything is written every file of these names that is there must
be a regular file with that id; else the folder is refused and left as it is. Files of other names are never touched,
but for the temporary ones of a killed writer, whose names say whose they are.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import user_path
from . import checkpoint
from .checkpoint import CheckpointError
from .log import RunLog

KIND = "vbw-np training run"
LAST, BEST, LOG, LOCK, RESULT = "last.vbw", "best.vbw", "log.jsonl", ".lock", "run.json"
NAMES = (LAST, BEST, LOG, LOCK, RESULT)
_MARK = re.compile(rb"vbw-np training run ([0-9a-f]{32})\n")
_PARTS = re.compile(rf"\.({'|'.join(map(re.escape, (LAST, BEST, LOG, RESULT)))})\.\d+-[0-9a-f]{{8}}\.part")
_OLD = ""  # the id of runs from before there were ids: their files say nothing, and are known by their kind


class FolderInUse(UserError):
    """Another process writes into the run's folder."""


class FolderRefused(UserError):
    """The folder holds something that no run of this program provably wrote."""


def _foreign(file: Path, why: str) -> FolderRefused:
    return FolderRefused(
        f"{file} {why}, so it is not overwritten. Name another folder (--out), or move that file away."
    )


def _regular(file: Path) -> bool:
    """Whether the file is there; an error if it is anything but a regular file (a link, a pipe, a folder)."""
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"cannot look at {file}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise _foreign(file, f"is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file of a run")
    return True


def run_id(meta: Any, file: Path) -> str:
    """The id in a checkpoint's meta; an error if it is not of a training run."""
    kind = meta.get("kind") if isinstance(meta, dict) else None
    if kind != KIND:
        raise CheckpointError(f"checkpoint: {file} is not of a training run (kind {kind!r})")
    found = meta.get("run", _OLD)
    if not isinstance(found, str):
        raise CheckpointError(f"checkpoint: {file} names its run {found!r}, which is no id")
    return found


class RunFolder:
    """The folder of one run; looks first, and writes only once `take` is called.

    Parameters
    ----------
    path : path
        Need not exist.

    Attributes
    ----------
    id : str or None
        Of the run that is in it; None where there is none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = user_path(path)
        self.id: str | None = None
        self._lock: Any = None

    def file(self, name: str) -> Path:
        """A file of the run."""
        return self.path / name

    def inspect(self, source: str | None = None) -> None:
        """Find the run's id; refuse the folder if any file of a run's names is not this run's.

        Parameters
        ----------
        source : str, optional
            `LAST` or `BEST`: the checkpoint to go on from, which has to be whole; the other one may be damaged then.

        Raises
        ------
        FolderRefused, CheckpointError
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file, and a run needs a folder of its own; name another one (--out)")
        ids = {name: self._id_of(name, source) for name in NAMES if _regular(self.file(name))}
        known = {name: found for name, found in ids.items() if found is not None}
        if source is not None and source in known:
            self.id = known[source]
        elif known:
            self.id = known.get(LOCK) or next(iter(known.values()))
        for name, found in known.items():
            if found != self.id:
                raise _foreign(self.file(name), "is of another run than the rest of its folder")
        if ids and self.id is None:
            raise _foreign(self.file(next(iter(ids))), "was not written by a run of vbw that can be told")

    def _id_of(self, name: str, source: str | None) -> str | None:
        """The id that a file carries; None for a damaged checkpoint, when the other one is asked for."""
        file = self.file(name)
        if name in (LAST, BEST):
            try:
                return run_id(checkpoint.load_meta(file), file)
            except CheckpointError:
                if source is not None and name != source:
                    return None  # set aside before anything takes its place
                if source == name:
                    raise
                raise _foreign(file, "is no whole checkpoint of a run") from None
        content = file.read_bytes()
        if name == LOCK:
            mark = _MARK.fullmatch(content)
            if mark is None and (content or not self._is_old()):
                raise _foreign(file, "is not the mark of a run of vbw")
            return mark[1].decode() if mark else _OLD
        found = RunLog(file).run_id() if name == LOG else _id_of_result(content)
        if found is None and not self._is_old():
            raise _foreign(file, "does not say that a run of vbw wrote it")
        return _OLD if found is None else found

    def _is_old(self) -> bool:
        """Whether a checkpoint from before there were ids is here."""
        for name in (LAST, BEST):
            try:
                if _regular(self.file(name)) and run_id(checkpoint.load_meta(self.file(name)), self.path) == _OLD:
                    return True
            except UserError:
                continue
        return False

    @property
    def has_last(self) -> bool:
        return self.file(LAST).exists()

    def refuse_a_run(self) -> None:
        """For a run that begins: there must be none that came to a checkpoint."""
        if self.has_last:
            raise UserError(f"{self.path} holds a run already; go on with it (--resume {self.path}) or name another")
        if self.file(BEST).exists():
            raise UserError(
                f"{self.path} holds a run that has lost its {LAST}; go on from its best checkpoint "
                f"(--resume {self.file(BEST)}) or name another folder (--out)"
            )

    def take(self) -> list[str]:
        """Make the folder, hold it for this process and mark it; the temporary files that were removed."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.file(LOCK))
        except FolderInUse:
            raise
        except OSError as error:
            raise UserError(f"cannot write into {self.path}: {error.strerror}. Name another folder (--out).") from error
        self.id = self.id or secrets.token_hex(16)
        if not self.file(LOCK).stat().st_size:
            self.file(LOCK).write_bytes(b"vbw-np training run " + self.id.encode() + b"\n")
        return checkpoint.sweep(self.path, _PARTS)

    def set_aside(self, name: str) -> Path | None:
        """Give a file that something else will take the place of another name; the new one, if there was a file."""
        file = self.file(name)
        if not os.path.lexists(file):
            return None
        other = self.free_name(name)
        os.rename(file, other)
        return other

    def free_name(self, name: str) -> Path:
        """Another name for a file of the run, which nothing has yet: ``last-1.vbw``."""
        stem, suffix = name.rsplit(".", 1)
        number = 1
        while os.path.lexists(other := self.path / f"{stem}-{number}.{suffix}"):
            number += 1
        return other

    def release(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _id_of_result(content: bytes) -> str | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    value = found.get("run") if isinstance(found, dict) else None
    return value if isinstance(value, str) else None


def _locked(file: Path) -> Any:
    """Hold the folder for this process, until it ends in any way, so that two runs cannot write into one log."""
    handle = open(file, "ab")  # never emptied
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows
        pass
    except OSError:
        handle.close()
        raise FolderInUse(
            f"{file.parent} is in use by another run; name another folder (--out), or wait for it"
        ) from None
    return handle
