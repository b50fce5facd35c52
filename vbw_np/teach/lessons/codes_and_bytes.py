"""The exercises of notebooks 00 to 03: bits, gradients, codes, bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...engine import autograd
from ...formats import E2M1, pack_nibbles
from ..exercise import Exercise, exercise, once
from ..show import byte_bits, describe_args, describe_value, float_bits, nibble_bits

# ---- 00

EXERCISE_00_1 = exercise(
    "00.1",
    "bytes for numbers of few bits",
    "bytes_needed",
    cases=lambda seed: (
        [(1, 8), (2, 4), (1, 4), (3, 4), (16, 4), (5, 3)]
        + [tuple(int(v) for v in np.random.default_rng(seed + i).integers(1, 1000, 2)) for i in range(20)]
    ),
    expected=lambda count, bits: -(-count * bits // 8),
    hints=(
        "How many bits are there in all? A byte takes eight of them.",
        "A byte that is half full is still a whole byte: round up. `//` rounds down.",
        "`-(-a // b)` rounds up, and so does `(a + b - 1) // b`.",
    ),
    solution="return (count * bits + 7) // 8",
    wrong="return count * bits // 8",
    symptom="the smallest input that shows it is (1, 4)",
)

# ---- 01

def _mul_cases(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    return [(1.0, 2.0, 3.0), (2.0, -1.0, 4.0)] + [tuple(rng.normal(size=3).round(2)) for _ in range(10)]


EXERCISE_01_1 = exercise(
    "01.1",
    "what a product sends back",
    "mul_vjp",
    cases=_mul_cases,
    expected=lambda g, x, y: (g * y, g * x),
    hints=(
        "Nudge x by a little: by how much does x * y change?",
        "It changes by y times the nudge, so x receives g times y.",
    ),
    solution="return g * y, g * x",
    wrong="return g * x, g * y",
    symptom="expected:    [3., 2.]",
)


def _unbroadcast(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return autograd.tape.unbroadcast(g, tuple(shape))


def _unbroadcast_cases(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    shapes = [
        ((2,), (2,)),
        ((2, 2), (2,)),
        ((2, 2), (2, 1)),
        ((3, 4), (4,)),
        ((3, 4), (1, 4)),
        ((2, 3, 4), (3, 1)),
        ((2, 3, 4), ()),
        ((5, 2, 3, 4), (2, 1, 4)),
    ]
    return [(rng.integers(-4, 5, size=g).astype(np.float64), shape) for g, shape in shapes]


def _say_shapes(args: tuple, got: Any, want: Any) -> str:
    g, shape = args
    lead = f"the smallest input that shows it: g of shape {g.shape} for an input of shape {tuple(shape)}\n"
    if np.shape(got) != np.shape(want):
        return f"{lead}your answer has shape {np.shape(got)}, expected {np.shape(want)}"
    return f"{lead}g = {describe_value(g)}\nyour answer: {describe_value(got)}\nexpected:    {describe_value(want)}"


EXERCISE_01_2 = exercise(
    "01.2",
    "sum over the copies that broadcasting made",
    "unbroadcast",
    cases=_unbroadcast_cases,
    expected=_unbroadcast,
    describe=_say_shapes,
    hints=(
        "New axes appear in front: while g has more axes than shape, sum over axis 0.",
        "Then, for every axis where shape says 1 and g does not, sum with keepdims=True.",
    ),
    solution="""
while g.ndim > len(shape):
    g = g.sum(axis=0)
for axis, size in enumerate(shape):
    if size == 1:
        g = g.sum(axis=axis, keepdims=True)
return g
""",
    wrong="""
while g.ndim > len(shape):
    g = g.sum(axis=0)
return g
""",
    symptom="g of shape (2, 2) for an input of shape (2, 1)",
)

# ---- 02

def _say_code(args: tuple, got: Any, want: Any) -> str:
    code = int(args[0])
    return (
        f"the smallest code that shows it is {nibble_bits(code)}  (sign, exponent, mantissa)\n"
        f"your value: {describe_value(got)}\nexpected:   {describe_value(want)}"
    )


def _e2m1_value(code: int) -> float:
    return float(E2M1.table[int(code)])


EXERCISE_02_1 = exercise(
    "02.1",
    "decode a code without a table",
    "decode",
    cases=lambda seed: [(code,) for code in range(16)],
    expected=_e2m1_value,
    describe=_say_code,
    hints=(
        "sign = code >> 3, exponent = (code >> 1) & 3, mantissa = code & 1.",
        "For exponent 0 the size is mantissa / 2, else 2 ** (exponent - 1) * (1 + mantissa / 2).",
    ),
    solution="""
