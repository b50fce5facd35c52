"""How many threads compute while tests run: one, but where threads are what is tested.

The arrays are too small to share, results do not depend on the number of threads, and `make test` runs as many
processes as there are cores: with several threads in each they would wait for one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

SEVERAL = ("definitions", "kernels", "simd")
"""Folders whose tests have all threads: they hold kernels against themselves on one."""


def pytest_sessionstart(session: pytest.Session) -> None:
    starts_others = getattr(session.config.option, "numprocesses", None) and not hasattr(session.config, "workerinput")
    if not starts_others:
        from vbw_np.training.threads import set_threads

        set_threads(1)


@pytest.fixture(autouse=True)
def threads_where_they_are_tested(request: pytest.FixtureRequest) -> Iterator[None]:
    """All of the machine's threads for the tests of `SEVERAL`."""
    room = request.path.relative_to(Path(__file__).parent).parts[0]
    if room not in SEVERAL:
        yield
        return
    import numba

    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    yield
    numba.set_num_threads(1)
