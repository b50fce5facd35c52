"""Several tensor scales of fused layers become one, on purpose.

An engine that computes q, k and v (or gate and up) in one product needs one tensor-level number for them; checkpoints
have one each. The common one is the largest, so that block scales only shrink: each is multiplied by its part's own
number over the common one and rounded to E4M3 again. Codes stay. The loss is that rounding, and it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .blocks import BlockFormat
from .containers import CONTAINERS, convert_level, from_container, level_name, stored_convention
from .elements import E4M3
from .errors import FormatError, ScaleError, ShapeError, unknown_name
from .measure import relative_mse
from .packed import PackedTensor, as_shape


@dataclass(frozen=True)
class MergeLoss:
    """What a common tensor scale cost.

    Parameters
    ----------
    relative_mse : float
        Of all decoded values, against those under the parts' own scales.
    scales_rounded, scales_to_zero : int
        Block scales that are no longer exact, and those that became 0.
    parts : tuple of float
        `relative_mse` of each part.
    """

    relative_mse: float
    scales_rounded: int
    scales_to_zero: int
    parts: tuple[float, ...]


def merge_fused(
    arrays: dict[str, np.ndarray],
    container: str,
    shape: tuple[int, ...],
    format: str | BlockFormat,
    rows: Sequence[int] | None = None,
) -> tuple[PackedTensor, MergeLoss]:
    """Read arrays of fused layers, which hold several tensor-level numbers, under one common number.

    Parameters
    ----------
    arrays, container, shape, format : as in `from_container`; a matrix, whose parts follow each other in rows
    rows : sequence of int, optional
        The rows of each part; by default all have the same number.
    """
    if container not in CONTAINERS:
        raise unknown_name("container", container, CONTAINERS)
    name = level_name(container)
    if not name or name not in arrays:
        raise FormatError(f"a {container} container has no tensor-level numbers to merge; it has {sorted(arrays)}")
    if container == "gguf" or len(shape) != 2:
        raise FormatError("only matrices whose codes and scales are arrays of rows can be merged")
    levels = np.asarray(arrays[name]).reshape(-1)
    starts = _starts(shape[0], len(levels), rows)
    parts = []
    for level, start, stop in zip(levels, starts[:-1], starts[1:], strict=True):
        part = {key: value if key == name else value[start:stop] for key, value in arrays.items()}
        parts.append(from_container({**part, name: level.reshape(1)}, container, (stop - start, shape[1]), format))
    return merge_parts(parts)


def _starts(total: int, count: int, rows: Sequence[int] | None) -> list[int]:
    if count == 0:
        raise ScaleError("there are no tensor-level numbers to merge")
    if rows is None:
        if total % count:
            raise ShapeError(f"{total} rows are not {count} equal parts; pass rows=, the rows of each part")
        rows = [total // count] * count
    rows = as_shape(rows)
    if len(rows) != count or sum(rows) != total or min(rows) < 1:
        raise ShapeError(f"rows={list(rows)} must be {count} positive numbers that add up to {total}")
    return [0, *np.cumsum(rows).tolist()]


def merge_parts(parts: Sequence[PackedTensor]) -> tuple[PackedTensor, MergeLoss]:
    """One tensor of several of one format, stacked along the rows, under one common tensor scale."""
    if not parts:
        raise FormatError("there are no parts to merge")
    fmt = parts[0].format
    if fmt.tensor_level != "tensor" or fmt.rule.scale_element is not E4M3 or fmt.fine is not None:
        raise FormatError(f"{fmt.name} has no E4M3 scales under one tensor scale, so there is nothing to merge")
    if any(part.format is not fmt or part.shape[1:] != parts[0].shape[1:] for part in parts):
        raise FormatError("parts to be merged must be of one format and width")
    largest = max(parts, key=lambda part: float(part.tensor_scale))
    merged, losses, rounded, vanished = [], [], 0, 0
    for part in parts:
        one, exact = under_level(part, largest.tensor_scale, largest.stored_scale)
        lost = (one.decoded_scales() == 0) & (part.decoded_scales() != 0)
        rounded += int(((one.decoded_scales() != exact) | lost).sum())
        vanished += int(lost.sum())
        merged.append(one)
        losses.append(_loss(part.dequantize(), one.dequantize()))
    whole = replace(
        merged[0],
        codes=np.concatenate([part.codes for part in merged]),
        scales=np.concatenate([part.scales for part in merged]),
        shape=(sum(part.shape[0] for part in parts), *parts[0].shape[1:]),
    )
    before = np.concatenate([part.dequantize() for part in parts])
    return whole, MergeLoss(_loss(before, whole.dequantize()), rounded, vanished, tuple(losses))


def under_level(
    part: PackedTensor, level: np.float32, stored: np.float32 | None = None
) -> tuple[PackedTensor, np.ndarray]:
    """A tensor under another tensor scale: its block scales times old / new, rounded to E4M3; codes stay.

    Parameters
    ----------
    part : PackedTensor
        Of E4M3 block scales under one tensor scale.
    level : np.float32
        The new multiplier.
    stored : np.float32, optional
        What is stored for it, in the format's own convention. By default it is converted, and that rounding counts.

    Returns
    -------
    PackedTensor, and the block scales before they were rounded (float32).
    """
    fmt = part.format
    if stored is None:
        stored = convert_level(level, "multiplier", stored_convention(fmt), fmt.rule.range)
        level = np.float32(fmt.rule.multiplier(stored))
    factor = np.float32(part.tensor_scale) / level if level > 0 else np.float32(1)
    exact = part.decoded_scales() * factor
    scales = E4M3.encode(np.minimum(exact, np.float32(448)), "even") if factor != 1 else part.scales
    return replace(part, scales=scales, tensor_scale=level, stored_scale=stored, sqnr_db=None, counts=None), exact


def _loss(before: np.ndarray, after: np.ndarray) -> float:
    return relative_mse(before, after) if before.any() else 0.0
