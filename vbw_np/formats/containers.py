"""Producers' containers: the named arrays that they write into a checkpoint, and back.

In memory a `PackedTensor` is always low nibble first with unswizzled scales. `to_container` gives the producer's
own arrays, `from_container` reads them; going through a container loses nothing.

================== ================================================================================================
container          arrays
================== ================================================================================================
te                 `rowwise_data`, `rowwise_scale_inv`, `amax_rowwise`
torchao            `qdata`, `scale`, `per_tensor_scale` (amax / 2688)
modelopt           `weight`, `weight_scale`, `weight_scale_2` (amax / 2688)
compressed-tensors `weight_packed`, `weight_scale`, `weight_global_scale` (2688 / amax)
gguf               `blocks`: MXFP4 17 bytes a block `{e, qs[16]}`; NVFP4 36 bytes per 64 `{d[4], qs[32]}`; split halves
bitsandbytes       `weight` (n / 2, 1), high nibble first; `absmax`
================== ================================================================================================
"""

from __future__ import annotations

import os
import zipfile

import numpy as np

from ..files import write_whole
from .blocks import BlockFormat, get_format, known_format
from .errors import FormatError, ShapeError, unknown_name
from .packed import PackedTensor, layout_shape, scale_shape
from .packing import pack_nibbles, unpack_nibbles

_NAMES = {
    "te": ("rowwise_data", "rowwise_scale_inv", "amax_rowwise"),
    "torchao": ("qdata", "scale", "per_tensor_scale"),
    "modelopt": ("weight", "weight_scale", "weight_scale_2"),
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_global_scale"),
}
CONTAINERS = (*_NAMES, "gguf", "bitsandbytes")


def convert_level(value: np.float32, have: str, want: str) -> np.float32:
    """Convert a tensor-level number between conventions: `amax`, `multiplier` (amax / 2688), `reciprocal`."""
    conventions = ("amax", "multiplier", "reciprocal")
    for name in (have, want):
        if name not in conventions:
            raise unknown_name("tensor-scale convention", name, conventions)
    if have == want:
        return np.float32(value)
    level = np.float32(2688)
    with np.errstate(divide="ignore", over="ignore"):
        if "amax" not in (have, want):
            return np.float32(1) / np.float32(value)
        if "reciprocal" in (have, want):
            return level / np.float32(value)
        return np.float32(value) / level if want == "multiplier" else np.float32(value) * level


def level_convention(container: str) -> str:
    """What the tensor-level number of a container is."""
    return {"te": "amax", "compressed-tensors": "reciprocal"}.get(container, "multiplier")


def _stored_convention(fmt: BlockFormat) -> str:
    if fmt.rule.name.startswith("te"):
        return "amax"
    return "reciprocal" if fmt.rule.name.startswith("compressed-tensors") else "multiplier"


def to_container(packed: PackedTensor, container: str) -> dict[str, np.ndarray]:
    """The arrays that a producer would write.

    A tensor-level number that the tensor's own profile stored in the container's convention is written as it is;
    otherwise it is converted (one float32 rounding).
    """
    if container not in CONTAINERS:
        raise unknown_name("container", container, CONTAINERS)
    if packed.fine is not None or packed.signs is not None:
        raise FormatError(f"no producer's container holds {packed.format.name}; take packed.coarse() first")
    if container == "gguf":
        return {"blocks": _gguf_blocks(packed)}
    if container == "bitsandbytes":
        return _bitsandbytes_arrays(packed)
    codes, scales, level = _NAMES[container]
    arrays = {codes: packed.codes, scales: packed.scales}
    if packed.stored_scale is not None:
        arrays[level] = np.asarray(
            convert_level(packed.stored_scale, _stored_convention(packed.format), level_convention(container)),
            np.float32,
        ).reshape(1)
    return arrays


def from_container(
    arrays: dict[str, np.ndarray], container: str, shape: tuple[int, ...], format: str | BlockFormat
) -> PackedTensor:
    """Read a producer's arrays into a packed tensor of that logical shape and format."""
    if container not in CONTAINERS:
        raise unknown_name("container", container, CONTAINERS)
    fmt = known_format(format) if isinstance(format, str) else get_format(format)
    if container == "gguf":
        return _from_gguf(arrays["blocks"], shape, fmt)
    if container == "bitsandbytes":
        flat = layout_shape(shape, fmt)
        codes = unpack_nibbles(arrays["weight"].reshape(-1), int(np.prod(shape)), "high_first")
        scales = arrays["absmax"].reshape(scale_shape(shape, fmt))
        return PackedTensor(codes=pack_nibbles(codes.reshape(flat)), scales=scales, shape=shape, format=fmt)
    codes_name, scales_name, level = _NAMES[container]
    missing = [n for n in (codes_name, scales_name) if n not in arrays]
    if missing or (fmt.tensor_level != "none" and level not in arrays):
        raise FormatError(f"a {container} container of {fmt.name} needs {missing or [level]}; it has {sorted(arrays)}")
    stored = tensor = None
    if fmt.tensor_level != "none":
        value = np.float32(np.asarray(arrays[level]).reshape(-1)[0])
        stored = convert_level(value, level_convention(container), _stored_convention(fmt))
        tensor = np.float32(fmt.rule.multiplier(stored))
    return PackedTensor(
        codes=arrays[codes_name],
        scales=arrays[scales_name],
        shape=shape,
        format=fmt,
        tensor_scale=tensor,
        stored_scale=stored,
    )


