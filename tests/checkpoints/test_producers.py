"""Files that the libraries themselves wrote: who wrote what is recognised, and decodes to their values in every bit."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from vbw_np.checkpoints import CheckpointError, find_weights, open_checkpoint
from vbw_np.checkpoints.layouts import nibbles_to_words, words_to_nibbles
from vbw_np.formats import PackedTensor

DATA = Path(__file__).with_name("data")
_SPEC = importlib.util.spec_from_file_location("checkpoint_cases", DATA.parents[1] / "oracles" / "cases.py")
cases = importlib.util.module_from_spec(_SPEC)
sys.modules["checkpoint_cases"] = cases
_SPEC.loader.exec_module(cases)

WROTE = {
    "awq": ("awq", "int4-zero-g64"),
    "bitsandbytes-fp4": ("bitsandbytes", "bitsandbytes-fp4"),
    "bitsandbytes-nf4": ("bitsandbytes", "bitsandbytes-nf4"),
    "bitsandbytes-nf4-nested": ("bitsandbytes", "bitsandbytes-nf4"),
    "compressed-tensors-fp8": ("compressed-tensors", "fp8-row"),
    "compressed-tensors-fp8-block": ("compressed-tensors", "fp8-128x128"),
    "compressed-tensors-fp8-tensor": ("compressed-tensors", "fp8-tensor"),
    "compressed-tensors-int4": ("compressed-tensors", "int4-offset8-g64"),
    "compressed-tensors-int4-zero": ("compressed-tensors", "int4-zero-g64"),
    "compressed-tensors-int8": ("compressed-tensors", "int8-row"),
    "compressed-tensors-mxfp4": ("compressed-tensors", "mxfp4"),
    "compressed-tensors-mxfp6": ("compressed-tensors", "mxfp6-e2m3"),
    "compressed-tensors-mxfp8": ("compressed-tensors", "mxfp8-e4m3"),
    "compressed-tensors-nvfp4": ("compressed-tensors", "compressed-tensors-0.20-nvfp4"),
    "gguf": ("gguf", None),
    "gpt-oss": ("gpt-oss", "mxfp4"),
    "gptq": ("gptq", "int4-zero-g64"),
    "modelopt-fp8": ("modelopt", "fp8-tensor"),
    "modelopt-mxfp8": ("modelopt", "mxfp8-e4m3"),
    "modelopt-nvfp4": ("modelopt", "modelopt-nvfp4"),
    "original": ("plain", "bf16"),
    "torchao-fp8": ("torchao", "fp8-row"),
    "torchao-int8": ("torchao", "int8-row"),
    "torchao-mxfp4": ("torchao", "mxfp4"),
    "torchao-mxfp8": ("torchao", "mxfp8-e4m3"),
    "torchao-nvfp4": ("torchao", "torchao-0.18-nvfp4"),
}


def decoded(folder: str) -> dict[str, np.ndarray]:
    with np.load(DATA / folder / "decoded.npz") as file:
        return dict(file)


@pytest.mark.parametrize("folder", WROTE)
def test_every_weight_is_recognised_and_decodes_to_the_librarys_values(folder):
    weights, wanted = find_weights(open_checkpoint(DATA / folder)), decoded(folder)
    names = [key.removesuffix("/head") for key in wanted if key.endswith("/head")]
    producer, fmt = WROTE[folder]
    for name in names:
        weight = weights[name]
        if fmt is not None or not weight.is_plain:  # GGUF's BF16 is plain
            assert weight.producer == producer
        assert fmt in (None, weight.format)
        assert weight.shape == tuple(wanted[f"{name}/shape"])
        values = weight.as_decoded().reshape(-1, weight.shape[-1])
        head = wanted[f"{name}/head"]
        np.testing.assert_array_equal(values[: len(head)].view(np.uint32), head.view(np.uint32))
        np.testing.assert_array_equal(cases.digests(values), wanted[f"{name}/sha256"], name)
    others = [weight for name, weight in weights.items() if name not in names]
    assert all(weight.is_plain for weight in others)


@pytest.mark.parametrize("folder", WROTE)
def test_every_stored_tensor_is_part_of_one_weight(folder):
    checkpoint = open_checkpoint(DATA / folder)
    parts = [part.name for weight in find_weights(checkpoint).values() for part in weight.parts.values()]
    assert sorted(parts) == sorted(checkpoint)
    assert sum(weight.nbytes for weight in find_weights(checkpoint).values()) == checkpoint.nbytes


@pytest.mark.parametrize("folder", sorted(set(WROTE) - {"original"}))
def test_packed_tensors_are_handed_out(folder):
    for weight in find_weights(open_checkpoint(DATA / folder)).values():
        if not weight.is_packed:
            assert weight.is_plain or weight.format in ("q5_0", "q5_1", "q5_k", "q6_k")
            continue
        packed = weight.load()
        assert isinstance(packed, PackedTensor) and packed.shape == weight.shape
        np.testing.assert_array_equal(packed.dequantize(), weight.float32())
        assert 4 < weight.bits < 10


def test_plain_tensors_are_arrays():
    weights = find_weights(open_checkpoint(DATA / "modelopt-nvfp4"))
    norm = weights["model.norm.weight"]
    assert norm.is_plain and norm.load().dtype == np.float32 and not norm.is_packed
    with pytest.raises(CheckpointError, match="no packed tensor"):
        norm.packed()
    assert "plain" in repr(norm)


def copied(folder: str, to: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a folder's file by their bytes, and its config."""
    shutil.copytree(DATA / folder, to, dirs_exist_ok=True)
    return safetensors.numpy.load_file(to / "model.safetensors"), json.loads((to / "config.json").read_text())


def test_gptq_groups_out_of_order(tmp_path):
    """With `desc_act` the inputs' groups are scattered: values then follow g_idx."""
    arrays, config = copied("gptq", tmp_path)
    rng = np.random.default_rng(2)
    wanted = {}
    for name in [n for n in arrays if n.endswith("g_idx")]:
        module = name.removesuffix(".g_idx")
        groups = rng.permutation(arrays[name])
        arrays[name] = groups
        q = words_to_nibbles(np.ascontiguousarray(arrays[f"{module}.qweight"].T)).astype(np.float32)
        z = words_to_nibbles(arrays[f"{module}.qzeros"]).astype(np.float32) + 1
        s = arrays[f"{module}.scales"].astype(np.float32)
        wanted[f"{module}.weight"] = (q - z[groups].T) * s[groups].T
    config["quantization_config"]["desc_act"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    weights = find_weights(open_checkpoint(tmp_path))
    for name, values in wanted.items():
        assert weights[name].is_packed == (values.shape[1] == 64)  # one group has no other order
        np.testing.assert_array_equal(weights[name].float32(), values)


def test_parts_that_contradict_each_other_are_named(tmp_path):
    arrays, config = copied("gptq", tmp_path)
    name = next(n for n in arrays if n.endswith("scales"))
    safetensors.numpy.save_file(arrays | {name: arrays[name][:, :-1].copy()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="fit no layout"):
        find_weights(open_checkpoint(tmp_path))
    config["quantization_config"]["bits"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="3-bit words of gptq"):
        find_weights(open_checkpoint(tmp_path))


def test_words_and_nibbles():
    codes = np.random.default_rng(1).integers(0, 16, (3, 21), np.uint8)
    words = nibbles_to_words(codes)
    assert words.shape == (3, 3) and words.dtype == np.dtype("<i4")
    np.testing.assert_array_equal(words_to_nibbles(words)[:, :21], codes)
    assert int(words[0, 0]) & 0xF == codes[0, 0]
