"""The exercises of notebook 14: post-training quantization."""

from __future__ import annotations

import numpy as np

from ..exercise import Exercise, exercise

# ---- 14

def _columns(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    small = np.array([[1.0, 2.0]]), np.array([[0.5, 0.0]]), np.array([[1.0, 0.25], [0.0, 1.0]])
    found = [(*small, 1), (*small, 0)]
    for width in (3, 5, 8):
        weight, errors = rng.normal(size=(4, width)), rng.normal(size=(4, width)) / 4
        carry = np.triu(rng.normal(size=(width, width)), 1) + np.eye(width)
        for j in (0, 1, width - 1):
            known = np.where(np.arange(width) < j, errors, 0)
            found.append((weight, known, carry, j))
    return found


EXERCISE_14_1 = exercise(
    "14.1",
    "what a column is rounded from",
    "wanted_column",
    cases=_columns,
    expected=lambda weight, errors, carry, j: weight[:, j] + errors[:, :j] @ carry[:j, j],
    tolerance=1e-9,
    hints=(
        "Each earlier column i adds its error times carry[i, j].",
        "errors[:, :j] @ carry[:j, j] adds them up for all rows.",
    ),
    solution="return weight[:, j] + errors[:, :j] @ carry[:j, j]",
    wrong="return weight[:, j] - errors[:, :j] @ carry[:j, j]",
    symptom="expected:",
)


def _hadamard(size: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


EXERCISE_14_2 = exercise(
    "14.2",
    "a Hadamard matrix by doubling",
    "hadamard",
    cases=lambda seed: [(size,) for size in (1, 2, 4, 8, 32)],
    expected=_hadamard,
    hints=(
        "Begin with np.ones((1, 1)) and double until it is as large as it should be.",
        "np.block([[H, H], [H, -H]]) is the next one.",
    ),
    solution="""
H = np.ones((1, 1))
while len(H) < size:
    H = np.block([[H, H], [H, -H]])
return H
""",
    wrong="""
H = np.ones((1, 1))
while len(H) < size:
    H = np.block([[H, H], [H, H]])
return H
""",
    symptom="expected:",
)

EXERCISES: tuple[Exercise, ...] = (EXERCISE_14_1, EXERCISE_14_2)
