"""What can be wrong with a calibration."""

from __future__ import annotations

from ..errors import UserError


class CalibrationError(UserError):
    """The calibration does not say what a method needs to know."""
