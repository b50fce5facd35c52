"""Element formats against ml_dtypes and gfloat: every code, every bfloat16, every midpoint and its neighbours."""

from __future__ import annotations

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest

from vbw_np.formats import (
    BNB_FP4,
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    E8M0,
    INT4,
    NF4,
    UE4M3,
    DtypeError,
    FormatError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
    get_element,
    random_bits,
)

FLOATS = {
    E2M1: ml_dtypes.float4_e2m1fn,
    E2M3: ml_dtypes.float6_e2m3fn,
    E3M2: ml_dtypes.float6_e3m2fn,
    E4M3: ml_dtypes.float8_e4m3fn,
    E5M2: ml_dtypes.float8_e5m2,
    E8M0: ml_dtypes.float8_e8m0fnu,
}
GFLOAT = {
    E2M1: gfloat.formats.format_info_ocp_e2m1,
    E2M3: gfloat.formats.format_info_ocp_e2m3,
    E3M2: gfloat.formats.format_info_ocp_e3m2,
    E4M3: gfloat.formats.format_info_ocp_e4m3,
    E5M2: gfloat.formats.format_info_ocp_e5m2,
}
GFLOAT_MODES = {
    "even": gfloat.RoundMode.TiesToEven,
    "away": gfloat.RoundMode.TiesToAway,
}
IDS = {"ids": lambda e: e.name}


def all_bfloat16() -> np.ndarray:
    return (np.arange(65536, dtype=np.uint32) << 16).view(np.float32)


def midpoints_and_neighbours(element) -> np.ndarray:
    """Every midpoint (the overflow tie too), the float32 on either side of it, and the same below zero."""
    values = element.magnitudes.astype(np.float64)
    values = np.append(values, element._magnitude(element.max_code + 1))
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    below, above = np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))
    return np.concatenate([below, middle, above, -below, -middle, -above])


@pytest.mark.parametrize("element", FLOATS, **IDS)
def test_every_code_decodes_as_in_ml_dtypes(element):
    codes = element.codes
    wanted = codes.view(FLOATS[element]).astype(np.float32)
    decoded = element.decode(codes)
    np.testing.assert_array_equal(decoded, wanted)
    number = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(decoded[number]), np.signbit(wanted[number]))


@pytest.mark.parametrize("element", FLOATS, **IDS)
def test_encoding_agrees_with_ml_dtypes_on_every_bfloat16_and_midpoint(element):
    x = np.concatenate([all_bfloat16(), midpoints_and_neighbours(element)])
    if element.nan_code is None:
        x = x[~np.isnan(x)]
    if element is E8M0:
        # ml_dtypes sends every value above 2**-127 and below 2**-126 to 2**-126, the nearest or not: left out.
        x = x[~((x > 2.0**-127) & (x < 1.5 * 2.0**-127))]
    with np.errstate(all="ignore"):
        wanted = x.astype(FLOATS[element]).view(np.uint8)
    # ml_dtypes' E8M0 rounds halves up; its finite-only formats saturate, the others overflow to Inf or NaN.
    got = element.encode(x, "away" if element is E8M0 else "even", saturate=element.specials == "none")
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("ties", GFLOAT_MODES)
@pytest.mark.parametrize("element", GFLOAT, **IDS)
def test_saturating_encoding_agrees_with_gfloat(element, ties):
    info = GFLOAT[element]
    x = np.concatenate([all_bfloat16()[::97], midpoints_and_neighbours(element)])
    x = x[np.isfinite(x)]
    got = element.decode(element.encode(x, ties))
    wanted = [gfloat.round_float(info, float(v), GFLOAT_MODES[ties], sat=True) for v in x]
    np.testing.assert_array_equal(got, np.array(wanted, np.float32))


@pytest.mark.parametrize("element", FLOATS, **IDS)
def test_ties_go_where_their_name_says(element):
    values = element.magnitudes.astype(np.float64)
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    low = np.arange(len(middle))
    np.testing.assert_array_equal(element.encode(middle, "zero"), low)
    np.testing.assert_array_equal(element.encode(middle, "away"), low + 1)
    np.testing.assert_array_equal(element.encode(middle, "even"), low + low % 2)
    for ties in ("zero", "away", "even"):
        np.testing.assert_array_equal(element.encode(np.nextafter(middle, np.float32(0)), ties), low)
        np.testing.assert_array_equal(element.encode(np.nextafter(middle, np.float32(np.inf)), ties), low + 1)


@pytest.mark.parametrize("element", [*FLOATS, UE4M3, INT4, NF4, BNB_FP4], **IDS)
@pytest.mark.parametrize("ties", ["even", "zero", "away"])
def test_codes_survive_a_round_trip(element, ties):
    values = element.decode(element.codes)
    again = element.decode(
        element.encode(values, ties, saturate=element.inf_code is None)
        if hasattr(element, "inf_code")
        else element.encode(values, ties)
    )
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("element", [E2M1, E2M3, E3M2, E4M3, E5M2], **IDS)
@pytest.mark.parametrize("ties", ["even", "zero", "away"])
def test_encoding_is_monotone_and_within_half_a_step(element, ties):
    x = np.sort(all_bfloat16()[np.isfinite(all_bfloat16())])
    x = x[np.abs(x) <= element.max]
    decoded = element.decode(element.encode(x, ties)).astype(np.float64)
    assert (np.diff(decoded) >= 0).all()
    values = element.magnitudes.astype(np.float64)
    low = np.clip(np.searchsorted(values, np.abs(x), side="right") - 1, 0, len(values) - 2)
    assert (np.abs(decoded - x) <= (values[low + 1] - values[low]) / 2).all()


