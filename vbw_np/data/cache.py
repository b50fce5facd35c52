"""Encoded ids kept on disk, so that the second start need not split megabytes of text again.

Two files a stream: ``KEY.npy``, the ids, mapped into memory when read, and ``KEY.json``, the rest, with the SHA-256 of
the ids. The key names everything the ids depend on, so a stale entry cannot be found; a damaged one fails its hash and
is made again. Each file is written beside its place and moved there whole, the ``.json`` last. Where nothing can be
written, everything works without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import user_path, write_whole

_FORMAT = 1


def cache_folder() -> Path:
    """``VBW_CACHE``, or ``vbw-np`` in ``XDG_CACHE_HOME``, in ``LOCALAPPDATA`` (Windows) or in ``~/.cache``."""
    own = os.environ.get("VBW_CACHE")
    if own:
        return user_path(own)
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    if base:
        return Path(base) / "vbw-np"
    try:
        return Path.home() / ".cache" / "vbw-np"
    except RuntimeError:  # no home at all
        return Path(tempfile.gettempdir()) / "vbw-np"


def _paths(key: str) -> tuple[Path, Path]:
    folder = cache_folder() / "tokens"
    return folder / f"{key}.npy", folder / f"{key}.json"


def _digest(ids: NDArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(ids)).hexdigest()


def _digest_of_file(path: Path, offset: int) -> str:
    """That of the ids in a file, read piece by piece: pages that a mapping touches would count as this process's."""
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(key: str) -> tuple[NDArray[np.unsignedinteger], dict[str, Any]] | None:
    """The ids, mapped read-only, and what was kept with them; None if there is no entry or it is damaged."""
    ids_path, about_path = _paths(key)
    try:
        if not (ids_path.is_file() and about_path.is_file()):  # also not a pipe, which would be waited for
            return None
        about = json.loads(about_path.read_text("utf-8"))
        if about["format"] != _FORMAT or about["key"] != key:
            return None
        mapped = np.load(ids_path, mmap_mode="r", allow_pickle=False)
        ids = mapped.view(np.ndarray)
        vocab, starts = about["vocab"], about["starts"]
        sound = (
            ids.ndim == 1
            and ids.dtype in (np.uint16, np.uint32)
            and _digest_of_file(ids_path, mapped.offset) == about["sha256_ids"]
            and _digest_text(vocab, starts, about["unk_share"]) == about["sha256_about"]
        )
        return (ids, about) if sound else None
    except Exception:  # a damaged file makes NumPy and json raise nearly anything; it is made again
        return None


def _digest_text(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write(key: str, ids: NDArray[np.unsignedinteger], about: dict[str, Any]) -> bool:
    """Keep an entry; False where that cannot be done."""
    ids_path, about_path = _paths(key)
    sums = {
        "format": _FORMAT,
        "key": key,
        "sha256_ids": _digest(ids),
        "sha256_about": _digest_text(about["vocab"], about["starts"], about["unk_share"]),
    }
    if any(path.exists() and not path.is_file() for path in (ids_path, about_path)):
        return False  # a folder or a pipe of that name
    try:
        ids_path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(ids_path, lambda file: np.save(file, ids, allow_pickle=False))
        write_whole(about_path, json.dumps({**sums, **about}))
    except OSError:  # a read-only home, a full disk, a file that Windows keeps because it is mapped
        return False
    return True


def cache_usage() -> tuple[int, int]:
    """Number of streams kept, and their size in bytes."""
    folder = cache_folder() / "tokens"
    try:
        files = [entry for entry in os.scandir(folder) if entry.is_file()]
        return sum(entry.name.endswith(".json") for entry in files), sum(entry.stat().st_size for entry in files)
    except OSError:
        return 0, 0


_PART = re.compile(r"\.[0-9a-f]{16}\.[0-9a-z_]{8}\.part")


def _is_ours(about_path: Path) -> bool:
    """Whether `write` made this ``.json``: its name is a key, and the same key stands in it."""
    if not re.fullmatch(r"[0-9a-f]{32}\.json", about_path.name) or about_path.is_symlink() or not about_path.is_file():
        return False
    try:
        about = json.loads(about_path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(about, dict) and about.get("key") == about_path.stem and "sha256_ids" in about


def clear_cache() -> int:
    """Remove what this module provably wrote, nothing else; the number of files removed."""
    folder = cache_folder() / "tokens"
    found = sorted(folder.glob("*")) if folder.is_dir() else []
    ours = [path for path in found if _PART.fullmatch(path.name) and path.is_file() and not path.is_symlink()]
    for about_path in filter(_is_ours, found):
        ids_path = about_path.with_suffix(".npy")
        ours += [about_path] + [ids_path] * (ids_path.is_file() and not ids_path.is_symlink())
    removed = 0
    for path in ours:
        with contextlib.suppress(OSError):
            path.unlink()
            removed += 1
    return removed
