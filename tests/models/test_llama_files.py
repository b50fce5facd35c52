"""Llamas from safetensors and GGUF files, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from vbw_np.checkpoints import CheckpointError
from vbw_np.layers.rotary import to_interleaved
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.models.llama_files import config_from_json, config_to_json, gguf_name, load_llama

CONFIG = LlamaConfig(
    vocab_size=19, hidden_size=16, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2, rope_theta=500.0
)
OWN_HEAD = LlamaConfig(**{**vars(CONFIG), "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True})
IDS = np.array([[1, 5, 2, 18, 0, 7]])


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """The format in full: length of the header, header, data."""
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in tensors.values()))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def write_gguf(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, int | float | str]) -> None:
    """GGUF v3 with float32 tensors."""
    kinds = {int: (4, "<I"), float: (6, "<f")}
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        if isinstance(value, str):
            out += text(key) + struct.pack("<I", 8) + text(value)
        else:
            kind, form = kinds[type(value)]
            out += text(key) + struct.pack("<I", kind) + struct.pack(form, value)
    offset = 0
    for name, array in tensors.items():
        out += text(name) + struct.pack(f"<I{array.ndim}Q", array.ndim, *array.shape[::-1])
        out += struct.pack("<IQ", 0, offset)
        offset += -(-array.nbytes // 32) * 32
    out += b"\0" * (-len(out) % 32)
    for array in tensors.values():
        out += array.tobytes() + b"\0" * (-array.nbytes % 32)
    path.write_bytes(out)


def gguf_of(model: Llama) -> tuple[dict[str, np.ndarray], dict[str, int | float | str]]:
    config, tensors = model.config, {}
    for name, parameter in model.named_parameters():
        array = parameter.data
        for part, heads in ((".q_proj.", config.num_attention_heads), (".k_proj.", config.num_key_value_heads)):
            if part in name:  # as llama.cpp's converter does
                array = np.ascontiguousarray(to_interleaved(array, heads))
        tensors[gguf_name(name)] = array
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": config.rope_theta,
        "llama.rope.dimension_count": config.head_dim,
    }
    return tensors, metadata


def folder_of(path: Path, model: Llama, **changes: object) -> Path:
    write_safetensors(path / "model.safetensors", {n: p.data for n, p in model.named_parameters()})
    settings = json.loads(config_to_json(model.config)) | changes
    (path / "config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("config", [CONFIG, OWN_HEAD])
def test_both_kinds_of_file_give_the_model_back(config: LlamaConfig, tmp_path: Path) -> None:
    model = Llama(config, seed=3)
    write_gguf(tmp_path / "model.gguf", *gguf_of(model))
    (tmp_path / "hf").mkdir()
    for source in (tmp_path / "model.gguf", folder_of(tmp_path / "hf", model)):
        loaded = load_llama(source)
        assert loaded.config.tie_word_embeddings == config.tie_word_embeddings
        for name, values in model.state_dict().items():
            assert np.array_equal(loaded.state_dict()[name], values), name
        assert np.array_equal(loaded(IDS).data, model(IDS).data)


def test_nothing_is_drawn_for_weights_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, model := Llama(OWN_HEAD))
    monkeypatch.setattr(np.random, "default_rng", None)
    loaded = load_llama(tmp_path)
    assert np.array_equal(loaded(IDS).data, model(IDS).data)
    empty = Llama(CONFIG, seed=None)
    assert not empty.lm_head.weight.data.any() and (empty.model.norm.weight.data == 1).all()


def test_rotary_factors_come_from_a_gguf_file(tmp_path: Path) -> None:
    model = Llama(LlamaConfig(**{**vars(CONFIG), "rope_factors": (1.0, 4.0)}))
    tensors, metadata = gguf_of(model)
    write_gguf(tmp_path / "model.gguf", tensors | {"rope_freqs.weight": np.array([1, 4], np.float32)}, metadata)
    assert np.array_equal(load_llama(tmp_path / "model.gguf")(IDS).data, model(IDS).data)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "qwen3"}, "architecture 'qwen3'; known here: llama"),
        ({"hidden_act": "gelu"}, "activation 'gelu' is not known"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rotary scaling 'yarn' is not known"),
        ({"num_key_value_heads": 3}, "cannot share 3 heads"),
        ({"hidden_size": None}, "does not say hidden_size"),
        ({"intermediate_size": 32}, r"gate_proj.weight has shape \(24, 16\), the model \(32, 16\)"),
        ({"num_hidden_layers": 3}, "lacks 9 tensors"),
        ({"num_hidden_layers": 1}, "no place for: model.layers.1."),
    ],
)
def test_what_is_not_known_is_refused_by_name(changes: dict, complaint: str, tmp_path: Path) -> None:
    folder_of(tmp_path, Llama(CONFIG), **changes)
    with pytest.raises(CheckpointError, match=complaint):
        load_llama(tmp_path)


def test_files_without_what_is_needed(tmp_path: Path) -> None:
    folder_of(tmp_path, Llama(CONFIG))
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json beside it"):
        load_llama(tmp_path)
    tensors, metadata = gguf_of(Llama(CONFIG))
    write_gguf(tmp_path / "model.gguf", tensors, metadata | {"general.architecture": "gemma3"})
    with pytest.raises(CheckpointError, match="architecture 'gemma3'"):
        load_llama(tmp_path / "model.gguf")


def test_a_configuration_is_read_with_transformers_defaults() -> None:
    settings = {
        "model_type": "llama", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip
    config = config_from_json(settings)
    assert (config.num_key_value_heads, config.tie_word_embeddings, config.rms_norm_eps) == (2, False, 1e-6)
    assert config_from_json(settings | {"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}}).rope_theta == 9
