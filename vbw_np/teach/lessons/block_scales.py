"""The exercises of notebooks 04, 05, 07 and 12: scales of blocks, choosing them, two tiers, exact rounding."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats import E2M1, E4M3, E8M0
from ...formats.packed import nested_edges
from ...formats.scales import e8m0_floor
from ..exercise import Exercise, exercise
from ..show import describe_value, float_bits, nibble_bits

# ---- 04

def _mx_scale(amax: float) -> float:
    return float(E8M0.table[e8m0_floor(np.array([amax], np.float32))[0]])


def _amax_cases(seed: int) -> list[tuple]:
    """Some sizes; then every power of two with its float32 neighbors, where a rounded logarithm goes wrong."""
    powers = np.exp2(np.r_[-100, -30:31, 100, 127]).astype(np.float32)
    powers = powers[np.argsort(np.abs(np.log2(powers)), kind="stable")]
    edges = np.stack([np.nextafter(powers, np.float32(0)), powers, np.nextafter(powers, np.float32(np.inf))], 1)
    drawn = np.exp(np.random.default_rng(seed).normal(0, 4, 50)).astype(np.float32)
    plain = [1.0, 4.0, 6.0, 7.99, 0.75, 3.9, 448.0, 2.0**-20]
    return [(v,) for v in plain] + [(v,) for v in edges.ravel()] + [(float(v),) for v in drawn]


def _say_amax(args: tuple, got: Any, want: Any) -> str:
    amax = float(args[0])
    return (
        f"the first amax that shows it is {amax:g}, in bits {float_bits(amax)}\n"
        f"your scale: {describe_value(got)}   (amax / scale = {_ratio(amax, got)})\n"
        f"expected:   {describe_value(want)}   (amax / scale = {_ratio(amax, want)}, between 4 and 8)"
    )


def _ratio(amax: float, scale: Any) -> str:
    try:
        return f"{amax / float(scale):g}"
    except (TypeError, ValueError, ZeroDivisionError):
        return "?"


EXERCISE_04_1 = exercise(
    "04.1",
    "the MX standard's scale",
    "mx_scale",
    cases=_amax_cases,
    expected=_mx_scale,
    describe=_say_amax,
    hints=(
        "mantissa, exponent = math.frexp(amax) gives amax = mantissa * 2**exponent with mantissa in [0.5, 1).",
        "So floor(log2(amax)) is exponent - 1. The largest power of two among the values is 4 = 2**2: subtract 2.",
    ),
    solution="""
import math
return 2.0 ** (math.frexp(amax)[1] - 1 - 2)
""",
    wrong="""
import math
return 2.0 ** (math.frexp(amax)[1] - 1)
""",
    symptom="the first amax that shows it is 1,",
)


def _four_or_six(block: np.ndarray) -> int:
    errors = {}
    for divisor in (6, 4):
        scale = np.float32(np.abs(block).max()) / np.float32(divisor)
        decoded = E2M1.decode(E2M1.encode(block / scale)) * scale
        errors[divisor] = float(((decoded.astype(np.float64) - block) ** 2).sum())
    return 4 if errors[4] < errors[6] else 6


EXERCISE_05_1 = exercise(
    "05.1",
    "map the largest number to four or to six",
    "four_or_six",
    cases=lambda seed: [(np.array(v, np.float32),) for v in ([6, 1], [1, 2, 3, 4], [10, 20, 30, 40])]
    + [(v,) for v in np.random.default_rng(seed).normal(size=(30, 16)).astype(np.float32)],
    expected=_four_or_six,
    hints=(
        "For each divisor: scale = amax / divisor, decoded = E2M1.decode(E2M1.encode(block / scale)) * scale.",
        "Compare the sums of (decoded - block) ** 2; use < so that a tie keeps 6.",
    ),
    library=True,
    solution="""
errors = {}
for divisor in (6, 4):
    scale = np.abs(block).max() / np.float32(divisor)
    errors[divisor] = ((E2M1.decode(E2M1.encode(block / scale)) * scale - block) ** 2).sum()
