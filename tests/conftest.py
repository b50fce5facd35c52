"""How many threads compute where tests run in several processes: one, but where threads are what is tested.

`make test` starts as many processes as there are cores. The arrays of its tests are too small to share, and results do
not depend on the number of threads; with several in each process they would wait for one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

SEVERAL = ("definitions", "kernels", "simd")
"""Folders whose tests have all threads: they hold kernels against themselves on one."""


def alone(config: pytest.Config) -> bool:
    """Whether no other process runs tests of this session; the one that starts the others runs none."""
    return getattr(config, "workerinput", {"workercount": 1})["workercount"] == 1


def pytest_sessionstart(session: pytest.Session) -> None:
    if not alone(session.config):
        from vbw_np.training.threads import set_threads

        set_threads(1)


@pytest.fixture(autouse=True)
def threads_where_they_are_tested(request: pytest.FixtureRequest) -> Iterator[None]:
    """All of the machine's threads for the tests of `SEVERAL`."""
    room = request.path.relative_to(Path(__file__).parent).parts[0]
    if room not in SEVERAL or alone(request.config):
        yield
        return
    import numba

    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    yield
    numba.set_num_threads(1)
