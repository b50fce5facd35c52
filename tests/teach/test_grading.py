"""Notebooks of learners are graded whole, whatever is in them."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vbw_np.cli import main
from vbw_np.errors import UserError
from vbw_np.teach import MISSING, NOT_ATTEMPTED, RIGHT, WRONG, get_exercise
from vbw_np.teach.grading import grade
from vbw_np.teach.isolation import Isolation
from vbw_np.teach.runner import answer_with, read_notebook

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def written(tmp_path: Path, answers: dict[str, str]) -> Path:
    """A learner's copy of the notebook on codes."""
    document = json.loads((NOTEBOOKS / "02_e2m1.ipynb").read_text("utf-8"))
    for cell in document["cells"]:
        name = cell["metadata"].get("vbw", {}).get("exercise")
        if answers and name == "02.3":
            answers = {"02.3": get_exercise("02.3").solution} | answers
        if name in answers:
            cell["source"] = answer_with("".join(cell["source"]), answers[name]).splitlines(keepends=True)
    path = tmp_path / "mine.ipynb"
    path.write_text(json.dumps(document), "utf-8")
    return path


def test_grading_a_learners_notebook(tmp_path, capsys):
    path = written(tmp_path, {"02.1": get_exercise("02.1").solution, "02.2": get_exercise("02.2").wrong})
    assert main(["grade", str(path), "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert [e["state"] for e in verdict["exercises"]] == [RIGHT, WRONG, RIGHT]
    assert (verdict["right"], verdict["total"], verdict["errors"]) == (2, 3, [])
    good = written(tmp_path, {name: get_exercise(name).solution for name in ("02.1", "02.2")})
    assert main(["grade", str(good)]) == 0
    assert "3 of 3 right" in capsys.readouterr().out


def test_grading_goes_on_after_a_cell_that_fails(tmp_path):
    path = written(tmp_path, {"02.1": "return undefined_name", "02.2": "return ("})
    states = {e["name"]: (e["state"], e["message"]) for e in grade(path)["exercises"]}
    assert states["02.1"][0] == WRONG and "NameError" in states["02.1"][1]
    assert "line 3: return undefined_name" in states["02.1"][1]
    assert states["02.2"][0] == WRONG and "SyntaxError" in states["02.2"][1]


def test_grading_refuses_what_is_no_notebook(tmp_path, capsys):
    (tmp_path / "a.ipynb").write_text("not json")
    assert main(["grade", str(tmp_path / "a.ipynb")]) == 2
    assert "not a Jupyter notebook" in capsys.readouterr().err
    assert main(["grade", str(tmp_path / "none.ipynb")]) == 2
    assert "cannot read" in capsys.readouterr().err
    (tmp_path / "b.ipynb").write_text('{"cells": []}')
    assert main(["grade", str(tmp_path / "b.ipynb")]) == 2
    assert "no exercises" in capsys.readouterr().err


def test_a_cell_without_marks_is_refused():
    with pytest.raises(UserError, match="no pair of marks"):
        answer_with("def f():\n    pass", "return 1")


def test_reading_keeps_exercises():
    names = [cell.exercise for cell in read_notebook(NOTEBOOKS / "02_e2m1.ipynb") if cell.exercise]
    assert names == ["02.1", "02.2", "02.3"]


def changed(tmp_path: Path, change: Callable[[list[dict]], list[dict]]) -> Path:
    """The notebook on codes with right answers, after somebody changed its cells."""
    path = written(tmp_path, {name: get_exercise(name).solution for name in ("02.1", "02.2")})
    document = json.loads(path.read_text("utf-8"))
    document["cells"] = change(document["cells"])
    path.write_text(json.dumps(document), "utf-8")
    return path


def states(path: Path, **options) -> dict[str, str]:
    return {e["name"]: e["state"] for e in grade(path, **options)["exercises"]}


def defines_encode(cell: dict) -> bool:
    return "def encode(" in "".join(cell["source"])


def test_a_deleted_exercise_is_named(tmp_path, capsys):
    path = changed(tmp_path, lambda cells: [c for c in cells if not defines_encode(c)])
    assert states(path) == {"02.1": RIGHT, "02.2": MISSING, "02.3": RIGHT}
    assert main(["grade", str(path)]) == 1
    out = capsys.readouterr().out
    assert "02.2  missing        no cell defines `encode` (encode with ties to even): was its cell deleted?" in out
    assert "2 of 3 right" in out


def test_deleted_with_its_check_it_is_still_missed(tmp_path):
    path = changed(tmp_path, lambda cells: [c for c in cells if "encode" not in "".join(c["source"])
                                            or c["cell_type"] != "code"])  # fmt: skip
    assert states(path)["02.2"] == MISSING


def stripped(cells: list[dict]) -> list[dict]:
    return [c | {"metadata": {}} for c in cells]


def test_without_metadata_exercises_are_recognised_by_their_text(tmp_path):
    assert states(changed(tmp_path, stripped)) == {"02.1": RIGHT, "02.2": RIGHT, "02.3": RIGHT}
    code_only = changed(tmp_path, lambda cells: [c for c in stripped(cells) if c["cell_type"] == "code"
                                                 and "check(" not in "".join(c["source"])])  # fmt: skip
    assert states(code_only) == {"02.1": RIGHT, "02.2": RIGHT, "02.3": RIGHT}
    titled = changed(tmp_path, lambda cells: [c for c in stripped(cells) if c["cell_type"] == "markdown"])
    assert states(titled) == {"02.1": MISSING, "02.2": MISSING, "02.3": MISSING}


def test_nbgraders_own_metadata_is_enough(tmp_path):
    path = changed(tmp_path, lambda cells: [c | {"metadata": {k: v for k, v in c["metadata"].items() if k != "vbw"}}
                                            for c in cells])  # fmt: skip
    assert [c.exercise for c in read_notebook(path) if c.exercise] == ["02.1", "02.2", "02.3"]
    assert states(path) == {"02.1": RIGHT, "02.2": RIGHT, "02.3": RIGHT}


def test_only_what_was_set_is_graded(tmp_path, capsys):
    path = changed(tmp_path, lambda cells: [c for c in cells if not defines_encode(c)])
    assert states(path, only=["02.1"]) == {"02.1": RIGHT}
    assert main(["grade", str(path), "--exercises", "02.1"]) == 0
    assert main(["grade", str(path), "--exercises", "02.1,02.9"]) == 2
    assert "no exercise '02.9'" in capsys.readouterr().err


HOSTILE = {
    "sys.exit": "import sys; sys.exit(0)",
    "quit": "quit()",
    "os._exit": "import os; os._exit(0)",
    "endless": "while True: pass",
    "NaN": "return float('nan')",
    "bools": "import numpy as np; return np.array([True, False])",
    "raising repr": "class R:\n    def __repr__(self): raise SystemExit(0)\n    __str__ = __repr__\nreturn R()",
    "equal to all": "class Y:\n    __eq__ = __bool__ = lambda *a: True\n    __hash__ = None\nreturn Y()",
    "patched comparison": "import numpy as np\nnp.array_equal = np.allclose = lambda *a, **k: True\nreturn 99",
    "patched builtins": "import builtins\nbuiltins.len = lambda x: 0\nbuiltins.isinstance = lambda *a: True\nreturn 99",
    "at exit": "import atexit, os\natexit.register(os._exit, 0)\nreturn 99",
    "a thread that exits": "import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()\nreturn 99",
    "a report of its own": "print('02.1  right  \\n02.2  right  \\n3 of 3 right', flush=True)\nreturn 99",
    "a kill": "import ctypes, os\nctypes.CDLL(None).kill(os.getppid(), 9)\nreturn 99",
    "no room": "import numpy as np; return [np.zeros(1 << 27) for _ in range(20)]",  # 20 GiB, none of it written to
    "patched judge": "from vbw_np.teach import judging\njudging.same = lambda *a: True\nreturn 99",
}


def limit(body: str) -> tuple[str, str]:
    """An endless answer is waited for as long as the limit says; others end by themselves."""
    return "--seconds", "1" if body == HOSTILE["endless"] else "20"


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("at", ["02.1", "02.2"])
def test_one_bad_answer_changes_nothing_for_the_others(tmp_path, capsys, body, at):
    other = {"02.1": "02.2", "02.2": "02.1"}[at]
    path = written(tmp_path, {at: body, other: get_exercise(other).solution})
    assert main(["grade", str(path), *limit(body)]) == 1
    out = capsys.readouterr().out
    shown = dict(re.findall(r"^(02\.\d)  (right|wrong) ", out, re.MULTILINE))
    assert shown == {at: WRONG, other: RIGHT, "02.3": RIGHT} and out.endswith("2 of 3 right\n")


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_file_with_a_bad_answer_is_wrong(tmp_path, capsys, body):
    (tmp_path / "mine.py").write_text("def decode(code):\n" + textwrap.indent(body, "    "))
    assert main(["learn", "check", "02.1", str(tmp_path / "mine.py"), *limit(body)]) == 1
    assert capsys.readouterr().out.startswith("[x] 02.1 WRONG: ")


def test_cells_that_no_answer_needs_are_not_run(tmp_path):
    def with_others(cells: list[dict]) -> list[dict]:
        def code(text: str) -> dict:
            return {"cell_type": "code", "source": text, "metadata": {}}

        loud = [code("while True: pass"), code("import sys; sys.exit(0)"), code("syntax error"), code("%timeit 1")]
        return [*loud[:2], *cells, *loud[2:]]

    verdict = grade(changed(tmp_path, with_others), seconds=20)
    assert (verdict["right"], verdict["errors"]) == (3, [])


def test_what_an_answer_needs_is_run(tmp_path):
    def with_helper(cells: list[dict]) -> list[dict]:
        for cell in cells:
            if defines_encode(cell):
                cell["source"] = "def encode(x):\n    return counted(abs(x)) | (8 if x < 0 else 0)\n"
        helper = (
            "%matplotlib inline\nimport numpy as np, math\nEDGES = 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0\n"
            "def counted(size):\n    return sum(size >= e if i % 2 else size > e for i, e in enumerate(EDGES))"
        )
        return [*cells, {"cell_type": "code", "source": helper, "metadata": {}}]

    assert states(changed(tmp_path, with_helper)) == {"02.1": RIGHT, "02.2": RIGHT, "02.3": RIGHT}


def test_a_failing_cell_that_is_needed_is_reported(tmp_path):
    def broken(cells: list[dict]) -> list[dict]:
        table = {"cell_type": "code", "source": "table = [0, 1][2]", "metadata": {}}
        return [table, *[c | ({"source": "def encode(x):\n    return table"} if defines_encode(c) else {})
                         for c in cells]]  # fmt: skip

    verdict = grade(changed(tmp_path, broken))
    assert verdict["errors"] == [{"cell": 0, "error": "IndexError: list index out of range"}]
    assert "NameError" in verdict["exercises"][1]["message"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_refused(tmp_path, capsys):
    for name in ("a.ipynb", "a.py"):
        os.mkfifo(tmp_path / name)
    assert main(["grade", str(tmp_path / "a.ipynb")]) == 2
    assert main(["learn", "check", "02.1", str(tmp_path / "a.py")]) == 2
    assert capsys.readouterr().err.count("is not a regular file") == 2


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_time_limit_is_a_time(tmp_path, capsys, seconds):
    assert main(["grade", str(written(tmp_path, {})), "--seconds", seconds]) == 2
    assert "argument --seconds: " in capsys.readouterr().err


def test_as_shipped_nothing_is_attempted(tmp_path):
    assert set(states(written(tmp_path, {})).values()) == {NOT_ATTEMPTED}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent has died")
def test_an_endless_loop_ends_with_the_template(tmp_path):
    """Whoever kills the judge or its template leaves no process behind that runs for ever."""
    with Isolation(30.0) as isolation:
        loop = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))\nwhile True: pass"
        cell = {"source": loop, "label": "loop", "number": 0}
        asking = threading.Thread(target=isolation.ask, args=([cell], "f", [], {}, tmp_path))
        asking.start()
        deadline = time.monotonic() + 20
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        isolation._template.kill()
        asking.join(20)
        process = Path("/proc") / (tmp_path / "pid").read_text() / "stat"
        while process.exists() and process.read_text().rsplit(")", 1)[1].split()[0] != "Z":
            assert time.monotonic() < deadline + 20, "it still runs"
            time.sleep(0.01)
