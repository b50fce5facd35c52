"""Comparing functions in one process: in turns, so that a noisy machine is noisy for all of them, and by medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

MIN_SECONDS = 50e-3
"""A single measurement repeats its function until it takes about this long.

In training and in generating text kernels follow one another. A lone call of a millisecond or less would mostly tell
how long threads take to wake up after the other function, and how much of the caches that one took: what it has driven
out of the last level takes some ten passes to be all there again.
"""


def calls_for(function: Callable[[], object], seconds: float = MIN_SECONDS) -> int:
    """How often to call `function` so that it takes about `seconds`; calls it (which compiles it, too).

    The first calls after another function are slower than those that follow, so more and more are timed, until they
    take an eighth of the time.
    """
    function()
    calls = 1
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            function()
        taken = time.perf_counter() - start
        if taken >= seconds / 8:
            return max(1, round(calls * seconds / taken))
        calls *= 2


def interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int = 9, seconds: float = MIN_SECONDS
) -> dict[str, list[float]]:
    """Seconds a call of each function, `rounds` times, one function after the other in every round.

    Parameters
    ----------
    functions : mapping of str to callable
        Called once beforehand, so that compiling and first touches of memory are not counted.
    rounds : int
    seconds : float
        How long a single measurement takes, about; a longer function is called once.

    Returns
    -------
    dict of str to list of float
        The raw samples, in order.
    """
    calls = {name: calls_for(function, seconds) for name, function in functions.items()}
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                function()
            samples[name].append((time.perf_counter() - start) / calls[name])
    return samples


def median(samples: list[float]) -> float:
    return statistics.median(samples)


def paired_ratio(over: list[float], under: list[float]) -> float:
    """The median over the rounds of over / under: what drifts between rounds falls out."""
    return statistics.median(a / b for a, b in zip(over, under))
