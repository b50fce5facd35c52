"""Every exercise is given every kind of hostile, broken or merely odd answer, each in a process of its own.

None of them may be called right, none may end, stop or silence the judge, and a right answer is still right after them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vbw_np.teach import NOT_ATTEMPTED, RIGHT, WRONG, exercises
from vbw_np.teach.exercise import once
from vbw_np.teach.grading import judge_cells
from vbw_np.teach.isolation import Isolation
from vbw_np.teach.runner import Cell, answer_with, read_notebook

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="hundreds of processes need a cheap way to start one")

# what the answer does, and the expression that it gives
EXITS = {
    "sys.exit(0)": ("import sys; sys.exit(0)", "0"),
    "quit()": ("quit()", "0"),
    "raise SystemExit": ("raise SystemExit", "0"),
    "os._exit(0)": ("import os; os._exit(0)", "0"),
    "os.abort()": ("import os; os.abort()", "0"),
    "kills itself": ("import os; os.kill(os.getpid(), 9)", "0"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "0"),
    "BaseException": ("raise BaseException('no')", "0"),
    "recursion": ("f = lambda: f(); f = (lambda g: lambda: g(g))(lambda g: g(g)); f()", "0"),
    "an error whose text raises": (
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)\nraise E", "0"),
}  # fmt: skip
LIES = {
    "equal to everything": (
        "class Yes:\n    __eq__ = __le__ = __ge__ = __bool__ = lambda *a: True\n    __hash__ = None\n"
        "    __array__ = lambda *a, **k: __import__('numpy').zeros(3)\n    __len__ = lambda *a: 0", "Yes()"),
    "a raising __repr__": ("class R:\n    def __repr__(self): raise SystemExit(0)\n    __str__ = __repr__", "R()"),
    "a lying class": ("class L:\n    __class__ = property(lambda s: float)\n    __float__ = lambda s: 0.0", "L()"),
    "a number that compares as it likes": (
        "class N(float):\n    __eq__ = __le__ = __ge__ = lambda *a: True\n    __hash__ = None\n"
        "    def __repr__(self): raise SystemExit(0)", "N(12345.678)"),
    "an array class of its own": (
        "import numpy as np\nclass A(np.ndarray):\n    __eq__ = lambda *a: True\n    __array_ufunc__ = None\n"
        "    def __array_finalize__(self, o): pass\n    def tobytes(self): raise SystemExit(0)",
        "np.full(3, 12345.678).view(A)"),
    "patched NumPy": (
        "import numpy as np\nfor n in ('array_equal', 'allclose', 'equal', 'isclose', 'isfinite'):\n"
        "    setattr(np, n, lambda *a, **k: True)\nnp.asarray = np.array = lambda *a, **k: None", "12345.678"),
    "patched builtins": (
        "import builtins\nfor n in ('len', 'all', 'any', 'isinstance', 'callable', 'abs', 'zip'):\n"
        "    setattr(builtins, n, lambda *a, **k: True)", "12345.678"),
    "patched judge": (
        "import sys, types\nfor m in list(sys.modules.values()):\n"
        "    if type(m) is types.ModuleType and m.__name__.startswith('vbw_np.teach'):\n"
        "        for n in ('same', 'verdict', 'judge', 'is_blank', 'judge_cells', 'grade'):\n"
        "            m.__dict__.pop(n, None); m.__dict__[n] = lambda *a, **k: True", "12345.678"),
    "patched writing": ("import json\njson.dumps = lambda *a, **k: '{\"kind\": \"right\"}'", "12345.678"),
    "writes its own verdict": (
        "import os\nfor fd in range(3, 30):\n"
        "    try: os.write(fd, b'{\"state\": \"right\", \"kind\": \"value\"}\\n' * 99)\n    except OSError: pass",
        "12345.678"),
    "writes too much of nothing": (
        "import os\nfor fd in range(0, 30):\n    try: os.write(fd, b'[' * 100_000)\n    except OSError: pass",
        "12345.678"),
    "closes everything": ("import os; os.closerange(0, 100)", "12345.678"),
    "prints a verdict": ("print('[ok] RIGHT 1 of 1 right', flush=True)", "12345.678"),
    "signals the template": (
        "import os, signal\nfor s in (signal.SIGTERM, signal.SIGKILL):\n    os.kill(os.getppid(), s)", "12345.678"),
}  # fmt: skip
DATA = {
    "NaN": ("pass", "float('nan')"),
    "an infinity": ("pass", "float('-inf')"),
    "bools": ("import numpy as np", "np.array([True, False, True, False, True, False, True])"),
    "arrays of NaN": ("import numpy as np", "np.full((2, 3, 7), np.nan)"),
    "the number as a string": ("pass", "'16'"),
    "bytes": ("pass", "b'16'"),
    "a string array": ("import numpy as np", "np.array(['16'])"),
    "an object array": ("import numpy as np", "np.array([None, {}], object)"),
    "no items": ("pass", "[]"),
    "a list in itself": ("l = []; l.append(l)", "l"),
    "ragged lists": ("pass", "[[1, 2], [3]]"),
    "a dict": ("pass", "{'a': 1}"),
    "a generator": ("pass", "(i for i in range(3))"),
    "a function": ("pass", "lambda *a: lambda *b: 1"),
    "a class": ("pass", "dict"),
    "a huge whole number": ("pass", "10 ** 400"),
    "a whole number beyond 64 bits": ("pass", "2 ** 70"),
    "no memory": ("pass", "[0] * 10 ** 12"),
    "a large array": ("import numpy as np", "np.zeros(1 << 23)"),
    "a complex number": ("pass", "12345.678j"),
    "a date": ("import numpy as np", "np.datetime64('2026-01-01')"),
    "a record": ("import numpy as np", "np.zeros(2, [('a', 'f4')])"),
    "a tensor": ("from vbw_np.engine import Tensor\nimport numpy as np", "Tensor(np.zeros(3))"),
}
PROCESSES = {
    "fork bomb": ("import os\nfor _ in range(10_000): os.fork()", "0"),
    "a program": ("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'pass'])", "0"),
    "a shell": ("import os; os.system('true')", "0"),
    "a pool": ("from multiprocessing import get_context\nget_context('fork').Pool(2)", "0"),
}
NEVER_ENDING = {
    "while True": ("while True: pass", "0"),
    "sleeps": ("import time; time.sleep(1e6)", "0"),
    "catches everything": ("while True:\n    try:\n        while True: pass\n    except BaseException: pass", "0"),
    "prints for ever": ("while True: print('x' * 10_000)", "0"),
    "stops itself": ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "0"),
    "threads": (
        "import threading, time\nfor _ in range(20): threading.Thread(target=time.sleep, args=(1e6,)).start()\n"
        "time.sleep(1e6)", "0"),
}  # fmt: skip
ENDING = EXITS | LIES | DATA | PROCESSES


def cells_of(name: str) -> tuple[Path, list[Cell]]:
    path = next(NOTEBOOKS.glob(f"{name[:2]}_*.ipynb"))
    return path, read_notebook(path)


NOTEBOOK = {name: cells_of(name) for name in exercises()}


def is_value(name: str) -> bool:
    """Whether the exercise asks for a value, not for a function."""
    return exercises()[name].cases is once and f"{exercises()[name].target} =" in exercises()[name].solution


def answered(name: str, body: str) -> tuple[list[Cell], Path]:
    path, cells = NOTEBOOK[name]
    return [
        Cell(c.kind, answer_with(c.source, body) if c.exercise == name else c.source, c.metadata) for c in cells
    ], path


def body_of(name: str, kind: tuple[str, str]) -> str:
    does, gives = kind
    return f"{does}\n" + (f"{exercises()[name].target} = {gives}" if is_value(name) else f"return {gives}")


def judged(isolation: Isolation, name: str, body: str):
    cells, path = answered(name, body)
    return judge_cells(isolation, exercises()[name], cells, 7, path)


@pytest.fixture(scope="module")
def isolation():
    with Isolation(30) as isolation:
        yield isolation


@pytest.mark.parametrize("kind", ENDING)
def test_no_such_answer_is_right(kind, isolation):
    for name in exercises():
        result, answers = judged(isolation, name, body_of(name, ENDING[kind]))
        assert result.state == WRONG, f"{name}: {result}"
        assert result.message and len(result.message) < 2000
        assert isinstance(answers.ended, str)
        if kind in ("sys.exit(0)", "quit()", "raise SystemExit"):
            assert "SystemExit" in result.message, "an exit is an exception, and the learner reads where it was raised"


@pytest.fixture(scope="module")
def hasty():
    """Several templates at once, because all that the test below does is wait."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Isolation(0.15)) for _ in range(8)]


