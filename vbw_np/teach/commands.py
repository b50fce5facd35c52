"""The verbs `vbw learn` and `vbw grade`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .. import options

VERBS = {
    "learn": "the notebooks' exercises: list them, check an answer, ask for a hint or the solution",
    "grade": "judge the exercises in a learner's notebook",
}

ISOLATION = """\
A learner's code runs in a process of its own, one for each exercise, and never in the one that judges: whatever it
does to itself (sys.exit, endless loops, patched libraries) makes that answer wrong and nothing else. It has a time
limit, 8 GiB of memory, cannot start processes and cannot signal others. What is NOT isolated: it reads files, writes
files and uses the network with your rights. For code that you would not run yourself, use a container or another user.
A check inside a notebook (and nbgrader's own run) shares the kernel with the learner's code: trust only `vbw grade`."""


def add_commands(subparsers: Any) -> None:
    """Add ``vbw learn`` and ``vbw grade``."""
    learn = subparsers.add_parser(
        "learn",
        help=VERBS["learn"],
        description="The exercises of the notebooks (see notebooks/ and docs/notebooks/index.html).",
        epilog="examples:\n  vbw learn list\n  vbw learn hint 02.1\n  vbw learn check 02.1 answer.py\n"
        "  vbw learn solution 02.1",
    )
    actions = learn.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="all exercises by notebook")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=_list)
    checking = actions.add_parser(
        "check", help="judge the answer in a .py or .ipynb file (the file is run)", epilog=ISOLATION
    )
    checking.add_argument("exercise", type=options.name, help="such as 02.1")
    checking.add_argument("file", type=options.path, help="a Python file or a notebook that defines the answer")
    _add_seconds(checking)
    checking.set_defaults(run=_check)
    hinting = actions.add_parser("hint", help="a nudge")
    hinting.add_argument("exercise", type=options.name, help="such as 02.1")
    hinting.add_argument("--number", type=options.whole(1), default=1, help="which hint, from 1 (default: the first)")
    hinting.set_defaults(run=_hint)
    solving = actions.add_parser("solution", help="an answer")
    solving.add_argument("exercise", type=options.name, help="such as 02.1")
    solving.set_defaults(run=_solution)

    grading = subparsers.add_parser(
        "grade",
        help=VERBS["grade"],
        description="Judge every exercise in a learner's notebook on other cases than the learner saw. Only the cells "
        "that an answer needs are run. Exit code 0: all right; 1: something is wrong, missing or not attempted.",
        epilog=f"{ISOLATION}\n\nexamples:\n  vbw grade notebooks/02_e2m1.ipynb\n  vbw grade submission.ipynb --json",
    )
    grading.add_argument("file", type=options.path, help="a notebook (.ipynb)")
    grading.add_argument("--json", action="store_true", help="print the verdicts as JSON, nothing else")
    grading.add_argument("--seed", type=options.seed, default=20_001, help="of the random cases (default: %(default)s)")
    grading.add_argument("--exercises", type=options.name, default=None, metavar="NAMES",
                         help="which were set, such as 02.1,03.1 (default: all of this notebook)")  # fmt: skip
    _add_seconds(grading)
    grading.set_defaults(run=_grade)


def _add_seconds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=options.number(0, open_ends=True), default=60.0,
                        help="time limit for an answer (default: %(default)g)")  # fmt: skip


def _list(arguments: argparse.Namespace) -> int:
    from .catalog import exercises

    if arguments.json:
        print(json.dumps([{"name": e.name, "title": e.title, "target": e.target} for e in exercises().values()]))
        return 0
    notebook = ""
    for exercise in exercises().values():
        if exercise.notebook != notebook:
            notebook = exercise.notebook
            print(f"notebook {notebook}")
        print(f"  {exercise.name}  {exercise.title} (define `{exercise.target}`)")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from .grading import check_file

    result, answers = check_file(Path(arguments.file), arguments.exercise, seconds=arguments.seconds)
    print(answers.printed, end="", file=sys.stderr)
    print(repr(result).replace(f"hint({result.exercise!r})", f"vbw learn hint {result.exercise}"))
    return 0 if result else 1


def _hint(arguments: argparse.Namespace) -> int:
    from .checking import hint

    hint(arguments.exercise, arguments.number, more=f"vbw learn solution {arguments.exercise}")
    return 0


def _solution(arguments: argparse.Namespace) -> int:
    from .checking import solution

    solution(arguments.exercise)
    return 0


def _grade(arguments: argparse.Namespace) -> int:
    from .grading import grade

    only = [name for name in (arguments.exercises or "").split(",") if name]
    verdict = grade(Path(arguments.file), arguments.seed, seconds=arguments.seconds, only=only)
    if arguments.json:
        print(json.dumps(verdict, indent=2))
    else:
        for item in verdict["exercises"]:
            first, *more = item["message"].splitlines()
            print(f"{item['name']}  {item['state']:13}  {first}")
            for line in more:
                print(" " * 21, line)
        for error in verdict["errors"]:
            print(f"cell {error['cell']} raised {error['error']}")
        print(f"{verdict['right']} of {verdict['total']} right")
    return 0 if verdict["right"] == verdict["total"] else 1
