"""Answers as plain data: what a learner's code returns, made into JSON without running any of its methods.

An object of the learner's may lie: a comparison that is always true, a `__repr__` that raises, an array of another
class. So nothing of it reaches the judge. Numbers, strings, arrays, lists and tuples are copied out by the methods of
Python's and NumPy's own classes; of everything else only the name of its type remains.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_DEPTH, MAX_ITEMS, MAX_BYTES, MAX_TEXT = 6, 100_000, 1 << 24, 10_000
_NUMERIC = "biufc"


@dataclass(frozen=True)
class Opaque:
    """Something that is no number, text, array or list of them: the name of its type, and why it did not travel."""

    type: str
    why: str = ""

    def __repr__(self) -> str:
        return f"an object of type {self.type}" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True)
class Given:
    """A function that an exercise hands to the answer, by its name in `givens`."""

    name: str


def to_plain(value: Any, depth: int = 0) -> dict[str, Any]:
    """A value as JSON; what cannot be copied becomes the name of its type."""
    kind = type(value)
    if value is None or value is Ellipsis or value is NotImplemented:
        return {"t": "blank", "v": {None: "None", Ellipsis: "..."}.get(value, "NotImplemented")}
    if kind is bool:
        return {"t": "bool", "v": bool(value)}
    if isinstance_of(kind, np.generic, np.ndarray):
        return _array_to_plain(value, kind)
    if isinstance_of(kind, int):
        number = int.__index__(value)
        return {"t": "int", "v": str(number)} if number.bit_length() <= 4096 else _opaque(kind, "too long a number")
    if isinstance_of(kind, float):
        return {"t": "float", "v": float.__repr__(value)}
    if isinstance_of(kind, str):
        text = str.__str__(value)
        return {"t": "str", "v": text.encode("utf-8", "replace").decode()} if len(text) <= MAX_TEXT else _opaque(kind)
    for name, sequence in (("tuple", tuple), ("list", list)):
        if isinstance_of(kind, sequence):
            if depth >= MAX_DEPTH or sequence.__len__(value) > MAX_ITEMS:
                return _opaque(kind, "too deep or too long")
            return {"t": name, "v": [to_plain(item, depth + 1) for item in sequence.__iter__(value)]}
    if isinstance_of(kind, Given):
        return {"t": "given", "v": value.name}
    return _opaque(kind)


def isinstance_of(kind: type, *classes: type) -> bool:
    """Whether a type descends from one of the classes; unlike `isinstance` it cannot be told otherwise."""
    return any(base in classes for base in type.__dict__["__mro__"].__get__(kind))


def _opaque(kind: type, why: str = "") -> dict[str, Any]:
    return {"t": "opaque", "type": str(type.__dict__["__name__"].__get__(kind))[:200], "why": why}


def _array_to_plain(value: Any, kind: type) -> dict[str, Any]:
    scalar = isinstance_of(kind, np.generic)
    array = np.asarray(value if scalar else np.ndarray.view(value, np.ndarray))
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        return _opaque(kind, "convert it to float32")  # bfloat16, which NumPy alone does not know
    if array.dtype.kind not in _NUMERIC or array.dtype.itemsize > 16:
        return _opaque(kind, f"its dtype is {array.dtype}")
    if array.nbytes > MAX_BYTES:
        return _opaque(kind, "too large")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {
        "t": "array", "dtype": little.dtype.str, "shape": list(array.shape), "scalar": scalar,
        "v": base64.b64encode(np.ascontiguousarray(little).tobytes()).decode("ascii"),
    }  # fmt: skip


def from_plain(data: Any, depth: int = 0) -> Any:
    """The value again, of Python's and NumPy's own classes, or `Opaque`.

    Raises
    ------
    ValueError
        This was not written by `to_plain`.
    """
    try:
        return _from_plain(data, depth)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not plain data: {error!r}") from None


def _from_plain(data: Any, depth: int) -> Any:
    kind = data["t"]
    if depth > MAX_DEPTH + 1:
        raise ValueError("too deep")
    if kind == "blank":
        return {"None": None, "...": Ellipsis, "NotImplemented": NotImplemented}[data["v"]]
    if kind == "bool":
        return data["v"] is True
    if kind == "int":
        return int(data["v"])
    if kind == "float":
        return float(data["v"])
    if kind == "str":
        return data["v"] if type(data["v"]) is str else Opaque("str")
    if kind in ("tuple", "list"):
        items = [_from_plain(item, depth + 1) for item in data["v"]]
        return tuple(items) if kind == "tuple" else items
    if kind == "array":
        return _array_from_plain(data)
    if kind == "given":
        return Given(str(data["v"]))
    if kind == "opaque":
        return Opaque(str(data["type"])[:200], str(data["why"])[:200])
    raise ValueError(f"unknown kind {kind!r}")


def _array_from_plain(data: dict[str, Any]) -> Any:
    dtype = np.dtype(str(data["dtype"]))
    shape = tuple(int(n) for n in data["shape"])
    raw = base64.b64decode(data["v"], validate=True)
    if dtype.kind not in _NUMERIC or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"an array of {dtype} and shape {shape} does not take {len(raw)} bytes")
    array = np.frombuffer(raw, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    return array[()] if data["scalar"] and not shape else array


def numbers(value: Any) -> np.ndarray | None:
    """A number, or an array or nested lists of numbers, as one array; None if it is something else.

    A string is no number, however it reads, and lists of several lengths are no array.
    """
    if type(value) in (bool, int, float) or isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)  # a whole number beyond 64 bits becomes an object
        return array if array.dtype.kind in _NUMERIC or type(value) is int else None
    if isinstance(value, list | tuple):
        parts = [numbers(item) for item in value]
        if any(part is None for part in parts):
            return None
        try:
            return np.stack(parts) if parts else np.zeros(0)  # type: ignore[arg-type]
        except ValueError:
            return None
    return None
