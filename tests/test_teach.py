"""Exercises, verdicts, claims, grading and the `vbw learn` and `vbw grade` verbs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vbw_np.cli import main
from vbw_np.errors import UserError
from vbw_np.teach import (
    CLAIMS,
    NOT_ATTEMPTED,
    RIGHT,
    WRONG,
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
from vbw_np.teach.core import same
from vbw_np.teach.runner import answer_with, grade, read_notebook

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture(autouse=True)
def no_grader(monkeypatch):
    monkeypatch.delenv("VBW_STRICT", raising=False)
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    monkeypatch.setattr("vbw_np.teach.core._hints_given", {})


def not_yet(code):
    raise NotImplementedError


# ---- verdicts


@pytest.mark.parametrize("blank", [None, ..., NotImplemented, not_yet, lambda code: None, lambda code: ...])
def test_a_blank_answer_is_not_attempted(blank):
    result = check("02.1", blank)
    assert result.state == NOT_ATTEMPTED and not result
    assert "hint('02.1')" in result.message


def test_a_wrong_answer_is_shown_with_the_smallest_case_in_bits():
    result = check("02.1", lambda code: [0, 0.5, 1, 1.5, 2, 3, 4, 6][code & 7])  # forgets the sign
    assert result.state == WRONG
    assert "9 = 1 00 1" in result.message  # code 8 is minus zero, which equals zero
    assert "your value: 0.5" in result.message and "expected:   -0.5" in result.message


def test_an_exception_is_reported_with_its_input():
    def boom(code):
        return 1 / (code - 3)

    result = check("02.1", lambda code: get_exercise("02.1").expected(code) if code < 3 else boom(code))
    assert result.state == WRONG and "(3)" in result.message and "ZeroDivisionError" in result.message


def test_an_answer_may_scribble_on_its_input():
    def pack(codes):
        padded = codes if len(codes) % 2 == 0 else np.append(codes, np.uint8(0))
        packed = padded[0::2] | padded[1::2] << np.uint8(4)
        codes[:] = 0
        return packed

    assert check("03.1", pack).state == RIGHT


def test_a_wrong_shape_is_said():
    assert "bytes, expected" in check("03.1", lambda codes: codes).message


def test_a_verdict_shows_itself_in_words_and_escapes_html():
    result = judge(get_exercise("00.1"), lambda count, bits: "<b>")
    assert repr(result).startswith("[x] 00.1 WRONG")
    shown = result._repr_html_()
    assert "WRONG" in shown and "'<b>'" not in shown and "&lt;b&gt;" in shown


@pytest.mark.parametrize("variable", ["VBW_STRICT", "NBGRADER_EXECUTION"])
def test_a_grader_gets_an_exception(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(AssertionError, match=r"02\.1 NOT ATTEMPTED"):
        check("02.1", None)
    assert check("03.2", 16)


def test_an_unknown_exercise_names_its_neighbors():
    with pytest.raises(UserError, match=r"no exercise '02\.9'; try 02\.1, 02\.2"):
        check("02.9", None)


@pytest.mark.parametrize("seed", [0, 1, 20_001])
@pytest.mark.parametrize("name", exercises())
def test_reference_answers_agree_with_themselves_on_any_seed(name, seed):
    exercise = get_exercise(name)
    cases = exercise.cases(seed)
    assert cases and (exercise.accept or all(same(exercise.expected(*c), exercise.expected(*c)) for c in cases))
    assert exercise.hints and exercise.symptom and exercise.solution != exercise.wrong


@pytest.mark.parametrize(
    ("got", "want", "equal"),
    [
        (1, 1.0, True),
        ([1, 2], np.array([1.0, 2.0]), True),
        ([1, 2], [[1, 2]], False),
        (np.nan, np.nan, True),
        ((1, 2), (1, 2), True),
        ((1, 2, 3), (1, 2), False),
        ("a", "a", True),
        ("a", 1, False),
        (None, 1, False),
        (True, True, True),
        (1.0 + 1e-12, 1.0, False),
    ],
)
def test_same(got, want, equal):
    assert same(got, want) is equal


# ---- hints, solutions, bits


def test_hints_come_one_by_one(capsys):
    for _ in range(4):
        hint("00.1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("00.1, hint 1 of 3") and lines[2].startswith("00.1, hint 3 of 3")
    assert "last hint" in lines[3]


def test_a_solution_can_be_shown(capsys):
    solution("03.2")
    assert "same_either_way" in capsys.readouterr().out


def test_bits():
    assert float_bits(1.0) == "0|01111111|" + "0" * 23
    assert float_bits(-2.5)[0] == "1"
    assert nibble_bits(5) == "5 = 0 10 1" and nibble_bits(99) == "99" and nibble_bits("x") == "'x'"
    assert byte_bits(0x5A) == "0x5a = 0101 1010"


# ---- claims


def test_a_claim_holds_or_stops(capsys):
    CLAIMS.clear()
    claim("four", 2 + 2, 4)
    claim("about pi", 3.1, 3, tol=0.2)
    claim("bounds", 5, at_least=4, at_most=6)
    claim("an array", np.arange(3), np.arange(3))
    assert capsys.readouterr().out.count("[holds]") == 4
    assert [c.numbers for c in CLAIMS] == [(4.0,), (3.0,), (4.0, 6.0), ()]
    for wrong in ({"expected": 5}, {"at_least": 5}, {"at_most": 3}):
        with pytest.raises(AssertionError, match="claim does not hold: four"):
            claim("four", 4, **wrong)
    with pytest.raises(TypeError, match="say what is expected"):
        claim("four", 4)


def test_predictions(capsys):
    predict(None, 4)
    predict(4, 4)
    predict(3, 4, "legs")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no guess yet") and "so it is" in lines[1]
    assert lines[2] == "legs: you said 3; it is 4. Where does it come from?"


# ---- notebooks of learners


def written(tmp_path: Path, answers: dict[str, str]) -> Path:
    """A learner's copy of the notebook on codes."""
    document = json.loads((NOTEBOOKS / "02_e2m1.ipynb").read_text("utf-8"))
    for cell in document["cells"]:
        name = cell["metadata"].get("vbw", {}).get("exercise")
        if name in answers:
            cell["source"] = answer_with("".join(cell["source"]), answers[name]).splitlines(keepends=True)
    path = tmp_path / "mine.ipynb"
    path.write_text(json.dumps(document), "utf-8")
    return path


