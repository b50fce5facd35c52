"""MS-EDEN and rotations of 16 to 128 elements."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.formats import ShapeError
from vbw_np.formats.claims_2026 import misalignment
from vbw_np.formats.eden import quantize_eden, rotate_for_eden
from vbw_np.formats.hadamard import hadamard_rotate, hadamard_rotate_back, random_signs
from vbw_np.formats.random_bits import standard_normal


@pytest.mark.parametrize("points", [16, 32, 64, 128])
def test_a_rotation_is_a_hadamard_matrix_under_signs(points: int) -> None:
    x, signs = standard_normal((5, 2 * points), seed=1), random_signs(points, seed=3)
    assert set(signs) == {1.0, -1.0}
    sylvester = [[(-1) ** (i & j).bit_count() for j in range(points)] for i in range(points)]
    matrix = np.diag(signs) @ np.array(sylvester) / np.sqrt(points)
    wanted = (x.reshape(-1, points).astype(np.float64) @ matrix).reshape(x.shape)
    bound = 2 * np.log2(points) * 2.0**-24 * np.abs(x).max() * np.sqrt(points)
    rotated = hadamard_rotate(x, signs)
    assert np.abs(rotated - wanted).max() < bound
    assert np.abs(hadamard_rotate_back(rotated, signs) - x).max() < 2 * bound


def test_what_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ShapeError, match="power of two"):
        hadamard_rotate(np.ones((2, 24), np.float32), np.ones(24, np.float32))
    with pytest.raises(ShapeError, match="128"):
        rotate_for_eden(np.ones((2, 100), np.float32), seed=0)


def test_eden_mends_the_length() -> None:
    """To nearest, vectors come out 0.8% short along themselves; corrected, within four standard errors of none."""
    assert misalignment(False).value > 0.0075
    assert abs(misalignment(True).value) < 4 * 0.011 / np.sqrt(8192)


def test_eden_is_unbiased_over_rotations_and_draws() -> None:
    """The mean of 256 draws under rotations of their own: the error falls as that of an unbiased estimate does."""
    x = standard_normal((16, 256), seed=5)
    errors, total = {}, np.zeros(x.shape)
    for draw in range(1, 257):
        rotated = rotate_for_eden(x, seed=draw)
        decoded = quantize_eden(rotated, seed=draw, stream=1).dequantize()
        total += hadamard_rotate_back(decoded, random_signs(128, draw))
        if draw in (1, 256):
            errors[draw] = float(((total / draw - x) ** 2).mean() / (x.astype(np.float64) ** 2).mean())
    assert errors[1] / errors[256] == pytest.approx(256, rel=0.25)
