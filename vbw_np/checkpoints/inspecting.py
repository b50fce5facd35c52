"""`vbw inspect`: what is in a checkpoint, and what looks wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..progress import Progress
from .errors import CheckpointError
from .opening import Checkpoint
from .producers import find_weights
from .suspicion import column_profile, data_suspicions, fused_groups, header_suspicions
from .weight_statistics import statistics_of
from .weights import Suspicion, Weight

PROFILE_ROWS = 4096
"""Rows of an unquantized weight that its columns are judged by."""


@dataclass
class Row:
    """One weight as `inspect` shows it."""

    name: str
    shape: list[int]
    stored: str
    format: str
    producer: str
    bits: float
    bytes: int
    suspicions: list[Suspicion] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)


@dataclass
class Inspection:
    """What `inspect` found: rows, totals, groups of layers with several tensor scales."""

    path: str
    kind: str
    rows: list[Row]
    fused: dict[str, dict[str, float]]
    metadata: dict[str, Any]

    @property
    def suspicious(self) -> list[Row]:
        """The rows with suspicions."""
        return [row for row in self.rows if row.suspicions]

    def totals(self) -> dict[str, Any]:
        """Tensors, values, bytes and bits a value, in all and by format and producer."""
        by: dict[tuple[str, str], list[int]] = {}
        for row in self.rows:
            count = by.setdefault((row.format, row.producer), [0, 0, 0])
            count[0], count[1], count[2] = count[0] + 1, count[1] + size_of(row), count[2] + row.bytes
        values = sum(size_of(row) for row in self.rows)
        total = sum(row.bytes for row in self.rows)
        return {
            "weights": len(self.rows),
            "values": values,
            "bytes": total,
            "bits_per_value": 8 * total / values if values else 0.0,
            "formats": [
                {"format": f, "producer": p, "weights": n, "values": v, "bytes": b} for (f, p), (n, v, b) in by.items()
            ],
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "path": self.path,
            "kind": self.kind,
            "totals": self.totals(),
            "weights": [asdict(row) for row in self.rows],
            "fused_with_several_tensor_scales": self.fused,
            "metadata": self.metadata,
        }


def size_of(row: Row) -> int:
    """Values of a row's weight."""
    return int(np.prod(row.shape)) if row.shape else 1


def stored_dtypes(weight: Weight) -> str:
    """The dtypes of its codes and scales, `U8 + F8_E4M3`."""
    roles = [
        weight.parts[role].dtype for role in ("values", "blocks", "codes", "scales", "absmax") if role in weight.parts
    ]
    return " + ".join(roles)


def short_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata without what is long: arrays by their length, strings cut."""
    short: dict[str, Any] = {}
    for key, value in metadata.items():
        if isinstance(value, (list, np.ndarray)):
            short[key] = f"{len(value):,} items"
        else:
            short[key] = value[:100] if isinstance(value, str) else value
    return short


def inspect_checkpoint(checkpoint: Checkpoint, stats: bool = False) -> Inspection:
    """Look at a checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint
    stats : bool
        False: headers and tensor scales alone are read, however large the file. True: every weight is, for
        statistics and for the suspicions that only the data shows (NaN and zero scales, swizzled scales, the order of
        nibbles, a cap of 256).
    """
    weights = find_weights(checkpoint)
    suspicions = header_suspicions(checkpoint, weights)
    rows = [
        Row(w.name, list(w.shape), stored_dtypes(w), w.format, w.producer, w.bits, w.nbytes, suspicions.get(w.name, []))
        for w in weights.values()
    ]
    if stats:
        profiles = column_profiles(weights)
        with Progress(len(rows), "reading", item="weights") as progress:
            for row in rows:
                _add_statistics(row, weights[row.name], profiles)
                progress.step(row.name)
    return Inspection(
        str(checkpoint.path), checkpoint.kind, rows, fused_groups(weights), short_metadata(checkpoint.metadata)
    )


def column_profiles(weights: dict[str, Weight]) -> dict[int, np.ndarray]:
    """Number of inputs -> the columns' root mean squares of the unquantized matrices with that many."""
    found: dict[int, list[np.ndarray]] = {}
    for weight in weights.values():
        if weight.is_plain and weight.is_float and len(weight.shape) == 2 and weight.shape[0] > 1:
            rows = weight.float32()[:PROFILE_ROWS]
            found.setdefault(weight.shape[1], []).append(column_profile(np.nan_to_num(rows)))
    return {length: np.exp(np.mean(np.log(np.array(p) + 1e-30), axis=0)) for length, p in found.items()}


def _add_statistics(row: Row, weight: Weight, profiles: dict[int, np.ndarray]) -> None:
    if not weight.is_float or not weight.size or any(s.name in BROKEN for s in row.suspicions):
        return
    if not weight.is_packed and weight.decode is None and not weight.is_plain:
        return
    try:
        row.statistics, packed = statistics_of(weight)
    except CheckpointError as error:
        if not row.suspicions:
            row.suspicions.append(Suspicion("not decoded", str(error), "Only its header was looked at."))
        return
    if row.statistics.get("nonfinite"):
        what = f"{row.statistics['nonfinite']:,} of {weight.size:,} values are NaN or Inf"
        row.suspicions.append(Suspicion("NaN values", what, "Find out where they come from, and export it anew."))
    if packed is not None:
        row.suspicions += data_suspicions(weight, packed, profiles.get(weight.shape[-1]))


BROKEN = {"scale shape", "unknown element", "several tensor scales"}
"""Suspicions under which a weight cannot be decoded; swizzled scales of whole tiles may be."""
