"""A matrix on its way to an operand, and what has to be known of its format."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats import BlockFormat, PackedTensor
from ..formats.packed import in_second_grid
from .values import Axis, Value, along


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A matrix on its way to an operand: what it is called, and whose its rows and columns are.

    Attributes
    ----------
    name : str
        As in "the gradient".
    data : float32 (rows, columns)
        Products sum over the columns.
    rows, columns : str
        Labels of a place.
    rotated : bool
        Whether the columns are those of a rotation by now, each a mixture of all.
    """

    name: str
    data: NDArray[np.float32]
    rows: str
    columns: str
    rotated: bool = False

    @property
    def column(self) -> str:
        """What to call one of the columns."""
        return "rotated place" if self.rotated else self.columns

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Of an array with an entry for each element."""
        return along(self.rows), along(self.columns)

    def value(self, array: NDArray | None = None) -> Value:
        """An array with an entry for each element, by default the matrix itself."""
        return Value.of(self.data if array is None else array, *self.axes)

    def scale_axes(self, fmt: BlockFormat) -> tuple[Axis, ...]:
        """Of an array with an entry for each scale."""
        if fmt.flat:
            length = self.data.shape[1]
            return (Axis(((self.rows, length), (self.columns, 1)), fmt.block_length(self.data.size)),)
        return along(self.rows), along(self.columns, fmt.block_length(self.data.shape[1]))

    def byte_axes(self, fmt: BlockFormat, bits: int) -> tuple[Axis, ...]:
        """Of an array of bytes with `bits` bits an element."""
        if fmt.flat:
            return (Axis(((self.rows, self.data.shape[1] * bits), (self.columns, bits)), 8),)
        return along(self.rows), along(self.columns, 8, bits)


def described(fmt: BlockFormat) -> dict[str, Any]:
    """What of a format is needed to compute its numbers again."""
    numbers = fmt.rule.told or fmt.rule.numbers
    element = fmt.element
    return {
        "format": fmt.name,
        "summary": fmt.summary,
        "element": element.name if element is not None else "quantiles",
        "bits": fmt.code_bits,
        "block": fmt.block,
        "block_rows": fmt.block_rows,
        "flat": fmt.flat,
        "scale_element": fmt.rule.scale_element.name if fmt.rule.scale_element else "float32",
        "rule": {"name": fmt.rule.name} | (dataclasses.asdict(numbers) if numbers is not None else {}),
        "tensor_level": fmt.tensor_level,
        "four_over_six": fmt.four_over_six,
        "second": fmt.second.name if fmt.second is not None else None,
        "signed_zero": fmt.signed_zero,
        "decode_order": fmt.decode_order,
        "fine": dataclasses.asdict(fmt.fine) if fmt.fine is not None else None,
    }


def elements(packed: PackedTensor) -> NDArray[np.float32]:
    """What the codes say in units of their scales, each in its block's grid; without a fine tier."""
    fmt, codes = packed.format, packed.unpacked_codes()
    values = fmt.element.table[codes]
    if fmt.second is None:
        return values
    return np.where(in_second_grid(packed.scales, packed.shape, fmt), fmt.second.table[codes], values)
