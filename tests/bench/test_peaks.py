"""The peak kernels run, return sane numbers, and refuse nonsense. (What they measure is no matter for a test.)"""

from __future__ import annotations

import numba
import pytest

from vbw_np.bench import peaks
from vbw_np.bench.peaks import measure_peaks


def test_peaks_are_positive_and_threads_are_put_back() -> None:
    before = numba.get_num_threads()
    found = measure_peaks(1, quick=True)
    assert numba.get_num_threads() == before
    assert set(found) == {
        "fma_gflops", "byte_dot_gops", "tile_gflops", "read_gbytes", "read_cache_gbytes", "copy_gbytes",
    }  # fmt: skip
    assert all(value is None or 0 < value < 1e6 for value in found.values())


def test_impossible_threads_are_refused() -> None:
    for threads in (0, numba.config.NUMBA_NUM_THREADS + 1):
        with pytest.raises(ValueError, match="threads"):
            measure_peaks(threads)


@pytest.mark.parametrize("isa", ["avx512vnni", "avx2", "portable"])
def test_the_limit_of_products_is_that_of_the_instruction_set_in_use(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(peaks.cpu, "choose_vector", lambda: isa)
    monkeypatch.setattr(peaks, "_run_dots", lambda variant, count, out: ran.append(variant.name))
    found = peaks.byte_dot_gops(1, 1)
    assert (found is None) == (isa == "portable") and set(ran) == ({isa} - {"portable"})
