"""Quantize, pack and decode: every format, every shape, reuse, tiers, policies, bad input."""

from __future__ import annotations

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbw_np.formats import (
    E2M1,
    E4M3,
    E8M0,
    FORMATS,
    INT4,
    PROFILES,
    TIES,
    DtypeError,
    FittedScales,
    FormatError,
    NonFiniteError,
    PackedTensor,
    ScaleError,
    ShapeError,
    UnknownNameError,
    encode,
    fit_scales,
    get_format,
    get_profile,
    quantize,
    random_bits,
    relative_mse,
    sqnr_db,
)
from vbw_np.formats.blocks import apply_options
from vbw_np.formats.codec import block_amax, nested_cells
from vbw_np.formats.packed import nested_edges
from vbw_np.formats.random_bits import standard_normal

ALL = [*FORMATS.values(), *(p.format for p in PROFILES.values())]
NAMED = {"ids": lambda f: f.name}


def normal(*shape: int, stream: int = 0) -> np.ndarray:
    return standard_normal(shape, seed=11, stream=stream)


def lossy(fmt) -> float:
    """An upper bound of the relative error on Gaussian data that any use of the format must keep."""
    return 0.012 if fmt.fine else 0.04


@pytest.mark.parametrize("fmt", ALL, **NAMED)
@pytest.mark.parametrize("shape", [(32, 64), (33, 50), (17,), (2, 3, 40), (1, 1), (2, 2, 16, 32), (5, 129)])
def test_any_shape_packs_and_decodes(fmt, shape):
    if fmt.block_rows > 1 and len(shape) == 1:
        with pytest.raises(ShapeError, match=f"{fmt.block_rows} rows"):
            quantize(np.ones(shape, np.float32), fmt)
        return
    x = normal(*shape)
    packed = quantize(x, fmt)
    decoded = packed.dequantize()
    assert decoded.shape == x.shape and decoded.dtype == np.float32 and decoded.flags.c_contiguous
    length = x.size if fmt.flat else shape[-1]
    lead = () if fmt.flat else shape[:-1]
    assert packed.codes.dtype == np.uint8 and packed.codes.shape == (*lead, -(-length * fmt.code_bits // 8))
    assert packed.scales.shape == (*lead, fmt.blocks(length))
    assert packed.bits_per_value == 8 * packed.nbytes / x.size
    if x.size > 100:
        assert relative_mse(x, decoded) < lossy(fmt)
        assert packed.sqnr_db == sqnr_db(x, decoded)


@pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if not f.quantile_codebook], **NAMED)
def test_ragged_blocks_equal_zero_padding(fmt):
    x = normal(3, 50)
    block = fmt.block_length(50)
    padded = np.zeros((3, -(-50 // block) * block), np.float32)
    padded[:, :50] = x
    ragged, whole = quantize(x, fmt), quantize(padded, fmt)
    np.testing.assert_array_equal(ragged.scales, whole.scales)
    np.testing.assert_array_equal(ragged.dequantize(), whole.dequantize()[:, :50])


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "fp4-row", "nf4", "int4-g32", "nvfp4-row-scaled"])
def test_leading_axes_are_rows(name):
    x = normal(2, 3, 5, 64)
    flat = quantize(x.reshape(30, 64), name)
    np.testing.assert_array_equal(quantize(x, name).dequantize().reshape(30, 64), flat.dequantize())


def test_row_scaled_rows_are_independent():
    x = normal(4, 64)
    before = quantize(x, "nvfp4-row-scaled").dequantize()
    x[3] *= 1000
    np.testing.assert_array_equal(quantize(x, "nvfp4-row-scaled").dequantize()[:3], before[:3])


@pytest.mark.parametrize("fmt", ALL, **NAMED)
def test_zeros_decode_to_zeros(fmt):
    packed = quantize(np.zeros((16, 32), np.float32), fmt, nonfinite="producer")
    if fmt.name in ("torchao-0.18-nvfp4", "modelopt-nvfp4", "modelopt-fp8-tensor"):
        assert np.isnan(packed.dequantize()).all()  # what the libraries do with an all-zero tensor
    elif fmt.name == "mxfp4-nested":  # the cell's centre, times the least scale
        assert (packed.dequantize() == np.float32(2.0**-127 * 0.015625)).all()
    else:
        assert not packed.dequantize().any()


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "mxfp4-rceil", "nvfp4-1level", "nvfp4-headroom", "fp4-row", "nf4"])
def test_decoded_values_are_fixed_points(name):
    x = normal(8, 256)
    once = quantize(x, name)
    again = encode(once.dequantize(), name, FittedScales.of(once))
    np.testing.assert_array_equal(again.codes & 0x77, once.codes & 0x77)  # but for the sign of zero
    np.testing.assert_array_equal(again.dequantize(), once.dequantize())


