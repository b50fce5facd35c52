"""The scales of both operands in the forms that tile loops want: compiled code against the definitions in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.definitions.panels import BY_ROWS
from vbw_np.kernels.fp4 import tensor_core
from vbw_np.kernels.fp4.intrinsics_tile import fill_right_words, offset_of, words_of
from vbw_np.kernels.fp4.scale_words import half_scales, product_table, right_words
from vbw_np.simd import cpu
from vbw_np.simd.jit import jit
from vbw_np.simd.variant import Variant

INSTRUCTION_SETS = [isa for isa in cpu.available() if isa != "amx"]


@jit
def run_right_words(variant, stored, target):  # type: ignore[no-untyped-def]
    fill_right_words(variant, stored.ctypes.data, stored.size // 16, target.ctypes.data)


@pytest.mark.parametrize("fmt", ["mxfp4", "nvfp4"])
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_right_words_of_every_scale_byte(isa: str, fmt: str) -> None:
    variant = Variant(isa, {"mxfp4": 32, "nvfp4": 16}[fmt])
    stored, found = np.arange(256, dtype=np.uint8), np.empty(256, np.float32)
    run_right_words(variant, stored, found)
    expected = right_words(fmt, words_of(variant))
    known = ~np.isnan(half_scales(fmt)) if words_of(variant) == "places" else np.full(256, True)
    nan = np.isnan(half_scales(fmt)) & known
    assert np.isnan(found[nan]).all()
    same = known & ~nan
    assert np.array_equal(found[same].view(np.uint32), expected[same].view(np.uint32))


@pytest.mark.parametrize("blocks", [5, 16, 37])
@pytest.mark.parametrize("fmt", ["mxfp4", "nvfp4"])
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_left_words_of_every_scale(isa: str, fmt: str, blocks: int) -> None:
    """Whole vectors of blocks and what is left of a row; a NaN makes its row's factor NaN."""
    variant = Variant(isa, {"mxfp4": 32, "nvfp4": 16}[fmt])
    rng = np.random.default_rng(blocks)
    left = tensor_core.quantize_left(rng.standard_normal((50, blocks * variant.block)).astype(np.float32), BY_ROWS[fmt])
    left.scales[...] = np.resize(half_scales(fmt)[1:127], left.scales.shape)  # normal float32 numbers
    left.sums[...] = rng.integers(-1000, 1000, left.sums.shape)
    left.scales[7, blocks - 1] = left.scales[11, 0] = np.nan
    factors = np.ones(len(left.scales), np.float32)
    words = tensor_core._left_words(left, variant, factors)
    assert np.array_equal(np.nonzero(np.isnan(factors))[0], [7, 11])

    rows = words.transpose(0, 3, 1, 2).reshape(-1, blocks, 2)  # (rows, blocks, 2)
    if offset_of(variant):
        assert np.array_equal(rows[:, :, 0], -offset_of(variant) * left.sums.astype(np.int32))
    known = ~np.isnan(left.scales)
    given, found = left.scales[known], rows[:, :, 1][known]
    if words_of(variant) == "numbers":
        assert np.array_equal(found.view(np.float32), given)
    elif words_of(variant) == "exponents":
        assert np.array_equal(np.exp2(found.view(np.float32)), given)
    else:
        assert np.array_equal(product_table()[found // 64, 0], given * 128)
