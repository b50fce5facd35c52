"""The errors of this package. All are ValueErrors whose message says what is wrong, why, and what to do."""

from __future__ import annotations

from ..errors import UserError


class FormatError(UserError):
    """Base of every error raised by `vbw_np.formats`."""


class UnknownNameError(FormatError):
    """A format, element, profile or rule of that name does not exist; the message lists the names that do."""


class DtypeError(FormatError):
    """The array's dtype cannot be quantized; the message says how to convert it."""


class ShapeError(FormatError):
    """A shape that packing cannot represent, or arrays whose shapes do not belong together."""


class NonFiniteError(FormatError):
    """NaN or Inf where the policy refuses it; the message names the first index."""


class ScaleError(FormatError):
    """A scale that is NaN, negative, or of the wrong dtype."""


def unknown_name(kind: str, name: object, known: object) -> UnknownNameError:
    """The error for a name that is not in a registry."""
    names = ", ".join(sorted(str(k) for k in known))  # type: ignore[attr-defined]
    return UnknownNameError(f"unknown {kind} {name!r}; use one of: {names}")
