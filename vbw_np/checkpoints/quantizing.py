"""`vbw quantize MODEL --format ... --out FOLDER`: a whole model, streamed row by row.

Two walks over each weight: one for the largest magnitude of the tensor (where the format has a tensor scale), one that
quantizes rows in pieces and writes them. No weight is ever whole in memory.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..formats import BlockFormat, PackedTensor, decibels, quantize
from ..formats.ggml import BY_NAME
from ..formats.ggml_blocks import block_type_of
from ..progress import Progress
from .converting import Converted, is_copied, read_levels, source_of, write
from .errors import CheckpointError
from .opening import Checkpoint
from .producers import find_weights
from .profiles_of import writing_profile
from .stored import StoredTensor, bytes_of
from .targets import HOLDS, Source
from .weights import Weight

PIECE = 1 << 19
"""Values that are quantized at a time: some tens of megabytes of work space."""
KEPT = ("*embed*", "*lm_head*", "*norm*", "*ln_*", "output.weight", "*router*", "*.gate.weight")
"""Names that stay as they are unless they are asked for."""


@dataclass
class LayerReport:
    """What one layer lost: relative squared error, SQNR, the largest error and where."""

    name: str
    relative_mse: float
    largest_error: float
    largest_error_at: list[int]
    amax: float

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise, in dB."""
        return decibels(self.relative_mse)


@dataclass
class Quantized:
    """What was quantized and what was kept, and why."""

    layers: list[LayerReport] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    bytes_before: int = 0
    bytes_after: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "layers": [
                {**layer.__dict__, "sqnr_db": layer.sqnr_db}
                for layer in sorted(self.layers, key=lambda l: -l.relative_mse)
            ],
            "kept": self.kept,
        }


def quantize_checkpoint(
    checkpoint: Checkpoint,
    out: str | Path,
    format: str = "nvfp4",
    producer: str = "compressed-tensors",
    *,
    layers: list[str] | str | None = None,
    keep: list[str] | str | None = None,
) -> Quantized:
    """Quantize a model's matrices into a new folder, whole or not at all.

    Parameters
    ----------
    out : path of a folder that does not exist yet
    format : name of a format or profile
    producer : a key of `HOLDS`: whose layout and arithmetic
    layers : shell patterns of weights to quantize; all matrices but `KEPT` by default
    keep : shell patterns of weights to leave as they are, besides

    Raises
    ------
    CheckpointError, FormatError
        For patterns that match nothing, formats that the producer does not store, NaN or Inf in a weight.
    """
    if producer not in HOLDS:
        raise CheckpointError(f"unknown producer {producer!r}; use one of {', '.join(HOLDS)}")
    fmt = writing_profile(format, producer)
    layers, keep = ([patterns] if isinstance(patterns, str) else patterns for patterns in (layers, keep))
    weights, result = find_weights(checkpoint), Quantized(bytes_before=checkpoint.nbytes)
    chosen = _choose(weights, fmt, producer, layers, keep or [], result)
    reports: dict[str, _Measure] = {}
    sources: dict[str, Source] = {}
    with Progress(len(chosen), "measuring", item="weights") as progress:
        for name in chosen:
            reports[name] = _Measure(name)
            sources[name] = _stream(weights[name], fmt, reports[name])
            progress.step(name)
    levels = read_levels(checkpoint)
    for name, weight in weights.items():
        if name not in sources and not is_copied(weight, producer):  # moved without loss, or refused
            sources[name] = source_of(weight, producer, None, levels, {}, Converted())
    write(checkpoint, weights, sources, Path(out), producer, levels)
    result.layers = [measure.report() for measure in reports.values()]
    result.bytes_after = sum(p.stat().st_size for p in Path(out).iterdir() if p.suffix in (".safetensors", ".gguf"))
    return result


def _choose(
    weights: dict[str, Weight],
    fmt: BlockFormat,
    producer: str,
    layers: list[str] | None,
    keep: list[str],
    result: Quantized,
) -> list[str]:
    """The weights to quantize; why the others stay goes into the result."""
    for pattern in [*(layers or []), *keep]:
        if not fnmatch.filter(weights, pattern):
            raise CheckpointError(f"the pattern {pattern!r} matches no weight; `vbw inspect` lists their names")
    chosen = []
    for name, weight in weights.items():
        why = _why_kept(weight, fmt, producer, layers, keep)
        if why:
            result.kept[name] = why
        else:
            chosen.append(name)
    if not chosen:
        raise _nothing_left(result.kept)
    return chosen


def _nothing_left(kept: dict[str, str]) -> CheckpointError:
    """Why, by the first weight that could have been quantized, and what to do."""
    for name, why in kept.items():
        if why.startswith("already"):
            return CheckpointError(
                f"no weight is left to quantize; {name}: {why}. `vbw convert IN OUT --to PRODUCER --lossy FORMAT` "
                "decodes and quantizes anew"
            )
        if why.startswith("its "):
            return CheckpointError(f"no weight is left to quantize; {name}: {why}; name others with --layers PATTERN")
    return CheckpointError("no weight is left to quantize; name some with --layers PATTERN")


