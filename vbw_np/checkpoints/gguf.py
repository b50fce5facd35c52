"""The header of a GGUF file (versions 2 and 3, little endian), read and checked; no tensor is touched.

A file is: `GGUF`, the version as uint32, the number of tensors and of key/value pairs as uint64; the pairs (key, type,
value); the tensors (name, number of axes, axes with the fastest first, type, offset); padding; the data. Every count
is held against the bytes that are left before anything is made of it.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from ..formats.ggml import BY_NAME, PLAIN_NUMBERS
from .errors import CheckpointError
from .mapped import MappedFile
from .stored import StoredTensor, bytes_of

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
MAX_AXES = 4
MAX_NESTING = 4

STRING, ARRAY = 8, 9
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""Types of values that have a fixed width."""
SMALLEST_VALUE = {**{kind: np.dtype(code).itemsize for kind, code in SCALARS.items()}, STRING: 8, ARRAY: 12}
"""Bytes that a value of each type takes at least."""
TYPE_NAMES = PLAIN_NUMBERS | {kind.number: kind.name for kind in BY_NAME.values()}


class _Cursor:
    """Walks over the header, never beyond the file."""

    def __init__(self, file: MappedFile) -> None:
        self.file, self.position = file, 0
        self.data = memoryview(file.view(0, file.size))

    def damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.file.path} is not a whole GGUF file: {what}; get or write it again")

    def take(self, nbytes: int, what: str) -> memoryview:
        if nbytes > self.file.size - self.position:
            left = self.file.size - self.position
            raise self.damaged(
                f"{what} would take {nbytes:,} bytes from byte {self.position:,}, where {left:,} are left"
            )
        part = self.data[self.position : self.position + nbytes]
        self.position += nbytes
        return part

    def number(self, code: str, what: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize(code), what))[0]

    def count(self, smallest: int, what: str) -> int:
        """A uint64 count of things that take at least `smallest` bytes each."""
        count = self.number("Q", what)
        if count * smallest > self.file.size - self.position:
            raise self.damaged(f"{what}, {count:,}, is more than the rest of the file can hold")
        return count

    def text(self, what: str, errors: str = "strict") -> str:
        raw = self.take(self.number("Q", f"the length of {what}"), what)
        try:
            return str(raw, "utf-8", errors)
        except UnicodeDecodeError:
            raise self.damaged(f"{what} is not UTF-8") from None

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind == STRING:
            return self.text(what, "surrogateescape")  # tokens can be parts of a character: nothing is lost
        if kind == ARRAY:
            return self._array(what, depth + 1)
        if kind not in SCALARS:
            raise self.damaged(f"{what} has the unknown type {kind}")
        raw = self.take(SMALLEST_VALUE[kind], what)
        if SCALARS[kind] == "?" and raw[0] > 1:
            raise self.damaged(f"{what} is the bool {raw[0]}")
        return np.frombuffer(raw, SCALARS[kind])[0].item()

    def _array(self, what: str, depth: int) -> Any:
        kind = self.number("I", f"the type of {what}")
        if kind not in SMALLEST_VALUE:
            raise self.damaged(f"{what} is an array of the unknown type {kind}")
        if depth > MAX_NESTING:
            raise self.damaged(f"{what} nests arrays deeper than {MAX_NESTING}")
        count = self.count(SMALLEST_VALUE[kind], f"the length of {what}")
        if kind in SCALARS:
            return np.frombuffer(self.take(count * SMALLEST_VALUE[kind], what), SCALARS[kind])
        return [self.value(kind, what, depth) for _ in range(count)]


def read_gguf(file: MappedFile) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """The tensors of a file by name, in the order of its header, and its key/value pairs.

    Arrays of numbers come as read-only NumPy arrays, arrays of strings as lists; bytes of a string that are no UTF-8
    as surrogates (`s.encode("utf-8", "surrogateescape")` gives them back).

    Raises
    ------
    CheckpointError
        For a header that is damaged, another version or byte order, or a tensor of an unknown type.
    """
    cursor = _Cursor(file)
    if bytes(cursor.take(4, "the magic word")) != MAGIC:
        raise cursor.damaged("it does not begin with GGUF")
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        kind = "big endian" if version & 0xFFFF == 0 and version else f"version {version}"
        raise CheckpointError(f"{file.path} is a GGUF file, {kind}; only versions 2 and 3, little endian, are read")
    tensor_count = cursor.count(8 + 4 + 4 + 8, "the number of tensors")
    pair_count = cursor.count(8 + 4 + 1, "the number of key/value pairs")
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.text("a key")
        if key in metadata:
            raise cursor.damaged(f"key {key[:80]!r} is there twice")
        metadata[key] = cursor.value(cursor.number("I", f"the type of {key[:80]!r}"), f"the value of {key[:80]!r}")
    entries = [_entry(cursor) for _ in range(tensor_count)]
    return _placed(cursor, entries, _alignment(cursor, metadata)), metadata


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise cursor.damaged(f"its alignment, {str(alignment)[:40]}, is no power of two up to a megabyte")
    return alignment


def _entry(cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int]:
    """Name, dtype, shape (slowest axis first) and offset of one tensor."""
    name = cursor.text("the name of a tensor")
    short = name[:80]
    axes = cursor.number("I", f"the number of axes of {short!r}")
    if axes > MAX_AXES:
        raise cursor.damaged(f"tensor {short!r} has {axes:,} axes, and {MAX_AXES} is the format's limit")
    shape = tuple(cursor.number("Q", f"the axes of {short!r}") for _ in range(axes))[::-1]
    number = cursor.number("I", f"the type of {short!r}")
    offset = cursor.number("Q", f"the offset of {short!r}")
    if number not in TYPE_NAMES:
        raise CheckpointError(
            f"{cursor.file.path}: tensor {short!r} has GGUF type {number}, which is not known; known are "
            + ", ".join(TYPE_NAMES.values())
        )
    if math.prod(shape) >= 2**63:
        raise cursor.damaged(f"tensor {short!r} would have {math.prod(shape):,} elements")
    return name, TYPE_NAMES[number], shape, offset


def _placed(
    cursor: _Cursor, entries: list[tuple[str, str, tuple[int, ...], int]], alignment: int
) -> dict[str, StoredTensor]:
    """The tensors with their places in the file, checked: inside, aligned, apart."""
    file = cursor.file
    start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    for name, dtype, shape, offset in entries:
        nbytes = bytes_of(shape, dtype)
        if name in tensors:
            raise cursor.damaged(f"tensor {name[:80]!r} is there twice")
        if nbytes is None:
            raise cursor.damaged(f"the rows of tensor {name[:80]!r}, {dtype} {list(shape)}, are no whole blocks")
        if offset % alignment:
            raise cursor.damaged(f"tensor {name[:80]!r} starts at {offset:,}, which {alignment} does not divide")
        if start + offset + nbytes > file.size:
            raise cursor.damaged(
                f"tensor {name[:80]!r} would end at byte {start + offset + nbytes:,} of {file.size:,}: it is cut off"
            )
        tensors[name] = StoredTensor(name, dtype, shape, file, start + offset, nbytes)
    last = None
    for tensor in sorted((t for t in tensors.values() if t.nbytes), key=lambda t: t.offset):
        if last is not None and tensor.offset < last.offset + last.nbytes:
            raise cursor.damaged(f"tensors {last.name[:80]!r} and {tensor.name[:80]!r} overlap")
        last = tensor
    return tensors