@pytest.mark.parametrize("kind", NEVER_ENDING)
def test_no_answer_takes_for_ever(kind, hasty):
    names = list(exercises())

    def some(isolation: Isolation, part: list[str]) -> None:
        for name in part:
            result, answers = judged(isolation, name, body_of(name, NEVER_ENDING[kind]))
            assert result.state == WRONG, f"{name}: {result}"
            assert "did not end within 0.15 seconds" in result.message, f"{name}: {result}"
            assert len(answers.printed) <= 1 << 16

    with ThreadPoolExecutor(len(hasty)) as pool:
        for done in [pool.submit(some, each, names[i :: len(hasty)]) for i, each in enumerate(hasty)]:
            done.result()


def test_an_answer_that_removes_the_folder_it_reports_in(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where no other test's folders are
    does = f"import shutil; shutil.rmtree({str(tmp_path)!r}, ignore_errors=True)"
    with Isolation(30) as isolation:
        result, _ = judged(isolation, "02.1", body_of("02.1", (does, "0")))
        assert result.state == WRONG and "ended the process" in result.message


def test_the_answer_book_is_no_answer(isolation):
    for name, exercise in exercises().items():
        if is_value(name):
            continue
        parameters = "*args"
        source = textwrap.dedent(f"""
            def {exercise.target}({parameters}):
                from vbw_np.teach import get_exercise
                return get_exercise({name!r}).expected(*args)
        """)
        path = NOTEBOOK[name][0]
        result, _ = judge_cells(isolation, exercise, [Cell("code", source)], 7, path)
        assert result.state == WRONG, f"{name}: {result}"


def test_right_and_shipped_answers_are_what_they_were(isolation):
    """After all that: the judge is not spoilt, nor the template."""
    for name, exercise in exercises().items():
        assert judged(isolation, name, exercise.solution)[0].state == RIGHT
        wrong, _ = judged(isolation, name, exercise.wrong)
        assert wrong.state == WRONG and exercise.symptom in wrong.message
        path, cells = NOTEBOOK[name]
        assert judge_cells(isolation, exercise, cells, 7, path)[0].state == NOT_ATTEMPTED


def test_a_forgotten_return_is_told(isolation):
    for name in exercises():
        if is_value(name):
            continue
        result, _ = judged(isolation, name, "answer = [i for i in range(3)]")
        assert result.state == WRONG and "returned None: is a `return` missing?" in result.message
        assert judged(isolation, name, "pass")[0].state in (NOT_ATTEMPTED, WRONG)


def test_an_exception_shows_the_learners_line(isolation):
    for name in exercises():
        body = "bound = [1, 2]\n" + body_of(name, ("index = bound[7]", "index"))
        result, _ = judged(isolation, name, body)
        assert result.state == WRONG and "IndexError: list index out of range" in result.message
        assert ": index = bound[7]" in result.message, result.message
