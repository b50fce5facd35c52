"""`vbw convert IN OUT --to PRODUCER`: the same codes and scales in another producer's tensors, names and configs.

Between producers of one format nothing is lost: codes and block scales keep their bytes. Only the tensor scale changes
its convention (`1 / x` in float32), and since two numbers can share a reciprocal, the one that the next conversion
could not give back is kept in the file's metadata. What would have to be quantized anew needs `lossy`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..formats import BlockFormat, PackedTensor, quantize, relative_mse
from ..formats.fusing import under_level
from ..progress import Progress
from .errors import CheckpointError
from .opening import Checkpoint
from .producers import find_weights
from .profiles_of import writing_profile
from .suspicion import fused_groups, header_suspicions
from .targets import (
    HOLDS,
    LEVELS,
    Source,
    compressed_tensors_config,
    kind_of,
    modelopt_config,
    plan,
    reciprocal,
    torchao_metadata,
)
from .weights import Weight, scalar
from .writing import Planned, copy_companions, new_folder, write_gguf, write_safetensors


@dataclass
class Converted:
    """What a conversion did: how many weights were moved, copied, quantized anew, and what that lost."""

    moved: int = 0
    copied: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    merged: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "moved_without_loss": self.moved,
            "copied": self.copied,
            "relative_mse_of_lossy": self.losses,
            "relative_mse_of_fused": self.merged,
        }


def convert_checkpoint(
    checkpoint: Checkpoint, out: str | Path, to: str, *, lossy: str | None = None, fuse: bool = False
) -> Converted:
    """Write a checkpoint in another producer's layout; whole or not at all.

    Parameters
    ----------
    out : path of a folder that does not exist yet
    to : a key of `HOLDS`
    lossy : name of a format, optional
        Quantize to it what the target does not store as it is.
    fuse : bool
        Give layers that engines fuse (q, k, v; gate, up) one tensor scale: the largest; their block scales are scaled
        and rounded, which loses a little.

    Raises
    ------
    CheckpointError
        For an unknown target, a suspicious tensor scale, or a weight that the target does not store.
    """
    if to not in HOLDS:
        raise CheckpointError(f"unknown target {to!r}; use one of {', '.join(HOLDS)}")
    weights = find_weights(checkpoint)
    _refuse_suspicious(checkpoint, weights)
    result, levels = Converted(), read_levels(checkpoint)
    largest = _largest_levels(weights) if fuse else {}
    sources: dict[str, Source] = {}
    for name, weight in weights.items():
        if name in largest or not is_copied(weight, to):
            sources[name] = source_of(weight, to, lossy, levels, largest, result)
    write(checkpoint, weights, sources, Path(out), to, levels)
    result.copied = sum(weight.is_plain for weight in weights.values())
    result.moved = len(weights) - result.copied - len(result.losses) - len(result.merged)
    return result


def _refuse_suspicious(checkpoint: Checkpoint, weights: dict[str, Weight]) -> None:
    for name, found in header_suspicions(checkpoint, weights).items():
        raise CheckpointError(f"{name}: {found[0].name}: {found[0].what}. It is not converted. {found[0].fix}")


# ---- tensor-level numbers


def read_levels(checkpoint: Checkpoint) -> dict[str, str]:
    """Numbers that an earlier conversion kept: `role weight convention` -> float32 in hexadecimal."""
    text = checkpoint.metadata.get(LEVELS, "{}")
    try:
        levels = json.loads(text)
        return {str(k): float.fromhex(v).hex() for k, v in levels.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise CheckpointError(f"{checkpoint.path}: the metadata {LEVELS} is damaged; remove it") from None


def multiplier_of(name: str, role: str, stored: np.float32, convention: str, levels: dict[str, str]) -> np.float32:
    """The multiplier of a stored number, and what is kept so that both conventions come back in every bit."""
    if convention == "multiplier":
        again = reciprocal(reciprocal(stored))
        if again != stored:
            levels[f"{role} {name} multiplier"] = float(stored).hex()
        return stored
    kept = levels.get(f"{role} {name} multiplier")
    multiplier = np.float32(float.fromhex(kept)) if kept else reciprocal(stored)
    if kept and reciprocal(multiplier) != stored:
        multiplier = reciprocal(stored)
    if reciprocal(multiplier) != stored:
        levels[f"{role} {name} reciprocal"] = float(stored).hex()
    return multiplier


def _stored(weight: Weight, role: str, levels: dict[str, str]) -> np.float32 | None:
    """A weight's tensor-level number as multiplier."""
    stored = scalar(weight.parts.get(role))
    if stored is None:
        return None
    convention = "reciprocal" if weight.parts[role].name.endswith("global_scale") else "multiplier"
    return multiplier_of(weight.name, role, stored, convention, levels)


