"""Random bits that depend on nothing but where they are used.

A *counter-based* generator: the bits for element `i` of draw `key` are a hash of both, so they can be made in any
order, on any number of threads, in NumPy or in compiled code, and come out the same.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

_U32 = np.uint32


def mix(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Scramble 32-bit words: Wellons' ``lowbias32`` integer hash, a bijection whose bits look independent."""
    bits = (bits ^ (bits >> _U32(16))) * _U32(0x7FEB352D)
    bits = (bits ^ (bits >> _U32(15))) * _U32(0x846CA68B)
    return bits ^ (bits >> _U32(16))


def random_bits(key: tuple[int, int], size: int) -> NDArray[np.uint32]:
    """`size` random 32-bit words of the draw `key` (two 32-bit numbers): word i is mix(mix(i ^ key[0]) + key[1])."""
    counter = np.arange(size, dtype=np.uint32)
    return mix(mix(counter ^ _U32(key[0])) + _U32(key[1]))


class _Default:
    """Where layers that are given no generator get theirs: the seed, and how many have asked since it was set."""

    def __init__(self) -> None:
        self.seed, self.asked, self.lock = 0, 0, threading.Lock()


_default = _Default()


def manual_seed(seed: int) -> None:
    """Start the default randomness anew: what is made after it without a generator of its own is made alike again.

    Layers made without `rng`, one after the other, differ from each other and are the same in every run of a program.

    Parameters
    ----------
    seed : int
        Any non-negative integer; 0 when the program starts.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"a seed is a non-negative integer, not {seed!r}")
    with _default.lock:
        _default.seed, _default.asked = int(seed), 0


def default_seed() -> tuple[int, int]:
    """A seed that nobody got before since `manual_seed`: its seed, and a counter."""
    with _default.lock:
        _default.asked += 1
        return _default.seed, _default.asked


class Generator:
    """Hands out a new key for every random draw of a run; same seed, same keys.

    Parameters
    ----------
    seed : int, optional
        Any non-negative integer; without one, the next of the default randomness (`manual_seed`).
    """

    def __init__(self, seed: int | None = None) -> None:
        if seed is None:
            seed = int(np.random.default_rng(default_seed()).integers(1 << 63))
        if seed < 0:
            raise ValueError(f"a seed is a non-negative integer, not {seed}")
        self.seed = seed
        self.draws = 0

    def next_key(self) -> tuple[int, int]:
        """The next key: the seed and the number of the draw, each scrambled."""
        words = np.array([self.seed & 0xFFFFFFFF, self.draws & 0xFFFFFFFF], np.uint32)
        words = mix(words + _U32(0x9E3779B9)) + np.array([(self.seed >> 32) & 0xFFFFFFFF, self.draws >> 32], np.uint32)
        self.draws += 1
        return int(words[0]), int(words[1])

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "draws": self.draws}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seed, self.draws = int(state["seed"]), int(state["draws"])
