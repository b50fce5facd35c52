"""From packed rows to the tensor core's panels, of the matrix or of its transpose, without touching a value.

A weight with square scale tiles (16 x 16, 32 x 32) quantizes to the same codes along both axes. So the two products of
a training step that read it, y = x W^T and dx = g W, see one and the same quantized weight; only the layout differs.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from ..formats import BlockFormat, PackedTensor, pack_nibbles
from . import cpu
from .jit import pjit
from .panels import RightOperand, empty_right, right_from_packed

_KINDS = {("e2m1", "e4m3", 16): "nvfp4", ("e2m1", "e8m0", 32): "mxfp4"}


def _key(fmt: BlockFormat) -> tuple[str, str, int | None]:
    scale = fmt.rule.scale_element
    return fmt.element.name if fmt.element is not None else "", scale.name if scale is not None else "", fmt.block


def is_known(fmt: BlockFormat) -> bool:
    """Whether the tensor core multiplies matrices of this format."""
    return _key(fmt) in _KINDS and fmt.tensor_level in ("none", "tensor")


def family(packed: PackedTensor) -> str:
    """The tensor core's name for the packed tensor's kind: "nvfp4" or "mxfp4".

    Raises
    ------
    ValueError
        Its blocks are not those of the tensor core, or it has a fine tier.
    """
    fmt = packed.format
    if packed.planes:
        raise ValueError(f"the tensor core multiplies one tier: pass the coarse one, packed.coarse(), of {packed!r}")
    if not is_known(fmt) or len(packed.shape) != 2:
        raise ValueError(
            f"the tensor core multiplies matrices of E2M1 with E4M3 scales per 16 or E8M0 scales per 32, "
            f"not {fmt.name} of shape {packed.shape}"
        )
    return _KINDS[_key(fmt)]


def right_operand(packed: PackedTensor) -> RightOperand:
    """Panels of a packed matrix (N, K), for products that sum over K."""
    kind = family(packed)
    factor = np.float32(1 if packed.tensor_scale is None else packed.tensor_scale)
    rows, length = packed.shape
    if cpu.jit_disabled():
        return right_from_packed(packed.codes, packed.scales, kind, float(factor), length=length)
    right = empty_right(rows, length, kind)
    _to_panels(packed.codes, rows, right.codes)
    _scales_to_panels(packed.scales, right.scales)
    return RightOperand(right.codes, right.scales, factor, right.shape, kind)


def transposed_right_operand(packed: PackedTensor) -> RightOperand:
    """Panels of the transpose (K, N) of a packed matrix (N, K) with square tiles, for products that sum over N."""
    kind = family(packed)
    fmt = packed.format
    if fmt.block_rows != fmt.block:
        raise ValueError(
            f"{fmt.name} has a scale per {fmt.block_rows} x {fmt.block}: its transpose is not in the same format; "
            "quantize the transpose from the float32 weight, or use square tiles"
        )
    factor = np.float32(1 if packed.tensor_scale is None else packed.tensor_scale)
    rows, length = packed.shape
    tile_scales = np.ascontiguousarray(packed.scales[:: fmt.block].T)  # (K / tile, N / tile)
    scales = np.repeat(tile_scales, fmt.block, axis=0)[:length]  # (K, N / tile)
    if cpu.jit_disabled():
        codes = pack_nibbles(np.ascontiguousarray(packed.unpacked_codes().T))
        return right_from_packed(codes, scales, kind, float(factor), length=rows)
    right = empty_right(length, rows, kind)
    _to_transposed_panels(packed.codes, rows, length, right.codes)
    _scales_to_panels(scales, right.scales)
    return RightOperand(right.codes, right.scales, factor, right.shape, kind)


@pjit
def _to_panels(codes: NDArray, rows: int, panels: NDArray) -> None:
    """Row bytes (N, K/2) to (N/16, K/8, 16, 4): in a group of 8 codes, the first four low, the last four high."""
    for p in numba.prange(panels.shape[0]):
        for c in range(16):
            n = 16 * p + c
            for g in range(panels.shape[1]):
                for i in range(4):
                    byte = 0
                    for half in range(2):
                        j = 4 * g + 2 * half + i // 2
                        if n < rows and j < codes.shape[1]:
                            byte |= ((codes[n, j] >> (4 * (i % 2))) & 15) << (4 * half)
                    panels[p, g, c, i] = byte


@pjit
def _to_transposed_panels(codes: NDArray, rows: int, length: int, panels: NDArray) -> None:
    """Row bytes (N, K/2) to the panels (K/16, N/8, 16, 4) of the transpose."""
    for p in numba.prange(panels.shape[0]):
        for g in range(panels.shape[1]):
            for c in range(16):
                k = 16 * p + c
                shift = 4 * (k % 2)
                for i in range(4):
                    byte = 0
                    if k < length:
                        if 8 * g + i < rows:
                            byte |= (codes[8 * g + i, k // 2] >> shift) & 15
                        if 8 * g + 4 + i < rows:
                            byte |= ((codes[8 * g + 4 + i, k // 2] >> shift) & 15) << 4
                    panels[p, g, c, i] = byte


@pjit
def _scales_to_panels(scales: NDArray, panels: NDArray) -> None:
    """(N, blocks) to (N/16, blocks, 16); rows beyond N get scale byte 0."""
    for p in numba.prange(panels.shape[0]):
        for b in range(panels.shape[1]):
            for c in range(16):
                n = 16 * p + c
                panels[p, b, c] = scales[n, b] if n < scales.shape[0] else 0