return 4 if errors[4] < errors[6] else 6
""",
    wrong="return 6",
    symptom="expected:    4",
)

# ---- 12

def _compare_cases(seed: int) -> list[tuple]:
    midpoints = (E2M1.magnitudes[1:] + E2M1.magnitudes[:-1]) / 2
    easy = [(np.float32(v), np.float32(s)) for s in (1.0, 2.0, 0.5) for v in (0.0, 0.3, 2.6, 5.0)]
    near = []
    # two binades stand for all: other powers of two move no bit of a mantissa; and the ends of the table
    for s in E4M3.table[np.r_[1:9, 48:64, 126]]:
        for m in midpoints:
            edge = np.float32(s * m)
            below, above = np.nextafter(edge, np.float32(0)), np.nextafter(edge, np.float32(np.inf))
            near += [(v, s) for v in (below, edge, above)]
    near.sort(key=lambda case: abs(float(np.log2(case[1]))))
    return easy + near


def _compare(x: np.float32, scale: np.float32) -> int:
    midpoints = (E2M1.magnitudes[1:] + E2M1.magnitudes[:-1]) / 2
    edges = midpoints * scale  # exact
    upper_even = np.arange(1, 8) % 2 == 0
    return int(np.where(upper_even, x >= edges, x > edges).sum())


def _say_quotient(args: tuple, got: Any, want: Any) -> str:
    x, scale = args
    return (
        f"the first case that shows it: x = {float(x):.9g}, scale = {float(scale):.9g}\n"
        f"x     in bits {float_bits(x)}\nscale in bits {float_bits(scale)}\n"
        f"your code: {nibble_bits(got)}\nexpected:  {nibble_bits(want)}"
    )


EXERCISE_12_1 = exercise(
    "12.1",
    "encode by comparing with scaled midpoints",
    "code_by_comparing",
    cases=_compare_cases,
    expected=_compare,
    describe=_say_quotient,
    division=False,
    hints=(
        "The code is how many of the seven numbers midpoint * scale lie below x.",
        "Equal counts as below where the upper code is even: at 0.75, 1.75 and 3.5.",
        "Keep float32: np.float32(0.75) * scale.",
    ),
    solution="""
code = 0
for i, midpoint in enumerate((0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)):
    edge = np.float32(midpoint) * scale
    code += bool(x >= edge) if i % 2 else bool(x > edge)
return code
""",
    wrong="return int(E2M1.encode(x * (np.float32(1) / scale))[()])",
    symptom="scale = 0.9375",
)

# ---- 07

def _cell_cases(seed: int) -> list[tuple]:
    drawn = np.random.default_rng(seed).uniform(0.26, 6.37, 60).round(3) + 3e-4  # never on an edge
    return [(v,) for v in (0.5, 1.0, 3.0, 4.0, 6.0, 0.26, 6.375, 5.5, 2.4)] + [(float(v),) for v in drawn]


def _find_cell(q: float) -> tuple[int, int]:
    low, width = nested_edges(6.375)
    code = max(i for i in range(8) if low[i] < q or i == 0)
    for i in range(1, 8):  # ties belong to the even code, as in the encoder
        if q == low[i]:
            code = i if i % 2 == 0 else i - 1
    return int(code), int(min(15, np.floor((q - low[code]) / width[code] * 16)))


EXERCISE_07_1 = exercise(
    "07.1",
    "the bin and the cell of a number",
    "find_cell",
    cases=_cell_cases,
    expected=_find_cell,
    hints=(
        "code = the largest i with low[i] < q.",
        "How far into the bin: (q - low[code]) / width[code], between 0 and 1. Times sixteen, rounded down.",
        "At the very end that gives 16: use min(15, ...).",
    ),
    solution="""
code = max(i for i in range(8) if low[i] < q)
return code, min(15, int((q - low[code]) / width[code] * 16))
""",
    wrong="""
code = max(i for i in range(8) if low[i] < q)
return code, int((q - low[code]) / width[code] * 15)
""",
    symptom="expected:    [1, 8]",
)

EXERCISES: tuple[Exercise, ...] = (
    EXERCISE_04_1,
    EXERCISE_05_1,
    EXERCISE_12_1,
    EXERCISE_07_1,
)
