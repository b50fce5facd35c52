"""What is probably wrong with a checkpoint, by name.

`header_suspicions` looks at names, dtypes, shapes, configs and tensor scales (a few bytes a weight);
`data_suspicions` reads the weights. A suspicion is a judgement: the thresholds below say of what.
"""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

from ..formats import E4M3, PackedTensor, unswizzle_scales
from .opening import Checkpoint
from .producers import quant_method
from .weights import Suspicion, Weight, scalar

MULTIPLIER_AMAX = 32.0
"""A multiplier that makes the largest weight exceed this is no amax / 2688: weights of trained layers stay below it."""
RECIPROCAL_AMAX = 1e5
"""And one that makes it exceed this is 2688 / amax."""

FAMILIES = {
    "NVFP4": "nvfp4", "W4A16_NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4", "NVFP4_SVD": "nvfp4", "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "FP8_PB_WO": "fp8", "MXFP8": "mxfp8", "W4A8_MXFP4_FP8": "mxfp4",
    "W4A16_AWQ": "int4", "W4A8_AWQ": "int4", "W8A16": "int8", "W8A8_SQ_PER_CHANNEL": "int8",
    "nvfp4-pack-quantized": "nvfp4", "mxfp4-pack-quantized": "mxfp4", "mxfp6-pack-quantized": "mxfp6",
    "mxfp8-quantized": "mxfp8", "float-quantized": "fp8", "int-quantized": "int8", "pack-quantized": "int4",
}  # fmt: skip
"""What a config calls a format -> the family of formats that the bytes must be of."""
FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}
"""Layers that inference engines fuse into one product, which needs one tensor scale."""


def family(fmt: str) -> str:
    """`nvfp4`, `fp8`, ... of a format or profile name, or of a plain dtype."""
    for name in ("nvfp4", "mxfp4", "mxfp6", "mxfp8", "int4", "int8"):
        if name in fmt:
            return name
    return "fp8" if fmt.startswith(("fp8", "f8_")) or "-fp8" in fmt else fmt


def label_of(checkpoint: Checkpoint, module: str) -> str | None:
    """What the configs call a module's format, or None where they say nothing of it."""
    quantization = checkpoint.quant_config.get("quantization")
    if isinstance(quantization, dict):
        layers = quantization.get("quantized_layers")
        if isinstance(layers, dict):
            entry = layers.get(module)
            return entry.get("quant_algo") if isinstance(entry, dict) else None
        if isinstance(quantization.get("quant_algo"), str):
            return quantization["quant_algo"]
    config = checkpoint.config.get("quantization_config")
    if isinstance(config, dict):
        label = config.get("quant_algo") or config.get("format")
        return label if isinstance(label, str) else None
    return None


def header_suspicions(checkpoint: Checkpoint, weights: dict[str, Weight]) -> dict[str, list[Suspicion]]:
    """Suspicions by weight, without reading codes or block scales."""
    found: dict[str, list[Suspicion]] = {}
    for name, weight in weights.items():
        one = [*weight.suspicions, *_label(checkpoint, weight), *_scale_shape(weight), *_tensor_scale(weight)]
        if one:
            found[name] = one
    return found


def _label(checkpoint: Checkpoint, weight: Weight) -> list[Suspicion]:
    """The label against the bytes."""
    if weight.is_plain and not weight.format.startswith(("f8_", "u8")):
        return []
    label = label_of(checkpoint, weight.name.removesuffix(".weight"))
    wanted = FAMILIES.get(label or "")
    if wanted is None or wanted == family(weight.format) or weight.producer == "gguf":
        return []
    held = "codes" if "codes" in weight.parts else "values"
    return [
        Suspicion(
            "label and bytes disagree",
            f"{quant_method(checkpoint)} says {label}, and the bytes are {family(weight.format).upper()} "
            f"({weight.parts[held].dtype})",
            f"Load it as {weight.format}, or correct the config: an engine that believes it decodes noise.",
        )
    ]


