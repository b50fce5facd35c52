"""What a learner is told in a notebook: verdicts, hints, solutions."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.errors import UserError
from vbw_np.teach import NOT_ATTEMPTED, RIGHT, WRONG, check, exercises, get_exercise, hint, judge, solution
from vbw_np.teach.givens import resolved
from vbw_np.teach.judging import same


@pytest.fixture(autouse=True)
def no_grader(monkeypatch):
    monkeypatch.delenv("VBW_STRICT", raising=False)
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    monkeypatch.setattr("vbw_np.teach.checking._hints_given", {})
    monkeypatch.setattr("vbw_np.teach.checking._wrong_before", {})


def not_yet(code):
    raise NotImplementedError


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


def test_the_right_number_comes_with_the_second_wrong_one():
    for _ in range(2):  # the same cell, run again
        message = check("03.2", 128).message
        assert "it is too large. Write down" in message and "solution('03.2')" in message and "16" not in message
    assert "it is too small" in (second := check("03.2", 15).message) and second.endswith("expected:    16")
    assert "it is too small" in (other := check("06.2", 1).message) and "16384" not in other
    assert check("03.2", 16)


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
    cases = [resolved(case) for case in exercise.cases(seed)]
    assert cases and (exercise.accept or all(same(exercise.expected(*c), exercise.expected(*c)) for c in cases))
    assert exercise.hints and exercise.symptom and exercise.solution != exercise.wrong


def test_hints_come_one_by_one(capsys):
    for _ in range(4):
        hint("00.1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("00.1, hint 1 of 3") and lines[2].startswith("00.1, hint 3 of 3")
    assert "last hint" in lines[3]


def test_a_solution_can_be_shown(capsys):
    solution("03.2")
    assert "same_either_way" in capsys.readouterr().out
