"""GPTQ: weights are rounded column by column, and each column carries the errors of those before it.

What a layer loses is measured at its output: with E = W - Q and inputs of second moments H = mean of x x^T,

    loss = tr(E H E^T).

With H = R D R^T, R upper triangular with ones on its diagonal and D diagonal, this is

    loss = sum over columns j of  D_j |e_j + sum over i < j of e_i R_ij|^2,

so that every column, given those before it, does best to be rounded from  w_j + sum over i < j of e_i R_ij.  That is
GPTQ (arXiv 2210.17323), which updates the columns that are left by a Cholesky factor of H^-1; the form without an
inverse is LDLQ (QuIP, arXiv 2307.13304, theorem 6 of which has the two equal).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..formats import BlockFormat, FittedScales
from .errors import CalibrationError
from .fitting import Rounder, join_scales, take_scales

Fit = Callable[[NDArray, slice], FittedScales]
"""Scales of some columns (out, n) of a weight, as they are by now; the slice says which."""

COLUMNS = 128
"""Columns that a format without blocks rounds before the others hear of the errors; changes nothing but the speed."""


def carry_factor(hessian: NDArray, damping: float) -> NDArray[np.float32]:
    """R of H = R D R^T, upper triangular with ones on the diagonal.

    Parameters
    ----------
    hessian : (in, in)
        Second moments of the inputs, symmetric.
    damping : float
        What is added to the diagonal, as a share of its mean. Inputs that are always zero count as if they were that.

    Raises
    ------
    CalibrationError
        The moments are no numbers, or all zero.
    """
    moments = np.array(hessian, np.float64)
    mean = np.trace(moments) / len(moments)
    if not (np.isfinite(mean) and mean > 0):
        raise CalibrationError(f"the inputs of a layer have a mean square of {mean}; nothing can be learned from them")
    moments[np.diag_indices_from(moments)] += damping * mean
    try:
        lower = np.linalg.cholesky(moments[::-1, ::-1])  # of the reversed matrix: reversed again it is upper
    except np.linalg.LinAlgError:
        raise CalibrationError(
            f"the second moments of {len(moments)} inputs are not positive definite with a damping of {damping:g}; "
            "calibrate with more tokens, or give a larger damping"
        ) from None
    upper = lower[::-1, ::-1]
    return (upper / np.diag(upper)).astype(np.float32)


def gptq(
    weight: NDArray[np.float32],
    hessian: NDArray,
    fmt: BlockFormat,
    fit: Fit,
    *,
    damping: float = 0.01,
) -> tuple[NDArray[np.float32], FittedScales]:
    """Round a weight so that its layer's output changes little.

    Parameters
    ----------
    weight : float32 (out, in)
    hessian : (in, in)
        Second moments of the inputs.
    fmt : BlockFormat
    fit : callable
        Asked for the scales of every block when it begins, in order.
    damping : float

    Returns
    -------
    values : float32 (out, in)
        What the chosen codes decode to.
    scales : FittedScales
        Under which `formats.encode` gives these codes.
    """
    carry = carry_factor(hessian, damping)
    exact = np.ascontiguousarray(weight.T)  # a column a row: (in, out)
    columns, errors = exact.copy(), np.zeros_like(exact)  # as they are after the others' errors; their own
    fitted = []
    for group in groups_of(fmt, len(columns)):
        if group.begins:
            fitted.append(fit(np.ascontiguousarray(columns[group.block].T), group.block))
            rounder = Rounder(fmt, fitted[-1], len(weight))
        for j in range(group.start, group.stop):
            values = rounder(columns[j])
            errors[j] = exact[j] - values
            columns[j] = values
            columns[j + 1 : group.stop] += carry[j, j + 1 : group.stop, None] * errors[j]
        done, left = slice(group.start, group.stop), slice(group.stop, None)
        columns[left] += carry[done, left].T @ errors[done]
    return np.ascontiguousarray(columns.T), join_scales(fitted)


class Group:
    """Columns `start` to `stop`, part of a block of scales; `begins`: they are its first."""

    def __init__(self, start: int, stop: int, block: slice) -> None:
        self.start, self.stop, self.block = start, stop, block
        self.begins = start == block.start


def groups_of(fmt: BlockFormat, length: int) -> list[Group]:
    """The columns of a weight in groups that share a block of scales and are not too many."""
    block, groups = fmt.block_length(length), []
    for first in range(0, length, block):
        last = min(first + block, length)
        for start in range(first, last, COLUMNS):
            groups.append(Group(start, min(start + COLUMNS, last), slice(first, last)))
    return groups


def gptq_in_order(
    weight: NDArray[np.float32],
    hessian: NDArray,
    fmt: BlockFormat,
    scales: FittedScales,
    order: NDArray,
    *,
    damping: float = 0.01,
) -> NDArray[np.float32]:
    """As `gptq`, with columns taken in another order, under scales (of the whole weight) that are given.

    Parameters
    ----------
    order : integers (in,)
        A permutation of the columns.

    Returns
    -------
    values : float32 (out, in)
    """
    carry = carry_factor(hessian[np.ix_(order, order)], damping)
    exact = np.ascontiguousarray(weight.T[order])
    columns, errors = exact.copy(), np.zeros_like(exact)
    block = fmt.block_length(weight.shape[1])
    rounders = {first: Rounder(fmt, take_scales(scales, first // block, fmt), len(weight))
                for first in range(0, weight.shape[1], block)}  # fmt: skip
    for start in range(0, len(columns), COLUMNS):
        stop = min(start + COLUMNS, len(columns))
        for j in range(start, stop):
            values = rounders[order[j] // block * block](columns[j])
            errors[j] = exact[j] - values
            columns[j] = values
            columns[j + 1 : stop] += carry[j, j + 1 : stop, None] * errors[j]
        columns[stop:] += carry[start:stop, stop:].T @ errors[start:stop]
    result = np.empty_like(weight)
    result[:, order] = columns.T
    return result
