"""GGUF's block types: what the bytes of a block mean, and their values in float32.

A block holds a fixed number of elements of one row, its scales among the codes. Every decoder takes blocks as uint8
(n, bytes) and gives float32 (n, elements), by the float32 operations and in the order of ggml's own (gguf-py's
`quants.py`), so that every bit is equal.

======= ======== ===== =================================================================================================
type    elements bytes a block
======= ======== ===== =================================================================================================
Q4_0          32    18 f16 d; 16 bytes, element j in the low nibble of byte j, j + 16 in the high one; d * (q - 8)
Q4_1          32    20 f16 d, f16 m; 16 bytes as in Q4_0; d * q + m
Q5_0          32    22 f16 d; 32 fifth bits; 16 bytes as in Q4_0; d * (q - 16)
Q5_1          32    24 f16 d, f16 m; 32 fifth bits; 16 bytes; d * q + m
Q8_0          32    34 f16 d; 32 int8; d * q
Q4_K         256   144 f16 d, f16 dmin; 12 bytes of eight 6-bit (scale, min); 128 bytes; (d * s) * q - dmin * m
Q5_K         256   176 as Q4_K with 32 bytes of fifth bits before the nibbles
Q6_K         256   210 128 bytes of low nibbles, 64 of upper pairs of bits, 16 int8 scales, f16 d; (d * s) * (q - 32)
IQ4_NL        32    18 f16 d; 16 bytes as in Q4_0; d * level[q]
MXFP4         32    17 E8M0 byte; 16 bytes as in Q4_0; level[q] * 2**(e - 127)
NVFP4         64    36 four UE4M3 bytes; four times 8 bytes, element j low and j + 8 high of its 16
======= ======== ===== =================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .codebooks import IQ4_NL
from .elements import E2M1
from .errors import FormatError, unknown_name

CHUNK = 1 << 16
"""Blocks that are decoded at a time, so that the memory in between stays small beside the result."""


@dataclass(frozen=True)
class BlockType:
    """A GGUF type: its number, the elements and bytes of a block, and its decoder where there is one."""

    name: str
    number: int
    elements: int
    bytes: int
    decode: Callable[[np.ndarray], np.ndarray] | None = None


def float16_at(blocks: np.ndarray, offset: int) -> np.ndarray:
    """The float16 at that byte of every block, as float32 (n, 1)."""
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view("<f2").astype(np.float32)


def split_halves(packed: np.ndarray, group: int = 32) -> np.ndarray:
    """Codes of bytes that pair element j with j + group / 2: uint8 (n, group / 2 * k) -> (n, group * k)."""
    halves = packed.reshape(len(packed), -1, group // 2)
    return np.concatenate([halves & np.uint8(15), halves >> np.uint8(4)], axis=-1).reshape(len(packed), -1)


def _fifth_bits(blocks: np.ndarray, offset: int) -> np.ndarray:
    """The 32 fifth bits at that byte, as 0 or 16: uint8 (n, 32)."""
    bits = np.unpackbits(np.ascontiguousarray(blocks[:, offset : offset + 4]), axis=-1, bitorder="little")
    return bits << np.uint8(4)


def decode_q4_0(blocks: np.ndarray) -> np.ndarray:
    """`d * (q - 8)`."""
    codes = split_halves(blocks[:, 2:]).astype(np.int8) - np.int8(8)
    return float16_at(blocks, 0) * codes.astype(np.float32)


def decode_q4_1(blocks: np.ndarray) -> np.ndarray:
    """`d * q + m`, a product and a sum."""
    codes = split_halves(blocks[:, 4:]).astype(np.float32)
    return float16_at(blocks, 0) * codes + float16_at(blocks, 2)


def decode_q5_0(blocks: np.ndarray) -> np.ndarray:
    """`d * (q - 16)`."""
    codes = (split_halves(blocks[:, 6:]) | _fifth_bits(blocks, 2)).astype(np.int8) - np.int8(16)
    return float16_at(blocks, 0) * codes.astype(np.float32)


def decode_q5_1(blocks: np.ndarray) -> np.ndarray:
    """`d * q + m`, a product and a sum."""
    codes = (split_halves(blocks[:, 8:]) | _fifth_bits(blocks, 4)).astype(np.float32)
    return float16_at(blocks, 0) * codes + float16_at(blocks, 2)


def decode_q8_0(blocks: np.ndarray) -> np.ndarray:
    """`d * q`."""
    return blocks[:, 2:].view(np.int8).astype(np.float32) * float16_at(blocks, 0)


def six_bit_scales(blocks: np.ndarray, offset: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """The eight 6-bit scales and minimums of Q4_K and Q5_K, from the 12 bytes at `offset`: uint8 (n, 8) each."""
    s = blocks[:, offset : offset + 12]
    low, middle, high = s[:, :4], s[:, 4:8], s[:, 8:]
    scales = np.concatenate([low & np.uint8(63), (high & np.uint8(15)) | (low >> np.uint8(2)) & np.uint8(48)], axis=-1)
    minimums = np.concatenate(
        [middle & np.uint8(63), (high >> np.uint8(4)) | (middle >> np.uint8(2)) & np.uint8(48)], axis=-1
    )
    return scales, minimums


def scales_and_minimums(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`d * scale` and `dmin * minimum` of the eight sub-blocks of Q4_K and Q5_K: float32 (n, 8) each."""
    scales, minimums = six_bit_scales(blocks)
    with np.errstate(invalid="ignore"):
        return float16_at(blocks, 0) * scales.astype(np.float32), float16_at(blocks, 2) * minimums.astype(np.float32)


