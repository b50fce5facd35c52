"""Operands of FP8 products: codes as they are packed, and their float32 scales."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..formats import E4M3, E5M2, BlockFormat, ElementFormat, PackedTensor

ELEMENTS = {element.name: element for element in (E4M3, E5M2)}
"""What tensor cores multiply as FP8."""

BLOCK = 128
"""Elements along the sum under one scale, where the scales are not those of whole rows."""


@dataclass(frozen=True, eq=False)
class Fp8Operand:
    """One operand of an FP8 product, whose sum runs along the rows.

    Parameters
    ----------
    codes : uint8 (rows, K), C-contiguous
    scales : float32 (rows, 1), or (rows, ceil(K / 128)) where they are `blocked`, C-contiguous
        What decoding multiplies with: one a row (a scale of the whole tensor is repeated), or one per 128 elements.
    element : str
        A name in `ELEMENTS`.
    blocked : bool
        Whether there is a scale per 128 elements, so that partial sums have to be scaled on the way.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    element: str
    blocked: bool = False

    def __post_init__(self) -> None:
        if self.element not in ELEMENTS:
            raise ValueError(f"an FP8 operand is of {' or '.join(ELEMENTS)}, not {self.element!r}")
        for name, dtype in (("codes", np.uint8), ("scales", np.float32)):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 2:
                raise ValueError(f"{name} of an FP8 operand must be a matrix of {np.dtype(dtype).name}, got {array!r}")
            if not array.flags.c_contiguous:
                raise ValueError(f"{name} of an FP8 operand must be C-contiguous: np.ascontiguousarray")
        rows, length = self.codes.shape
        wanted = rows, -(-length // BLOCK) if self.blocked else 1
        if self.scales.shape != wanted:
            found = f"codes of shape {self.codes.shape} and scales of shape {self.scales.shape}"
            raise ValueError(f"{found} do not belong together: these codes need scales of shape {wanted}")

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, K)"""
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.codes.nbytes + self.scales.nbytes

    @cached_property
    def finite(self) -> bool:
        """Whether no code is NaN or Inf."""
        return not _not_finite(self.element)[self.codes].any()

    def dequantize(self) -> NDArray[np.float32]:
        """The float32 numbers, (rows, K)."""
        length = self.shape[1]
        scales = np.repeat(self.scales, BLOCK, axis=1)[:, :length] if self.blocked else self.scales
        return ELEMENTS[self.element].table[self.codes] * scales


def _not_finite(element: str) -> NDArray[np.bool_]:
    return ~np.isfinite(ELEMENTS[element].table)


def why_not(fmt: BlockFormat) -> str:
    """Why matrices of this format are no FP8 operands; empty where they are."""
    if not isinstance(fmt.element, ElementFormat) or fmt.element.name not in ELEMENTS:
        return f"FP8 products are of {' and '.join(ELEMENTS)}, not of {fmt.name}"
    if fmt.rule.scale_element is not None or fmt.rule.affine is not None or fmt.tensor_level != "none":
        return f"FP8 products take plain float32 scales, not those of {fmt.name}"
    if fmt.fine is not None or fmt.block not in (None, BLOCK):
        return f"FP8 products take scales of whole rows or per {BLOCK} elements, not those of {fmt.name}"
    return ""


def from_packed(packed: PackedTensor) -> Fp8Operand:
    """A packed matrix (rows, K) as an operand.

    Raises
    ------
    ValueError
        Its format has no FP8 products.
    """
    why = why_not(packed.format)
    if why:
        raise ValueError(why)
    rows, scales = packed.shape[0], packed.scales
    if packed.format.block is None:  # of flat formats there is one for the tensor
        scales = np.broadcast_to(scales.reshape(-1, 1), (rows, 1))
    codes, blocked = np.ascontiguousarray(packed.unpacked_codes()), packed.format.block is not None
    return Fp8Operand(codes, np.ascontiguousarray(scales, np.float32), packed.format.element.name, blocked)


def transposed_from_packed(packed: PackedTensor) -> Fp8Operand:
    """The transpose (K, rows) of a packed matrix with square tiles, of the same codes, as an operand."""
    fmt = packed.format
    if why_not(fmt) or fmt.block_rows != fmt.block:
        raise ValueError(why_not(fmt) or f"{fmt.name} has no square tiles: quantize the transpose instead")
    tiles = packed.scales[::BLOCK].T  # (K / 128, rows / 128)
    scales = np.repeat(tiles, BLOCK, axis=0)[: packed.shape[1]]
    codes = np.ascontiguousarray(packed.unpacked_codes().T)
    return Fp8Operand(codes, np.ascontiguousarray(scales), fmt.element.name, blocked=True)
