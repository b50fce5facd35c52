"""The curriculum's own tools: exercises that check themselves, claims, grading.

In a notebook::

    from vbw_np.teach import check, claim, hint, predict, solution

    check("02.1", decode)      # right, wrong (with the smallest counter-example, in bits), or not attempted
    hint("02.1")               # one more nudge each time
    solution("02.1")

On the command line: ``vbw learn list``, ``vbw learn check 02.1 my.py``, ``vbw learn hint 02.1`` and
``vbw grade my.ipynb --json``.

Modules
-------
exercise      what an exercise and a verdict are
lessons       the exercises: cases, right answers, hints, a solution, a wrong answer that must be caught
catalog       all of them by name
checking      `check`, `hint`, `solution`: what a learner calls
claiming      `claim`, `predict`: sentences that a notebook asserts
covering      in Jupyter, what follows a guess that nobody has made
judging       the verdict on answers that are plain data
plain         values as plain data, without running a method of the learner's; givens: functions by name
show          counter-examples as text, numbers and their bits
asking, rules what an answer gives for each case; what it uses that it should not
worker        the process that a learner's code runs in; isolation: the grader's end of it
grading       a whole notebook; needed: which of its cells an answer needs; runner: notebooks without Jupyter
browser       one cell at a time, for a page in which Python itself runs
own           `own_parts`: the reader's right answers, for a later notebook to use
written       `first_texts`: what three trained models wrote
commands      `vbw learn`, `vbw grade`
"""

from __future__ import annotations

from .catalog import exercises, get_exercise
from .checking import RESULTS, check, hint, solution
from .claiming import CLAIMS, Claim, claim, predict
from .covering import uncover
from .exercise import MISSING, NOT_ATTEMPTED, RIGHT, WRONG, Exercise, Result
from .judging import judge
from .own import Part, own_parts
from .show import byte_bits, float_bits, nibble_bits
from .written import first_texts

__all__ = [
    "CLAIMS",
    "MISSING",
    "NOT_ATTEMPTED",
    "RESULTS",
    "RIGHT",
    "WRONG",
    "Claim",
    "Exercise",
    "Part",
    "Result",
    "byte_bits",
    "check",
    "claim",
    "exercises",
    "first_texts",
    "float_bits",
    "get_exercise",
    "hint",
    "judge",
    "nibble_bits",
    "own_parts",
    "predict",
    "solution",
    "uncover",
]
