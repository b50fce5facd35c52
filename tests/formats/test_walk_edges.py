"""Every format at both ends of float32: what is finite stays finite, what is small keeps its precision."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.formats import E8M0, FORMATS, PROFILES, ScaleError, diagnose, quantize
from vbw_np.formats.commands import quantize_report
from vbw_np.formats.hadamard import SIGNS, hadamard_rotate
from vbw_np.kernels.fp4.quantize import quantize as fast_quantize

FLOAT32_MAX = float(np.finfo(np.float32).max)
OUR_OWN = [name for name, fmt in FORMATS.items() if fmt.rule.affine is None]  # the others are a producer's arithmetic
SCALED = [
    name
    for name, fmt in FORMATS.items()
    if name in OUR_OWN and not fmt.quantile_codebook
    and (fmt.tensor_level != "none" or fmt.rule.scale_element in (None, E8M0))  # other scales alone end somewhere
]  # fmt: skip


def lost_at_the_ends(name: str) -> float:
    """dB that a format may lose: IF4 squares errors in float32, as its authors do, and chooses no grid by Inf or 0."""
    return 1 if FORMATS[name].second is None else 2


def numbers(amax: float) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((32, 256)).astype(np.float32)
    x /= np.abs(x).max()
    x[0, 0], x[1, 0] = 1, -1
    return x * np.float32(amax)


@pytest.mark.parametrize("amax", [2.55e38, 2.98e38, 3.19e38, 3.4e38, FLOAT32_MAX])
@pytest.mark.parametrize("name", OUR_OWN)
def test_finite_numbers_stay_finite(name: str, amax: float) -> None:
    x = numbers(amax)
    packed = quantize(x, name)
    assert np.isfinite(packed.dequantize()).all()
    fast = fast_quantize(x, name)
    np.testing.assert_array_equal(fast.codes, packed.codes)
    np.testing.assert_array_equal(fast.scales, packed.scales)
    if name in SCALED:
        assert packed.sqnr_db > quantize(numbers(1), name).sqnr_db - lost_at_the_ends(name)


@pytest.mark.parametrize("name", SCALED)
def test_small_numbers_keep_their_precision(name: str) -> None:
    """Down to where float32's own subnormals are coarser than the format: nvfp4 had 0.07 dB at 1e-37."""
    assert quantize(numbers(1e-36), name).sqnr_db > quantize(numbers(1), name).sqnr_db - lost_at_the_ends(name)
    assert quantize(numbers(1e-37), name).sqnr_db > min(quantize(numbers(1), name).sqnr_db, 20) - 3


def test_a_producers_profile_stays_as_it_is_and_the_report_tells() -> None:
    x = numbers(2.98e38)
    lost = quantize(x, "mxfp4", profile="torchao-0.18-ceil", measure=False)
    overflowed = np.isinf(lost.dequantize())
    assert overflowed.any()
    report = quantize_report(x, lost, detailed=True)
    assert report["values_overflowed"] == overflowed.sum() and report["largest_error"] == np.inf
    assert report["sqnr_db"] == -np.inf
    assert quantize(numbers(1e-37), "nvfp4", profile="te-nvfp4").sqnr_db < 1 < quantize(numbers(1e-37), "nvfp4").sqnr_db
    for name, profile in PROFILES.items():
        if profile.format.rule.numbers is not None and profile.format.rule.two_level:
            level = np.float32(np.abs(numbers(1e-37)).max()) / np.float32(profile.format.rule.range)
            assert quantize(numbers(1e-37), profile.format).tensor_scale == level > 0, f"{name}: not its producer's"


