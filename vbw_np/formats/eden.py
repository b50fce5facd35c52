"""MS-EDEN: NVFP4 whose average is unbiased, at the error of rounding to nearest (Quartet II, arXiv:2601.22813).

Stochastic rounding of every element makes a gradient unbiased and its error two and a half times as large. EDEN rounds
to nearest and mends the length instead: after a random rotation the error of a vector is, on average, a shrinking, and
the factor <x, x> / <x, q> undoes it. The factor of every 128 elements goes into their block scales, which are then
rounded stochastically, so that the scales' own rounding adds no bias.

The operations, in order:

1. rotate every 128 elements (Hadamard, random signs), float32;
2. quantize as NVFP4, with E4M3 scales up to 256 (the source's 255.99 rounds to it) and blocks scaled so that amax
   lies at 6 * 16/17 / 0.93: scales stay clear of E4M3's largest, so that a factor above 1 still fits;
3. per 128 elements, the factor <x, x> / <x, q>, in float64;
4. every block scale times its factor goes to one of its two E4M3 neighbors, up with probability equal to the fraction.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .blocks import FORMATS
from .codec import encode, fit_scales
from .elements import E4M3
from .errors import ShapeError
from .hadamard import hadamard_rotate, random_signs
from .packed import PackedTensor
from .random_bits import random_bits

POINTS = 128
"""Elements that are rotated, and corrected, together."""

EDEN = FORMATS["nvfp4-eden"]
"""NVFP4 under MS-EDEN's scales, before the correction."""


def rotate_for_eden(x: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """x (..., K), K a multiple of 128, rotated under the signs of a seed; both operands of a product take the same."""
    if x.shape[-1] % POINTS:
        raise ShapeError(f"x has shape {x.shape}; MS-EDEN corrects {POINTS} elements at a time: fill up with zeros")
    return hadamard_rotate(x, random_signs(POINTS, seed))


def quantize_eden(rotated: NDArray[np.float32], seed: int, stream: int = 0) -> PackedTensor:
    """A rotated array as NVFP4, unbiased on average over rotations and draws.

    Parameters
    ----------
    rotated : float32 (..., K)
        From `rotate_for_eden`.
    seed, stream : int
        Of the random bits that round the scales.

    Returns
    -------
    PackedTensor, of the rotated values
    """
    packed = encode(rotated, EDEN, fit_scales(rotated, EDEN), measure=False)
    wanted = mended_scales(packed, lengths(rotated, packed)[2])
    bits = random_bits(wanted.shape, seed=seed, stream=stream)
    return replace(packed, scales=E4M3.encode(wanted, "stochastic", random=bits))


def lengths(
    rotated: NDArray[np.float32], packed: PackedTensor
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of every 128 elements <x, x>, <x, q> and the factor <x, x> / <x, q>, 1 where <x, q> is 0: (..., K / 128)."""
    x, q = (side.astype(np.float64).reshape(-1, POINTS) for side in (rotated, packed.dequantize()))
    square, overlap = (x * x).sum(axis=-1), (x * q).sum(axis=-1)
    factor = np.divide(square, overlap, out=np.ones_like(overlap), where=overlap > 0)
    groups = (*rotated.shape[:-1], rotated.shape[-1] // POINTS)
    return square.reshape(groups), overlap.reshape(groups), factor.reshape(groups)


def mended_scales(packed: PackedTensor, factor: NDArray[np.float64]) -> NDArray[np.float32]:
    """Block scales times the factor of their 128 elements, not rounded to a format yet, (..., K / 16)."""
    return (E4M3.table[packed.scales] * np.repeat(factor, POINTS // 16, axis=-1)).astype(np.float32)
