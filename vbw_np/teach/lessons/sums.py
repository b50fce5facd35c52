"""The exercises of notebook 15: one step of a tensor core's sum, and the smallest input on which two cores differ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...formats import E4M3
from ...formats.accumulate import dot
from ..exercise import Exercise, exercise, once
from ..plain import numbers
from ..show import describe_kind, describe_value


def _one_step(products: Any, exponents: Any, bits: int) -> float:
    grid = 2.0 ** (max(exponents) - bits)
    return float(sum(math.trunc(product / grid) for product in products) * grid)


def _step_cases(seed: int) -> list[tuple]:
    """By hand first: nothing lost, a term lost, a negative one; then products of E4M3 numbers with their exponents."""
    found: list[tuple] = [
        ((1.0, 0.5), (0, -1), 13), ((1.0, 2.0**-14), (0, -14), 13), ((1.0, 1.5 * 2.0**-13), (0, -13), 13),
        ((1.0, -1.5 * 2.0**-13), (0, -13), 13), ((1.0, 2.0**-14), (0, -14), 25),
    ]  # fmt: skip
    rng = np.random.default_rng(seed)
    for bits in (13, 25):
        for _ in range(20):
            a, b = (E4M3.table[E4M3.encode(np.exp(rng.normal(-1, 2, 8)).astype(np.float32))] for _ in range(2))
            exponents = [max(math.frexp(v)[1] - 1, -6) + max(math.frexp(w)[1] - 1, -6) for v, w in zip(a, b)]
            signs = rng.choice([-1.0, 1.0], 8)
            found.append((tuple((a.astype(np.float64) * b * signs).tolist()), tuple(exponents), bits))
    return found


def _say_step(args: tuple, got: Any, want: Any) -> str:
    products, exponents, bits = args
    grid = 2.0 ** (max(exponents) - int(bits))
    return (
        f"the first case that shows it: products {', '.join(f'{float(p):.9g}' for p in products)}\n"
        f"with the exponents {', '.join(str(int(e)) for e in exponents)} and {int(bits)} bits: the grid is {grid:.9g}\n"
        f"your sum: {describe_value(got)}   (over the grid: {_over(got, grid)})\n"
        f"expected: {describe_value(want)}   (over the grid: {_over(want, grid)})"
    )


def _over(value: Any, grid: float) -> str:
    try:
        return f"{float(value) / grid:g}"
    except (TypeError, ValueError):
        return "?"


EXERCISE_15_1 = exercise(
    "15.1",
    "one step of a tensor core's sum",
    "one_step",
    cases=_step_cases,
    expected=_one_step,
    describe=_say_step,
    hints=(
        "The grid is 2.0 ** (max(exponents) - bits).",
        "math.trunc(product / grid) is the whole number of grid steps that is kept: it goes toward zero on both sides.",
        "Add the whole numbers up, and multiply the sum by the grid.",
    ),
    solution="""
import math
grid = 2.0 ** (max(exponents) - bits)
return sum(math.trunc(product / grid) for product in products) * grid
""",
    wrong="""
grid = 2.0 ** (max(exponents) - bits)
return sum(round(product / grid) for product in products) * grid
""",
    symptom="with the exponents 0, -13 and 13 bits",
)


def _differ(args: tuple, got: Any) -> str | None:
    pair = numbers(got)
    if pair is None or pair.dtype.kind not in "biuf" or pair.ndim != 2 or len(pair) != 2:
        return f"expected two lists of equally many numbers, and got {describe_kind(got)}"
    x = pair.astype(np.float32)
    if not np.isfinite(x).all():
        return "one of your numbers is infinite or NaN; choose finite ones"
    codes = E4M3.encode(x)
    off = x[E4M3.table[codes] != x]
    if off.size:
        return f"{float(off[0]):g} is no E4M3 number (the nearest is {E4M3.table[E4M3.encode(off[:1])][0]:g})"
    count = x.shape[1]
    hopper, blackwell = (float(dot(unit, *codes)) for unit in ("hopper-fp8", "blackwell-f8f6f4"))
    if hopper == blackwell:
        return f"on these {count} products both give {hopper:.9g}"
    if count > 2:
        return f"they differ ({hopper:.9g} and {blackwell:.9g}), but {count} products are not the fewest"
    return None


EXERCISE_15_2 = exercise(
    "15.2",
    "the smallest input on which Hopper's FP8 and Blackwell's differ",
    "smallest_input",
    cases=once,
    expected=lambda: ([1.0, 2.0**-7], [1.0, 2.0**-7]),
    accept=_differ,
    library=True,
    hints=(
        "One product has eight bits at most, and both keep thirteen: so with one product they agree.",
        "With two, let one be large and the other so small that it lies below the grid: less than 2**-13 of the first.",
        "1 x 1 and 2**-7 x 2**-7: the second is 2**-14. Hopper's grid is 2**-13, Blackwell's 2**-25.",
    ),
    solution="return [1.0, 2.0**-7], [1.0, 2.0**-7]",
    wrong="return [1.0, 2.0**-6], [1.0, 2.0**-7]",
    symptom="on these 2 products both give",
)

EXERCISES: tuple[Exercise, ...] = (EXERCISE_15_1, EXERCISE_15_2)