def nibble_pairs(packed: np.ndarray) -> np.ndarray:
    """Codes of Q4_K and Q5_K: bytes 32 j to 32 j + 31 hold sub-block 2 j low and 2 j + 1 high; (n, 8, 32)."""
    return split_halves(packed, 64).reshape(len(packed), 8, 32)


def decode_q4_k(blocks: np.ndarray) -> np.ndarray:
    """`(d * scale) * q - dmin * minimum`."""
    scale, minimum = scales_and_minimums(blocks)
    codes = nibble_pairs(blocks[:, 16:]).astype(np.float32)
    return (scale[..., None] * codes - minimum[..., None]).reshape(len(blocks), 256)


def decode_q5_k(blocks: np.ndarray) -> np.ndarray:
    """`(d * scale) * q - dmin * minimum`; the fifth bit of sub-block j is bit j of its 32 bytes."""
    scale, minimum = scales_and_minimums(blocks)
    fifth = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    codes = (nibble_pairs(blocks[:, 48:]) | fifth << np.uint8(4)).astype(np.float32)
    return (scale[..., None] * codes - minimum[..., None]).reshape(len(blocks), 256)


def decode_q6_k(blocks: np.ndarray) -> np.ndarray:
    """`(d * scale) * (q - 32)`, 16 elements a scale."""
    low = split_halves(blocks[:, :128], 128).reshape(-1, 8, 32)
    upper = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    codes = low | (upper & np.uint8(3)).reshape(-1, 8, 32) << np.uint8(4)
    scales = float16_at(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    values = (codes.astype(np.int8) - np.int8(32)).astype(np.float32).reshape(-1, 16, 16)
    return (scales[..., None] * values).reshape(len(blocks), 256)


def decode_iq4_nl(blocks: np.ndarray) -> np.ndarray:
    """`d * level[q]`."""
    return float16_at(blocks, 0) * IQ4_NL.table[split_halves(blocks[:, 2:])]


def half_e8m0(codes: np.ndarray) -> np.ndarray:
    """Half of 2**(e - 127) as ggml forms it from bits, float32; byte 255 is a number there, 2**127."""
    exponent = codes.astype(np.uint32)
    tiny = np.uint32(0x00200000) << np.minimum(exponent, np.uint32(1))
    return np.where(exponent < 2, tiny, exponent - np.uint32(1) << np.uint32(23)).view(np.float32)


def decode_mxfp4(blocks: np.ndarray) -> np.ndarray:
    """The doubled integer level times half the scale; code 8 is +0."""
    doubled = (E2M1.table * np.float32(2)).astype(np.int8)  # as integers: ggml knows no -0
    return half_e8m0(blocks[:, :1]) * doubled[split_halves(blocks[:, 1:])].astype(np.float32)


def half_ue4m3(codes: np.ndarray) -> np.ndarray:
    """Half the value of an unsigned E4M3 byte as ggml decodes it, float32: 0x7F is 0, the top bit is ignored."""
    exponent, mantissa = (codes >> np.uint8(3) & np.uint8(15)).astype(np.int32), codes & np.uint8(7)
    value = np.where(
        exponent == 0,
        np.ldexp(mantissa.astype(np.float32), -9),
        np.ldexp(np.float32(1) + mantissa.astype(np.float32) / np.float32(8), exponent - 7),
    )
    return np.where((codes == 0) | (codes == 0x7F), np.float32(0), value * np.float32(0.5)).astype(np.float32)


def decode_nvfp4(blocks: np.ndarray) -> np.ndarray:
    """The doubled integer level times half the scale, 16 elements a scale; the tensor scale is not in the block."""
    doubled = (E2M1.table * np.float32(2)).astype(np.int8)
    values = doubled[split_halves(blocks[:, 4:], 16)].astype(np.float32).reshape(-1, 4, 16)
    return (half_ue4m3(blocks[:, :4])[..., None] * values).reshape(len(blocks), 64)


_TYPES = (
    BlockType("Q4_0", 2, 32, 18, decode_q4_0),
    BlockType("Q4_1", 3, 32, 20, decode_q4_1),
    BlockType("Q5_0", 6, 32, 22, decode_q5_0),
    BlockType("Q5_1", 7, 32, 24, decode_q5_1),
    BlockType("Q8_0", 8, 32, 34, decode_q8_0),
    BlockType("Q8_1", 9, 32, 40),
    BlockType("Q2_K", 10, 256, 84),
    BlockType("Q3_K", 11, 256, 110),
    BlockType("Q4_K", 12, 256, 144, decode_q4_k),
    BlockType("Q5_K", 13, 256, 176, decode_q5_k),
    BlockType("Q6_K", 14, 256, 210, decode_q6_k),
    BlockType("Q8_K", 15, 256, 292),
    BlockType("IQ2_XXS", 16, 256, 66),
    BlockType("IQ2_XS", 17, 256, 74),
    BlockType("IQ3_XXS", 18, 256, 98),
    BlockType("IQ1_S", 19, 256, 50),
    BlockType("IQ4_NL", 20, 32, 18, decode_iq4_nl),
    BlockType("IQ3_S", 21, 256, 110),
    BlockType("IQ2_S", 22, 256, 82),
    BlockType("IQ4_XS", 23, 256, 136),
    BlockType("IQ1_M", 29, 256, 56),
    BlockType("TQ1_0", 34, 256, 54),
    BlockType("TQ2_0", 35, 256, 66),
    BlockType("MXFP4", 39, 32, 17, decode_mxfp4),
    BlockType("NVFP4", 40, 64, 36, decode_nvfp4),
    BlockType("Q1_0", 41, 128, 18),
)
BY_NAME: dict[str, BlockType] = {kind.name: kind for kind in _TYPES}
PLAIN_NUMBERS = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
"""GGUF's numbers of types that are no blocks."""


def decode_blocks(data: np.ndarray, name: str) -> np.ndarray:
    """The values of a run of blocks.

    Parameters
    ----------
    data : uint8 array (n * bytes,)
    name : a block type of `BY_NAME`

    Returns
    -------
    float32 array (n * elements,)

    Raises
    ------
    UnknownNameError, FormatError
        For a type that is not known or not decoded here, or bytes that are no whole blocks.
    """
    if name not in BY_NAME:
        raise unknown_name("GGUF block type", name, BY_NAME)
    kind = BY_NAME[name]
    if kind.decode is None:
        raise FormatError(f"GGUF type {name} is not decoded here; known are {[k.name for k in _TYPES if k.decode]}")
    if data.size % kind.bytes:
        raise FormatError(f"{data.size} bytes are no whole blocks of {name}, which take {kind.bytes} each")
    blocks = data.reshape(-1, kind.bytes)
    values = np.empty((len(blocks), kind.elements), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(blocks), CHUNK):
            values[start : start + CHUNK] = kind.decode(blocks[start : start + CHUNK])
    return values.reshape(-1)
