"""Every format that real files mix: a record, a profile, oracles of bytes and of values, a file, and who may write it.

Where one of these is not there, the table says why in a word, and the test holds that it is refused by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vbw_np.checkpoints import CheckpointError, find_weights, open_checkpoint
from vbw_np.checkpoints.profiles_of import writing_profile
from vbw_np.checkpoints.targets import HOLDS
from vbw_np.formats import ELEMENTS, FORMATS, PROFILES, quantize

DATA = Path(__file__).with_name("data")
ORACLES = DATA.parents[1] / "oracles"


@dataclass(frozen=True)
class Kind:
    """A format of files.

    Parameters
    ----------
    name : a key of `FORMATS`
    profiles : whose arithmetic is recorded
    files : folders of `data/`, written by the library, that hold it
    writers : producers that `vbw quantize` writes it for
    no_file : why there is no such file
    """

    name: str
    profiles: tuple[str, ...]
    files: tuple[str, ...]
    writers: tuple[str, ...]
    no_file: str = ""


CT = "compressed-tensors"
KINDS = (
    Kind("mxfp8-e4m3", ("torchao-0.18-mxfp8-e4m3-floor", "torchao-0.18-mxfp8-e4m3-rceil", "modelopt-mxfp8"),
         ("torchao-mxfp8", "modelopt-mxfp8", "compressed-tensors-mxfp8"), ("modelopt", CT, "torchao")),
    Kind("mxfp8-e5m2", ("torchao-0.18-mxfp8-e5m2-floor",), (), ("torchao",),
         "torchao's quantize_ configs make E4M3 only; load.py lets it read ours"),
    Kind("mxfp6-e2m3", ("torchao-0.18-mxfp6-e2m3-floor",), ("compressed-tensors-mxfp6",), (CT,)),
    Kind("mxfp6-e3m2", ("torchao-0.18-mxfp6-e3m2-floor",), (), (), "no library saves it into a container"),
    Kind("fp8-tensor", ("modelopt-fp8-tensor", "compressed-tensors-0.20-fp8-tensor"),
         ("modelopt-fp8", "compressed-tensors-fp8-tensor"), ("modelopt", CT)),
    Kind("fp8-row", ("compressed-tensors-0.20-fp8-row",), ("compressed-tensors-fp8", "torchao-fp8"), (CT,)),
    Kind("fp8-128x128", ("compressed-tensors-0.20-fp8-128x128",), ("compressed-tensors-fp8-block",), (CT,)),
    Kind("int8-row", ("compressed-tensors-0.20-int8-row",), ("compressed-tensors-int8", "torchao-int8"), (CT,)),
    Kind("int4-offset8-g32", ("compressed-tensors-0.20-int4-g32",), ("compressed-tensors-int4",), (CT,)),
    Kind("int4-offset8-g128", ("compressed-tensors-0.20-int4-g128",), ("compressed-tensors-int4",), (CT,)),
    Kind("int4-zero-g128", ("compressed-tensors-0.20-int4-zero-g128",),
         ("compressed-tensors-int4-zero", "awq", "gptq"), (CT,)),
    Kind("q4_0", ("ggml-q4_0",), ("gguf",), ("gguf",)),
    Kind("q4_1", ("ggml-q4_1",), ("gguf",), ("gguf",)),
    Kind("q8_0", ("ggml-q8_0",), ("gguf",), ("gguf",)),
    Kind("q4_k", ("ggml-q4_k",), ("gguf",), ("gguf",)),
    Kind("iq4_nl", ("ggml-iq4_nl",), ("gguf",), ("gguf",)),
    Kind("mxfp4", ("ggml-mxfp4", "torchao-0.18-floor", "compressed-tensors-0.20-mxfp4", "modelopt-mxfp4"),
         ("gguf", "gpt-oss", "torchao-mxfp4", "compressed-tensors-mxfp4"), (CT, "torchao", "gguf")),
    Kind("nvfp4", ("ggml-nvfp4", "torchao-0.18-nvfp4", "compressed-tensors-0.20-nvfp4", "modelopt-nvfp4"),
         ("gguf", "torchao-nvfp4", "compressed-tensors-nvfp4", "modelopt-nvfp4"), ("modelopt", CT, "torchao", "gguf")),
)  # fmt: skip
EACH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def recorded() -> dict[str, set[str]]:
    """Profile -> what its library recorded of it: `codes`, `decoded`, ..."""
    found: dict[str, set[str]] = {}
    for path in ORACLES.glob("*.npz"):
        with np.load(path) as file:
            for key in (key for key in file.files if "/" in key):
                profile, *_, last = key.split("/")
                found.setdefault(profile, set()).add(last.removesuffix("-sha256").removesuffix("-head"))
    return found


@EACH
def test_a_record_and_profiles_with_both_oracles(kind):
    assert kind.name in FORMATS and kind.profiles
    kept, vectors = recorded(), json.loads((ORACLES / "vectors.json").read_text())
    for name in kind.profiles:
        assert PROFILES[name].family.removesuffix("-1level") == kind.name
        assert {"codes", "decoded"} <= kept[name], f"{name}: bytes and values of its library"
        assert name in vectors


@EACH
def test_files_of_libraries_that_hold_it(kind):
    """What `test_producers.py` decodes in every bit; only the group size of an INT4 may be another."""
    assert bool(kind.files) != bool(kind.no_file)
    family = kind.name.rsplit("-g", 1)[0]
    for folder in kind.files:
        with np.load(DATA / folder / "decoded.npz") as file:
            held = {key.removesuffix("/head") for key in file.files if key.endswith("/head")}
        weights = find_weights(open_checkpoint(DATA / folder))
        formats = [weights[name].format for name in held if weights[name].is_packed]
        families = {fmt.rsplit("-g", 1)[0] for fmt in formats}
        families |= {PROFILES[fmt].family.removesuffix("-1level") for fmt in formats if fmt in PROFILES}
        assert family in families, f"{folder}: {families}"


@EACH
def test_who_writes_it_and_who_refuses(kind):
    """`test_quantizing.py` holds the bytes; the others refuse the format by its name."""
    for producer in HOLDS:
        if producer in kind.writers:
            assert writing_profile(kind.name, producer).block == FORMATS[kind.name].block
            continue
        with pytest.raises(CheckpointError, match=f"{producer} does not store {kind.name}; it stores "):
            writing_profile(kind.name, producer)


def test_sixteen_bit_floats_are_plain_elements():
    """bf16 and fp16: elements (`test_ggml_blocks.py` holds every code), arrays, dtypes of files (`test_stored.py`)."""
    assert {"bf16", "fp16"} <= set(ELEMENTS)
    original = find_weights(open_checkpoint(DATA / "original"))
    assert {weight.format for weight in original.values()} == {"bf16"}
    half = np.linspace(-2, 2, 128).astype(np.float16).reshape(1, 128)
    np.testing.assert_array_equal(quantize(half, "nvfp4").codes, quantize(half.astype(np.float32), "nvfp4").codes)
