"""Scale rules by exact arithmetic, and the order of float32 operations that decoding and random bits promise."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from vbw_np.formats import E2M1, E4M3, hash_bits, quantize
from vbw_np.formats.packed import nested_table
from vbw_np.formats.random_bits import hash_keys, standard_normal
from vbw_np.formats.scales import e8m0_ceil, e8m0_even, e8m0_floor, e8m0_rceil, e8m0_round_up

MASK = 0xFFFFFFFF


def turning_points() -> np.ndarray:
    """float32 maxima beside every power of two, 1.5 and 1.75 times it, subnormals and the largest number."""
    exponents = np.arange(0, 255, dtype=np.int64)[:, None] << 23
    mantissas = np.array([0, 0x200000, 0x400000, 0x600000, 0x7FFFFF])[:, None] + np.array([-2, -1, 0, 1, 2])
    bits = np.unique(exponents + mantissas.reshape(-1))
    return bits[(bits > 0) & (bits < 0x7F800000)].astype(np.uint32).view(np.float32)


def floor_log2(x: Fraction) -> int:
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if Fraction(2) ** guess <= x else guess - 1


def clamp(byte: int, highest: int = 254) -> int:
    return min(max(byte, 0), highest)


def test_floor_ceil_and_even_by_exact_logarithms():
    x = turning_points()
    for rule, code in ((e8m0_floor, e8m0_floor(x)), (e8m0_ceil, e8m0_ceil(x)), (e8m0_even, e8m0_even(x))):
        for value, got in zip(x, code, strict=True):
            exact = Fraction(float(value))
            low = floor_log2(exact)
            if low < -126:
                continue  # subnormals have one exponent field: all their scales are 2**-127
            significand = exact / Fraction(2) ** low
            up = (rule is e8m0_ceil and significand > 1) or (rule is e8m0_even and significand >= Fraction(7, 4))
            assert got == clamp(low + up - 2 + 127, 252), (rule.__name__, value)  # 6 * 2**126 is no float32
    subnormal = x[x < 2.0**-126]
    assert not e8m0_floor(subnormal).any() and len(subnormal)


def test_round_up_is_the_least_power_of_two_not_below():
    x = np.concatenate([turning_points(), np.array([2.0**-149, 2.0**-127, 2.0**-128, 3 * 2.0**-129], np.float32)])
    for value, got in zip(x, e8m0_round_up(x), strict=True):
        exact = Fraction(float(value))
        least = floor_log2(exact)
        least += Fraction(2) ** least != exact
        assert got == clamp(least + 127), value
    np.testing.assert_array_equal(e8m0_rceil(x), np.minimum(e8m0_round_up(x / np.float32(6)), 252))


def test_nan_and_inf_are_the_nan_byte():
    bad = np.array([np.nan, np.inf], np.float32)
    for rule in (e8m0_floor, e8m0_even, e8m0_ceil, e8m0_rceil):
        assert rule(bad).tolist() == [255, 255]
    assert e8m0_floor(np.zeros(1, np.float32)).tolist() == [0]


def test_nvfp4_step_by_step_in_scalars():
    """The TransformerEngine order, one float32 scalar at a time, against the array code."""
    f = np.float32
    x = standard_normal((8, 64), seed=12)
    packed = quantize(x, "nvfp4")
    amax = f(np.abs(x).max())
    s_enc = f(2688) / amax
    multiplier = f(s_enc * (f(1) / f(6)))
    s_dec = f(1) / s_enc
    codes = packed.unpacked_codes()
    for row in range(8):
        for block in range(4):
            part = x[row, 16 * block : 16 * block + 16]
            scale = E4M3.encode(np.array([min(f(np.abs(part).max()) * multiplier, f(448))], np.float32))[0]
            assert packed.scales[row, block] == scale
            inverse = f(1) / f(E4M3.table[scale] * s_dec)
            for i, value in enumerate(part):
                q = np.clip(f(value * inverse), f(-6), f(6))
                assert codes[row, 16 * block + i] == E2M1.encode(np.array([q], np.float32), signed_zero="drop")[0]


def test_decoding_rounds_once_because_element_times_scale_is_exact():
    packed = quantize(standard_normal((64, 256), seed=13), "nvfp4")
    element = E2M1.decode(packed.unpacked_codes()).astype(np.float64)
    scale = np.repeat(packed.decoded_scales(), 16, axis=1).astype(np.float64)
    exact = element * scale * np.float64(packed.tensor_scale)  # 2 + 4 + 24 bits: exact in float64
    np.testing.assert_array_equal(packed.dequantize(), exact.astype(np.float32))


def test_nested_tables_refine_each_other():
    for top in (6.375, 8.0):
        for planes in (1, 2, 3, 4):
            table = nested_table(top, planes).astype(np.float64)
            coarser = nested_table(top, planes - 1).astype(np.float64)
            np.testing.assert_array_equal(table.reshape(16, -1, 2).mean(axis=2), coarser)
            np.testing.assert_array_equal(table[8], table[0])  # code 8 is code 0 here
            np.testing.assert_array_equal(table[9:], -table[1:8])


def mix(h: int) -> int:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        h = ((h ^ (h >> shift)) * factor) & MASK
    return h


@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (1, 0), (0, 1), (2**40 + 7, 12), (2**63, 2**31)])
def test_random_bits_by_the_written_recipe(seed, stream):
    key1 = mix((seed & MASK) ^ mix((((seed >> 32) & MASK) + 0x9E3779B9) & MASK))
    key2 = mix((stream + mix((key1 + 0x85EBCA6B) & MASK)) & MASK)
    assert hash_keys(seed, stream) == (key1, key2)
    index = [0, 1, 2, 12345, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 3]
    wanted = [mix((mix((i & MASK) ^ key1) + key2 + (i >> 32) * 0xC2B2AE35) & MASK) for i in index]
    assert hash_bits(seed, stream, np.array(index, np.uint64)).tolist() == wanted


def test_random_bits_are_uniform_and_streams_are_uncorrelated():
    n = 1 << 16
    draws = np.stack([hash_bits(3, s, np.arange(n)).astype(np.float64) / 2**32 - 0.5 for s in range(8)])
    draws = np.concatenate([draws, np.stack([np.roll(draws[0], k) for k in (1, 2, 4, 16, 256)])])
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / math.sqrt(n)
    counts = np.bincount((hash_bits(3, 0, np.arange(n)) >> np.uint32(24)).astype(int), minlength=256)
    assert ((counts - n / 256) ** 2 / (n / 256)).sum() < 255 + 5 * math.sqrt(510)
