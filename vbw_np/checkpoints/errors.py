"""The errors of this package: one line that says what is wrong with which file, and what to do."""

from __future__ import annotations

from ..errors import UserError


class CheckpointError(UserError):
    """A checkpoint that cannot be used: damaged, of another kind, unknown, or asked for what it does not hold."""
