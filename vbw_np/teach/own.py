"""The reader's own parts: right answers, taken from the notebooks that the reader saved, to be used in a later one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .catalog import get_exercise
from .exercise import Exercise, Result
from .grading import SEED, judge_cells, where
from .isolation import Isolation
from .judging import judge
from .needed import excerpt
from .runner import read_notebook

SECONDS = 30.0


@dataclass(frozen=True)
class Part:
    """One part of a larger program: the reader's, or the library's in its place.

    Attributes
    ----------
    name : str
        The exercise.
    target : str
    function : callable
    yours : bool
    why : str
        Where it was found, or why it is the library's.
    """

    name: str
    target: str
    function: Callable[..., Any]
    yours: bool
    why: str

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __repr__(self) -> str:
        return f"{self.name} {self.target:16} {'yours' if self.yours else 'the library’s'} ({self.why})"


def notebooks_folder() -> Path:
    """Where the reader's notebooks are: `VBW_NOTEBOOKS`, the folder that this kernel started in, the checkout's."""
    named = os.environ.get("VBW_NOTEBOOKS")
    if named:
        return Path(named)
    here = Path.cwd()
    nearby = [folder for folder in (here, here / "notebooks") if any(folder.glob("[0-9][0-9]_*.ipynb"))]
    return nearby[0] if nearby else Path(__file__).resolve().parents[2] / "notebooks"


def own_parts(
    names: Sequence[str], here: Mapping[str, Callable[..., Any]] | None = None, folder: Path | None = None
) -> dict[str, Part]:
    """The reader's answers to exercises where they are right, else the library's.

    Parameters
    ----------
    names : sequence of str
        Exercises, such as "02.3". Their notebooks must have been saved.
    here : mapping, optional
        Answers of the notebook that is open, by exercise.
    folder : Path, optional
        The notebooks; `notebooks_folder` if it is not given.

    Returns
    -------
    dict
        A `Part` for each name.
    """
    folder, here = folder or notebooks_folder(), here or {}
    parts = {}
    with Isolation(SECONDS) as isolation:
        for name in names:
            exercise = get_exercise(name)
            if name in here:
                result = judge(exercise, here[name], SEED)
                parts[name] = _part(exercise, result, lambda name=name: here[name], "in this notebook")
            else:
                parts[name] = _saved(isolation, exercise, folder)
    return parts


def _part(exercise: Exercise, result: Result, get: Callable[[], Any], place: str) -> Part:
    if result:
        return Part(exercise.name, exercise.target, get(), True, f"found {place}")
    return Part(exercise.name, exercise.target, exercise.expected, False, f"{result.state} {place}")


def _saved(isolation: Isolation, exercise: Exercise, folder: Path) -> Part:
    """Judge the answer in a saved notebook in a process of its own; only then run it in this one."""
    named = f"{exercise.notebook}_*.ipynb"
    paths = sorted(folder.glob(named)) or sorted(folder.glob(f"* {named}"))  # "Copy of 05_...": Colab's name for it
    if not paths:
        place = f"no notebook {exercise.notebook} in {folder.name or folder}"
        return Part(exercise.name, exercise.target, exercise.expected, False, place)
    try:
        cells = read_notebook(paths[0])
    except UserError as error:
        return Part(exercise.name, exercise.target, exercise.expected, False, str(error))
    result, _ = judge_cells(isolation, exercise, cells, SEED, paths[0])

    def run() -> Any:
        namespace: dict[str, Any] = {"__name__": "__main__", "display": print}
        for number, source in excerpt(cells, where(exercise, cells)):
            exec(compile(source, f"<{paths[0].name}, cell {number}>", "exec"), namespace)
        return namespace[exercise.target]

    return _part(exercise, result, run, f"in {paths[0].name}")
