"""The exercises of the curriculum: cases, right answers, hints, a solution, and a wrong answer that must be caught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .core import Exercise, byte_bits, describe_args, describe_value, float_bits, nibble_bits

_LIST: list[Exercise] = []


def _add(name: str, title: str, target: str, **rest: Any) -> None:
    rest["solution"] = rest["solution"].strip("\n")
    rest["wrong"] = rest["wrong"].strip("\n")
    _LIST.append(Exercise(name, title, target, **rest))


def _once(seed: int) -> Sequence[tuple]:
    return [()]


def _by_size(cases: list[tuple]) -> list[tuple]:
    """Cases with the smallest arguments first."""
    return sorted(cases, key=lambda args: sum(np.size(a) for a in args))


# ---- 00

_add(
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


_add(
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
    from ..engine import autograd

    return autograd.tensor.unbroadcast(g, tuple(shape))


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


_add(
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
    from ..formats import E2M1

    return float(E2M1.table[int(code)])


_add(
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
    from ..formats import E2M1

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


_add(
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
    from ..formats import pack_nibbles

    return pack_nibbles(codes)


def _say_bytes(args: tuple, got: Any, want: Any) -> str:
    lead = f"the smallest input that shows it is {describe_args(args)}\n"
    if np.shape(got) != np.shape(want):
        return f"{lead}your answer has {np.size(got)} bytes, expected {np.size(want)}"
    at = int(np.argmax(np.asarray(got) != want))
    return f"{lead}byte {at}, yours:    {byte_bits(np.ravel(got)[at])}\nbyte {at}, expected: {byte_bits(want[at])}"


_add(
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

_add(
    "03.2",
    "bytes that look the same in both nibble orders",
    "same_either_way",
    cases=_once,
    expected=lambda: 16,
    hints=("Write down a few of them in hexadecimal: 0x00, 0x11, ...", "One for each value of a nibble."),
    solution="same_either_way = sum(byte >> 4 == byte & 15 for byte in range(256))",
    wrong="same_either_way = 128",
    symptom="your answer: 128",
)

# ---- 04


def _mx_scale(amax: float) -> float:
    from ..formats import E8M0
    from ..formats.scales import e8m0_floor

    return float(E8M0.table[e8m0_floor(np.array([amax], np.float32))[0]])


def _say_amax(args: tuple, got: Any, want: Any) -> str:
    amax = float(args[0])
    return (
        f"the first amax that shows it is {amax:g}, in bits {float_bits(amax)}\n"
        f"your scale: {describe_value(got)}   (amax / scale = {_ratio(amax, got)})\n"
        f"expected:   {describe_value(want)}   (amax / scale = {_ratio(amax, want)}, between 4 and 8)"
    )


def _ratio(amax: float, scale: Any) -> str:
    try:
        return f"{amax / float(scale):g}"
    except (TypeError, ValueError, ZeroDivisionError):
        return "?"


_add(
    "04.1",
    "the MX standard's scale",
    "mx_scale",
    cases=lambda seed: [(v,) for v in (1.0, 4.0, 6.0, 7.99, 0.75, 3.9, 448.0, 2.0**-20)]
    + [(float(v),) for v in np.exp(np.random.default_rng(seed).normal(0, 4, 50)).astype(np.float32)],
    expected=_mx_scale,
    describe=_say_amax,
    hints=(
        "mantissa, exponent = math.frexp(amax) gives amax = mantissa * 2**exponent with mantissa in [0.5, 1).",
        "So floor(log2(amax)) is exponent - 1. The largest power of two among the values is 4 = 2**2: subtract 2.",
    ),
    solution="""
import math
return 2.0 ** (math.frexp(amax)[1] - 1 - 2)
""",
    wrong="""
import math
return 2.0 ** (math.frexp(amax)[1] - 1)
""",
    symptom="the first amax that shows it is 1,",
)


def _four_or_six(block: np.ndarray) -> int:
    from ..formats import E2M1

    errors = {}
    for divisor in (6, 4):
        scale = np.float32(np.abs(block).max()) / np.float32(divisor)
        decoded = E2M1.decode(E2M1.encode(block / scale)) * scale
        errors[divisor] = float(((decoded.astype(np.float64) - block) ** 2).sum())
    return 4 if errors[4] < errors[6] else 6


_add(
    "04.2",
    "map the largest number to four or to six",
    "four_or_six",
    cases=lambda seed: [(np.array(v, np.float32),) for v in ([6, 1], [1, 2, 3, 4], [10, 20, 30, 40])]
    + [(v,) for v in np.random.default_rng(seed).normal(size=(30, 16)).astype(np.float32)],
    expected=_four_or_six,
    hints=(
        "For each divisor: scale = amax / divisor, decoded = E2M1.decode(E2M1.encode(block / scale)) * scale.",
        "Compare the sums of (decoded - block) ** 2; use < so that a tie keeps 6.",
    ),
    solution="""
