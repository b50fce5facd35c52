"""The header of a safetensors file, read and checked; no tensor is touched.

A file is: the header's length N as uint64, little endian; N bytes of JSON, a dictionary from names to
`{"dtype", "shape", "data_offsets": [begin, end)}` and maybe `__metadata__`, a dictionary of strings; the data. Offsets
count from the end of the header. As in the library that defines the format, the tensors must cover the data without
holes or overlaps, and nothing may follow.

The library itself is not used to read: to Python it gives sub-byte and 8-bit floating types only through torch.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from .errors import CheckpointError
from .mapped import MappedFile
from .stored import BITS, NUMPY_DTYPES, StoredTensor, bytes_of

MAX_HEADER = 100_000_000
"""Bytes; the library's own limit."""
DTYPES = (*NUMPY_DTYPES, "F4", "F6_E2M3", "F6_E3M2")


def damaged(file: MappedFile, what: str) -> CheckpointError:
    """The error for a header that breaks the rules of the format."""
    return CheckpointError(f"{file.path} is not a whole safetensors file: {what}; get or write it again")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is there twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def parse_json(text: bytes) -> Any:
    """JSON without duplicate names, NaN or Infinity; a ValueError for anything else, however deep it nests."""
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("its JSON nests too deep") from None


def read_header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """The header as a dictionary, and the offset at which the data starts."""
    if file.size < 8:
        raise damaged(file, f"it has {file.size} bytes, fewer than the length of a header takes")
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > MAX_HEADER:
        raise damaged(file, f"its header would take {length:,} bytes, and {MAX_HEADER:,} is the format's limit")
    if 8 + length > file.size:
        raise damaged(file, f"its header would take {length:,} bytes, and the file has {file.size:,}")
    text = file.read(8, length)
    if not text.startswith(b"{"):
        raise damaged(file, "its header is not JSON")
    try:
        header = parse_json(text)
    except ValueError as error:
        raise damaged(file, f"its header cannot be read ({error})") from None
    return header, 8 + length


def read_safetensors(file: MappedFile) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a file by name, in the order of their data, and its metadata.

    Raises
    ------
    CheckpointError
        For a header that is damaged, or names a dtype that is not known.
    """
    header, start = read_header(file)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(file, "its __metadata__ is not a dictionary of strings")
    tensors = sorted((_tensor(file, name, entry, start) for name, entry in header.items()), key=_place)
    position = start
    for tensor in tensors:
        if tensor.offset != position:
            what = "overlaps the one before it" if tensor.offset < position else "leaves a hole before it"
            raise damaged(file, f"tensor {tensor.name!r} {what} (byte {tensor.offset:,})")
        position += tensor.nbytes
    if position != file.size:
        kind = "are missing at its end" if position > file.size else "follow its last tensor"
        raise damaged(file, f"{abs(position - file.size):,} bytes {kind}")
    return {tensor.name: tensor for tensor in tensors}, metadata


def _place(tensor: StoredTensor) -> tuple[int, int]:
    return tensor.offset, tensor.nbytes


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(file: MappedFile, name: str, entry: Any, start: int) -> StoredTensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise damaged(file, f"the entry of tensor {name[:80]!r} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{file.path}: tensor {name[:80]!r} has dtype {str(dtype)[:40]!r}, which is not known; known are "
            + ", ".join(DTYPES)
        )
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise damaged(file, f"the shape of tensor {name[:80]!r} is not a list of counts")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise damaged(file, f"the offsets of tensor {name[:80]!r} are not two counts")
    begin, end = offsets
    nbytes = bytes_of(tuple(shape), dtype)
    if nbytes is None:
        raise damaged(file, f"tensor {name[:80]!r}, {dtype} {shape[:8]}, takes no whole number of bytes")
    if end - begin != nbytes:
        raise damaged(
            file, f"tensor {name[:80]!r}, {dtype} {shape[:8]}, takes {nbytes} bytes, and its offsets span {end - begin}"
        )
    if start + end > file.size:
        raise damaged(file, f"tensor {name[:80]!r} ends at byte {start + end:,} of {file.size:,}: it is cut off")
    return StoredTensor(name, dtype, tuple(shape), file, start + begin, nbytes)


def header_bytes(entries: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str] | None = None) -> bytes:
    """The length and header of a file that holds these tensors (dtype, shape) one after the other.

    Padded with spaces to a multiple of 8 bytes, as the library does, so that the data starts aligned.
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, (dtype, shape) in entries.items():
        nbytes = bytes_of(tuple(shape), dtype) if dtype in BITS else None
        if nbytes is None:
            raise CheckpointError(f"tensor {name}, {dtype} {list(shape)}, cannot be written into a safetensors file")
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + nbytes]}
        position += nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
