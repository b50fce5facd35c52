"""Grade a learner's notebook: every exercise in a process of its own, and always the whole report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import asking
from .catalog import EXERCISES, get_exercise
from .exercise import MISSING, RIGHT, WRONG, Exercise, Result
from .isolation import SECONDS, Answers, Isolation
from .judging import plain_cases, verdict
from .needed import defines, excerpt
from .runner import BEGIN, Cell, read_learners_file, read_notebook

SEED = 20_001


def grade(
    path: str | Path, seed: int = SEED, *, seconds: float = SECONDS, only: Sequence[str] = ()
) -> dict[str, Any]:
    """Judge every exercise of a learner's notebook, on other cases than the learner saw.

    Parameters
    ----------
    path : str or Path
        An ``.ipynb`` file.
    seed : int
        Of the random cases.
    seconds : float
        Time limit for each exercise.
    only : sequence of str
        The exercises that were set; without, all those of the curriculum's notebook that this one is.

    Returns
    -------
    dict
        ``file``, ``right``, ``total``, ``errors`` (cells that raised, of those that an answer needs) and
        ``exercises``: name, title, state ("right", "wrong", "not attempted", "missing") and message.

    Raises
    ------
    UserError
        The file is no notebook, or has nothing to do with the curriculum.
    """
    path = Path(path)
    cells = read_notebook(path)
    wanted = [get_exercise(name) for name in only] or set_in(cells)
    if not wanted:
        raise UserError(
            f"{path} has no exercises of this curriculum in it (looked for in its cells' metadata, their text and its "
            f"title); --exercises NAMES says which ones to look for"
        )
    verdicts, errors = [], {}
    with Isolation(seconds) as isolation:
        for exercise in wanted:
            result, answers = judge_cells(isolation, exercise, cells, seed, path)
            verdicts.append({"name": exercise.name, "title": exercise.title, "state": result.state,
                             "message": result.message})  # fmt: skip
            errors |= {e["cell"]: asking.in_words(e).splitlines()[0] for e in answers.errors}
    return {
        "file": str(path),
        "right": sum(v["state"] == RIGHT for v in verdicts),
        "total": len(verdicts),
        "errors": [{"cell": number, "error": errors[number]} for number in sorted(errors)],
        "exercises": verdicts,
    }


def check_file(
    path: Path, name: str, seed: int = 0, *, seconds: float = SECONDS
) -> tuple[Result, Answers]:
    """Judge the answer to one exercise in a ``.py`` or ``.ipynb`` file, in a process of its own.

    Raises
    ------
    UserError
        The file cannot be read, or does not define the answer.
    """
    exercise = get_exercise(name)
    cells = read_notebook(path) if path.suffix == ".ipynb" else [Cell("code", read_learners_file(path))]
    with Isolation(seconds) as isolation:
        result, answers = judge_cells(isolation, exercise, cells, seed, path)
    if result.state == MISSING or answers.found is False:
        because = f": {asking.in_words(answers.errors[0])}" if answers.errors else ""
        raise UserError(f"{path} does not define {exercise.target!r}{because}")
    return result, answers


def judge_cells(
    isolation: Isolation, exercise: Exercise, cells: Sequence[Cell], seed: int, path: Path
) -> tuple[Result, Answers]:
    """The verdict on one exercise of a notebook, and what its process gave."""
    places = where(exercise, cells)
    if not places:
        text = f"no cell defines `{exercise.target}` ({exercise.title}): was its cell deleted?"
        return Result(exercise.name, MISSING, text), Answers()
    whole = len(cells) == 1  # a Python file
    asked = [
        {"source": source, "label": path.name if whole else f"cell {i}", "number": i}
        for i, source in excerpt(cells, places)
    ]
    cases, beside = plain_cases(exercise, seed), path.resolve().parent
    answers = isolation.ask(asked, exercise.target, cases, exercise.rules(), beside)
    here = [e for e in answers.errors if e["cell"] in places]
    if answers.found is None:
        return Result(exercise.name, WRONG, f"the code around the answer {answers.ended}"), answers
    if not answers.found or (here and not whole):
        because = f"the cell raised {asking.in_words(here[0])}" if here else f"no `{exercise.target}` is defined"
        return Result(exercise.name, WRONG, because), answers
    return verdict(exercise, seed, answers.outcomes, answers.ended), answers


def where(exercise: Exercise, cells: Sequence[Cell]) -> list[int]:
    """The numbers of the cells that answer an exercise: by their metadata, and by the name that they define."""
    return [
        i
        for i, cell in enumerate(cells)
        if cell.kind == "code" and (cell.exercise == exercise.name or defines(cell.source, exercise.target))
    ]


def set_in(cells: Sequence[Cell]) -> list[Exercise]:
    """All exercises of the notebook that this one is, or was before somebody deleted, renamed or stripped cells.

    It is recognised by the cells' metadata and by the calls of `check`; if there are none, by its title; if that is
    gone, by what its cells define between solution marks.
    """
    marked = {name for cell in cells for name in (cell.exercise, cell.check) if name}
    called = {name for cell in cells if cell.kind == "code"
              for name in re.findall(r"\bcheck\(\s*[\"'](\d\d\.\d+)[\"']", cell.source)}  # fmt: skip
    titled = {f"{match[1]}." for cell in cells if cell.kind == "markdown"
              for match in [re.match(r"#\s+(\d\d)\s", cell.source)] if match}  # fmt: skip
    defined = {e.name for e in EXERCISES.values() for cell in cells if cell.kind == "code" and BEGIN in cell.source
               and defines(cell.source, e.target)}  # fmt: skip
    for names in (marked | called, titled, defined):
        notebooks = {name.partition(".")[0] for name in names}
        found = [e for e in EXERCISES.values() if e.notebook in notebooks]
        if found:
            return found
    return []
