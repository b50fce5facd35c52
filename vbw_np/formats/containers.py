"""Producers' containers: the named arrays that they write into a checkpoint, and back.

In memory a `PackedTensor` is always low nibble first with unswizzled scales. `to_container` gives the producer's
own arrays, `from_container` reads them. What a container cannot hold is refused by name: going through one loses
nothing. A reader multiplies in its own order, so that two producers' readers of the same arrays may differ in the last
bit of a value (`BlockFormat.decode_order`).

================== ================================================================================================
container          arrays
================== ================================================================================================
te                 `rowwise_data`, `rowwise_scale_inv`, `amax_rowwise`: NVFP4
torchao            `qdata`, `scale`, `per_tensor_scale` (amax / 2688): NVFP4, MXFP4, MXFP8, MXFP6 (a byte a code)
modelopt           `weight`, `weight_scale`, `weight_scale_2` (amax / 2688): NVFP4, MXFP4, MXFP8
compressed-tensors `weight_packed`, `weight_scale`, `weight_global_scale` (2688 / amax): NVFP4, MXFP4
gguf               `blocks`: MXFP4, NVFP4, Q4_0, Q4_1, Q8_0; `scale` (amax / 2688) beside NVFP4, as `<name>.scale`
bitsandbytes       `weight` (n / 2, 1), high nibble first; `absmax`: NF4, FP4
================== ================================================================================================

2688 is 6 * 448, the range of the scale rule; with scales up to 256 (four over six) it is 1536.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace

import numpy as np

from ..files import write_whole
from .blocks import BlockFormat, get_format, known_format
from .codebooks import BNB_FP4, NF4
from .elements import E2M1, E2M3, E3M2, E4M3, E5M2, E8M0
from .errors import DtypeError, FormatError, ScaleError, ShapeError, unknown_name
from .ggml import BY_NAME
from .ggml_blocks import WRITTEN, block_type_of, from_blocks_of, to_blocks_of
from .packed import PackedTensor, as_shape, check_shape, layout_shape, scale_shape
from .packing import pack_codes, pack_nibbles, unpack_nibbles

_NAMES = {
    "te": ("rowwise_data", "rowwise_scale_inv", "amax_rowwise"),
    "torchao": ("qdata", "scale", "per_tensor_scale"),
    "modelopt": ("weight", "weight_scale", "weight_scale_2"),
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_global_scale"),
    "gguf": ("blocks", "", "scale"),
    "bitsandbytes": ("weight", "absmax", ""),
}
CONTAINERS = tuple(_NAMES)
_HOLDS = {
    "te": ("NVFP4",),
    "torchao": ("NVFP4", "MXFP4", "MXFP8", "MXFP6"),
    "modelopt": ("NVFP4", "MXFP4", "MXFP8"),
    "compressed-tensors": ("NVFP4", "MXFP4"),
    "gguf": WRITTEN,
    "bitsandbytes": ("NF4", "FP4"),
}
_CONVENTIONS = ("amax", "multiplier", "reciprocal")


def convert_level(value: np.float32, have: str, want: str, range: float = 2688.0) -> np.float32:
    """Convert a tensor-level number between conventions: `amax`, `multiplier` (amax / range), `reciprocal`."""
    for name in (have, want):
        if name not in _CONVENTIONS:
            raise unknown_name("tensor-scale convention", name, _CONVENTIONS)
    if have == want:
        return np.float32(value)
    level = np.float32(range)
    with np.errstate(divide="ignore", over="ignore"):
        if "amax" not in (have, want):
            return np.float32(1) / np.float32(value)
        if "reciprocal" in (have, want):
            return level / np.float32(value)
        return np.float32(value) / level if want == "multiplier" else np.float32(value) * level


def level_convention(container: str) -> str:
    """What the tensor-level number of a container is."""
    return {"te": "amax", "compressed-tensors": "reciprocal"}.get(container, "multiplier")


def level_name(container: str) -> str:
    """The array of a container that holds its tensor-level number; empty if there is none."""
    return _NAMES[container][2]


def stored_convention(fmt: BlockFormat) -> str:
    """What a format's `stored_scale` is, as its rule's multiplier shows."""
    return fmt.rule.convention


# ---- what holds what


def _kind_of(fmt: BlockFormat) -> str | None:
    """The kind of bytes that a format's codes and block scales are, or None for those of no container."""
    if fmt.rule.scale_element is None:
        if fmt.element is None or fmt.offset != "none" or fmt.block is None or fmt.rule.affine is not None:
            return None
        tables = {"NF4": NF4.table, "FP4": BNB_FP4.table}
        return next((kind for kind, table in tables.items() if np.array_equal(fmt.element.table, table)), None)
    element = {E2M1.name: "FP4", E4M3.name: "FP8", E5M2.name: "FP8", E2M3.name: "FP6", E3M2.name: "FP6"}
    element = element.get(fmt.element.name if fmt.element else "")
    if element == "FP4" and fmt.block == 16 and fmt.rule.scale_element is E4M3:
        return "NVFP4"
    return f"MX{element}" if element and fmt.block == 32 and fmt.rule.scale_element is E8M0 else None


