"""Recognise who wrote what: from names, dtypes, shapes and configs, tensor by tensor, since real files are mixed.

Shapes and dtypes decide what the bytes are; a config only says whose they are and is held against them (a label that
the bytes contradict is a `Suspicion`). What no rule fits stays a plain tensor.

================== ====================================================================================================
producer           a module's tensors
================== ====================================================================================================
modelopt           `weight` U8, `weight_scale` F8_E4M3, `weight_scale_2` F32; FP8: `weight` F8_E4M3, `weight_scale` F32
compressed-tensors `weight_packed` U8 or I32, `weight_scale`, `weight_global_scale`, `weight_shape`, `weight_zero_point`
torchao            `_weight_qdata`, `_weight_scale`, `_weight_per_tensor_scale`; JSON in the file's metadata
bitsandbytes       `weight` U8 (n / 2, 1), `weight.absmax`, `weight.quant_map`, `weight.quant_state.bitsandbytes__*`
gpt-oss            `*_blocks` U8 (..., groups, 16), `*_scales` U8 (..., groups); also `.blocks` and `.scales`
awq, gptq          `qweight` I32, `qzeros` I32, `scales` F16, `g_idx` I32
fp8                `weight` F8_E4M3, `weight_scale_inv` F32 (out / 128, in / 128): DeepSeek's
gguf               block types; NVFP4 with `<name>.scale`
================== ====================================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..formats.ggml_blocks import FORMAT_OF as GGUF_FORMATS
from . import layouts
from .errors import CheckpointError, parts_of
from .opening import Checkpoint
from .safetensors import parse_json
from .stored import StoredTensor
from .weights import Suspicion, Weight, plain

QUANTIZED = {"U8", "I8", "F8_E4M3", "F8_E5M2", "I32", "F4"}


class _Module:
    """The stored tensors of one module, taken one by one."""

    def __init__(self, checkpoint: Checkpoint, prefix: str, taken: set[str]) -> None:
        self.checkpoint, self.prefix, self.taken = checkpoint, prefix, taken

    def get(self, suffix: str) -> StoredTensor | None:
        """The tensor of that suffix, if it is there and not part of another weight."""
        name = self.prefix + suffix
        return self.checkpoint.tensors.get(name) if name not in self.taken else None

    def parts(self, **suffixes: str) -> dict[str, StoredTensor]:
        """Role -> tensor for those that are there; they are taken."""
        found = {role: self.get(suffix) for role, suffix in suffixes.items()}
        parts = {role: tensor for role, tensor in found.items() if tensor is not None}
        self.taken.update(tensor.name for tensor in parts.values())
        return parts


def find_weights(checkpoint: Checkpoint) -> dict[str, Weight]:
    """Every weight of a checkpoint by its name, in the order of the file.

    Raises
    ------
    CheckpointError
        Where parts of one weight contradict each other so that no reading is right.
    """
    if checkpoint.kind == "gguf":
        return _gguf_weights(checkpoint)
    taken: set[str] = set()
    found: dict[str, Weight] = {}
    for weight in (*_torchao_weights(checkpoint, taken), *_bitsandbytes_weights(checkpoint, taken)):
        found[weight.name] = weight
    for name in checkpoint:
        if name in taken:
            continue
        weight = _recognised(checkpoint, name, taken)
        if weight is not None:
            found[weight.name] = weight
    for name in checkpoint:
        if name not in taken and name not in found:
            found[name] = plain(checkpoint[name])
    order = {name: i for i, name in enumerate(checkpoint)}
    return dict(sorted(found.items(), key=lambda item: min(order[part.name] for part in item[1].parts.values())))


def _recognised(checkpoint: Checkpoint, name: str, taken: set[str]) -> Weight | None:
    """The weight whose codes the tensor of that name holds, or None."""
    for suffix, make in (
        (".qweight", _int4_weight),
        (".weight_packed", _packed_weight),
        (".weight", _scaled_weight),
        ("_blocks", _gpt_oss_weight),
        (".blocks", _gpt_oss_weight),
    ):
        if name.endswith(suffix):
            with parts_of(name):
                weight = make(_Module(checkpoint, name.removesuffix(suffix), taken))
            if weight is not None:
                return weight
    return None


def quant_method(checkpoint: Checkpoint) -> str:
    """Whose the config says the quantized tensors are: `modelopt`, `compressed-tensors`, ...; empty if it is silent."""
    config = checkpoint.config.get("quantization_config")
    if isinstance(config, dict) and isinstance(config.get("quant_method"), str):
        return config["quant_method"]
    return "modelopt" if checkpoint.quant_config else ""


def _wrong_shape(name: str, codes: StoredTensor, scales: StoredTensor) -> CheckpointError:
    return CheckpointError(
        f"{name}: codes {codes.dtype} {list(codes.shape)} and scales {scales.dtype} {list(scales.shape)} fit no layout "
        "that is known"
    )


# ---- GGUF


def _gguf_weights(checkpoint: Checkpoint) -> dict[str, Weight]:
    """Block types are weights by themselves; an NVFP4 one may have its tensor scale in `<name>.scale` beside it."""
    found: dict[str, Weight] = {}
    taken: set[str] = set()
    for name, tensor in checkpoint.tensors.items():
        if not tensor.is_block_type:
            continue
        parts = {"blocks": tensor}
        if tensor.dtype == "NVFP4":
            module = _Module(checkpoint, name.removesuffix(".weight"), taken)
            parts |= module.parts(tensor_scale=".scale", input_scale=".input_scale")
        known = tensor.dtype in GGUF_FORMATS and "tensor_scale" not in parts
        fmt = GGUF_FORMATS.get(tensor.dtype, tensor.dtype.lower())
        unpack = layouts.unpack_gguf if known else layouts.unpack_gguf_nvfp4 if "tensor_scale" in parts else None
        found[name] = Weight(name, tensor.shape, fmt, "gguf", parts, unpack, layouts.decode_gguf)
    names = (name for name in checkpoint if name not in taken)
    return {name: found.get(name) or plain(checkpoint[name]) for name in names}


# ---- torchao


TORCHAO_MX = {"float4_e2m1fn_x2": "mxfp4", "float8_e4m3fn": "mxfp8-e4m3", "float8_e5m2": "mxfp8-e5m2"}


def _torchao_weights(checkpoint: Checkpoint, taken: set[str]) -> Iterator[Weight]:
    """What the metadata's JSON describes."""
    for name, text in checkpoint.metadata.items():
        if "." not in name or not text.startswith("{"):
            continue
        try:
            about = parse_json(text.encode("utf-8", "surrogateescape"))
        except ValueError:
            continue
        if isinstance(about, dict) and str(about.get("_type", "")).endswith("Tensor") and "_tensor_data_names" in about:
            with parts_of(name):
                weight = _torchao_weight(checkpoint, name, about, taken)
            if weight is not None:
                yield weight


