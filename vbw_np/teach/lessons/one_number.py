"""The exercise of notebook 17: massive activations."""

from __future__ import annotations

import numpy as np

from ..exercise import Exercise, exercise

# ---- 17

def _arrays(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    found = [(np.array([[1.0, -8.0], [2.0, 0.5], [0.0, 4.0]]),), (np.array([[-3.0, 1.0]]),)]
    for tokens, channels in ((5, 3), (8, 4), (31, 16)):
        x = rng.normal(size=(tokens, channels))
        x[rng.integers(tokens), rng.integers(channels)] = -50
        found.append((x,))
    return found


EXERCISE_17_1 = exercise(
    "17.1",
    "how unusual the largest number is",
    "times_usual",
    cases=_arrays,
    expected=lambda x: float(np.abs(x).max() / np.median(np.abs(x).max(axis=1))),
    tolerance=1e-9,
    hints=(
        "np.abs(x).max(axis=1) has each token's largest magnitude.",
        "The largest of those, divided by their median.",
    ),
    solution="largest = np.abs(x).max(axis=1)\nreturn largest.max() / np.median(largest)",
    wrong="return np.abs(x).max() / np.median(np.abs(x))",
    symptom="expected:",
)

EXERCISES: tuple[Exercise, ...] = (EXERCISE_17_1,)
