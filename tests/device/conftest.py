"""A small Claude4 with all 62 layers, and single layers, for the device's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numba
import numpy as np
import pytest

from vbw_np.engine import nn
from vbw_np.models.claude4 import Claude4, Claude4Config

SMALL = Claude4Config(vocab_size=53, d_model=16, heads=4, hidden=32)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These matrices are too small to share among threads, and results do not depend on their number."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


@pytest.fixture
def model() -> Claude4:
    return Claude4(SMALL, seed=3)


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(1).integers(0, SMALL.vocab_size, (2, 8))


@pytest.fixture
def make_model() -> Callable[..., Claude4]:
    return lambda seed=3: Claude4(SMALL, seed=seed)


@pytest.fixture
def layer() -> nn.Linear:
    """64 inputs, 48 outputs."""
    return nn.Linear(64, 48, rng=5)
