"""Random bits: autograd, which imports nothing of the formats, and the formats scramble words alike."""

from __future__ import annotations

import numpy as np

from autograd.random import mix
from autograd.random import random_bits as bits_of_key
from vbw_np.formats.random_bits import hash_keys, lowbias32, random_bits

WORDS = np.random.default_rng(0).integers(0, 1 << 32, 10_000, dtype=np.uint32)


def test_the_hash_is_written_twice_and_is_one() -> None:
    np.testing.assert_array_equal(mix(WORDS), lowbias32(WORDS))


def test_a_draw_of_the_same_keys_has_the_same_bits() -> None:
    np.testing.assert_array_equal(bits_of_key(hash_keys(7, 3), 1000), random_bits((1000,), 7, 3))


def test_the_published_values_of_lowbias32() -> None:
    """Chris Wellons' two multipliers and three shifts, in Python's integers."""
    for word in map(int, WORDS[:100]):
        h = word
        h = (h ^ h >> 16) * 0x7FEB352D & 0xFFFFFFFF
        h = (h ^ h >> 15) * 0x846CA68B & 0xFFFFFFFF
        assert (h ^ h >> 16) == int(lowbias32(np.uint32([word]))[0])
