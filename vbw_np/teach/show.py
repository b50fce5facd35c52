"""Counter-examples as text: numbers, arrays, and the bits of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .plain import Given, Opaque, numbers


def float_bits(x: float) -> str:
    """The 32 bits of a float32 as sign | exponent | mantissa."""
    bits = f"{int(np.float32(x).view(np.uint32)):032b}"
    return f"{bits[0]}|{bits[1:9]}|{bits[9:]}"


def nibble_bits(code: Any) -> str:
    """A 4-bit code as sign, exponent, mantissa: `0 10 1`; something else as it is."""
    try:
        number = int(code)
    except (TypeError, ValueError, OverflowError):
        return describe_value(code)
    if number != code:
        return f"{describe_value(code)} (no whole number, so no code)"
    return f"{number} = {number >> 3 & 1} {number >> 1 & 3:02b} {number & 1}" if 0 <= number < 16 else f"{number}"


def byte_bits(byte: Any) -> str:
    """A byte as high nibble and low nibble: `0x5a = 0101 1010`."""
    number = int(byte)
    return f"0x{number:02x} = {number >> 4:04b} {number & 15:04b}" if 0 <= number < 256 else f"{number}"


def describe_value(value: Any) -> str:
    """A short text of a value of Python's or NumPy's own classes."""
    if isinstance(value, Given):
        return value.name
    if isinstance(value, np.ndarray | list | tuple):
        array = numbers(value)
        if array is None:
            return "[" + ", ".join(describe_value(v) for v in value[:8]) + (", ..." if len(value) > 8 else "") + "]"
        return np.array2string(array, threshold=16, edgeitems=4, separator=", ", precision=6)
    if isinstance(value, float | np.floating):
        return f"{value:.9g}"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 200 else text[:200] + "..."


def describe_kind(value: Any) -> str:
    """What something is, in words: `the string '16'`, `a list of 3`."""
    if isinstance(value, Opaque):
        return repr(value)
    if isinstance(value, str):
        return f"the string {describe_value(value)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}: {describe_value(value)}"
    return describe_value(value)


def describe_args(args: tuple) -> str:
    """The arguments of a case, as they would be typed."""
    return "(" + ", ".join(describe_value(a) for a in args) + ")" if args else "this exercise"


def describe_input(args: tuple, names: Sequence[str] = ()) -> str:
    """The line before an answer: the case, and which argument is which where there are several."""
    which = f" for ({', '.join(names)})" if len(args) > 1 and len(names) == len(args) else ""
    return f"the smallest input that shows it is {describe_args(args)}{which}\n" if args else ""


def describe_plainly(args: tuple, got: Any, want: Any, names: Sequence[str] = ()) -> str:
    """The counter-example without bits."""
    lead = describe_input(args, names)
    shapes = [None if (array := numbers(value)) is None else array.shape for value in (got, want)]
    if None not in shapes and shapes[0] != shapes[1]:
        return f"{lead}your answer has shape {shapes[0]}, expected {shapes[1]}"
    return f"{lead}your answer: {describe_value(got)}\nexpected:    {describe_value(want)}"
