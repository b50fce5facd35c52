"""Few-row products: every path against the sequential definition, int8 activations against their own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.kernels import cpu
from vbw_np.kernels.gemv import matvec, quantize_left_int8
from vbw_np.kernels.tensor_core import matmul, matmul_reference, quantize_left, quantize_right


def data(shape: tuple[int, int], seed: int) -> np.ndarray:
    """float32 with outliers and a zero block."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    x.ravel()[::97] *= 30
    x[0, :32] = 0
    return x


@pytest.mark.parametrize("fmt", ["mxfp4", "nvfp4"])
@pytest.mark.parametrize("path", cpu.available_paths())
def test_every_path_gives_the_bits_of_the_reference(path: str, fmt: str) -> None:
    right = quantize_right(data((70, 160), 1), fmt)
    for rows in (1, 3, 9):
        x = data((rows, 160), rows)
        for activations in ("int8", "fp4"):
            left = quantize_left_int8(x, fmt) if activations == "int8" else quantize_left(x, fmt)
            expected = matmul_reference(left, right)
            assert np.array_equal(matvec(x, right, activations=activations, path=path), expected)
            assert np.array_equal(matmul(left, right, path=path), expected)


@pytest.mark.parametrize("fmt", ["mxfp4", "nvfp4"])
def test_the_largest_sums_fit(fmt: str) -> None:
    """127 times 6 in every place: 16-bit accumulators must not overflow."""
    x, w = np.full((2, 64), 127, np.float32), np.full((16, 64), 6, np.float32)
    x[1] *= -1
    right = quantize_right(w, fmt)
    for path in cpu.available_paths():
        y = matvec(x, right, path=path)
        assert np.allclose(y, x @ w.T, rtol=1e-6)
        assert np.array_equal(y, matmul_reference(quantize_left_int8(x, fmt), right))


def test_int8_activations_are_within_half_a_step() -> None:
    x = data((4, 64), 5)
    left = quantize_left_int8(x, "nvfp4")
    steps = np.repeat(left.scales[:4], 16, axis=1)
    assert np.all(np.abs(left.values[:4] * steps - x) <= steps / 2)
    mantissa, _ = np.frexp(left.scales[:4])
    assert np.all(mantissa == 0.5)
    amax = np.abs(x).reshape(4, 4, 16).max(axis=2)
    assert np.all(amax <= 127 * left.scales[:4])
    assert np.all(amax[amax > 0] > 63 * left.scales[:4][amax > 0])


def test_vectors_ragged_lengths_and_errors() -> None:
    w, x = data((33, 50), 1), data((1, 50), 2)[0]
    right = quantize_right(w, "nvfp4")
    out = np.empty(33, np.float32)
    assert matvec(x, right, out) is out
    assert np.array_equal(out, matmul_reference(quantize_left_int8(x[None], "nvfp4"), right)[0])
    x[3] = np.nan
    assert np.isnan(matvec(x, right)).all()
    for call, words in (
        (lambda: matvec(x[:40], right), "columns"),
        (lambda: matvec(x, right, activations="int4"), "activations"),
        (lambda: matvec(x.astype(np.float64), right), "float32"),
        (lambda: matvec(x, right, np.empty(32, np.float32)), "out must be"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