def _kept_reciprocals(
    name: str, multipliers: dict[str, np.float32 | None], levels: dict[str, str]
) -> dict[str, np.float32]:
    """Reciprocals that are kept for these multipliers, where they still belong to them."""
    found = {}
    for role, multiplier in multipliers.items():
        kept = levels.get(f"{role} {name} reciprocal")
        if kept is not None and multiplier is not None:
            value = np.float32(float.fromhex(kept))
            if reciprocal(value) == multiplier:
                found[role] = value
    return found


# ---- sources


def source_of(
    weight: Weight,
    to: str,
    lossy: str | None,
    levels: dict[str, str],
    largest: dict[str, np.float32],
    result: Converted,
) -> Source:
    packed = weight.packed() if weight.is_packed else None
    kind = kind_of(packed.format) if packed is not None else None
    if kind not in HOLDS[to] or (to != "gguf" and len(weight.shape) != 2) or not _fits(packed, to):
        return _requantized(weight, to, lossy, kind, result)
    inputs = _stored(weight, "input_scale", levels)
    level = _stored(weight, "tensor_scale", levels)
    if kind == "nvfp4" and level is None and to in ("modelopt", "compressed-tensors"):
        level = np.float32(1)
    if weight.name in largest and largest[weight.name] != level:
        packed, level = _fused(weight, packed, largest[weight.name], result), largest[weight.name]
    fmt = packed.format
    if kind != "nvfp4":
        level = None
    dtype = weight.decoded_dtype if weight.decoded_dtype in ("bfloat16", "float16") else "float32"
    reciprocals = _kept_reciprocals(weight.name, {"tensor_scale": level, "input_scale": inputs}, levels)
    return Source(weight.name, weight.shape, fmt, lambda: [packed], level, inputs, dtype, reciprocals)


def _fits(packed: PackedTensor, to: str) -> bool:
    """Whether the rows are whole blocks of the target."""
    if packed.scales.dtype != np.uint8:
        return True
    block = 64 if to == "gguf" and packed.format.block == 16 else packed.format.block
    return packed.shape[-1] % block == 0


def _requantized(weight: Weight, to: str, lossy: str | None, kind: str | None, result: Converted) -> Source:
    if lossy is None:
        raise CheckpointError(
            f"{weight.name} is {weight.format} ({weight.producer}), which {to} does not store as it is "
            f"({', '.join(sorted(HOLDS[to]))}); --lossy FORMAT quantizes it anew and says what that loses"
        )
    values = weight.float32()
    fmt = writing_profile(lossy, to)
    packed = quantize(values, fmt, measure=False)
    result.losses[weight.name] = relative_mse(values, packed.dequantize())
    level = packed.tensor_scale if packed.tensor_scale is not None else None
    return Source(weight.name, weight.shape, fmt, lambda: [packed], level)


# ---- fused layers


def _largest_levels(weights: dict[str, Weight]) -> dict[str, np.float32]:
    """Weight -> the largest multiplier of its fused group."""
    found: dict[str, np.float32] = {}
    for levels in fused_groups(weights).values():
        largest = np.float32(max(levels.values()))
        found |= dict.fromkeys(levels, largest)
    return found


def _fused(weight: Weight, packed: PackedTensor, level: np.float32, result: Converted) -> PackedTensor:
    """The weight under the tensor scale of its group."""
    merged, _ = under_level(packed, level)
    result.merged[weight.name] = relative_mse(weight.float32(), merged.dequantize())
    return merged


# ---- writing


def is_copied(weight: Weight, to: str) -> bool:
    """Whether a weight goes to a target byte by byte: unquantized, or a block type of GGUF's within GGUF."""
    return weight.is_plain or to == weight.producer == "gguf"