def why_not(fmt: BlockFormat, container: str) -> str | None:
    """Why a container cannot hold tensors of a format, or None if it can."""
    if container not in CONTAINERS:
        raise unknown_name("container", container, CONTAINERS)
    holds = ", ".join(_HOLDS[container])
    if fmt.quantile_codebook:
        return f"its levels, signs and residual have no place there; {container} holds {holds}"
    if (block_type_of(fmt) if container == "gguf" else _kind_of(fmt)) not in _HOLDS[container]:
        scale = fmt.rule.scale_element.name if fmt.rule.scale_element else "float32"
        return f"{fmt.element.name} under {scale} scales per {fmt.block or 'row'} is none of {holds}"
    if fmt.tensor_level == "row":
        return f"it has one tensor-level number a row, and {container} holds one a tensor"
    return None


def _check_holds(fmt: BlockFormat, shape: tuple[int, ...], container: str) -> None:
    reason = why_not(fmt, container)
    if reason is not None:
        raise FormatError(f"a {container} container cannot hold {fmt.name}: {reason}")
    block = BY_NAME[block_type_of(fmt)].elements if container == "gguf" else fmt.block
    if not fmt.flat and shape[-1] % block:
        raise ShapeError(
            f"a {container} container holds whole blocks of {block}: the last axis, {shape[-1]}, must be a multiple"
        )


# ---- writing


def to_container(packed: PackedTensor, container: str) -> dict[str, np.ndarray]:
    """The arrays that a producer would write.

    A tensor-level number that the tensor's own profile stored in the container's convention is written as it is;
    otherwise it is converted (one float32 rounding). A format of one level gets the number that multiplies by 1, where
    the container always has one; so does a tensor of zeros, where the container holds a reciprocal.

    Raises
    ------
    FormatError, ScaleError
        If the container's readers would not get the tensor's values.
    """
    fmt = packed.format
    reason = why_not(fmt, container)
    if packed.fine is not None and reason is None:
        raise FormatError(f"no producer's container holds the fine tier of {fmt.name}; take packed.coarse() first")
    _check_holds(fmt, packed.shape, container)
    level = level_name(container)
    arrays = _bytes_for(packed, container)
    if fmt.tensor_level != "none":
        have, value = _level_to_write(packed)
        if level_convention(container) == "reciprocal" and _is_zero_under_any_level(packed):
            have, value = "multiplier", np.float32(1)
        arrays[level] = convert_level(value, have, level_convention(container), fmt.rule.range).reshape(1)
    elif _kind_of(fmt) == "NVFP4" and container in ("te", "modelopt", "compressed-tensors"):
        arrays[level] = convert_level(np.float32(1), "multiplier", level_convention(container)).reshape(1)
    if level in arrays:
        value = _checked_level(arrays[level], level, container)
        if container == "te" and fmt.decode_order != "amax-first":
            _check_amax_first(packed, value)
    return arrays


