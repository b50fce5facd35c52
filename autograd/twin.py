"""Readable functions and their fast twins.

A twin never becomes a second truth: the readable function is the definition, and one test walks the registry and holds
every twin against it. With `use_twins(False)` the whole system runs on the definitions alone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Samples = Callable[[np.random.Generator], list[tuple[tuple, dict]]]

_twins_on = True


def switch(on: bool) -> bool:
    """Run twins where there are some (the default), or only the readable definitions; how it was before.

    The switch belongs to the process, not to a thread.
    """
    global _twins_on
    before, _twins_on = _twins_on, on
    return before


@contextlib.contextmanager
def use_twins(on: bool) -> Iterator[None]:
    """`switch` inside this context."""
    before = switch(on)
    try:
        yield
    finally:
        switch(before)


class Twinned:
    """A function over raw arrays that may have a faster twin.

    Attributes
    ----------
    name : str
    reference : callable
        The readable definition.
    samples : callable or None
        ``rng -> [(args, kwargs), ...]``: float64 arguments on which tests try the function.
    twin : callable or None
        A faster function with the same contract; it may return NotImplemented to leave a call to the definition.
    twin_samples : callable or None
        More arguments on which the twin is held against the definition, in the dtypes the twin is made for.
    """

    def __init__(self, reference: Callable, samples: Samples | None, name: str | None = None) -> None:
        self.name = name or reference.__name__
        self.reference = reference
        self.samples = samples
        self.twin: Callable | None = None
        self.twin_samples: Samples | None = None
        functools.update_wrapper(self, reference)

    def register_twin(self, twin: Callable, samples: Samples | None = None) -> None:
        """Make `twin` run in place of the definition wherever it accepts the arguments."""
        self.twin, self.twin_samples = twin, samples

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """By the twin if there is one and it takes these arguments, else by the definition."""
        if self.twin is not None and _twins_on:
            result = self.twin(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return self.reference(*args, **kwargs)


PROCEDURES: dict[str, Procedure] = {}


class Procedure(Twinned):
    """A plain array function, outside the tape, with a possible twin; calling it runs it."""

    def __init__(self, reference: Callable, samples: Samples | None, name: str | None = None) -> None:
        super().__init__(reference, samples, name)
        PROCEDURES[self.name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


def procedure(*, samples: Samples | None = None) -> Callable[[Callable], Procedure]:
    """Declare the decorated function as a procedure and enter it in the registry."""
    return lambda reference: Procedure(reference, samples)
