"""UE5M3 scales and IF4: the bytes of others, definitions by hand, what each is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vbw_np.definitions.support import family
from vbw_np.definitions.support import rule as kernel_rule
from vbw_np.formats import E4M3, FORMATS, get_element, quantize
from vbw_np.formats.random_bits import standard_normal

IF4 = np.load(Path(__file__).parents[1] / "oracles" / "if4.npz")
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def test_ue5m3_is_e4m3s_precision_over_e5m2s_range() -> None:
    """Of AMD's ALTO: bias 15, subnormals m/8 * 2**-14, 0xFE is 114,688, 0xFF NaN; no sign."""
    element = get_element("ue5m3")
    wanted = [(m / 8) * 2.0**-14 if e == 0 else (1 + m / 8) * 2.0 ** (e - 15) for e in range(32) for m in range(8)]
    np.testing.assert_array_equal(element.table[:255], np.array(wanted[:255], np.float32))
    assert np.isnan(element.table[255]) and element.max == 114688 and element.smallest == 2.0**-17
    grid = element.table[:255]
    np.testing.assert_array_equal(element.encode(grid), np.arange(255))
    middle = (grid[:-1].astype(np.float64) + grid[1:]) / 2
    assert (element.encode(middle.astype(np.float32)) % 2 == 0).all()  # ties to even


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_ue5m3_needs_no_tensor_scale(size: float) -> None:
    """Within its range the scales of a tensor do not depend on how large it is; E4M3's alone do."""
    x = standard_normal((64, 256), seed=1) * np.float32(size)
    alone, two = quantize(x, "fp4-ue5m3"), quantize(x, "nvfp4")
    assert alone.tensor_scale is None and alone.nbytes == two.nbytes - 4
    assert abs(alone.sqnr_db - two.sqnr_db) < 0.1
    if size != 1:
        assert quantize(x, "nvfp4-1level").sqnr_db < two.sqnr_db - 1


def test_a_ue5m3_block_by_hand() -> None:
    packed = quantize(np.array([[3.1, -0.7, 0.2, 1.0]], np.float32), "fp4-ue5m3")
    scale = 0.5  # 3.1 / 6 = 0.5167, nearest of 0.5 and 0.5625
    assert packed.decoded_scales()[0, 0] == scale and packed.scales[0, 0] == (15 - 1) << 3
    np.testing.assert_array_equal(packed.dequantize(), np.array([[6, -1.5, 0.5, 2]]) * scale)


@pytest.mark.parametrize("name", ["if4", "if4-16x16"])
def test_if4_is_its_authors_in_every_bit(name: str) -> None:
    packed = quantize(IF4["x"], name, measure=False)
    np.testing.assert_array_equal(packed.scales, IF4[f"{name}/scales"])
    np.testing.assert_array_equal(packed.codes, IF4[f"{name}/codes"])
    assert packed.stored_scale == IF4["amax"]
    taken = (packed.scales > 127).any(), (packed.scales < 128).any()
    assert all(taken)  # both grids occur


@pytest.mark.parametrize("name", ["if4", "if4-16x16", "if4-row"])
def test_if4_decodes_by_its_definition(name: str) -> None:
    """Value by value: E2M1, or two's complement times 6/7, as the scale's sign bit says; times its other seven bits."""
    packed = quantize(IF4["x"], name, measure=False)
    codes, decoded = packed.unpacked_codes(), packed.dequantize()
    for i in range(0, 48, 5):
        level = np.float32(np.asarray(packed.tensor_scale).reshape(-1)[i if name == "if4-row" else 0])
        for j in range(0, 128, 3):
            code, scale = int(codes[i, j]), int(packed.scales[i, j // 16])
            integer = (code - 16 if code > 7 else code) * 6 / 7
            value = integer if scale & 128 else E2M1[code & 7] * (-1 if code > 7 else 1)
            assert decoded[i, j] == (np.float32(value) * E4M3.table[scale & 127]) * level
            explained = packed.explain(i, j, x=IF4["x"])
            assert explained.data["decoded"] == decoded[i, j]
            assert explained.data["grid"] == ("int4-to-6" if scale & 128 else "e2m1")


def test_if4_errs_less_than_either_grid_alone() -> None:
    x = standard_normal((256, 256), seed=2)
    error = {name: -quantize(x, name).sqnr_db for name in ("if4", "nvfp4", "int4-e4m3")}
    assert error["if4"] < min(error["nvfp4"], error["int4-e4m3"]) - 0.5


def test_stochastic_rounding_is_unbiased_in_either_grid() -> None:
    """Where no block is cut off at its largest element, the mean of 400 draws lies within its sampling error."""
    x = standard_normal((8, 64), seed=3)
    x[:, ::16] = 6 * np.sign(x[:, ::16])  # amax 6: scales of exactly 1 and elements within the grids
    draws = np.stack([quantize(x, "if4", ties="stochastic", seed=s, measure=False).dequantize() for s in range(400)])
    error = draws.mean(axis=0) - x
    step = 2.0  # the widest of either grid
    assert np.abs(error).max() < 5 * (step / 2) / 20


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if "ue5m3" in name or fmt.second is not None])
def test_no_kernel_takes_them_for_nvfp4(name: str) -> None:
    """Their elements are E2M1 in blocks of 16, as NVFP4's are; what a kernel does not know, NumPy computes."""
    assert family(FORMATS[name]).kernel is None and kernel_rule(FORMATS[name]).kernel is None
