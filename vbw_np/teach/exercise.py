"""What an exercise is, and what a verdict is. Nothing here knows which exercises there are, or how an answer is got."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

RIGHT, WRONG, NOT_ATTEMPTED, MISSING = "right", "wrong", "not attempted", "missing"
_MARK = {RIGHT: "[ok]", WRONG: "[x]", NOT_ATTEMPTED: "[ ]", MISSING: "[?]"}
# Okabe and Ito's palette; the words say it too
_EDGE = {RIGHT: "#009E73", WRONG: "#D55E00", NOT_ATTEMPTED: "#999999", MISSING: "#999999"}


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
        value, one empty tuple. Arguments are numbers, strings, arrays, tuples of them, or functions of `givens`:
        they travel to another process as plain data.
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
        The counter-example in words and bits. It is given numbers and arrays only, never an object of the learner's.
    tolerance : float
        Largest absolute difference allowed, for answers that are not exact.
    accept : callable (args, got) -> str or None, optional
        Where many answers are right: None for a right one, else what is wrong with it. `expected` then serves only to
        show one.
    library : bool
        Whether the answer may use the library. Most are to be written without it.
    division : bool
        Whether the answer may divide.
    frozen : bool
        Whether the arrays that it is given refuse to be written to, where the task is to leave them as they are.
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
    library: bool = False
    division: bool = True
    frozen: bool = False

    @property
    def notebook(self) -> str:
        """The number of its notebook: "02"."""
        return self.name.partition(".")[0]

    def rules(self) -> dict[str, bool]:
        """What the answer may use and change, as plain data."""
        return {"library": self.library, "division": self.division, "frozen": self.frozen}


def exercise(name: str, title: str, target: str, **rest: Any) -> Exercise:
    """An exercise, with its code stripped of the newlines around it."""
    rest["solution"] = rest["solution"].strip("\n")
    rest["wrong"] = rest["wrong"].strip("\n")
    return Exercise(name, title, target, **rest)


def once(seed: int) -> Sequence[tuple]:
    """The cases of a plain value: there is one, without arguments."""
    return [()]


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
