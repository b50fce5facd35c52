"""Weights of 8-bit integers in blocks of 32 under scales of their own, as products with few rows read them.

Four bits in a language model's head cost more than in its other layers, so the head gets eight: ggml's Q8_0. Rows stay
as they are, code after code, and activations become 8-bit integers under a power-of-two scale a block, as everywhere.

A row's sum runs in 8 lanes. Lane j takes, of every block, the integers at 2 j, 2 j + 1, 16 + 2 j and 17 + 2 j: their
dot product is exact, is multiplied with the product of both scales, rounded, and added, rounded, block after block. At
the end the lanes are added in pairs: j and j + 4, then 2 apart, then 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..formats import PackedTensor
from .fp4_products import quantize_left_int8

BLOCK, LANES = 32, 8
LEFT = "mxfp4"
"""The format whose blocks activations are rounded in: its length is `BLOCK`."""


@dataclass(frozen=True, eq=False)
class ByteRows:
    """The right operand of such a product, N x K.

    Parameters
    ----------
    codes : int8 array (N, blocks * 32)
        Padding along K is zero.
    scales : float32 array (N, blocks)
    shape : (N, K)
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.codes.nbytes + self.scales.nbytes


def byte_rows(packed: PackedTensor) -> ByteRows:
    """A packed matrix that `support.bytes_a_row` knows, as an operand."""
    rows, length = packed.shape
    blocks = -(-length // BLOCK)
    values = np.asarray(packed.format.element.table, np.int8)[packed.codes.reshape(rows, -1)]
    codes = np.zeros((rows, blocks * BLOCK), np.int8)
    codes[:, : values.shape[1]] = values
    scales = np.ascontiguousarray(packed.decoded_scales(), np.float32).reshape(rows, blocks)
    return ByteRows(codes, scales, packed.shape)


def matvec_reference(x: NDArray, right: ByteRows) -> NDArray:
    """x W^T by its definition: x float32 (R, K), to (R, N)."""
    left = quantize_left_int8(x, LEFT)
    count, blocks = len(x), right.scales.shape[1]
    values = left.values[:count].reshape(count, 1, blocks, 2, LANES, 2).astype(np.int32)
    lanes = np.zeros((count, right.shape[0], LANES), np.float32)
    for b in range(blocks):
        codes = right.codes[:, b * BLOCK : (b + 1) * BLOCK].reshape(-1, 2, LANES, 2)
        dots = (values[:, :, b] * codes).sum(axis=(2, 4)).astype(np.float32)
        scale = left.scales[:count, b, None] * right.scales[:, b]
        lanes += scale[:, :, None] * dots
    for half in (4, 2, 1):
        lanes = lanes[:, :, :half] + lanes[:, :, half:]
    return lanes[:, :, 0]
