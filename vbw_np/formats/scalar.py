"""The scalar tier: one number at a time, in exact rational arithmetic, with its reasons.

This is the definition that a reader can check by hand. It shares no code with the NumPy tier: levels come from the
format's table, distances are compared as fractions, and every tie is decided by name. Tests hold the two equal.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from .elements import TIES, Codebook, ElementFormat
from .errors import FormatError, NonFiniteError, unknown_name


@dataclass(frozen=True)
class Rounding:
    """How one number became a code.

    Parameters
    ----------
    x : float
    code : int
    value : float
    low, high : float
        The neighboring levels (equal when x is a level, or beyond the last one).
    midpoint : float
    is_tie, saturated : bool
    reason : str
    """

    x: float
    code: int
    value: float
    low: float
    high: float
    midpoint: float
    is_tie: bool
    saturated: bool
    reason: str


@lru_cache(maxsize=64)
def levels_of(element: ElementFormat | Codebook) -> tuple[tuple[Fraction, int], ...]:
    """Every finite level once, ascending, with the code that an encoder writes for it (zero: +0)."""
    found: dict[Fraction, int] = {}
    for code in element.codes:
        value = float(element.table[code])
        if math.isfinite(value):
            found.setdefault(Fraction(value), int(code))
    if isinstance(element, Codebook) and element.write_order:
        raise FormatError(f"codebook {element.name} writes two codes for one level; the scalar tier has one a level")
    return tuple(sorted(found.items()))


def round_scalar(
    x: float,
    element: ElementFormat | Codebook,
    ties: str = "even",
    *,
    random: int = 0,
    signed_zero: str = "keep",
) -> Rounding:
    """Round one finite number, saturating, and say why.

    Parameters
    ----------
    x : float
    element : ElementFormat or Codebook
    ties : one of `TIES`, or `down` for a codebook
    random : int
        32 random bits, for the stochastic rules (`stochastic-8` uses the low 8).
    signed_zero : as in `ElementFormat.encode`
    """
    if ties not in (*TIES, "down"):
        raise unknown_name("rounding (ties=)", ties, (*TIES, "down"))
    x = float(x)
    if math.isnan(x):
        raise NonFiniteError("x is NaN; the scalar tier rounds numbers")
    levels = levels_of(element)
    if math.isinf(x) or not levels[0][0] <= Fraction(x) <= levels[-1][0]:
        edge, code = levels[-1] if x > levels[-1][0] else levels[0]
        value = float(edge)
        return Rounding(x, code, value, value, value, value, False, True, f"beyond {value:g}: saturates")
    exact = Fraction(x)
    below = bisect_right(levels, exact, key=lambda pair: pair[0]) - 1
    above = below if levels[below][0] == exact else below + 1
    pick, reason = _choose(exact, levels, below, above, ties, random, element)
    code = _signed_code(x, levels[pick], element, signed_zero)
    low, high = levels[below][0], levels[above][0]
    middle = (low + high) / 2
    return Rounding(
        x,
        code,
        float(element.table[code]),
        float(low),
        float(high),
        float(middle),
        exact == middle and low != high,
        False,
        reason,
    )


def _choose(
    exact: Fraction,
    levels: tuple[tuple[Fraction, int], ...],
    below: int,
    above: int,
    ties: str,
    random: int,
    element: ElementFormat | Codebook,
) -> tuple[int, str]:
    """The index of the chosen level, and the reason."""
    low, high = levels[below][0], levels[above][0]
    if low == high:
        return below, "is a level"
    if ties == "stochastic":
        from_zero = not isinstance(element, Codebook) and exact < 0  # floats round magnitudes, codebooks levels
        inner, outer = (above, below) if from_zero else (below, above)
        return _stochastic(exact, levels, inner, outer, Fraction(random >> 8, 1 << 24))
    if ties == "stochastic-8":
        return _stochastic_8(exact, levels, below, above, Fraction(random & 0xFF, 256))
    middle = (low + high) / 2
    if isinstance(element, Codebook) and element.cuts:
        middle = Fraction(float(np.float32(element.cuts[below])))
    if exact != middle:
        pick = below if exact < middle else above
        return pick, f"nearer to {float(levels[pick][0]):g} (midpoint {float(middle):g})"
    if ties == "even":
        pick = below if levels[below][1] % 2 == 0 else above
        return pick, f"a tie: to the even code {levels[pick][1]}"
    if ties == "down":
        return below, "a tie: to the lower level"
    toward_zero = below if exact > 0 else above
    if exact == 0:
        toward_zero = above
    away = above if toward_zero == below else below
    pick = toward_zero if ties == "zero" else away
    return pick, f"a tie: {'toward' if ties == 'zero' else 'away from'} zero"


def _stochastic(
    exact: Fraction, levels: tuple[tuple[Fraction, int], ...], inner: int, outer: int, u: Fraction
) -> tuple[int, str]:
    """To the outer level with probability equal to the fraction of the step already covered."""
    fraction = (exact - levels[inner][0]) / (levels[outer][0] - levels[inner][0])
    pick = outer if u < fraction else inner
    return pick, f"stochastic: u = {float(u):.6f} {'<' if u < fraction else '>='} fraction {float(fraction):.6f}"


def _stochastic_8(
    exact: Fraction, levels: tuple[tuple[Fraction, int], ...], below: int, above: int, u: Fraction
) -> tuple[int, str]:
    """Add u of the step to the magnitude, round to float32, truncate."""
    inner, outer = (below, above) if exact > 0 else (above, below)
    magnitude, step = abs(exact), abs(levels[outer][0] - levels[inner][0])
    pick = outer if _to_float32(magnitude + u * step) >= abs(levels[outer][0]) else inner
    return pick, f"8 random bits: |x| + {float(u):g} * {float(step):g}, truncated"


def _to_float32(x: Fraction) -> Fraction:
    """Round a non-negative fraction to float32 (24 significant bits, ties to even; normal range)."""
    if x == 0:
        return x
    exponent = math.floor(math.log2(x.numerator) - math.log2(x.denominator))
    while Fraction(2) ** exponent > x:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= x:
        exponent += 1
    ulp = Fraction(2) ** (max(exponent, -126) - 23)
    return round(x / ulp) * ulp


def _signed_code(x: float, level: tuple[Fraction, int], element: ElementFormat | Codebook, rule: str) -> int:
    """The code with its sign, by the rule for zeros."""
    value, code = level
    if isinstance(element, Codebook) or not element.signed or value != 0:
        return code
    negative = math.copysign(1.0, x) < 0 if rule == "keep" else x < 0
    if rule == "never":
        negative = False
    elif rule == "negative":
        negative = negative or x == 0
    return code | (element.sign_mask if negative else 0)
