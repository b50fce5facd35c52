"""Initial values, drawn from an explicit NumPy generator; PyTorch's default distributions.

With `UNDRAWN` in the generator's place they are zeros: for a model whose values are loaded next.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from ..parameter import Parameter
from ..random import default_seed


class Undrawn:
    """In a generator's place: nothing is drawn, values are zero."""

    def __repr__(self) -> str:
        return "UNDRAWN"


UNDRAWN = Undrawn()
Drawn = np.random.Generator | Undrawn


def uniform(rng: Drawn, shape: tuple[int, ...], bound: float, dtype: DTypeLike) -> Parameter:
    """U(-bound, bound)"""
    if rng is UNDRAWN:
        return Parameter(np.zeros(shape, dtype))
    values = rng.random(shape, np.dtype(dtype).type)
    values *= np.dtype(dtype).type(2 * bound)
    values -= np.dtype(dtype).type(bound)
    return Parameter(values)


def normal(rng: Drawn, shape: tuple[int, ...], std: float, dtype: DTypeLike) -> Parameter:
    """N(0, std ** 2)"""
    if rng is UNDRAWN:
        return Parameter(np.zeros(shape, dtype))
    values = rng.standard_normal(shape, np.dtype(dtype).type)
    values *= np.dtype(dtype).type(std)
    return Parameter(values)


def xavier_uniform(rng: Drawn, shape: tuple[int, int], dtype: DTypeLike) -> Parameter:
    """U(-a, a) with a = sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)"""
    return uniform(rng, shape, math.sqrt(6 / (shape[0] + shape[1])), dtype)


def constant(shape: tuple[int, ...], value: float, dtype: DTypeLike) -> Parameter:
    return Parameter(np.full(shape, value, dtype))


def generator(rng: Drawn | int | None) -> Drawn:
    """`rng` itself, or a new generator seeded with it; None: with the next of the default seeds (`manual_seed`)."""
    if isinstance(rng, Undrawn):
        return rng
    return np.random.default_rng(default_seed() if rng is None else rng)
