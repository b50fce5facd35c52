"""What a learner calls in a notebook: check an answer, ask for a hint, ask for the solution.

An answer has three states, and a learner is always told which: *not attempted* (the stub still stands), *wrong* (with
the smallest input that shows it, in bits) and *right*. Nothing here stops a notebook: a wrong answer is shown, and
the cells below go on with the library's own functions. Only when a grader runs the notebook (`VBW_STRICT=1`, or
nbgrader's own variable) does a check raise.
"""

from __future__ import annotations

import os
from typing import Any

from ..errors import UserError
from .catalog import get_exercise
from .exercise import WRONG, Exercise, Result, once
from .judging import judge
from .show import describe_value

RESULTS: dict[str, Result] = {}
"""The last verdict on each exercise in this process."""

_hints_given: dict[str, int] = {}
_wrong_before: dict[str, str] = {}


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
    exercise = get_exercise(name)
    result = judge(exercise, answer, seed)
    if result.state == WRONG and exercise.cases is once and exercise.accept is None:
        result = _of_a_number(exercise, result)
    RESULTS[name] = result
    strict = os.environ.get("VBW_STRICT", "0") not in ("", "0") or "NBGRADER_EXECUTION" in os.environ
    if strict and not result:
        raise AssertionError(repr(result))
    return result


def _of_a_number(exercise: Exercise, result: Result) -> Result:
    """The verdict on a wrong number: the right one comes with the second answer that is wrong, not with the first."""
    first = _wrong_before.setdefault(exercise.name, result.message)
    if first == result.message:
        more = f"Try again; the next wrong answer shows the number, and so does solution({exercise.name!r})."
    else:
        more = f"expected:    {describe_value(exercise.expected())}"
    return Result(exercise.name, WRONG, f"{result.message}\n{more}")


def hint(name: str, number: int | None = None, *, more: str = "") -> None:
    """Print the next hint to an exercise (or hint `number`, from 1); `more` is what shows a solution after the last."""
    exercise = get_exercise(name)
    if number is None:
        number = _hints_given.get(name, 0) + 1
    if number < 1:
        raise UserError(f"hints are numbered from 1, not {number}")
    if number > len(exercise.hints):
        print(f"{name}: that was the last hint. {more or f'solution({name!r})'} shows an answer.")
        return
    _hints_given[name] = number
    print(f"{name}, hint {number} of {len(exercise.hints)}: {exercise.hints[number - 1]}")


def solution(name: str) -> None:
    """Print an answer to an exercise."""
    exercise = get_exercise(name)
    print(f"# one answer to {name} ({exercise.title}):\n{exercise.solution.rstrip()}")