def _gguf_groups(fmt: BlockFormat, shape: tuple[int, ...]) -> int:
    """Scales per GGUF block: 1 for MXFP4 (32 elements), 4 for NVFP4 (64 elements)."""
    if fmt.block not in (16, 32) or fmt.rule.scale_element is None:
        raise FormatError(f"GGUF has block types for MXFP4 and NVFP4, not for {fmt.name}")
    elements = 32 if fmt.block == 32 else 64
    if shape[-1] % elements:
        raise ShapeError(f"GGUF blocks hold {elements} elements: the last axis, {shape[-1]}, must be a multiple")
    return elements // fmt.block


def _gguf_blocks(packed: PackedTensor) -> np.ndarray:
    fmt, groups = packed.format, _gguf_groups(packed.format, packed.shape)
    halves = pack_nibbles(packed.unpacked_codes(), "split_half", fmt.block).reshape(-1, groups * fmt.block // 2)
    return np.concatenate([packed.scales.reshape(-1, groups), halves], axis=1)


def _from_gguf(blocks: np.ndarray, shape: tuple[int, ...], fmt: BlockFormat) -> PackedTensor:
    groups = _gguf_groups(fmt, shape)
    width = groups + groups * fmt.block // 2
    count = int(np.prod(shape)) // (groups * fmt.block)
    if blocks.dtype != np.uint8 or blocks.size != count * width:
        raise ShapeError(
            f"GGUF {fmt.name} of shape {shape} is {count} blocks of {width} uint8, {count * width} bytes; "
            f"got {blocks.size} of {blocks.dtype.name}"
        )
    blocks = blocks.reshape(count, width)
    codes = unpack_nibbles(blocks[:, groups:].reshape(*shape[:-1], -1), shape[-1], "split_half", fmt.block)
    scales = np.ascontiguousarray(blocks[:, :groups]).reshape(scale_shape(shape, fmt))
    return PackedTensor(codes=pack_nibbles(codes), scales=scales, shape=shape, format=fmt)


def _bitsandbytes_arrays(packed: PackedTensor) -> dict[str, np.ndarray]:
    if not packed.format.flat:
        raise FormatError(
            f"bitsandbytes' blocks run over the flattened array; quantize with its profile, not as {packed.format.name}"
        )
    codes = packed.unpacked_codes().reshape(-1)
    if codes.size % 2:  # the library pads with the number 0, whose code need not be 0
        codes = np.append(codes, packed.format.element.encode(np.zeros(1, np.float32), packed.format.ties))
    return {"weight": pack_nibbles(codes, "high_first").reshape(-1, 1), "absmax": packed.scales.reshape(-1)}


_PARTS = (
    "codes",
    "scales",
    "tensor_scale",
    "stored_scale",
    "fine",
    "fine_scales",
    "fine_tensor_scale",
    "signs",
    "codebook",
    "planes",
    "allow_nan",
    "offsets",
)


def save_packed(packed: PackedTensor, path: str | os.PathLike[str]) -> None:
    """Write a packed tensor to an .npz file, whole or not at all: its parts, and the name of its format.

    Raises
    ------
    FormatError
        If its format is in no registry, so that its name would not bring it back.
    """
    packed.format.__reduce__()
    arrays = {n: np.asarray(getattr(packed, n)) for n in _PARTS if getattr(packed, n) is not None}
    arrays |= {"shape": np.array(packed.shape), "format": np.array(packed.format.name)}
    write_whole(path, lambda file: np.savez(file, **arrays))


def load_packed(path: str | os.PathLike[str]) -> PackedTensor:
    """Read what `save_packed` wrote; every part is checked."""
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = {name: file[name] for name in file.files}
        known = {name: parts.pop(name) for name in _PARTS if name in parts}
        shape, name = parts.pop("shape"), str(parts.pop("format"))
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(
            f"{path} is not a packed tensor ({error}); save_packed or `vbw quantize --out` writes one"
        ) from error
    missing = [n for n in ("codes", "scales") if n not in known]
    if missing:
        raise FormatError(f"{path} is not a whole packed tensor: {' and '.join(missing)} missing; write it again")
    for level in ("tensor_scale", "stored_scale", "fine_tensor_scale"):
        if level in known and known[level].ndim == 0:
            known[level] = np.float32(known[level])
    planes, allow_nan = int(known.pop("planes", 0)), bool(known.pop("allow_nan", False))
    return PackedTensor(
        shape=tuple(int(n) for n in shape), format=known_format(name), planes=planes, allow_nan=allow_nan, **known
    )
