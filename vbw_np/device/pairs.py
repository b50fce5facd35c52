"""Operands that have to be made together: rotated under the same random signs, corrected, or freed of their means.

y[m, n] = sum over k of left[m, k] * right[n, k]

- A rotation along k cancels in the product (`formats.hadamard`), so both operands take the same signs.
- MS-EDEN rounds to nearest and mends each operand's length by way of its block scales (`formats.eden`).
- The mean over k is a rank-one part that is split off (Averis, arXiv:2603.10444): with left = l + a 1^T and
  right = r + b 1^T the product is l r^T + K a b^T, for l and r sum to zero. The first term is quantized, the second
  float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..formats import BlockFormat
from ..formats.eden import quantize_eden
from ..formats.hadamard import SIGNS, hadamard_rotate, random_signs
from . import operands
from .recipe import Operands

Key = tuple[int, int]


def together(how: Operands) -> bool:
    """Whether operands that are made in this way have to be made together (the fixed rotation of 16 need not)."""
    return how.eden or how.split_mean or how.signs == "random" or how.hadamard not in (0, len(SIGNS))


def quantizes_anew(how: Operands) -> bool:
    """Whether a product with the weight quantizes the weight anew, since its own codes do not serve."""
    return together(how) or how.hadamard > 0


def signs_of(how: Operands, draw: Callable[[], Key]) -> NDArray[np.float32] | None:
    """The signs of the rotation, or None for none; drawn anew where they are random."""
    if not how.hadamard:
        return None
    if how.signs == "random":
        return random_signs(how.hadamard, *draw())
    return SIGNS if how.hadamard == len(SIGNS) else random_signs(how.hadamard, seed=0)


def split_means(left: NDArray, right: NDArray) -> tuple[NDArray, NDArray, tuple[NDArray, NDArray]]:
    """Both operands without their means over k, and the means (M,), (N,): sums in float64, rounded once."""
    a, b = (side.mean(axis=1, dtype=np.float64).astype(np.float32) for side in (left, right))
    return left - a[:, None], right - b[:, None], (a, b)


def product(
    left: NDArray,
    right: NDArray,
    how: Operands,
    slot: tuple[BlockFormat, BlockFormat, str | None],
    draw: Callable[[], Key],
    out: NDArray,
    *,
    accumulate: bool = False,
    **sums: object,
) -> NDArray:
    """left right^T, float32 (M, K) and (N, K), into `out` (M, N) or added to it, by operands as `how` says.

    Parameters
    ----------
    slot : (BlockFormat, BlockFormat, str or None)
        Formats of the operands, and the tensor core's family that both belong to.
    draw : callable
        Keys of random draws: for the signs, for the left operand, for the right one, in this order.
    **sums
        Of `operands.multiply`.
    """
    left_format, right_format, kind = slot
    if how.split_mean:
        left, right, (a, b) = split_means(left, right)
        part = np.multiply.outer(a * np.float32(left.shape[1]), b)
        np.add(out, part, out=out) if accumulate else np.copyto(out, part)
        accumulate = True
    signs = signs_of(how, draw)
    if signs is not None:
        left, right = (hadamard_rotate(np.ascontiguousarray(side), signs) for side in (left, right))
    if how.eden:
        sides = [quantize_eden(side, *draw()) for side in (left, right)]
        made = operands.left_laid_out(sides[0], kind), operands.laid_out(sides[1], kind)
    else:
        key = draw() if how.stochastic else None
        made = operands.left_operand(left, left_format, kind, key), operands.right_operand(right, right_format, kind)
    return operands.multiply(*made, out, accumulate=accumulate, **sums)
