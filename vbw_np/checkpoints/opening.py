"""Open a checkpoint: one safetensors or GGUF file, a folder of shards, or their index; lazily, and never a pickle."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .gguf import MAGIC, read_gguf
from .mapped import MappedFile
from .safetensors import parse_json, read_safetensors
from .stored import StoredTensor

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MAX_CONFIG = 32 << 20
"""Bytes; a configuration or an index beyond this is none."""
CONFIG_FILES = ("config.json", "hf_quant_config.json")
_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class Checkpoint:
    """The tensors of a checkpoint by name; their bytes stay in the mapped files until they are asked for.

    `open_checkpoint` makes one.

    Parameters
    ----------
    path : Path
        What was opened.
    kind : {"safetensors", "gguf"}
    tensors : dict from name to StoredTensor
    metadata : dict
        GGUF's key/value pairs (architecture, tokenizer, ...), or the strings of safetensors' `__metadata__`.
    config : dict
        The `config.json` beside the file, empty without one.
    quant_config : dict
        ModelOpt's `hf_quant_config.json`, empty without one.
    files : tuple of MappedFile
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        tensors: dict[str, StoredTensor],
        metadata: dict[str, Any],
        files: tuple[MappedFile, ...],
        config: dict[str, Any] | None = None,
        quant_config: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.kind, self.tensors, self.metadata, self.files = path, kind, tensors, metadata, files
        self.config, self.quant_config = config or {}, quant_config or {}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def folder(self) -> Path:
        """The folder that its files lie in."""
        return self.files[0].path.parent

    def __getitem__(self, name: str) -> StoredTensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path} has no tensor {name!r}; {_some(self.tensors)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"Checkpoint({self.path}: {self.kind}, {len(self)} tensors, {self.nbytes:,} bytes)"


def _some(names: dict[str, Any]) -> str:
    first = list(names)[:6]
    return f"it has {len(names)}: {', '.join(first)}{', ...' if len(names) > len(first) else ''}"


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: headers are read and checked, no tensor is.

    Parameters
    ----------
    path : path of a `.safetensors` or `.gguf` file, of a folder that holds one or several, or of a
        `model.safetensors.index.json`

    Raises
    ------
    CheckpointError
        With one line: nothing there, damaged, a pickle (never read: it can run any program), another kind.
    """
    path = _expanded(path)
    if path.is_dir():
        return _open_folder(path)
    if path.name.endswith(".index.json"):
        return _open_index(path)
    refuse_pickle(path)
    file = MappedFile(path)
    if _is_gguf(file):
        return _open_gguf(file)
    if path.suffix == ".safetensors" or _looks_like_safetensors(file):
        return _open_safetensors(path, (file,))
    raise CheckpointError(
        f"{path} is neither a safetensors nor a GGUF file (it begins with {file.read(0, min(8, file.size))!r})"
    )


def _expanded(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def refuse_pickle(path: Path) -> None:
    """Raise for a file that is, or by its name would be, a pickle."""
    if path.suffix.lower() == ".npz":
        raise CheckpointError(
            f"{path} is NumPy's archive of arrays, which says nothing of a model; write them with safetensors, or one "
            "array with numpy.save"
        )
    suspicious = path.suffix.lower() in PICKLE_SUFFIXES
    if not suspicious and path.is_file():
        with path.open("rb") as file:
            start = file.read(4)
        suspicious = start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or start == b"PK\x03\x04"
    if suspicious:
        raise CheckpointError(
            f"{path} is a pickle (or a zip with one), which can run any program when it is read, so it is not; convert "
            "it where torch is installed: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
            "'model.safetensors')"
        )


def _is_gguf(file: MappedFile) -> bool:
    return file.path.suffix == ".gguf" or file.read(0, min(4, file.size)) == MAGIC


def _looks_like_safetensors(file: MappedFile) -> bool:
    return file.size > 9 and file.read(8, 2) in (b'{"', b"{}")


# ---- kinds


def _open_gguf(file: MappedFile) -> Checkpoint:
    """A GGUF file, with its other parts where it is one of several."""
    tensors, metadata = read_gguf(file)
    parts = _SPLIT.fullmatch(file.path.name)
    count = metadata.get("split.count", 1)
    if count in (0, 1):
        return Checkpoint(file.path, "gguf", tensors, metadata, (file,))
    if parts is None or int(parts[3]) != count:
        raise CheckpointError(f"{file.path} is one of {count} parts, and its name does not say which; restore its name")
    files, tensors = [], {}
    for number in range(1, int(parts[3]) + 1):
        part = MappedFile(file.path.with_name(f"{parts[1]}-{number:05}-of-{parts[3]}.gguf"))
        more, pairs = read_gguf(part)
        metadata = pairs if number == 1 else metadata
        _add(tensors, more, part)
        files.append(part)
    return Checkpoint(file.path, "gguf", tensors, metadata, tuple(files))


def _add(tensors: dict[str, StoredTensor], more: dict[str, StoredTensor], file: MappedFile) -> None:
    twice = next((name for name in more if name in tensors), None)
    if twice is not None:
        raise CheckpointError(f"tensor {twice!r} is in {tensors[twice].file.path.name} and in {file.path.name}")
    tensors.update(more)


def _open_safetensors(path: Path, files: tuple[MappedFile, ...], expected: dict[str, str] | None = None) -> Checkpoint:
    """Safetensors files as one checkpoint; `expected` says which file holds which tensor."""
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        more, strings = read_safetensors(file)
        _add(tensors, more, file)
        metadata |= strings
    for name, where in (expected or {}).items():
        if name not in tensors or tensors[name].file.path.name != where:
            raise CheckpointError(
                f"{path} says that {where} holds tensor {name!r}, and it does not: parts do not match"
            )
    folder = files[0].path.parent
    config, quant_config = (_read_config(folder / name) for name in CONFIG_FILES)
    return Checkpoint(path, "safetensors", tensors, metadata, files, config, quant_config)


def _read_config(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a dictionary."""
    file = MappedFile(path)
    if file.size > MAX_CONFIG:
        raise CheckpointError(f"{path} has {file.size:,} bytes; a configuration has at most {MAX_CONFIG:,}")
    try:
        data = parse_json(file.read(0, file.size))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); write it again") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a JSON {type(data).__name__}, not a dictionary")
    return data


