"""How each producer stores a quantized weight: the tensors, their names and dtypes, and the configs beside them.

The reverse of `producers.py`. A *kind* is a format whose bytes several producers share: `nvfp4`, `mxfp4`, `mxfp6`,
`mxfp8`, `mxfp8-e5m2`, `fp8-row`, `fp8-tensor`, `fp8-128x128`, `int8-row`, `int4-offset8`, `int4-zero`, and
GGUF's block types.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..formats import BlockFormat, PackedTensor
from ..formats.ggml_blocks import WRITTEN, block_type_of, to_blocks_of
from .errors import CheckpointError
from .layouts import nibbles_to_words
from .writing import Planned

HOLDS = {
    "modelopt": {"nvfp4", "mxfp8", "fp8-tensor"},
    "compressed-tensors": {
        "nvfp4", "mxfp4", "mxfp6", "mxfp8", "fp8-row", "fp8-tensor", "fp8-128x128", "int8-row", "int4-offset8",
        "int4-zero",
    },
    "torchao": {"nvfp4", "mxfp4", "mxfp8", "mxfp8-e5m2"},
    "gguf": {"nvfp4", "mxfp4", "q4_0", "q4_1", "q8_0", "q4_k", "iq4_nl"},
}  # fmt: skip
"""Target producer -> the kinds that it stores."""
LEVELS = "vbw_np.levels"
"""Key of the file's metadata that keeps tensor-level numbers which the target's convention cannot give back."""


def kind_of(fmt: BlockFormat) -> str | None:
    """The kind of a format record, or None where no target stores it."""
    element = fmt.element.name if fmt.element is not None else ""
    scale = fmt.rule.scale_element.name if fmt.rule.scale_element is not None else ""
    if fmt.fine is not None or fmt.tensor_level == "row":
        return None
    if fmt.offset == "zero":
        return "int4-zero"
    if fmt.stored_bits is not None and block_type_of(fmt) is not None:
        return block_type_of(fmt).lower()
    known = {
        ("e2m1", "e4m3", 16): "nvfp4", ("e2m1", "e8m0", 32): "mxfp4", ("e2m3", "e8m0", 32): "mxfp6",
        ("e4m3", "e8m0", 32): "mxfp8", ("e5m2", "e8m0", 32): "mxfp8-e5m2", ("e4m3", "", 128): "fp8-128x128",
    }  # fmt: skip
    if element == "e4m3" and fmt.block == 128 and fmt.block_rows != 128:
        return None
    if (element, scale, fmt.block) in known:
        return known[element, scale, fmt.block]
    if element in ("e4m3", "int8") and fmt.block is None:
        width = "tensor" if fmt.flat else "row"
        return f"{'fp8' if element == 'e4m3' else 'int8'}-{width}"
    return "int4-offset8" if element == "int4-offset-8" else None


def reciprocal(value: np.float32) -> np.float32:
    """1 / value in float32: the exact rule between the two conventions of a tensor scale."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.float32(1) / np.float32(value)