def copied_tensors(weight: Weight, to: str) -> list[Planned]:
    """The tensors of a weight as they are."""
    tensors = list(weight.parts.values())
    if to == "gguf" and tensors[0].dtype == "BOOL":
        raise CheckpointError(f"{tensors[0].name} is BOOL, which GGUF does not have")
    return [Planned(t.name, t.dtype, t.shape, lambda t=t: [t.bytes()]) for t in tensors]


def unquantized_modules(weights: dict[str, Weight], sources: dict[str, Source]) -> list[str]:
    """Modules of matrices that stay as they are: what a loader must not expect to be quantized."""
    return [
        name.removesuffix(".weight")
        for name, weight in weights.items()
        if name not in sources and name.endswith(".weight") and len(weight.shape) == 2 and "embed" not in name
    ]


def write(
    checkpoint: Checkpoint,
    weights: dict[str, Weight],
    sources: dict[str, Source],
    out: Path,
    to: str,
    levels: dict[str, str] | None = None,
    done: Callable[[str], None] | None = None,
) -> None:
    """Write every weight, quantized ones as `to` stores them, with its configs and the files beside the model."""
    tensors: list[Planned] = []
    for name, weight in weights.items():
        tensors += plan(sources[name], to) if name in sources else copied_tensors(weight, to)
    strings = {k: v for k, v in checkpoint.metadata.items() if isinstance(v, str) and checkpoint.kind == "safetensors"}
    strings = {k: v for k, v in strings.items() if k != "tensor_names" and k not in weights and k != LEVELS}
    if levels:
        strings[LEVELS] = json.dumps(levels, sort_keys=True)
    with new_folder(out) as folder, Progress(len(tensors), "writing", item="tensors") as progress:
        report = done or progress.step
        if to == "gguf":
            pairs = {"general.architecture": str(checkpoint.config.get("model_type", "unknown"))}
            pairs = (dict(checkpoint.metadata) if checkpoint.kind == "gguf" else pairs) | strings
            write_gguf(folder / "model.gguf", tensors, pairs, report)
        else:
            if to == "torchao":
                plain = [name for name in weights if name not in sources]
                strings |= torchao_metadata(list(sources.values()), plain)
            write_safetensors(folder, tensors, strings or {"format": "pt"}, done=report)
        write_configs(checkpoint, weights, sources, folder, to)
        if checkpoint.kind == "safetensors":
            copy_companions(checkpoint.folder, folder)


def write_configs(
    checkpoint: Checkpoint, weights: dict[str, Weight], sources: dict[str, Source], folder: Path, to: str
) -> None:
    """config.json with the target's quantization_config, and ModelOpt's hf_quant_config.json."""
    config = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
    ignore = unquantized_modules(weights, sources)
    kinds: dict[str, BlockFormat] = {}
    modules: dict[str, list[str]] = defaultdict(list)
    for source in sources.values():
        kind = kind_of(source.fmt)
        kinds[kind] = source.fmt
        modules[kind].append(source.module)
    if to == "compressed-tensors" and kinds:
        first, *others = kinds
        quantization = compressed_tensors_config(first, kinds[first], ["Linear"], ignore)
        for number, kind in enumerate(others, 1):
            more = compressed_tensors_config(kind, kinds[kind], modules[kind], ignore)
            quantization["config_groups"][f"group_{number}"] = more["config_groups"]["group_0"]
            quantization["config_groups"]["group_0"]["targets"] = modules[first]
            quantization["format"] = "mixed-precision"
        config["quantization_config"] = quantization
    if to == "modelopt" and kinds:
        if len(kinds) > 1:
            raise CheckpointError(f"one folder of ModelOpt's holds one format, not {', '.join(sorted(kinds))}")
        kind = next(iter(kinds))
        quantization = modelopt_config(kind, ignore, any(s.inputs is not None for s in sources.values()))
        (folder / "hf_quant_config.json").write_text(json.dumps(quantization, indent=4) + "\n", "utf-8")
        config["quantization_config"] = _embedded(quantization)
    if config and to != "gguf":
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _embedded(quantization: dict[str, Any]) -> dict[str, Any]:
    """The same for config.json, where ModelOpt puts it flat."""
    inner = quantization["quantization"]
    flat = {"quant_method": "modelopt", "quant_algo": inner["quant_algo"], "ignore": inner["exclude_modules"]}
    return flat | {"producer": quantization["producer"]}