def _check_amax_first(packed: PackedTensor, amax: np.float32) -> None:
    """Raise where TransformerEngine's reader, which multiplies block scales with amax first, would get Inf."""
    with np.errstate(over="ignore"):
        if not np.isfinite(np.nanmax(packed.decoded_scales(), initial=0) * amax):
            raise ScaleError(
                f"a te container cannot hold this {packed.format.name} tensor: its readers multiply a block scale with "
                f"amax_rowwise, {float(amax):g}, before they divide, which overflows float32; scale the tensor down"
            )


def _level_to_write(packed: PackedTensor) -> tuple[str, np.float32]:
    """The tensor-level number that a reader decodes with as we do, and its convention: what was stored, or else what we
    multiply with, where that is not what the stored number alone says (`te_multiplier` near float32's ends)."""
    fmt, stored = packed.format, packed.stored_scale
    if stored is not None:
        said = convert_level(stored, stored_convention(fmt), "multiplier", fmt.rule.range)
        if fmt.decode_order in ("divide", "amax-first") or said == packed.tensor_scale or np.isnan(said):
            return stored_convention(fmt), stored
    return "multiplier", packed.tensor_scale


def _is_zero_under_any_level(packed: PackedTensor) -> bool:
    """Whether the tensor scale is 0 and multiplies only zeros: any number in its place gives the same values."""
    if packed.tensor_scale != 0:
        return False
    return not replace(packed, tensor_scale=np.float32(1), stored_scale=None).dequantize().any()


def _bytes_for(packed: PackedTensor, container: str) -> dict[str, np.ndarray]:
    """Codes and block scales as the container lays them out."""
    if container == "gguf":
        coded = packed.format.decode_order != "halves" and packed.format.rule.affine is None  # float16 holds NaN
        if coded and np.isnan(packed.decoded_scales()).any():
            raise ScaleError(f"GGUF has no NaN scales, and this {packed.format.name} tensor has some")
        kind, data = to_blocks_of(packed)
        return {"blocks": data.reshape(-1, BY_NAME[kind].bytes)}
    if container == "bitsandbytes":
        return _bitsandbytes_arrays(packed)
    codes, scales, _ = _NAMES[container]
    return {codes: packed.unpacked_codes() if packed.format.code_bits == 6 else packed.codes, scales: packed.scales}


def _bitsandbytes_arrays(packed: PackedTensor) -> dict[str, np.ndarray]:
    codes = packed.unpacked_codes().reshape(-1)
    if codes.size % 2:  # the library pads with the number 0, whose code need not be 0
        codes = np.append(codes, packed.format.element.encode(np.zeros(1, np.float32), packed.format.ties))
    return {"weight": pack_nibbles(codes, "high_first").reshape(-1, 1), "absmax": packed.scales.reshape(-1)}


# ---- reading


def from_container(
    arrays: dict[str, np.ndarray],
    container: str,
    shape: tuple[int, ...],
    format: str | BlockFormat,
    *,
    allow_nan: bool = False,
) -> PackedTensor:
    """Read a producer's arrays into a packed tensor of that logical shape and format.

    Parameters
    ----------
    arrays : dict of str to ndarray
        As `to_container` gives them.
    container : one of `CONTAINERS`
    shape : tuple of int
        The logical shape (..., K).
    format : str or BlockFormat
    allow_nan : bool
        Whether NaN block scales are accepted, as some producers write for a tensor of zeros.

    Raises
    ------
    FormatError, ShapeError, DtypeError
        If the container does not hold that format, or an array is missing or of another shape or dtype.
    ScaleError
        If the tensor-level number is not one positive finite number. Several of them, one for each layer that was
        fused, are merged on purpose by `merge_fused`.
    """
    fmt, shape = known_format(format) if isinstance(format, str) else get_format(format), as_shape(shape)
    check_shape(shape, fmt)
    _check_holds(fmt, shape, container)
    needed = [n for n in _NAMES[container][:2] if n]
    level = level_name(container)
    if fmt.tensor_level != "none":
        needed.append(level)
    missing = [n for n in needed if n not in arrays]
    if missing:
        raise FormatError(f"a {container} container of {fmt.name} needs {missing}; it has {sorted(arrays)}")
    for name in needed[:2] if container != "gguf" else needed[:1]:
        if not isinstance(arrays[name], np.ndarray):
            raise DtypeError(f"{name} of a {container} container must be an array, got {type(arrays[name]).__name__}")
    stored = tensor = None
    if level in arrays:
        value = _checked_level(arrays[level], level, container)
        if fmt.tensor_level == "none":
            _check_is_one(value, level, container, fmt)
        else:
            stored = convert_level(value, level_convention(container), stored_convention(fmt), fmt.rule.range)
            tensor = np.float32(fmt.rule.multiplier(stored))
    return PackedTensor(
        **_read_bytes(arrays, container, shape, fmt),
        shape=shape,
        format=fmt,
        tensor_scale=tensor,
        stored_scale=stored,
        allow_nan=allow_nan,
    )


