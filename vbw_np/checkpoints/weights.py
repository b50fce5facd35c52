"""What the tensors of a checkpoint are together: one weight, its format, its producer, and the parts that hold it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..formats import BlockFormat, PackedTensor
from ..formats.profiles import to_bfloat16
from .errors import CheckpointError, parts_of
from .stored import FLOATS, StoredTensor


@dataclass(frozen=True)
class Suspicion:
    """Something that is probably wrong with a weight: a short name, what was seen, and what to do."""

    name: str
    what: str
    fix: str


@dataclass(frozen=True, eq=False)
class Weight:
    """One weight of a model, however many stored tensors hold it.

    Parameters
    ----------
    name : str
        As the model calls it (`model.layers.0.self_attn.q_proj.weight`).
    shape : tuple of int
        The logical shape (..., in).
    format : str
        A format or profile name (`modelopt-nvfp4`, `q4_1`, ...), or a plain dtype in lower case (`bf16`, `f32`, `i64`).
    producer : str
        `modelopt`, `compressed-tensors`, `torchao`, `bitsandbytes`, `gpt-oss`, `awq`, `gptq`, `gguf` or `fp8`; `plain`
        for an ordinary array.
    parts : dict from role to StoredTensor
        Such as `codes`, `scales`, `tensor_scale`, `zeros`.
    unpack : function of the weight, or None
        Reads the parts into a PackedTensor; None where there is no such record (plain arrays, some GGUF types).
    decode : function of the weight, or None
        Reads the values where `unpack` cannot give them bit by bit.
    decoded_dtype : {"float32", "bfloat16", "float16"}
        What the producer's own decoder ends in.
    format_notes : tuple of str
        What else the layout needs to know: `swizzled` scales, `v2` zero points.
    suspicions : tuple of Suspicion
        What the header and the tensor scales alone show.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    producer: str
    parts: dict[str, StoredTensor]
    unpack: Callable[[Weight], PackedTensor] | None = None
    decode: Callable[[Weight], np.ndarray] | None = None
    decoded_dtype: str = "float32"
    format_notes: tuple[str, ...] = field(default=())
    suspicions: tuple[Suspicion, ...] = field(default=())

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all its parts."""
        return sum(part.nbytes for part in self.parts.values())

    @property
    def bits(self) -> float:
        """Bits a value, everything counted."""
        return 8.0 * self.nbytes / self.size if self.size else 0.0

    @property
    def is_packed(self) -> bool:
        """Whether it is quantized and can be read as a packed tensor."""
        return self.unpack is not None

    @property
    def is_plain(self) -> bool:
        """Whether it is an ordinary array."""
        return self.producer == "plain"

    @property
    def is_float(self) -> bool:
        """Whether it has values (integers and bools do not)."""
        return not self.is_plain or self.parts["values"].dtype in FLOATS

    def packed(self) -> PackedTensor:
        """Codes and scales, read from the file.

        Raises
        ------
        CheckpointError
            If it is a plain array, or its format has no record; `float32` gives its values.
        """
        if self.unpack is None:
            raise CheckpointError(f"{self.name} ({self.format}, {self.producer}) is no packed tensor; take .float32()")
        with parts_of(f"{self.name} ({self.format}, {self.producer})"):
            return self.unpack(self)

    def load(self) -> PackedTensor | np.ndarray:
        """The packed tensor of a quantized weight, otherwise its array (integers as they are)."""
        if self.is_packed:
            return self.packed()
        return self.float32() if self.is_float else self.parts["values"].array()

    def float32(self) -> np.ndarray:
        """Its values, decoded in float32 in the producer's order of operations."""
        if self.is_plain:
            return self.parts["values"].float32()
        if self.decode is not None:
            with parts_of(f"{self.name} ({self.format}, {self.producer})"):
                return self.decode(self)
        return self.packed().dequantize()

    def as_decoded(self) -> np.ndarray:
        """Its values as the producer's own decoder hands them out: float32 that were rounded to `decoded_dtype`."""
        values = self.float32()
        if self.decoded_dtype == "bfloat16":
            return to_bfloat16(values)
        if self.decoded_dtype == "float16":
            with np.errstate(over="ignore"):
                return values.astype(np.float16).astype(np.float32)
        return values

    def __repr__(self) -> str:
        return f"Weight({self.name}: {self.format} {list(self.shape)}, {self.producer}, {self.bits:.4g} bits a value)"


def plain(tensor: StoredTensor) -> Weight:
    """A tensor that is its own weight."""
    return Weight(tensor.name, tensor.shape, tensor.dtype.lower(), "plain", {"values": tensor})


def scalar(tensor: StoredTensor | None) -> np.float32 | None:
    """The one number of a tensor of one element, or None."""
    return None if tensor is None or tensor.size != 1 else np.float32(tensor.float32().reshape(-1)[0])


def packed_of(
    codes: np.ndarray,
    scales: np.ndarray,
    shape: tuple[int, ...],
    fmt: BlockFormat,
    *,
    multiplier: np.float32 | None = None,
    stored: np.float32 | None = None,
    offsets: np.ndarray | None = None,
) -> PackedTensor:
    """A packed tensor of what a file holds, NaN scales and all."""
    return PackedTensor(
        codes=np.ascontiguousarray(codes),
        scales=np.ascontiguousarray(scales),
        shape=shape,
        format=fmt,
        tensor_scale=multiplier,
        stored_scale=stored,
        allow_nan=True,
        offsets=offsets,
    )
