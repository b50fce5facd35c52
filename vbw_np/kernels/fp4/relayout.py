"""From packed rows to the tensor core's panels, of the matrix or of its transpose, without touching a value.

A weight with square scale tiles (16 x 16, 32 x 32) quantizes to the same codes along both axes. So the two products of
a training step that read it, y = x W^T and dx = g W, see one and the same quantized weight; only the layout differs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...definitions import support
from ...definitions.fp4 import tensor_factor
from ...definitions.panels import RightOperand, empty_right
from ...formats import PackedTensor
from ...simd.jit import leaf, pjit, share
from .intrinsics_relayout import to_panel, to_transposed_panel


def right_operand(packed: PackedTensor) -> RightOperand:
    """Panels of a packed matrix (N, K), for products that sum over K."""
    return _laid_out(packed, packed.shape, _words(packed.codes, packed.shape[0]), _to_panels, packed.scales)


def transposed_right_operand(packed: PackedTensor) -> RightOperand:
    """Panels of the transpose (K, N) of a packed matrix (N, K) with square tiles, for products that sum over N."""
    rows, length = packed.shape
    words = _words(packed.codes, -(-rows // 8) * 8)
    return _laid_out(packed, (length, rows), words, _to_transposed_panels, support.transposed_scales(packed))


def _laid_out(
    packed: PackedTensor, shape: tuple[int, int], words: NDArray, to_panels: Callable, scales: NDArray
) -> RightOperand:
    """An operand of this shape from the words of packed rows, and from the scales of its rows."""
    right = empty_right(*shape, support.family_of(packed))
    panels = right.codes.view(np.uint32)[..., 0]  # (rows / 16, length / 8, 16)
    panels[:, -(-shape[1] // 8) :] = 0
    to_panels(words, panels)
    _scales_to_panels(scales, right.scales)
    return RightOperand(right.codes, right.scales, tensor_factor(packed), right.shape, right.family)


# Eight codes are one 32-bit word of packed rows and one 32-bit word of a panel; only their nibbles stand differently
# (`intrinsics_relayout`, which moves sixteen words at once; here is what is left over).


@leaf
def _spread(nibbles: np.uint32) -> np.uint32:
    """Four nibbles in the low half of a word to the low nibbles of its four bytes."""
    pairs = (nibbles | (nibbles << np.uint32(8))) & np.uint32(0x00FF00FF)
    return (pairs | (pairs << np.uint32(4))) & np.uint32(0x0F0F0F0F)


@pjit
def _to_panels(team, words: NDArray, panels: NDArray) -> None:
    """Words of packed rows (N, K/8) to (N/16, K/8, 16)."""
    rows, groups = words.shape
    for p in share(team, panels.shape[0]):
        first = np.int64(16 * p)
        done = 0
        if first + 16 <= rows:
            sixteens = groups // 16
            to_panel(words.ctypes.data + first * groups * 4, groups * 4, sixteens, panels[p].ctypes.data)
            done = sixteens * 16
        for c in range(min(16, rows - first)):
            for g in range(done, groups):
                word = words[first + c, g]
                low, high = word & np.uint32(0xFFFF), word >> np.uint32(16)
                panels[p, g, c] = _spread(low) | (_spread(high) << np.uint32(4))


@pjit
def _to_transposed_panels(team, words: NDArray, panels: NDArray) -> None:
    """Words of packed rows (N, K/8), N a multiple of 8, to the panels (K/16, N/8, 16) of the transpose."""
    rows, groups = words.shape
    for p in share(team, panels.shape[0]):
        done = 0
        if 2 * p + 2 <= groups:
            done = rows // 8
            to_transposed_panel(words.ctypes.data + 8 * p, groups * 4, done, panels[p].ctypes.data)
        for g in range(done, rows // 8):
            for half in range(min(2, groups - 2 * np.int64(p))):
                column = 2 * np.int64(p) + half
                for c in range(8):
                    shift = np.uint32(4 * c)
                    word = np.uint32(0)
                    for i in range(4):
                        low = (words[8 * g + i, column] >> shift) & np.uint32(15)
                        high = (words[8 * g + 4 + i, column] >> shift) & np.uint32(15)
                        word |= (low | (high << np.uint32(4))) << np.uint32(8 * i)
                    panels[p, g, 8 * half + c] = word


def _words(codes: NDArray, rows: int) -> NDArray:
    """Packed rows as 32-bit words, with `rows` rows; filled up with zero codes where they do not come out even."""
    bytes_a_row = -(-codes.shape[1] // 4) * 4
    if codes.shape != (rows, bytes_a_row) or not codes.flags.c_contiguous:
        padded = np.zeros((rows, bytes_a_row), np.uint8)
        padded[: codes.shape[0], : codes.shape[1]] = codes
        codes = padded
    return codes.view("<u4")


@pjit
def _scales_to_panels(team, scales: NDArray, panels: NDArray) -> None:
    """(N, blocks) to (N/16, blocks, 16); rows beyond N get scale byte 0."""
    for p in share(team, panels.shape[0]):
        for b in range(panels.shape[1]):
            for c in range(16):
                n = 16 * p + c
                panels[p, b, c] = scales[n, b] if n < scales.shape[0] else 0
