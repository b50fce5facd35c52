"""Build the notebooks (``notebooks/*.ipynb``) from their sources (``notebooks/src/*.py``). Standard library only.

    python tools/notebooks/build.py                  # write what differs
    python tools/notebooks/build.py --check          # write nothing; exit code 1 if something differs
    python tools/notebooks/build.py --solutions DIR  # the teacher's version, with answers between nbgrader's marks

A source is a Python file in the percent format that JupyterLab's jupytext, VS Code and Spyder read as well::

    # ---
    # title: E2M1: sixteen codes
    # question: How much can four bits say?
    # ---

    # %% [markdown]
    \"\"\"
    # A text cell
    \"\"\"

    # %%
    print("a code cell")

    # %% exercise=02.1
    # %% check=02.1
    # %% slow            (a cell that may take longer than three seconds)

The notebooks carry no outputs. A cell's id is made from its text, so it stays when other cells change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "notebooks" / "src"
NOTEBOOKS = ROOT / "notebooks"
TIMES = Path(__file__).with_name("times.json")  # how long cells run: times.py

REPOSITORY = ""
"""Address of the public repository, such as https://github.com/OWNER/NAME: with it, notebooks have a link that opens
them in Colab, and their first cell gets the project there. Empty as long as there is none."""

SETUP = """\
# Find the project: this notebook runs inside a checkout, beside an installed package, or on Colab.
import sys
from pathlib import Path

REPOSITORY = "{repository}"  # where Colab gets the project from
here = Path.cwd()
root = next((folder for folder in (here, *here.parents) if (folder / "vbw_np" / "engine.py").is_file()), None)
if root is None and REPOSITORY and "google.colab" in sys.modules:
    import importlib.metadata
    import subprocess

    root, before = here / "vbw-np", [found.version for found in importlib.metadata.distributions(name="numpy")]
    if not root.is_dir():
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPOSITORY, str(root)], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", {requirements}], check=True)
    importlib.invalidate_caches()  # what pip has just brought is found
    if before and before != [found.version for found in importlib.metadata.distributions(name="numpy")]:
        print("NumPy was replaced: choose Runtime > Restart session, then run this cell again.")
if root is not None and str(root) not in sys.path:
    sys.path.insert(0, str(root))  # our folder first: another project also has a package called autograd
try:
    import vbw_np
except ImportError:
    raise ImportError(
        "vbw_np was not found. Open this notebook inside a checkout of the project, or install the checkout into "
        "this kernel: python -m pip install --editable PATH_TO_THE_CHECKOUT (on Colab: name its address above)."
    ) from None"""


def setup() -> str:
    """The first code cell."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return SETUP.replace("{repository}", REPOSITORY).replace("{requirements}", ", ".join(f'"{need}"' for need in needs))


def colab_link(source: Source) -> str:
    """A link that opens a notebook of the public repository in Colab; nothing where there is none."""
    place = REPOSITORY.rstrip("/").removesuffix(".git").partition("github.com/")[2]
    if not place:
        return ""
    address = f"https://colab.research.google.com/github/{place}/blob/main/notebooks/{source.name}.ipynb"
    return f" [Open in Colab]({address})."


@dataclass
class SourceCell:
    """One cell of a source."""

    kind: str  # code or markdown
    source: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass
class Source:
    """One notebook's source: its front matter and cells."""

    name: str  # 02_e2m1
    front: dict[str, str]
    cells: list[SourceCell]

    @property
    def number(self) -> str:
        return self.name[:2]


def parse(path: Path) -> Source:
    """Read a source.

    Raises
    ------
    ValueError
        Front matter is missing, or a text cell is not one triple-quoted string.
    """
    text = path.read_text("utf-8")
    match = re.match(r"# ---\n(.*?)# ---\n", text, re.DOTALL)
    if not match:
        raise ValueError(f"{path.name}: it must begin with front matter between two lines '# ---'")
    front = {}
    for line in match.group(1).splitlines():
        key, _, value = line.removeprefix("#").strip().partition(":")
        front[key.strip()] = value.strip()
    for key in ("title", "question"):
        if not front.get(key):
            raise ValueError(f"{path.name}: the front matter has no {key!r}")
    cells = []
    parts = re.split(r"^# %%(.*)\n", text[match.end() :], flags=re.MULTILINE)
    for header, body in zip(parts[1::2], parts[2::2]):
        words = header.split()
        body = body.strip("\n")
        if words[:1] == ["[markdown]"]:
            quoted = re.fullmatch(r'r?"""\n(.*)\n"""', body, re.DOTALL)
            if not quoted:
                raise ValueError(f"{path.name}: a text cell must be one triple-quoted string:\n{body[:80]}")
            cells.append(SourceCell("markdown", quoted.group(1)))
        else:
            options = dict((word.split("=", 1) + [""])[:2] for word in words)
            cells.append(SourceCell("code", body, options))
    return Source(path.stem, front | {"minutes": str(minutes(cells))}, cells)


