"""A function that kernels may stand in for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine import autograd

DEFINITIONS: dict[str, Definition] = {}


class Definition(autograd.twin.Twinned):
    """A function over packed numbers that may have a faster twin; calling it runs the one or the other."""

    def __init__(self, reference: Callable) -> None:
        super().__init__(reference, None)
        DEFINITIONS[self.name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)
