"""Values of an event: arrays and numbers that know which of their entries belongs to a place of the step.

A *place* names one token, one input, one hidden unit and one letter (a class). An array's axes say how each of its
indices follows from a place, so that one place picks an entry of every array of the step: the weight, its block's
scale, the sum in which it took part, the gradient that came back.
"""

from __future__ import annotations

import dataclasses
import decimal
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Place = Mapping[str, int]
"""Number of the token, the input, the hidden unit and the letter (the class)."""

LABELS = ("token", "input", "unit", "letter")

_DIGITS = {"float32": 9, "float64": 17}  # enough to tell any two apart


@dataclasses.dataclass(frozen=True)
class Axis:
    """How an index follows from a place: (sum of place[label] * stride) // per.

    Attributes
    ----------
    of : tuple of (label, stride), or None
        None: the axis is listed whole. Empty: the index is 0.
    per : int
        Elements that share an entry.
    """

    of: tuple[tuple[str, int], ...] | None
    per: int = 1

    def at(self, place: Place) -> int:
        """The index that belongs to a place."""
        return sum(place[label] * stride for label, stride in self.of or ()) // self.per

    def as_json(self) -> dict[str, Any] | None:
        """As plain data."""
        return None if self.of is None else {"of": dict(self.of), "per": self.per}


LISTED = Axis(None)
ONE = Axis(())


def along(label: str, per: int = 1, stride: int = 1) -> Axis:
    """The axis of one label; `per` of its entries share one of this array's."""
    return Axis(((label, stride),), per)


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array (or, without axes, a number) of an event.

    Attributes
    ----------
    data : ndarray
        Read only.
    axes : tuple of Axis
        One for each axis of `data`.
    """

    data: NDArray
    axes: tuple[Axis, ...] = ()

    @classmethod
    def of(cls, data: ArrayLike, *axes: Axis) -> Value:
        """A copy of `data`, with its axes."""
        array = np.array(data)
        if array.ndim != len(axes):
            raise ValueError(f"an array of shape {array.shape} has {array.ndim} axes, {len(axes)} are named")
        array.setflags(write=False)
        return cls(array, axes)

    def at(self, place: Place) -> NDArray | np.generic:
        """The entry that belongs to a place; an array of them where an axis is listed."""
        return self.data[tuple(slice(None) if axis.of is None else axis.at(place) for axis in self.axes)]


def to_hex(array: NDArray) -> str:
    """The bytes of all entries in row-major order, the highest byte of each first, as hexadecimal digits."""
    kind = np.dtype(array.dtype).newbyteorder(">")
    return np.ascontiguousarray(array).astype(kind).tobytes().hex()


def from_hex(text: str, dtype: str, shape: tuple[int, ...]) -> NDArray:
    """The inverse of `to_hex`."""
    kind = np.dtype(dtype)
    return np.frombuffer(bytes.fromhex(text), kind.newbyteorder(">")).astype(kind).reshape(shape)


def number(value: Any) -> str:
    """A number in the fewest decimal digits that give it back; whole numbers as they are.

    Of two equally near decimals the one farther from zero is taken, as JavaScript's `toPrecision` does, so that a page
    and Python print the same.
    """
    value = np.asarray(value)
    if value.dtype.kind in "ub":
        return str(int(value))
    if value.dtype.kind == "i":
        return str(int(value))
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else ("-" if value < 0 else "") + "Inf"
    if value == 0:
        return "-0" if np.signbit(value) else "0"
    size, rounded = abs(value), value.dtype.type
    exact = decimal.Decimal(float(size))
    with np.errstate(over="ignore"):
        for precision in range(1, _DIGITS[value.dtype.name] + 1):
            near = decimal.Context(prec=precision, rounding=decimal.ROUND_HALF_UP).create_decimal(exact)
            if rounded(float(near)) == size:
                break
    return ("-" if value < 0 else "") + _laid_out(near)


def _laid_out(value: decimal.Decimal) -> str:
    """Digits with a point, or with a power of ten where that would be long."""
    _, figures, power = value.as_tuple()
    digits = "".join(map(str, figures)).rstrip("0")
    first = len(figures) + int(power) - 1  # power of ten of the first digit
    if not -5 <= first <= 8:
        rest = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{digits[0]}{rest}e{first}"
    if first < 0:
        return "0." + "0" * (-first - 1) + digits
    whole = digits[: first + 1].ljust(first + 1, "0")
    return whole + (f".{digits[first + 1:]}" if len(digits) > first + 1 else "")