def _open_index(path: Path) -> Checkpoint:
    """The shards that a `model.safetensors.index.json` names."""
    expected = read_json(path).get("weight_map")
    if not isinstance(expected, dict) or not expected or not all(isinstance(v, str) for v in expected.values()):
        raise CheckpointError(f"{path} has no weight_map from tensors to files; it is no index of safetensors files")
    names = sorted(set(expected.values()))
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{path} names the file {name!r}; shards are .safetensors files beside their index")
    return _open_safetensors(path, tuple(MappedFile(path.parent / name) for name in names), expected)


def _open_folder(folder: Path) -> Checkpoint:
    """What lies in a folder: an index, the safetensors files, or one GGUF model."""
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if len(indexes) == 1:
        return _open_index(indexes[0])
    if len(indexes) > 1:
        raise CheckpointError(f"{folder} has {len(indexes)} indexes; name one of {[p.name for p in indexes]}")
    found = sorted(folder.glob("*.safetensors"))
    ggufs = sorted(folder.glob("*.gguf"))
    if found and not ggufs:
        if len(found) > 1 and not all("-of-" in p.name for p in found):
            raise CheckpointError(f"{folder} has {len(found)} safetensors files and no index; name one of them")
        return _open_safetensors(folder, tuple(map(MappedFile, found)))
    if len(ggufs) == 1 or (ggufs and all(_SPLIT.fullmatch(p.name) for p in ggufs) and not found):
        if not found:
            return open_checkpoint(ggufs[0])
    if found or ggufs:
        raise CheckpointError(f"{folder} has {len(found) + len(ggufs)} models; name one of the files in it")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLE_SUFFIXES:
            refuse_pickle(path)
    raise CheckpointError(f"{folder} has no .safetensors and no .gguf file; name the folder that holds the model")
