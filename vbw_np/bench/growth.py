"""What a training step of a large Claude4 will take, told from small ones, before any of it is allocated.

Parameters and floating-point operations are sums of products of sizes: linear in the vocabulary, quadratic in the width
(with `hidden` four times the width). Six small models therefore give both exactly, by interpolation in whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from ..models.claude4 import Claude4, Claude4Config
from .floor import step_products

WIDTHS, VOCABULARIES = (32, 64, 96), (100, 200)  # of the small models
HIDDEN = 4  # times the width
BASE_BYTES = 350_000_000
"""Python, NumPy and BLAS with their buffers, numba's compiler and the tokens."""


@dataclass(frozen=True)
class Step:
    """A training step as it can be told beforehand.

    Attributes
    ----------
    parameters, flop : int
        Exact.
    memory_bytes : int
        About: see `step`.
    """

    parameters: int
    flop: int
    memory_bytes: int


def interpolate(xs: Sequence[int], ys: Sequence[Fraction | int], x: int) -> Fraction:
    """The polynomial through the points, at x (Lagrange's formula, in fractions)."""
    total = Fraction(0)
    for i, (a, y) in enumerate(zip(xs, ys)):
        others = [b for j, b in enumerate(xs) if j != i]
        total += Fraction(y) * math.prod((Fraction(x - b, a - b) for b in others), start=Fraction(1))
    return total


def _whole(values: dict[tuple[int, int], int], width: int, vocabulary: int) -> int:
    rows = [interpolate(WIDTHS, [values[w, v] for w in WIDTHS], width) for v in VOCABULARIES]
    return int(interpolate(VOCABULARIES, rows, vocabulary))


def step(config: Claude4Config, batch_size: int, seq_len: int, decoded: bool = False) -> Step:
    """Parameters, operations and memory of a training step on cards.

    Parameters
    ----------
    config : Claude4Config
        Its `hidden` is four times its `d_model`.
    batch_size, seq_len : int
    decoded : bool
        Whether cards hold weights in low precision, and decoded ones beside the masters.

    Returns
    -------
    Step
        Memory is what the parts of a step need: 16 bytes a parameter (weight, gradient, two moments of Adam), 4 more
        where it is decoded, a float32 for half of the logits, 80 a token, block and channel for what the backward pass
        reads, and `BASE_BYTES`; the last two numbers were fitted to measured peaks.
    """
    if config.hidden != HIDDEN * config.d_model:
        raise ValueError(f"hidden is {config.hidden}: the interpolation is for {HIDDEN} times the width")
    small = {
        (width, vocabulary): Claude4(
            replace(config, d_model=width, hidden=HIDDEN * width, vocab_size=vocabulary), seed=0
        )
        for width in WIDTHS
        for vocabulary in VOCABULARIES
    }
    measures: dict[str, Callable[[Claude4], int]] = {
        "parameters": lambda model: model.num_parameters(),
        "flop": lambda model: sum(p.flop for p in step_products(model, batch_size, seq_len)),
    }
    found = {
        name: _whole({sizes: measure(model) for sizes, model in small.items()}, config.d_model, config.vocab_size)
        for name, measure in measures.items()
    }
    tokens = batch_size * seq_len
    kept = tokens * config.vocab_size // 2 + 80 * tokens * config.d_model * config.layers
    memory = BASE_BYTES + (20 if decoded else 16) * found["parameters"] + 4 * kept
    return Step(found["parameters"], found["flop"], memory)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log(seconds) over log(sizes), by least squares: seconds grow as sizes to this power."""
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / spread