def _checked_level(array: np.ndarray, name: str, container: str) -> np.float32:
    """The one number of a tensor level, checked."""
    values = np.asarray(array).reshape(-1)
    if values.dtype.kind != "f" and values.dtype.name != "bfloat16":
        raise DtypeError(f"{name} of a {container} container must be a float array, got {values.dtype.name}")
    if values.size == 0:
        raise ScaleError(f"{name} of a {container} container is empty; it must hold one number")
    if values.size > 1:
        raise ScaleError(
            f"{name} of a {container} container holds {values.size} numbers, as layers that were fused have; "
            "merge_fused(...) gives them one common scale and says what that loses"
        )
    value = np.float32(values[0])
    if not np.isfinite(value) or np.signbit(value) or (value == 0 and level_convention(container) == "reciprocal"):
        raise ScaleError(f"{name} of a {container} container is {float(value)}; it must be a finite positive number")
    return value


def _check_is_one(value: np.float32, name: str, container: str, fmt: BlockFormat) -> None:
    if convert_level(value, level_convention(container), "multiplier") != 1:
        raise ScaleError(
            f"{name} is {float(value):g}, and {fmt.name} has no tensor level to keep it in; read it as a format with "
            "one (nvfp4)"
        )


def _read_bytes(
    arrays: dict[str, np.ndarray], container: str, shape: tuple[int, ...], fmt: BlockFormat
) -> dict[str, np.ndarray | None]:
    """Codes, block scales, and with GGUF's offsets and headers, in this package's layout."""
    if container == "gguf":
        blocks = arrays["blocks"]
        if blocks.dtype != np.uint8:
            raise DtypeError(f"GGUF blocks must be a uint8 array, got {blocks.dtype.name}")
        kind = block_type_of(fmt)
        if not blocks.ndim or blocks.shape[-1] % BY_NAME[kind].bytes:
            raise ShapeError(f"GGUF blocks of {kind} have {BY_NAME[kind].bytes} bytes each; got shape {blocks.shape}")
        packed = from_blocks_of(blocks.reshape(-1), kind, shape)
        return {part: getattr(packed, part) for part in ("codes", "scales", "offsets", "headers")}
    codes_name, scales_name, _ = _NAMES[container]
    codes, scales = arrays[codes_name], arrays[scales_name]
    if container == "bitsandbytes":
        codes = unpack_nibbles(codes.reshape(-1), int(np.prod(shape)), "high_first")
        expected = scale_shape(shape, fmt)
        if scales.size != int(np.prod(expected)):
            raise ShapeError(f"absmax holds {scales.size} numbers; {fmt.name} of shape {shape} has {expected} blocks")
        return {"codes": pack_nibbles(codes.reshape(layout_shape(shape, fmt))), "scales": scales.reshape(expected)}
    if fmt.code_bits == 6:
        if codes.shape != tuple(shape):
            raise ShapeError(f"{codes_name} has shape {codes.shape}; MXFP6 takes a byte a code there: {tuple(shape)}")
        codes = pack_codes(codes, 6)
    return {"codes": codes, "scales": scales}


