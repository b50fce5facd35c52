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
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import write_whole

_FORMAT = 1


def cache_folder() -> Path:
    """``VBW_CACHE``, or ``vbw-np`` in ``XDG_CACHE_HOME``, in ``LOCALAPPDATA`` (Windows) or in ``~/.cache``."""
    own = os.environ.get("VBW_CACHE")
    if own:
        return Path(own).expanduser()
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


def read(key: str) -> tuple[NDArray[np.unsignedinteger], dict[str, Any]] | None:
    """The ids, mapped read-only, and what was kept with them; None if there is no entry or it is damaged."""
    ids_path, about_path = _paths(key)
    try:
        about = json.loads(about_path.read_text("utf-8"))
        if about["format"] != _FORMAT or about["key"] != key:
            return None
        mapped = np.load(ids_path, mmap_mode="r", allow_pickle=False)
        ids = mapped.view(np.ndarray)
        vocab, starts = about["vocab"], about["starts"]
        sound = (
            ids.ndim == 1
            and ids.dtype in (np.uint16, np.uint32)
            and _digest(ids) == about["sha256_ids"]
            and _digest_text(vocab, starts, about["unk_share"]) == about["sha256_about"]
        )
        return (ids, about) if sound else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
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


def clear_cache() -> int:
    """Remove what this module wrote, nothing else; the number of files removed."""
    removed = 0
    folder = cache_folder() / "tokens"
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.suffix in (".npy", ".json", ".part"):
            with contextlib.suppress(OSError):
                path.unlink()
                removed += 1
    return removed
