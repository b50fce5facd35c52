"""Conversions: bytes there and back, the exact rule of the tensor scale, fused layers, losses, whole or nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from vbw_np.checkpoints import CheckpointError, find_weights, open_checkpoint
from vbw_np.checkpoints.converting import convert_checkpoint, multiplier_of
from vbw_np.checkpoints.quantizing import quantize_checkpoint
from vbw_np.checkpoints.suspicion import fused_groups
from vbw_np.checkpoints.targets import HOLDS, LEVELS, reciprocal
from vbw_np.checkpoints.writing import new_folder

DATA = Path(__file__).with_name("data")


def through(source: Path, tmp_path: Path, *producers: str) -> Path:
    for number, producer in enumerate(producers):
        out = tmp_path / f"{number}-{producer}"
        convert_checkpoint(open_checkpoint(source), out, producer)
        source = out
    return source


def assert_same_tensors(a: Path, b: Path) -> None:
    one, two = open_checkpoint(a), open_checkpoint(b)
    assert sorted(one) == sorted(two)
    for name in one:
        assert (one[name].dtype, one[name].shape) == (two[name].dtype, two[name].shape), name
        assert one[name].bytes().tobytes() == two[name].bytes().tobytes(), name


NVFP4 = ("modelopt", "compressed-tensors", "torchao", "gguf")


@pytest.mark.parametrize("start", range(4))
def test_nvfp4_once_around_gives_every_byte_back(tmp_path, start):
    """Tensor scales without a reciprocal that leads back are among them: what a convention loses is kept."""
    around = [*NVFP4[start:], *NVFP4[:start]]
    source = DATA / "modelopt-nvfp4"
    if start:
        source = through(source, tmp_path, around[0])
    back = through(
        source, tmp_path / "around" if (tmp_path / "around").mkdir() is None else tmp_path, *around[1:], around[0]
    )
    assert_same_tensors(source, back)


@pytest.mark.parametrize(("folder", "to"), [
    ("compressed-tensors-mxfp4", "torchao"), ("compressed-tensors-mxfp4", "gguf"),
    ("compressed-tensors-mxfp8", "modelopt"), ("compressed-tensors-mxfp8", "torchao"),
    ("compressed-tensors-nvfp4", "modelopt"), ("compressed-tensors-nvfp4", "torchao"),
])  # fmt: skip
def test_there_and_back_again(tmp_path, folder, to):
    assert_same_tensors(DATA / folder, through(DATA / folder, tmp_path, to, "compressed-tensors"))


@pytest.mark.parametrize("folder", sorted(p.name for p in DATA.iterdir() if p.is_dir()))
@pytest.mark.parametrize("to", HOLDS)
def test_what_is_converted_decodes_to_the_same_values(tmp_path, folder, to):
    """Every file into every layout: the same values, or one line that says what the target does not store."""
    source = open_checkpoint(DATA / folder)
    try:
        convert_checkpoint(source, tmp_path / "out", to)
    except CheckpointError as error:
        assert "\n" not in str(error) and not (tmp_path / "out").exists() and not list(tmp_path.iterdir())
        return
    before, after = find_weights(source), find_weights(open_checkpoint(tmp_path / "out"))
    assert set(before) == set(after)
    for name, weight in before.items():
        if weight.is_float:
            mine, theirs = weight.float32(), after[name].float32()
            if {weight.producer, after[name].producer} & {"compressed-tensors"} and "nvfp4" in weight.format:
                np.testing.assert_allclose(mine, theirs, rtol=3e-7, atol=0)  # (s / g) and s * t round differently
            else:
                np.testing.assert_allclose(mine, theirs, rtol=1.3e-7, atol=0)


def test_the_tensor_scale_comes_back_in_both_conventions():
    rng = np.random.default_rng(0)
    scales = np.exp(rng.uniform(-12, 2, 4000)).astype(np.float32)
    lost = 0
    for x in scales:
        levels: dict[str, str] = {}
        assert multiplier_of("w", "tensor_scale", x, "multiplier", levels) == x
        lost += reciprocal(reciprocal(x)) != x
        assert (
            multiplier_of("w", "tensor_scale", reciprocal(x), "reciprocal", levels) == x
        )  # modelopt -> ct -> modelopt
        levels = {}
        multiplier = multiplier_of("w", "tensor_scale", x, "reciprocal", levels)
        kept = levels.get("tensor_scale w reciprocal")
        assert reciprocal(multiplier) == x or np.float32(float.fromhex(kept)) == x
    assert 100 < lost < 2000  # so the metadata is needed


def test_lossy_is_asked_for_and_measured(tmp_path):
    source = open_checkpoint(DATA / "awq")
    with pytest.raises(CheckpointError, match="--lossy FORMAT"):
        convert_checkpoint(source, tmp_path / "out", "modelopt")
    done = convert_checkpoint(source, tmp_path / "out", "modelopt", lossy="nvfp4")
    assert len(done.losses) == 7 and done.moved == 0 and all(0.005 < loss < 0.02 for loss in done.losses.values())
    assert {w.format for w in find_weights(open_checkpoint(tmp_path / "out")).values()} >= {"modelopt-nvfp4"}


def test_int4_moves_from_awq_and_gptq_to_compressed_tensors(tmp_path):
    for folder in ("awq", "gptq"):
        done = convert_checkpoint(open_checkpoint(DATA / folder), tmp_path / folder, "compressed-tensors")
        assert done.moved == 7 and not done.losses
        before, after = (find_weights(open_checkpoint(p)) for p in (DATA / folder, tmp_path / folder))
        for name, weight in before.items():
            np.testing.assert_array_equal(weight.float32(), after[name].float32())


def test_fused_layers_get_one_tensor_scale_and_the_loss_is_stated(tmp_path):
    source = DATA / "modelopt-nvfp4"
    quantize_checkpoint(open_checkpoint(DATA / "original"), tmp_path / "apart", "nvfp4", "modelopt")
    apart = find_weights(open_checkpoint(tmp_path / "apart"))
    groups = fused_groups(apart)
    assert {g.rsplit(".", 1)[1] for g in groups} == {"qkv", "gate_up"}
    done = convert_checkpoint(open_checkpoint(tmp_path / "apart"), tmp_path / "fused", "compressed-tensors", fuse=True)
    fused = find_weights(open_checkpoint(tmp_path / "fused"))
    assert not fused_groups(fused) and 2 <= len(done.merged) <= 3
    for name, loss in done.merged.items():
        x, y = apart[name].float32(), fused[name].float32()
        assert loss == pytest.approx(np.sum((x - y) ** 2, dtype=np.float64) / np.sum(x**2, dtype=np.float64), rel=0.01)
        assert 0 < loss < 0.003
        assert np.array_equal(apart[name].packed().codes, fused[name].packed().codes)
    assert source.exists()


def test_suspicious_files_are_not_converted(tmp_path):
    source = open_checkpoint(DATA / "modelopt-nvfp4")
    del source.tensors["model.layers.0.mlp.up_proj.weight_scale_2"]
    with pytest.raises(CheckpointError, match="tensor scale missing"):
        convert_checkpoint(source, tmp_path / "out", "compressed-tensors")


def test_configs_say_what_is_in_the_folder(tmp_path):
    convert_checkpoint(open_checkpoint(DATA / "modelopt-nvfp4"), tmp_path / "ct", "compressed-tensors")
    quantization = json.loads((tmp_path / "ct" / "config.json").read_text())["quantization_config"]
    assert quantization["format"] == "nvfp4-pack-quantized" and quantization["ignore"] == ["lm_head"]
    convert_checkpoint(open_checkpoint(tmp_path / "ct"), tmp_path / "mo", "modelopt")
    assert json.loads((tmp_path / "mo" / "hf_quant_config.json").read_text())["quantization"]["quant_algo"] == "NVFP4"
    assert "hf_quant_config.json" not in [p.name for p in (tmp_path / "ct").iterdir()]


def test_nothing_is_overwritten_or_left_half_written(tmp_path):
    source = open_checkpoint(DATA / "modelopt-nvfp4")
    (tmp_path / "there").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        convert_checkpoint(source, tmp_path / "there", "torchao")
    with pytest.raises(CheckpointError, match="does not exist"):
        convert_checkpoint(source, tmp_path / "no" / "where", "torchao")
    with pytest.raises(CheckpointError, match="unknown target"):
        convert_checkpoint(source, tmp_path / "out", "tensorrt")
    with pytest.raises(RuntimeError, match="stop"), new_folder(tmp_path / "half") as folder:
        (folder / "file").write_text("x")
        raise RuntimeError("stop")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal that ends a program this way")
def test_a_terminated_program_leaves_nothing(tmp_path):
    with pytest.raises(SystemExit) as ended, new_folder(tmp_path / "half") as folder:
        (folder / "file").write_text("x")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert ended.value.code == 143 and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_damaged_kept_levels_are_named(tmp_path):
    source = open_checkpoint(DATA / "modelopt-nvfp4")
    source.metadata[LEVELS] = '{"a": "nonsense"}'
    with pytest.raises(CheckpointError, match=r"vbw_np\.levels is damaged"):
        convert_checkpoint(source, tmp_path / "out", "torchao")
