"""Rotary positions: a query or key is turned, pair of channels by pair, by angles that grow with its position.

The product of a query at position i and a key at position j then depends on i - j alone (RoFormer, arXiv 2104.09864).
Which two channels make up a pair is a matter of layout, and weights of one layout are wrong in the other:

    halves        (i, i + d / 2)      transformers and its safetensors files
    interleaved   (2 i, 2 i + 1)      the paper, and GGUF files (whose query and key rows are permuted to fit)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine import autograd


def frequencies(head_dim: int, theta: float, factors: Sequence[float] | None = None) -> NDArray[np.float32]:
    """Angle per position of every pair: theta ** (-2 i / d), divided by its factor; (d / 2,).

    In float32, as checkpoints' own programs hold them: the models were trained with these.
    """
    made = (1 / theta ** (np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
    return made if factors is None else made / np.asarray(factors, np.float32)


def scaling_factors(scaling: Mapping[str, Any], head_dim: int, theta: float) -> tuple[float, ...] | None:
    """By how much each frequency is divided, from the `rope_scaling` of a `config.json`.

    Known are ``default`` (none), ``linear`` (positions are divided) and ``llama3``: frequencies with a wavelength
    above ``original / low_freq_factor`` are divided by ``factor``, those below ``original / high_freq_factor`` stay,
    and between the two 1 / factor moves to 1 in proportion to the number of turns.

    Raises
    ------
    ValueError
        Names a kind that is not known.
    """
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return (float(scaling["factor"]),) * (head_dim // 2)
    if kind != "llama3":
        raise ValueError(f"rotary scaling {kind!r} is not known; known are default, linear and llama3")
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = scaling["original_max_position_embeddings"] * frequencies(head_dim, theta).astype(np.float64) / math.tau
    share = np.clip((turns - low) / (high - low), 0, 1)  # 0: divided, 1: as it is
    return tuple((1 / ((1 - share) / factor + share)).tolist())


def rotary_tables(rates: NDArray, start: int, length: int, dtype: DTypeLike) -> tuple[NDArray, NDArray]:
    """cos and sin of the angles at positions start, ..., start + length - 1: two arrays (length, d / 2)."""
    angles = np.arange(start, start + length)[:, None] * rates.astype(np.float64)
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def _turn(x: NDArray, cos: NDArray, sin: NDArray, interleaved: bool) -> NDArray:
    half = x.shape[-1] // 2
    first, second = (np.s_[..., 0::2], np.s_[..., 1::2]) if interleaved else (np.s_[..., :half], np.s_[..., half:])
    turned = np.empty(x.shape, x.dtype)
    turned[first] = x[first] * cos - x[second] * sin
    turned[second] = x[second] * cos + x[first] * sin
    return turned


def _samples(rng: np.random.Generator) -> list[tuple[tuple, dict]]:
    cos, sin = rotary_tables(frequencies(6, 100.0), 3, 4, np.float64)
    return [((rng.normal(size=(2, 3, 4, 6)),), {"cos": cos, "sin": sin, "interleaved": kind}) for kind in (False, True)]


@autograd.primitive(samples=_samples)
def rotate(x, *, cos, sin, interleaved=False):
    """Turn every pair (a, b) of the last axis to (a cos - b sin, b cos + a sin): x (..., T, d), cos and sin (T, d / 2)

    Turning back is turning by the opposite angle, and that is the gradient.
    """
    return _turn(x, cos, sin, interleaved), (lambda g: _turn(g, cos, -sin, interleaved),)


def to_halves(rows: NDArray, heads: int) -> NDArray:
    """Rows of a query or key weight (heads * d, in) from the interleaved layout to that of halves."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def to_interleaved(rows: NDArray, heads: int) -> NDArray:
    """Rows of a query or key weight (heads * d, in) from the layout of halves to the interleaved one."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
