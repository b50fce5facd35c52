"""What is done to both operands of a product alike, before they are rounded and after, as events.

A mean is split off, signs are drawn, both are rotated under them; MS-EDEN mends lengths by way of the block scales.
The definitions are `device.pairs`, `formats.hadamard` and `formats.eden`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ..device import Operands
from ..device.pairs import signs_of
from ..formats import E4M3, PackedTensor
from ..formats.eden import POINTS, lengths, mended_scales
from ..formats.explain import all_bits
from ..formats.hadamard import SIGNS, hadamard_rotate
from ..formats.random_bits import random_bits, uniform24
from .choosing import between_levels
from .matrix import Matrix, described
from .story import Story
from .values import Value, along
from .witness import Key

# ---- means


def without_mean(story: Story, matrix: Matrix) -> tuple[Matrix, NDArray[np.float32]]:
    """Tell how the mean of each row is taken off; returns what is left, and the means (rows,)."""
    mean = matrix.data.mean(axis=1, dtype=np.float64).astype(np.float32)
    rest = matrix.data - mean[:, None]
    story.add(
        "mean",
        f"The mean over the {matrix.data.shape[1]} {matrix.columns}s of this {matrix.rows}'s row is {{mean}}. It is "
        "split off and multiplied apart, in float32, so that the codes are left for what differs: {before} becomes "
        "{after}.",
        {
            "after": matrix.value(rest),
            "before": matrix.value(),
            "mean": Value.of(mean, along(matrix.rows)),
        },
        {},
        ("after", "before"),
    )
    return dataclasses.replace(matrix, data=rest), mean


def product_of_means(
    story: Story, name: str, left: Matrix, right: Matrix, means: list[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Tell the product of the two means, (rows of left, rows of right); returns it."""
    terms = left.data.shape[1]
    whole = means[0] * np.float32(terms)
    part = np.multiply.outer(whole, means[1])
    rows, columns = along(left.rows), along(right.rows)
    story.add(
        "product of the means",
        f"The means have a product of their own, in float32: {{left_mean}} on the left, {{terms}} times for as many "
        f"{left.columns}s, is {{whole}}; times {{right_mean}} on the right it is {{part}}: the means' part of {name}.",
        {
            "part": Value.of(part, rows, columns),
            "left_mean": Value.of(means[0], rows),
            "right_mean": Value.of(means[1], columns),
            "whole": Value.of(whole, rows),
        },
        {"terms": terms},
        ("part",),
    )
    return part