@dataclass(eq=False)
class Source:
    """A quantized weight that is about to be written.

    Parameters
    ----------
    name, shape : of the weight
    fmt : BlockFormat
    chunks : function that yields packed tensors of consecutive rows
    multiplier : np.float32 or None
        The tensor scale as multiplier.
    inputs : np.float32 or None
        The activations' scale as multiplier, where the source has one.
    dtype : str
        What the weight was before, `bfloat16`, ...
    reciprocals : dict from role to np.float32
        Reciprocals that earlier files had and that 1 / x would not give back.
    """

    name: str
    shape: tuple[int, ...]
    fmt: BlockFormat
    chunks: Callable[[], Iterable[PackedTensor]]
    multiplier: np.float32 | None = None
    inputs: np.float32 | None = None
    dtype: str = "bfloat16"
    reciprocals: dict[str, np.float32] = field(default_factory=dict)
    kept: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def reciprocal(self, role: str) -> np.float32:
        """The tensor scale or the activations' scale as its reciprocal: the one that a file had, else 1 / x."""
        value = self.multiplier if role == "tensor_scale" else self.inputs
        return self.reciprocals.get(role, reciprocal(value))

    @property
    def module(self) -> str:
        """The name without `.weight`."""
        return self.name.removesuffix(".weight")

    @property
    def scale_columns(self) -> int:
        """Block scales in a row."""
        return self.fmt.blocks(self.shape[-1])

    def stream(self, make: Callable[[PackedTensor], np.ndarray], rows: int = 1) -> Callable[[], Iterator[np.ndarray]]:
        """Pieces of the codes; scales and zero points are kept on the way, for the tensors that follow.

        `rows`: of so many equal rows of scales one is kept.
        """

        def pieces() -> Iterator[np.ndarray]:
            self.kept = {"scales": [], "offsets": []}
            for packed in self.chunks():
                self.kept["scales"].append(packed.scales[::rows].copy() if packed.scales.ndim > 1 else packed.scales)
                if packed.offsets is not None:
                    self.kept["offsets"].append(packed.offsets)
                yield make(packed)

        return pieces

    def after(
        self, role: str, make: Callable[[np.ndarray], np.ndarray] = lambda a: a
    ) -> Callable[[], list[np.ndarray]]:
        """What the stream kept, once it has run."""
        return lambda: [make(np.concatenate(self.kept.pop(role)))]


def constant(value: np.float32, shape: tuple[int, ...]) -> Callable[[], list[np.ndarray]]:
    """One float32 number as a tensor."""
    return lambda: [np.full(shape, value, "<f4")]


def plan(source: Source, producer: str) -> list[Planned]:
    """The tensors in which a producer stores a weight.

    Raises
    ------
    CheckpointError
        If it does not store the weight's format.
    """
    kind = kind_of(source.fmt)
    if kind not in HOLDS[producer]:
        stores = ", ".join(sorted(HOLDS[producer]))
        raise CheckpointError(f"{producer} does not store {source.fmt.name} ({source.name}); it stores {stores}")
    if producer == "gguf":
        return _gguf(source)
    if len(source.shape) != 2:
        raise CheckpointError(f"{source.name} has shape {list(source.shape)}; {producer} stores matrices")
    return {"modelopt": _modelopt, "compressed-tensors": _compressed_tensors, "torchao": _torchao}[producer](
        source, kind
    )


def _codes(packed: PackedTensor) -> np.ndarray:
    return packed.codes