errors = {}
for divisor in (6, 4):
    scale = np.abs(block).max() / np.float32(divisor)
    errors[divisor] = ((E2M1.decode(E2M1.encode(block / scale)) * scale - block) ** 2).sum()
return 4 if errors[4] < errors[6] else 6
""",
    wrong="return 6",
    symptom="expected:    4",
)

# ---- 05


def _compare_cases(seed: int) -> list[tuple]:
    from ..formats import E2M1, E4M3

    midpoints = (E2M1.magnitudes[1:] + E2M1.magnitudes[:-1]) / 2
    easy = [(np.float32(v), np.float32(s)) for s in (1.0, 2.0, 0.5) for v in (0.0, 0.3, 2.6, 5.0)]
    near = []
    for s in E4M3.table[1:127]:
        for m in midpoints:
            edge = np.float32(s * m)
            below, above = np.nextafter(edge, np.float32(0)), np.nextafter(edge, np.float32(np.inf))
            near += [(v, s) for v in (below, edge, above)]
    near.sort(key=lambda case: abs(float(np.log2(case[1]))))
    return easy + near


def _compare(x: np.float32, scale: np.float32) -> int:
    from ..formats import E2M1

    midpoints = (E2M1.magnitudes[1:] + E2M1.magnitudes[:-1]) / 2
    edges = midpoints * scale  # exact
    upper_even = np.arange(1, 8) % 2 == 0
    return int(np.where(upper_even, x >= edges, x > edges).sum())


def _say_quotient(args: tuple, got: Any, want: Any) -> str:
    x, scale = args
    return (
        f"the first case that shows it: x = {float(x):.9g}, scale = {float(scale):.9g}\n"
        f"x     in bits {float_bits(x)}\nscale in bits {float_bits(scale)}\n"
        f"your code: {nibble_bits(got)}\nexpected:  {nibble_bits(want)}"
    )


_add(
    "05.1",
    "encode by comparing with scaled midpoints",
    "code_by_comparing",
    cases=_compare_cases,
    expected=_compare,
    describe=_say_quotient,
    hints=(
        "The code is how many of the seven numbers midpoint * scale lie below x.",
        "Equal counts as below where the upper code is even: at 0.75, 1.75 and 3.5.",
        "Keep float32: np.float32(0.75) * scale.",
    ),
    solution="""
code = 0
for i, midpoint in enumerate((0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)):
    edge = np.float32(midpoint) * scale
    code += bool(x >= edge) if i % 2 else bool(x > edge)
return code
""",
    wrong="return int(E2M1.encode(x * (np.float32(1) / scale))[()])",
    symptom="scale = 0.9375",
)

# ---- 06


def _cell_cases(seed: int) -> list[tuple]:
    drawn = np.random.default_rng(seed).uniform(0.26, 6.37, 60).round(3) + 3e-4  # never on an edge
    return [(v,) for v in (0.5, 1.0, 3.0, 4.0, 6.0, 0.26, 6.375, 5.5, 2.4)] + [(float(v),) for v in drawn]


def _find_cell(q: float) -> tuple[int, int]:
    from ..formats.packed import nested_edges

    low, width = nested_edges(6.375)
    code = max(i for i in range(8) if low[i] < q or i == 0)
    for i in range(1, 8):  # ties belong to the even code, as in the encoder
        if q == low[i]:
            code = i if i % 2 == 0 else i - 1
    return int(code), int(min(15, np.floor((q - low[code]) / width[code] * 16)))


_add(
    "06.1",
    "the bin and the cell of a number",
    "find_cell",
    cases=_cell_cases,
    expected=_find_cell,
    hints=(
        "code = the largest i with low[i] < q.",
        "How far into the bin: (q - low[code]) / width[code], between 0 and 1. Times sixteen, rounded down.",
        "At the very end that gives 16: use min(15, ...).",
    ),
    solution="""
code = max(i for i in range(8) if low[i] < q)
return code, min(15, int((q - low[code]) / width[code] * 16))
""",
    wrong="""
