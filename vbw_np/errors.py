"""Errors that are the user's to mend: one sentence that says what, why and what to do."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The command line prints it as one line and ends with exit code 2, without a traceback."""


class DataError(UserError):
    """Text or token ids that cannot be used: missing, empty, binary, too short."""
