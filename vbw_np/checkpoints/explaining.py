"""`vbw explain FILE TENSOR I J`: from the byte's address in the file to the value, each step."""

from __future__ import annotations

import numpy as np

from ..formats.elements import BF16, FP16
from ..formats.explain import Explanation, Step, explain_code, explain_element, number
from ..formats.ggml import BY_NAME
from .errors import CheckpointError
from .stored import ELEMENTS, StoredTensor
from .weights import Weight


def checked_index(weight: Weight, index: tuple[int, ...]) -> tuple[int, ...]:
    """The index with negative positions resolved."""
    if len(index) != len(weight.shape):
        raise CheckpointError(
            f"{weight.name} has shape {list(weight.shape)}: give {len(weight.shape)} positions, not {len(index)}"
        )
    for i, n in zip(index, weight.shape, strict=True):
        if not -n <= i < n:
            raise CheckpointError(
                f"position {i} is out of range for an axis of {n} ({weight.name} {list(weight.shape)})"
            )
    return tuple(i % n for i, n in zip(index, weight.shape, strict=True))


def explain_weight(weight: Weight, index: tuple[int, ...]) -> Explanation:
    """How one element is stored in the file and what it decodes to.

    Raises
    ------
    CheckpointError
        For an index outside the shape, or a format that is not decoded.
    """
    index = checked_index(weight, index)
    steps = [Step("weight", weight.name, f"{weight.format}, {weight.producer}, shape {list(weight.shape)}")]
    data: dict[str, object] = {"weight": weight.name, "format": weight.format, "producer": weight.producer}
    if weight.is_plain:
        steps += _plain_steps(weight, index, data)
    elif weight.producer == "gguf":
        steps += _gguf_steps(weight, index, data)
    else:
        steps += _part_steps(weight, index, data)
    if weight.is_packed:
        inner = explain_element(weight.packed(), index)
        skipped = {"byte"} if weight.producer != "gguf" else {"byte", "decoded"}
        steps += [step for step in inner.steps if step.name not in skipped]
        data |= {k: v for k, v in inner.data.items() if k not in ("format", "byte_address", "byte", "nibble")}
    value = float(weight.float32()[index]) if weight.is_float else weight.parts["values"].array()[index].item()
    data |= {"index": list(index), "value": value}
    steps.append(
        Step("value", number(value) if weight.is_float else str(value), "as the producer decodes it, in float32")
    )
    where = ", ".join(map(str, index))
    return Explanation(f"element [{where}] of {weight.name}", tuple(steps), data)


def _bytes_text(tensor: StoredTensor, offset: int, count: int) -> str:
    return " ".join(f"{b:02x}" for b in tensor.file.view(offset, count))


def _address(tensor: StoredTensor, what: str, offset: int, count: int, why: str = "") -> Step:
    where = f"{tensor.file.path.name} byte {offset:,}"
    return Step(what, _bytes_text(tensor, offset, count), f"{where}; {why or tensor.name}")


def _plain_steps(weight: Weight, index: tuple[int, ...], data: dict[str, object]) -> list[Step]:
    tensor = weight.parts["values"]
    flat = int(np.ravel_multi_index(index, weight.shape)) if index else 0
    width = tensor.nbytes // max(1, tensor.size)
    offset = tensor.offset + flat * width
    data |= {"file": str(tensor.file.path), "file_offset": offset}
    steps = [_address(tensor, "bytes", offset, width, f"element {flat:,} of {tensor.dtype}, lowest byte first")]
    element = {"BF16": BF16, "F16": FP16}.get(tensor.dtype, ELEMENTS.get(tensor.dtype))
    if element is not None and width:
        code = int.from_bytes(tensor.file.read(offset, width), "little")
        inner = explain_code(code, element)
        steps += [step for step in inner.steps if step.name not in ("value", "rounds from")]
    return steps


def _gguf_steps(weight: Weight, index: tuple[int, ...], data: dict[str, object]) -> list[Step]:
    tensor = weight.parts["blocks"]
    kind = BY_NAME[tensor.dtype]
    flat = int(np.ravel_multi_index(index, weight.shape))
    block, inside = divmod(flat, kind.elements)
    offset = tensor.offset + block * kind.bytes
    data |= {"file": str(tensor.file.path), "file_offset": offset, "block": block, "element_in_block": inside}
    return [
        Step("block", f"{block:,}", f"element {inside} of its {kind.elements}; {kind.bytes} bytes each"),
        _address(tensor, "bytes", offset, kind.bytes, f"the whole block of {kind.name}"),
    ]


def _part_steps(weight: Weight, index: tuple[int, ...], data: dict[str, object]) -> list[Step]:
    """Where the element's code lies in the file; scales are explained from the packed tensor."""
    tensor = weight.parts["codes"]
    steps = []
    offset = code_offset(weight, index)
    if offset is not None:
        width = 4 if tensor.dtype == "I32" else 1
        data |= {"file": str(tensor.file.path), "file_offset": offset}
        steps.append(_address(tensor, "byte" if width == 1 else "word", offset, width))
    for role in ("scales", "tensor_scale", "absmax", "zeros"):
        part = weight.parts.get(role)
        if part is not None:
            why = f"{part.dtype} {list(part.shape)} at byte {part.offset:,}"
            steps.append(Step(role.replace("_", " "), part.name.rsplit(".", 1)[-1], why))
    return steps


def code_offset(weight: Weight, index: tuple[int, ...]) -> int | None:
    """The address in the file of the byte (or 32-bit word) that holds an element's code."""
    tensor = weight.parts["codes"]
    if weight.producer == "awq":
        return tensor.offset + 4 * (index[1] * tensor.shape[1] + index[0] // 8)
    if weight.producer == "gptq":
        return tensor.offset + 4 * (index[1] // 8 * tensor.shape[1] + index[0])
    if tensor.dtype == "I32":
        return tensor.offset + 4 * (index[0] * tensor.shape[1] + index[1] // 8)
    flat = int(np.ravel_multi_index(index, weight.shape))
    bits = 8 * tensor.nbytes // weight.size
    return tensor.offset + flat * bits // 8
