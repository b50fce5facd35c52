"""`vbw diff A B`: weight by weight equal, or how far apart and why.

A reason is found by undoing it: b is read again with its nibbles swapped, its halves joined, its scales unswizzled, its
tensor scale inverted, and the reading that brings it to a names the mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..formats import PackedTensor, pack_nibbles, relative_mse, swizzle_scales, unswizzle_scales
from ..progress import Progress
from .errors import CheckpointError
from .opening import Checkpoint
from .pairing import paired
from .producers import find_weights
from .suspicion import family, header_suspicions, nibble_orders
from .weights import Weight

EXPLAINS = 0.05
"""A reading explains a difference if it leaves less than this share of its squared error."""
SCALED = 2e-3
"""b is a times a number if less than this relative squared error is left beside it."""


@dataclass(frozen=True)
class Difference:
    """One weight in both checkpoints: equal, or its relative squared error and the reason.

    `status` is `equal` (every part's bytes), `equal values`, `differs`, `only in A`, `only in B` or `not comparable`.
    """

    name: str
    status: str
    nmse: float = 0.0
    reason: str = ""
    what: str = ""
    a: str = ""
    b: str = ""

    def beyond(self, tolerance: float) -> bool:
        """Whether it counts as a difference."""
        if self.status in ("equal", "equal values"):
            return False
        return self.status != "differs" or not self.nmse <= tolerance


@dataclass(frozen=True)
class Comparison:
    """All differences, the worst first, and what the headers of either file show."""

    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    def beyond(self, tolerance: float) -> list[Difference]:
        """Those that count as differences."""
        return [d for d in self.differences if d.beyond(tolerance)]

    def as_dict(self, tolerance: float) -> dict[str, Any]:
        """Plain data."""
        return {
            "differences": [asdict(d) for d in self.differences],
            "beyond_tolerance": len(self.beyond(tolerance)),
            "tolerance": tolerance,
            "notes": list(self.notes),
        }


def diff_checkpoints(a: Checkpoint, b: Checkpoint) -> Comparison:
    """Compare two checkpoints weight by weight, by name; `paired` lets Llamas of llama.cpp and Hugging Face compare.

    `a` is taken to be right: errors are relative to it, and reasons are mistakes of `b`.
    """
    left, right = paired(a, b)
    found = []
    with Progress(len(left), "comparing", item="weights") as progress:
        for name, weight in left.items():
            found.append(
                compare(weight, right[name]) if name in right else Difference(name, "only in A", a=weight.format)
            )
            progress.step(name)
    found += [Difference(name, "only in B", b=right[name].format) for name in right if name not in left]
    found.sort(key=lambda d: (not d.beyond(0), d.status == "differs", -np.nan_to_num(d.nmse, nan=np.inf), d.name))
    notes = [
        f"{side}: {name}: {s.name}: {s.what}"
        for side, checkpoint in (("A", a), ("B", b))
        for name, suspicions in header_suspicions(checkpoint, find_weights(checkpoint)).items()
        for s in suspicions
    ]
    return Comparison(tuple(found), tuple(notes))


def same_bytes(a: Weight, b: Weight) -> bool:
    """Whether both are held by the same parts with the same bytes, in the same order of rows."""
    if (type(a), a.format, a.producer, a.shape) != (type(b), b.format, b.producer, b.shape):
        return False
    if set(a.parts) != set(b.parts):
        return False
    return all(
        a.parts[role].dtype == b.parts[role].dtype and np.array_equal(a.parts[role].bytes(), b.parts[role].bytes())
        for role in a.parts
    )


def compare(a: Weight, b: Weight) -> Difference:
    """One weight of two checkpoints."""
    about = {"a": f"{a.format} ({a.producer})", "b": f"{b.format} ({b.producer})"}
    if same_bytes(a, b):
        return Difference(a.name, "equal", **about)
    if a.shape != b.shape:
        reason = label_reason(a, b) or "shape"
        return Difference(a.name, "not comparable", np.inf, reason, f"{list(a.shape)} and {list(b.shape)}", **about)
    if not (a.is_float and b.is_float):
        return _compare_integers(a, b, about)
    try:
        x, y = a.float32(), b.float32()
    except CheckpointError as error:
        return Difference(a.name, "not comparable", np.inf, label_reason(a, b) or "not decoded", str(error), **about)
    with np.errstate(all="ignore"):
        nmse = relative_mse(x, y)
    if np.array_equal(x, y):
        return Difference(a.name, "equal values", what="the same values in other bytes", **about)
    reason, what = find_reason(x, y, a, b, nmse)
    return Difference(a.name, "differs", nmse, reason, what, **about)


def _compare_integers(a: Weight, b: Weight, about: dict[str, str]) -> Difference:
    if a.is_float or b.is_float:
        return Difference(a.name, "not comparable", np.inf, "dtype", "integers and floating point", **about)
    x, y = a.parts["values"].array(), b.parts["values"].array()
    if np.array_equal(x, y):
        return Difference(a.name, "equal values", **about)
    what = f"{int((x != y).sum()):,} of {x.size:,} integers differ"
    return Difference(a.name, "differs", float(np.mean(x != y)), "integers", what, **about)


def label_reason(a: Weight, b: Weight) -> str:
    """Bytes of two families under one name."""
    one, two = family(a.format), family(b.format)
    return f"{one.upper()} here, {two.upper()} there" if one != two and not (a.is_plain or b.is_plain) else ""


def find_reason(x: np.ndarray, y: np.ndarray, a: Weight, b: Weight, nmse: float) -> tuple[str, str]:
    """The name of the mistake that turned x into y, and how it is known."""
    scaled = _scaled(x, y, a, b)
    if scaled:
        return scaled
    if b.is_packed:
        best = min(_readings(x, b.packed()), key=lambda r: r[1], default=None)
        if best is not None and best[1] <= EXPLAINS * nmse and best[1] < 0.2:
            return best[0], f"read so, the relative squared error is {best[1]:.3g}"
    if not np.isfinite(y).all() and np.isfinite(x).all():
        count = int((~np.isfinite(y)).sum())
        return "NaN or Inf", f"{count:,} of {y.size:,} values of B are no numbers"
    if family(a.format) != family(b.format) or a.is_plain != b.is_plain:
        if nmse < 0.3:
            return "another format", f"{a.format} and {b.format} round differently"
        return "other values", f"{a.format} and {b.format}, further apart than rounding explains"
    return _extent(x, y)


def _readings(x: np.ndarray, packed: PackedTensor) -> Iterator[tuple[str, float]]:
    """Other ways to read b, each with what is left of the error (the tensor scale may be off as well)."""
    fmt = packed.format
    if fmt.code_bits == 4 and not fmt.flat:
        codes = packed.unpacked_codes()
        for name, order in nibble_orders(packed.shape[-1]).items():
            for direction, place in ((name, order), (f"{name}, the other way", np.argsort(order))):
                again = replace(packed, codes=pack_nibbles(np.ascontiguousarray(codes[..., place])), sqnr_db=None)
                yield (
                    direction.replace(", the other way", "") if name == "swapped nibbles" else direction,
                    _left(x, again),
                )
    if packed.scales.ndim == 2 and packed.scales.dtype == np.uint8:
        rows, columns = packed.scales.shape
        if rows % 128 == 0 and columns % 4 == 0:
            flat = packed.scales.reshape(-1)
            yield "scales swizzled", _left(x, replace(packed, scales=unswizzle_scales(flat, (rows, columns))))
            other = swizzle_scales(packed.scales).reshape(rows, columns)
            yield "scales unswizzled twice", _left(x, replace(packed, scales=other))


def _left(x: np.ndarray, packed: PackedTensor) -> float:
    """The relative squared error beside the best factor."""
    return best_factor(x, packed.dequantize())[1]


def best_factor(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The f for which y is nearest to f * x, and the relative squared error of y / f; sums in float64."""
    with np.errstate(all="ignore"):
        x, y = x.reshape(-1).astype(np.float64), y.reshape(-1).astype(np.float64)
        xx, xy, yy = float(np.dot(x, x)), float(np.dot(x, y)), float(np.dot(y, y))
    if not (xx > 0 and yy > 0 and np.isfinite(yy)) or xy == 0:
        return 1.0, np.inf
    return xy / xx, max(0.0, 1 - xy * xy / (xx * yy))


FACTORS = {
    2688.0: ("amax for multiplier", "amax is read as amax / 2688"),
    1 / 2688.0: ("multiplier for amax", "amax / 2688 is divided by 2688 once more"),
    1.75: ("448 for 256", "the tensor scale was made for a cap of 256, the block scales for 448"),
    1 / 1.75: ("448 for 256", "the block scales were made for a cap of 256, the tensor scale for 448"),
}


def _scaled(x: np.ndarray, y: np.ndarray, a: Weight, b: Weight) -> tuple[str, str] | None:
    """B is A times one number: which mistake makes that number."""
    factor, left = best_factor(x, y)
    close = SCALED if a.is_packed and family(a.format) == family(b.format) else 0.03
    if left > close or abs(factor - 1) < 0.02:
        return None
    text = f"every value is {factor:.6g} times A's"
    if family(b.format) == "nvfp4" and "tensor_scale" not in b.parts:
        return "tensor scale missing", text
    for known, (name, why) in FACTORS.items():
        if abs(factor / known - 1) < 0.01:
            return name, f"{text}: {why}"
    level = _stored_level(b)
    if level and any(abs(factor / power - 1) < 0.02 for power in (level**2, level**-2)):
        return "tensor scale reciprocal", f"{text}: the tensor scale is the reciprocal of what its name promises"
    return "scaled", text


def _stored_level(weight: Weight) -> float | None:
    part = weight.parts.get("tensor_scale")
    return float(part.float32().reshape(-1)[0]) if part is not None and part.size == 1 else None


def _extent(x: np.ndarray, y: np.ndarray) -> tuple[str, str]:
    """How much of a weight differs, and where it begins."""
    differ = ~((x == y) | (np.isnan(x) & np.isnan(y)))
    count = int(differ.sum())
    first = [int(i) for i in np.unravel_index(int(np.argmax(differ)), differ.shape)]
    with np.errstate(all="ignore"):
        size = np.abs(x - y)[differ]
        steps = relative_mse(x[differ], y[differ])  # rounding the other way moves a value by a fraction of itself
    name = "other rounding" if steps < 0.5 else "corrupted"
    return name, f"{count:,} of {differ.size:,} values differ, by up to {np.nanmax(size):.4g}, the first at {first}"
