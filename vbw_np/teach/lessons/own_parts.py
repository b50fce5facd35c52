"""The exercises whose answers are used later: a training step of the reader's own, one part a notebook.

`own.own_parts` collects the right answers from the reader's notebooks; the notebook on training trains with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats import E2M1, quantize
from ..exercise import Exercise, exercise
from ..givens import tape_slopes
from ..plain import Given
from ..show import byte_bits, describe_value, float_bits, nibble_bits

# ---- 01: the walk back


def _tape_cases(seed: int) -> list[tuple]:
    fixed = ("one step", "x + x", "two in a row", "a diamond", "a long way and a short one")
    drawn = tuple(f"random {seed + n} {n}" for n in range(4, 16))
    return [(Given(f"tape {name}"),) for name in fixed + drawn]


def _walk_back(tape: list[list[tuple]]) -> list[float]:
    gradients = [0.0] * len(tape)
    gradients[-1] = 1.0
    for number in range(len(tape) - 1, -1, -1):
        for source, send in tape[number]:
            gradients[source] = gradients[source] + send(gradients[number])
    return gradients


def _say_tape(args: tuple, got: Any, want: Any) -> str:
    slopes = tape_slopes(args[0].name)
    lines = [
        f"  number {i}: " + (", ".join(f"from {j}, slope {s:g}" for j, s in row) if row else "made by hand")
        for i, row in enumerate(slopes)
    ]
    shown = "\n".join(lines[:8]) + ("\n  ..." if len(lines) > 8 else "")
    return (
        f"the smallest tape that shows it ({args[0].name.removeprefix('tape ')}):\n{shown}\n"
        f"your gradients: {describe_value(got)}\nexpected:       {describe_value(want)}"
    )


EXERCISE_01_3 = exercise(
    "01.3",
    "walk back over a tape",
    "walk_back",
    cases=_tape_cases,
    expected=_walk_back,
    describe=_say_tape,
    hints=(
        "gradients = [0.0] * len(tape), and the last one is 1.0: the output moves as far as itself.",
        "Go through the numbers from the last to the first: for each (source, send) of a number, send(its gradient) "
        "goes to the source.",
        "A source may be used twice, so add: gradients[source] = gradients[source] + send(gradients[number]).",
    ),
    solution="""
gradients = [0.0] * len(tape)
gradients[-1] = 1.0
for number in reversed(range(len(tape))):
    for source, send in tape[number]:
        gradients[source] = gradients[source] + send(gradients[number])
return gradients
""",
    wrong="""
gradients = [0.0] * len(tape)
gradients[-1] = 1.0
for number in reversed(range(len(tape))):
    for source, send in tape[number]:
        gradients[source] = send(gradients[number])
return gradients
""",
    symptom="the smallest tape that shows it (x + x)",
)

# ---- 02: rounding, for whole arrays


def _array_cases(seed: int) -> list[tuple]:
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    edges = np.array([v for t in ties for v in np.nextafter(np.float32(t), np.float32([0, 9]))], np.float32)
    rng = np.random.default_rng(seed)
    return [
        (np.array([0.4, 6.0], np.float32),),
        (np.array(ties, np.float32),),
        (-np.array(ties, np.float32),),
        (np.array([100, -7, -0.1, 0], np.float32),),
        (edges,),
        (rng.normal(0, 3, (8, 16)).astype(np.float32),),
    ]


def _codes_of(x: np.ndarray) -> np.ndarray:
    return E2M1.encode(np.asarray(x, np.float32), signed_zero="drop")


def _say_codes(args: tuple, got: Any, want: Any) -> str:
    if np.shape(got) != np.shape(want):
        return f"for an array of shape {np.shape(want)} your codes have shape {np.shape(got)}"
    at = int(np.argmax(np.ravel(got) != np.ravel(want)))
    x = float(np.ravel(args[0])[at])
    return (
        f"the first number that shows it is {x:.9g}, in bits {float_bits(x)}\n"
        f"your code: {nibble_bits(np.ravel(got)[at])}\nexpected:  {nibble_bits(np.ravel(want)[at])}"
    )


EXERCISE_02_3 = exercise(
    "02.3",
    "round a whole array to codes",
    "codes_of",
    cases=_array_cases,
    expected=_codes_of,
    describe=_say_codes,
    hints=(
        "size = np.abs(x) is an array, and so is size > 0.25: True counts as one.",
        "Start with codes = np.zeros(x.shape, np.uint8), and add the seven comparisons, with > and >= as before.",
        "The sign: np.where(x < 0, codes + 8, codes).",
    ),
    solution="""
