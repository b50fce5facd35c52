"""GGUF's blocks as packed tensors and back, for the block types whose codes and scales a format record describes.
"""

from __future__ import annotations

import numpy as np

from .blocks import BlockFormat, get_format, known_format
from .errors import FormatError, ShapeError
from .ggml import BY_NAME, float16_at, nibble_pairs, scales_and_minimums, split_halves
from .packed import PackedTensor, scale_shape
from .packing import pack_nibbles

FORMAT_OF = {
    **{name.upper(): name for name in ("q4_0", "q4_1", "q8_0", "q4_k", "iq4_nl")},
    "MXFP4": "ggml-mxfp4",
    "NVFP4": "ggml-nvfp4",
}
"""Block type -> the format or profile that its blocks are read as."""
WRITTEN = tuple(FORMAT_OF)
AFFINE = ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "IQ4_NL")
"""Those whose scale has a sign or a minimum beside it."""


def from_blocks_of(data: np.ndarray, name: str, shape: tuple[int, ...]) -> PackedTensor:
    """The packed tensor of a run of blocks.

    Parameters
    ----------
    data : uint8 array (bytes,)
    name : one of `FORMAT_OF`
    shape : the logical shape (..., K), K a multiple of the block's elements

    Notes
    -----
    What ggml makes of scale bytes that no encoder writes (NaN in MXFP4 and NVFP4) only `decode_blocks` knows.
    """
    if name not in FORMAT_OF:
        raise FormatError(f"blocks of {name} have no format record; decode_blocks gives their values")
    kind = BY_NAME[name]
    if shape[-1] % kind.elements or data.size != int(np.prod(shape)) // kind.elements * kind.bytes:
        raise ShapeError(f"{data.size} bytes are not {name} of shape {shape}")
    fmt = known_format(FORMAT_OF[name])
    blocks, offsets, headers = data.reshape(-1, kind.bytes), None, None
    if fmt.rule.scale_element is not None:  # MXFP4, NVFP4
        count = kind.elements // fmt.block
        scales, codes = blocks[:, :count], split_halves(blocks[:, count:], fmt.block)
    elif name == "Q4_K":
        scales, minimums = scales_and_minimums(blocks)
        codes, offsets = nibble_pairs(blocks[:, 16:]), -minimums
        headers = np.ascontiguousarray(blocks[:, :16]).reshape(*shape[:-1], -1, 16)
    else:
        scales = float16_at(blocks, 0)
        codes = blocks[:, 2:] if name == "Q8_0" else split_halves(blocks[:, 4 if name == "Q4_1" else 2 :])
        offsets = float16_at(blocks, 2) if name == "Q4_1" else None
    codes = np.ascontiguousarray(codes).reshape(shape)
    place = scale_shape(shape, fmt)
    return PackedTensor(
        codes=codes if fmt.code_bits == 8 else pack_nibbles(codes),
        scales=np.ascontiguousarray(scales).reshape(place),
        shape=shape,
        format=fmt,
        allow_nan=True,
        offsets=None if offsets is None else np.ascontiguousarray(offsets).reshape(place),
        headers=headers,
    )


def block_type_of(fmt: BlockFormat) -> str | None:
    """The block type that holds this format's tensors (without a fine tier), or None."""
    if fmt.rule.affine is not None:
        return next((name for name in AFFINE if get_format(name.lower()).rule is fmt.rule), None)
    if fmt.element is None or fmt.element.name != "e2m1":
        return None
    scale = fmt.rule.scale_element.name if fmt.rule.scale_element else None
    return {("e8m0", 32): "MXFP4", ("e4m3", 16): "NVFP4"}.get((scale, fmt.block))


def to_blocks_of(packed: PackedTensor) -> tuple[str, np.ndarray]:
    """The block type and the bytes of a packed tensor: uint8 (bytes,). A tensor scale is not in the blocks."""
    name = block_type_of(packed.format)
    if name not in WRITTEN:
        raise FormatError(
            f"no GGUF block type holds {packed.format.name}; those that are written: {', '.join(WRITTEN)}"
        )
    if packed.fine is not None:
        raise FormatError(f"no GGUF block type holds the fine tier of {packed.format.name}; take packed.coarse() first")
    elements = BY_NAME[name].elements
    if packed.shape[-1] % elements:
        raise ShapeError(f"{name} holds {elements} elements a block: the last axis, {packed.shape[-1]}, is no multiple")
    if packed.format.rule.scale_element is not None:  # MXFP4, NVFP4
        block, count = packed.format.block, elements // packed.format.block
        halves = pack_nibbles(packed.unpacked_codes(), "split_half", block).reshape(-1, elements // 2)
        return name, np.concatenate([packed.scales.reshape(-1, count), halves], axis=1).reshape(-1)
    codes = packed.unpacked_codes().reshape(-1, elements)
    if name == "Q4_K":
        if packed.headers is None:
            raise FormatError("this tensor has no headers=, without which its scales have no 6 bits in Q4_K")
        pairs = pack_nibbles(codes, "split_half", 64)
        return name, np.concatenate([packed.headers.reshape(-1, 16), pairs], axis=1).reshape(-1)
    codes = codes if name == "Q8_0" else pack_nibbles(codes, "split_half", 32)
    parts = [_float16_bytes(packed.scales)]
    if packed.offsets is not None:
        parts.append(_float16_bytes(packed.offsets))
    return name, np.concatenate([*parts, codes], axis=1).reshape(-1)


def _float16_bytes(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype("<f2").reshape(-1, 1).view(np.uint8)
