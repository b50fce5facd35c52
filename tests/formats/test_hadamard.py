"""The rotation before quantizing."""

from __future__ import annotations

import numpy as np

from vbw_np.formats.hadamard import SIGNS, hadamard_rotate


def sylvester(n: int) -> np.ndarray:
    return np.ones((1, 1)) if n == 1 else np.kron([[1, 1], [1, -1]], sylvester(n // 2))


def test_it_is_the_matrix_product() -> None:
    x = np.random.default_rng(0).normal(size=(3, 48)).astype(np.float32)
    matrix = np.diag(SIGNS) @ sylvester(16) / 4
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(16), atol=1e-15)
    expected = (x.reshape(-1, 16).astype(np.float64) @ matrix).reshape(x.shape)
    # 15 additions of numbers up to |x| sqrt(16): a few units in the last place of the largest
    np.testing.assert_allclose(hadamard_rotate(x), expected, atol=8 * np.finfo(np.float32).eps * np.abs(x).max() * 4)


def test_it_cancels_in_a_product_and_fills_up_ragged_groups() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 37)).astype(np.float32), rng.normal(size=(4, 37)).astype(np.float32)
    rotated = hadamard_rotate(x)
    assert rotated.shape == (5, 48) and rotated.dtype == np.float32
    np.testing.assert_allclose(rotated @ hadamard_rotate(y).T, x @ y.T, atol=1e-4)


def test_it_spreads_an_outlier() -> None:
    x = np.zeros((1, 16), np.float32)
    x[0, 3] = 8
    assert (np.abs(hadamard_rotate(x)) == 2).all()


def test_the_signs_are_transformer_engines() -> None:
    assert "".join("+" if sign > 0 else "-" for sign in SIGNS) == "+++-+------+-+--"
