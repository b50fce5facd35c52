"""Checkpoints: raw arrays and a JSON header in one file, written whole or not at all, checked when read, never pickled.

    offset      bytes   what
    0           8       magic, ``b"VBWCKPT\\n"``
    8           4       version of this layout, little-endian, as all numbers here
    12          8       length of the whole file
    20          8       length of the header, H
    28          32      SHA-256 of the header
    60          H       header: JSON, ``meta`` (anything) and ``arrays`` (name, dtype, shape, offset, nbytes, SHA-256)
    60 + H              the arrays, C-contiguous, one after the other

**Whole or not at all.** The bytes go to a temporary file beside the target, are flushed to the disk, and then the file
is renamed over the target, and the folder is flushed: at every moment the name holds either the old checkpoint or the
new one. A full disk or a killed process leaves the old one.

**Checked.** The length tells a cut file from a damaged one, the header has its own hash, and each array has one, so an
error names the array, and no bit of the file is outside a check. Nothing of a damaged checkpoint is handed out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

MAGIC = b"VBWCKPT\n"
VERSION = 1
_PREAMBLE = struct.Struct("<8sIQQ32s")
_DTYPES = frozenset({"<f4", "<f8", "|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8", "|b1"})
_PART = ".part"


class CheckpointError(UserError):
    """A checkpoint that cannot be read or written; the message says what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes
    ----------
    meta : dict
        Whatever JSON can say.
    arrays : dict of str to ndarray
    """

    meta: dict[str, Any]
    arrays: dict[str, NDArray]

    def below(self, prefix: str) -> dict[str, NDArray]:
        """The arrays whose name starts with `prefix`, under the rest of their name."""
        return {name[len(prefix) :]: array for name, array in self.arrays.items() if name.startswith(prefix)}


# ------------------------------------------------------------------------------------------------------------ writing


def save(path: str | os.PathLike[str], arrays: Mapping[str, NDArray], meta: Mapping[str, Any]) -> int:
    """Write a checkpoint in the place of `path`, whole or not at all.

    Parameters
    ----------
    path : path
        Its folder must exist.
    arrays : mapping of str to ndarray
        Floats, integers and booleans.
    meta : mapping
        What JSON can say; NaN and Inf are refused.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    CheckpointError
        It could not be written (a full disk, a missing folder, no permission); what was at `path` is as it was.
    """
    path = Path(path)
    kept = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    head = _header(kept, meta)
    with _in_words(path), _replacing(path) as file:
        return _fill(file, head, kept)


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """What the system says about a failed write, and what is left of the file."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full" if full else error.strerror or error
        last_good = "The checkpoint that was there is untouched." if path.exists() else "Nothing was left behind."
        raise CheckpointError(
            f"checkpoint: cannot write {path}: {why}. {last_good} Free space or choose another folder, then resume."
        ) from error