def _matches(name: str, patterns: list[str] | tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _why_kept(weight: Weight, fmt: BlockFormat, producer: str, layers: list[str] | None, keep: list[str]) -> str:
    """Why a weight stays as it is; empty if it does not."""
    if not weight.is_plain:
        return f"already quantized ({weight.format})"
    if not weight.is_float or len(weight.shape) != 2 or not weight.name.endswith("weight"):
        return "no matrix of weights"
    if layers is not None and not _matches(weight.name, layers):
        return "not asked for"
    if (layers is None and _matches(weight.name, KEPT)) or _matches(weight.name, keep):
        return "kept by its name"
    unit = BY_NAME[block_type_of(fmt)].elements if producer == "gguf" else fmt.block or 2
    if fmt.block_rows == 1 and weight.shape[1] % unit:
        return f"its {weight.shape[1]} inputs are no multiple of {unit}"
    return ""


# ---- streaming


def rows_of(tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
    """Some rows of a stored matrix as float32; only their bytes are read."""
    row = bytes_of(tensor.shape[1:], tensor.dtype)
    part = StoredTensor(
        tensor.name, tensor.dtype, (stop - start, *tensor.shape[1:]), tensor.file, tensor.offset + start * row,
        row * (stop - start),
    )  # fmt: skip
    return part.float32()


def pieces(tensor: StoredTensor, multiple: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """A stored matrix as pieces of rows, each a multiple of `multiple` rows but the last: (first row, float32)."""
    rows, width = tensor.shape
    step = max(1, PIECE // max(1, width) // multiple) * multiple
    for start in range(0, rows, step):
        yield start, rows_of(tensor, start, min(rows, start + step))


class _Measure:
    """Errors of a layer, added up piece by piece; sums in float64."""

    def __init__(self, name: str) -> None:
        self.name, self.noise, self.signal, self.amax = name, 0.0, 0.0, 0.0
        self.largest, self.place = 0.0, [0, 0]

    def add(self, start: int, x: np.ndarray, decoded: np.ndarray) -> None:
        error = decoded - x
        self.noise += float(np.einsum("ij,ij->", error, error, dtype=np.float64))
        self.signal += float(np.einsum("ij,ij->", x, x, dtype=np.float64))
        np.abs(error, out=error)
        where = int(error.argmax())
        if error.flat[where] > self.largest:
            self.largest = float(error.flat[where])
            row, column = divmod(where, x.shape[1])
            self.place = [start + row, column]
        self.amax = max(self.amax, float(np.abs(x).max()))

    def report(self) -> LayerReport:
        relative = self.noise / self.signal if self.signal else (0.0 if self.noise == 0 else math.inf)
        return LayerReport(self.name, relative, self.largest, self.place, self.amax)


def _stream(weight: Weight, fmt: BlockFormat, measure: _Measure) -> Source:
    """A weight as packed tensors of consecutive rows, all under the amax of the whole."""
    tensor = weight.parts["values"]
    whole = fmt.tensor_level == "tensor" or fmt.flat
    amax = _signed_amax(tensor) if whole else None
    multiplier = None
    if fmt.tensor_level == "tensor":
        multiplier = np.float32(_piece(np.zeros((0, tensor.shape[1]), np.float32), fmt, amax).tensor_scale)

    def chunks() -> Iterator[PackedTensor]:
        for start, x in pieces(tensor, fmt.block_rows):
            packed = _piece(x, fmt, amax)
            measure.add(start, x, packed.dequantize())
            yield packed

    dtype = {"BF16": "bfloat16", "F16": "float16"}.get(tensor.dtype, "float32")
    return Source(weight.name, weight.shape, fmt, chunks, multiplier, None, dtype)


def _signed_amax(tensor: StoredTensor) -> np.float32:
    """The largest magnitude of a stored matrix.

    Raises
    ------
    CheckpointError
        Where it is not finite, naming the first row.
    """
    largest = np.float32(0)
    for start, x in pieces(tensor):
        amax = np.abs(x).max()
        if not np.isfinite(amax):
            row = start + int(np.argmax(~np.isfinite(x).all(axis=1)))
            raise CheckpointError(f"{tensor.name} holds NaN or Inf (row {row}); mend it before it is quantized")
        largest = max(largest, amax)
    return np.float32(largest)


def _piece(x: np.ndarray, fmt: BlockFormat, amax: np.float32 | None) -> PackedTensor:
    """Rows quantized under the amax of the whole tensor.

    One more row (tile of rows), which carries that amax, is quantized with them and cut off again: so the encoder forms
    every scale by its own rule.
    """
    if amax is None:
        return quantize(x, fmt, measure=False)
    extra = np.zeros((fmt.block_rows, x.shape[1]), np.float32)
    extra[:, 0] = amax
    packed = quantize(np.concatenate([x, extra]), fmt, measure=False)
    rows = len(x)
    if fmt.flat:
        if not rows:
            return packed
        return PackedTensor(packed.codes[: rows * x.shape[1] * fmt.code_bits // 8], packed.scales, x.shape, fmt)
    if not rows:
        return packed
    return PackedTensor(
        packed.codes[:rows],
        packed.scales[:rows],
        x.shape,
        fmt,
        tensor_scale=packed.tensor_scale,
        stored_scale=packed.stored_scale,
    )
