"""Formats that try two ways for each block and keep the one that errs less, as events.

Four over six tries two scales, one that brings the block's largest magnitude to 6 and one that brings it to 4. IF4
tries two grids under one scale. The definition is `formats.codec.candidates`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..formats import BlockFormat, PackedTensor
from ..formats.codec import block_amax, candidates
from ..formats.explain import all_bits
from .matrix import Matrix, described
from .story import Story
from .values import Value

GRIDS = ("E2M1", "INT4")
"""What the two grids of IF4 are called: INT4's levels are 6/7 apart, so that 7 of them reach as far as E2M1."""


def two_scales(story: Story, matrix: Matrix, packed: PackedTensor) -> None:
    """Tell the two scales of four over six, what each errs, and which is taken."""
    fmt = packed.format
    amax = block_amax(matrix.data, fmt)
    codes, errors = candidates(matrix.data, amax, packed.stored_scale, fmt)
    with np.errstate(over="ignore"):
        base = fmt.rule.four_over_six_base(amax, packed.stored_scale)
        wanted = [np.minimum(scale, np.float32(448)) for scale in (base, base * np.float32(1.5))]
    axes = matrix.scale_axes(fmt)
    arrays = {"took_four": (errors[1] < errors[0]).astype(np.uint8)}
    for name, code, error, scale in zip(("six", "four"), codes, errors, wanted, strict=True):
        decoded = fmt.rule.scale_element.table[code]
        arrays |= {f"{name}_wanted": scale, f"{name}_scale": decoded, f"{name}_error": error}
    story.add(
        "four or six",
        "Two scales are tried for it. To bring that amax to 6 it takes {six_wanted}, and the nearest scale is "
        "{six_scale}; to bring it to 4, half as much again: {four_wanted}, and {four_scale}. Below 4 the levels lie "
        f"closer, so that the block's other numbers may gain. {_errors(fmt.four_over_six)}: {{six_error}} and "
        "{four_error}. The smaller one wins: {took_four?6|4}.",
        {name: Value.of(array, *axes) for name, array in arrays.items()} | {"x": matrix.value()},
        described(fmt),
        ("took_four", "six_error", "four_error"),
    )


def two_grids(story: Story, matrix: Matrix, packed: PackedTensor) -> None:
    """Tell what each grid of IF4 errs, and which is taken."""
    fmt = packed.format
    _, errors = candidates(matrix.data, block_amax(matrix.data, fmt), packed.stored_scale, fmt)
    axes = matrix.scale_axes(fmt)
    arrays = {
        "took_second": (errors[1] < errors[0]).astype(np.uint8), "first_error": errors[0], "second_error": errors[1],
        "code": packed.scales,
    }  # fmt: skip
    story.add(
        "grid",
        f"Two grids are tried under that scale: {GRIDS[0]}, whose levels are dense near 0, and {GRIDS[1]}, whose "
        f"levels are evenly 6/7 apart. {_errors('mse')}: {{first_error}} and {{second_error}}. The smaller one wins: "
        "{took_second@grids}. The highest bit of the scale's code, which no scale needs, says so: {code:x}, bits "
        "{code@code_bits}.",
        {name: Value.of(array, *axes) for name, array in arrays.items()} | {"x": matrix.value()},
        described(fmt)
        | {"grids": list(GRIDS), "code_bits": list(all_bits(fmt.rule.scale_element))},
        ("took_second", "first_error", "second_error"),
    )


def _errors(kind: str) -> str:
    what = "Absolute errors" if kind == "mae" else "Squared errors"
    return f"{what} of the decoded numbers, rounded to nearest and added up over the block"


def neighbors(fmt: BlockFormat, q: NDArray, first: dict[str, NDArray]) -> dict[str, NDArray]:
    """The levels on either side of each quotient: those of `first`, and those of the second grid, which have signs."""
    arrays = between_levels(q, fmt.second.table[fmt.second.order])
    return {
        name: np.where(first["second"], array, first[name]).astype(first[name].dtype)
        for name, array in zip(("low", "high", "between"), arrays, strict=True)
    }


def between_levels(q: NDArray, levels: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """The ascending levels on either side of each number (the last one twice beyond it), and whether it is between."""
    place = np.clip(np.searchsorted(levels, q, side="right") - 1, 0, len(levels) - 1)
    low, high = levels[place], levels[np.minimum(place + 1, len(levels) - 1)]
    return low, high, (high > low) & (q > low)