def _little_endian(array: NDArray) -> NDArray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _header(arrays: Mapping[str, NDArray], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Meta and the table of the arrays; offsets count from the start of the first array."""
    table, offset = [], 0
    for name, array in arrays.items():
        array = _little_endian(array)
        if array.dtype.str not in _DTYPES:
            raise TypeError(f"checkpoint: array {name!r} has dtype {array.dtype}; save numbers or booleans")
        table.append(
            {
                "name": name,
                "dtype": array.dtype.str,
                "shape": list(array.shape),
                "offset": offset,
                "nbytes": array.nbytes,
                "sha256": hashlib.sha256(array.reshape(-1).view(np.uint8)).hexdigest(),
            }
        )
        offset += array.nbytes
    return {"meta": dict(meta), "arrays": table}


def _fill(file: BinaryIO, head: dict[str, Any], arrays: Mapping[str, NDArray]) -> int:
    text = json.dumps(head, allow_nan=False).encode()
    size = _PREAMBLE.size + len(text) + sum(entry["nbytes"] for entry in head["arrays"])
    file.write(_PREAMBLE.pack(MAGIC, VERSION, size, len(text), hashlib.sha256(text).digest()))
    file.write(text)
    for entry in head["arrays"]:
        file.write(_little_endian(arrays[entry["name"]]).reshape(-1).view(np.uint8).data)
    return size


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the context ends well, and vanishes when it does not."""
    name = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_PART}"
    try:
        with open(name, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself last; where a folder cannot be opened (Windows), the system sees to it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a small text file whole or not at all, as `save` does."""
    with _replacing(Path(path)) as file:
        file.write(text.encode())


def copy(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Copy a file whole or not at all; not a link, so that whoever writes into one does not change the other.

    Raises
    ------
    CheckpointError
        The copy could not be written; what was at `path` is as it was.
    """
    with _in_words(Path(path)), open(source, "rb") as original, _replacing(Path(path)) as file:
        shutil.copyfileobj(original, file, 1 << 22)


def sweep(folder: str | os.PathLike[str], names: re.Pattern[str]) -> list[str]:
    """Remove temporary files that a killed process left in `folder`, those whose whole name matches; their names."""
    swept = []
    for part in Path(folder).glob(f".*{_PART}"):
        if not names.fullmatch(part.name) or part.is_symlink() or not part.is_file():
            continue
        with contextlib.suppress(OSError):
            part.unlink()
            swept.append(part.name)
    return swept


# ------------------------------------------------------------------------------------------------------------ reading


def load(path: str | os.PathLike[str], prefix: str = "") -> Checkpoint:
    """Read a checkpoint and check every byte that is handed out.

    Parameters
    ----------
    path : path
    prefix : str
        Read only the arrays whose name starts so, such as ``"model/"``; the others are skipped, not read.

    Raises
    ------
    CheckpointError
        Missing, not a checkpoint, of a newer version, cut short, or damaged; says which, and which array.
    """
    path = Path(path)
    with _opened(path) as file:
        head, start = _read_header(path, file)
        wanted = [entry for entry in head["arrays"] if entry["name"].startswith(prefix)]
        arrays = {entry["name"]: _read_array(path, file, start, entry) for entry in wanted}
    return Checkpoint(head["meta"], arrays)


def load_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header's `meta` alone, without reading the arrays."""
    path = Path(path)
    with _opened(path) as file:
        return _read_header(path, file)[0]["meta"]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError(f"checkpoint: cannot read {path}: it is not a regular file. Name a file.")
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint: {path} does not exist (looked in {Path.cwd()}). Check the name.") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint: cannot read {path}: {error.strerror or error}") from error


def _without_waiting(path: str, flags: int) -> int:
    """Open a file, and do not wait for somebody to write into it if it is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, and where the arrays start."""
    actual = os.fstat(file.fileno()).st_size
    preamble = file.read(_PREAMBLE.size)
    if not preamble:
        raise _cut(path, actual, None)
    if preamble[: len(MAGIC)] != MAGIC[: len(preamble)]:
        raise CheckpointError(
            f"checkpoint: {path} is not a vbw-np checkpoint: it starts with {preamble[:8]!r}, not {MAGIC!r}. "
            "Name a file that `vbw train` wrote (last.vbw or best.vbw)."
        )
    if len(preamble) < _PREAMBLE.size:
        raise _cut(path, actual, None)
    _, version, size, length, digest = _PREAMBLE.unpack(preamble)
    if version != VERSION:
        raise CheckpointError(
            f"checkpoint: {path} has layout version {version}; this vbw-np reads version {VERSION}. "
            "Read it with the vbw-np that wrote it."
        )
    if actual < size:
        raise _cut(path, actual, size)
    if actual != size or _PREAMBLE.size + length > size:
        raise _damaged(path, f"its length is {actual:,} bytes, and its start says {size:,}")
    text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise _damaged(path, "the SHA-256 of its header is not the one written beside it")
    start = _PREAMBLE.size + length
    try:
        head = json.loads(text)
        _check_header(head, size - start)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        why = f"{type(error).__name__} {error}" if isinstance(error, KeyError | RecursionError) else str(error)
        raise _damaged(path, f"its header is none that vbw-np writes ({why})") from error
    return head, start