@pytest.mark.parametrize("fmt", ALL, **NAMED)
def test_encode_with_fitted_scales_is_quantize(fmt):
    x = normal(16, 64)
    whole = quantize(x, fmt)
    halves = encode(x, fmt, fit_scales(x, fmt))
    np.testing.assert_array_equal(whole.codes, halves.codes)
    np.testing.assert_array_equal(whole.dequantize(), halves.dequantize())
    reused = quantize(x, fmt, reuse=whole)
    if fmt.rule.affine is not None:  # these encode with a scale that is rounded only after, to be stored
        assert np.mean(reused.unpacked_codes() != whole.unpacked_codes()) < 0.01
        return
    np.testing.assert_array_equal(reused.codes, whole.codes)
    np.testing.assert_array_equal(reused.dequantize(), whole.dequantize())


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "nvfp4-nested", "seed-v6", "int4-row"])
def test_stale_scales_saturate(name):
    x = normal(16, 64)
    old = quantize(x, name)
    moved = x * np.float32(1.05)
    stale = quantize(moved, name, reuse=old)
    np.testing.assert_array_equal(stale.scales, old.scales)
    assert stale.format is old.format
    assert relative_mse(moved, stale.dequantize()) < 0.03
    far = quantize(x * np.float32(100), name, reuse=old).dequantize()
    assert np.isfinite(far).all() and np.abs(far).max() <= np.abs(old.dequantize()).max() * 2.5


def test_reuse_of_another_shape_is_refused():
    scales = fit_scales(normal(4, 64), "nvfp4")
    with pytest.raises(ShapeError, match="fitted to"):
        encode(normal(4, 32), "nvfp4", scales)
    with pytest.raises(DtypeError, match="float32"):
        encode(normal(4, 64), "fp4-g16", scales)


def test_e8m0_scale_rules_at_their_turning_points():
    amax = np.array([1.0, 1.4, 1.5, 1.75, 1.9, 3.0, 3.0001, 3.5, 5.9, 6.0, 6.0001, 7.0, 2.0**-126], np.float32)
    x = np.zeros((len(amax), 32), np.float32)
    x[:, 0] = amax
    wanted = {
        "mxfp4": [125, 125, 125, 125, 125, 126, 126, 126, 127, 127, 127, 127, 0],
        "mxfp4-even": [125, 125, 125, 126, 126, 126, 126, 127, 127, 127, 127, 128, 0],
        "mxfp4-ceil": [125, 126, 126, 126, 126, 127, 127, 127, 128, 128, 128, 128, 0],
        "mxfp4-rceil": [125, 125, 125, 126, 126, 126, 127, 127, 127, 127, 128, 128, 0],
    }
    for name, codes in wanted.items():
        np.testing.assert_array_equal(quantize(x, name).scales[:, 0], codes, name)


def test_rceil_never_clips_and_its_scale_is_the_least_such():
    x = normal(512, 32) * np.exp2(np.arange(512) % 40 - 20).astype(np.float32)[:, None]
    packed = quantize(x, "mxfp4-rceil")
    scale = packed.decoded_scales()[:, 0].astype(np.float64)
    amax = np.abs(x).max(axis=1)
    assert (amax / np.float32(6) <= scale).all() and (amax / np.float32(6) > scale / 2).all()


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "nvfp4-1level", "fp4-row", "int4-row", "int4-g32"])
def test_error_stays_within_half_a_step_of_the_scale(name):
    x = normal(64, 128)
    packed = quantize(x, name)
    scale = np.repeat(packed.decoded_scales(), packed.format.block_length(128), axis=1)[:, :128]
    scale = scale * (packed.tensor_scale if packed.tensor_scale is not None else 1)
    half = 0.5 if packed.format.element is INT4 else 1.0  # the widest step of E2M1 is 2
    clip = 2.0 if name == "mxfp4" else 1.0  # the floor rule lets amax reach 8 scales
    assert (np.abs(packed.dequantize() - x) <= half * clip * scale * (1 + 1e-6)).all()


