"""What `diagnose` looks at beside codes and scales: zero points, a fine tier, a second grid, quantiles, decoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .packed import FLAG, PackedTensor


@dataclass(frozen=True)
class Finding:
    """One difference: a short name, what it is, what to do, and whether it explains its part fully."""

    name: str
    what: str
    fix: str
    exact: bool = True


def _differ(one: np.ndarray | None, two: np.ndarray | None) -> int:
    """How many entries of two arrays are not the same: all where the shapes are not, or one is not there."""
    if one is None or two is None or np.shape(one) != np.shape(two):
        return 0 if one is None and two is None else max(np.size(part) for part in (one, two) if part is not None)
    same = (one == two) | ((one != one) & (two != two))  # NaN equals NaN here
    return int((~np.atleast_1d(same)).sum())


def _offsets(a: PackedTensor, b: PackedTensor) -> list[Finding]:
    if a.format.offset != b.format.offset:
        what = f"values are decoded with {a.format.offset!r} in one, with {b.format.offset!r} in the other"
        return [Finding("offsets", what, "Compare tensors of one format.")]
    count, name = _differ(a.offsets, b.offsets), "zero points" if a.format.offset == "zero" else "minimums"
    return [Finding(name, f"{count:,} {name} differ", "Compare how they are rounded.", exact=False)] if count else []


def _fine(a: PackedTensor, b: PackedTensor) -> list[Finding]:
    if (a.fine is None) != (b.fine is None):
        what = f"{'b' if a.fine is None else 'a'} has a fine tier and {'a' if a.fine is None else 'b'} has none"
        return [Finding("fine tier", what, "Compare both coarse tiers: packed.coarse().")]
    if a.fine is None or b.fine is None:
        return []
    if a.format.fine != b.format.fine or a.planes != b.planes:
        kinds = [f"{t.format.fine.kind}, {t.planes} bit planes" for t in (a, b)]
        return [Finding("fine tier", f"the fine tiers are {kinds[0]} and {kinds[1]}", "Compare tensors of one format.")]
    codes = int((a.unpacked_fine() != b.unpacked_fine()).sum())
    scales = _differ(a.fine_scales, b.fine_scales) + _differ(a.fine_tensor_scale, b.fine_tensor_scale)
    if not codes and not scales:
        return []
    what = f"{codes:,} codes and {scales:,} scales of the fine tier differ"
    return [Finding("fine tier", what, "Settle the coarse tier first: the fine one is what that leaves.", exact=False)]


def _second(a: PackedTensor, b: PackedTensor) -> list[Finding]:
    """Blocks of another grid, as scale codes say."""
    if a.format.second is None and b.format.second is None:
        return []
    if a.scales.shape != b.scales.shape:
        return []
    flags = [(t.scales & FLAG).astype(bool) if t.format.second is not None else np.zeros(t.scales.shape, bool)
             for t in (a, b)]  # fmt: skip
    count = int((flags[0] != flags[1]).sum())
    what = f"{count:,} blocks are of the second grid in one and of the first in the other"
    return [Finding("second grid", what, "Their codes mean other levels.")] if count else []


def _quantiles(a: PackedTensor, b: PackedTensor) -> list[Finding]:
    """Signs and levels of quantiles, which no code tells."""
    found = []
    if a.signs is not None and b.signs is not None and (count := int(np.unpackbits(a.signs ^ b.signs).sum())):
        found.append(Finding("signs", f"{count:,} signs differ", "Is it the same matrix?", exact=False))
    if a.codebook is not None and b.codebook is not None and (count := _differ(a.codebook, b.codebook)):
        fix = "Keep one codebook: quantize(x, reuse=packed)."
        found.append(Finding("codebook", f"{count} of {a.codebook.size} levels differ", fix))
    return found


def other_parts(a: PackedTensor, b: PackedTensor) -> list[Finding]:
    """The differences of parts that only some formats have."""
    return [*_offsets(a, b), *_fine(a, b), *_second(a, b), *_quantiles(a, b)]


def decoding(a: PackedTensor, b: PackedTensor) -> list[Finding]:
    """Of two tensors of the same bytes: whether they decode to the same bits, as two producers' need not."""
    with np.errstate(all="ignore"):
        one, two = a.dequantize(), b.dequantize()
    differ = (one.view(np.uint32) != two.view(np.uint32)) & ~(np.isnan(one) & np.isnan(two))
    if not differ.any():
        return []
    signs = bool((differ <= ((one == 0) & (two == 0))).all())
    orders = [t.format.decode_order for t in (a, b)]
    what = f"the bytes are the same, and {int(differ.sum()):,} values are decoded otherwise: "
    what += "zeros with another sign" if signs else f"a multiplies by {orders[0]!r}, b by {orders[1]!r}"
    return [Finding("decoding", what, "Each producer's reader multiplies in its own order (BlockFormat.decode_order).")]
