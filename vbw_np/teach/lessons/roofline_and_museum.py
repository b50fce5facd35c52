"""The exercises of notebooks 11 and 16: the roofline, the museum."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats import E2M1
from ..exercise import Exercise, exercise, once
from ..givens import ENCODERS
from ..plain import Given, numbers
from ..show import describe_kind

# ---- 11

EXERCISE_11_1 = exercise(
    "11.1",
    "the roof over a product",
    "attainable",
    cases=lambda seed: [(1.0, 100.0, 10.0), (10.0, 100.0, 10.0), (100.0, 100.0, 10.0)]
    + [tuple(float(v) for v in row) for row in np.random.default_rng(seed).uniform(1, 100, size=(20, 3)).round(2)],
    expected=lambda intensity, peak, bandwidth: min(peak, intensity * bandwidth),
    tolerance=1e-9,
    hints=("Memory allows bandwidth * intensity operations a second.", "The processor allows peak. The lower counts."),
    solution="return min(peak, bandwidth * intensity)",
    wrong="return bandwidth * intensity",
    symptom="the smallest input that shows it is (100, 100, 10)",
)

# ---- 16

def _scaled_by(x: np.ndarray, span: int) -> np.ndarray:
    rows = np.asarray(x, np.float32).reshape(-1, span)
    scale = np.abs(rows).max(axis=1, keepdims=True) / np.float32(6)
    return (E2M1.decode(E2M1.encode(rows / scale)) * scale).ravel()


def _exposes(args: tuple, got: Any) -> str | None:
    array = numbers(got)
    if array is None or array.dtype.kind not in "biuf":
        return f"expected an array of 32 numbers, and got {describe_kind(got)}"
    x = array.astype(np.float32).ravel()
    if x.size != 32:
        return f"expected an array of 32 numbers, and got {x.size}"
    if not np.isfinite(x).all():
        return f"{int((~np.isfinite(x)).sum())} of your 32 numbers are infinite or NaN as float32; choose finite ones"
    if not (x[:16].any() and x[16:].any()):
        return "one half is all zeros; every half needs a number that is not zero"
    right, wrong = _scaled_by(x, 16), _scaled_by(x, 32)
    if np.array_equal(right, wrong):
        halves = [float(np.abs(half).max()) for half in (x[:16], x[16:])]
        return f"on this input both give the same numbers: the amax of its halves is {halves[0]:g} and {halves[1]:g}"
    return None


def _exposing() -> np.ndarray:
    x = np.zeros(32, np.float32)
    x[0], x[16] = 6, 0.2
    return x


EXERCISE_16_1 = exercise(
    "16.1",
    "an input that exposes a block of 32",
    "exposing_input",
    cases=once,
    expected=_exposing,
    accept=_exposes,
    library=True,
    hints=(
        "If both halves have the same amax, nothing can be seen. So make one half large and the other small.",
        "In the small half, put a number that the large half's scale rounds away.",
    ),
    solution="""
x = np.zeros(32, np.float32)
x[0], x[16] = 6, 0.2
return x
""",
    wrong="return np.ones(32, np.float32)",
    symptom="the amax of its halves is 1 and 1",
)


def _judged(args: tuple, got: Any) -> str | None:
    if not isinstance(got, bool | np.bool_):
        return f"your test should return True or False, and gave {describe_kind(got)}"
    description, _, right = ENCODERS[int(args[0].name.split()[1])]
    return None if bool(got) == right else f"your test {'passes' if got else 'fails'} {description}"


EXERCISE_16_2 = exercise(
    "16.2",
    "the test that was missing",
    "good_test",
    cases=lambda seed: [(Given(f"encoder {number}"),) for number in range(len(ENCODERS))],
    expected=lambda encode: True,
    accept=_judged,
    library=True,
    hints=(
        "Ask for encode(0.5), encode(-1.0), encode(100.0) and compare with the table of codes.",
        "Ask for at least two ties, one that goes down (0.25 to code 0) and one that goes up (0.75 to code 2).",
    ),
    solution="""
wanted = {0.0: 0, 0.5: 1, 6.0: 7, -1.0: 10, -6.0: 15, 100.0: 7, -100.0: 15, 0.25: 0, 0.75: 2, 2.5: 4, 3.5: 6, 5.0: 6}
return all(encode(x) == code for x, code in wanted.items())
""",
    wrong="return all(encode(x) == code for x, code in {0.0: 0, 1.0: 2, -1.0: 10, 100.0: 7, 0.5: 1}.items())",
    symptom="your test passes an encoder with ties away from zero",
)

EXERCISES: tuple[Exercise, ...] = (
    EXERCISE_11_1,
    EXERCISE_16_1,
    EXERCISE_16_2,
)
