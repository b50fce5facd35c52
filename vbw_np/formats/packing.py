"""Where the bits lie: nibbles in bytes, bit planes, and the tensor cores' scale layout.

Inside this package two codes share a byte with the *low nibble first* along the last axis, as in OCP tooling,
torchao, TransformerEngine, ModelOpt and compressed-tensors. Other producers differ: bitsandbytes puts the first
element in the high nibble; ggml puts element j and element j + n/2 of a block of n into one byte (split halves).
"""

from __future__ import annotations

import numpy as np

from .errors import DtypeError, ShapeError, unknown_name

NIBBLE_ORDERS = ("low_first", "high_first", "split_half")


def _as_bytes(array: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype != np.uint8:
        raise DtypeError(f"{what} have dtype {array.dtype.name}; they must be uint8")
    if array.ndim == 0:
        raise ShapeError(f"{what} are a scalar; packing works along the last axis, so pass at least one dimension")
    return array


def _check_order(order: str, group: int) -> None:
    if order not in NIBBLE_ORDERS:
        raise unknown_name("nibble order", order, NIBBLE_ORDERS)
    if order == "split_half" and (group < 2 or group % 2):
        raise ShapeError(f"split_half needs an even group size, got {group} (32 for MXFP4, 16 for NVFP4 in GGUF)")


def pack_nibbles(codes: np.ndarray, order: str = "low_first", group: int = 32) -> np.ndarray:
    """Pack 4-bit codes, two a byte, along the last axis.

    Parameters
    ----------
    codes : uint8 array (..., K), each below 16
    order : one of `NIBBLE_ORDERS`
    group : int
        Block length of `split_half`; K must be a multiple of it there. Elsewhere an odd K is padded with a zero
        nibble.

    Returns
    -------
    uint8 array (..., ceil(K / 2)).
    """
    codes = _as_bytes(codes, "codes")
    _check_order(order, group)
    if codes.size and codes.max() > 15:
        raise ShapeError(f"a code of {int(codes.max())} does not fit 4 bits; codes must lie in 0 to 15")
    if order == "split_half":
        if codes.shape[-1] % group:
            raise ShapeError(f"split_half packs whole groups of {group}; the last axis has {codes.shape[-1]} elements")
        blocks = codes.reshape(*codes.shape[:-1], -1, 2, group // 2)
        packed = blocks[..., 0, :] | (blocks[..., 1, :] << np.uint8(4))
        return packed.reshape(*codes.shape[:-1], codes.shape[-1] // 2)
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], axis=-1)
    first, second = codes[..., 0::2], codes[..., 1::2]
    if order == "high_first":
        first, second = second, first
    return first | (second << np.uint8(4))


def unpack_nibbles(packed: np.ndarray, length: int, order: str = "low_first", group: int = 32) -> np.ndarray:
    """The inverse of `pack_nibbles`: uint8 codes of shape (..., length).

    Raises
    ------
    ShapeError
        When the packed last axis is not ceil(length / 2) bytes: too short, or too long.
    """
    packed = _as_bytes(packed, "packed codes")
    _check_order(order, group)
    if packed.shape[-1] != (length + 1) // 2:
        size = "too short" if packed.shape[-1] < (length + 1) // 2 else "too long"
        raise ShapeError(
            f"the packed buffer is {size}: {length} codes need {(length + 1) // 2} bytes along the last axis, "
            f"it has {packed.shape[-1]} (shape {packed.shape})"
        )
    low, high = packed & np.uint8(15), packed >> np.uint8(4)
    if order == "split_half":
        if length % group:
            raise ShapeError(f"split_half holds whole groups of {group}, not {length} elements")
        halves = (low.reshape(*packed.shape[:-1], -1, group // 2), high.reshape(*packed.shape[:-1], -1, group // 2))
        return np.concatenate(halves, axis=-1).reshape(*packed.shape[:-1], length)
    if order == "high_first":
        low, high = high, low
    codes = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), np.uint8)
    codes[..., 0::2], codes[..., 1::2] = low, high
    return codes[..., :length]


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of 1 to 8 bits along the last axis, without gaps, lowest bits first: uint8 (..., ceil(K * bits / 8)).

    Four bits are `pack_nibbles`, low first; eight are the codes themselves.
    """
    codes = _as_bytes(codes, "codes")
    if bits == 8:
        return codes
    if bits == 4:
        return pack_nibbles(codes)
    spread = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(spread.reshape(*codes.shape[:-1], codes.shape[-1] * bits), axis=-1, bitorder="little")


def unpack_codes(packed: np.ndarray, length: int, bits: int) -> np.ndarray:
    """The inverse of `pack_codes`: uint8 codes of shape (..., length)."""
    packed = _as_bytes(packed, "packed codes")
    if packed.shape[-1] != -(-length * bits // 8):
        raise ShapeError(
            f"{length} codes of {bits} bits need {-(-length * bits // 8)} bytes along the last axis, "
            f"got {packed.shape[-1]}"
        )
    if bits == 8:
        return packed
    if bits == 4:
        return unpack_nibbles(packed, length)
    spread = np.unpackbits(packed, axis=-1, count=length * bits, bitorder="little")
    spread = spread.reshape(*packed.shape[:-1], length, bits)
    return np.packbits(spread, axis=-1, bitorder="little")[..., 0]


def split_planes(nibbles: np.ndarray, planes: int = 4) -> np.ndarray:
    """Bit planes of 4-bit codes, most significant first, eight elements a byte (first element in bit 0).

    uint8 (..., K) -> uint8 (planes, ..., ceil(K / 8)): what a link sends when it sends the planes one by one.
    """
    nibbles = _as_bytes(nibbles, "codes")
    bits = np.stack([(nibbles >> np.uint8(3 - p)) & np.uint8(1) for p in range(planes)])
    return np.packbits(bits, axis=-1, bitorder="little")


def join_planes(planes: np.ndarray, length: int) -> np.ndarray:
    """The inverse of `split_planes`; planes that are missing read as zero bits."""
    planes = _as_bytes(planes, "bit planes")
    if planes.ndim < 2 or not 1 <= planes.shape[0] <= 4 or planes.shape[-1] != (length + 7) // 8:
        raise ShapeError(
            f"bit planes have shape {planes.shape}; {length} elements need (1 to 4, ..., {(length + 7) // 8})"
        )
    bits = np.unpackbits(planes, axis=-1, count=length, bitorder="little")
    return np.bitwise_or.reduce([bits[p] << np.uint8(3 - p) for p in range(len(planes))])


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """One bit an element, eight a byte along the last axis, first element in bit 0: (..., K) -> (..., ceil(K/8))."""
    return np.packbits(np.asarray(bits, bool), axis=-1, bitorder="little")


def unpack_bits(packed: np.ndarray, length: int) -> np.ndarray:
    """The inverse of `pack_bits`, as bool (..., length)."""
    packed = _as_bytes(packed, "packed bits")
    if packed.shape[-1] != (length + 7) // 8:
        raise ShapeError(f"{length} bits need {(length + 7) // 8} bytes along the last axis, got {packed.shape[-1]}")
    return np.unpackbits(packed, axis=-1, count=length, bitorder="little").astype(bool)


def swizzle_scales(scales: np.ndarray) -> np.ndarray:
    """Block scales (M, C) in the tensor cores' 128 x 4 tile layout.

    Rows are padded with zeros to a multiple of 128 and columns to a multiple of 4. Within a tile, the scale of
    row r and column c lies at `(r % 32) * 16 + (r % 128 // 32) * 4 + c % 4`; tiles follow row block by row block
    (cuBLAS block-scaling factors layout; torchao's `to_blocked` gives the same bytes).

    Returns
    -------
    uint8 array of shape (ceil(M/128) * 128 * ceil(C/4) * 4,).
    """
    scales = _as_bytes(scales, "scales")
    if scales.ndim != 2:
        raise ShapeError(
            f"only a matrix of scales can be swizzled, got shape {scales.shape}; reshape it to (M, K / block)"
        )
    rows, columns = -(-scales.shape[0] // 128), -(-scales.shape[1] // 4)
    padded = np.zeros((rows * 128, columns * 4), np.uint8)
    padded[: scales.shape[0], : scales.shape[1]] = scales
    tiles = padded.reshape(rows, 4, 32, columns, 4)  # (row tile, r // 32, r % 32, column tile, c % 4)
    return tiles.transpose(0, 3, 2, 1, 4).reshape(-1)


def unswizzle_scales(swizzled: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The inverse of `swizzle_scales`: the scales of shape (M, C), padding dropped."""
    swizzled = _as_bytes(swizzled, "swizzled scales").reshape(-1)
    rows, columns = -(-shape[0] // 128), -(-shape[1] // 4)
    if swizzled.size != rows * columns * 512:
        raise ShapeError(
            f"swizzled scales of {shape} take {rows * columns * 512} bytes (128 x 4 tiles), got {swizzled.size}"
        )
    tiles = swizzled.reshape(rows, columns, 32, 4, 4).transpose(0, 3, 2, 1, 4)
    return np.ascontiguousarray(tiles.reshape(rows * 128, columns * 4)[: shape[0], : shape[1]])