def _modelopt(source: Source, kind: str) -> list[Planned]:
    name, (rows, width) = source.name, source.shape
    if kind == "nvfp4":
        planned = [
            Planned(name, "U8", (rows, width // 2), source.stream(_codes)),
            Planned(f"{name}_scale", "F8_E4M3", (rows, source.scale_columns), source.after("scales")),
            Planned(f"{name}_scale_2", "F32", (), constant(source.multiplier, ())),
        ]
    elif kind == "mxfp8":
        planned = [
            Planned(name, "F8_E4M3", source.shape, source.stream(_codes)),
            Planned(f"{name}_scale", "U8", (rows, source.scale_columns), source.after("scales")),
        ]
    else:
        planned = [
            Planned(name, "F8_E4M3", source.shape, source.stream(_codes)),
            Planned(f"{name}_scale", "F32", (), source.after("scales", lambda s: s[:1])),
        ]
    if source.inputs is not None:
        planned.append(Planned(f"{source.module}.input_scale", "F32", (), constant(source.inputs, ())))
    return planned


def _compressed_tensors(source: Source, kind: str) -> list[Planned]:
    name, module, (rows, width), columns = source.name, source.module, source.shape, source.scale_columns
    if kind in ("nvfp4", "mxfp4", "mxfp6"):
        bits = 6 if kind == "mxfp6" else 4
        dtype = "F8_E4M3" if kind == "nvfp4" else "U8"
        planned = [
            Planned(f"{module}.weight_packed", "U8", (rows, width * bits // 8), source.stream(_codes)),
            Planned(f"{module}.weight_scale", dtype, (rows, columns), source.after("scales")),
        ]
        if kind == "nvfp4":
            level = source.reciprocal("tensor_scale")
            planned.append(Planned(f"{module}.weight_global_scale", "F32", (1,), constant(level, (1,))))
    elif kind.startswith("int4"):
        planned = _pack_quantized(source, kind)
    else:
        dtype = "I8" if kind == "int8-row" else "F8_E4M3"
        scales = {"mxfp8": ("U8", (rows, columns)), "fp8-tensor": ("F32", (1,)), "fp8-row": ("F32", (rows, 1))}
        scales |= {"int8-row": ("F32", (rows, 1)), "fp8-128x128": ("F32", (-(-rows // 128), columns))}
        kept = source.after("scales", (lambda s: s[:1]) if kind == "fp8-tensor" else (lambda s: s))
        planned = [
            Planned(name, dtype, source.shape, source.stream(_codes, source.fmt.block_rows)),
            Planned(f"{name}_scale", *scales[kind], kept),
        ]
    if source.inputs is not None and kind == "nvfp4":
        level = source.reciprocal("input_scale")
        planned.append(Planned(f"{module}.input_global_scale", "F32", (1,), constant(level, (1,))))
    elif source.inputs is not None:
        planned.append(Planned(f"{module}.input_scale", "F32", (1,), constant(source.inputs, (1,))))
    return planned


def _pack_quantized(source: Source, kind: str) -> list[Planned]:
    module, (rows, width), columns = source.module, source.shape, source.scale_columns

    def words(packed: PackedTensor) -> np.ndarray:
        return nibbles_to_words(packed.unpacked_codes())

    planned = [
        Planned(f"{module}.weight_packed", "I32", (rows, -(-width // 8)), source.stream(words)),
        Planned(f"{module}.weight_scale", "F32", (rows, columns), source.after("scales")),
        Planned(f"{module}.weight_shape", "I64", (2,), lambda: [np.array(source.shape, "<i8")]),
    ]
    if kind == "int4-zero":

        def zeros(offsets: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(nibbles_to_words(np.ascontiguousarray(offsets.T).astype(np.uint8)).T)

        shape = (-(-rows // 8), columns)
        planned.append(Planned(f"{module}.weight_zero_point", "I32", shape, source.after("offsets", zeros)))
    return planned


def _torchao(source: Source, kind: str) -> list[Planned]:
    module, (rows, width) = source.module, source.shape
    dtype = {"mxfp8": "F8_E4M3", "mxfp8-e5m2": "F8_E5M2"}.get(kind)
    codes = (dtype, (rows, width)) if dtype else ("U8", (rows, width // 2))
    scales = "F8_E4M3" if kind == "nvfp4" else "F8_E8M0"
    planned = [
        Planned(f"{module}._weight_qdata", *codes, source.stream(_codes)),
        Planned(f"{module}._weight_scale", scales, (rows, source.scale_columns), source.after("scales")),
    ]
    if source.multiplier is not None:
        planned.append(Planned(f"{module}._weight_per_tensor_scale", "F32", (), constant(source.multiplier, ())))
    if source.inputs is not None:
        planned.append(Planned(f"{module}._weight_act_per_tensor_scale", "F32", (), constant(source.inputs, ())))
    return planned


def torchao_metadata(sources: list[Source], plain: list[str]) -> dict[str, str]:
    """What torchao's loader needs to know of every tensor (`unflatten_tensor_state_dict`)."""

    def tagged(kind: str, value: str) -> dict[str, str]:
        return {"_type": kind, "_data": value}

    metadata = {"tensor_names": json.dumps([*(s.name for s in sources), *plain])}
    for source in sources:
        kind = kind_of(source.fmt)
        data: dict[str, Any] = {"is_swizzled_scales": False, "act_quant_kwargs": None}
        data["orig_dtype"] = tagged("torch.dtype", source.dtype)
        names = ["qdata", "scale"]
        if kind == "nvfp4":
            data |= {"block_size": 16, "use_triton_kernel": False}
            names = [*(["per_tensor_scale"] if source.multiplier is not None else []), *names]
            names = [*(["act_per_tensor_scale"] if source.inputs is not None else []), *names]
        else:
            element = {"mxfp4": "float4_e2m1fn_x2", "mxfp8": "float8_e4m3fn", "mxfp8-e5m2": "float8_e5m2"}[kind]
            data |= {"elem_dtype": tagged("torch.dtype", element), "block_size": 32}
            data["kernel_preference"] = tagged("KernelPreference", "AUTO")
        about = {"_type": "NVFP4Tensor" if kind == "nvfp4" else "MXTensor", "_data": data, "_tensor_data_names": names}
        metadata[source.name] = json.dumps(about)
    metadata |= {name: json.dumps({"_type": "Tensor"}) for name in plain}
    return metadata


def _gguf(source: Source) -> list[Planned]:
    kind = block_type_of(source.fmt)
    if kind not in WRITTEN:
        raise CheckpointError(f"GGUF's {kind} is not written here ({source.name})")

    def blocks() -> Iterator[np.ndarray]:
        for packed in source.chunks():
            yield to_blocks_of(packed)[1]

    planned = [Planned(source.name, kind, source.shape, blocks)]
    if source.multiplier is not None and kind == "NVFP4":
        planned.append(Planned(f"{source.module}.scale", "F32", (1,), constant(source.multiplier, (1,))))
    if source.inputs is not None:
        planned.append(Planned(f"{source.module}.input_scale", "F32", (1,), constant(source.inputs, (1,))))
    return planned


# ---- configs

CT_FORMATS = {
    "nvfp4": "nvfp4-pack-quantized", "mxfp4": "mxfp4-pack-quantized", "mxfp6": "mxfp6-pack-quantized",
    "mxfp8": "mxfp8-quantized", "fp8-row": "float-quantized", "fp8-tensor": "float-quantized",
    "fp8-128x128": "float-quantized", "int8-row": "int-quantized", "int4-offset8": "pack-quantized",
    "int4-zero": "pack-quantized",
}  # fmt: skip


def compressed_tensors_config(kind: str, fmt: BlockFormat, targets: list[str], ignore: list[str]) -> dict[str, Any]:
    """`quantization_config` of config.json."""
    weights: dict[str, Any] = {"dynamic": False, "symmetric": kind != "int4-zero"}
    weights["num_bits"] = {"mxfp6": 6}.get(kind, 4 if "4" in kind.split("-")[0] else 8)
    weights["type"] = "int" if kind.startswith("int") else "float"
    if kind == "nvfp4":
        weights |= {"strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"}
    elif kind.startswith("mx"):
        weights |= {"strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
    elif kind.startswith("int4"):
        weights |= {"strategy": "group", "group_size": fmt.block}
    elif kind == "fp8-128x128":
        weights |= {"strategy": "block", "block_structure": [128, 128]}
    else:
        weights |= {"strategy": "tensor" if kind.endswith("tensor") else "channel"}
    group = {"format": CT_FORMATS[kind], "targets": targets, "weights": weights}
    group |= {"input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": CT_FORMATS[kind],
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignore,
        "kv_cache_scheme": None,
    }


MODELOPT_ALGORITHMS = {"nvfp4": "NVFP4", "mxfp8": "MXFP8", "fp8-tensor": "FP8"}


def modelopt_config(kind: str, ignore: list[str], inputs: bool) -> dict[str, Any]:
    """`hf_quant_config.json`."""
    algorithm = MODELOPT_ALGORITHMS[kind]
    if kind == "nvfp4" and not inputs:
        algorithm = "W4A16_NVFP4"
    quantization: dict[str, Any] = {"quant_algo": algorithm, "kv_cache_quant_algo": None, "exclude_modules": ignore}
    if kind != "fp8-tensor":
        quantization["group_size"] = 16 if kind == "nvfp4" else 32
    return {"producer": {"name": "modelopt", "version": "0.47.0"}, "quantization": quantization}