# ---- files


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
    "headers",
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


def _check_unpacked_size(path: str | os.PathLike[str]) -> None:
    """Raise if the parts say that they are larger than the file: `save_packed` compresses nothing."""
    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        claimed = sum(part.file_size for part in archive.infolist())
    if claimed > size:
        raise ValueError(f"its parts would unpack to {claimed:,} bytes, from a file of {size:,}")


def load_packed(path: str | os.PathLike[str]) -> PackedTensor:
    """Read what `save_packed` wrote; every part is checked, and nothing is unpacked that is larger than the file."""
    try:
        _check_unpacked_size(path)
        with np.load(path, allow_pickle=False) as file:
            parts = {name: file[name] for name in file.files}
        known = {name: parts.pop(name) for name in _PARTS if name in parts}
        shape, name = parts.pop("shape"), str(parts.pop("format"))
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(
            f"{path} is not a packed tensor ({error}); save_packed or `vbw quantize --out` writes one"
        ) from error
    fmt = _checked_format(path, name)
    dims = _checked_part(path, "shape", shape, None, "iu").reshape(-1)
    dims = tuple(int(n) for n in dims)
    check_shape(dims, fmt)
    for part, (expected, kinds, needed) in _expected_parts(dims, fmt, known).items():
        if part in known:
            known[part] = _checked_part(path, part, known[part], expected, kinds)
        elif needed:
            raise FormatError(f"{path} is not a whole packed tensor: {part} missing; write it again")
    for level in ("tensor_scale", "stored_scale", "fine_tensor_scale"):
        if level in known and known[level].ndim == 0:
            known[level] = np.float32(known[level])
    planes, allow_nan = int(known.pop("planes", 0)), bool(known.pop("allow_nan", False))
    return PackedTensor(shape=dims, format=fmt, planes=planes, allow_nan=allow_nan, **known)


def _checked_format(path: str | os.PathLike[str], name: str) -> BlockFormat:
    try:
        return known_format(name)
    except FormatError as error:
        raise FormatError(f"{path} is not a packed tensor that can be read: {error}") from error


_Expected = tuple[tuple[int, ...] | None, str, bool]


def _expected_parts(shape: tuple[int, ...], fmt: BlockFormat, known: dict[str, np.ndarray]) -> dict[str, _Expected]:
    """Shape (None: `PackedTensor` checks it), kinds of dtype, and whether it must be there, of each part of a file."""
    level = (*shape[:-1], 1) if fmt.tensor_level == "row" else ()
    fine = fmt.fine if "fine" in known else None
    own = fine is not None and fine.kind == "own"
    return {
        "codes": (None, "u", True),
        "scales": (None, "uf", True),
        "planes": ((), "iu", fine is not None),
        "allow_nan": ((), "b", False),
        "tensor_scale": (level, "f", fmt.tensor_level != "none"),
        "stored_scale": (level, "f", False),
        "codebook": ((16,), "f", fmt.quantile_codebook),
        "signs": (None, "u", fmt.quantile_codebook),
        "fine_scales": (scale_shape(shape, fmt), "uf", own),
        "fine_tensor_scale": ((), "f", own and fine.scale != "float32"),
    }


def _checked_part(
    path: str | os.PathLike[str], name: str, array: np.ndarray, shape: tuple[int, ...] | None, kinds: str
) -> np.ndarray:
    if array.dtype.kind not in kinds or (shape is not None and array.shape != shape):
        wanted = "" if shape is None else f" of shape {shape}"
        raise FormatError(
            f"{path} is not a packed tensor: its {name} is {array.dtype.name} of shape {array.shape}, not "
            f"{' or '.join(_KINDS[kind] for kind in kinds)}{wanted}"
        )
    return array


_KINDS = {"i": "integers", "u": "unsigned integers", "f": "floats", "b": "a boolean"}
