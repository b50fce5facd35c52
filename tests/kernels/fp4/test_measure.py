"""The one-pass relative error against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.kernels.fp4.measure import relative_error


@pytest.mark.parametrize("shape", [(1,), (3, 5), (8192,), (8193,), (50, 1000)])
def test_it_is_the_ratio_of_norms(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=shape).astype(np.float32)
    near = (exact + 0.1 * rng.normal(size=shape)).astype(np.float32)
    wide = exact.astype(np.float64)
    expected = np.linalg.norm(wide - near) / np.linalg.norm(wide)
    assert relative_error(exact, near) == pytest.approx(expected, rel=1e-13)
    assert relative_error(exact.T, near.T) == pytest.approx(expected, rel=1e-13)


def test_nothing_to_compare_with() -> None:
    zero = np.zeros(9, np.float32)
    assert relative_error(zero, zero) == 0
    assert relative_error(zero, zero + 1) == np.inf
