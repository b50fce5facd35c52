"""Write checkpoints: streamed tensor by tensor, into a folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..formats.ggml import BY_NAME, PLAIN_NUMBERS
from .errors import CheckpointError
from .gguf import ALIGNMENT, ARRAY, MAGIC, STRING
from .safetensors import header_bytes
from .stored import bytes_of

SHARD_BYTES = 5_000_000_000
"""Files are split beyond this, as Hugging Face's libraries do."""


@dataclass(frozen=True, eq=False)
class Planned:
    """A tensor that will be written: its header now, its bytes in pieces when its turn comes.

    Parameters
    ----------
    name, dtype, shape : as in the file (shape slowest axis first)
    pieces : function that yields arrays whose bytes follow each other
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[np.ndarray]]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        count = bytes_of(self.shape, self.dtype)
        if count is None:
            raise CheckpointError(f"{self.name}, {self.dtype} {list(self.shape)}, takes no whole number of bytes")
        return count

    def write(self, file: BinaryIO) -> None:
        """Write its bytes, and be sure that they are as many as the header says."""
        written = 0
        for piece in self.pieces():
            data = np.ascontiguousarray(piece)
            file.write(data.view(np.uint8).reshape(-1).data if data.size else b"")
            written += data.nbytes
        if written != self.nbytes:
            raise CheckpointError(f"{self.name}: {written:,} bytes were made where the header says {self.nbytes:,}")


@contextlib.contextmanager
def _terminating_cleanly() -> Iterator[None]:
    """SIGTERM ends the program through its `finally` clauses, unless somebody handles it already."""
    ours = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if ours:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder beside `path` that becomes `path` when the block ends well, and is removed otherwise.

    Raises
    ------
    CheckpointError
        If there is something at `path` already, or its parent is no folder that can be written.
    """
    path = Path(path).expanduser()
    if path.exists() or path.is_symlink():
        raise CheckpointError(f"{path} exists already; name a folder that does not, so that nothing is overwritten")
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: its folder {path.parent} does not exist. Make it first.")
    if not os.access(path.parent, os.W_OK):
        raise CheckpointError(f"cannot write {path}: no permission. Name a folder of yours.")
    part = Path(tempfile.mkdtemp(prefix=f".{path.name[:16]}.", suffix=".part", dir=path.parent))
    try:
        with _terminating_cleanly():
            yield part
        if os.name != "nt":
            mask = os.umask(0)
            os.umask(mask)
            part.chmod(0o777 & ~mask)  # mkdtemp makes folders for the owner only
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_safetensors(
    folder: Path,
    tensors: list[Planned],
    metadata: dict[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    done: Callable[[str], None] = lambda name: None,
) -> None:
    """`model.safetensors`, or shards of up to `shard_bytes` and their index."""
    shards: list[list[Planned]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            file.write(header_bytes({t.name: (t.dtype, t.shape) for t in shard}, metadata))
            for tensor in shard:
                tensor.write(file)
                done(tensor.name)
    if len(shards) > 1:
        weight_map = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": sum(t.nbytes for t in tensors)}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")


# ---- GGUF


_GGUF_NUMBERS = {name: number for number, name in PLAIN_NUMBERS.items()} | {k.name: k.number for k in BY_NAME.values()}
_GGUF_ARRAYS = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12}


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _value(key: str, value: Any) -> bytes:
    """The type and the bytes of one metadata value."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        kind, code = (4, "I") if 0 <= value < 2**32 else (11, "q")
        return struct.pack(f"<I{code}", kind, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value) if np.float32(value) == value else struct.pack("<Id", 12, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, np.ndarray):
        kind = _GGUF_ARRAYS[f"{value.dtype.kind}{value.dtype.itemsize}"]
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + np.ascontiguousarray(value).tobytes()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_text, value))
    raise CheckpointError(f"metadata {key!r} is a {type(value).__name__}, which is not written into GGUF")


def write_gguf(
    path: Path,
    tensors: list[Planned],
    metadata: dict[str, Any],
    done: Callable[[str], None] = lambda name: None,
) -> None:
    """A GGUF file, version 3; every tensor starts at a multiple of 32 bytes.

    An unsigned metadata number may come back as another width; its value stays.
    """
    metadata = {key: value for key, value in metadata.items() if key != "general.alignment"}
    infos, offset = [], 0
    for tensor in tensors:
        if tensor.dtype not in _GGUF_NUMBERS:
            raise CheckpointError(f"{tensor.name} is {tensor.dtype}, which GGUF does not have")
        shape = tensor.shape[::-1] or (1,)
        head = _text(tensor.name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos.append(head + struct.pack("<IQ", _GGUF_NUMBERS[tensor.dtype], offset))
        offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    pairs = [_text(key) + _value(key, value) for key, value in metadata.items()]
    header = MAGIC + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join([*pairs, *infos])
    with path.open("wb") as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for tensor in tensors:
            tensor.write(file)
            file.write(bytes(-tensor.nbytes % ALIGNMENT))
            done(tensor.name)


COPIED = (".json", ".txt", ".model", ".jinja", ".md", ".tiktoken")
NOT_COPIED = {"config.json", "hf_quant_config.json", "model.safetensors.index.json", "quantize_config.json"}
MAX_COPIED = 64 << 20


def copy_companions(source: Path, folder: Path) -> None:
    """Tokenizer, generation config and the like: small files of known kinds; no weights, no code."""
    for path in sorted(source.iterdir()):
        usable = path.is_file() and path.suffix in COPIED and path.name not in NOT_COPIED
        if usable and path.stat().st_size <= MAX_COPIED:
            shutil.copyfile(path, folder / path.name)