code = max(i for i in range(8) if low[i] < q)
return code, int((q - low[code]) / width[code] * 15)
""",
    symptom="expected:    [1, 8]",
)

# ---- 07


def _say_counts(args: tuple, got: Any, want: Any) -> str:
    cards, batches, interval = args
    return (
        f"the smallest input that shows it: {cards} cards, {batches} batches, scales kept for {interval} uses\n"
        f"your (computes, separations, hits): {describe_value(got)}\nexpected:                           "
        f"{describe_value(want)}"
    )


def _counts(cards: int, batches: int, interval: int) -> tuple[int, int, int]:
    computes, separations = cards * batches, cards * -(-batches // interval)
    return computes, separations, computes - separations


_add(
    "07.1",
    "the counters of a training run",
    "counts",
    cases=lambda seed: [(1, 1, 1), (1, 2, 1), (1, 2, 2), (3, 12, 5), (56, 20, 100)]
    + [tuple(int(v) for v in row) for row in np.random.default_rng(seed).integers(1, 60, size=(20, 3))],
    expected=_counts,
    describe=_say_counts,
    hints=(
        "Every card computes once a batch: computes = cards * batches.",
        "A separation happens at use 0, interval, 2 * interval, ...: batches / interval of them a card, rounded up.",
        "Every compute that is not a separation is a hit.",
    ),
    solution="""
