"""The seed project's third-layer quantizer: INT4 over 8 x 8 blocks, near-orthogonal blocks made orthogonal first.

A block B with `||B'B - I|| < 0.3` (Frobenius norm) and condition number below 50 is replaced by its nearest
orthogonal matrix (the polar factor U V' of B = U S V', Higham 1986) and counted; then every block is quantized to
INT4 with one float32 scale, amax / 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .elements import INT4, as_float32
from .errors import NonFiniteError, ShapeError
from .packing import pack_nibbles, unpack_nibbles

BLOCK = 8
MAX_DEVIATION = 0.3
MAX_CONDITION = 50.0


@dataclass(frozen=True, eq=False)
class OrthogonalPacked:
    """A matrix in INT4 over 8 x 8 blocks.

    Parameters
    ----------
    codes : uint8 (R, ceil(C / 2)), low nibble first
    scales : float32 (ceil(R / 8), ceil(C / 8))
    shape : (R, C)
    orthogonal : bool (ceil(R / 8), ceil(C / 8)), the blocks that were replaced
    """

    codes: np.ndarray
    scales: np.ndarray
    shape: tuple[int, int]
    orthogonal: np.ndarray

    @property
    def count(self) -> int:
        """Blocks that were replaced by an orthogonal matrix."""
        return int(self.orthogonal.sum())

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    @property
    def bits_per_value(self) -> float:
        """`8 * nbytes / size`."""
        return 8.0 * self.nbytes / (self.shape[0] * self.shape[1])

    def dequantize(self) -> np.ndarray:
        """float32 (R, C): the integer times its block's scale."""
        values = INT4.table[unpack_nibbles(self.codes, self.shape[1])]
        scales = np.repeat(np.repeat(self.scales, BLOCK, axis=0), BLOCK, axis=1)
        return values * scales[: self.shape[0], : self.shape[1]]

    def __repr__(self) -> str:
        return (
            f"OrthogonalPacked(shape: {self.shape[0]} x {self.shape[1]}, bits a value: {self.bits_per_value:.4g}, "
            f"orthogonal blocks: {self.count} of {self.orthogonal.size})"
        )


def is_near_orthogonal(blocks: np.ndarray) -> np.ndarray:
    """The test, for blocks (..., 8, 8): bool (...). Computed in float64."""
    b = blocks.astype(np.float64)
    deviation = np.linalg.norm(np.swapaxes(b, -1, -2) @ b - np.eye(BLOCK), axis=(-2, -1))
    singular = np.linalg.svd(b, compute_uv=False)
    # cond < 50 without a division: a singular block has no finite condition number.
    return (deviation < MAX_DEVIATION) & (singular[..., 0] < MAX_CONDITION * singular[..., -1])


def nearest_orthogonal(blocks: np.ndarray) -> np.ndarray:
    """The orthogonal matrix nearest in Frobenius norm, for blocks (..., 8, 8): float32."""
    u, _, vt = np.linalg.svd(blocks.astype(np.float64))
    return (u @ vt).astype(np.float32)


def quantize_orthogonal(w: np.ndarray) -> OrthogonalPacked:
    """Quantize a matrix (R, C) with the 8 x 8 quantizer; a ragged edge is padded with zeros for the tests only."""
    w = as_float32(w, "w")
    if w.ndim != 2 or 0 in w.shape:
        raise ShapeError(f"the 8 x 8 quantizer takes a matrix with elements, got shape {w.shape}")
    if not np.isfinite(w).all():
        raise NonFiniteError("w has NaN or Inf, which INT4 cannot hold; find out where it comes from")
    rows, columns = -(-w.shape[0] // BLOCK), -(-w.shape[1] // BLOCK)
    padded = np.zeros((rows * BLOCK, columns * BLOCK), np.float32)
    padded[: w.shape[0], : w.shape[1]] = w
    blocks = padded.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2)  # (rows, columns, 8, 8)
    orthogonal = is_near_orthogonal(blocks)
    blocks = np.where(orthogonal[..., None, None], nearest_orthogonal(blocks), blocks)
    scales = np.abs(blocks).max(axis=(-2, -1)) / np.float32(7)
    safe = np.where(scales == 0, np.float32(1), scales)[..., None, None]
    codes = INT4.encode(np.clip(blocks / safe, -7, 7), "even")
    flat = codes.swapaxes(1, 2).reshape(padded.shape)[: w.shape[0], : w.shape[1]]
    return OrthogonalPacked(pack_nibbles(np.ascontiguousarray(flat)), scales, w.shape, orthogonal)
