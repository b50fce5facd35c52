"""The exercises of notebook 18: zero points, groups, clipping."""

from __future__ import annotations

import numpy as np

from ..exercise import Exercise, exercise

# ---- 18

def _zero_point(low: float, high: float) -> tuple[float, int]:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    return scale, round(-low / scale)


def _ranges(seed: int) -> list[tuple]:
    """Some ranges, nought inside and outside; none whose zero point is a tie."""
    rng = np.random.default_rng(seed)
    plain = [(0.0, 255.0), (-51.0, 204.0), (-255.0, 0.0), (51.0, 255.0), (-2.0, -1.0), (-0.17, 4.7)]
    drawn = [(float(a), float(a + b)) for a, b in zip(rng.normal(size=40), rng.exponential(size=40) + 0.1)]
    return plain + drawn


EXERCISE_18_1 = exercise(
    "18.1",
    "the scale and the zero point of a range",
    "zero_point",
    cases=_ranges,
    expected=_zero_point,
    tolerance=1e-9,
    hints=(
        "low = min(low, 0) and high = max(high, 0) widen the range; then the scale is (high - low) / 255.",
        "low comes back from code 0: scale * (0 - zero) is low. So zero is -low / scale, rounded.",
    ),
    solution="""
low, high = min(low, 0), max(high, 0)
scale = (high - low) / 255
return scale, round(-low / scale)
""",
    wrong="""
scale = (high - low) / 255
return scale, round(-low / scale)
""",
    symptom="the smallest input that shows it is (51, 255)",
)


def _grouped(x: np.ndarray, size: int, largest: int) -> np.ndarray:
    groups = x.reshape(len(x), -1, size)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / largest
    return (np.round(groups / scale) * scale).reshape(x.shape)


def _matrices(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    found: list[tuple] = [(np.array([[7.0, 3.0, 70.0, 32.0]]), 2, 7)]
    for rows, groups, size, largest in ((1, 1, 4, 7), (3, 2, 4, 7), (2, 4, 16, 127), (8, 3, 5, 7)):
        found.append((rng.normal(size=(rows, groups * size)), size, largest))
    return found


EXERCISE_18_2 = exercise(
    "18.2",
    "whole numbers in groups",
    "grouped",
    cases=_matrices,
    expected=_grouped,
    tolerance=1e-9,
    hints=(
        "x.reshape(len(x), -1, size) has the groups along its last axis.",
        "With keepdims=True the amax of that axis divides as it is; reshape to x.shape in the end.",
    ),
    solution="""
groups = x.reshape(len(x), -1, size)
scale = np.abs(groups).max(axis=-1, keepdims=True) / largest
return (np.round(groups / scale) * scale).reshape(x.shape)
""",
    wrong="""
scale = np.abs(x).max(axis=1, keepdims=True) / largest
return np.round(x / scale) * scale
""",
    symptom="the smallest input that shows it is",
)


def _best_share(x: np.ndarray, largest: int, shares: np.ndarray) -> float:
    amax = np.abs(x).max()
    errors = []
    for share in shares:
        step = share * amax / largest
        errors.append(np.square(np.round(np.clip(x, -share * amax, share * amax) / step) * step - x).sum())
    return float(shares[int(np.argmin(errors))])


def _wild(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    found: list[tuple] = [(np.array([1.0, 1.0, 1.0, 1.3]), 1, np.array([0.5, 0.75, 1.0]))]
    for size, largest in ((40, 7), (200, 7), (400, 127), (300, 1)):
        found.append((rng.standard_t(3, size), largest, np.linspace(0.1, 1, 19)))
    return found


EXERCISE_18_3 = exercise(
    "18.3",
    "clipping by the least error",
    "best_share",
    cases=_wild,
    expected=_best_share,
    tolerance=1e-9,
    hints=(
        "top = share * np.abs(x).max() and step = top / largest; back = np.round(np.clip(x, -top, top) / step) * step.",
        "Collect the sums of (back - x) ** 2 and take shares[np.argmin(errors)].",
    ),
    solution="""
errors = []
for share in shares:
    top = share * np.abs(x).max()
    step = top / largest
    back = np.round(np.clip(x, -top, top) / step) * step
    errors.append(((back - x) ** 2).sum())
return shares[np.argmin(errors)]
""",
    wrong="return max(shares)",
    symptom="your answer: 1\nexpected:    0.75",
)

EXERCISES: tuple[Exercise, ...] = (EXERCISE_18_1, EXERCISE_18_2, EXERCISE_18_3)
