"""`diagnose` on levels that are no E2M1: every format with itself and with one code moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vbw_np.formats import FORMATS, PROFILES, ShapeError, diagnose, quantize
from vbw_np.formats.packing import pack_codes
from vbw_np.formats.random_bits import standard_normal

X = standard_normal((32, 256), seed=21)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_diagnosed_with_and_without_its_source(name):
    a = quantize(X, name)
    assert diagnose(a, a, X).names == ()
    codes = a.unpacked_codes().copy()
    table = a.codebook if a.format.element is None else a.format.element.table
    value = table[codes[3, 5]]
    codes[3, 5] = np.nanargmax(np.abs(np.nan_to_num(table) - value))
    moved = replace(a, codes=pack_codes(codes.reshape(a.codes.shape[0], -1) if codes.ndim == 2 and a.codes.ndim == 2
                                        else codes.reshape(-1), a.format.code_bits))  # fmt: skip
    for x in (None, X):
        assert "sign of zero" not in diagnose(a, moved, x).names and diagnose(a, moved, x).codes_differ == 1


def test_two_levels_of_nf4_are_not_two_zeros():
    a = quantize(X, "nf4")
    codes = a.unpacked_codes().copy()
    codes[0, 0], b_code = 0, 8  # -1.0 and 0.08
    one = replace(a, codes=pack_codes(codes, 4))
    codes[0, 0] = b_code
    found = diagnose(one, replace(a, codes=pack_codes(codes, 4)), X)
    assert found.names == ("other codes", "producers") or found.names == ("other codes",)


def test_int4_and_e2m1_are_told_apart():
    assert "elements" in diagnose(quantize(X, "int4-g16"), quantize(X, "fp4-g16")).names


def test_a_codebooks_bits_have_no_even_ones():
    """Where E2M1's codes go to even, NF4's go up or down only: the lowest bit of its codes has no meaning."""
    for name, said in (("nf4", False), ("fp4-g16", True)):
        a = quantize(X, name)
        codes, table = a.unpacked_codes().copy(), a.format.element.table
        even = np.argwhere((codes & 1 == 0) & (table[codes] > 0) & (codes & 7 < 7))[0]
        codes[tuple(even)] += 1
        found = diagnose(a, replace(a, codes=pack_codes(codes, 4)), X)
        assert found.names[0] in ("rounding", "operation order", "tie rule")
        assert ("a goes to even" in found.findings[0].what) is said, found


def test_quantiles_are_diagnosed_with_their_source():
    a = quantize(X, "seed-v6")
    codes = a.unpacked_codes().copy()
    codes[3, 5] ^= 1  # a neighbouring quantile
    found = diagnose(a, replace(a, codes=pack_codes(codes, 4)), X)
    assert found.names[0] == "tie rule" and found.codes_differ == 1


ALL = {**FORMATS, **{profile.name: profile.format for profile in PROFILES.values()}}


@pytest.fixture(scope="module")
def tensors():
    return {name: quantize(X, fmt, measure=False) for name, fmt in ALL.items()}


@pytest.mark.parametrize("name", ALL)
def test_two_formats_are_equal_only_where_bytes_and_values_are(name, tensors):
    """Every format beside every other one: a finding in words, or none where nothing differs."""
    a = tensors[name]
    for other, b in tensors.items():
        found = diagnose(a, b)
        parts = ("codes", "scales", "tensor_scale", "offsets", "fine", "fine_scales", "signs", "codebook")
        same = all(equal(getattr(a, part), getattr(b, part)) for part in parts)
        same &= np.array_equal(a.dequantize().view(np.uint32), b.dequantize().view(np.uint32))
        assert (not found.names) <= same, f"{name}, {other}: {found}"
        if other == name:
            assert found.names == ()


def equal(one, two):
    """Of the same numbers, in rows or in one row."""
    return (one is None) == (two is None) and (one is None or np.array_equal(np.ravel(one), np.ravel(two)))


def changed(name, **parts):
    packed = quantize(X, name)
    return packed, replace(packed, **{part: change(getattr(packed, part)) for part, change in parts.items()})


def flipped(bytes_):
    bytes_ = bytes_.copy()
    bytes_[0, 0] ^= 1
    return bytes_


OTHER_PARTS = {
    "zero points": ("int4-zero-g32", dict(offsets=lambda zeros: zeros + np.float32(1))),
    "minimums": ("q4_1", dict(offsets=lambda minimums: minimums * np.float32(2))),
    "fine tier": ("nvfp4-nested", dict(fine=flipped)),
    "signs": ("seed-v6", dict(signs=flipped)),
    "codebook": ("seed-v6", dict(codebook=lambda levels: levels * np.float32(2))),
}


@pytest.mark.parametrize("name", OTHER_PARTS)
def test_what_only_some_formats_have_is_compared(name):
    assert diagnose(*changed(OTHER_PARTS[name][0], **OTHER_PARTS[name][1])).names == (name,)


def test_tiers_grids_and_orders_of_decoding_are_named():
    nested = quantize(X, "nvfp4-nested")
    assert diagnose(nested, nested.coarse()).names == ("fine tier",)
    assert diagnose(nested, nested.with_planes(2)).names == ("fine tier",)
    assert "decoding" in diagnose(quantize(X, "nvfp4"), quantize(X, PROFILES["te-nvfp4"].format)).names
    assert "second grid" in diagnose(quantize(X, "nvfp4"), quantize(X, "if4")).names
    assert diagnose(quantize(X, "int8-tensor"), quantize(X, "int8-row")).names == ("block size",)
    assert diagnose(quantize(X, "seed-v6"), quantize(X, "int8-row")).names == ("elements",)


def test_another_matrix_as_source_is_refused():
    with pytest.raises(ShapeError, match=r"source has shape \(3, 256\), the packed tensors \(32, 256\)"):
        diagnose(quantize(X, "nvfp4"), quantize(-X, "nvfp4"), X[:3])


def test_a_flat_tensor_is_recognised():
    """bitsandbytes' blocks run across row ends; in rows of whole blocks they are the same blocks."""
    flat = PROFILES["bitsandbytes-nf4"].format
    a, b = quantize(X, flat), quantize(-X, flat)
    assert any("a is what bitsandbytes-nf4 writes" in finding.what for finding in diagnose(a, b, X).findings)
    rows = quantize(X, "nf4")
    assert diagnose(rows, quantize(X, replace(FORMATS["nf4"], name="one-row", flat=True))).names == ()
