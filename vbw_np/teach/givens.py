"""Functions that exercises hand to an answer. They are known by name, so that a case is plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..formats import E2M1, fake_quantize
from .plain import Given


def truncate(x: np.ndarray) -> np.ndarray:
    return np.trunc(x)


def first_of_its_row(x: np.ndarray) -> np.ndarray:
    """Every number becomes the first of its row: depends on the direction as nothing else does."""
    return np.repeat(x[:, :1], x.shape[1], axis=1)


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

GIVENS: dict[str, Callable[..., Any]] = {
    "truncate": truncate,
    "first of its row": first_of_its_row,
    "nvfp4 along rows": nvfp4_along_rows,
    **{f"encoder {number}": encoder for number, (_, encoder, _) in enumerate(ENCODERS)},
}


def resolved(args: tuple) -> tuple:
    """Arguments with functions in place of their names."""
    return tuple(GIVENS[a.name] if isinstance(a, Given) else a for a in args)