def _check_header(head: Any, room: int) -> None:
    """The header as `save` writes it: known types, and arrays one after the other in the `room` bytes behind it.

    So nothing is allocated that the file does not hold, and no byte of it is handed out twice.
    """
    if not isinstance(head, dict) or not isinstance(head["meta"], dict) or not isinstance(head["arrays"], list):
        raise ValueError("meta has to be an object, arrays a list")
    end, names = 0, set()
    for entry in head["arrays"]:
        name, shape, dtype, nbytes = (entry[key] for key in ("name", "shape", "dtype", "nbytes"))
        if not isinstance(name, str) or name in names or not isinstance(entry["sha256"], str):
            raise ValueError(f"the array {name!r:.60} has no name of its own, or no hash")
        names.add(name)
        if dtype not in _DTYPES:
            raise ValueError(f"array {name!r} has the dtype {dtype!r:.20}")
        if not isinstance(shape, list) or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"array {name!r} has the shape {shape!r:.60}")
        if nbytes != math.prod(shape) * np.dtype(dtype).itemsize:
            raise ValueError(f"array {name!r} of shape {shape} and dtype {dtype} has not {nbytes!r:.30} bytes")
        if entry["offset"] != end:
            raise ValueError(f"array {name!r} begins at {entry['offset']!r:.30}, not where the one before ends, {end}")
        end += nbytes
    if end != room:
        raise ValueError(f"its arrays have {end:,} bytes, and behind the header there are {room:,}")


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """What is done with a checkpoint's content inside: whatever that content makes fail is told as such.

    Raises
    ------
    CheckpointError
    """
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"checkpoint: {path} is whole, but its content is none that this vbw-np understands "
            f"({type(error).__name__}: {error}). {_OTHER_ONE}"
        ) from error


def load_shapes(path: str | os.PathLike[str], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays below `prefix`, from the header alone."""
    path = Path(path)
    with _opened(path) as file:
        entries = _read_header(path, file)[0]["arrays"]
    return {e["name"][len(prefix) :]: tuple(e["shape"]) for e in entries if e["name"].startswith(prefix)}


def _read_array(path: Path, file: BinaryIO, start: int, entry: dict[str, Any]) -> NDArray:
    array = np.empty(entry["shape"], np.dtype(entry["dtype"]))
    file.seek(start + entry["offset"])
    raw = array.reshape(-1).view(np.uint8)
    if file.readinto(raw.data) != entry["nbytes"]:
        raise _damaged(path, f"array {entry['name']!r} ends early")
    if hashlib.sha256(raw).hexdigest() != entry["sha256"]:
        raise _damaged(path, f"the SHA-256 of array {entry['name']!r} is not the one in its header")
    return array


_OTHER_ONE = "Use the other one of best.vbw and last.vbw, or an older copy; damaged weights are not handed out."


def _cut(path: Path, actual: int, size: int | None) -> CheckpointError:
    whole = f" of {size:,}" if size is not None else ", fewer than its first 60"
    return CheckpointError(f"checkpoint: {path} is cut short: {actual:,} bytes{whole}. {_OTHER_ONE}")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"checkpoint: {path} is damaged: {what}. {_OTHER_ONE}")


# ---------------------------------------------------------------------------------------- nested state as flat arrays


def flatten(prefix: str, state: Any) -> tuple[dict[str, NDArray], Any]:
    """Take the arrays out of nested dicts: arrays by path, and the rest with ``{"array": path}`` in their places."""
    arrays: dict[str, NDArray] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, np.ndarray):
            arrays[path] = value
            return {"array": path}
        if isinstance(value, Mapping):
            return {str(key): walk(entry, f"{path}/{key}") for key, entry in value.items()}
        return value

    return arrays, walk(state, prefix)


def unflatten(arrays: Mapping[str, NDArray], state: Any) -> Any:
    """The inverse of `flatten`; keys come back as strings."""
    if isinstance(state, Mapping):
        if set(state) == {"array"}:
            return arrays[state["array"]]
        return {key: unflatten(arrays, entry) for key, entry in state.items()}
    return state
