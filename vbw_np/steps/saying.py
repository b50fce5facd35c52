"""Sentences with the numbers of a place in them.

A sentence is a text with holes. The page fills the same holes with the same rules in JavaScript (`player.js`):

    {x}             the entry of the value (or fact) `x` that belongs to the place, see `values.number`
    {x*y}           the product of two entries, rounded once to float32
    {x:x}           a whole number in hexadecimal, two digits a byte; {x:b} in bits
    {x@names}       the entry of the list `names` (a fact) whose number is x
    {x?one|other}   `one` where x is 0, else `other`; there may be holes in both
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .values import Place, Value, number

_WORDS = r"((?:[^{}|]|\{[^{}]*\})*)"
_CHOICE = re.compile(r"\{(\w+)\?" + _WORDS + r"\|" + _WORDS + r"\}")
_HOLE = re.compile(r"\{(\w+)(?:\*(\w+))?(?::([xb]))?(?:@(\w+))?\}")


def fill(sentence: str, values: Mapping[str, Value], facts: Mapping[str, Any], place: Place) -> str:
    """The sentence with the numbers of `place`.

    Raises
    ------
    KeyError
        A hole names neither a value nor a fact.
    """

    def entry(name: str) -> Any:
        return values[name].at(place) if name in values else facts[name]

    def filled(hole: re.Match[str]) -> str:
        name, other, style, names = hole.groups()
        found = entry(name)
        if other is not None:
            with np.errstate(over="ignore", under="ignore"):
                found = np.float32(np.float32(found) * np.float32(entry(other)))
        if names is not None:
            return str(facts[names][int(found)])
        return _text(found, style)

    while _CHOICE.search(sentence):  # what was chosen may choose again
        sentence = _CHOICE.sub(lambda choice: choice[3] if entry(choice[1]) else choice[2], sentence)
    return _HOLE.sub(filled, sentence)


def _text(found: Any, style: str | None) -> str:
    if isinstance(found, str):
        return found
    if isinstance(found, np.ndarray) and found.ndim:
        return ", ".join(_text(one, style) for one in found.reshape(-1))
    if style == "x":
        return f"0x{int(found):0{2 * np.asarray(found).dtype.itemsize}x}"
    if style == "b":
        return f"{int(found):0{8 * np.asarray(found).dtype.itemsize}b}"
    if isinstance(found, float):
        found = np.float64(found)
    return number(found)
