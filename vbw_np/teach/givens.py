"""Functions that exercises hand to an answer. They are known by name, so that a case is plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..formats import E2M1, fake_quantize, pack_nibbles
from .plain import Given


def truncate(x: np.ndarray) -> np.ndarray:
    return np.trunc(x)


def first_of_its_row(x: np.ndarray) -> np.ndarray:
    """Every number becomes the first of its row: depends on the direction as nothing else does."""
    return np.repeat(x[:, :1], x.shape[1], axis=1)


def first_of_its_three(x: np.ndarray) -> np.ndarray:
    """Every number becomes the first of its group of three neighbors in the row."""
    return np.repeat(x[:, ::3], 3, axis=1)[:, : x.shape[1]]


def mxfp4_along_rows(x: np.ndarray) -> np.ndarray:
    return fake_quantize(np.ascontiguousarray(x, np.float32), "mxfp4")


def nvfp4_along_rows(x: np.ndarray) -> np.ndarray:
    return fake_quantize(np.ascontiguousarray(x, np.float32), "nvfp4")


def _right(x: float, ties: str = "even") -> int:
    return int(E2M1.encode(np.array([x], np.float32), ties)[0])


ENCODERS: tuple[tuple[str, Callable[[float], int], bool], ...] = (
    ("a right encoder", lambda x: _right(x), True),
    ("an encoder that loses the sign", lambda x: _right(abs(x)), False),
    ("an encoder that wraps beyond 6", lambda x: _right(x) if abs(x) <= 7 else 0, False),
    ("an encoder with ties away from zero", lambda x: _right(x, "away"), False),
    ("an encoder with ties toward zero", lambda x: _right(x, "zero"), False),
    ("an encoder that knows no subnormal", lambda x: _right(0.0 if abs(x) < 0.75 else x), False),
    ("the right encoder again", lambda x: _right(x), True),
)
"""Encoders on trial: what is said of each, the encoder, whether it is right."""

# ---- tapes: for each number, whence it was made and how fast it moves

_TAPES: dict[str, list[list[tuple[int, float]]]] = {
    "one step": [[], [(0, 3.0)]],
    "x + x": [[], [(0, 1.0), (0, 1.0)]],
    "two in a row": [[], [(0, 2.0)], [(1, -3.0)]],
    "a diamond": [[], [(0, 2.0)], [(0, 3.0)], [(1, 1.0), (2, 1.0)]],
    "a long way and a short one": [[], [(0, 2.0)], [(1, 5.0)], [(2, -1.0), (1, 4.0)], [(3, 1.0), (0, 7.0)]],
}


def tape_slopes(name: str) -> list[list[tuple[int, float]]]:
    """The tape of a name such as "tape a diamond" or "tape random 7 12" (a seed, and how many numbers)."""
    name = name.removeprefix("tape ")
    if name in _TAPES:
        return _TAPES[name]
    seed, count = (int(word) for word in name.split()[1:])
    rng = np.random.default_rng(seed)
    rows: list[list[tuple[int, float]]] = [[], []]
    while len(rows) < count:
        sources = rng.integers(0, len(rows), rng.integers(1, 4))
        rows.append([(int(j), float(rng.integers(-3, 4))) for j in sources])
    return rows


def _sending(slope: float) -> Callable[[Any], Any]:
    return lambda g: slope * g


def tape(name: str) -> list[list[tuple[int, Callable[[Any], Any]]]]:
    """A tape as an answer gets it: a function that sends a gradient on in place of each slope."""
    return [[(j, _sending(slope)) for j, slope in row] for row in tape_slopes(name)]


# ---- by name

GIVENS: dict[str, Callable[..., Any]] = {
    "truncate": truncate,
    "first of its row": first_of_its_row,
    "first of its three": first_of_its_three,
    "mxfp4 along rows": mxfp4_along_rows,
    "nvfp4 along rows": nvfp4_along_rows,
    "codes of": lambda x: E2M1.encode(np.asarray(x, np.float32), signed_zero="drop"),
    "pack": pack_nibbles,
    "slope of the square": lambda weights, step: [2 * w for w in weights],
    "slope that changes with the step": lambda weights, step: [w + step for w in weights],
    **{f"encoder {number}": encoder for number, (_, encoder, _) in enumerate(ENCODERS)},
}


def resolved(args: tuple) -> tuple:
    """Arguments with functions in place of their names."""
    return tuple(_meaning(a.name) if isinstance(a, Given) else a for a in args)


def _meaning(name: str) -> Any:
    return tape(name) if name.startswith("tape ") else GIVENS[name]
