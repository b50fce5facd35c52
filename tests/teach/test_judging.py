"""When two answers agree, and the verdict on answers as plain data."""

from __future__ import annotations

import operator
from fractions import Fraction

import numpy as np
import pytest

from vbw_np.teach import NOT_ATTEMPTED, RIGHT, WRONG, get_exercise, judge
from vbw_np.teach.judging import same, verdict


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
        (np.array([1, 2, 3]), (1, 2, 3), True),
        (np.array([1.0, 2.0]), [1, 2], True),
        ((np.float32(1), np.zeros(2)), (1, [0, 0]), True),
        ((1, np.zeros(2)), (1, [0, 1]), False),
        ("16", 16, False),
        (16, "16", False),
        (["16"], [16], False),
        (b"16", 16, False),
        (np.array(["16"]), [16], False),
        (np.nan, 1, False),
        ([np.nan, 1], [np.nan, 1], True),
        (np.array([True, False]), True, False),
        (np.array([True, False]), [1, 0], True),
        (1, True, False),
        (np.True_, True, True),
        (10**400, 1.0, False),
        (2**70, 2**70, True),
        ([[1], [2, 3]], [1, 2], False),
        (1 + 0j, 1, False),
    ],
)
def test_same(got, want, equal):
    assert same(got, want) is equal


