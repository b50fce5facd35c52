"""One output of a tensor core, step by step: terms, exponents, what is cut off, the sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..explain import Explanation, Step, number
from .adding import UNIT, LongSum, add_terms, align
from .units import Accumulator

SHOWN = 8
"""Terms of a step that are shown, the largest first; the rest are counted."""


def explain_sum(unit: str | Accumulator, a: NDArray, b: NDArray, c: float = 0.0, **formats: object) -> Explanation:
    """How one dot product of codes a, b (K,) comes about on a unit; other arguments as `model.dot` has them.

    `data` holds, for each step, the largest exponent, the number of terms that lose bits, what is lost in all, and the
    sum.

    Raises
    ------
    FormatError
        A unit that adds c apart from its products, or what `LongSum` refuses.
    """
    total = LongSum(unit, a, b, **formats)  # type: ignore[arg-type]
    record, lines, data = total.unit, [], []
    if record.separate:
        raise FormatError(f"{record.name} adds c by an addition of its own; explain the products with another unit")
    value = np.asarray(c, record.output.dtype)
    for first, last in total.steps(0, total.length):
        terms = total.with_c(total.terms(first, last), value)
        kept, largest = align(terms, record.fraction_bits)
        grid = int(largest[0]) - record.fraction_bits
        exact = np.ldexp(terms.significand.astype(np.float64), terms.exponent - UNIT)
        exact[terms.significand == 0] = 0
        held = np.ldexp(kept.astype(np.float64), grid)
        value = add_terms(terms, record)
        lost = exact - held
        lines.append(Step(f"elements {first} to {last - 1}", "", f"largest exponent {int(largest[0])}"))
        for i in np.argsort(-np.abs(exact), kind="stable")[:SHOWN]:
            if exact[i] == 0:
                break
            name = "  c" if i == len(exact) - 1 else f"  term {first // record.group + i}"
            cut = f"cut off: {lost[i]:.6g}" if lost[i] else "whole"
            lines.append(Step(name, f"{exact[i]:.9g}", f"exponent {int(terms.exponent[i])}; {cut}"))
        rest = int(np.count_nonzero(exact)) - SHOWN
        if rest > 0:
            lines.append(Step(f"  {rest} more", "", "smaller"))
        losers = int(np.count_nonzero(lost))
        lines.append(
            Step(
                "  grid", f"2**{grid}", f"{losers} terms lose bits, {lost.sum():.6g} in all; then {record.output.name}"
            )
        )
        lines.append(Step("  sum", number(float(value)), "goes on as c" if last < total.length else "the result"))
        data.append({"largest_exponent": int(largest[0]), "cut_terms": losers, "lost": float(lost.sum()),
                     "sum": float(value)})  # fmt: skip
    title = f"{record.name}: {total.length} products, {record.terms} a step, F = {record.fraction_bits}"
    return Explanation(title, tuple(lines), {"unit": record.name, "steps": data, "result": float(value)})
