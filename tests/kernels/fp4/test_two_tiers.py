"""The codebook of quantiles by counting: that of sorting, for arrays of any size."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.formats import quantile_codebook
from vbw_np.kernels.fp4 import two_tiers


@pytest.mark.parametrize("kind", ["normal", "ties", "a few numbers", "every size", "zeros"])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 1000, 20_001])
def test_counting_finds_what_sorting_finds(size: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_tiers, "SORTED", 0)
    rng = np.random.default_rng(size)
    w = rng.standard_normal(size).astype(np.float32)
    if kind == "ties":
        w = np.round(w * 4) / 4
    elif kind == "a few numbers":
        w = np.sign(w) + np.float32(2.0**-20) * (w > 1)
    elif kind == "every size":
        w *= np.float32(2) ** rng.integers(-149, 120, size).astype(np.float32)
    elif kind == "zeros":
        w[:] = -0.0
    found = two_tiers.fast_quantile_codebook(w)
    assert found.tobytes() == quantile_codebook(w).tobytes()


def test_a_large_array_is_counted_and_a_small_one_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    true_count = two_tiers._count_upper
    monkeypatch.setattr(two_tiers, "_count_upper", lambda *a: (counted.append(a[0].size), true_count(*a)))
    for size in (two_tiers.SORTED, two_tiers.SORTED + 1):
        w = np.random.default_rng(0).standard_normal(size).astype(np.float32)
        assert two_tiers.fast_quantile_codebook(w).tobytes() == quantile_codebook(w).tobytes()
    assert counted == [two_tiers.SORTED + 1]
