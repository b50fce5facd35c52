"""The random Hadamard rotation of 16 to 128 points, which spreads an outlier over its block before quantizing.

Both operands of a product are rotated along the axis that is summed over; the rotation is orthogonal, so it cancels
in the product: (x R) (y R)^T = x y^T.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import ShapeError
from .random_bits import random_bits

POINTS = 16

SIGNS = np.array([1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1], np.float32)
"""The fixed random signs of TransformerEngine's weight-gradient rotation (`get_wgrad_sign_vector`)."""
SIGNS.setflags(write=False)


def hadamard_rotate(x: NDArray[np.float32], signs: NDArray[np.float32] = SIGNS) -> NDArray[np.float32]:
    """Rotate every n consecutive elements along the last axis: x diag(signs) H / sqrt(n), H being Sylvester's matrix.

    The order of operations, all in float32: multiply by the signs and by 2**-ceil(log2(n) / 2), 0.25 for 16; log2 n
    butterfly stages over distances 1, 2, 4, ..., each turning (a, b) into (a + b, a - b); multiply by what is missing
    of float32(1 / sqrt(n)), 1 for 16. So no sum overflows unless a result does. A ragged last group is filled up with
    zeros first, so the result's last axis is a multiple of n.

    Parameters
    ----------
    x : float32, (..., K)
    signs : float32, (n,)
        1 or -1 each; n is a power of two.

    Returns
    -------
    float32, (..., ceil(K / n) * n)

    Raises
    ------
    ShapeError

    Notes
    -----
    arXiv 2509.25149, section on random Hadamard transforms; TransformerEngine rotates in bfloat16, this in float32.
    """
    points = len(signs)
    if points < 2 or points & (points - 1):
        raise ShapeError(f"there are {points} signs; a Hadamard matrix of this kind has a power of two of rows")
    groups = -(-x.shape[-1] // points)
    padded = np.zeros((*x.shape[:-1], groups * points), np.float32)
    padded[..., : x.shape[-1]] = x
    first = np.float32(2.0 ** -((points.bit_length()) // 2))
    values, distance = padded.reshape(-1, points) * (signs * first), 1
    with np.errstate(over="ignore", invalid="ignore"):
        while distance < points:
            pairs = values.reshape(-1, points // (2 * distance), 2, distance)
            values = np.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), axis=2)
            values, distance = values.reshape(-1, points), 2 * distance
        return values.reshape(padded.shape) * (np.float32(points**-0.5) / first)


def random_signs(points: int, seed: int, stream: int = 0) -> NDArray[np.float32]:
    """Signs for a rotation of `points` elements, from the counter: 1 or -1 each, (points,)."""
    bits = random_bits((points,), seed=seed, stream=stream)
    return np.where(bits & np.uint32(1), np.float32(-1), np.float32(1))


def hadamard_rotate_back(x: NDArray[np.float32], signs: NDArray[np.float32] = SIGNS) -> NDArray[np.float32]:
    """The inverse of `hadamard_rotate`, which is its transpose: rotate without signs, then multiply by them."""
    turned = hadamard_rotate(x, np.ones(len(signs), np.float32)).reshape(-1, len(signs))
    return (turned * signs).reshape(x.shape)
