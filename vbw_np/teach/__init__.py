"""The curriculum's own tools: exercises that check themselves, claims, grading.

In a notebook::

    from vbw_np.teach import check, claim, hint, predict, solution

    check("02.1", decode)      # right, wrong (with the smallest counter-example, in bits), or not attempted
    hint("02.1")               # one more nudge each time
    solution("02.1")

On the command line: ``vbw learn list``, ``vbw learn check 02.1 my.py``, ``vbw learn hint 02.1`` and
``vbw grade my.ipynb --json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .core import (
    CLAIMS,
    NOT_ATTEMPTED,
    RESULTS,
    RIGHT,
    WRONG,
    Claim,
    Exercise,
    Result,
    byte_bits,
    check,
    claim,
    exercises,
    float_bits,
    get_exercise,
    hint,
    judge,
    nibble_bits,
    predict,
    solution,
)

__all__ = [
    "CLAIMS",
    "NOT_ATTEMPTED",
    "RESULTS",
    "RIGHT",
    "WRONG",
    "Claim",
    "Exercise",
    "Result",
    "byte_bits",
    "check",
    "claim",
    "exercises",
    "float_bits",
    "get_exercise",
    "hint",
    "judge",
    "nibble_bits",
    "predict",
    "solution",
]

VERBS = {
    "learn": "the notebooks' exercises: list them, check an answer, ask for a hint",
    "grade": "run a learner's notebook and judge its exercises",
}


def add_commands(subparsers: Any) -> None:
    """Add ``vbw learn`` and ``vbw grade``."""
    learn = subparsers.add_parser(
        "learn",
        help=VERBS["learn"],
        description="The exercises of the notebooks (see notebooks/ and docs/notebooks/index.html).",
        epilog="examples:\n  vbw learn list\n  vbw learn hint 02.1\n  vbw learn check 02.1 answer.py",
    )
    actions = learn.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="all exercises by notebook")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=_list)
    checking = actions.add_parser("check", help="judge the answer in a .py or .ipynb file (the file is run)")
    checking.add_argument("exercise", help="such as 02.1")
    checking.add_argument("file", type=Path, help="a Python file or a notebook that defines the answer")
    checking.set_defaults(run=_check)
    hinting = actions.add_parser("hint", help="a nudge")
    hinting.add_argument("exercise", help="such as 02.1")
    hinting.add_argument("--number", type=int, default=1, help="which hint, from 1 (default: the first)")
    hinting.set_defaults(run=_hint)

    grading = subparsers.add_parser(
        "grade",
        help=VERBS["grade"],
        description="Run a notebook (its code is executed, with your rights) and judge every exercise in it on other "
        "cases than the learner saw. Exit code 0: all right; 1: something is wrong or not attempted.",
        epilog="examples:\n  vbw grade notebooks/02_e2m1.ipynb\n  vbw grade submission.ipynb --json",
    )
    grading.add_argument("file", type=Path, help="a notebook (.ipynb)")
    grading.add_argument("--json", action="store_true", help="print the verdicts as JSON, nothing else")
    grading.add_argument("--seed", type=int, default=20_001, help="of the random cases (default: %(default)s)")
    grading.set_defaults(run=_grade)


def _list(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps([{"name": e.name, "title": e.title, "target": e.target} for e in exercises().values()]))
        return 0
    notebook = ""
    for exercise in exercises().values():
        if exercise.name[:2] != notebook:
            notebook = exercise.name[:2]
            print(f"notebook {notebook}")
        print(f"  {exercise.name}  {exercise.title} (define `{exercise.target}`)")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from ..errors import UserError
    from .runner import Cell, read_notebook, run_cells

    exercise = get_exercise(arguments.exercise)
    if arguments.file.suffix == ".ipynb":
        cells = read_notebook(arguments.file)
    else:
        cells = [Cell("code", arguments.file.read_text("utf-8"))]
    namespace = run_cells(cells, arguments.file.name, stop=False)
    if exercise.target not in namespace:
        errors = [cell.error.strip().splitlines()[-1] for cell in cells if cell.error]
        because = f": {errors[0]}" if errors else ""
        raise UserError(f"{arguments.file} does not define {exercise.target!r}{because}")
    result = judge(exercise, namespace[exercise.target])
    print(result)
    return 0 if result else 1


def _hint(arguments: argparse.Namespace) -> int:
    hint(arguments.exercise, arguments.number)
    return 0


def _grade(arguments: argparse.Namespace) -> int:
    import contextlib

    from .runner import grade

    with contextlib.redirect_stdout(sys.stderr):
        verdict = grade(arguments.file, arguments.seed)
    if arguments.json:
        print(json.dumps(verdict, indent=2))
    else:
        for item in verdict["exercises"]:
            print(f"{item['name']}  {item['state']:13}  {item['message'].splitlines()[0]}")
        for error in verdict["errors"]:
            print(f"cell {error['cell']} raised {error['error']}")
        print(f"{verdict['right']} of {verdict['total']} right")
    return 0 if verdict["right"] == verdict["total"] else 1
