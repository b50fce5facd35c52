"""The exercises of notebooks 08 to 10: rounding with a gradient, attention, training."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..exercise import Exercise, exercise
from ..plain import Given
from ..show import describe_value

# ---- 08

def _clip_cases(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    return [
        (np.ones(1), np.zeros(1), 6.0),
        (np.ones(1), np.array([7.0]), 6.0),
        (np.ones(1), np.array([-7.0]), 6.0),
        (np.ones(1), np.array([6.0]), 6.0),
        *((rng.normal(size=8), rng.normal(0, 5, size=8), 6.0) for _ in range(10)),
    ]


EXERCISE_08_2 = exercise(
    "08.2",
    "a straight-through gradient that stops where numbers saturate",
    "clipped_straight_through",
    cases=_clip_cases,
    expected=lambda g, q, limit: np.where(np.abs(q) <= limit, g, 0.0),
    hints=("np.abs(q) <= limit is an array of True and False.", "Multiply g by it: True counts as one, False as zero."),
    solution="return g * (np.abs(q) <= limit)",
    wrong="return g * (q <= limit)",
    symptom="([1.], [-7.], 6)",
)

EXERCISE_08_3 = exercise(
    "08.3",
    "stochastic rounding with few random bits, without bias",
    "stochastic_floor",
    cases=lambda seed: [(0.5, 0, 1), (0.5, 1, 1), (0.25, 0, 1), (0.25, 1, 1), (0.9, 0, 2), (-1.3, 2, 3)]
    + [(float(x), i % 16, 4) for i, x in enumerate(np.random.default_rng(seed).uniform(-4, 4, 40).round(2) + 0.003)],
    expected=lambda x, u, k: np.floor(x + (u + 0.5) / 2**k),
    hints=(
        "u / 2**k takes the values 0, 1/4, 2/4, 3/4 for k = 2: their mean is below one half.",
        "Move each up by half the distance between two faces: (u + 0.5) / 2**k.",
    ),
    solution="return np.floor(x + (u + 0.5) / 2**k)",
    wrong="return np.floor(x + u / 2**k)",
    symptom="the smallest input that shows it is (0.25, 1, 1)",
)

# ---- 09

def _causal_shares(scores: np.ndarray) -> np.ndarray:
    masked = np.where(np.tri(len(scores), dtype=bool), scores, -np.inf)
    shares = np.exp(masked - masked.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


EXERCISE_09_1 = exercise(
    "09.1",
    "softmax under the causal mask",
    "causal_shares",
    cases=lambda seed: [(np.zeros((1, 1)),), (np.zeros((2, 2)),), (np.array([[1.0, 5.0], [0.0, 0.0]]),)]
    + [(np.random.default_rng(seed + n).normal(size=(n, n)),) for n in (3, 4, 8)],
    expected=_causal_shares,
    tolerance=1e-9,
    hints=(
        "np.tri(n, dtype=bool) is True on and below the diagonal; np.where picks scores there and -np.inf elsewhere.",
        "Then np.exp, and divide each row by its sum (keepdims=True).",
        "Masking after the softmax is not enough: the rows would no longer add up to one.",
    ),
    solution="""
masked = np.where(np.tri(len(scores), dtype=bool), scores, -np.inf)
shares = np.exp(masked)
return shares / shares.sum(axis=1, keepdims=True)
""",
    wrong="""
shares = np.exp(scores)
shares = shares / shares.sum(axis=1, keepdims=True)
return shares * np.tri(len(scores))
""",
    symptom="your answer: [[0.5, 0. ],",
)

EXERCISE_09_2 = exercise(
    "09.2",
    "the share of tokens whose best expert changes",
    "flipped",
    cases=lambda seed: [
        (np.array([[1.0, 2.0]]), np.array([[1.0, 1.5]])),
        (np.array([[1.0, 2.0]]), np.array([[2.0, 1.0]])),
        (np.array([[1.0, 2.0], [0.0, 3.0]]), np.array([[2.0, 1.0], [0.0, 2.0]])),
        tuple(np.random.default_rng(seed).normal(size=(2, 50, 8))),
    ],
    expected=lambda scores, rounded: float((scores.argmax(axis=1) != rounded.argmax(axis=1)).mean()),
    tolerance=1e-12,
    hints=("scores.argmax(axis=1) is each token's best expert.", "Compare two arrays with !=, and take the mean()."),
    solution="return (scores.argmax(axis=1) != rounded.argmax(axis=1)).mean()",
    wrong="return (scores.max(axis=1) != rounded.max(axis=1)).mean()",
    symptom="your answer: 1\nexpected:    0",
)

# ---- 10

def _differing(matrix: np.ndarray, quantize: Any) -> float:
    return float((quantize(matrix) != quantize(np.ascontiguousarray(matrix.T)).T).mean())


EXERCISE_10_1 = exercise(
    "10.1",
    "how much a matrix depends on the direction of its blocks",
    "differing_share",
    cases=lambda seed: [
        (np.array([[1.5, 2.5], [3.5, 4.5]], np.float32), Given("truncate")),
        (np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), Given("first of its row")),
        (np.random.default_rng(seed).normal(size=(32, 32)).astype(np.float32), Given("nvfp4 along rows")),
        (np.random.default_rng(seed).normal(size=(16, 48)).astype(np.float32), Given("nvfp4 along rows")),
    ],
    expected=_differing,
    library=True,
    tolerance=1e-12,
    describe=lambda args, got, want: (
        f"the smallest input that shows it is {describe_value(args[0])} with quantize = {args[1].name}\n"
        f"your answer: {describe_value(got)}\nexpected:    {describe_value(want)}"
    ),
    hints=(
        "Along the rows: quantize(matrix). Along the columns: quantize(matrix.T), and that is transposed.",
        "Transpose it back before you compare: quantize(matrix.T).T.",
    ),
    solution="return (quantize(matrix) != quantize(np.ascontiguousarray(matrix.T)).T).mean()",
    wrong="return (quantize(matrix).ravel() != quantize(np.ascontiguousarray(matrix.T)).ravel()).mean()",
    symptom="with quantize = truncate",
)

EXERCISES: tuple[Exercise, ...] = (
    EXERCISE_08_2,
    EXERCISE_08_3,
    EXERCISE_09_1,
    EXERCISE_09_2,
    EXERCISE_10_1,
)
