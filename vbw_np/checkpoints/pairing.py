"""The weights of two checkpoints side by side, whichever world each comes from: names and order of rows alike."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from ..formats import PackedTensor
from .names import to_hf
from .opening import Checkpoint
from .producers import find_weights
from .weights import Weight

HEADS = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
"""Weights whose rows llama.cpp's converter puts in another order for Llamas -> the key that says of how many heads."""


@dataclass(frozen=True, eq=False, repr=False)
class PutBack(Weight):
    """A weight of which row `order[i]` of the file is row i."""

    order: np.ndarray | None = None

    def packed(self) -> PackedTensor:
        packed = super().packed()
        parts = {part: getattr(packed, part) for part in ("codes", "scales", "offsets", "headers")}
        return replace(packed, **{part: array[self.order] for part, array in parts.items() if array is not None})

    def float32(self) -> np.ndarray:
        if self.is_plain or self.decode is not None:
            return super().float32()[self.order]
        return self.packed().dequantize()


def paired(a: Checkpoint, b: Checkpoint) -> tuple[dict[str, Weight], dict[str, Weight]]:
    """The weights of both by name, llama.cpp's Llama names as Hugging Face's.

    Where only one of them is a Llama in llama.cpp's order, its rows of queries and keys come in Hugging Face's: there a
    head's halves are turned together, in GGUF its neighbors.
    """
    put_back = _is_llama_cpp(a) != _is_llama_cpp(b)
    left, right = (
        {to_hf(n): _in_halves(w, c) if put_back and _is_llama_cpp(c) else w for n, w in find_weights(c).items()}
        for c in (a, b)
    )
    return left, right


def _is_llama_cpp(checkpoint: Checkpoint) -> bool:
    """Whether a file has a Llama's tensors under llama.cpp's names."""
    is_llama = checkpoint.kind == "gguf" and checkpoint.metadata.get("general.architecture") == "llama"
    return is_llama and any(name.startswith("blk.") for name in checkpoint)


def _in_halves(weight: Weight, checkpoint: Checkpoint) -> Weight:
    kind = weight.name.rsplit(".", 2)[-2] if weight.name.count(".") >= 2 else ""
    heads = checkpoint.metadata.get(HEADS.get(kind, ""))
    if kind == "attn_k" and heads is None:
        heads = checkpoint.metadata.get(HEADS["attn_q"])
    if type(heads) is not int or heads < 1 or not weight.shape or weight.shape[0] % (2 * heads):
        return weight
    order = np.arange(weight.shape[0]).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
    return PutBack(**{f.name: getattr(weight, f.name) for f in fields(Weight)}, order=order)
