"""The errors of this package: one line that says what is wrong with which file, and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..errors import UserError


class CheckpointError(UserError):
    """A checkpoint that cannot be used: damaged, of another kind, unknown, or asked for what it does not hold."""


@contextlib.contextmanager
def parts_of(name: str) -> Iterator[None]:
    """What goes wrong while the parts of a weight are put together is told as that, in one line.

    A file can hold anything under a producer's names; shapes that do not fit, parts that are missing and JSON of other
    types surface as the errors of the operations that meet them.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError) as error:
        what = f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else str(error)
        raise CheckpointError(
            f"{name}: its parts do not fit each other ({' '.join(what.split())[:200]}); get or export the file anew"
        ) from error
