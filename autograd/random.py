"""Random bits that depend on nothing but where they are used.

A *counter-based* generator: the bits for element `i` of draw `key` are a hash of both, so they can be made in any
order, on any number of threads, in NumPy or in compiled code, and come out the same.
"""

from __future__ import annotations

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


class Generator:
    """Hands out a new key for every random draw of a run; same seed, same keys.

    Parameters
    ----------
    seed : int
        Any non-negative integer.
    """

    def __init__(self, seed: int = 0) -> None:
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
