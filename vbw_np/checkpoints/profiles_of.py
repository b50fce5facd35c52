"""Which exact arithmetic to quantize with, for a producer's files."""

from __future__ import annotations

from ..formats import PROFILES, BlockFormat, get_format
from ..formats.errors import UnknownNameError
from .errors import CheckpointError
from .targets import HOLDS, kind_of

WRITES: dict[tuple[str, str], str] = {
    ("modelopt", "nvfp4"): "modelopt-nvfp4",
    ("modelopt", "mxfp8-e4m3"): "modelopt-mxfp8",
    ("modelopt", "fp8-tensor"): "modelopt-fp8-tensor",
    ("compressed-tensors", "nvfp4"): "compressed-tensors-0.20-nvfp4",
    ("compressed-tensors", "mxfp4"): "compressed-tensors-0.20-mxfp4",
    ("compressed-tensors", "fp8-tensor"): "compressed-tensors-0.20-fp8-tensor",
    ("compressed-tensors", "fp8-row"): "compressed-tensors-0.20-fp8-row",
    ("compressed-tensors", "fp8-128x128"): "compressed-tensors-0.20-fp8-128x128",
    ("compressed-tensors", "int8-row"): "compressed-tensors-0.20-int8-row",
    ("torchao", "nvfp4"): "torchao-0.18-nvfp4",
    ("torchao", "mxfp4"): "torchao-0.18-floor",
    ("torchao", "mxfp8-e4m3"): "torchao-0.18-mxfp8-e4m3-floor",
    ("torchao", "mxfp8-e5m2"): "torchao-0.18-mxfp8-e5m2-floor",
    ("gguf", "mxfp4"): "ggml-mxfp4",
    ("gguf", "nvfp4"): "ggml-nvfp4",
}
"""(producer, format) -> the profile of that producer's arithmetic; other pairs use the format's plain definition."""


def writing_profile(name: str, producer: str) -> BlockFormat:
    """The record to quantize with: a profile by its own name, or the producer's for a format.

    Raises
    ------
    CheckpointError
        For an unknown format, or one that the producer does not store.
    """
    if name in PROFILES:
        fmt = PROFILES[name].format
    else:
        try:
            fmt = get_format(name)
        except UnknownNameError as error:
            raise CheckpointError(str(error)) from None
        profile = WRITES.get((producer, name))
        fmt = PROFILES[profile].format if profile else fmt
    if kind_of(fmt) not in HOLDS[producer]:
        raise CheckpointError(f"{producer} does not store {name}; it stores {', '.join(sorted(HOLDS[producer]))}")
    return fmt
