"""What one number costs the others of its block: from its own bits to how many of its neighbors became zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blocks import BlockFormat, get_format
from .codec import quantize
from .explain import Explanation, Step


def explain_in_block(x: NDArray, at: tuple[int, int], fmt: str | BlockFormat) -> Explanation:
    """One number of a matrix, its code and scale, and what its block lost.

    Parameters
    ----------
    x : float32 (rows, columns)
    at : (int, int)
    fmt : str or BlockFormat

    Returns
    -------
    Explanation
        Its `data` has, besides those of `PackedTensor.explain`: `others`, how many other numbers the block has;
        `became_zero`, how many of them did that were not; `error_of_others`, their squared error over their squares;
        `usual_error`, the same of all numbers of a block, the median over the blocks of the matrix.
    """
    record = get_format(fmt)
    packed = quantize(x, record, nonfinite="propagate")
    inner, decoded = packed.explain(*at, x=x), packed.dequantize()
    length = record.block or x.shape[1]
    first = at[1] // length * length
    columns = slice(first, min(first + length, x.shape[1]))
    block, kept = x[at[0], columns].astype(np.float64), decoded[at[0], columns]
    others = np.arange(len(block)) != at[1] - first
    lost = int(((kept == 0) & (block != 0) & others).sum())
    error, usual = _relative(block, kept, others), _usual_error(x, decoded, length)
    steps = (
        *inner.steps,
        Step("its block", f"channels {first} to {columns.stop - 1}", f"{others.sum()} other numbers"),
        Step("became zero", f"{lost} of {others.sum()}", "of the others"),
        Step("error of the others", f"{error:.3f}", f"squared, of their squares; the median block's is {usual:.3f}"),
    )
    told = {"became_zero": lost, "others": int(others.sum()), "error_of_others": error, "usual_error": usual}
    return Explanation(f"a number in {record.name}", steps, inner.data | told)


def _relative(x: NDArray, kept: NDArray, chosen: NDArray) -> float:
    """Squared error over squares, of some of a block's numbers."""
    squares = float(np.square(x[chosen]).sum())
    return float(np.square(x[chosen] - kept[chosen]).sum()) / squares if squares else 0.0


def _usual_error(x: NDArray, decoded: NDArray, length: int) -> float:
    """The median over blocks of squared error over squares."""
    width = x.shape[1] // length * length
    parts = [a[:, :width].astype(np.float64).reshape(-1, length) for a in (x, decoded)]
    squares, errors = np.square(parts[0]).sum(axis=1), np.square(parts[0] - parts[1]).sum(axis=1)
    return float(np.median(errors[squares > 0] / squares[squares > 0])) if (squares > 0).any() else 0.0