EVERY = {**FORMATS, **{name: profile.format for name, profile in PROFILES.items()}}
SUBNORMAL = (np.random.default_rng(0).integers(-4000, 4000, (16, 256)) * 2.0**-149).astype(np.float32)
TENSORS = {
    "zeros": np.zeros((16, 256), np.float32),
    "negative zeros": -np.zeros((16, 256), np.float32),
    "subnormal": SUBNORMAL,
    "the least": np.full((16, 256), 2.0**-149, np.float32),
    "the largest": np.full((16, 256), FLOAT32_MAX, np.float32),
    "the lowest": np.full((16, 256), -FLOAT32_MAX, np.float32),
    "the largest among ones": np.where(np.arange(4096).reshape(16, 256) == 77, np.float32(FLOAT32_MAX), np.float32(1)),
    "one element": np.full((1, 1), 0.3, np.float32),
    "one zero": np.zeros((1, 1), np.float32),
    "one subnormal": np.full((1, 1), 1e-44, np.float32),
    "one of the largest": np.full((1, 1), FLOAT32_MAX, np.float32),
}
NAN_OF_ZEROS = {"torchao-0.18-nvfp4": ("zeros", "negative zeros", "one zero", "the least"),
                "modelopt-nvfp4": ("zeros", "negative zeros", "one zero"),
                **dict.fromkeys(("q4_k", "ggml-q4_k"), ("the largest among ones",)),
                **dict.fromkeys(("iq4_nl", "ggml-iq4_nl"), ("the largest", "the lowest", "the largest among ones",
                                                            "one of the largest"))}  # fmt: skip
"""What libraries make NaN scales of: 0 / 0 under a tensor scale of 0, a float16 scale of Inf times 0, Inf / Inf in a
sum of squares (golden arrays: `tests/oracles`)."""


@pytest.mark.parametrize("tensor", TENSORS)
def test_every_format_and_profile_at_the_edges(tensor: str) -> None:
    """Quantized, measured, explained and diagnosed, or refused with advice that works; never a bare exception."""
    x = TENSORS[tensor]
    for name, fmt in EVERY.items():
        nonfinite = "raise"
        if tensor in NAN_OF_ZEROS.get(name, ()):
            with pytest.raises(ScaleError, match=f"^{name} makes NaN of a block that is finite.*nonfinite='producer'"):
                quantize(x, fmt)
            nonfinite = "producer"
        packed = quantize(x, fmt, nonfinite=nonfinite)
        report = quantize_report(x, packed, detailed=True)
        decoded = packed.dequantize()
        lost = int((~np.isfinite(decoded)).sum())
        assert report.get("values_overflowed", 0) == lost, f"{name}: what is no longer finite is told"
        assert packed.explain(0, 0, x=x).data["decoded"] == decoded[0, 0] or np.isnan(decoded[0, 0]), name
        assert diagnose(packed, packed, x).names == (), name
        if "zero" in tensor and nonfinite == "raise" and name != "modelopt-fp8-tensor":  # whose library makes NaN too
            assert not packed.coarse().dequantize().any(), name  # a nested cell has a middle, which is not 0
            assert report["sqnr_db"] == np.inf or decoded.any(), name


def test_largest_numbers_are_mapped_where_the_element_ends() -> None:
    """2.98e38 under the rules that round up: 6 * 2**125, or 7 * 2**125 for INT4."""
    x = np.full((1, 32), 2.98e38, np.float32)
    for name in ("mxfp4-even", "mxfp4-ceil", "mxfp4-rceil"):
        assert (quantize(x, name).dequantize() == np.float32(6 * 2.0**125)).all()
    assert (quantize(x, "mxint4").dequantize() == np.float32(7 * 2.0**125)).all()


def test_a_rotation_overflows_only_where_its_result_does() -> None:
    for points in (16, 32, 128):
        signs = np.ones(points, np.float32)
        one = np.zeros((1, points), np.float32)
        one[0, 3] = FLOAT32_MAX
        rotated = hadamard_rotate(one, signs)
        np.testing.assert_allclose(np.abs(rotated), FLOAT32_MAX * points**-0.5, rtol=1e-6)
        fits = hadamard_rotate(np.full((1, points), np.float32(0.9 * FLOAT32_MAX * points**-0.5)), signs)
        assert np.isfinite(fits).all() and fits[0, 0] > 0.89 * FLOAT32_MAX
    largest = hadamard_rotate(np.full((1, 16), np.float32(3e38)))
    exact = np.array([[(-1) ** (i & j).bit_count() for i in range(16)] for j in range(16)]) @ SIGNS / 4 * 3e38
    np.testing.assert_array_equal(np.isinf(largest[0]), np.abs(exact) > FLOAT32_MAX)
    assert not np.isnan(largest).any()
