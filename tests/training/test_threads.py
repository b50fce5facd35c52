"""The number of threads that was asked for is the one that kernels and BLAS take."""

from __future__ import annotations

import numba
import pytest

from vbw_np.errors import UserError
from vbw_np.machine import blas_info
from vbw_np.training.threads import set_threads


@pytest.mark.parametrize("count", [1, 2])
def test_kernels_and_blas_take_the_number(count: int) -> None:
    before = numba.get_num_threads()
    try:
        set_threads(count)
        assert numba.get_num_threads() == min(count, numba.config.NUMBA_NUM_THREADS)
        assert blas_info()["threads"] in (count, None)
    finally:
        set_threads(before)


def test_nobody_to_compute() -> None:
    with pytest.raises(UserError, match="--threads 0 leaves nobody to compute"):
        set_threads(0)
