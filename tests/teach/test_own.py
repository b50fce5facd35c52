"""The reader's own parts: right answers of saved notebooks, and the library's where there are none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vbw_np.teach import get_exercise, own_parts
from vbw_np.teach.runner import answer_with

ROOT = Path(__file__).parents[2]
CHAIN = ("01.3", "02.1", "02.3", "03.1", "05.2", "05.3", "08.1")


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solved")
    command = [sys.executable, "tools/notebooks/build.py", "--solutions", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_right_answers_are_the_readers(solved):
    parts = own_parts(CHAIN, folder=solved)
    assert list(parts) == list(CHAIN) and all(part.yours for part in parts.values())
    assert repr(parts["02.3"]).startswith("02.3 codes_of         yours (found in 02_e2m1.ipynb")
    assert parts["02.3"].function.__code__.co_filename.startswith("<02_e2m1.ipynb, cell ")
    assert parts["02.3"](np.float32([0.4, -6])).tolist() == [1, 15]


def test_as_shipped_everything_is_the_librarys():
    parts = own_parts(CHAIN, folder=ROOT / "notebooks")
    assert not any(part.yours for part in parts.values())
    assert "the library’s (not attempted in 05_which_four_bits.ipynb)" in repr(parts["05.2"])
    assert parts["01.3"]([[], [(0, lambda g: 3 * g), (0, lambda g: g)]]) == [4, 1]


def test_wrong_hostile_and_missing_answers_are_the_librarys(solved, tmp_path):
    for path in solved.glob("*.ipynb"):
        shutil.copy(path, tmp_path)
    for name, body in (("02.3", get_exercise("02.3").wrong), ("08.1", "import os; os._exit(0)")):
        (path,) = tmp_path.glob(f"{name[:2]}_*.ipynb")
        document = json.loads(path.read_text("utf-8"))
        for cell in document["cells"]:
            if cell["metadata"].get("vbw", {}).get("exercise") == name:
                cell["source"] = answer_with("".join(cell["source"]), body)
        path.write_text(json.dumps(document), "utf-8")
    next(tmp_path.glob("03_*.ipynb")).unlink()
    next(tmp_path.glob("01_*.ipynb")).write_text("not json")
    parts = own_parts(CHAIN, folder=tmp_path)
    assert [name for name, part in parts.items() if part.yours] == ["02.1", "05.2", "05.3"]
    assert "no notebook 03" in parts["03.1"].why and "not a Jupyter notebook" in parts["01.3"].why


def test_answers_of_the_open_notebook_are_judged_too():
    def descend(weights, gradients_of, lr, steps):
        for step in range(steps):
            weights = [w - lr * g for w, g in zip(weights, gradients_of(weights, step))]
        return weights

    assert own_parts(["10.2"], here={"10.2": descend})["10.2"].function is descend
    assert not own_parts(["10.2"], here={"10.2": lambda *args: None})["10.2"].yours


def test_a_copy_as_colab_names_it_is_found(solved, tmp_path):
    original = next(solved.glob("02_*.ipynb"))
    copied = tmp_path / "drive" / f"Copy of {original.name}"
    copied.parent.mkdir()
    copied.write_bytes(original.read_bytes())
    part = own_parts(["02.1"], folder=copied.parent)["02.1"]
    assert part.yours and part.why == f"found in {copied.name}"


def test_the_folder_can_be_named(solved, monkeypatch):
    monkeypatch.setitem(os.environ, "VBW_NOTEBOOKS", str(solved))
    assert own_parts(["02.1"])["02.1"].yours


def test_where_there_are_no_processes_the_same_answers_are_right(solved, monkeypatch):
    """As in a browser: the answers run in this process."""
    monkeypatch.setattr("vbw_np.teach.isolation.has_processes", lambda: False)
    monkeypatch.setattr("subprocess.Popen", None)
    parts = own_parts(CHAIN, folder=solved)
    assert all(part.yours for part in parts.values())
    shipped = own_parts(CHAIN, folder=ROOT / "notebooks")
    assert not any(part.yours for part in shipped.values()) and "not attempted" in shipped["05.2"].why