sign, exponent, mantissa = code >> 3, code >> 1 & 3, code & 1
size = mantissa / 2 if exponent == 0 else 2.0 ** (exponent - 1) * (1 + mantissa / 2)
return -size if sign else size
""",
    wrong="""
sign, exponent, mantissa = code >> 3, code >> 1 & 3, code & 1
size = 2.0 ** (exponent - 1) * (1 + mantissa / 2)
return -size if sign else size
""",
    symptom="the smallest code that shows it is 0 = 0 00 0",
)


def _encode_cases(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    plain = [0.0, 1.0, 6.0, 0.4, 2.6, -3.1, 100.0, -7.0]
    return [(float(x),) for x in plain + ties + [-t for t in ties] + list(rng.normal(0, 3, 200).astype(np.float32))]


def _e2m1_code(x: float) -> int:
    return int(E2M1.encode(np.array([x], np.float32), signed_zero="keep")[0])


def _say_number(args: tuple, got: Any, want: Any) -> str:
    x = float(args[0])
    return (
        f"the first number that shows it is {x:g}, in bits {float_bits(x)}\n"
        f"your code: {nibble_bits(got)}, which means {_safe_value(got)}\n"
        f"expected:  {nibble_bits(want)}, which means {_safe_value(want)}"
    )


def _safe_value(code: Any) -> str:
    try:
        return f"{_e2m1_value(code):g}"
    except (TypeError, ValueError, IndexError):
        return "nothing"


EXERCISE_02_2 = exercise(
    "02.2",
    "encode with ties to even",
    "encode",
    cases=_encode_cases,
    expected=_e2m1_code,
    describe=_say_number,
    hints=(
        "The midpoints are 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5. The code of the size is how many lie below abs(x).",
        "At a tie go to the even code: code 0 keeps 0.25, code 2 takes 0.75 and keeps 1.25, ...",
        "So count with > at 0.25, 1.25, 2.5, 5 and with >= at 0.75, 1.75, 3.5.",
    ),
    solution="""
size = abs(x)
code = sum(size > t for t in (0.25, 1.25, 2.5, 5.0)) + sum(size >= t for t in (0.75, 1.75, 3.5))
return code | (8 if x < 0 else 0)
""",
    wrong="""
size = abs(x)
code = sum(size >= t for t in (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0))
return code | (8 if x < 0 else 0)
""",
    symptom="the first number that shows it is 0.25",
)

# ---- 03

def _pack_cases(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    fixed = [[0, 0], [1, 0], [10, 3], [5], [1, 2, 3]]
    drawn = [rng.integers(0, 16, n) for n in (4, 7, 16, 33)]
    return [(np.array(c, np.uint8),) for c in [*fixed, *drawn]]


def _pack(codes: np.ndarray) -> np.ndarray:
    return pack_nibbles(codes)


def _say_bytes(args: tuple, got: Any, want: Any) -> str:
    lead = f"the smallest input that shows it is {describe_args(args)}\n"
    if np.shape(got) != np.shape(want):
        return f"{lead}your answer has {np.size(got)} bytes, expected {np.size(want)}"
    at = int(np.argmax(np.asarray(got) != want))
    return f"{lead}byte {at}, yours:    {byte_bits(np.ravel(got)[at])}\nbyte {at}, expected: {byte_bits(want[at])}"


EXERCISE_03_1 = exercise(
    "03.1",
    "pack two codes a byte, low nibble first",
    "pack",
    cases=_pack_cases,
    expected=_pack,
    describe=_say_bytes,
    hints=(
        "If the length is odd, put one zero code behind: np.append(codes, np.uint8(0)).",
        "low = codes[0::2], high = codes[1::2]; the byte is low | high << 4.",
    ),
    solution="""
if len(codes) % 2:
    codes = np.append(codes, np.uint8(0))
return codes[0::2] | codes[1::2] << np.uint8(4)
""",
    wrong="""
if len(codes) % 2:
    codes = np.append(codes, np.uint8(0))
return codes[0::2] << np.uint8(4) | codes[1::2]
""",
    symptom="byte 0, expected: 0x01 = 0000 0001",
)

EXERCISE_03_2 = exercise(
    "03.2",
    "bytes that look the same in both nibble orders",
    "same_either_way",
    cases=once,
    expected=lambda: 16,
    hints=("Write down a few of them in hexadecimal: 0x00, 0x11, ...", "One for each value of a nibble."),
    solution="same_either_way = sum(byte >> 4 == byte & 15 for byte in range(256))",
    wrong="same_either_way = 128",
    symptom="it is too large",
)

EXERCISES: tuple[Exercise, ...] = (
    EXERCISE_00_1,
    EXERCISE_01_1,
    EXERCISE_01_2,
    EXERCISE_02_1,
    EXERCISE_02_2,
    EXERCISE_03_1,
    EXERCISE_03_2,
)