def minutes(cells: list[SourceCell]) -> int:
    """To read and play, by one rule for all, rounded up to five: 130 words or 8 lines of code a minute, two minutes for
    whatever is to be guessed or changed, one for a picture, ten for an exercise."""
    words = sum(len(cell.source.split()) for cell in cells if cell.kind == "markdown")
    code = [cell.source for cell in cells if cell.kind == "code"]
    lines = sum(bool(line.strip()) for source in code for line in source.splitlines())
    pictures = sum(len(re.findall(r"\bviz\.\w+\(", source)) for source in code)
    tasks = sum(len(re.findall(r"^##.*(?:Predict|Manipulate)", c.source, re.M)) for c in cells if c.kind == "markdown")
    exercises = sum("exercise" in cell.options for cell in cells)
    return 5 * -int(-(words / 130 + lines / 8 + 2 * tasks + pictures + 10 * exercises) // 5)


def sources() -> list[Source]:
    """All sources, in order."""
    return [parse(path) for path in sorted(SOURCES.glob("[0-9][0-9]_*.py"))]


def running(name: str) -> str:
    """How long the cells run, as times.py found it, rounded up to five seconds."""
    took = json.loads(TIMES.read_text("utf-8")).get(name, {"first": 0, "later": 0})
    first, later = (5 * max(1, -int(-took[when] // 5)) for when in ("first", "later"))
    once = f" ({first} the first time ever, while kernels are compiled)" if first > later + 5 else ""
    return f"the cells run in about {later} seconds{once}"


def heading(source: Source) -> str:
    """The first text cell: title, question and what it takes."""
    front = source.front
    needs = front.get("needs", "")
    before = f" Before it: {needs}." if needs else ""
    if front.get("optional"):
        before += " Optional: no later notebook needs it."
    return (
        f"# {source.number} {front['title']}\n\n**{front['question']}**\n\n"
        f"*About {front['minutes']} minutes to read and play; {running(source.name)}.{before} "
        f"Words in bold are in the [glossary](../docs/glossary.md).*{colab_link(source)}"
    )


def _metadata(options: dict[str, str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    if "slow" in options:
        metadata["tags"] = ["slow"]
    for kind, solution in (("exercise", True), ("check", False)):
        if kind in options:
            name = options[kind]
            metadata["vbw"] = {kind: name}
            metadata["nbgrader"] = {
                "grade": not solution,
                "grade_id": f"{kind}-{name.replace('.', '-')}",
                "locked": not solution,
                "schema_version": 3,
                "solution": solution,
                "task": False,
            }
            if not solution:
                metadata["nbgrader"]["points"] = 1
    return metadata


def notebook(source: Source, answers: dict[str, str] | None = None) -> dict[str, Any]:
    """The notebook as the JSON document of nbformat 4.5."""
    cells = []
    seen: dict[str, int] = {}

    def add(kind: str, text: str, metadata: dict[str, Any]) -> None:
        digest = hashlib.sha256(f"{kind}\n{text}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        identity = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell: dict[str, Any] = {
            "cell_type": kind,
            "id": identity,
            "metadata": metadata,
            "source": text.splitlines(keepends=True),
        }
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        cells.append(cell)

    add("markdown", heading(source), {})
    add("code", setup(), {})
    for cell in source.cells:
        text = cell.source
        if answers is not None and "exercise" in cell.options:
            text = answer_with(text, answers[cell.options["exercise"]])
        add(cell.kind, text, _metadata(cell.options))
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "title": source.front["title"],
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def answer_with(text: str, body: str) -> str:
    """A cell with other lines between its solution marks."""
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.strip() == "### BEGIN SOLUTION")
    end = next(i for i, line in enumerate(lines) if line.strip() == "### END SOLUTION")
    indent = lines[begin][: len(lines[begin]) - len(lines[begin].lstrip())]
    new = [indent + line if line.strip() else "" for line in body.strip("\n").splitlines()]
    return "\n".join(lines[: begin + 1] + new + lines[end:])


def rendered(source: Source, answers: dict[str, str] | None = None) -> str:
    """The bytes of the ``.ipynb`` file, as text."""
    return json.dumps(notebook(source, answers), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a notebook is out of date")
    parser.add_argument("--solutions", type=Path, metavar="DIR", help="write the teacher's version into DIR")
    arguments = parser.parse_args()
    answers, folder = None, NOTEBOOKS
    if arguments.solutions:
        sys.path.insert(0, str(ROOT))
        from vbw_np.teach import exercises

        answers, folder = {name: e.solution for name, e in exercises().items()}, arguments.solutions
        folder.mkdir(parents=True, exist_ok=True)
    stale = []
    for source in sources():
        path, text = folder / f"{source.name}.ipynb", rendered(source, answers)
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        stale.append(path.name)
        if not arguments.check:
            path.write_text(text, "utf-8")
    if stale:
        print(("out of date: " if arguments.check else "wrote ") + ", ".join(stale))
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
