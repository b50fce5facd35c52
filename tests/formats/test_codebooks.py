"""Codebooks, double quantization and the 8 x 8 quantizer."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.formats import (
    BNB_FP4,
    NF4,
    FormatError,
    NonFiniteError,
    ShapeError,
    codebook_format,
    lloyd_max_normal,
    lloyd_max_samples,
    normal_float_levels,
    quantize,
    relative_mse,
)
from vbw_np.formats.codebooks import NF4_LEVELS, normal_mse
from vbw_np.formats.double_quant import double_quantize, dynamic_map, with_double_quantized_scales
from vbw_np.formats.orthogonal import is_near_orthogonal, nearest_orthogonal, quantize_orthogonal
from vbw_np.formats.random_bits import standard_normal


def test_nf4_table_is_its_quantiles():
    assert np.abs(normal_float_levels() - np.array(NF4_LEVELS)).max() < 1.5e-7
    assert NF4.decode(np.arange(16))[7] == 0 and NF4.max == 1


def test_nf4_cuts_are_the_midpoints_and_go_down():
    middle = (NF4.table[1:].astype(np.float64) + NF4.table[:-1]) / 2
    np.testing.assert_allclose(NF4.cuts, middle, atol=3e-8)
    cuts = np.array(NF4.cuts, np.float32)
    np.testing.assert_array_equal(NF4.encode(cuts), np.arange(15))
    np.testing.assert_array_equal(NF4.encode(np.nextafter(cuts, np.float32(2))), np.arange(1, 16))


def test_bnb_fp4_is_not_e2m1():
    table = BNB_FP4.decode(np.arange(16)) * 12
    np.testing.assert_allclose(table[:8], [0, 0.0625, 8, 12, 4, 6, 2, 3], rtol=1e-6)
    assert BNB_FP4.encode(np.array([0.5, -0.5, 0.0], np.float32)).tolist() == [5, 13, 0]


@pytest.mark.parametrize(
    ("levels", "mse"), [(2, 0.36338), (4, 0.117482), (8, 0.034548), (16, 0.009501), (32, 0.002505)]
)
def test_lloyd_max_of_the_normal_distribution(levels, mse):
    y, found = lloyd_max_normal(levels, tolerance=1e-10)
    assert found == pytest.approx(mse, abs=1e-6)
    np.testing.assert_allclose(y, -y[::-1], atol=1e-6)
    assert normal_mse(y * 1.001, (y[1:] + y[:-1]) / 2 * 1.001) > found


def test_lloyd_max_of_samples_approaches_the_distribution():
    x = standard_normal((1 << 18,), seed=1)
    y = lloyd_max_samples(x, 8, steps=300)
    np.testing.assert_allclose(y, lloyd_max_normal(8)[0], atol=0.02)
    assert relative_mse(x, y[np.abs(x[:, None] - y).argmin(axis=1)]) == pytest.approx(0.034548, rel=0.02)
    with pytest.raises(FormatError, match="at least 16"):
        lloyd_max_samples(x[:8], 16)
    with pytest.raises(FormatError, match="at least one"):
        lloyd_max_normal(0)


def test_a_codebook_of_ones_own():
    x = standard_normal((256, 256), seed=8)
    blocks = x.reshape(-1, 64)
    levels = lloyd_max_samples(blocks / np.abs(blocks).max(axis=1, keepdims=True), 16)
    fmt = codebook_format("lloyd", levels)
    packed = quantize(x, fmt)
    assert packed.bits_per_value == 4.5
    assert relative_mse(x, packed.dequantize()) < 0.98 * relative_mse(x, quantize(x, "nf4").dequantize())
    for bad in ([1.0], np.linspace(0, 1, 17), [0.0, 0.0, 1.0], [0.0, np.inf]):
        with pytest.raises(FormatError, match="levels"):
            codebook_format("bad", bad)


def test_double_quantization():
    packed = quantize(standard_normal((256, 512), seed=2), "nf4")
    doubled, nested = with_double_quantized_scales(packed)
    np.testing.assert_allclose(doubled.scales, packed.scales, atol=0.012 * nested.absmax.max())
    assert 8 * nested.nbytes / packed.size == pytest.approx(8 / 64 + 32 / (64 * 256), abs=1e-3)
    assert len(dynamic_map()) == 256 and (np.diff(dynamic_map()) > 0).all()
    constant = double_quantize(np.full((4, 8), 2.5, np.float32))
    np.testing.assert_array_equal(constant.dequantize(), np.full((4, 8), 2.5, np.float32))
    with pytest.raises(FormatError, match="8-bit scales already"):
        with_double_quantized_scales(quantize(np.ones((2, 32), np.float32), "nvfp4"))
    with pytest.raises(FormatError, match="finite"):
        double_quantize(np.array([np.inf], np.float32))


def test_orthogonal_blocks_are_found_and_replaced():
    rotation = nearest_orthogonal(standard_normal((8, 8), seed=3))
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(8), atol=1e-6)
    w = standard_normal((16, 24), seed=4)
    w[:8, 8:16] = rotation + np.float32(0.01) * standard_normal((8, 8), seed=5)
    w[8:, 16:] = rotation * np.float32(1.2)  # far from orthogonal
    w[8:, :8] = 0
    packed = quantize_orthogonal(w)
    assert packed.count == 1 and packed.orthogonal[0, 1]
    scale = np.repeat(np.repeat(packed.scales, 8, 0), 8, 1)
    target = w.copy()
    target[:8, 8:16] = nearest_orthogonal(w[:8, 8:16])
    assert (np.abs(packed.dequantize() - target) <= scale / 2 * (1 + 1e-5)).all()
    assert not packed.dequantize()[8:, :8].any()
    assert packed.bits_per_value == 8 * (16 * 12 + 6 * 4) / (16 * 24)
    assert "1 of 6" in repr(packed)


def test_the_test_of_orthogonality():
    eye = np.eye(8, dtype=np.float32)
    blocks = np.stack([eye, eye * 1.05, eye * 1.06, np.zeros((8, 8), np.float32)])
    # ||B'B - I|| of c * I is sqrt(8) * |c**2 - 1|: 0.290 at 1.05, 0.350 at 1.06.
    assert is_near_orthogonal(blocks).tolist() == [True, True, False, False]


def test_orthogonal_shapes():
    w = standard_normal((13, 9), seed=6)
    packed = quantize_orthogonal(w)
    assert packed.dequantize().shape == (13, 9) and packed.codes.shape == (13, 5)
    assert relative_mse(w, packed.dequantize()) < 0.02
    with pytest.raises(ShapeError, match="matrix"):
        quantize_orthogonal(w[0])
    w[2, 3] = np.nan
    with pytest.raises(NonFiniteError):
        quantize_orthogonal(w)


@pytest.mark.parametrize("ties", ["down", "even", "zero", "away"])
@pytest.mark.parametrize("element", [NF4, BNB_FP4], ids=["nf4", "bnb-fp4"])
def test_every_tie_rule_at_a_producers_own_cuts(element, ties):
    """Exactly on a cut, and the float32 numbers beside it: a tie rule that is named is kept to."""
    for cut, low, high in zip(np.float32(element.cuts), element.order[:-1], element.order[1:], strict=True):
        up = {"down": False, "even": high % 2 == 0, "zero": cut < 0, "away": cut >= 0}[ties]
        beside = np.nextafter(cut, np.float32([-9, 9]))
        assert element.encode(np.array([beside[0], cut, beside[1]]), ties).tolist() == [low, high if up else low, high]