def _torchao_weight(checkpoint: Checkpoint, name: str, about: dict[str, Any], taken: set[str]) -> Weight | None:
    module, last = name.rsplit(".", 1)
    kind, data = about["_type"], about.get("_data", {})
    if kind not in ("NVFP4Tensor", "MXTensor", "Float8Tensor", "Int8Tensor") or not isinstance(data, dict):
        return None
    parts = _Module(checkpoint, f"{module}._{last}_", taken).parts(
        codes="qdata", scales="scale", tensor_scale="per_tensor_scale", zeros="zero_point",
        input_scale="act_per_tensor_scale",
    )  # fmt: skip
    if "codes" not in parts or "scales" not in parts:
        raise CheckpointError(f"{name}: the metadata names a {kind}, and its qdata or scale is missing")
    dtype = data.get("orig_dtype", data.get("dtype", {}))
    dtype = dtype.get("_data", "float32") if isinstance(dtype, dict) else "float32"
    codes, shape = parts["codes"], parts["codes"].shape
    notes = ("swizzled",) if data.get("is_swizzled_scales") else ()
    decode = None
    if kind == "NVFP4Tensor":
        shape = (*shape[:-1], 2 * shape[-1])
        fmt = "torchao-0.18-nvfp4" if "tensor_scale" in parts else "torchao-0.18-nvfp4-1level"
        unpack = layouts.unpack_nvfp4
    elif kind == "MXTensor":
        element = data.get("elem_dtype", {})
        fmt = TORCHAO_MX.get(element.get("_data") if isinstance(element, dict) else "", "")
        if not fmt:
            return Weight(name, shape, "unknown", "torchao", parts, suspicions=(_unknown(element),))
        shape = (*shape[:-1], 2 * shape[-1]) if fmt == "mxfp4" else shape
        unpack = layouts.unpack_mx
    else:
        fmt, unpack = _scaled_format(codes, parts["scales"]), layouts.unpack_scaled
        if "zeros" in parts:
            decode = layouts.decode_int8_zero
    return Weight(name, shape, fmt, "torchao", parts, unpack, decode, dtype, notes)