@pytest.mark.parametrize(
    ("rule", "codes"),
    [
        ("keep", [0, 8, 0, 8]),
        ("drop", [0, 0, 0, 8]),
        ("never", [0, 0, 0, 0]),
        ("negative", [8, 8, 0, 8]),
    ],
)
def test_signed_zero_rules(rule, codes):
    x = np.array([0.0, -0.0, 1e-6, -1e-6], np.float32)
    assert E2M1.encode(x, signed_zero=rule).tolist() == codes


def test_saturation():
    x = np.array([464, 465, np.inf, -np.inf, 448], np.float32)
    assert E4M3.encode(x).tolist() == [0x7E, 0x7E, 0x7E, 0xFE, 0x7E]
    assert E4M3.encode(x, saturate=False).tolist() == [0x7E, 0x7F, 0x7F, 0xFF, 0x7E]
    assert E5M2.encode(np.array([61439, 61440, -np.inf], np.float32), saturate=False).tolist() == [0x7B, 0x7C, 0xFC]
    with pytest.raises(FormatError, match="neither Inf nor NaN"):
        E2M1.encode(x, saturate=False)


def test_nan_needs_a_code():
    x = np.array([[0, 1], [np.nan, 2]], np.float32)
    with pytest.raises(NonFiniteError, match=r"x\[1, 0\] is NaN and e2m1"):
        E2M1.encode(x)
    assert E2M1.encode(x, nan_code=7).tolist() == [[0, 2], [7, 4]]
    assert E4M3.encode(np.array([np.nan, -np.nan], np.float32)).tolist() == [0x7F, 0xFF]


@pytest.mark.parametrize("element", [E2M1, E4M3], **IDS)
def test_stochastic_rounding_is_unbiased_and_moves_one_step_at_most(element):
    # 2**14 equidistributed uniforms: the empirical probability can miss the true one by 2**-14 only.
    draws = 1 << 14
    random = (np.arange(draws, dtype=np.uint32) << np.uint32(18)).reshape(draws, 1)
    x = np.concatenate([np.linspace(-element.max, element.max, 301), [0.0, 1e-4]]).astype(np.float32)[None]
    grid = np.broadcast_to(x, (draws, x.size)).copy()
    decoded = element.decode(element.encode(grid, "stochastic", random=np.broadcast_to(random, grid.shape).copy()))
    values = np.concatenate([-element.magnitudes[::-1], element.magnitudes]).astype(np.float64)
    step = np.diff(np.unique(values)).max()
    assert np.abs(decoded.mean(axis=0, dtype=np.float64) - x[0]).max() <= step * 2.0**-14
    assert (decoded.max(axis=0) >= x).all() and (decoded.min(axis=0) <= x).all()


def test_stochastic_8_bit_equals_the_truncated_fused_sum():
    x = np.repeat(np.linspace(0, 6.5, 1001).astype(np.float32), 256)
    r = np.tile(np.arange(256, dtype=np.uint32), 1001)
    got = E2M1.decode(E2M1.encode(x, "stochastic-8", random=r))
    step = np.where(x >= 4, 2.0, np.where(x >= 2, 1.0, 0.5))
    t = (x.astype(np.float64) + r / 256.0 * step).astype(np.float32).astype(np.float64)
    step = np.where(t >= 4, 2.0, np.where(t >= 2, 1.0, 0.5))
    np.testing.assert_array_equal(got, np.minimum(np.floor(t / step) * step, 6))
    # u < 1 makes the mean low, by at most step / 512 of the draw's own grid: 0.00390625 for a step of 2.
    inside = x <= 6
    bias = (got.astype(np.float64) - x)[inside].reshape(-1, 256).mean(axis=1)
    assert -0.0079 < bias.min() and bias.max() <= 1e-7


def test_random_bits_do_not_depend_on_the_slice():
    whole = random_bits((100, 37), seed=5, stream=3)
    from vbw_np.formats import hash_bits

    np.testing.assert_array_equal(hash_bits(5, 3, np.arange(1000, 2000)), whole.reshape(-1)[1000:2000])
    assert whole.dtype == np.uint32
    assert not np.array_equal(whole, random_bits((100, 37), seed=5, stream=4))
    assert abs(float(random_bits((1 << 18,), 1).astype(np.float64).mean()) / 2**31 - 1) < 0.005


@pytest.mark.parametrize("dtype", [np.int32, np.complex64, bool, object])
def test_dtypes_that_are_refused(dtype):
    with pytest.raises(DtypeError, match="formats take floating-point numbers"):
        E2M1.encode(np.ones(3, dtype))


def test_dtypes_that_are_converted():
    x = np.array([0.3, -2.6, 7], np.float32)
    for dtype in (np.float16, np.float64, ml_dtypes.bfloat16):
        np.testing.assert_array_equal(E2M1.encode(x.astype(dtype)), E2M1.encode(x.astype(dtype).astype(np.float32)))
    with pytest.raises(DtypeError, match="overflows float32"):
        E2M1.encode(np.array([1e300]))


def test_other_bad_input():
    x = np.zeros(4, np.float32)
    with pytest.raises(UnknownNameError, match="even"):
        E2M1.encode(x, "nearest")
    with pytest.raises(FormatError, match="random bits"):
        E2M1.encode(x, "stochastic")
    with pytest.raises(ShapeError, match=r"\(3,\)"):
        E2M1.encode(x, "stochastic", random=np.zeros(3, np.uint32))
    with pytest.raises(DtypeError, match="uint32"):
        E2M1.encode(x, "stochastic", random=np.zeros(4))
    with pytest.raises(FormatError, match="out of range"):
        E2M1.decode(np.array([3, 16], np.uint8))
    with pytest.raises(UnknownNameError, match="e4m3"):
        get_element("fp8")
