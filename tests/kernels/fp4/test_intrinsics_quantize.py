"""The kernels' random bits where an index passes 2**32, which no array that a test can hold would reach."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from vbw_np.definitions.panels import DOUBLED
from vbw_np.formats import E2M1
from vbw_np.formats.random_bits import hash_bits, hash_keys
from vbw_np.kernels.fp4.intrinsics_quantize import column_left, row_left
from vbw_np.simd.variant import Variant

MODE = Variant("te+stochastic", 16)
SEED, STREAM = 7, 3


@numba.njit
def round_row(mode, x, factors, out, sums, index, key1, key2):  # type: ignore[no-untyped-def]
    row_left(mode, x.ctypes.data, factors.ctypes.data, 1, out.ctypes.data, sums.ctypes.data, index, key1, key2)


@numba.njit
def round_columns(mode, x, level, out, scales, sums, index, length, key1, key2):  # type: ignore[no-untyped-def]
    at = level.ctypes.data
    column_left(
        mode, x.ctypes.data, 64, 1, 0, at, at, index, length, key1, key2,
        out.ctypes.data, 16, scales.ctypes.data, 4, sums.ctypes.data,
    )  # fmt: skip


def expected(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    return DOUBLED[E2M1.encode(x, ties="stochastic", random=hash_bits(SEED, STREAM, index))]


@pytest.mark.parametrize("first", [0, 2**32 - 8, 2**32, 2**33 - 3])
def test_along_a_row(first: int) -> None:
    x = np.random.default_rng(0).uniform(-6, 6, 16).astype(np.float32)
    out, sums = np.zeros(16, np.int8), np.zeros(1, np.int16)
    round_row(MODE, x, np.ones(1, np.float32), out, sums, first, *hash_keys(SEED, STREAM))
    assert (out == expected(x, first + np.arange(16))).all()
    assert sums[0] == out.sum()


@pytest.mark.parametrize(("first", "length"), [(0, 16), (2**32 - 5, 2**31), (2**32 - 8, 2**32 - 1)])
def test_down_columns(first: int, length: int) -> None:
    """Sixteen columns of amax 6; under a second level of 1 each block's scale is its amax, 6."""
    x = np.random.default_rng(1).uniform(-6, 6, (16, 16)).astype(np.float32)
    x[0] = 6
    out, half_scales, sums = np.zeros((16, 16), np.int8), np.zeros(16, np.float32), np.zeros(16, np.int16)
    round_columns(MODE, x, np.ones(16, np.float32), out, half_scales, sums, first, length, *hash_keys(SEED, STREAM))
    assert (half_scales == 3).all()
    index = first + np.arange(16)[None, :] + length * np.arange(16)[:, None]
    assert (out == expected(x.T * (np.float32(1) / np.float32(6)), index)).all()
    assert (sums == out.sum(axis=1)).all()