def _scale_shape(weight: Weight) -> list[Suspicion]:
    """Block scales of another shape than the codes need."""
    scales = weight.parts.get("scales")
    block = {"nvfp4": 16, "mxfp4": 32, "mxfp6": 32, "mxfp8": 32}.get(family(weight.format))
    if scales is None or block is None or "swizzled" in weight.format_notes or not weight.shape:
        return []
    wanted = (*weight.shape[:-1], weight.shape[-1] // block)
    if scales.shape == wanted:
        return []
    rows, columns = int(np.prod(wanted[:-1])), wanted[-1]
    tiles = -(-rows // 128) * 128 * -(-columns // 4) * 4
    if scales.size == tiles:
        what = f"{list(scales.shape)} scales are whole tiles of 128 x 4 for {list(wanted)}"
        return [
            Suspicion("scales swizzled", what, "Apply unswizzle_scales (the tensor cores' layout) before decoding.")
        ]
    return [
        Suspicion("scale shape", f"{list(scales.shape)} scales, and the codes need {list(wanted)}", "Export it anew.")
    ]


def tensor_multiplier(weight: Weight) -> float | None:
    """What the stored tensor scale multiplies with, or None without one."""
    stored = scalar(weight.parts.get("tensor_scale"))
    if stored is None:
        return None
    with np.errstate(divide="ignore", over="ignore"):
        return float(np.float32(1) / stored) if weight.producer == "compressed-tensors" else float(stored)


def _tensor_scale(weight: Weight) -> list[Suspicion]:
    """A tensor scale that is missing, no number, or in another convention than its name's."""
    if family(weight.format) != "nvfp4" or weight.format.endswith("1level"):
        return []
    if "tensor_scale" not in weight.parts:
        if weight.producer == "gguf":
            return []
        what = "NVFP4 without its tensor scale: block scales alone decode up to thousands of times too large"
        return [Suspicion("tensor scale missing", what, "Find weight_scale_2 or weight_global_scale in the source.")]
    if weight.parts["tensor_scale"].size != 1:
        count = weight.parts["tensor_scale"].size
        return [Suspicion("several tensor scales", f"{count} numbers for one weight", "Merge them (convert --fuse).")]
    level = tensor_multiplier(weight)
    if level is None or not np.isfinite(level) or level <= 0:
        return [Suspicion("tensor scale is no number", f"it multiplies with {level}", "Export the layer anew.")]
    amax = level * 2688
    if amax > RECIPROCAL_AMAX:
        what = (
            f"it makes the largest weight {amax:.3g}: 2688 / amax is stored where amax / 2688 belongs, or the reverse"
        )
        return [
            Suspicion("tensor scale reciprocal", what, "Store its reciprocal (compressed-tensors keeps 2688 / amax).")
        ]
    if amax > MULTIPLIER_AMAX:
        what = f"it makes the largest weight {amax:.3g}: amax is stored where amax / 2688 belongs"
        return [Suspicion("amax for multiplier", what, "Divide it by 2688.")]
    if 1 / level < 1 / RECIPROCAL_AMAX or amax < 1e-12:
        return [
            Suspicion("tensor scale reciprocal", f"it makes the largest weight {amax:.3g}", "Store its reciprocal.")
        ]
    return []


def fused_groups(weights: dict[str, Weight]) -> dict[str, dict[str, float]]:
    """Groups of layers that engines fuse and whose tensor scales differ: group -> name -> multiplier."""
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for name, weight in weights.items():
        match = re.fullmatch(r"(.*\.)(\w+)\.weight", name)
        level = tensor_multiplier(weight) if family(weight.format) == "nvfp4" else None
        if match and match[2] in FUSED and level is not None:
            groups[match[1] + FUSED[match[2]]][name] = level
    return {group: levels for group, levels in groups.items() if len(set(levels.values())) > 1}


# ---- from the data


def data_suspicions(weight: Weight, packed: PackedTensor, profile: np.ndarray | None) -> list[Suspicion]:
    """Suspicions about one packed weight, from its codes and scales.

    Parameters
    ----------
    profile : float array (in,), optional
        Root mean squares of the columns of unquantized weights with the same inputs; tells the order of nibbles.
    """
    return [*_scale_values(packed), *_swizzled(weight, packed), *_nibble_order(packed, profile)]


def _scale_values(packed: PackedTensor) -> list[Suspicion]:
    scales = packed.decoded_scales()
    found = []
    count = int((~np.isfinite(scales)).sum())
    if count:
        found.append(
            Suspicion("NaN scales", f"{count:,} of {scales.size:,} block scales are NaN or Inf", "Export anew.")
        )
    codes = np.abs(packed.format.element.table[packed.unpacked_codes()]) if packed.format.element else None
    if codes is not None and not packed.format.flat and packed.format.block:
        length = packed.shape[-1] // packed.format.block * packed.format.block
        largest = codes[..., :length].reshape(*codes.shape[:-1], -1, packed.format.block).max(axis=-1)
        zero = (scales[..., : largest.shape[-1]] == 0) & (largest > 0)
        if zero.any():
            what = f"{int(zero.sum()):,} blocks hold codes that are not 0 under a scale of 0"
            found.append(Suspicion("zero scales", what, "They decode to 0: was the tensor scale applied twice?"))
    if packed.tensor_scale is not None and packed.format.rule.scale_element is E4M3:
        top = float(np.nanmax(scales)) if scales.size else 0.0
        if top in (256.0, 384.0):
            what = f"the largest block scale is {top:g}: the scales were made for a cap of 256 (four over six), not 448"
            found.append(
                Suspicion(
                    "448 for 256", what, "Check that the tensor scale is amax / 1536; amax / 2688 is 1.75 too small."
                )
            )
    return found


def _structure(scales: np.ndarray) -> float:
    """The share of the variance of log scales that rows and columns explain."""
    logs = np.log2(np.maximum(scales, 2.0**-9).astype(np.float64))
    total = logs.var()
    return float((logs.mean(axis=1).var() + logs.mean(axis=0).var()) / total) if total > 0 else 0.0


def _swizzled(weight: Weight, packed: PackedTensor) -> list[Suspicion]:
    """Scales that show rows and columns only when read as 128 x 4 tiles."""
    scales = packed.scales
    if scales.ndim != 2 or scales.dtype != np.uint8 or scales.shape[0] % 128 or scales.shape[1] % 4:
        return []
    element = packed.format.rule.scale_element
    with np.errstate(invalid="ignore"):
        as_read = _structure(np.nan_to_num(element.table[scales]))
        unswizzled = _structure(np.nan_to_num(element.table[unswizzle_scales(scales.reshape(-1), scales.shape)]))
    if unswizzled < 1.5 * as_read + 0.1:
        return []
    what = (
        f"rows and columns explain {as_read:.0%} of the scales as they lie, and {unswizzled:.0%} read as 128 x 4 tiles"
    )
    fix = "Apply unswizzle_scales before decoding, or mark them as swizzled."
    return [Suspicion("scales swizzled", what, fix)]


def column_profile(values: np.ndarray) -> np.ndarray:
    """The root mean square of each column, float64 (in,)."""
    rows = values.reshape(-1, values.shape[-1])
    return np.sqrt(np.mean(np.square(rows, dtype=np.float64), axis=0))


def nibble_orders(length: int) -> dict[str, np.ndarray]:
    """What is wrong with the order of nibbles -> where each true element was read."""
    place = np.arange(length)
    orders = {}
    if length % 2 == 0:
        orders["swapped nibbles"] = place ^ 1
    for group in (32, 16):
        if length % group == 0:
            half = place % group
            orders[f"split halves of {group}"] = (
                place - half + np.where(half < group // 2, 2 * half, 2 * half - group + 1)
            )
    return orders


def _nibble_order(packed: PackedTensor, profile: np.ndarray | None) -> list[Suspicion]:
    """Columns that agree with those of other weights only when nibbles are read in another order."""
    if profile is None or packed.format.code_bits != 4 or packed.format.flat or len(profile) < 64:
        return []
    mine, reference = np.log(column_profile(packed.dequantize()) + 1e-30), np.log(profile + 1e-30)
    if mine.std() == 0 or reference.std() == 0:
        return []
    as_read = float(np.corrcoef(mine, reference)[0, 1])
    scores = {
        name: float(np.corrcoef(mine[order], reference)[0, 1]) for name, order in nibble_orders(len(mine)).items()
    }
    name, best = max(scores.items(), key=lambda item: item[1], default=("", -1.0))
    if not (best > 0.35 and best > as_read + 0.25):
        return []
    what = f"its columns agree with those of unquantized weights by {as_read:.2f} as read, by {best:.2f} otherwise"
    return [Suspicion(name, what, "Read its codes in that order; `vbw diff` against the original settles it.")]
