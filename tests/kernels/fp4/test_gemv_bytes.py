"""Products with 8-bit weights: exact where nothing rounds, near float64 elsewhere, the same bits everywhere."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from vbw_np.definitions import support
from vbw_np.definitions.byte_rows import byte_rows, matvec_reference
from vbw_np.definitions.fp4_products import quantize_left_int8
from vbw_np.formats import FORMATS, get_format, quantize
from vbw_np.kernels.fp4.gemv_bytes import matvec_bytes, quantize_rows_int8
from vbw_np.simd import cpu


def data(*shape: int, seed: int = 0) -> np.ndarray:
    """float32 with outliers and a zero block."""
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    x.ravel()[::97] *= 30
    x[0, :32] = 0
    return x


def test_the_definition_is_the_product_of_what_was_rounded() -> None:
    x, packed = data(3, 100, seed=1), quantize(data(70, 100), "q8_0")
    left = quantize_left_int8(x, "mxfp4").dequantize().astype(np.float64)
    exact = left @ packed.dequantize().T.astype(np.float64)
    size = np.abs(left) @ np.abs(packed.dequantize()).T.astype(np.float64)
    found = matvec_reference(x, byte_rows(packed))
    # A product and an addition in each of 4 blocks, three additions of lanes: 11 roundings of half a unit
    assert (np.abs(found - exact) <= 11 * 2.0**-24 * size).all()


def test_whole_numbers_are_exact() -> None:
    rng = np.random.default_rng(2)
    w, x = (rng.integers(-127, 128, (rows, 64)).astype(np.float32) for rows in (9, 4))
    w[:, ::32], x[:, ::32] = 127, -127  # scales of one
    found = matvec_reference(x, byte_rows(quantize(w, "q8_0")))
    assert np.array_equal(found, x @ w.T)


@pytest.mark.parametrize("isa", [isa for isa in cpu.available() if isa in ("avx2", "portable", "neon")])
def test_every_instruction_set_and_number_of_threads_gives_the_bits(isa: str) -> None:
    before = numba.get_num_threads()
    try:
        for rows, columns, length in ((1, 70, 96), (3, 131, 70), (2, 3, 33), (1, 300, 576)):
            x, right = data(rows, length, seed=rows), byte_rows(quantize(data(columns, length), "q8_0"))
            expected = matvec_reference(x, right)
            for threads in range(1, before + 1):
                numba.set_num_threads(threads)
                out = np.full((rows, columns), np.nan, np.float32)
                assert np.array_equal(matvec_bytes(x, right, out, isa), expected)
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("fmt", ["mxfp4", "nvfp4"])
def test_activations_are_rounded_as_the_definition_says(fmt: str) -> None:
    x = data(37, 100, seed=3)
    x[5, 40] = np.inf
    ours, theirs = quantize_rows_int8(x, fmt), quantize_left_int8(x, fmt)
    finite = np.isfinite(theirs.scales[:37])
    assert np.array_equal(ours.scales[:37], theirs.scales[:37], equal_nan=True) and not finite.all()
    assert np.array_equal(ours.sums[:37][finite], theirs.sums[:37][finite])
    blocks = finite.repeat(ours.block, axis=1)
    assert np.array_equal(ours.values[:37][blocks], theirs.values[:37][blocks])


def test_which_formats_have_such_products() -> None:
    assert [name for name, fmt in FORMATS.items() if support.bytes_a_row(fmt).kernel] == ["q8_0"]
    for name, why in (("int8-row", "blocks of 32"), ("mxfp8-e4m3", "signed integers"), ("nvfp4", "signed integers")):
        assert why in support.bytes_a_row(get_format(name)).why
