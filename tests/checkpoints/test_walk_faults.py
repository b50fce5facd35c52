"""Nine faults, planted into files: each is named by `vbw inspect` or `vbw diff`, with exit code 1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from vbw_np.checkpoints import find_weights, open_checkpoint
from vbw_np.checkpoints.differing import compare
from vbw_np.checkpoints.quantizing import quantize_checkpoint
from vbw_np.cli import main
from vbw_np.formats import E4M3, pack_nibbles, swizzle_scales, unpack_nibbles

HIDDEN, LAYERS = 256, 2
RNG = np.random.default_rng(11)
COLUMNS = np.exp(RNG.normal(0, 0.6, HIDDEN)).astype(np.float32)
"""What real models have: input channels of different size, the same in every layer that reads them."""


def matrix(rows: int, spread: float = 0.5) -> np.ndarray:
    channels = np.exp(RNG.normal(0, spread, (rows, 1)))
    return (RNG.standard_normal((rows, HIDDEN)) * channels * COLUMNS * 0.02).astype(np.float32)


def model(layers: int = LAYERS) -> dict[str, np.ndarray]:
    arrays = {"model.embed_tokens.weight": matrix(512, 0.1), "model.norm.weight": np.ones(HIDDEN, np.float32)}
    for i in range(layers):
        for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"):
            arrays[f"model.layers.{i}.{part}.weight"] = matrix(256)
    return arrays


Arrays = dict[str, np.ndarray]
TARGET = "model.layers.1.self_attn.k_proj"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The original, and ModelOpt's and compressed-tensors' NVFP4 of it."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "original").mkdir()
    safetensors.numpy.save_file(model(), folder / "original" / "model.safetensors")
    (folder / "original" / "config.json").write_text('{"model_type": "llama"}')
    for producer in ("modelopt", "compressed-tensors"):
        quantize_checkpoint(open_checkpoint(folder / "original"), folder / producer, "nvfp4", producer)
    return folder


DTYPES = {"U8": "uint8", "F8_E4M3": "float8_e4m3fn", "F32": "float32"}


def plant(source: Path, to: Path, change: Callable[[Arrays, dict[str, str]], None]) -> Path:
    """A copy of a folder with its arrays changed; 8-bit floats are there as bytes."""
    shutil.copytree(source, to)
    stored = open_checkpoint(source).tensors
    arrays = {name: tensor.array().copy() for name, tensor in stored.items()}
    dtypes = {name: DTYPES[tensor.dtype] for name, tensor in stored.items()}
    change(arrays, dtypes)
    kept = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    specs = {
        name: safetensors.TensorSpec(dtype=dtypes[name], shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)
        for name, a in kept.items()
    }
    (to / "model.safetensors").write_bytes(safetensors.serialize(specs))
    return to


def run(capsys, *argv: object) -> tuple[int, str]:
    code = main([str(a) for a in argv])
    out = capsys.readouterr()
    assert not out.err, out.err
    return code, out.out


def swapped_nibbles(arrays: Arrays, dtypes: dict[str, str]) -> None:
    codes = arrays[f"{TARGET}.weight"]
    arrays[f"{TARGET}.weight"] = codes >> np.uint8(4) | codes << np.uint8(4)


def split_halves(group: int) -> Callable[[Arrays, dict[str, str]], None]:
    def change(arrays: Arrays, dtypes: dict[str, str]) -> None:
        codes = unpack_nibbles(arrays[f"{TARGET}.weight"], HIDDEN)
        arrays[f"{TARGET}.weight"] = pack_nibbles(codes, "split_half", group)

    return change


def swizzled_scales(arrays: Arrays, dtypes: dict[str, str]) -> None:
    scales = arrays[f"{TARGET}.weight_scale"]
    arrays[f"{TARGET}.weight_scale"] = swizzle_scales(scales).reshape(scales.shape)


def reciprocal_level(arrays: Arrays, dtypes: dict[str, str]) -> None:
    arrays[f"{TARGET}.weight_scale_2"] = 1 / arrays[f"{TARGET}.weight_scale_2"]


def reciprocal_level_of_compressed_tensors(arrays: Arrays, dtypes: dict[str, str]) -> None:
    arrays[f"{TARGET}.weight_global_scale"] = 1 / arrays[f"{TARGET}.weight_global_scale"]


def missing_level(arrays: Arrays, dtypes: dict[str, str]) -> None:
    del arrays[f"{TARGET}.weight_scale_2"]


def amax_for_multiplier(arrays: Arrays, dtypes: dict[str, str]) -> None:
    arrays[f"{TARGET}.weight_scale_2"] = arrays[f"{TARGET}.weight_scale_2"] * np.float32(2688)


def cap_256(arrays: Arrays, dtypes: dict[str, str]) -> None:
    """Block scales of a cap of 256 (four over six) under a tensor scale of amax / 2688."""
    scales = E4M3.table[arrays[f"{TARGET}.weight_scale"]] * np.float32(256 / 448)
    arrays[f"{TARGET}.weight_scale"] = E4M3.encode(scales, "even")


def fp8_labelled_nvfp4(arrays: Arrays, dtypes: dict[str, str]) -> None:
    weight = find_weights(open_checkpoint(_FILES[0] / "modelopt"))[f"{TARGET}.weight"].float32()
    scale = np.float32(np.abs(weight).max() / 448)
    arrays[f"{TARGET}.weight"], dtypes[f"{TARGET}.weight"] = E4M3.encode(weight / scale), "float8_e4m3fn"
    arrays[f"{TARGET}.weight_scale"], dtypes[f"{TARGET}.weight_scale"] = np.array(scale), "float32"
    del arrays[f"{TARGET}.weight_scale_2"]


_FILES: list[Path] = []

FAULTS: dict[str, tuple[str, Callable[[Arrays, dict[str, str]], None], str | None, str]] = {
    # fault: (of which folder, how, what inspect --stats calls it, what diff calls it)
    "swapped nibbles": ("modelopt", swapped_nibbles, "swapped nibbles", "swapped nibbles"),
    "split halves of 16": ("modelopt", split_halves(16), "split halves of 16", "split halves of 16"),
    "split halves of 32": ("modelopt", split_halves(32), "split halves of 32", "split halves of 32"),
    "swizzled scales": ("modelopt", swizzled_scales, "scales swizzled", "scales swizzled"),
    "reciprocal": ("modelopt", reciprocal_level, "tensor scale reciprocal", "tensor scale reciprocal"),
    "reciprocal, compressed-tensors": (
        "compressed-tensors", reciprocal_level_of_compressed_tensors, "tensor scale reciprocal",
        "tensor scale reciprocal",
    ),
    "missing": ("modelopt", missing_level, "tensor scale missing", "tensor scale missing"),
    "amax": ("modelopt", amax_for_multiplier, "amax for multiplier", "amax for multiplier"),
    "448 for 256": ("modelopt", cap_256, "448 for 256", "448 for 256"),
    "FP8 labelled NVFP4": ("modelopt", fp8_labelled_nvfp4, "label and bytes disagree", "label and bytes disagree"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(files, tmp_path, capsys, fault):
    _FILES[:] = [files]
    producer, change, seen, reason = FAULTS[fault]
    bad = plant(files / producer, tmp_path / "bad", change)
    code, text = run(capsys, "inspect", bad, "--stats")
    suspicions = [line for line in text.splitlines() if line.startswith("  model.") and ".weight: " in line]
    assert code == 1 and len(suspicions) == 1, text
    assert suspicions[0].startswith(f"  {TARGET}.weight: {seen}: ")
    code, text = run(capsys, "diff", files / producer, bad)
    assert code == 1 and "1 differ beyond 0" in text and reason in text, text
    if reason != "label and bytes disagree":
        assert text.rstrip().endswith(f"the worst is {TARGET}.weight ({reason})")
    code, text = run(capsys, "diff", files / "original", bad, "--tolerance", "0.02")  # against bf16 or fp32 as well
    if fault != "FP8 labelled NVFP4":  # whose values are right
        assert code == 1 and f"the worst is {TARGET}.weight ({reason})" in text, text


@pytest.mark.parametrize("fault", ["reciprocal", "missing", "amax", "FP8 labelled NVFP4"])
def test_the_header_alone_shows_some(files, tmp_path, capsys, fault):
    _FILES[:] = [files]
    producer, change, seen, _ = FAULTS[fault]
    code, text = run(capsys, "inspect", plant(files / producer, tmp_path / "bad", change))
    assert code == 1 and f"{TARGET}.weight: {seen}" in text


def test_files_without_faults_are_not_suspicious(files, capsys):
    for folder in ("original", "modelopt", "compressed-tensors"):
        code, text = run(capsys, "inspect", files / folder, "--stats")
        assert code == 0 and text.rstrip().endswith("nothing suspicious"), text
    assert run(capsys, "diff", files / "modelopt", files / "modelopt")[0] == 0
    assert run(capsys, "diff", files / "original", files / "modelopt", "--tolerance", "0.02")[0] == 0
    assert run(capsys, "diff", files / "original", files / "modelopt")[0] == 1


def test_one_corrupted_tensor_among_hundreds(tmp_path, capsys):
    (tmp_path / "original").mkdir()
    arrays = {name: a[:32] if a.ndim == 2 else a for name, a in model(100).items()}
    safetensors.numpy.save_file(arrays, tmp_path / "original" / "model.safetensors")
    quantize_checkpoint(open_checkpoint(tmp_path / "original"), tmp_path / "good", "nvfp4", "modelopt")
    target = "model.layers.77.mlp.up_proj.weight"

    def change(arrays: Arrays, dtypes: dict[str, str]) -> None:
        arrays[target][5:7] = RNG.integers(0, 256, (2, HIDDEN // 2), np.uint8)

    bad = plant(tmp_path / "good", tmp_path / "bad", change)
    code, text = run(capsys, "diff", tmp_path / "good", bad)
    assert code == 1 and "301 of 302 weights are equal in every byte" in text
    assert f"the worst is {target} (corrupted)" in text and "the first at [5, " in text
    code, text = run(capsys, "diff", tmp_path / "original", bad, "--tolerance", "0.02", "--json")
    assert code == 1 and json.loads(text)["differences"][0]["name"] == target


def test_weights_of_two_families_that_cannot_be_compared_are_called_that():
    data = Path(__file__).with_name("data")
    four, eight = (find_weights(open_checkpoint(data / name)) for name in ("modelopt-nvfp4", "modelopt-fp8"))
    other = compare(four["model.layers.0.mlp.up_proj.weight"], eight["model.layers.0.mlp.down_proj.weight"])
    assert (other.status, other.reason) == ("not comparable", "NVFP4 here, FP8 there")


def test_nan_scales_are_named(files, tmp_path, capsys):
    def change(arrays: Arrays, dtypes: dict[str, str]) -> None:
        arrays[f"{TARGET}.weight_scale"][3, 4] = 0x7F

    code, text = run(capsys, "inspect", plant(files / "modelopt", tmp_path / "bad", change), "--stats")
    assert code == 1 and "NaN scales: 1 of 4,096 block scales" in text and "NaN values: 16 of 65,536" in text


def test_zero_scales_are_named(files, tmp_path, capsys):
    def change(arrays: Arrays, dtypes: dict[str, str]) -> None:
        arrays[f"{TARGET}.weight_scale"][:2] = 0

    code, text = run(capsys, "inspect", plant(files / "modelopt", tmp_path / "bad", change), "--stats")
    assert code == 1 and "zero scales: 32 blocks" in text
