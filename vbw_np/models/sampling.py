"""How the next token is chosen from a model's logits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    Attributes
    ----------
    temperature : float
        The logits are divided by it; 0 takes the likeliest token.
    top_k : int or None
        Only the k likeliest tokens.
    top_p : float
        Only the nucleus: the smallest set of tokens whose probability reaches top_p (arXiv 1904.09751).
    seed : int
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"the temperature is a number that is not negative, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p is a probability, above 0 and up to 1, not {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k is a number of tokens, at least 1, not {self.top_k}")
        if self.seed < 0:
            raise UserError(f"a seed is not negative: {self.seed}")


def sample(
    logits: NDArray, rng: np.random.Generator, temperature: float = 1.0, top_p: float = 1.0, top_k: int | None = None
) -> int:
    """One token from logits (V,): the likeliest for temperature 0, else drawn from the `top_k` and the nucleus.

    Every positive temperature works: logits are taken relative to the largest before they are divided by it. The
    nucleus (arXiv 1904.09751) is the smallest set of tokens whose probability reaches `top_p`, the one that crosses it
    included.

    Raises
    ------
    UserError
        A setting makes no sense, or the logits are no preferences: NaN, +inf, or -inf for every token.
    """
    if not 0 <= temperature < math.inf or not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
        raise UserError(f"need temperature >= 0, 0 < top_p <= 1, top_k >= 1; got {temperature}, {top_p}, {top_k}")
    best = int(np.argmax(logits))  # NumPy finds NaN first
    if not np.isfinite(logits[best]):
        raise UserError(
            f"no token can be chosen: the logit of token {best} is {logits[best]}, so the weights are damaged or the "
            "model's training diverged"
        )
    if temperature == 0:
        return best
    with np.errstate(over="ignore"):  # far below the best, divided by a tiny temperature: -inf, probability 0
        scaled = (logits.astype(np.float64) - float(logits[best])) / temperature
    order, probabilities = _nucleus(scaled, top_p) if top_k is None else _among(scaled, top_p, top_k)
    return int(order[rng.choice(len(order), p=probabilities / probabilities.sum())])


FIRST = 64
"""So many tokens are sorted first: nearly always the nucleus is among them."""


def _likeliest(scaled: NDArray, count: int) -> NDArray:
    """The `count` tokens of the largest logits, in order; of equal ones the first is first."""
    if count < len(scaled):
        some = np.flatnonzero(scaled >= np.partition(scaled, -count)[-count])
    else:
        some = np.arange(len(scaled))
    return some[np.argsort(-scaled[some], kind="stable")][:count]


def _among(scaled: NDArray, top_p: float, top_k: int) -> tuple[NDArray, NDArray]:
    """The nucleus of the `top_k` likeliest tokens, and their probabilities among these."""
    order = _likeliest(scaled, top_k)
    probabilities = np.exp(scaled[order])
    probabilities /= probabilities.sum()
    count = int(np.searchsorted(np.cumsum(probabilities), top_p)) + 1
    return order[:count], probabilities[:count]


def _nucleus(scaled: NDArray, top_p: float) -> tuple[NDArray, NDArray]:
    """The nucleus of all tokens, and their probabilities; no more of them are sorted than that takes."""
    total, count = np.exp(scaled).sum(), FIRST
    while True:
        order = _likeliest(scaled, count)
        probabilities = np.exp(scaled[order]) / total
        sums = np.cumsum(probabilities)
        if sums[-1] >= top_p or count >= len(scaled):
            needed = int(np.searchsorted(sums, top_p)) + 1
            return order[:needed], probabilities[:needed]
        count *= 8
