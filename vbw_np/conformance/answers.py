"""What a quantizer hands back, read into one form whatever it is: packed or not, bytes or numbers, or GGUF's blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import UserError
from ..formats import BlockFormat, FormatError, swizzle_scales
from ..formats.ggml_blocks import block_type_of, from_blocks_of
from ..formats.packed import layout_shape
from ..formats.packing import unpack_codes, unpack_nibbles
from .vectors import Answer, Vector, answer_of, one_nan, one_nan_code

PARTS = ("codes", "scales", "tensor_scale", "offsets", "decoded", "blocks")


class Malformed(UserError):
    """An answer that is none: `rule` is what it breaks."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(what)
        self.rule = rule


def as_parts(value: Any) -> dict[str, np.ndarray]:
    """A quantizer's return value as arrays by name.

    Raises
    ------
    Malformed
        It is neither a mapping with names of `PARTS`, nor a tuple (codes, scales[, tensor scale]), nor one array.
    """
    if isinstance(value, Mapping):
        found = {str(name): part for name, part in value.items() if part is not None}
    elif isinstance(value, (tuple, list)):
        found = {name: part for name, part in zip(PARTS[:3], value, strict=False) if part is not None}
    else:
        found = {"blocks": value}
    unknown = sorted(set(found) - set(PARTS))
    if unknown or not found:
        raise Malformed("answer", f"it returns {unknown or 'nothing'}; a mapping may have {', '.join(PARTS)}")
    return {name: np.asarray(part) for name, part in found.items()}


def read_answer(parts: dict[str, np.ndarray], vector: Vector, fmt: BlockFormat) -> Answer:
    """The parts as an `Answer` of the vector's shapes.

    Raises
    ------
    Malformed
        A part is missing, or has a shape or dtype that cannot be meant.
    """
    shape = vector.case.x.shape
    if "blocks" in parts:
        return _from_blocks(parts, vector, fmt)
    for name in ("codes", "scales"):
        if name not in parts:
            raise Malformed("answer", f"{name} are missing")
    wanted = vector.expected
    codes = one_nan_code(_codes(parts["codes"], shape, fmt), fmt.element)
    scales = one_nan_code(_scales(parts["scales"], wanted.scales, fmt), fmt.rule.scale_element)
    stored = _number(parts.get("tensor_scale"), wanted.tensor_scale)
    offsets = None
    if wanted.offsets is not None:
        if "offsets" not in parts:
            raise Malformed("offsets", f"offsets are missing: {fmt.name} has a {fmt.offset} for each block")
        offsets = one_nan(_floats("offsets", parts["offsets"], wanted.offsets.shape))
    return Answer(codes, scales, stored, offsets, _decoded(parts, shape))


def _decoded(parts: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray | None:
    return one_nan(_floats("decoded", parts["decoded"], shape)) if "decoded" in parts else None


def _bytes(name: str, array: np.ndarray) -> np.ndarray:
    """Codes as uint8."""
    if array.dtype.itemsize == 1 and array.dtype.kind != "b":
        return np.ascontiguousarray(array).view(np.uint8)
    if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() < 256:
        return array.astype(np.uint8)
    raise Malformed("answer", f"{name} have dtype {array.dtype.name}; they are bytes (uint8)")


def _codes(array: np.ndarray, shape: tuple[int, ...], fmt: BlockFormat) -> np.ndarray:
    """One code an element, whether that or packed bytes came."""
    codes, count = _bytes("codes", array), int(np.prod(shape))
    if codes.size == count:
        codes = codes.reshape(shape)
        if codes.size and int(codes.max()) >= 1 << fmt.code_bits:
            raise Malformed("codes", f"a code is {int(codes.max())}, and {fmt.element.name} has {1 << fmt.code_bits}")
        return codes
    rows = layout_shape(shape, fmt)
    width = -(-rows[-1] * fmt.code_bits // 8)
    if codes.size != width * int(np.prod(rows[:-1], dtype=int)):
        raise Malformed(
            "answer",
            f"codes have shape {array.shape}; {fmt.name} of shape {shape} has one an element, or {width} bytes a row",
        )
    codes = codes.reshape(*rows[:-1], width)
    if fmt.code_bits != 4:
        return unpack_codes(codes, rows[-1], fmt.code_bits).reshape(shape)
    whole = fmt.nibble_order != "split_half" or rows[-1] % fmt.nibble_group == 0
    order = fmt.nibble_order if whole else "low_first"
    return unpack_nibbles(codes, rows[-1], order, fmt.nibble_group).reshape(shape)


def _scales(array: np.ndarray, wanted: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    """Block scales in the stored form; a decoded E4M3 or E8M0 number is read as its byte."""
    element = fmt.rule.scale_element
    if element is not None and array.dtype.kind == "f" and array.dtype.itemsize > 1:
        values = array.astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            codes = element.encode(values, "even", nan_code=element.nan_code)
        if not np.array_equal(element.table[codes], values, equal_nan=True):
            raise Malformed("block scale", f"a scale is not a number of {element.name}")
        array = codes
    if element is not None:
        array = _bytes("scales", array)
    elif array.dtype.kind != "f":
        raise Malformed("answer", f"scales have dtype {array.dtype.name}; {fmt.name} has float32 scales")
    if element is not None and array.size != wanted.size and array.size == swizzle_scales(wanted).size:
        if np.array_equal(array.reshape(-1), swizzle_scales(wanted).reshape(-1)):
            raise Malformed("scale layout", "the scales lie in tiles of 128 x 4 (swizzled); give them row by row")
    if fmt.block_rows > 1 and array.size * len(wanted) == wanted.size * -(-len(wanted) // fmt.block_rows):
        array = np.repeat(array.reshape(-1, wanted.shape[1]), fmt.block_rows, axis=0)[: len(wanted)]
    if array.size != wanted.size:
        raise Malformed("answer", f"scales have shape {array.shape}; one a block is {wanted.shape}")
    return array.reshape(wanted.shape).astype(wanted.dtype, copy=False)


def _floats(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.dtype.kind not in "fiu" or array.size != int(np.prod(shape)):
        raise Malformed("answer", f"{name} are {array.dtype.name} {array.shape}; numbers of shape {shape} are meant")
    return array.reshape(shape).astype(np.float32)


def _number(array: np.ndarray | None, wanted: np.float32 | None) -> np.float32 | None:
    if wanted is None:
        if array is not None:
            raise Malformed("tensor scale", "there is a tensor scale, and this profile has none")
        return None
    if array is None:
        raise Malformed("tensor scale", "the tensor scale is missing")
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise Malformed("tensor scale", f"the tensor scale is {array.dtype.name} {array.shape}, not one number")
    return np.float32(one_nan(array).reshape(()))


def _from_blocks(parts: dict[str, np.ndarray], vector: Vector, fmt: BlockFormat) -> Answer:
    if vector.blocks is None:
        raise Malformed("answer", "it returns one array; give codes and scales (blocks are GGUF's)")
    data = _bytes("blocks", parts["blocks"]).reshape(-1)
    if data.size != vector.blocks.size:
        raise Malformed("answer", f"blocks have {data.size:,} bytes; {fmt.name} has {vector.blocks.size:,} here")
    try:
        packed = from_blocks_of(data, str(block_type_of(fmt)), vector.case.x.shape)
    except FormatError as error:
        raise Malformed("answer", str(error)) from None
    answer = answer_of(packed)
    return Answer(answer.codes, answer.scales, None, answer.offsets, _decoded(parts, vector.case.x.shape))
