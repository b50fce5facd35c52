"""Products on bfloat16 weights: the decoding is exact, the rounding is ml_dtypes', the sums keep their bound."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.kernels.fp4 import bf16
from vbw_np.kernels.fp4.tensor_core import quantize_right

ml_dtypes = pytest.importorskip("ml_dtypes")


def test_rounding_is_that_of_ml_dtypes() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**32, 100_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.append(x[~np.isnan(x)], np.float32([0, -0.0, np.inf, -np.inf, 1.00390625, 1.01171875]))
    with np.errstate(over="ignore"):
        assert np.array_equal(bf16.round_bf16(x), x.astype(ml_dtypes.bfloat16).view(np.uint16))
    assert np.isnan(bf16.round_bf16(np.float32([np.nan])).view(ml_dtypes.bfloat16).astype(np.float32)).all()


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("fmt", ["mxfp4", "nvfp4"])
def test_product_keeps_its_bound(fmt: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(bf16, "bf16_native", lambda: False)
    elif not bf16.bf16_native():
        pytest.skip("this CPU has no bfloat16 dot products")
    rng = np.random.default_rng(1)
    for m, n, k in ((7, 50, 96), (1, 5, 40), (20, 33, 160)):
        x, w = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((n, k)).astype(np.float32)
        right = quantize_right(w, fmt)
        weights = bf16.decode_bf16(right)
        assert np.array_equal(weights.decode() * right.factor, right.dequantize())
        rounded = x.astype(ml_dtypes.bfloat16).astype(np.float64)
        exact = rounded @ right.dequantize().astype(np.float64).T
        bound = (np.abs(rounded) @ np.abs(right.dequantize()).astype(np.float64).T) * 2.0**-24 * (k + 4)
        out = np.empty((m, n), np.float32)
        assert bf16.matmul_bf16(x, weights, out) is out
        assert np.all(np.abs(out - exact) <= bound)


def test_bad_input_gets_one_clear_error() -> None:
    weights = bf16.decode_bf16(quantize_right(np.ones((16, 32), np.float32), "nvfp4"))
    with pytest.raises(ValueError, match="32 columns"):
        bf16.matmul_bf16(np.ones((2, 31), np.float32), weights)
    with pytest.raises(ValueError, match="out must be"):
        bf16.matmul_bf16(np.ones((2, 32), np.float32), weights, np.empty((2, 15), np.float32))
