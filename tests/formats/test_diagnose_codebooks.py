"""`diagnose` on levels that are no E2M1: every format with itself and with one code moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vbw_np.formats import FORMATS, diagnose, quantize
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