size, codes = np.abs(x), np.zeros(x.shape, np.uint8)
for i, midpoint in enumerate((0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)):
    codes += (size >= midpoint) if i % 2 else (size > midpoint)
return np.where(x < 0, codes + 8, codes).astype(np.uint8)
""",
    wrong="""
values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
codes = np.abs(np.abs(x)[..., None] - values).argmin(axis=-1)
return np.where(x < 0, codes + 8, codes).astype(np.uint8)
""",
    symptom="the first number that shows it is 0.75",
)

# ---- 05: a matrix in NVFP4, to the byte: its scales, then its codes


def _matrices(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    ramp = np.linspace(-1, 2, 16, dtype=np.float32)[None]
    gap = np.zeros((1, 32), np.float32)
    gap[0, 3] = 5
    drawn = [rng.normal(0, size, (4, 64)).astype(np.float32) for size in (1, 1e-3, 300)]
    wild = (rng.standard_t(2, (8, 32))).astype(np.float32)
    return [ramp, gap, *drawn, wild]


def _nvfp4_scales(x: np.ndarray) -> tuple[np.ndarray, np.float32]:
    return quantize(x, "nvfp4", measure=False).scales, np.abs(x).max()


def _with_scales(seed: int) -> list[tuple]:
    return [(x, *_nvfp4_scales(x), Given("codes of"), Given("pack")) for x in _matrices(seed)]


def _nvfp4_codes(x: np.ndarray, scales: np.ndarray, amax: np.float32, codes_of: Any, pack: Any) -> np.ndarray:
    return quantize(x, "nvfp4", measure=False).codes.ravel()


def _differs(args: tuple, name: str, got: Any, want: Any, shown: Any) -> str | None:
    """Where one of the returned things is not the expected one, or None."""
    lead = f"for a matrix of shape {args[0].shape}: `{name}`"
    if np.shape(got) != np.shape(want):
        return f"{lead} has shape {np.shape(got)}, expected {np.shape(want)}"
    differs = np.ravel(got) != np.ravel(want)
    if not differs.any():
        return None
    at = int(differs.argmax())
    one, other = np.ravel(got)[at], np.ravel(want)[at]
    return f"{lead} differs first at {at}\nyours:    {shown(one)}\nexpected: {shown(other)}"


def _say_scales(args: tuple, got: Any, want: Any) -> str:
    lead = f"for a matrix of shape {args[0].shape}"
    if not isinstance(got, list | tuple) or len(got) != 2:
        return f"{lead}: expected two things, (scales, amax)"
    amax = _differs(args, "amax", got[1], want[1], describe_value)
    found = amax or _differs(args, "scales", got[0], want[0], byte_bits)
    return found or f"{lead}: something in it is no number"


def _say_packed(args: tuple, got: Any, want: Any) -> str:
    return _differs(args, "packed", got, want, byte_bits) or "something in it is no number"


EXERCISE_05_2 = exercise(
    "05.2",
    "the scales of a matrix in NVFP4, equal in every byte",
    "nvfp4_scales",
    cases=lambda seed: [(x,) for x in _matrices(seed)],
    expected=_nvfp4_scales,
    describe=_say_scales,
    library=True,
    hints=(
        "amax = np.abs(x).max(), and x.reshape(len(x), -1, 16) cuts every row into blocks.",
        "The amax of every block: np.abs(blocks).max(axis=2). All of it in float32: S = np.float32(2688) / amax.",
        "scales = E4M3.encode(np.abs(blocks).max(axis=2) * (S * (np.float32(1) / np.float32(6))))",
    ),
    solution="""
one, amax, blocks = np.float32(1), np.abs(x).max(), x.reshape(len(x), -1, 16)
S = np.float32(2688) / amax
return E4M3.encode(np.abs(blocks).max(axis=2) * (S * (one / np.float32(6)))), amax
""",
    wrong="""
