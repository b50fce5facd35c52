"""Rotations that spread an outlier over many channels, and cancel in a product: (x R) (W R)^T = x W^T.

R is a Hadamard matrix over the square root of its size, times random signs: every entry has the same magnitude. It
stands in blocks along the width, or is as large as the width itself.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..formats.hadamard import random_signs

LARGEST = 1 << 14


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def _paley(order: int) -> NDArray | None:
    """Paley's Hadamard matrix of this order: q + 1 for a prime q = 3 mod 4, or 2 (q + 1) for one that is 1 mod 4."""
    for q, first in ((order - 1, True), (order // 2 - 1, False)):
        if not _is_prime(q) or q % 4 != (3 if first else 1):
            continue
        squares = {i * i % q for i in range(1, q)}
        character = np.array([0, *(1 if i in squares else -1 for i in range(1, q))])
        core = np.zeros((q + 1, q + 1), int)
        core[0, 1:] = 1
        core[1:, 0] = -1 if first else 1
        core[1:, 1:] = character[(np.arange(q)[:, None] - np.arange(q)) % q]
        if first:
            return core + np.eye(order, dtype=int)
        ones, diagonal = np.array([[1, 1], [1, -1]]), np.array([[1, -1], [-1, -1]])
        return np.kron(core, ones) + np.kron(np.eye(q + 1, dtype=int), diagonal)
    return None


@functools.lru_cache(maxsize=16)
def hadamard(order: int) -> NDArray[np.int8]:
    """A Hadamard matrix: entries 1 and -1, rows orthogonal. Sylvester's, Paley's, or a Kronecker product of them.

    Raises
    ------
    UserError
        None of this order is known here.
    """
    matrix = _hadamard(order) if order <= LARGEST else None
    if matrix is None:
        raise UserError(
            f"no Hadamard matrix of order {order} is known here (powers of two, Paley's, and products of them are); "
            "rotate blocks of a power of two that divides the width"
        )
    return matrix.astype(np.int8)


def _hadamard(order: int) -> NDArray | None:
    if order in (1, 2):
        return np.array([[1]]) if order == 1 else np.array([[1, 1], [1, -1]])
    if order % 4:
        return None
    if order & (order - 1) and (found := _paley(order)) is not None:
        return found
    for divisor in [2, *range(4, order // 2 + 1, 4)]:
        if order % divisor == 0:
            left, right = _hadamard(divisor), _hadamard(order // divisor)
            if left is not None and right is not None:
                return np.kron(left, right)
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class Rotation:
    """An orthogonal map of the last axis, block by block.

    Attributes
    ----------
    points : int
        Of a block; divides the width.
    signs : float32 (width,)
        1 or -1 each, before the blocks are turned.
    """

    points: int
    signs: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.width % self.points:
            raise UserError(
                f"blocks of {self.points} do not fit into a width of {self.width}; rotate blocks of a power of two "
                "that divides it, or the whole width (0)"
            )
        hadamard(self.points)

    @classmethod
    def random(cls, width: int, points: int, seed: int = 0) -> Rotation:
        """With signs from the counter; 0 points are the whole width."""
        return cls(points or width, random_signs(width, seed))

    @property
    def width(self) -> int:
        """Of the axis."""
        return len(self.signs)

    @functools.cached_property
    def _block(self) -> NDArray[np.float64]:
        return hadamard(self.points) / np.sqrt(self.points)

    def __call__(self, x: NDArray) -> NDArray:
        """x R, for x (..., width), in x's dtype."""
        signed = (x * self.signs.astype(x.dtype)).reshape(*x.shape[:-1], -1, self.points)
        return (signed @ self._block.astype(x.dtype)).reshape(x.shape)

    def back(self, x: NDArray) -> NDArray:
        """x R^T, which undoes it."""
        turned = x.reshape(*x.shape[:-1], -1, self.points) @ self._block.T.astype(x.dtype)
        return turned.reshape(x.shape) * self.signs.astype(x.dtype)