def test_an_array_answers_where_a_tuple_is_expected():
    assert judge(get_exercise("01.1"), lambda g, x, y: np.array([g * y, g * x])).state == RIGHT
    assert judge(get_exercise("06.1"), lambda c, b, i: np.array([c * b, c * -(-b // i), c * b - c * -(-b // i)]))


def test_an_answer_that_changes_what_it_was_given_is_wrong_where_the_task_forbids_it():
    def in_place(weights, gradients_of, lr, steps):
        for step in range(steps):
            for weight, gradient in zip(weights, gradients_of(weights, step)):
                weight -= lr * gradient
        return weights

    def on_copies(weights, gradients_of, lr, steps):
        return in_place([w.copy() for w in weights], gradients_of, lr, steps)

    verdict_on = judge(get_exercise("10.2"), in_place)
    assert verdict_on.state == WRONG and "read-only" in verdict_on.message and "weight -= lr" in verdict_on.message
    assert judge(get_exercise("10.2"), on_copies).state == RIGHT


def test_groups_along_tokens_may_be_rounded_one_by_one():
    def one_by_one(keys, size, round_rows):
        result = keys.copy()
        for start in range(0, len(keys) // size * size, size):
            result[start : start + size] = round_rows(keys[start : start + size].T).T
        return result

    assert judge(get_exercise("19.2"), one_by_one).state == RIGHT


def test_a_counter_example_says_which_argument_is_which():
    lead, _, _ = judge(get_exercise("13.1"), lambda *args: (0, False)).message.partition("\n")
    assert lead == "the smallest input that shows it is (0, 0, 2, 0, 0) for (length, begin, columns, i, j)"
    assert "(0.5) for" not in judge(get_exercise("07.1"), lambda q: (1, 0)).message  # one needs no name


def test_a_string_is_no_number():
    assert "your answer is the string '16'\nexpected:    a number" in judge(get_exercise("03.2"), "16").message


@pytest.mark.parametrize(
    ("answer", "way"),
    [
        (17, "too large"),
        (3.5, "too small"),
        (np.int64(-1), "too small"),
        (float("nan"), "no number that can be compared"),
        (1e300, "too large"),
    ],
)
def test_a_wrong_number_is_told_its_way_and_not_the_right_one(answer, way):
    result = judge(get_exercise("03.2"), answer)
    assert result.state == WRONG and f"it is {way}. Write down a few" in result.message
    assert "16" not in result.message and "expected" not in result.message


def test_a_forgotten_return_is_told_as_that():
    def decode(code):
        [code + 1]

    result = judge(get_exercise("02.1"), decode)
    assert result.state == WRONG and "returned None: is a `return` missing?" in result.message

    def sometimes(code):
        if code < 3:
            return get_exercise("00.1") and code / 2

    assert "for (3) your function returned None" in judge(get_exercise("02.1"), sometimes).message


def test_something_else_than_a_function_is_told():
    assert "decode should be a function, and is of type int" in judge(get_exercise("02.1"), 5).message


def test_exits_are_exceptions_here():
    for leave in (SystemExit, GeneratorExit):
        def decode(code, leave=leave):
            raise leave(0)

        result = judge(get_exercise("02.1"), decode)
        assert result.state == WRONG and f"raised {leave.__name__}: 0" in result.message
        assert "line " in result.message and "raise leave(0)" in result.message
    with pytest.raises(KeyboardInterrupt):
        judge(get_exercise("02.1"), lambda code: (_ for _ in ()).throw(KeyboardInterrupt))


def test_the_library_is_no_answer():
    from vbw_np.formats import E2M1

    def encode(x):
        return int(E2M1.encode(np.float32(x)))

    def helper(x):
        return encode(x)

    ways = [encode, lambda x: helper(x), lambda x: int(getattr(E2M1, "enc" + "ode")(np.float32(x)))]
    for way in ways:
        result = judge(get_exercise("02.2"), way)
        assert result.state == WRONG and "write it without the library's help" in result.message, result
    table = judge(get_exercise("02.1"), lambda code: E2M1.table[code])
    assert table.state == WRONG and "uses E2M1" in table.message


@pytest.mark.parametrize(
    "share",
    [lambda x, s: x / s, lambda x, s: np.divide(x, s), lambda x, s: float(x) * float(s) ** -1,
     lambda x, s: np.true_divide(x, s)],
)  # fmt: skip
def test_without_division_means_without(share):  # a name that is no division's: such names are looked for
    midpoints = 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5

    def code_by_comparing(x, scale):
        quotient = share(x, scale)
        return sum(quotient >= m if i % 2 else quotient > m for i, m in enumerate(midpoints))

    result = judge(get_exercise("12.1"), code_by_comparing)
    assert result.state == WRONG
    assert "write it without dividing" in result.message or "first case that shows it" in result.message


@pytest.mark.parametrize(
    "share",
    [lambda x, s: Fraction(float(x)) / Fraction(float(s)), lambda x, s: Fraction(float(x)) * Fraction(float(s)) ** -1,
     lambda x, s: operator.truediv(Fraction(float(x)), Fraction(float(s)))],
)  # fmt: skip
def test_an_exact_division_is_right_and_still_a_division(share):
    midpoints = 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5

    def code_by_comparing(x, scale):
        quotient = share(x, scale)
        return sum(quotient >= m if i % 2 else quotient > m for i, m in enumerate(midpoints))

    result = judge(get_exercise("12.1"), code_by_comparing)
    assert result.state == WRONG and "the results are right, but your code uses a division" in result.message


@pytest.mark.parametrize(
    "exponent",
    [lambda amax: np.floor(np.log2(np.float32(amax))), lambda amax: int(np.log2(np.float32(amax))),
     lambda amax: np.round(np.log2(amax)), lambda amax: np.ceil(np.log2(amax)) - 1],
)  # fmt: skip
def test_a_floor_that_is_wrong_beside_a_power_of_two_is_caught(exponent):
    assert judge(get_exercise("04.1"), lambda amax: 2.0 ** (exponent(amax) - 2)).state == WRONG


def test_a_returned_value_is_not_shown_as_a_code():
    right = get_exercise("02.2").expected
    message = judge(get_exercise("02.2"), lambda x: 0.5 if x == 0.4 else right(x)).message
    assert "your code: 0.5 (no whole number, so no code)" in message


def test_numbers_that_are_not_finite_are_counted():
    message = judge(get_exercise("16.1"), lambda: np.r_[np.inf, np.nan, np.ones(30)]).message
    assert message == "2 of your 32 numbers are infinite or NaN as float32; choose finite ones"
    assert judge(get_exercise("16.1"), lambda: np.ones(3)).message == "expected an array of 32 numbers, and got 3"


def test_a_test_cannot_ask_the_encoder_whether_it_is_right():
    told = judge(get_exercise("16.2"), lambda encode: bool(getattr(encode, "is_right", True)))
    assert told.state == WRONG


@pytest.mark.parametrize("records", [
    [], [{}], [{"kind": "right"}], [{"kind": "value"}], [{"kind": "value", "value": 16, "empty": False, "uses": []}],
    [{"kind": "value", "value": {"t": "array", "dtype": "<f8", "shape": [-1], "scalar": True, "v": ""}, "empty": 0}],
    [{"kind": "value", "value": {"t": "array", "dtype": "O", "shape": [1], "v": "AAAA"}, "uses": None}],
    [{"kind": "raised"}], [{"kind": "raised", "type": 1, "words": 2, "line": "x"}], [{"kind": "value", "value": {
        "t": "list", "v": 3}}], [{"kind": "value", "value": {"t": "int", "v": "sixteen"}}],
])  # fmt: skip
def test_made_up_records_are_wrong_answers(records):
    assert verdict(get_exercise("03.2"), 0, records, "ended").state == WRONG


def test_a_stub_is_not_attempted():
    assert verdict(get_exercise("03.2"), 0, [{"kind": "stub"}]).state == NOT_ATTEMPTED
