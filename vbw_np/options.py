"""What an option may be: types for argparse that refuse, before any work starts, what makes no sense, and say why.

    parser.add_argument("--steps", type=whole(1))
    parser.add_argument("--json", type=path, metavar="FILE")

Every option that takes a value has one of these types, or `choices`; a test walks over all verbs and sees to it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from .errors import UserError
from .files import user_path

LARGEST = (1 << 31) - 1
"""The largest count that an option takes: what is larger is a slip, and would not fit into any memory."""


class Checked:
    """A type for argparse.

    Parameters
    ----------
    name : str
        What argparse calls the type where the text is nothing of the kind.
    read : callable
        The value of a text; raises ValueError where it is nothing of the kind.
    check : callable
        Why a value makes no sense, in words that follow the value; empty where it does.
    refuses : tuple of str
        Texts that are refused: one of each sort, for the tests.
    """

    def __init__(
        self, name: str, read: Callable[[str], Any], check: Callable[[Any], str], refuses: tuple[str, ...]
    ) -> None:
        self.__name__, self.read, self.check, self.refuses = name, read, check, refuses

    def __call__(self, text: str) -> Any:
        value = self.read(text)
        why = self.check(value)
        if why:
            raise argparse.ArgumentTypeError(f"{text!r} {why}" if isinstance(value, str) else f"{text} {why}")
        return value


def whole(least: int = 1, most: int = LARGEST) -> Checked:
    """A whole number from `least` to `most`."""

    def check(value: int) -> str:
        if value < least:
            below = "is negative" if value < 0 <= least else "is too small"
            return f"{below}; give {least} or more"
        return f"is too large; give {most:,} or less" if value > most else ""

    return Checked("int", int, check, ("", "x", "1.5", str(least - 1), str(most + 1)))


seed = whole(0, (1 << 63) - 1)
"""A seed of random draws."""


def number(least: float = 0.0, most: float = math.inf, *, open_ends: bool = False) -> Checked:
    """A finite number from `least` to `most`; with `open_ends` neither of them."""

    def check(value: float) -> str:
        if not math.isfinite(value):
            return "is no finite number"
        inside = least < value < most if open_ends else least <= value <= most
        if inside:
            return ""
        if math.isinf(most):
            return f"is too small; give {'more than ' if open_ends else ''}{least:g}{'' if open_ends else ' or more'}"
        return f"is out of range; give a number {'between' if open_ends else 'from'} {least:g} " + (
            f"and {most:g}" if open_ends else f"to {most:g}"
        )

    outside = (str(least) if open_ends else str(least - 1), *(() if math.isinf(most) else (str(most + 1),)))
    return Checked("float", float, check, ("", "x", "nan", "inf", "-inf", *outside))


value = Checked("float", float, lambda value: "", ("", "x"))
"""A number to look at; NaN and infinities are numbers to look at too."""


def _encoded(text: str) -> str:
    """Why a text cannot be used, as far as its signs go: an argument's bytes that are no UTF-8 come as surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"has a byte that is no UTF-8 (sign {error.start}); give text in UTF-8"
    return ""


text = Checked("text", str, lambda value: _encoded(value) if value else "is empty; give some text", ("", "a\udcff"))
"""Text of any kind, but not nothing."""


def _check_name(value: str) -> str:
    if not value.strip():
        return "is empty; give a name, or leave the option out"
    return _encoded(value) or ("" if value.isprintable() else "has a sign that cannot be printed")


name = Checked("name", str, _check_name, ("", " ", "a\0b", "a\udcff"))
"""A name, or several of them joined."""


def one_of(*known: str) -> Checked:
    """One of these names, such as ``one_of("word", "byte")``."""
    words = ", ".join(known)
    return Checked("name", str, lambda value: "" if value in known else f"is none of {words}", ("", "x", "a\udcff"))


def _read_path(value: str) -> str:
    try:
        return value if value == "-" else str(user_path(value))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


path = Checked("path", _read_path, lambda value: "", ("", "a\0b", "~nobody-of-this-name/file"))
"""The path of a file or folder; ``~`` is the home folder, ``-`` stays."""