def test_grading_a_learners_notebook(tmp_path, capsys):
    path = written(tmp_path, {"02.1": get_exercise("02.1").solution, "02.2": get_exercise("02.2").wrong})
    assert main(["grade", str(path), "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert [e["state"] for e in verdict["exercises"]] == [RIGHT, WRONG]
    assert (verdict["right"], verdict["total"], verdict["errors"]) == (1, 2, [])
    good = written(tmp_path, {name: get_exercise(name).solution for name in ("02.1", "02.2")})
    assert main(["grade", str(good)]) == 0
    assert "2 of 2 right" in capsys.readouterr().out


def test_grading_goes_on_after_a_cell_that_fails(tmp_path):
    path = written(tmp_path, {"02.1": "return undefined_name", "02.2": "return ("})
    states = {e["name"]: (e["state"], e["message"]) for e in grade(path)["exercises"]}
    assert states["02.1"][0] == WRONG and "NameError" in states["02.1"][1]
    assert states["02.2"][0] == NOT_ATTEMPTED and "SyntaxError" in states["02.2"][1]


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
    assert names == ["02.1", "02.2"]


# ---- learn


def test_learn_list(capsys):
    assert main(["learn", "list"]) == 0
    out = capsys.readouterr().out
    assert "notebook 02" in out and "02.1  decode a code without a table (define `decode`)" in out
    assert main(["learn", "list", "--json"]) == 0
    assert {e["name"] for e in json.loads(capsys.readouterr().out)} == set(exercises())


def test_learn_check(tmp_path, capsys):
    answer = tmp_path / "answer.py"
    answer.write_text("same_either_way = 16\n")
    assert main(["learn", "check", "03.2", str(answer)]) == 0
    answer.write_text("same_either_way = 15\n")
    assert main(["learn", "check", "03.2", str(answer)]) == 1
    assert "WRONG" in capsys.readouterr().out
    assert main(["learn", "check", "03.1", str(answer)]) == 2
    assert "does not define 'pack'" in capsys.readouterr().err
    assert main(["learn", "check", "03.1", str(tmp_path / "none.py")]) == 2


def test_learn_hint(capsys):
    assert main(["learn", "hint", "02.1", "--number", "2"]) == 0
    assert "hint 2 of 2" in capsys.readouterr().out
    assert main(["learn", "hint", "02.1", "--number", "0"]) == 2