def _unknown(what: Any) -> Suspicion:
    return Suspicion("unknown element", f"elements are {json.dumps(what)[:80]}", "It is listed and not decoded.")


# ---- bitsandbytes


def _bitsandbytes_weights(checkpoint: Checkpoint, taken: set[str]) -> Iterator[Weight]:
    """A tensor of JSON names each weight's state."""
    mark = ".quant_state.bitsandbytes__"
    for full in checkpoint:
        name, found, kind = full.rpartition(mark)
        if not found or name not in checkpoint:
            continue
        state = layouts.quant_state(checkpoint[full])
        shape = state["shape"]
        if (
            not isinstance(shape, list)
            or not all(type(n) is int and n > 0 for n in shape)
            or kind not in ("nf4", "fp4")
        ):
            raise CheckpointError(f"{full} describes no weight that is known: {kind}, shape {str(shape)[:60]}")
        parts = _Module(checkpoint, name, taken).parts(
            codes="", absmax=".absmax", map=".quant_map", nested_absmax=".nested_absmax",
            nested_map=".nested_quant_map", state=mark + kind,
        )  # fmt: skip
        dtype = str(state.get("dtype", "float32"))
        yield Weight(
            name, tuple(shape), f"bitsandbytes-{kind}", "bitsandbytes", parts, layouts.unpack_bitsandbytes, None, dtype
        )


# ---- gpt-oss


def _gpt_oss_weight(module: _Module) -> Weight | None:
    """Blocks of 32 E2M1 codes (16 bytes), one E8M0 byte each."""
    mark = "_" if module.get("_blocks") is not None else "."
    blocks, scales = module.get(f"{mark}blocks"), module.get(f"{mark}scales")
    if blocks is None or scales is None or blocks.dtype != "U8" or blocks.shape[-1:] != (16,):
        return None
    if blocks.shape[:-1] != scales.shape:
        raise _wrong_shape(module.prefix, blocks, scales)
    parts = module.parts(codes=f"{mark}blocks", scales=f"{mark}scales")
    shape = (*scales.shape[:-1], scales.shape[-1] * 32)
    return Weight(module.prefix, shape, "mxfp4", "gpt-oss", parts, layouts.unpack_mx, None, "bfloat16")


# ---- AWQ, GPTQ


