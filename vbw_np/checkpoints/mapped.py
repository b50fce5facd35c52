"""A file's bytes, mapped into memory: nothing is read until it is looked at, and nothing outside the file ever is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np

from .errors import CheckpointError


class MappedFile:
    """A regular file as a read-only array of bytes.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path : Path
    size : int
        Bytes in the file when it was opened.

    Raises
    ------
    CheckpointError
        If there is no file, or it is empty, a folder, a device or a pipe.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            status = self.path.stat()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise CheckpointError(f"cannot open {self.path}: {why}; pass a file or folder that exists") from None
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{self.path} is not a regular file; pass a .safetensors or .gguf file")
        if status.st_size == 0:
            raise CheckpointError(f"{self.path} is empty; it was probably not written to its end: get it again")
        self.size = status.st_size
        try:
            self._bytes = np.memmap(self.path, np.uint8, "r")
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error.strerror or error}") from None

    def view(self, offset: int, nbytes: int) -> np.ndarray:
        """The bytes `offset` to `offset + nbytes`, mapped: uint8 (nbytes,), read-only."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise CheckpointError(
                f"{self.path} ends at byte {self.size:,}; bytes {offset:,} to {offset + nbytes:,} are not there: "
                "the file is cut off, get it again"
            )
        return self._bytes[offset : offset + nbytes].view(np.ndarray)

    def read(self, offset: int, nbytes: int) -> bytes:
        """A copy of those bytes."""
        return self.view(offset, nbytes).tobytes()

    def __repr__(self) -> str:
        return f"MappedFile({self.path.name}, {self.size:,} bytes)"
