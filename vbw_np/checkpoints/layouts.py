"""From a producer's stored parts to a packed tensor: one function a layout.

Every function takes a `Weight` and reads its parts. In memory codes are low nibble first along the input axis.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from ..formats import (
    FORMATS,
    PROFILES,
    BlockFormat,
    PackedTensor,
    get_format,
    pack_nibbles,
    unpack_nibbles,
    unswizzle_scales,
)
from ..formats.double_quant import NESTED_BLOCK
from ..formats.ggml_blocks import from_blocks_of
from ..formats.packed import scale_shape
from .errors import CheckpointError
from .stored import StoredTensor
from .weights import Weight, packed_of, scalar

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""AutoAWQ: column i of eight lies in nibble AWQ_ORDER[i] of its word."""


def unpack_gguf(weight: Weight) -> PackedTensor:
    """GGUF's blocks."""
    tensor = weight.parts["blocks"]
    return from_blocks_of(tensor.bytes(), tensor.dtype, weight.shape)


def unpack_gguf_nvfp4(weight: Weight) -> PackedTensor:
    """NVFP4 blocks with a tensor scale in a tensor of its own."""
    packed = from_blocks_of(weight.parts["blocks"].bytes(), "NVFP4", weight.shape)
    level = scalar(weight.parts["tensor_scale"])
    level = np.float32(1) if level is None else level
    return packed_of(
        packed.codes, packed.scales, weight.shape, PROFILES["modelopt-nvfp4"].format, multiplier=level, stored=level
    )


def decode_gguf(weight: Weight) -> np.ndarray:
    """ggml's own values, a separate NVFP4 tensor scale included where the file has one."""
    values = weight.parts["blocks"].float32()
    level = scalar(weight.parts.get("tensor_scale"))
    return values if level is None else values * level


def _plain_scales(weight: Weight, block: int) -> np.ndarray:
    """Block scales as uint8 codes (..., K / block), unswizzled where they are stored as the tensor cores want them."""
    tensor = weight.parts["scales"]
    if "swizzled" not in weight.format_notes:
        return tensor.array().view(np.uint8)
    rows, columns = int(np.prod(weight.shape[:-1])), weight.shape[-1] // block
    return unswizzle_scales(tensor.array().reshape(-1), (rows, columns)).reshape(*weight.shape[:-1], columns)


def unpack_nvfp4(weight: Weight) -> PackedTensor:
    """Codes, E4M3 scales and a tensor scale, in the convention of the weight's profile (none: taken as 1)."""
    fmt = PROFILES[weight.format].format
    stored = scalar(weight.parts.get("tensor_scale"))
    with np.errstate(divide="ignore", over="ignore"):
        multiplier = np.float32(1) if stored is None else stored
        if weight.producer == "compressed-tensors" and stored is not None:
            multiplier = np.float32(1) / stored
    codes = weight.parts["codes"].array().view(np.uint8)
    if fmt.tensor_level == "none":
        return packed_of(codes, _plain_scales(weight, 16), weight.shape, fmt)
    stored = np.float32(1) if stored is None else stored
    return packed_of(codes, _plain_scales(weight, 16), weight.shape, fmt, multiplier=multiplier, stored=stored)


def decode_modelopt_nvfp4(weight: Weight) -> np.ndarray:
    """`element * (scale * tensor scale)`; its table has +0 for both zeros."""
    return weight.packed().dequantize() + np.float32(0)


