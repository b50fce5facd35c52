"""Initial values, drawn from an explicit NumPy generator; PyTorch's default distributions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from ..parameter import Parameter
from ..random import default_seed


def uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float, dtype: DTypeLike) -> Parameter:
    """U(-bound, bound)"""
    values = rng.random(shape, np.dtype(dtype).type)
    values *= np.dtype(dtype).type(2 * bound)
    values -= np.dtype(dtype).type(bound)
    return Parameter(values)


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, dtype: DTypeLike) -> Parameter:
    """N(0, std ** 2)"""
    values = rng.standard_normal(shape, np.dtype(dtype).type)
    values *= np.dtype(dtype).type(std)
    return Parameter(values)


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, int], dtype: DTypeLike) -> Parameter:
    """U(-a, a) with a = sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)"""
    return uniform(rng, shape, math.sqrt(6 / (shape[0] + shape[1])), dtype)


def constant(shape: tuple[int, ...], value: float, dtype: DTypeLike) -> Parameter:
    return Parameter(np.full(shape, value, dtype))


def generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    """`rng` itself, or a new generator seeded with it; None: with the next of the default seeds (`manual_seed`)."""
    return np.random.default_rng(default_seed() if rng is None else rng)
