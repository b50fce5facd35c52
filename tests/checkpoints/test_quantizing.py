"""Whole models quantized: against quantizing each matrix at once, what is kept, memory, whole or nothing."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from vbw_np.checkpoints import CheckpointError, find_weights, open_checkpoint
from vbw_np.checkpoints import quantizing as room
from vbw_np.checkpoints.converting import convert_checkpoint
from vbw_np.checkpoints.measuring import measure_checkpoints
from vbw_np.checkpoints.profiles_of import writing_profile
from vbw_np.checkpoints.quantizing import quantize_checkpoint
from vbw_np.checkpoints.writing import Planned, write_gguf, write_safetensors
from vbw_np.formats import quantize, relative_mse
from vbw_np.formats.ggml_blocks import to_blocks_of

DATA = Path(__file__).with_name("data")
PAIRS = [
    ("nvfp4", "compressed-tensors"), ("nvfp4", "modelopt"), ("nvfp4", "torchao"), ("nvfp4", "gguf"),
    ("nvfp4-4over6", "modelopt"), ("mxfp4", "compressed-tensors"), ("mxfp4", "torchao"), ("mxfp4", "gguf"),
    ("mxfp6-e2m3", "compressed-tensors"), ("mxfp8-e4m3", "compressed-tensors"), ("mxfp8-e4m3", "modelopt"),
    ("fp8-tensor", "modelopt"), ("fp8-tensor", "compressed-tensors"), ("fp8-row", "compressed-tensors"),
    ("fp8-128x128", "compressed-tensors"), ("int8-row", "compressed-tensors"),
    ("int4-offset8-g64", "compressed-tensors"), ("int4-zero-g64", "compressed-tensors"),
    ("mxfp8-e5m2", "torchao"), ("q4_0", "gguf"), ("q4_1", "gguf"), ("q8_0", "gguf"), ("iq4_nl", "gguf"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "producer"), PAIRS)
def test_streamed_pieces_are_the_whole_quantized_at_once(tmp_path, monkeypatch, name, producer):
    monkeypatch.setattr(room, "PIECE", 20 * 128)  # several pieces a matrix, the last one smaller
    original = find_weights(open_checkpoint(DATA / "original"))
    done = quantize_checkpoint(open_checkpoint(DATA / "original"), tmp_path / "out", name, producer)
    after = find_weights(open_checkpoint(tmp_path / "out"))
    assert len(done.layers) == 7
    for layer in done.layers:
        x = original[layer.name].float32()
        whole = quantize(x, writing_profile(name, producer), measure=False)
        packed = after[layer.name].packed()
        np.testing.assert_array_equal(packed.codes, whole.codes)
        np.testing.assert_array_equal(packed.scales, whole.scales)
        assert layer.relative_mse == pytest.approx(relative_mse(x, whole.dequantize()), rel=1e-6)
        error = np.abs(whole.dequantize() - x)
        assert layer.largest_error == error.max() and error[tuple(layer.largest_error_at)] == error.max()
    for kept in done.kept:
        assert after[kept].parts["values"].bytes().tobytes() == original[kept].parts["values"].bytes().tobytes()


def test_layers_by_pattern(tmp_path):
    source = open_checkpoint(DATA / "original")
    done = quantize_checkpoint(source, tmp_path / "a", layers=["*mlp*", "lm_head*"], keep=["*down_proj*"])
    names = {layer.name for layer in done.layers}
    assert names == {"model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"}
    assert done.kept["model.layers.0.mlp.down_proj.weight"] == "kept by its name"
    assert done.kept["model.layers.0.self_attn.q_proj.weight"] == "not asked for"
    again = open_checkpoint(tmp_path / "a")
    assert quantize_checkpoint(again, tmp_path / "b").kept["lm_head.weight"].startswith("already quantized")
    with pytest.raises(CheckpointError, match="matches no weight"):
        quantize_checkpoint(source, tmp_path / "c", layers=["*nothing*"])
    with pytest.raises(CheckpointError, match=r"pattern '\*nothing\*'"):  # one pattern, not one a letter
        quantize_checkpoint(source, tmp_path / "c", keep="*nothing*")
    with pytest.raises(CheckpointError, match="no weight is left"):
        quantize_checkpoint(source, tmp_path / "c", keep=["*"])


def test_q4_k_is_written_where_rows_are_long_enough(tmp_path):
    x = np.random.default_rng(5).standard_normal((40, 512)).astype(np.float32)
    safetensors.numpy.save_file({"a.weight": x, "b.weight": x[:, :96].copy()}, tmp_path / "m.safetensors")
    done = quantize_checkpoint(open_checkpoint(tmp_path / "m.safetensors"), tmp_path / "out", "q4_k", "gguf")
    assert [layer.name for layer in done.layers] == ["a.weight"] and "no multiple of 256" in done.kept["b.weight"]
    stored = open_checkpoint(tmp_path / "out")["a.weight"]
    assert stored.dtype == "Q4_K" and stored.bytes().tobytes() == to_blocks_of(quantize(x, "q4_k"))[1].tobytes()


def test_block_types_of_a_gguf_file_keep_their_bytes(tmp_path):
    """Those that nobody writes here as well: a file of GGUF's goes into one of GGUF's byte by byte."""
    source = open_checkpoint(DATA / "gguf")
    tensors = [Planned(n, t.dtype, t.shape, lambda t=t: [t.bytes()]) for n, t in source.tensors.items()]
    tensors.append(Planned("more.weight", "F32", (8, 256), lambda: [np.ones((8, 256), np.float32)]))
    write_gguf(tmp_path / "m.gguf", tensors, {"general.architecture": "llama"})
    done = quantize_checkpoint(open_checkpoint(tmp_path / "m.gguf"), tmp_path / "out", "q4_k", "gguf")
    assert [layer.name for layer in done.layers] == ["more.weight"]
    convert_checkpoint(open_checkpoint(tmp_path / "m.gguf"), tmp_path / "copy", "gguf")
    for folder in ("out", "copy"):
        after = open_checkpoint(tmp_path / folder)
        for name, tensor in source.tensors.items():
            assert after[name].dtype == tensor.dtype and after[name].bytes().tobytes() == tensor.bytes().tobytes()


def test_a_model_that_is_quantized_already_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"already quantized \(int4-zero-g64\)\. `vbw convert IN OUT"):
        quantize_checkpoint(open_checkpoint(DATA / "awq"), tmp_path / "out")


def test_what_cannot_be_quantized_is_named(tmp_path):
    source = open_checkpoint(DATA / "original")
    for name, producer, words in [
        ("nvfp5", "modelopt", "unknown format"), ("nf4", "modelopt", "does not store nf4"),
        ("q4_k", "torchao", "does not store"), ("nvfp4", "tensorrt", "unknown producer"),
        ("q4_k", "gguf", "mlp.down_proj.weight: its 64 inputs are no multiple of 256"),
    ]:  # fmt: skip
        with pytest.raises(CheckpointError, match=words):
            quantize_checkpoint(source, tmp_path / "out", name, producer)
    x = np.ones((4, 64), np.float32)
    x[2, 5] = np.nan
    safetensors.numpy.save_file({"a.weight": x}, tmp_path / "nan.safetensors")
    for name in ("nvfp4", "mxfp4"):
        with pytest.raises(ValueError, match=r"row 2|\[2, 5\]"):
            quantize_checkpoint(open_checkpoint(tmp_path / "nan.safetensors"), tmp_path / "out", name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nan.safetensors"]


def test_memory_stays_below_the_largest_tensor(tmp_path):
    """A streamed model needs less than 1.2 times its largest tensor beyond the mapped file."""
    rows, width = 12_000, 1024
    x = np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)
    safetensors.numpy.save_file({"a.weight": x, "b.weight": x[:64].copy()}, tmp_path / "m.safetensors")
    largest = x.nbytes
    del x
    source = open_checkpoint(tmp_path / "m.safetensors")
    tracemalloc.start()
    try:
        quantize_checkpoint(source, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * largest


def test_measure_agrees_with_the_report(tmp_path):
    source = open_checkpoint(DATA / "original")
    done = quantize_checkpoint(source, tmp_path / "out", "mxfp4")
    losses = {loss.name: loss for loss in measure_checkpoints(source, open_checkpoint(tmp_path / "out"))}
    assert set(losses) == {layer.name for layer in done.layers}
    for layer in done.layers:
        assert losses[layer.name].sqnr_db == pytest.approx(layer.sqnr_db, abs=1e-6)
        assert losses[layer.name].largest_error_at == layer.largest_error_at
    ordered = [loss.sqnr_db for loss in measure_checkpoints(source, open_checkpoint(tmp_path / "out"))]
    assert ordered == sorted(ordered)
    with pytest.raises(CheckpointError, match="no quantized weight"):
        measure_checkpoints(source, source)


def test_shards_and_their_index(tmp_path):
    from vbw_np.checkpoints.converting import copied_tensors

    weights = find_weights(open_checkpoint(DATA / "original"))
    tmp_path.joinpath("out").mkdir()
    planned = [t for weight in weights.values() for t in copied_tensors(weight, "compressed-tensors")]
    write_safetensors(tmp_path / "out", planned, {"format": "pt"}, shard_bytes=40_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    again = find_weights(open_checkpoint(tmp_path / "out"))
    assert set(again) == set(weights)
    for name, weight in weights.items():
        np.testing.assert_array_equal(again[name].float32(), weight.float32())
