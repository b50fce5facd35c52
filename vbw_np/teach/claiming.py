"""Sentences of a notebook, asserted by what a cell measured; guesses, compared with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .covering import cover_rest_of_cell
from .judging import is_blank, same
from .show import describe_value


@dataclass(frozen=True)
class Claim:
    """One asserted sentence of a notebook."""

    text: str
    measured: Any
    numbers: tuple[float, ...] = field(default=())


CLAIMS: list[Claim] = []
"""Every claim that held in this process, in order."""


def claim(
    text: str,
    measured: Any,
    expected: Any = None,
    *,
    tol: float = 0.0,
    at_least: float | None = None,
    at_most: float | None = None,
    silent: bool = False,
) -> None:
    """Assert a sentence of the text by what was just measured, and say so.

    Parameters
    ----------
    text : str
        The sentence.
    measured : number, array, string or bool
        What the cell found.
    expected : the same
        What the text says.
    tol : float
        How far apart they may be; half a unit of the last digit that the text prints.
    at_least, at_most : float, optional
        Instead of `expected`: bounds.
    silent : bool
        Print nothing when it holds: for what a reader sees without being told (a shape, a count of his own input).

    Raises
    ------
    AssertionError
        The sentence is not true here.
    """
    numbers: list[float] = []
    holds = True
    if expected is not None:
        holds = same(measured, expected, tol)
        if not isinstance(expected, str | bool | np.ndarray):  # an array was computed; a sentence prints literals
            numbers += [float(v) for v in np.ravel(np.asarray(expected, np.float64))]
    for bound, fine in ((at_least, lambda m, b: m >= b), (at_most, lambda m, b: m <= b)):
        if bound is not None:
            holds = holds and bool(fine(float(measured), bound))
            numbers.append(float(bound))
    if expected is None and at_least is None and at_most is None:
        raise TypeError("claim: say what is expected, or give at_least= or at_most=")
    if not holds:
        said = expected if expected is not None else f"between {at_least} and {at_most}"
        raise AssertionError(f"claim does not hold: {text}\n  measured {measured!r}\n  the text says {said!r}")
    CLAIMS.append(Claim(text, measured, tuple(numbers)))
    if silent:
        return
    shown = describe_value(measured)
    print(f"[holds] {text}" + (f"  (measured {shown})" if len(shown) < 60 else ""))


GUESSED: list[bool] = []
"""For every call of `predict` in this process, whether there was a guess."""


def predict(guess: Any, actual: Any, what: str = "") -> None:
    """Compare a guess with what was measured; without one say so and go on, covering in Jupyter what the cell shows."""
    label = f"{what}: " if what else ""
    GUESSED.append(not is_blank(guess))
    if is_blank(guess):
        cover_rest_of_cell()
        print(f"{label}no guess yet. It is {describe_value(actual)}.")
    elif same(guess, actual, 1e-9):
        print(f"{label}you said {describe_value(guess)}, and so it is.")
    elif _near(guess, actual):
        print(f"{label}you said {describe_value(guess)}, and that is near: it is {describe_value(actual)}.")
    else:
        print(f"{label}you said {describe_value(guess)}; it is {describe_value(actual)}. Where does it come from?")


NEAR = 0.1
"""A guess that is off by no more than this part of the number is a near one; counts up to ten are right or wrong."""


def _near(guess: Any, actual: Any) -> bool:
    numbers = [x for x in (guess, actual) if isinstance(x, int | float | np.number) and not isinstance(x, bool)]
    if len(numbers) < 2 or (abs(actual) <= 10 and float(actual).is_integer()):
        return False
    return bool(abs(guess - actual) <= NEAR * abs(actual))
