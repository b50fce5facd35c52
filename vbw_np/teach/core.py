"""Exercises that check themselves, claims that are asserted, predictions that are compared.

An answer has three states, and a learner is always told which: *not attempted* (the stub still stands), *wrong* (with
the smallest input that shows it, in bits) and *right*. Nothing here stops a notebook: a wrong answer is shown, and
the cells below go on with the library's own functions. Only when a grader runs the notebook (`VBW_STRICT=1`, or
nbgrader's own variable) does a check raise.
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UserError

RIGHT, WRONG, NOT_ATTEMPTED = "right", "wrong", "not attempted"
_MARK = {RIGHT: "[ok]", WRONG: "[x]", NOT_ATTEMPTED: "[ ]"}
_EDGE = {RIGHT: "#009E73", WRONG: "#D55E00", NOT_ATTEMPTED: "#999999"}  # Okabe and Ito's palette; the words say it too


@dataclass(frozen=True)
class Exercise:
    """One exercise: what to write, how it is judged, and what to say when it is wrong.

    Parameters
    ----------
    name : str
        Notebook and number, such as "02.1".
    title : str
    target : str
        The name that the learner defines.
    cases : callable, seed -> sequence of argument tuples
        From the smallest to the largest, so that the first failure is the smallest counter-example. For a plain
        value, one empty tuple.
    expected : callable
        The right answer for one case, from the library.
    hints : tuple of str
        From a nudge to nearly everything.
    solution : str
        What belongs between the solution marks.
    wrong : str
        A wrong answer that learners do give, in the same place; the check must catch it,
    symptom : str
        and say this.
    describe : callable (args, got, want) -> str, optional
        The counter-example in words and bits.
    tolerance : float
        Largest absolute difference allowed, for answers that are not exact.
    accept : callable (args, got) -> str or None, optional
        Where many answers are right: None for a right one, else what is wrong with it. `expected` then serves only to
        show one.
    """

    name: str
    title: str
    target: str
    cases: Callable[[int], Sequence[tuple]]
    expected: Callable[..., Any]
    hints: tuple[str, ...]
    solution: str
    wrong: str
    symptom: str
    describe: Callable[[tuple, Any, Any], str] | None = None
    tolerance: float = 0.0
    accept: Callable[[tuple, Any], str | None] | None = None


@dataclass(frozen=True)
class Result:
    """The verdict on one answer; prints as text, shows as a box in notebooks, and is true when right."""

    exercise: str
    state: str
    message: str

    def __bool__(self) -> bool:
        return self.state == RIGHT

    def __repr__(self) -> str:
        return f"{_MARK[self.state]} {self.exercise} {self.state.upper()}: {self.message}"

    def _repr_html_(self) -> str:
        style = f"border-left:6px solid {_EDGE[self.state]};padding:.4em .8em;margin:.3em 0"
        return (
            f'<div style="{style}"><b>{self.exercise} {self.state.upper()}</b>'
            f'<pre style="margin:.3em 0 0;white-space:pre-wrap">{html.escape(self.message)}</pre></div>'
        )


RESULTS: dict[str, Result] = {}
"""The last verdict on each exercise in this process."""

_hints_given: dict[str, int] = {}


def exercises() -> dict[str, Exercise]:
    """All exercises by name, in the order of the curriculum."""
    from .catalog import EXERCISES

    return EXERCISES


def get_exercise(name: str) -> Exercise:
    """An exercise by name, or an error that lists those of the same notebook."""
    known = exercises()
    if name not in known:
        near = [other for other in known if other[:2] == str(name)[:2]] or list(known)
        raise UserError(f"there is no exercise {name!r}; try {', '.join(near)}")
    return known[name]


# ---- checking


def same(got: Any, want: Any, tolerance: float = 0.0) -> bool:
    """Whether two answers agree: equal values and shapes (NaN equals NaN), or within `tolerance`."""
    if isinstance(want, tuple):
        return (
            isinstance(got, tuple | list)
            and len(got) == len(want)
            and all(same(g, w, tolerance) for g, w in zip(got, want))
        )
    if isinstance(want, str | bool):
        return got == want
    try:
        got_array, want_array = np.asarray(got, np.float64), np.asarray(want, np.float64)
    except (TypeError, ValueError):
        return False
    if got_array.shape != want_array.shape:
        return False
    if not tolerance:
        return bool(np.array_equal(got_array, want_array, equal_nan=True))
    return bool(np.allclose(got_array, want_array, rtol=0, atol=tolerance, equal_nan=True))


def _is_blank(answer: Any) -> bool:
    return answer is None or answer is Ellipsis or answer is NotImplemented


def _copies(args: tuple) -> tuple:
    """Arguments that an answer may scribble on without spoiling the comparison."""
    return tuple(a.copy() if isinstance(a, np.ndarray) else a for a in args)


def judge(exercise: Exercise, answer: Any, seed: int = 0) -> Result:
    """Judge an answer to an exercise, on the cases of `seed`."""
    name = exercise.name
    nothing = Result(name, NOT_ATTEMPTED, f"{exercise.title}. Stuck? hint({name!r})")
    if _is_blank(answer):
        return nothing
    cases = exercise.cases(seed)
    for number, args in enumerate(cases):
        want = exercise.expected(*_copies(args))
        try:
            got = answer(*_copies(args)) if callable(answer) else answer
        except NotImplementedError:
            return nothing
        except Exception as error:
            shown = describe_args(args)
            return Result(name, WRONG, f"for {shown} your code raised {type(error).__name__}: {error}")
        if number == 0 and _is_blank(got):
            return nothing
        if exercise.accept is not None:
            complaint = exercise.accept(args, got)
            if complaint is not None:
                return Result(name, WRONG, complaint)
        elif not same(got, want, exercise.tolerance):
            describe = exercise.describe or describe_plainly
            return Result(name, WRONG, describe(args, got, want))
    many = f"all {len(cases)} cases agree" if len(cases) > 1 else "your answer is the measured one"
    return Result(name, RIGHT, f"{exercise.title}: {many}")


def check(name: str, answer: Any, *, seed: int = 0) -> Result:
    """Judge an answer and remember the verdict.

    Parameters
    ----------
    name : str
        The exercise, such as "02.1".
    answer : callable or value
        What the learner wrote.
    seed : int
        Of the random cases; a grader uses others than the learner.

    Returns
    -------
    Result

    Raises
    ------
    AssertionError
        Only when a grader runs the notebook (`VBW_STRICT` or nbgrader's variable is set) and the answer is not right.
    """
    result = judge(get_exercise(name), answer, seed)
    RESULTS[name] = result
    strict = os.environ.get("VBW_STRICT", "0") not in ("", "0") or "NBGRADER_EXECUTION" in os.environ
    if strict and not result:
        raise AssertionError(repr(result))
    return result


def hint(name: str, number: int | None = None) -> None:
    """Print the next hint to an exercise (or hint `number`, from 1)."""
    exercise = get_exercise(name)
    if number is None:
        number = _hints_given.get(name, 0) + 1
    if number < 1:
        raise UserError(f"hints are numbered from 1, not {number}")
    if number > len(exercise.hints):
        print(f"{name}: that was the last hint. solution({name!r}) shows an answer.")
        return
    _hints_given[name] = number
    print(f"{name}, hint {number} of {len(exercise.hints)}: {exercise.hints[number - 1]}")


def solution(name: str) -> None:
    """Print an answer to an exercise."""
    exercise = get_exercise(name)
    print(f"# one answer to {name} ({exercise.title}):\n{exercise.solution.rstrip()}")


# ---- counter-examples in bits


def float_bits(x: float) -> str:
    """The 32 bits of a float32 as sign | exponent | mantissa."""
    bits = f"{int(np.float32(x).view(np.uint32)):032b}"
    return f"{bits[0]}|{bits[1:9]}|{bits[9:]}"


def nibble_bits(code: Any) -> str:
    """A 4-bit code as sign, exponent, mantissa: `0 10 1`; something else as it is."""
    try:
        number = int(code)
    except (TypeError, ValueError):
        return repr(code)
    return f"{number} = {number >> 3 & 1} {number >> 1 & 3:02b} {number & 1}" if 0 <= number < 16 else f"{number}"


def byte_bits(byte: Any) -> str:
    """A byte as high nibble and low nibble: `0x5a = 0101 1010`."""
    number = int(byte)
    return f"0x{number:02x} = {number >> 4:04b} {number & 15:04b}" if 0 <= number < 256 else f"{number}"


def describe_value(value: Any) -> str:
    """A short text of a value; a lone float with its bits."""
    if isinstance(value, np.ndarray | list | tuple):
        return np.array2string(np.asarray(value), threshold=16, edgeitems=4, separator=", ", precision=6)
    if isinstance(value, float | np.floating):
        return f"{value:.9g}"
    return repr(value.item() if isinstance(value, np.generic) else value)


def describe_args(args: tuple) -> str:
    """The arguments of a case, as they would be typed."""
    return "(" + ", ".join(describe_value(a) for a in args) + ")" if args else "this exercise"


def describe_plainly(args: tuple, got: Any, want: Any) -> str:
    """The counter-example without bits."""
    lead = f"the smallest input that shows it is {describe_args(args)}\n" if args else ""
    if np.shape(got) != np.shape(want):
        return f"{lead}your answer has shape {np.shape(got)}, expected {np.shape(want)}"
    return f"{lead}your answer: {describe_value(got)}\nexpected:    {describe_value(want)}"


# ---- claims and predictions


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
    shown = describe_value(measured)
    print(f"[holds] {text}" + (f"  (measured {shown})" if len(shown) < 60 else ""))


def predict(guess: Any, actual: Any, what: str = "") -> None:
    """Compare a guess with what was measured; without a guess, say so and go on."""
    label = f"{what}: " if what else ""
    if _is_blank(guess):
        print(f"{label}no guess yet. It is {describe_value(actual)}.")
    elif same(guess, actual, 1e-9):
        print(f"{label}you said {describe_value(guess)}, and so it is.")
    else:
        print(f"{label}you said {describe_value(guess)}; it is {describe_value(actual)}. Where does it come from?")
