"""Random bits from a counter: the same element gets the same bits, whatever the order or the number of threads.

Stochastic rounding needs one random integer an element. A sequential generator would tie the result to the order
of the loop; a *counter-based* generator is a hash of (seed, stream, element index), so a parallel kernel and a
NumPy array expression produce identical bits. The mixing function is `lowbias32` (Chris Wellons' two-multiply
xor-shift finalizer, of the family of MurmurHash3's `fmix32`, with lower measured bias), applied twice with two
independent keys, because a single keyed round would make two streams shifted copies of one another.

All arithmetic is modulo 2**32::

    lowbias32(h):  h ^= h >> 16;  h *= 0x7feb352d;  h ^= h >> 15;  h *= 0x846ca68b;  h ^= h >> 16

    key1 = lowbias32(lo(seed) ^ lowbias32(hi(seed) + 0x9e3779b9))
    key2 = lowbias32(stream + lowbias32(key1 + 0x85ebca6b))
    bits = lowbias32(lowbias32(lo(index) ^ key1) + key2 + hi(index) * 0xc2b2ae35)

where `lo` and `hi` are the low and high 32 bits. The index is the flat row-major index in the logical array.
"""

from __future__ import annotations

import numpy as np

_MASK = 0xFFFFFFFF


def _mix(h: int) -> int:
    """`lowbias32` on a Python integer (for the keys)."""
    h ^= h >> 16
    h = (h * 0x7FEB352D) & _MASK
    h ^= h >> 15
    h = (h * 0x846CA68B) & _MASK
    return h ^ (h >> 16)


def lowbias32(h: np.ndarray) -> np.ndarray:
    """The finalizer itself, on a uint32 array; returns a new array."""
    h = h ^ (h >> np.uint32(16))
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    return h


def hash_keys(seed: int, stream: int) -> tuple[int, int]:
    """The two 32-bit keys of a (seed, stream) pair, as Python integers (a kernel takes them as arguments)."""
    seed, stream = int(seed), int(stream)
    key1 = _mix((seed & _MASK) ^ _mix((((seed >> 32) & _MASK) + 0x9E3779B9) & _MASK))
    key2 = _mix(((stream & _MASK) + _mix((key1 + 0x85EBCA6B) & _MASK)) & _MASK)
    return key1, key2


def hash_bits(seed: int, stream: int, index: np.ndarray) -> np.ndarray:
    """32 random bits for each element index.

    Parameters
    ----------
    seed, stream : int
        Two integers (64 and 32 bits are used). One stream for each independent use: a layer, a step, an operand.
    index : array of a non-negative integer dtype
        Flat row-major element indices.

    Returns
    -------
    array of uint32, the shape of `index`.
    """
    index = np.atleast_1d(np.asarray(index, dtype=np.uint64))
    key1, key2 = hash_keys(seed, stream)
    low = (index & np.uint64(_MASK)).astype(np.uint32)
    high = (index >> np.uint64(32)).astype(np.uint32)
    return lowbias32(lowbias32(low ^ np.uint32(key1)) + np.uint32(key2) + high * np.uint32(0xC2B2AE35))


def random_bits(shape: tuple[int, ...], seed: int, stream: int = 0) -> np.ndarray:
    """`hash_bits` for every element of an array of that shape, by its flat row-major index."""
    size = int(np.prod(shape, dtype=np.int64))
    return hash_bits(seed, stream, np.arange(size, dtype=np.uint64)).reshape(shape)


def uniform24(bits: np.ndarray) -> np.ndarray:
    """A float32 uniform in [0, 1) from the top 24 bits: `(bits >> 8) * 2**-24`, exact."""
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def standard_normal(shape: tuple[int, ...], seed: int, stream: int = 0) -> np.ndarray:
    """Reproducible float32 N(0, 1) values from the counter, by Box-Muller in float64.

    Used for test data and demonstrations. sin, cos and log may differ in the last float64 bit between C
    libraries; after rounding to float32 that is invisible except with probability about 2**-28 an element.
    """
    size = int(np.prod(shape, dtype=np.int64))
    half = (size + 1) // 2
    u = hash_bits(seed, stream, np.arange(2 * half, dtype=np.uint64)).astype(np.float64)
    u = (u + 0.5) * 2.0**-32
    radius = np.sqrt(-2.0 * np.log(u[:half]))
    angle = (2.0 * np.pi) * u[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size].reshape(shape).astype(np.float32)
