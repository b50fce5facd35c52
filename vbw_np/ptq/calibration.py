"""What flows into layers: second moments of their inputs, gathered while a model reads a text.

A layer is watched by wrapping its `forward`; nothing else of the model knows. Blocks are run one after the other over
all windows, so that the inputs of one block are all that is ever kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..engine import Tensor, nn
from .errors import CalibrationError

LEAST_TOKENS = 256
"""Fewer say too little about hundreds of channels, and a method would fit to them alone."""


@contextlib.contextmanager
def wrapped(layers: Mapping[str, nn.Linear], change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """While inside, every input of these layers goes through ``change(name, input)`` first."""

    def wrap(name: str, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: forward(change(name, x))

    before = {name: layer.__dict__.get("forward") for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.forward = wrap(name, layer.forward)  # an attribute of this layer alone, found before the class's method
    try:
        yield
    finally:
        for name, layer in layers.items():
            if before[name] is None:
                del layer.forward
            else:
                layer.forward = before[name]


@dataclasses.dataclass
class Moments:
    """What is known of a layer's inputs.

    Attributes
    ----------
    hessian : float32 (in, in)
        Mean of x x^T over tokens.
    largest : float32 (in,)
        Largest magnitude of each channel.
    tokens : int
    """

    hessian: NDArray[np.float32]
    largest: NDArray[np.float32]
    tokens: int = 0

    @classmethod
    def empty(cls, width: int) -> Moments:
        return cls(np.zeros((width, width), np.float32), np.zeros(width, np.float32))

    def add(self, x: NDArray) -> None:
        """Some more tokens (..., in)."""
        rows = x.reshape(-1, x.shape[-1])
        total = self.tokens + len(rows)
        self.hessian *= np.float32(self.tokens / total)
        self.hessian += (rows.T @ rows) * np.float32(1 / total)
        np.maximum(self.largest, np.abs(rows).max(axis=0), out=self.largest)
        self.tokens = total

    @property
    def mean_squares(self) -> NDArray[np.float32]:
        """Of each channel, (in,)."""
        return np.diag(self.hessian)

    def scaled(self, factors: NDArray) -> Moments:
        """Of inputs that are multiplied by `factors` (in,), channel by channel."""
        factors = factors.astype(np.float32)
        return Moments(self.hessian * np.outer(factors, factors), self.largest * np.abs(factors), self.tokens)

    def turned(self, turn: Callable[[NDArray], NDArray]) -> Moments:
        """Of inputs x that become ``turn(x)``, a linear map of the last axis; their largest values are then unknown."""
        half = turn(self.hessian)
        hessian = np.ascontiguousarray(turn(np.ascontiguousarray(half.T)))
        return Moments(hessian, np.full(len(hessian), np.nan, np.float32), self.tokens)


@dataclasses.dataclass(frozen=True)
class KeptMoments:
    """Moments put away: of the symmetric `hessian` the lower triangle alone, which is half the memory."""

    triangle: NDArray[np.float32]
    largest: NDArray[np.float32]
    tokens: int

    @classmethod
    def of(cls, moments: Moments) -> KeptMoments:
        """Put away."""
        return cls(moments.hessian[_lower(len(moments.hessian))], moments.largest, moments.tokens)

    def moments(self) -> Moments:
        """As they were, bit for bit."""
        width = len(self.largest)
        hessian, lower = np.empty((width, width), np.float32), _lower(width)
        hessian[lower] = self.triangle
        hessian.T[lower] = self.triangle
        return Moments(hessian, self.largest, self.tokens)


def _lower(width: int) -> NDArray[np.bool_]:
    return np.tri(width, dtype=bool)


def check_windows(windows: NDArray) -> None:
    """Refuse a calibration of too few tokens.

    Raises
    ------
    CalibrationError
    """
    if windows.size < LEAST_TOKENS:
        raise CalibrationError(
            f"the calibration text has {windows.size} tokens, and a method needs at least {LEAST_TOKENS} to learn what "
            "flows into the layers; give a longer text"
        )


def watch(layers: Mapping[str, nn.Linear], run: Callable[[], object]) -> dict[str, Moments]:
    """The moments of what flows into these layers while `run()` does."""
    found = {name: Moments.empty(layer.in_features) for name, layer in layers.items()}

    def see(name: str, x: Tensor) -> Tensor:
        found[name].add(x.data)
        return x

    with wrapped(layers, see):
        run()
    return found


def spread(windows: NDArray, size: int) -> Sequence[NDArray]:
    """Windows (n, length) in pieces of at most `size` tokens, each (1 or more, length)."""
    step = max(1, size // windows.shape[1])
    return [windows[start : start + step] for start in range(0, len(windows), step)]
