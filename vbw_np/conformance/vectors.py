"""Vectors of a profile: inputs as bits, and the codes, scales, tensor scale and decoded bits that its library gives."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import __version__
from ..formats import Profile, get_profile, quantize
from ..formats.elements import Codebook, ElementFormat
from ..formats.ggml_blocks import to_blocks_of
from ..formats.packed import PackedTensor, layout_shape
from ..formats.packing import pack_codes, pack_nibbles
from ..formats.profiles import to_bfloat16
from .inputs import Case, cases

ENCODING = {
    "x, decoded, tensor_scale, offsets, float32 scales": "the bits of float32 numbers, 8 hexadecimal digits each",
    "NaN": "every NaN counts as the same, in numbers and in codes that mean NaN",
    "codes": "one code an element, hexadecimal, in the order of x",
    "packed": "bytes as the producer packs codes (nibble_order, nibble_group), in the order of x",
    "blocks": "the bytes of GGUF's blocks, scales included",
    "scales": "bytes, or float32 bits: one a block; rows of a tile repeat theirs",
    "rows": "one string a row, numbers parted by spaces",
    "optional": "a quantizer may refuse this input",
}


@dataclass(frozen=True, eq=False)
class Answer:
    """What a quantizer makes of one input, in one form.

    Parameters
    ----------
    codes : uint8, one code an element, of the input's shape
    scales : uint8 or float32 (rows, blocks)
    tensor_scale : float32 or None
        As the producer stores it.
    offsets : float32 (rows, blocks) or None
    decoded : float32 of the input's shape, or None
        Every NaN with the same bits.
    """

    codes: np.ndarray
    scales: np.ndarray
    tensor_scale: np.float32 | None = None
    offsets: np.ndarray | None = None
    decoded: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Vector:
    """One input and what is right for it.

    Parameters
    ----------
    case : Case
    expected : Answer
    packed : uint8
        Codes in the producer's order of nibbles.
    blocks : uint8 or None
        GGUF's blocks.
    """

    case: Case
    expected: Answer
    packed: np.ndarray
    blocks: np.ndarray | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as `ENCODING` says."""
        wanted = self.expected
        return {
            "name": self.case.name,
            "rule": self.case.rule,
            "optional": self.case.optional,
            "shape": list(self.case.x.shape),
            "x": text_of(self.case.x),
            "codes": text_of(wanted.codes),
            "packed": text_of(self.packed),
            "blocks": None if self.blocks is None else text_of(self.blocks.reshape(1, -1)),
            "scales": text_of(wanted.scales),
            "tensor_scale": None if wanted.tensor_scale is None else text_of(wanted.tensor_scale.reshape(1, 1))[0],
            "offsets": None if wanted.offsets is None else text_of(wanted.offsets),
            "decoded": text_of(wanted.decoded),
        }


@dataclass(frozen=True, eq=False)
class Vectors:
    """All vectors of a profile."""

    profile: Profile
    vectors: tuple[Vector, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what the profile is, how to read the vectors, and the vectors."""
        profile, fmt = self.profile, self.profile.format
        scale = fmt.rule.scale_element.name if fmt.rule.scale_element else "float32"
        return {
            "vectors_of": profile.name,
            "producer": profile.producer,
            "producer_version": profile.version,
            "made_by": f"vbw-np {__version__}",
            "format": {
                "element": fmt.element.name, "element_bits": fmt.code_bits, "block": fmt.block,
                "block_rows": fmt.block_rows, "flat": fmt.flat, "scale": scale, "tensor_level": fmt.tensor_level,
                "offset": fmt.offset, "nibble_order": fmt.nibble_order, "nibble_group": fmt.nibble_group,
            },
            "encoding": ENCODING,
            "cases": [vector.as_dict() for vector in self.vectors],
        }  # fmt: skip

    def as_json(self) -> str:
        """The same as text."""
        return json.dumps(self.as_dict(), indent=1) + "\n"


def text_of(array: np.ndarray) -> list[str]:
    """Hexadecimal numbers, one string a row."""
    if array.dtype == np.float32:
        array = np.ascontiguousarray(array).view(np.uint32)
    digits = 2 * array.dtype.itemsize
    return [" ".join(f"{int(value):0{digits}x}" for value in row) for row in array.reshape(len(array), -1)]


def one_nan(values: np.ndarray) -> np.ndarray:
    """The same numbers, every NaN with the same bits."""
    return np.where(np.isnan(values), np.float32(np.nan), values).astype(np.float32)


def one_nan_code(codes: np.ndarray, element: ElementFormat | Codebook | None) -> np.ndarray:
    """The same codes, every one of a NaN the same (float32 where there is no element): libraries differ by machine."""
    if element is None:
        return one_nan(codes)
    nan = np.flatnonzero(np.isnan(element.table))
    return np.where(np.isnan(element.table[codes]), np.uint8(nan[0]), codes) if len(nan) else codes


@functools.lru_cache(maxsize=8)
def vectors(profile: str | Profile) -> Vectors:
    """The vectors of a profile.

    Parameters
    ----------
    profile : str or Profile
        A name in `PROFILES` (`vbw formats` lists them).

    Raises
    ------
    UnknownNameError
        Lists the names that exist.
    """
    profile = get_profile(profile)
    found = []
    for case in cases(profile.format):
        if profile.name.endswith("-bf16"):  # its library gets bfloat16 numbers
            case = Case(case.name, case.rule, to_bfloat16(case.x), case.decides, case.optional)
        found.append(vector_of(case, profile))
    return Vectors(profile, tuple(found))


def vector_of(case: Case, profile: Profile) -> Vector:
    """A case with what the profile makes of it."""
    packed = quantize(case.x, profile.format, nonfinite="producer", measure=False)
    in_blocks = profile.producer.startswith("ggml") and not case.optional
    blocks = to_blocks_of(packed)[1] if in_blocks else None
    return Vector(case, answer_of(packed), pack(packed), blocks)


def answer_of(packed: PackedTensor) -> Answer:
    """A packed tensor as an answer."""
    stored = packed.stored_scale
    rows = packed.scales.shape[0]
    return Answer(
        one_nan_code(packed.unpacked_codes(), packed.format.element),
        one_nan_code(packed.scales.reshape(rows, -1), packed.format.rule.scale_element),
        None if stored is None else np.float32(one_nan(np.asarray(stored)).reshape(())),
        None if packed.offsets is None else one_nan(packed.offsets),
        one_nan(packed.dequantize()),
    )


def pack(packed: PackedTensor) -> np.ndarray:
    """The codes in the producer's order, two nibbles a byte."""
    fmt = packed.format
    codes = packed.unpacked_codes().reshape(layout_shape(packed.shape, fmt))
    length = codes.shape[-1]
    order = fmt.nibble_order
    if order == "split_half" and length % fmt.nibble_group:  # no library writes such blocks
        order = "low_first"
    bytes_ = pack_codes(codes, fmt.code_bits) if fmt.code_bits != 4 else pack_nibbles(codes, order, fmt.nibble_group)
    return bytes_.reshape(1, -1) if bytes_.ndim == 1 else bytes_
