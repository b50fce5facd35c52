"""One tensor as a file holds it: a name, a dtype, a shape and the place of its bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..formats.elements import E2M1, E2M3, E3M2, E4M3, E5M2, E8M0
from ..formats.ggml import BY_NAME, decode_blocks
from ..formats.packing import unpack_codes, unpack_nibbles
from .errors import CheckpointError
from .mapped import MappedFile

NUMPY_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "C64": np.complex64,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
    "BF16": np.uint16, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "F8_E8M0": np.uint8,
    "F8_E4M3FNUZ": np.uint8, "F8_E5M2FNUZ": np.uint8,
}  # fmt: skip
"""Stored dtype -> the NumPy dtype that holds its bits; those that NumPy lacks are held as unsigned codes."""

BITS = {name: 8 * np.dtype(dtype).itemsize for name, dtype in NUMPY_DTYPES.items()} | {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits of an element of every dtype that is no GGUF block type."""

ELEMENTS = {"F8_E4M3": E4M3, "F8_E5M2": E5M2, "F8_E8M0": E8M0, "F4": E2M1, "F6_E2M3": E2M3, "F6_E3M2": E3M2}
FLOATS = {"F64", "F32", "F16", "BF16", *ELEMENTS}
LITTLE = {name: np.dtype(dtype).newbyteorder("<") for name, dtype in NUMPY_DTYPES.items()}


def bytes_of(shape: tuple[int, ...], dtype: str) -> int | None:
    """The bytes that a tensor of that shape and dtype takes, or None where they are no whole number."""
    count = math.prod(shape)
    if dtype in BY_NAME:
        kind = BY_NAME[dtype]
        whole = count == 0 or (shape and shape[-1] % kind.elements == 0)
        return count // kind.elements * kind.bytes if whole else None
    bits = count * BITS[dtype]
    return bits // 8 if bits % 8 == 0 else None


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a checkpoint; its bytes stay in the file until they are asked for.

    Parameters
    ----------
    name : str
    dtype : str
        As the file names it: `F32`, `BF16`, `F8_E4M3`, `U8`, ..., or a GGUF block type such as `Q4_K`.
    shape : tuple of int
        Slowest axis first, as in NumPy (GGUF files store it the other way round).
    file : MappedFile
    offset, nbytes : int
        Where its bytes lie in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: MappedFile
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_block_type(self) -> bool:
        """Whether it is a quantized GGUF type, whose blocks hold codes and scales."""
        return self.dtype in BY_NAME

    def bytes(self) -> np.ndarray:
        """Its bytes, mapped: uint8 (nbytes,), read-only."""
        return self.file.view(self.offset, self.nbytes)

    def array(self) -> np.ndarray:
        """Its elements as they are stored, mapped and read-only.

        bfloat16 and the 8-bit floats, which NumPy does not have, come as uint16 and uint8 codes. Sub-byte and block
        types have no elements of their own: use `bytes` or `float32`.
        """
        if self.dtype not in LITTLE:
            raise CheckpointError(
                f"{self.name} is {self.dtype}: several elements share a byte; take .bytes() or .float32()"
            )
        raw = self.bytes()
        if self.dtype == "BOOL":
            raw = raw != 0
        return raw.view(LITTLE[self.dtype]).reshape(self.shape)

    def float32(self) -> np.ndarray:
        """Its values as float32 (a float64 tensor is rounded), for every floating-point and GGUF block type.

        Raises
        ------
        CheckpointError
            For integers and bools, whose values are no weights by themselves, and for types that are not known.
        """
        if self.is_block_type:
            kind = BY_NAME[self.dtype]
            if kind.decode is None:
                known = ", ".join(name for name, other in BY_NAME.items() if other.decode is not None)
                raise CheckpointError(f"{self.name} is {self.dtype}, which is not decoded here; known are {known}")
            return decode_blocks(self.bytes(), self.dtype).reshape(self.shape)
        if self.dtype == "BF16":
            return (self.array().astype(np.uint32) << np.uint32(16)).view(np.float32)
        if self.dtype in ("F32", "F16", "F64"):
            with np.errstate(over="ignore"):
                return np.ascontiguousarray(self.array(), np.float32)
        if self.dtype in ELEMENTS:
            return ELEMENTS[self.dtype].table[self.codes()]
        raise CheckpointError(
            f"{self.name} is {self.dtype}: integers mean nothing without their scales; take .array(), or the weight "
            "that it is a part of"
        )

    def codes(self) -> np.ndarray:
        """The codes of a small floating-point type, one a byte: uint8 of the tensor's shape."""
        if self.dtype == "F4":
            return unpack_nibbles(self.bytes(), self.size).reshape(self.shape)
        if self.dtype in ("F6_E2M3", "F6_E3M2"):
            return unpack_codes(self.bytes(), self.size, 6).reshape(self.shape)
        return self.array()

    def __repr__(self) -> str:
        return f"StoredTensor({self.name}: {self.dtype} {list(self.shape)}, {self.nbytes:,} bytes)"