one, amax, blocks = np.float32(1), np.abs(x).max(), x.reshape(len(x), -1, 16)
return E4M3.encode(np.abs(blocks).max(axis=2) * (one / np.float32(6))), amax
""",
    symptom="`scales` differs first at 0",
)

EXERCISE_05_3 = exercise(
    "05.3",
    "the codes of a matrix in NVFP4, equal in every byte",
    "nvfp4_codes",
    cases=_with_scales,
    expected=_nvfp4_codes,
    describe=_say_packed,
    library=True,
    hints=(
        "decoded = E4M3.decode(scales) * (np.float32(1) / S) is what each block was divided by, nearly.",
        "factor = np.divide(one, decoded, out=np.zeros_like(decoded), where=decoded > 0) does not divide by nought.",
        "blocks * factor[..., None] gives each block its own factor; then pack(codes_of(...).ravel()).",
    ),
    solution="""
one, blocks = np.float32(1), x.reshape(len(x), -1, 16)
S = np.float32(2688) / amax
decoded = E4M3.decode(scales) * (one / S)
factor = np.divide(one, decoded, out=np.zeros_like(decoded), where=decoded > 0)
return pack(codes_of(blocks * factor[..., None]).ravel())
""",
    wrong="""
one, blocks = np.float32(1), x.reshape(len(x), -1, 16)
decoded = E4M3.decode(scales)
factor = np.divide(one, decoded, out=np.zeros_like(decoded), where=decoded > 0)
return pack(codes_of(blocks * factor[..., None]).ravel())
""",
    symptom="`packed` differs first at",
)

# ---- 08: straight through


def _layer_cases(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    one = (np.array([[2.0]]), np.array([[3.0]]), np.array([[0.5]]))
    zero = (np.array([[1.0, -1.0]]), np.array([[1.0, 2.0]]), np.array([[0.0, 6.0], [0.5, 0.0]]))
    drawn = [tuple(rng.integers(-4, 5, shape).astype(float) for shape in ((n, 3), (n, 5), (3, 5))) for n in (1, 2, 7)]
    return [one, zero, *drawn]


EXERCISE_08_1 = exercise(
    "08.1",
    "the way back of a linear layer, straight through",
    "straight_through",
    cases=_layer_cases,
    expected=lambda g, x, q: (g @ q, g.T @ x),
    hints=(
        "The output is x @ q.T. If q were an ordinary weight, what would x and q receive?",
        "x receives g @ q, with the weight that was really used. q would receive g.T @ x.",
        "Straight through: the master receives what q would, all of it, also where q is 0.",
    ),
    solution="return g @ q, g.T @ x",
    wrong="return g @ q, (g.T @ x) * (q != 0)",
    symptom="([[ 1., -1.]], [[1., 2.]], [[0. , 6. ],",
)

# ---- 10: the loop


def _loop_cases(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    one = [([np.array([4.0])], Given("slope of the square"), 0.25, steps) for steps in (1, 2)]
    two = ([np.array([4.0, -2.0]), np.array([[1.0]])], Given("slope of the square"), 0.5, 3)
    changing = ([np.array([1.0])], Given("slope that changes with the step"), 0.5, 4)
    drawn = ([rng.integers(-9, 9, (2, 3)).astype(float)], Given("slope of the square"), 0.125, 5)
    return [*one, two, changing, drawn]


def _descend(weights: list, gradients_of: Any, lr: float, steps: int) -> list:
    for step in range(steps):
        weights = [w - lr * g for w, g in zip(weights, gradients_of(weights, step))]
    return weights


EXERCISE_10_2 = exercise(
    "10.2",
    "a training loop",
    "descend",
    cases=_loop_cases,
    expected=_descend,
    frozen=True,
    hints=(
        "for step in range(steps): first the gradients at the weights as they are now, then the move.",
        "gradients_of(weights, step) gives one array a weight; each weight becomes w - lr * g.",
        "weights = [w - lr * g for w, g in zip(weights, gradients)], and the next step sees the new ones.",
    ),
    solution="""
for step in range(steps):
    gradients = gradients_of(weights, step)
    weights = [w - lr * g for w, g in zip(weights, gradients)]
return weights
""",
    wrong="""
gradients = gradients_of(weights, 0)
for step in range(steps):
    weights = [w - lr * g for w, g in zip(weights, gradients)]
return weights
""",
    symptom="slope of the square, 0.25, 2)",
)

EXERCISES: tuple[Exercise, ...] = (
    EXERCISE_01_3,
    EXERCISE_02_3,
    EXERCISE_05_2,
    EXERCISE_05_3,
    EXERCISE_08_1,
    EXERCISE_10_2,
)
