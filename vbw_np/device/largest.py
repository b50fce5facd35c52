"""The largest number of what flows into a product, and what it costs its block."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats import BlockFormat, get_format
from ..formats.explain import Explanation, Step, number
from ..formats.explain_block import explain_in_block

MASSIVE = 100
"""So many times what is usual, and an event says so (massive activations: arXiv 2402.17762)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Largest:
    """The largest number of an array whose last axis are channels.

    Attributes
    ----------
    token, channel : int
        Where it stands; all axes but the last count the tokens.
    value : float
    usual : float
        The median over tokens of the largest magnitude of each.
    row : float32 (channels,)
        All numbers of its token. Its scales are those that it has among all tokens: the largest number of a tensor is
        in it.
    """

    token: int
    channel: int
    value: float
    usual: float
    row: NDArray[np.float32]

    @classmethod
    def of(cls, x: NDArray) -> Largest:
        """Of x (..., channels)."""
        rows = x.reshape(-1, x.shape[-1])
        magnitudes = np.abs(rows)
        token, channel = divmod(int(magnitudes.argmax()), rows.shape[1])
        usual = float(np.median(magnitudes.max(axis=1)))
        return cls(token, channel, float(rows[token, channel]), usual, rows[token].astype(np.float32))

    @property
    def times(self) -> float:
        """How many times what is usual."""
        return abs(self.value) / self.usual if self.usual else math.inf

    def __str__(self) -> str:
        return (
            f"{number(self.value)} at token {self.token}, channel {self.channel}: {self.times:,.0f} times the median "
            "token's largest"
        )

    def explain(self, fmt: str | BlockFormat) -> Explanation:
        """From its bits in a format to what its block loses; a tensor's scale is that of its token."""
        told = explain_in_block(self.row[None], (0, self.channel), fmt)
        place = Step("place", f"token {self.token}, channel {self.channel}")
        usual = Step("usual", number(self.usual), f"median token's largest; this is {self.times:,.0f} times that")
        data: dict[str, Any] = told.data | {"token": self.token, "channel": self.channel, "usual": self.usual}
        return Explanation(f"an input in {get_format(fmt).name}", (place, usual, *told.steps), data)


def largest_input(values: dict[str, Any]) -> Largest | None:
    """Of the input ``x`` among the values of an event, if it has one."""
    x = values.get("x")
    usable = isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.ndim > 1 and x.size > 0
    return Largest.of(x) if usable else None