def _int4_weight(module: _Module) -> Weight | None:
    """`qweight`: AWQ packs along the output axis, GPTQ along the input axis."""
    qweight, zeros, scales = module.get(".qweight"), module.get(".qzeros"), module.get(".scales")
    if (
        qweight is None
        or zeros is None
        or scales is None
        or qweight.dtype != "I32"
        or scales.dtype not in ("F16", "BF16")
    ):
        return None
    groups, out = scales.shape
    config = module.checkpoint.config.get("quantization_config")
    config = config if isinstance(config, dict) else {}
    bits = config.get("bits", 4)
    if bits != 4:
        raise CheckpointError(
            f"{module.prefix}: {bits}-bit words of {quant_method(module.checkpoint)} are not decoded here"
        )
    dtype = {"F16": "float16", "BF16": "bfloat16"}[scales.dtype]
    if qweight.shape[1] * 8 == out and zeros.shape == (groups, out // 8):
        parts = module.parts(codes=".qweight", zeros=".qzeros", scales=".scales")
        shape = (out, qweight.shape[0])
        return Weight(
            f"{module.prefix}.weight", shape, f"int4-zero-g{shape[1] // groups}", "awq", parts, layouts.unpack_awq,
            None, dtype,
        )  # fmt: skip
    if qweight.shape[1] == out and zeros.shape == (groups, -(-out // 8)):
        return _gptq_weight(module, (out, qweight.shape[0] * 8), groups, dtype, config)
    raise _wrong_shape(module.prefix, qweight, scales)


def _gptq_weight(module: _Module, shape: tuple[int, int], groups: int, dtype: str, config: dict[str, Any]) -> Weight:
    parts = module.parts(codes=".qweight", zeros=".qzeros", scales=".scales", g_idx=".g_idx")
    notes = ("v2",) if config.get("checkpoint_format") == "gptq_v2" else ()
    group = shape[1] // groups
    name, fmt = f"{module.prefix}.weight", f"int4-zero-g{group}"
    if "g_idx" in parts and config.get("desc_act", True):  # sorted by activation, unless it says that it is not
        order = parts["g_idx"].array()
        if order.shape != (shape[1],) or not all(order == layouts.plain_groups(shape[1], group)):
            return Weight(name, shape, fmt, "gptq", parts, None, layouts.decode_gptq, dtype, notes)
    return Weight(name, shape, fmt, "gptq", parts, layouts.unpack_gptq, None, dtype, notes)


# ---- compressed-tensors, ModelOpt, DeepSeek


def _packed_weight(module: _Module) -> Weight | None:
    """compressed-tensors' `weight_packed`."""
    codes, scales = module.get(".weight_packed"), module.get(".weight_scale")
    if codes is None or scales is None or len(codes.shape) < 2:
        return None
    name, rows, width = f"{module.prefix}.weight", codes.shape[:-1], codes.shape[-1]
    if codes.dtype == "I32":
        return _pack_quantized(module, name, codes, scales)
    if codes.dtype != "U8":
        raise _wrong_shape(name, codes, scales)
    columns = scales.shape[-1]
    if scales.dtype == "F8_E4M3":
        shape, fmt, unpack = (*rows, 2 * width), "compressed-tensors-0.20-nvfp4", layouts.unpack_nvfp4
    elif scales.dtype in ("U8", "F8_E8M0") and columns * 32 == 2 * width:
        shape, fmt, unpack = (*rows, 2 * width), "mxfp4", layouts.unpack_mx
    elif scales.dtype in ("U8", "F8_E8M0") and columns * 32 * 3 == 4 * width:
        shape, fmt, unpack = (*rows, width * 4 // 3), "mxfp6-e2m3", layouts.unpack_mx
    else:
        raise _wrong_shape(name, codes, scales)
    parts = module.parts(
        codes=".weight_packed", scales=".weight_scale", tensor_scale=".weight_global_scale",
        input_scale=".input_global_scale",
    )  # fmt: skip
    return Weight(name, shape, fmt, "compressed-tensors", parts, unpack, None, "bfloat16")


def _pack_quantized(module: _Module, name: str, codes: StoredTensor, scales: StoredTensor) -> Weight:
    stored = module.get(".weight_shape")
    shape = tuple(int(n) for n in stored.array().reshape(-1)) if stored is not None and stored.dtype == "I64" else ()
    if len(shape) != 2 or shape[0] != codes.shape[0]:
        raise CheckpointError(f"{name}: weight_shape {list(shape)} does not fit weight_packed {list(codes.shape)}")
    if codes.shape[1] != -(-shape[1] // 8):
        bits = 32 * codes.shape[1] / shape[1]
        raise CheckpointError(f"{name}: pack-quantized with {bits:.3g} bits a value; only 4 are decoded here")
    parts = module.parts(
        codes=".weight_packed", scales=".weight_scale", zeros=".weight_zero_point", shape=".weight_shape",
        g_idx=".weight_g_idx",
    )  # fmt: skip
    family = "int4-zero" if "zeros" in parts else "int4-offset8"
    fmt = f"{family}-g{-(-shape[1] // scales.shape[-1])}"
    dtype = {"BF16": "bfloat16", "F16": "float16"}.get(scales.dtype, "float32")
    return Weight(name, shape, fmt, "compressed-tensors", parts, layouts.unpack_int4_words, None, dtype)


def _scaled_format(codes: StoredTensor, scales: StoredTensor, tile: tuple[int, int] = (128, 128)) -> str:
    """FP8 or INT8 with floating-point scales: one a tensor, a row, or a tile."""
    family = "int8" if codes.dtype == "I8" else "fp8"
    rows = codes.shape[0] if len(codes.shape) > 1 else 1
    if scales.size == 1 and (rows > 1 or len(scales.shape) < 2):
        tiles = tuple(-(-n // t) for n, t in zip(codes.shape, tile, strict=False))
        one_tile = family == "fp8" and len(scales.shape) == 2 and scales.shape == tiles
        return "fp8-128x128" if one_tile else f"{family}-tensor"
    if scales.size == rows and scales.shape[0] == rows:
        return f"{family}-row"
    if family == "fp8" and scales.shape == tuple(-(-n // t) for n, t in zip(codes.shape, tile, strict=True)):
        return "fp8-128x128"
    raise _wrong_shape(codes.name, codes, scales)


def _scaled_weight(module: _Module) -> Weight | None:
    """A `weight` of codes beside its scales: ModelOpt's NVFP4 and FP8, everybody's FP8, INT8 and MXFP8."""
    codes, inverse = module.get(".weight"), module.get(".weight_scale_inv")
    scales = module.get(".weight_scale") or inverse
    if codes is None or codes.dtype not in QUANTIZED:
        return None
    name, shape, dtype = f"{module.prefix}.weight", codes.shape, "float32"
    method = quant_method(module.checkpoint)
    if scales is None:
        return None
    producer = "fp8" if inverse is not None else method or "modelopt"
    if codes.dtype == "U8" and scales.dtype == "F8_E4M3":
        shape, fmt, unpack, producer = (*shape[:-1], 2 * shape[-1]), "modelopt-nvfp4", layouts.unpack_nvfp4, "modelopt"
    elif codes.dtype == "U8" and scales.dtype in ("U8", "F8_E8M0"):
        shape, fmt, unpack = (*shape[:-1], 2 * shape[-1]), "mxfp4", layouts.unpack_mx
    elif codes.dtype in ("F8_E4M3", "F8_E5M2") and scales.dtype in ("U8", "F8_E8M0"):
        fmt, unpack = ("mxfp8-e4m3" if codes.dtype == "F8_E4M3" else "mxfp8-e5m2"), layouts.unpack_mx
    elif codes.dtype in ("F8_E4M3", "I8") and scales.dtype in ("F32", "BF16", "F16"):
        fmt, unpack = _scaled_format(codes, scales), layouts.unpack_scaled
    else:
        raise _wrong_shape(name, codes, scales)
    if producer == "compressed-tensors":
        dtype = {"BF16": "bfloat16", "F16": "float16", "U8": "bfloat16"}.get(scales.dtype, "float32")
    parts = module.parts(
        codes=".weight", scales=".weight_scale", tensor_scale=".weight_scale_2", input_scale=".input_scale",
        zeros=".weight_zero_point",
    )  # fmt: skip
    if inverse is not None:
        parts |= module.parts(scales=".weight_scale_inv")
    decode = layouts.decode_int8_zero if "zeros" in parts else None
    if fmt == "modelopt-nvfp4":
        decode = layouts.decode_modelopt_nvfp4
    return Weight(name, shape, fmt, producer, parts, unpack, decode, dtype)