def unpack_mx(weight: Weight) -> PackedTensor:
    """MXFP4, MXFP6 and MXFP8: codes and E8M0 scales, 32 elements each."""
    fmt = PROFILES[weight.format].format if weight.format in PROFILES else get_format(weight.format)
    codes = weight.parts["codes"].array().view(np.uint8)
    if weight.producer == "gpt-oss":  # (..., groups, 16) bytes
        codes = codes.reshape(*weight.shape[:-1], weight.shape[-1] // 2)
    return packed_of(codes, _plain_scales(weight, 32), weight.shape, fmt)


def unpack_scaled(weight: Weight) -> PackedTensor:
    """FP8 and INT8 with float scales: one a tensor, one a row, or one a tile of rows and columns."""
    fmt = PROFILES[weight.format].format if weight.format in PROFILES else get_format(weight.format)
    codes, scales = weight.parts["codes"].array().view(np.uint8), weight.parts["scales"].float32()
    if fmt.flat:
        return packed_of(codes.reshape(-1), scales.reshape(1), weight.shape, fmt)
    place = scale_shape(weight.shape, fmt)
    if fmt.block_rows > 1:
        scales = np.repeat(scales.reshape(-1, place[-1]), fmt.block_rows, axis=0)[: weight.shape[0]]
    return packed_of(codes, scales.reshape(place), weight.shape, fmt)


def decode_int8_zero(weight: Weight) -> np.ndarray:
    """`(q - z) * s`, for INT8 with a zero point a row."""
    codes = weight.parts["codes"].array().astype(np.float32)
    zeros = weight.parts["zeros"].array().astype(np.float32).reshape(-1, 1)
    return (codes - zeros) * weight.parts["scales"].float32().reshape(-1, 1)


def grouped(family: str, group: int) -> BlockFormat:
    """The record of an integer format with that many elements a scale."""
    name = f"{family}-g{group}"
    if name in FORMATS:
        return FORMATS[name]
    base = FORMATS[f"{family}-g128"]
    return replace(base, name=name, block=group, stored_bits=4 + (base.stored_bits - 4) * 128 / group)


def words_to_nibbles(words: np.ndarray) -> np.ndarray:
    """int32 words (..., n) as codes (..., 8 n), lowest bits first."""
    raw = np.ascontiguousarray(words.astype("<i4", copy=False)).view(np.uint8)
    return unpack_nibbles(raw, raw.shape[-1] * 2)


def nibbles_to_words(codes: np.ndarray) -> np.ndarray:
    """The inverse of `words_to_nibbles`; a ragged last word is filled with zeros."""
    padding = -codes.shape[-1] % 8
    padded = np.concatenate([codes, np.zeros((*codes.shape[:-1], padding), np.uint8)], axis=-1)
    return pack_nibbles(padded).view("<i4")


def unpack_int4_words(weight: Weight) -> PackedTensor:
    """compressed-tensors' pack-quantized: words along the input axis, zero points packed along the output axis."""
    out, width = weight.shape
    scales = weight.parts["scales"].float32()
    codes = words_to_nibbles(weight.parts["codes"].array())[:, :width]
    fmt = grouped(weight.format.rsplit("-g", 1)[0], int(weight.format.rsplit("-g", 1)[1]))
    offsets = None
    if "zeros" in weight.parts:
        zeros = words_to_nibbles(np.ascontiguousarray(weight.parts["zeros"].array().T)).T[:out]
        offsets = np.ascontiguousarray(zeros, np.float32)
    return packed_of(pack_nibbles(np.ascontiguousarray(codes)), scales, weight.shape, fmt, offsets=offsets)


def _transposed(weight: Weight, codes: np.ndarray, zeros: np.ndarray) -> PackedTensor:
    """From (in, out) codes, (groups, out) zero points and scales to a weight (out, in)."""
    scales = np.ascontiguousarray(weight.parts["scales"].float32().T)
    fmt = grouped("int4-zero", weight.shape[1] // scales.shape[1])
    packed = pack_nibbles(np.ascontiguousarray(codes.T))
    offsets = np.ascontiguousarray(zeros.T, np.float32)
    return packed_of(packed, scales, weight.shape, fmt, offsets=offsets)


def unpack_awq(weight: Weight) -> PackedTensor:
    """AutoAWQ's GEMM layout: words along the output axis, columns of a word interleaved."""

    def columns(name: str) -> np.ndarray:
        words = words_to_nibbles(weight.parts[name].array())
        return words.reshape(len(words), -1, 8)[..., AWQ_ORDER].reshape(len(words), -1)

    return _transposed(weight, columns("codes"), columns("zeros"))


def unpack_gptq(weight: Weight) -> PackedTensor:
    """GPTQ's layout, version 1: words along the input axis; zero points along the output axis, less one."""
    words = np.ascontiguousarray(weight.parts["codes"].array().T)
    codes = words_to_nibbles(words).T
    zeros = words_to_nibbles(weight.parts["zeros"].array())[:, : weight.shape[0]]
    return _transposed(weight, codes, zeros + np.uint8("v2" not in weight.format_notes))


def plain_groups(length: int, group: int) -> np.ndarray:
    """The group of each input where they follow each other."""
    return np.arange(length, dtype=np.int32) // group


def decode_gptq(weight: Weight) -> np.ndarray:
    """Groups in the order of `g_idx`, which sorting by activation leaves scattered."""
    groups = weight.parts["g_idx"].array()
    scales = weight.parts["scales"].float32()
    if groups.min() < 0 or groups.max() >= len(scales):
        raise CheckpointError(f"{weight.name}: g_idx names group {int(groups.max())}, and there are {len(scales)}")
    codes = words_to_nibbles(np.ascontiguousarray(weight.parts["codes"].array().T)).astype(np.float32)
    zeros = words_to_nibbles(weight.parts["zeros"].array())[:, : weight.shape[0]].astype(np.float32)
    zeros += np.float32("v2" not in weight.format_notes)
    return (codes - zeros[groups].T) * scales[groups].T


# ---- bitsandbytes


def quant_state(tensor: StoredTensor) -> dict[str, object]:
    """The JSON that bitsandbytes keeps as a tensor of bytes."""
    try:
        state = json.loads(tensor.bytes().tobytes().decode("utf-8"))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{tensor.name} is not the JSON of a quantization state") from None
    needed = {"quant_type", "blocksize", "shape"}
    if not isinstance(state, dict) or not needed <= set(state):
        raise CheckpointError(f"{tensor.name} is no quantization state: it needs {', '.join(sorted(needed))}")
    for size in ("blocksize", "nested_blocksize"):
        value = state.get(size, NESTED_BLOCK)
        if type(value) is not int or not 2 <= value <= 1 << 16:
            raise CheckpointError(f"{tensor.name}: {size} is {str(value)[:40]}, which is no block size")
    return state


def absmax(weight: Weight, state: dict[str, object]) -> np.ndarray:
    """The block maxima in float32, decoded from 8 bits where they are quantized again."""
    stored = weight.parts["absmax"]
    if stored.dtype == "F32":
        return stored.array()
    table, second = weight.parts["nested_map"].array(), weight.parts["nested_absmax"].array()
    block = int(state.get("nested_blocksize", NESTED_BLOCK))
    values = table[stored.array()] * np.repeat(second, block)[: stored.size]
    return values + np.float32(state.get("nested_offset", 0.0))


def unpack_bitsandbytes(weight: Weight) -> PackedTensor:
    """NF4 and FP4: high nibble first, blocks over the flattened weight; the file's own table must be the known one."""
    state = quant_state(weight.parts["state"])
    fmt = PROFILES[weight.format].format
    fmt = fmt if fmt.block == state["blocksize"] else replace(fmt, block=int(state["blocksize"]))
    table = weight.parts["map"].array()
    element = fmt.element
    if not np.allclose(table, element.table, rtol=0, atol=2e-4):
        raise CheckpointError(f"{weight.name} has a table of its own, not that of {fmt.name}; it is not decoded here")
    if not np.array_equal(table, element.table):
        fmt = replace(fmt, element=replace(element, levels=tuple(float(v) for v in table)))
    codes = unpack_nibbles(weight.parts["codes"].array().reshape(-1), weight.size, "high_first")
    return packed_of(pack_nibbles(codes), absmax(weight, state), weight.shape, fmt)
