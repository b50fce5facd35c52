"""The 16-point random Hadamard rotation, which spreads an outlier over its block before quantizing.

Both operands of a product are rotated along the axis that is summed over; the rotation is orthogonal, so it cancels
in the product: (x R) (y R)^T = x y^T.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POINTS = 16

SIGNS = np.array([1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1], np.float32)
"""The fixed random signs of TransformerEngine's weight-gradient rotation (`get_wgrad_sign_vector`)."""
SIGNS.setflags(write=False)


def hadamard_rotate(x: NDArray[np.float32], signs: NDArray[np.float32] = SIGNS) -> NDArray[np.float32]:
    """Rotate every 16 consecutive elements along the last axis: x diag(signs) H / 4, H being Sylvester's matrix.

    The order of operations, all in float32: multiply by the signs; four butterfly stages over distances 1, 2, 4, 8,
    each turning (a, b) into (a + b, a - b); multiply by 0.25. A ragged last group is filled up with zeros first, so
    the result's last axis is a multiple of 16.

    Parameters
    ----------
    x : float32, (..., K)
    signs : float32, (16,)
        1 or -1 each.

    Returns
    -------
    float32, (..., ceil(K / 16) * 16)

    Notes
    -----
    arXiv 2509.25149, section on random Hadamard transforms; TransformerEngine rotates in bfloat16, this in float32.
    """
    groups = -(-x.shape[-1] // POINTS)
    padded = np.zeros((*x.shape[:-1], groups * POINTS), np.float32)
    padded[..., : x.shape[-1]] = x
    values = padded.reshape(-1, POINTS) * signs
    for distance in (1, 2, 4, 8):
        pairs = values.reshape(-1, POINTS // (2 * distance), 2, distance)
        values = np.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), axis=2)
    return (values.reshape(padded.shape)) * np.float32(0.25)