def both_parts(
    story: Story, name: str, left: Matrix, right: Matrix, part: NDArray[np.float32], rest: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Tell the sum of the means' product and of what the codes gave; returns it."""
    result = part + rest
    axes = along(left.rows), along(right.rows)
    story.add(
        "both parts",
        f"The means' part {{part}} and the codes' part {{rest}} together: {name} is {{result}}.",
        {"result": Value.of(result, *axes), "part": Value.of(part, *axes), "rest": Value.of(rest, *axes)},
        {},
        ("result", "part", "rest"),
    )
    return result


# ---- rotations


@dataclasses.dataclass(frozen=True, eq=False)
class Turn:
    """The rotation that both operands of one product take.

    Attributes
    ----------
    signs : float32 (points,)
    key : (seed, stream) or None
        Of the draw that the signs come from; None: they are the same always.
    hashed : bool
        Whether the signs are bits of the hash of a key, be it drawn or always (0, 0).
    """

    signs: NDArray[np.float32]
    key: Key | None
    hashed: bool

    @classmethod
    def of(cls, how: Operands, keys: list[Key]) -> Turn | None:
        """As the recipe says; takes the key of the signs from the front of `keys`."""
        if not how.hadamard:
            return None
        key = keys.pop(0) if how.signs == "random" else None
        return cls(signs_of(how, lambda: key), key, how.signs == "random" or how.hadamard != len(SIGNS))

    @property
    def points(self) -> int:
        """Numbers that are rotated together."""
        return len(self.signs)

    def columns(self, matrix: Matrix) -> int:
        """Of the rotated matrix: a ragged last group is filled up."""
        return -(-matrix.data.shape[1] // self.points) * self.points

    def draw(self, story: Story, matrix: Matrix) -> None:
        """Tell where the signs come from."""
        if not self.hashed:
            return
        seed, stream = self.key or (0, 0)
        width = self.columns(matrix)
        bits = np.resize(random_bits((self.points,), seed, stream), width)
        whose = "drawn anew for this product" if self.key else "the same for every product"
        story.add(
            "signs",
            f"Signs for a rotation of {self.points} numbers, {whose}: the hash of the key ({seed}, {stream}) and of a "
            f"place among the {self.points}. For this {matrix.columns} it is {{bits:x}}; its lowest bit is "
            "{minus?0, so the sign is plus|1, so the sign is minus}.",
            {
                "sign": Value.of(np.resize(self.signs, width).astype(np.int8), along(matrix.columns)),
                "bits": Value.of(bits, along(matrix.columns)),
                "minus": Value.of((bits & 1).astype(np.uint8), along(matrix.columns)),
            },
            {"key": [seed, stream], "points": self.points},
            ("sign",),
        )

    def turned(self, story: Story, matrix: Matrix) -> Matrix:
        """Tell the rotation of one operand; returns it rotated."""
        turned, width = hadamard_rotate(matrix.data, self.signs), matrix.data.shape[1]
        which = "those" if self.hashed else "fixed random"
        filled = ""
        if turned.shape[1] != width:
            filled = f" The {width} {matrix.columns}s are filled up with zeros to {turned.shape[1]} first."
        root = f"{self.points**0.5:g}" if self.points in (16, 64) else f"the square root of {self.points}"
        story.add(
            "rotation",
            f"Before it is rounded, {matrix.name} is turned along the {matrix.columns}s, over which the product will "
            f"sum.{filled} Every {self.points} of them are multiplied with {which} signs, this one with {{sign}}, "
            f"then with a Hadamard matrix over {root}. {{before}} becomes {{after}}: what was one large number is "
            f"spread over {self.points}. The other operand is turned alike, so in the product the rotation cancels.",
            {
                "after": matrix.value(turned),
                "before": matrix.value(),
                "sign": Value.of(np.resize(self.signs, turned.shape[1]).astype(np.int8), along(matrix.columns)),
            },
            {"points": self.points},
            ("after", "before"),
        )
        return dataclasses.replace(matrix, data=turned, rotated=True)


# ---- MS-EDEN


def mended(story: Story, matrix: Matrix, packed: PackedTensor, key: Key) -> PackedTensor:
    """Tell MS-EDEN's correction of a rotated matrix whose codes are rounded to nearest; returns it with new scales."""
    factor = _lengths(story, matrix, packed)
    wanted = mended_scales(packed, factor)
    axes = matrix.scale_axes(packed.format)
    bits = random_bits(wanted.shape, *key)
    story.add(
        "random bits",
        "The factor goes into the block scales, and those are rounded by chance, so that on average nothing is lost. "
        f"The chance is a hash of the draw's key ({key[0]}, {key[1]}) and the block's own number: {{bits:x}}, of which "
        "the highest 24 bits, as a fraction, are {draw}.",
        {"draw": Value.of(uniform24(bits), *axes), "bits": Value.of(bits, *axes)},
        {"key": list(key), "of": "scales"},
        ("draw",),
    )
    codes = E4M3.encode(wanted, "stochastic", random=bits)
    low, high, between = between_levels(wanted, np.asarray(E4M3.magnitudes, np.float32))
    share = (wanted - low) * (np.float32(1) / np.where(high > low, high - low, np.float32(1)))
    scale = E4M3.table[codes]
    arrays = {
        "scale": scale, "before": packed.decoded_scales(), "wanted": wanted, "code": codes, "low": low, "high": high,
        "between": between.astype(np.uint8), "share": share, "draw": uniform24(bits),
        "up": (scale > low).astype(np.uint8),
    }  # fmt: skip
    values = {name: Value.of(array, *axes) for name, array in arrays.items()}
    values["factor"] = Value.of(factor, along(matrix.rows), along(matrix.columns, POINTS))
    story.add(
        "scale mended",
        "This block's scale {before} times {factor} is {wanted}. {between?E4M3 has that number, and takes|E4M3 has "
        "{low} and {high} on either side; that is {share} of the way from one to the other. The draw is {draw}, and "
        "where the draw is less it goes up: here {up?down|up}, to} {scale}, code {code:x}, bits {code@code_bits}. The "
        "elements' codes stay.",
        values,
        described(packed.format) | {"code_bits": list(all_bits(E4M3))},
        ("scale", "before"),
    )
    return dataclasses.replace(packed, scales=codes)


def _lengths(story: Story, matrix: Matrix, packed: PackedTensor) -> NDArray[np.float64]:
    square, overlap, factor = lengths(matrix.data, packed)
    axes = along(matrix.rows), along(matrix.columns, POINTS)
    story.add(
        "length",
        f"Rounding to nearest makes vectors a little too short or too long on average. So of every {POINTS} rotated "
        "numbers x and what their codes stand for, q, two products are taken: x with itself is {square}, x with q "
        "{overlap}. What is multiplied with {factor}, the one over the other, has its right length again.",
        {
            "factor": Value.of(factor, *axes),
            "square": Value.of(square, *axes),
            "overlap": Value.of(overlap, *axes),
            "x": matrix.value(),
            "q": matrix.value(packed.dequantize()),
        },
        described(packed.format),
        ("factor", "q", "x"),
    )
    return factor
