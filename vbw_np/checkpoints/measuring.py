"""`vbw measure ORIGINAL QUANTIZED`: what every weight lost, sorted, with a picture."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from ..formats import decibels, relative_mse
from ..progress import Progress
from .errors import CheckpointError
from .opening import Checkpoint
from .pairing import paired


@dataclass(frozen=True)
class Loss:
    """One weight: signal to noise in dB, relative squared error, the largest error and where, bits a value."""

    name: str
    format: str
    bits: float
    sqnr_db: float
    relative_error: float
    largest_error: float
    largest_error_at: list[int]

    def as_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


def measure_checkpoints(original: Checkpoint, quantized: Checkpoint) -> list[Loss]:
    """The loss of every weight that both have and that differs in format, the worst first.

    `relative_error` is the root of the relative squared error: |error| / |weight| in the 2-norm.
    """
    left, right = paired(original, quantized)
    common = [n for n in left if n in right and left[n].is_float and right[n].is_float and not right[n].is_plain]
    if not common:
        raise CheckpointError(
            f"{quantized.path} has no quantized weight that {original.path} has under the same name and shape"
        )
    found = []
    with Progress(len(common), "measuring", item="weights") as progress:
        for name in common:
            if left[name].shape != right[name].shape:
                raise CheckpointError(f"{name} has shapes {list(left[name].shape)} and {list(right[name].shape)}")
            x, y = left[name].float32(), right[name].float32()
            with np.errstate(all="ignore"):
                relative = relative_mse(x, y)
                error = np.abs(y - x)
            error = np.where(np.isnan(error), np.float32(np.inf), error)
            place = [int(i) for i in np.unravel_index(int(error.argmax()), x.shape)]
            sqnr = decibels(relative)
            found.append(
                Loss(
                    name,
                    right[name].format,
                    right[name].bits,
                    sqnr,
                    math.sqrt(relative),
                    float(error[tuple(place)]),
                    place,
                )
            )
            progress.step(name)
    return sorted(found, key=lambda loss: (loss.sqnr_db, loss.name))
