"""The exercises of notebook 06: what a device counts."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..exercise import Exercise, exercise, once
from ..show import describe_value


def _say_counts(args: tuple, got: Any, want: Any) -> str:
    cards, batches, interval = args
    return (
        f"the smallest input that shows it: {cards} cards, {batches} batches, scales kept for {interval} uses\n"
        f"your (computes, separations, hits): {describe_value(got)}\nexpected:                           "
        f"{describe_value(want)}"
    )


def _counts(cards: int, batches: int, interval: int) -> tuple[int, int, int]:
    computes, separations = cards * batches, cards * -(-batches // interval)
    return computes, separations, computes - separations


EXERCISE_06_1 = exercise(
    "06.1",
    "the counters of a training run",
    "counts",
    cases=lambda seed: [(1, 1, 1), (1, 2, 1), (1, 2, 2), (3, 12, 5), (56, 20, 100)]
    + [tuple(int(v) for v in row) for row in np.random.default_rng(seed).integers(1, 60, size=(20, 3))],
    expected=_counts,
    describe=_say_counts,
    hints=(
        "Every card computes once a batch: computes = cards * batches.",
        "A separation happens at use 0, interval, 2 * interval, ...: batches / interval of them a card, rounded up.",
        "Every compute that is not a separation is a hit.",
    ),
    solution="""
computes = cards * batches
separations = cards * -(-batches // interval)
return computes, separations, computes - separations
""",
    wrong="""
computes = cards * batches
return computes, cards, computes - cards
""",
    symptom="1 cards, 2 batches, scales kept for 1 uses",
)


@functools.cache
def _smallest_cache() -> int:
    from ...device import place
    from ...engine import Tensor, nn, no_grad

    model = nn.Sequential(*(nn.Linear(32, 32, rng=i) for i in range(4)))

    def hits(capacity: int) -> int:
        device = place(model, "nvfp4", mode="inference", cache_bytes=capacity)
        with no_grad():
            for _ in range(3):
                model(Tensor(np.zeros((1, 32), np.float32)))
        found = device.statistics.decode_hits
        device.release()
        return found

    low, high = 0, 1 << 20  # hits(low) < 8 <= hits(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if hits(middle) == 8 else (middle, high)
    return high


EXERCISE_06_2 = exercise(
    "06.2",
    "the smallest decode cache that helps",
    "smallest_cache",
    cases=once,
    expected=_smallest_cache,
    hints=(
        "A decoded weight is float32: four bytes an entry.",
        "The weights are used in a circle, so all of them have to fit at once.",
    ),
    solution="smallest_cache = 4 * 32 * 32 * 4  # layers, rows, columns, bytes",
    wrong="smallest_cache = 3 * 32 * 32 * 4",
    symptom="it is too small",
)

EXERCISES: tuple[Exercise, ...] = (
    EXERCISE_06_1,
    EXERCISE_06_2,
)
