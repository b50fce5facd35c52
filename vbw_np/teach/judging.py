"""Judge what an answer gave. The answers are plain data here, and no code of the learner's runs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import asking
from .exercise import NOT_ATTEMPTED, RIGHT, WRONG, Exercise, Result, once
from .givens import resolved
from .plain import from_plain, numbers, to_plain
from .show import describe_args, describe_input, describe_kind, describe_plainly, describe_value


def same(got: Any, want: Any, tolerance: float = 0.0) -> bool:
    """Whether two answers agree: equal values and shapes (NaN equals NaN), or within `tolerance`.

    An array, a list and a tuple of the same numbers agree; a string and a number never do.
    """
    if isinstance(want, str) or isinstance(got, str):
        return isinstance(want, str) and isinstance(got, str) and got == want
    if isinstance(want, bool | np.bool_):
        return isinstance(got, bool | np.bool_) and bool(got) == bool(want)
    got_array, want_array = numbers(got), numbers(want)
    if want_array is None:
        sequences = isinstance(got, list | tuple) and isinstance(want, list | tuple) and len(got) == len(want)
        return sequences and all(same(g, w, tolerance) for g, w in zip(got, want))
    if got_array is None or got_array.shape != want_array.shape:
        return False
    if got_array.dtype.kind == "O" or want_array.dtype.kind == "O":  # whole numbers beyond 64 bits
        return bool((got_array == want_array).all())
    if not tolerance:
        return bool(np.array_equal(got_array, want_array, equal_nan=True))
    return bool(np.allclose(got_array, want_array, rtol=0, atol=tolerance, equal_nan=True))


def is_blank(answer: Any) -> bool:
    """Whether an answer is none: `None`, `...`, `NotImplemented`."""
    return answer is None or answer is Ellipsis or answer is NotImplemented


def plain_cases(exercise: Exercise, seed: int) -> list[dict[str, Any]]:
    """The cases as they are handed to the answer."""
    return [to_plain(tuple(args)) for args in exercise.cases(seed)]


def judge(exercise: Exercise, answer: Any, seed: int = 0) -> Result:
    """Judge an answer in this process, on the cases of `seed`: what `check` does for the learner who sits before it.

    Nobody else should trust such a verdict, for code that runs here can change everything here: see `grading`.
    """
    return verdict(exercise, seed, list(asking.outcomes(answer, plain_cases(exercise, seed), exercise.rules())))


def verdict(
    exercise: Exercise, seed: int, outcomes: Sequence[dict[str, Any]], ended: str = "gave no answer"
) -> Result:
    """The verdict on what an answer gave for the cases of `seed`.

    Parameters
    ----------
    exercise : Exercise
    seed : int
    outcomes : sequence of dict
        From `asking.outcomes`; fewer than there are cases if the code did not come to an end.
    ended : str
        How it ended then: "ended the process".
    """
    name, cases, uses = exercise.name, exercise.cases(seed), []
    for number, args in enumerate(cases):
        outcome = outcomes[number] if number < len(outcomes) else {"kind": None}
        try:
            state, message = _of_case(exercise, args, outcome, ended)
            uses += [str(what)[:60] for what in outcome.get("uses", [])[:3]]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
            # not what `asking` writes: somebody else wrote it
            state, message = WRONG, f"for {describe_args(args)} your code gave something that is not an answer"
        if state == NOT_ATTEMPTED:
            return Result(name, NOT_ATTEMPTED, f"{exercise.title}. Stuck? hint({name!r})")
        if state == WRONG:
            return Result(name, WRONG, message)
    if uses:
        what = ", ".join(dict.fromkeys(uses[:3]))
        rule = "without dividing" if "division" in what else "without the library's help"
        return Result(name, WRONG, f"the results are right, but your code uses {what}: write it {rule}")
    many = f"all {len(cases)} cases agree" if len(cases) > 1 else "your answer is the measured one"
    return Result(name, RIGHT, f"{exercise.title}: {many}")


def _of_case(exercise: Exercise, args: tuple, outcome: dict[str, Any], ended: str) -> tuple[str, str]:
    shown, kind = describe_args(args), outcome["kind"]
    if kind == asking.STUB:
        return NOT_ATTEMPTED, ""
    if kind == asking.NO_FUNCTION:
        return WRONG, f"{exercise.target} should be a function, and is of type {str(outcome['type'])[:50]}"
    if kind == asking.RAISED:
        return WRONG, f"for {shown} your code raised {asking.in_words(outcome)}"
    if kind != asking.VALUE:
        return WRONG, f"for {shown} your code {ended}"
    got = from_plain(outcome["value"])
    if is_blank(got):
        if outcome["empty"]:
            return NOT_ATTEMPTED, ""
        return WRONG, f"for {shown} your function returned {outcome['value']['v']}: is a `return` missing?"
    complaint = _complaint(exercise, args, got)
    return (RIGHT, "") if complaint is None else (WRONG, complaint)


def _complaint(exercise: Exercise, args: tuple, got: Any) -> str | None:
    """What is wrong with one answer, or None."""
    if exercise.accept is not None:
        return exercise.accept(args, got)
    want = exercise.expected(*resolved(from_plain(to_plain(tuple(args)))))  # of its own copy
    if same(got, want, exercise.tolerance):
        return None
    if exercise.cases is once:
        return _nudge(exercise, got, want)
    as_numbers, wanted, names = numbers(got), numbers(want), tuple(inspect.signature(exercise.expected).parameters)
    if wanted is not None and (as_numbers is None or as_numbers.dtype.kind == "O"):
        return f"{describe_input(args, names)}your answer is {describe_kind(got)}\nexpected:    {describe_value(want)}"
    shown = got if as_numbers is None or not as_numbers.shape else as_numbers
    try:
        if exercise.describe is not None:
            return exercise.describe(args, shown, want)
    except (ValueError, TypeError, OverflowError, IndexError):
        shown = got
    return describe_plainly(args, shown, want, names)


def _nudge(exercise: Exercise, got: Any, want: Any) -> str:
    """Of a plain number only which way it is wrong, and the first hint: the right one would be the whole answer."""
    value = numbers(got)
    if value is None or value.shape or value.dtype.kind not in "biuf":
        return f"your answer is {describe_kind(got)}\nexpected:    a number"
    way = "too large" if value > want else "too small" if value < want else "no number that can be compared"
    return f"your answer: {describe_value(got)}\nit is {way}. {exercise.hints[0]}"