# ---- two tiers


def test_nested_tier_table_of_the_project():
    x = normal(1024, 1024)
    packed = quantize(x, "nvfp4-nested", measure=False)
    found = [sqnr_db(x, packed.dequantize(k)) for k in range(5)]
    np.testing.assert_allclose(found, [20.44, 26.92, 32.82, 38.73, 44.76], atol=0.03)
    assert packed.format.bits == 8.5


def test_nested_cells_hold_their_quotients():
    q = np.linspace(-7, 7, 20001).astype(np.float32)
    codes = E2M1.encode(q, signed_zero="never")
    cell = nested_cells(q, codes, 6.375)
    low, width = nested_edges(6.375)
    m = codes & 7
    a = np.where(m == 0, q, np.abs(q)).astype(np.float64)
    start = low[m] + cell * (width[m].astype(np.float64) / 16)
    inside = np.abs(q) <= 6.375
    assert (a[inside] >= start[inside]).all()
    assert (a[inside] <= (start + width[m].astype(np.float64) / 16)[inside]).all()
    assert (cell[np.abs(q) > 6.375] == 15).all()


def test_planes_are_progressive_and_truncation_is_masking():
    x = normal(8, 64)
    packed = quantize(x, "nvfp4-nested")
    for planes in range(5):
        cut = packed.with_planes(planes)
        assert cut.planes == planes
        np.testing.assert_array_equal(cut.dequantize(), packed.dequantize(planes))
    assert packed.coarse().fine is None
    np.testing.assert_array_equal(packed.coarse().dequantize(), packed.dequantize(0))
    sizes = [packed.with_planes(k).nbytes for k in range(5)]
    np.testing.assert_array_equal(np.diff(sizes), 8 * 8)
    plain = quantize(x, "nvfp4")
    np.testing.assert_array_equal(packed.coarse().dequantize(), plain.dequantize())
    with pytest.raises(FormatError, match="bit planes asked for"):
        packed.with_planes(2).dequantize(3)
    with pytest.raises(FormatError, match="not progressive"):
        quantize(x, "nvfp4-own").dequantize(2)


@pytest.mark.parametrize(
    ("name", "db"), [("nvfp4-tied7", 36.44), ("nvfp4-tied8", 37.75), ("nvfp4-own", 40.65), ("nvfp4-own-e4m3", 40.54)]
)
def test_other_fine_tiers(name, db):
    packed = quantize(normal(1024, 1024), name, measure=True)
    assert abs(packed.sqnr_db - db) < 0.1


