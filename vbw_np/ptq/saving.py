"""A quantized model as a checkpoint: safetensors as compressed-tensors lays them out, or a GGUF file.

Norms and heads that a method changed are written in float32; what it left alone keeps its values.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoints import Checkpoint
from ..checkpoints.targets import HOLDS, Source, compressed_tensors_config, kind_of, plan
from ..checkpoints.writing import Planned, copy_companions, new_folder, write_gguf, write_safetensors
from ..errors import UserError
from ..files import check_output, user_path
from ..formats import BlockFormat, PackedTensor
from ..layers.rotary import to_interleaved
from ..models.llama_files import config_to_json, gguf_name
from .quantizing import Plan, Quantized


def producer_of(path: Path) -> str:
    """Whose layout a path asks for."""
    return "gguf" if path.suffix == ".gguf" else "compressed-tensors"


def check_out(path: str, todo: Plan, source: Checkpoint) -> Path:
    """Refuse, before any work, what could not be written.

    Raises
    ------
    UserError
        No file says that inputs are rotated, the layout has no place for the format, or the path is taken.
    """
    target = user_path(path)
    producer, fmt = producer_of(target), todo.weights
    if todo.method.rotates_inputs:
        raise UserError(
            f"no file can say that inputs of layers are rotated while a model runs ({todo.method}); fold the rotation "
            "into the weights with rotate:where=stream, or leave --out out"
        )
    if kind_of(fmt) not in HOLDS[producer]:
        held = ", ".join(sorted(HOLDS[producer]))
        raise UserError(f"{fmt.name} has no place in a {producer} file; it holds {held}. Name another --format.")
    if producer == "gguf":
        if source.kind != "gguf":
            raise UserError(f"a GGUF file needs what {source.path} does not have, its tokenizer; name a folder instead")
        return check_output(target)
    if target.exists():
        raise UserError(f"{target} exists already; name a folder that does not, so that nothing is overwritten")
    return target


def save(quantized: Quantized, source: Checkpoint, path: Path) -> None:
    """Write a quantized model, whole or not at all.

    Parameters
    ----------
    quantized : Quantized
    source : Checkpoint
        What the model came from: its tokenizer and metadata go along.
    path : Path
        A file that ends in ``.gguf``, or a folder that does not exist yet; see `check_out`.
    """
    if producer_of(path) == "gguf":
        _save_gguf(quantized, source, path)
    else:
        _save_folder(quantized, source, path)


def _plain(name: str, values: NDArray) -> Planned:
    return Planned(name, "F32", values.shape, lambda: [values.astype("<f4", copy=False)])


def _source(name: str, packed: PackedTensor) -> Source:
    level = None if packed.tensor_scale is None else np.float32(packed.tensor_scale)
    return Source(f"{name}.weight", packed.shape, packed.format, lambda: [packed], level, None, "float32")


def _save_folder(quantized: Quantized, source: Checkpoint, path: Path) -> None:
    model, packed = quantized.model, quantized.packed
    tensors: list[Planned] = []
    for name, parameter in model.named_parameters():
        layer = name.removesuffix(".weight")
        if layer in packed:
            tensors += plan(_source(layer, packed[layer]), "compressed-tensors")
        else:
            tensors.append(_plain(name, parameter.data))
    config: dict[str, Any] = json.loads(config_to_json(model.config)) | {"torch_dtype": "float32"}
    config["quantization_config"] = _folder_config(quantized)
    with new_folder(path) as folder:
        write_safetensors(folder, tensors, {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        if source.kind == "safetensors":
            copy_companions(source.folder, folder)


def _folder_config(quantized: Quantized) -> dict[str, Any]:
    """What compressed-tensors is told: which layers hold what, and how inputs are quantized."""
    fmt: BlockFormat = quantized.plan.weights
    kept = [name for name in quantized.linears if name not in quantized.packed]
    return compressed_tensors_config(kind_of(fmt), fmt, ["Linear"], ["lm_head", *kept])


def _interleaved(packed: PackedTensor, heads: int) -> PackedTensor:
    """The same rows in GGUF's order of a query's or key's."""
    order = to_interleaved(np.arange(packed.shape[0])[:, None], heads)[:, 0]
    parts = {part: getattr(packed, part) for part in ("codes", "scales", "offsets", "headers")}
    return dataclasses.replace(packed, **{part: array[order] for part, array in parts.items() if array is not None})


def _save_gguf(quantized: Quantized, source: Checkpoint, path: Path) -> None:
    model, packed = quantized.model, quantized.packed
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    tensors: list[Planned] = []
    for name, parameter in model.named_parameters():
        layer, stored = name.removesuffix(".weight"), gguf_name(name)
        turned = heads.get(layer.rsplit(".", 1)[-1])
        if layer in packed:
            codes = _interleaved(packed[layer], turned) if turned else packed[layer]
            made = plan(_source(stored.removesuffix(".weight"), codes), "gguf")
            tensors += made
        elif name.endswith("embed_tokens.weight") and not quantized.plan.method.rotates_stream:
            tensor = source[stored]
            tensors.append(Planned(stored, tensor.dtype, tensor.shape, lambda tensor=tensor: [tensor.bytes()]))
        else:
            tensors.append(_plain(stored, to_interleaved(parameter.data, turned) if turned else parameter.data))
    tensors += [
        Planned(name, source[name].dtype, source[name].shape, lambda tensor=source[name]: [tensor.bytes()])
        for name in source
        if name == "rope_freqs.weight"
    ]
    with tempfile.TemporaryDirectory(prefix=".ptq-", dir=path.parent) as folder:
        made_file = Path(folder) / "model.gguf"
        write_gguf(made_file, tensors, dict(source.metadata))
        os.replace(made_file, path)
