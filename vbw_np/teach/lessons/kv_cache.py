"""The exercises of notebook 19: keys without their mean, and in groups along tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..exercise import Exercise, exercise
from ..plain import Given

# ---- 19

def _keys(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    found = [(np.array([[1.0, -8.0], [2.0, 0.5], [0.0, 4.5]]),), (np.array([[-3.0, 1.0]]),)]
    for tokens, channels in ((5, 3), (8, 4), (31, 16)):
        keys = rng.normal(size=(tokens, channels))
        keys[:, rng.integers(channels)] += 12
        found.append((keys,))
    return found


EXERCISE_19_1 = exercise(
    "19.1",
    "keys without what they have in common",
    "centred",
    cases=_keys,
    expected=lambda keys: keys - keys.mean(axis=0),
    tolerance=1e-9,
    hints=(
        "The mean key is the mean over tokens: keys.mean(axis=0), one number a channel.",
        "keys - keys.mean(axis=0)",
    ),
    solution="return keys - keys.mean(axis=0)",
    wrong="return keys - keys.mean()",
    symptom="expected:",
)


def _rounded_along_tokens(keys: np.ndarray, size: int, round_rows: Callable) -> np.ndarray:
    full = len(keys) // size * size
    return np.concatenate([round_rows(keys[:full].T).T, keys[full:]]) if full else keys.copy()


def _growing(seed: int) -> list[tuple]:
    """Caches with whole groups, with some over, and with too few tokens for one group.

    No group knows of another, so that an answer may also go from group to group.
    """
    rng = np.random.default_rng(seed)
    simple, along_rows = Given("first of its three"), Given("mxfp4 along rows")
    found: list[tuple] = [(np.arange(1.0, 11).reshape(5, 2), 3, simple)]
    found += [(rng.normal(size=(tokens, 4)), 3, simple) for tokens in (3, 2, 4, 11)]
    found += [(rng.normal(size=(tokens, 4)).astype(np.float32), 32, along_rows) for tokens in (32, 80)]
    return found


EXERCISE_19_2 = exercise(
    "19.2",
    "keys rounded in groups along tokens",
    "rounded_along_tokens",
    cases=_growing,
    expected=_rounded_along_tokens,
    library=True,  # round_rows is of it
    hints=(
        "full = len(keys) // size * size tokens fill groups.",
        "round_rows(keys[:full].T).T rounds them channel by channel; write it into a copy of all keys.",
    ),
    solution="""
full = len(keys) // size * size
result = keys.copy()
if full:
    result[:full] = round_rows(keys[:full].T).T
return result
""",
    wrong="return round_rows(keys.T).T",
    symptom="expected:",
)

EXERCISES: tuple[Exercise, ...] = (EXERCISE_19_1, EXERCISE_19_2)