def test_seed_v6_follows_its_description():
    w = normal(12, 40)
    packed = quantize(w, "seed-v6")
    ordered = np.sort(np.abs(w), axis=None)
    book = np.array([ordered[i * w.size // 16] for i in range(16)])
    np.testing.assert_array_equal(packed.codebook, book)
    coarse = np.empty_like(w)
    for index, value in np.ndenumerate(w):
        level = max([b for b in book if b <= abs(value)])
        coarse[index] = -level if value < 0 else level
    np.testing.assert_array_equal(packed.dequantize(0), coarse)
    residual = w - coarse
    s = np.abs(residual).max(axis=1, keepdims=True) / np.float32(7.5)
    fine = np.clip(np.rint(residual / s), -7, 7).astype(np.float32)
    np.testing.assert_array_equal(packed.dequantize(), coarse + fine * s)
    # codes, signs, fine codes, one scale a row, the codebook
    assert packed.nbytes == 12 * 20 + 12 * 5 + 12 * 20 + 12 * 4 + 16 * 4
    assert packed.coarse().nbytes == 12 * 20 + 12 * 5 + 16 * 4
    again = quantize(w * np.float32(0.5), "seed-v6", reuse=packed)
    np.testing.assert_array_equal(again.codebook, packed.codebook)


# ---- stochastic rounding


def test_stochastic_rounding_in_a_block_format_is_unbiased_with_headroom():
    x, draws = normal(4, 64), 400
    total = np.zeros(x.shape)
    for draw in range(draws):
        total += quantize(x, "nvfp4-headroom", ties="stochastic", seed=5, stream=draw, measure=False).dequantize()
    mean = total / draws
    scale = np.repeat(quantize(x, "nvfp4-headroom").decoded_scales(), 16, axis=1) * float(
        quantize(x, "nvfp4-headroom").tensor_scale
    )
    # A step is at most two scales, so a mean of n draws has a standard deviation of at most scale / sqrt(n).
    assert (np.abs(mean - x) < 4.5 * scale / np.sqrt(draws)).all()


def test_stochastic_bits_come_from_the_flat_index():
    x = normal(6, 32)
    by_seed = quantize(x, "nvfp4", ties="stochastic", seed=9, stream=2)
    by_bits = quantize(x, "nvfp4", ties="stochastic", random=random_bits((6, 32), 9, 2))
    np.testing.assert_array_equal(by_seed.codes, by_bits.codes)
    with pytest.raises(FormatError, match="random bits"):
        quantize(x, "nvfp4", ties="stochastic")
    with pytest.raises(FormatError, match="one tier"):
        quantize(x, "nvfp4-nested", ties="stochastic", seed=1)


# ---- four over six, tiles


def test_four_over_six_takes_the_better_block_and_never_loses():
    x = normal(64, 256)
    base = replace(FORMATS["nvfp4-4over6"], four_over_six="off")
    plain, best = quantize(x, base), quantize(x, "nvfp4-4over6")
    err = [np.square(x - p.dequantize()).reshape(-1, 16).sum(axis=1) for p in (plain, best)]
    assert (err[1] <= err[0] * (1 + 1e-5)).all()
    changed = (plain.scales != best.scales).mean()
    assert 0.4 < changed < 0.5
    with pytest.raises(FormatError, match="four-over-six"):
        fit_scales(x, replace(FORMATS["mxfp4"], four_over_six="mse"))


def test_tiles_share_one_scale_and_a_transpose_keeps_it():
    x = normal(48, 64)
    packed = quantize(x, "nvfp4-16x16")
    tiles = packed.scales.reshape(3, 16, 4)
    assert (tiles == tiles[:, :1]).all()
    amax = block_amax(x, packed.format)
    assert amax[20, 2] == np.abs(x[16:32, 32:48]).max()
    # Weights quantized in tiles and transposed are the transposed weights quantized: forward and backward agree.
    other = quantize(np.ascontiguousarray(x.T), "nvfp4-16x16")
    np.testing.assert_array_equal(other.dequantize().T, packed.dequantize())


# ---- non-finite input, bad input


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_policies(value):
    x = normal(4, 64)
    clean = quantize(x, "nvfp4").dequantize()
    x[2, 20] = value
    with pytest.raises(NonFiniteError, match=r"x\[2, 20\] is"):
        quantize(x, "nvfp4")
    decoded = quantize(x, "nvfp4", nonfinite="propagate").dequantize()
    assert np.isnan(decoded[2, 16:32]).all() and np.isnan(decoded).sum() == 16
    assert np.isfinite(clean).all()
    for name in ("mxfp4", "fp4-row", "nf4", "int4-g32"):
        bad = np.isnan(quantize(x, name, nonfinite="propagate").dequantize())
        assert bad[2, 20] and not bad[[0, 1, 3]].any()
    with pytest.raises(NonFiniteError, match="no policy but raise"):
        quantize(x, "nvfp4-nested", nonfinite="propagate")
    with pytest.raises(UnknownNameError, match="propagate"):
        quantize(x, "nvfp4", nonfinite="ignore")


def test_unknown_names_list_the_known_ones():
    for call in (lambda: get_format("fp5"), lambda: quantize(np.ones(4, np.float32), "fp5")):
        with pytest.raises(UnknownNameError, match="nvfp4"):
            call()
    with pytest.raises(UnknownNameError, match="te-nvfp4"):
        get_profile("te")
    with pytest.raises(FormatError, match="not of mxfp4"):
        quantize(np.ones(32, np.float32), "mxfp4", profile="te-nvfp4")


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.complex128, bool])
def test_dtypes_refused(dtype):
    with pytest.raises(DtypeError, match="astype"):
        quantize(np.ones((2, 16), dtype), "nvfp4")


def test_dtypes_converted():
    x = normal(4, 32)
    for dtype in (np.float16, np.float64, ml_dtypes.bfloat16):
        a, b = quantize(x.astype(dtype), "nvfp4"), quantize(x.astype(dtype).astype(np.float32), "nvfp4")
        np.testing.assert_array_equal(a.codes, b.codes)
    np.testing.assert_array_equal(quantize(list(map(float, x[0])), "nvfp4").codes, quantize(x[0], "nvfp4").codes)


@pytest.mark.parametrize("shape", [(), (0,), (4, 0), (0, 16)])
def test_shapes_refused(shape):
    with pytest.raises(ShapeError):
        quantize(np.zeros(shape, np.float32), "nvfp4")


def test_packed_tensor_checks_its_parts():
    good = quantize(normal(4, 32), "nvfp4")
    parts = dict(codes=good.codes, scales=good.scales, shape=(4, 32), format="nvfp4", tensor_scale=good.tensor_scale)
    np.testing.assert_array_equal(PackedTensor(**parts).dequantize(), good.dequantize())
    bad = [
        (dict(codes=good.codes[:, :-1]), ShapeError, r"codes have shape \(4, 15\).*needs \(4, 16\)"),
        (dict(codes=np.zeros((4, 17), np.uint8)), ShapeError, r"\(4, 17\)"),
        (dict(codes=good.codes.astype(np.int32)), DtypeError, "uint8"),
        (dict(scales=good.scales[:2]), ShapeError, "scales have shape"),
        (dict(scales=np.full((4, 2), 0x7F, np.uint8)), ScaleError, r"scales\[0, 0\] is nan"),
        (dict(scales=np.full((4, 2), 0x88, np.uint8)), ScaleError, "not negative"),
        (dict(scales=np.ones((4, 2), np.float32)), DtypeError, "uint8"),
        (dict(tensor_scale=None), ScaleError, "tensor_scale="),
        (dict(shape=(4, 30)), ShapeError, "codes have shape"),
        (dict(format="fp5"), UnknownNameError, "nvfp4"),
        (dict(fine=good.codes, planes=5), FormatError, "1 to 4"),
    ]
    for change, error, message in bad:
        with pytest.raises(error, match=message):
            PackedTensor(**{**parts, **change})
    scales = np.ones((4, 1), np.float32)
    scales[1] = np.nan
    with pytest.raises(ScaleError, match=r"scales\[1, 0\]"):
        PackedTensor(codes=good.codes, scales=scales, shape=(4, 32), format="fp4-row")


@pytest.mark.parametrize("name", FORMATS)
def test_a_rounding_that_a_format_does_not_have_is_refused_before_anything_else(name):
    """Whatever else is wrong: numbers that no scale of the format reaches, too."""
    huge = np.full((2, 256), 3e38, np.float32)
    for ties in TIES:
        try:
            apply_options(get_format(name), ties)
        except FormatError as refused:
            with pytest.raises(FormatError, match=re.escape(str(refused)[:40])):
                quantize(huge, name, ties=ties, seed=1)


def test_repr_and_html_show_the_facts():
    packed = quantize(normal(4, 32), "nvfp4-nested")
    for text in (repr(packed), packed._repr_html_()):
        for fact in ("nvfp4-nested", "4 x 32", "bits a value", "SQNR", "bytes", "dB"):
            assert fact in text


# ---- properties


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["nvfp4", "mxfp4", "nvfp4-nested", "fp4-row", "nf4", "int4-g32", "nvfp4-1level", "mxfp4-rceil"]),
    st.integers(1, 5),
    st.integers(1, 80),
    st.integers(0, 2**31),
    st.floats(-30, 30),
)
def test_quantizing_is_odd_and_scales_with_powers_of_two(name, rows, columns, seed, exponent):
    x = standard_normal((rows, columns), seed)
    decoded = quantize(x, name).dequantize()
    if name not in ("nvfp4-nested", "nf4"):
        np.testing.assert_array_equal(quantize(-x, name).dequantize(), -decoded)
    if name in ("mxfp4", "fp4-row", "nf4", "int4-g32", "mxfp4-rceil"):
        factor = np.float32(2.0 ** int(exponent))
        np.testing.assert_array_equal(quantize(x * factor, name).dequantize(), decoded * factor)


def test_e8m0_and_e4m3_scales_are_as_stored():
    packed = quantize(normal(4, 64), "mxfp4")
    np.testing.assert_array_equal(packed.decoded_scales(), E8M0.decode(packed.scales))
    packed = quantize(normal(4, 64), "nvfp4")
    np.testing.assert_array_equal(packed.decoded_scales(), E4M3.decode(packed.scales))