computes = cards * batches
separations = cards * -(-batches // interval)
return computes, separations, computes - separations
""",
    wrong="""
computes = cards * batches
return computes, cards, computes - cards
""",
    symptom="1 cards, 2 batches, scales kept for 1 uses",
)


def _smallest_cache() -> int:
    from ..device import place
    from ..engine import Tensor, nn, no_grad

    model = nn.Sequential(*(nn.Linear(32, 32, rng=i) for i in range(4)))

    def hits(capacity: int) -> int:
        device = place(model, "nvfp4", mode="inference", cache_bytes=capacity)
        with no_grad():
            for _ in range(3):
                model(Tensor(np.zeros((1, 32), np.float32)))
        found = device.statistics.decode_hits
        device.release()
        return found

    low, high = 0, 1 << 20  # hits(low) < 8 <= hits(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if hits(middle) == 8 else (middle, high)
    return high


_add(
    "07.2",
    "the smallest decode cache that helps",
    "smallest_cache",
    cases=_once,
    expected=_smallest_cache,
    hints=(
        "A decoded weight is float32: four bytes an entry.",
        "The weights are used in a circle, so all of them have to fit at once.",
    ),
    solution="smallest_cache = 4 * 32 * 32 * 4  # layers, rows, columns, bytes",
    wrong="smallest_cache = 3 * 32 * 32 * 4",
    symptom="expected:    16384",
)

# ---- 08


def _clip_cases(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    return [
        (np.ones(1), np.zeros(1), 6.0),
        (np.ones(1), np.array([7.0]), 6.0),
        (np.ones(1), np.array([-7.0]), 6.0),
        (np.ones(1), np.array([6.0]), 6.0),
        *((rng.normal(size=8), rng.normal(0, 5, size=8), 6.0) for _ in range(10)),
    ]


_add(
    "08.1",
    "a straight-through gradient that stops where numbers saturate",
    "clipped_straight_through",
    cases=_clip_cases,
    expected=lambda g, q, limit: np.where(np.abs(q) <= limit, g, 0.0),
    hints=("np.abs(q) <= limit is an array of True and False.", "Multiply g by it: True counts as one, False as zero."),
    solution="return g * (np.abs(q) <= limit)",
    wrong="return g * (q <= limit)",
    symptom="([1.], [-7.], 6)",
)

_add(
    "08.2",
    "stochastic rounding with few random bits, without bias",
    "stochastic_floor",
    cases=lambda seed: [(0.5, 0, 1), (0.5, 1, 1), (0.25, 0, 1), (0.25, 1, 1), (0.9, 0, 2), (-1.3, 2, 3)]
    + [(float(x), i % 16, 4) for i, x in enumerate(np.random.default_rng(seed).uniform(-4, 4, 40).round(2) + 0.003)],
    expected=lambda x, u, k: np.floor(x + (u + 0.5) / 2**k),
    hints=(
        "u / 2**k takes the values 0, 1/4, 2/4, 3/4 for k = 2: their mean is below one half.",
        "Move each up by half the distance between two faces: (u + 0.5) / 2**k.",
    ),
    solution="return np.floor(x + (u + 0.5) / 2**k)",
    wrong="return np.floor(x + u / 2**k)",
    symptom="the smallest input that shows it is (0.25, 1, 1)",
)

# ---- 09


def _causal_shares(scores: np.ndarray) -> np.ndarray:
    masked = np.where(np.tri(len(scores), dtype=bool), scores, -np.inf)
    shares = np.exp(masked - masked.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


_add(
    "09.1",
    "softmax under the causal mask",
    "causal_shares",
    cases=lambda seed: [(np.zeros((1, 1)),), (np.zeros((2, 2)),), (np.array([[1.0, 5.0], [0.0, 0.0]]),)]
    + [(np.random.default_rng(seed + n).normal(size=(n, n)),) for n in (3, 4, 8)],
    expected=_causal_shares,
    tolerance=1e-9,
    hints=(
        "np.tri(n, dtype=bool) is True on and below the diagonal; np.where picks scores there and -np.inf elsewhere.",
        "Then np.exp, and divide each row by its sum (keepdims=True).",
        "Masking after the softmax is not enough: the rows would no longer add up to one.",
    ),
    solution="""
masked = np.where(np.tri(len(scores), dtype=bool), scores, -np.inf)
shares = np.exp(masked)
return shares / shares.sum(axis=1, keepdims=True)
""",
    wrong="""
shares = np.exp(scores)
shares = shares / shares.sum(axis=1, keepdims=True)
return shares * np.tri(len(scores))
""",
    symptom="your answer: [[0.5, 0. ],",
)

_add(
    "09.2",
    "the share of tokens whose best expert changes",
    "flipped",
    cases=lambda seed: [
        (np.array([[1.0, 2.0]]), np.array([[1.0, 1.5]])),
        (np.array([[1.0, 2.0]]), np.array([[2.0, 1.0]])),
        (np.array([[1.0, 2.0], [0.0, 3.0]]), np.array([[2.0, 1.0], [0.0, 2.0]])),
        tuple(np.random.default_rng(seed).normal(size=(2, 50, 8))),
    ],
    expected=lambda scores, rounded: float((scores.argmax(axis=1) != rounded.argmax(axis=1)).mean()),
    tolerance=1e-12,
    hints=("scores.argmax(axis=1) is each token's best expert.", "Compare two arrays with !=, and take the mean()."),
    solution="return (scores.argmax(axis=1) != rounded.argmax(axis=1)).mean()",
    wrong="return (scores.max(axis=1) != rounded.max(axis=1)).mean()",
    symptom="your answer: 1\nexpected:    0",
)

# ---- 10


def _row_nvfp4(x: np.ndarray) -> np.ndarray:
    from ..formats import fake_quantize

    return fake_quantize(np.ascontiguousarray(x, np.float32), "nvfp4")


def _truncate(x: np.ndarray) -> np.ndarray:
    return np.trunc(x)


def _by_last_axis(x: np.ndarray) -> np.ndarray:
    """Every number becomes the first of its row: depends on the direction as nothing else does."""
    return np.repeat(x[:, :1], x.shape[1], axis=1)


def _differing(matrix: np.ndarray, quantize: Any) -> float:
    return float((quantize(matrix) != quantize(np.ascontiguousarray(matrix.T)).T).mean())


_add(
    "10.1",
    "how much a matrix depends on the direction of its blocks",
    "differing_share",
    cases=lambda seed: [
        (np.array([[1.5, 2.5], [3.5, 4.5]], np.float32), _truncate),
        (np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), _by_last_axis),
        (np.random.default_rng(seed).normal(size=(32, 32)).astype(np.float32), _row_nvfp4),
        (np.random.default_rng(seed).normal(size=(16, 48)).astype(np.float32), _row_nvfp4),
    ],
    expected=_differing,
    tolerance=1e-12,
    describe=lambda args, got, want: (
        f"the smallest input that shows it is {describe_value(args[0])} with quantize = {args[1].__name__.strip('_')}\n"
        f"your answer: {describe_value(got)}\nexpected:    {describe_value(want)}"
    ),
    hints=(
        "Along the rows: quantize(matrix). Along the columns: quantize(matrix.T), and that is transposed.",
        "Transpose it back before you compare: quantize(matrix.T).T.",
    ),
    solution="return (quantize(matrix) != quantize(np.ascontiguousarray(matrix.T)).T).mean()",
    wrong="return (quantize(matrix).ravel() != quantize(np.ascontiguousarray(matrix.T)).ravel()).mean()",
    symptom="with quantize = truncate",
)

# ---- 11

_add(
    "11.1",
    "the roof over a product",
    "attainable",
    cases=lambda seed: [(1.0, 100.0, 10.0), (10.0, 100.0, 10.0), (100.0, 100.0, 10.0)]
    + [tuple(float(v) for v in row) for row in np.random.default_rng(seed).uniform(1, 100, size=(20, 3)).round(2)],
    expected=lambda intensity, peak, bandwidth: min(peak, intensity * bandwidth),
    tolerance=1e-9,
    hints=("Memory allows bandwidth * intensity operations a second.", "The processor allows peak. The lower counts."),
    solution="return min(peak, bandwidth * intensity)",
    wrong="return bandwidth * intensity",
    symptom="the smallest input that shows it is (100, 100, 10)",
)

# ---- 12


def _scaled_by(x: np.ndarray, span: int) -> np.ndarray:
    from ..formats import E2M1

    rows = np.asarray(x, np.float32).reshape(-1, span)
    scale = np.abs(rows).max(axis=1, keepdims=True) / np.float32(6)
    return (E2M1.decode(E2M1.encode(rows / scale)) * scale).ravel()


def _exposes(args: tuple, got: Any) -> str | None:
    try:
        x = np.asarray(got, np.float32).ravel()
    except (TypeError, ValueError):
        return f"expected an array of 32 numbers, got {got!r}"
    if x.size != 32 or not np.isfinite(x).all():
        return f"expected 32 finite numbers, got {x.size}"
    if not (x[:16].any() and x[16:].any()):
        return "one half is all zeros; every half needs a number that is not zero"
    right, wrong = _scaled_by(x, 16), _scaled_by(x, 32)
    if np.array_equal(right, wrong):
        halves = [float(np.abs(half).max()) for half in (x[:16], x[16:])]
        return f"on this input both give the same numbers: the amax of its halves is {halves[0]:g} and {halves[1]:g}"
    return None


def _exposing() -> np.ndarray:
    x = np.zeros(32, np.float32)
    x[0], x[16] = 6, 0.2
    return x


_add(
    "12.1",
    "an input that exposes a block of 32",
    "exposing_input",
    cases=_once,
    expected=_exposing,
    accept=_exposes,
    hints=(
        "If both halves have the same amax, nothing can be seen. So make one half large and the other small.",
        "In the small half, put a number that the large half's scale rounds away.",
    ),
    solution="""
x = np.zeros(32, np.float32)
x[0], x[16] = 6, 0.2
return x
""",
    wrong="return np.ones(32, np.float32)",
    symptom="the amax of its halves is 1 and 1",
)


def _encoders() -> list[tuple[str, Any, bool]]:
    from ..formats import E2M1

    def with_ties(ties: str) -> Any:
        return lambda x: int(E2M1.encode(np.array([x], np.float32), ties)[0])

    right = with_ties("even")
    return [
        ("a right encoder", lambda x: right(x), True),
        ("an encoder that loses the sign", lambda x: right(abs(x)), False),
        ("an encoder that wraps beyond 6", lambda x: right(x) if abs(x) <= 7 else 0, False),
        ("an encoder with ties away from zero", with_ties("away"), False),
        ("an encoder with ties toward zero", with_ties("zero"), False),
        ("an encoder that knows no subnormal", lambda x: right(0.0 if abs(x) < 0.75 else x), False),
        ("the right encoder again", lambda x: right(x), True),
    ]


def _named(function: Any, name: str, right: bool) -> Any:
    function.description, function.is_right = name, right
    return function


def _judged(args: tuple, got: Any) -> str | None:
    encode = args[0]
    if bool(got) == encode.is_right:
        return None
    return f"your test {'passes' if got else 'fails'} {encode.description}"


_add(
    "12.2",
    "the test that was missing",
    "good_test",
    cases=lambda seed: [(_named(function, name, right),) for name, function, right in _encoders()],
    expected=lambda encode: encode.is_right,
    accept=_judged,
    hints=(
        "Ask for encode(0.5), encode(-1.0), encode(100.0) and compare with the table of codes.",
        "Ask for at least two ties, one that goes down (0.25 to code 0) and one that goes up (0.75 to code 2).",
    ),
    solution="""
wanted = {0.0: 0, 0.5: 1, 6.0: 7, -1.0: 10, -6.0: 15, 100.0: 7, -100.0: 15, 0.25: 0, 0.75: 2, 2.5: 4, 3.5: 6, 5.0: 6}
return all(encode(x) == code for x, code in wanted.items())
""",
    wrong="return all(encode(x) == code for x, code in {0.0: 0, 1.0: 2, -1.0: 10, 100.0: 7, 0.5: 1}.items())",
    symptom="your test passes an encoder with ties away from zero",
)

# ---- (next)

EXERCISES: dict[str, Exercise] = {exercise.name: exercise for exercise in _LIST}
