"""One run with the report's structure (62 cards, 20 batches) at a small width, shared by the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vbw_np.bench import speed
from vbw_np.bench.speed import Settings, measure
from vbw_np.models.claude4 import Claude4Config

SMALL = Claude4Config(vocab_size=61, d_model=32, hidden=32)


@pytest.fixture(scope="session", autouse=True)
def warm_once() -> Iterator[None]:
    """What was warmed up before one run is not before the next: no test asks how long anything took."""
    warm_up, known = speed._warm_up, {}

    def once(settings: Settings, recipe: str) -> dict[str, float]:
        key = recipe, settings.mode, settings.compute, settings.model
        if key not in known:
            known[key] = warm_up(settings, recipe)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "_warm_up", once)
        yield


@pytest.fixture(scope="session")
def small() -> Settings:
    """The report's structure and number of batches; structure decides the counts."""
    return Settings(n_batches=20, batch_size=2, seq_len=8, model=SMALL, data="random")


@pytest.fixture(scope="session")
def result(small: Settings) -> dict[str, Any]:
    return measure(small)


@pytest.fixture(scope="session")
def seed_report() -> list[str]:
    """The report that ours reproduces, line by line."""
    return (Path(__file__).parent / "seed_report.txt").read_text("utf-8").splitlines()
