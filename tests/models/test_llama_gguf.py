"""A Llama of Hugging Face's as GGUF: the same weights and tokens when it is read again, or one line of why not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy

from vbw_np.checkpoints import CheckpointError, open_checkpoint
from vbw_np.checkpoints.differing import diff_checkpoints
from vbw_np.checkpoints.measuring import measure_checkpoints
from vbw_np.checkpoints.names import to_hf
from vbw_np.checkpoints.quantizing import quantize_checkpoint
from vbw_np.cli import main
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.models.llama_files import config_to_json, load_llama
from vbw_np.models.llama_gguf import write_llama_gguf
from vbw_np.models.tokenizer import WORDS, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")
TEXT = "the cat's 1234 hats, déjà vu\n  the end<|end|>"


def tokenizer_file(path: Path, rule: str, vocabulary: int = 300) -> None:
    """A byte-level BPE trained on a few words."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer, made.decoder = WORDS[rule](tokenizers), tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<|start|>", "<|end|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator([TEXT] * 3 + ["then the other hat", "cats and the cat"], trainer)
    made.save(str(path))


def folder(path: Path, rule: str = "smollm", **changes: object) -> Path:
    """A small Llama as transformers saves it."""
    config = LlamaConfig(vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, rms_norm_eps=1e-6,
                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)  # fmt: skip
    model = Llama(config, seed=3)
    path.mkdir()
    arrays = {name: parameter.data for name, parameter in model.named_parameters()}
    safetensors.numpy.save_file(arrays, path / "model.safetensors")
    settings = json.loads(config_to_json(config)) | {"bos_token_id": 0, "eos_token_id": 1} | changes
    (path / "config.json").write_text(json.dumps(settings))
    tokenizer_file(path / "tokenizer.json", rule)
    (path / "tokenizer_config.json").write_text('{"add_bos_token": false, "chat_template": "{{ messages }}"}')
    return path


@pytest.mark.parametrize("rule", ["gpt-2", "smollm", "llama-bpe"])
def test_weights_and_tokens_come_back(tmp_path, rule):
    source, out = folder(tmp_path / "hf", rule), tmp_path / "m.gguf"
    assert main(["gguf", str(source), str(out)]) == 0
    one, two = load_llama(source), load_llama(out)
    assert replace(one.config, rms_norm_eps=float(np.float32(1e-6))) == two.config  # float32 in GGUF
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data, name)
    before, after = load_tokenizer(source), load_tokenizer(out)
    assert before.encode(TEXT).tolist() == after.encode(TEXT).tolist() and after.decode(after.encode(TEXT)) == TEXT
    assert after.stop == {1} and after.start == ()
    fields = {k: f.contents() for k, f in gguf.GGUFReader(out).fields.items() if not k.startswith("GGUF.")}
    assert fields["tokenizer.ggml.pre"] == rule and fields["llama.attention.head_count_kv"] == 2
    assert fields["llama.attention.layer_norm_rms_epsilon"] == np.float32(1e-6)
    assert len(fields["tokenizer.ggml.tokens"]) == 320 and fields["tokenizer.ggml.tokens"][-1] == "[PAD319]"
    assert fields["tokenizer.ggml.token_type"][:3] == [3, 3, 1] and fields["tokenizer.ggml.token_type"][-1] == 5
    assert fields["tokenizer.chat_template"] == "{{ messages }}" and fields["tokenizer.ggml.eos_token_id"] == 1


def test_rows_of_queries_lie_as_llama_cpp_has_them(tmp_path):
    """Row 2 i of a head is its row i, row 2 i + 1 its row i + half: the converter's permutation, written out."""
    source = folder(tmp_path / "hf")
    write_llama_gguf(source, tmp_path / "m.gguf")
    ours = open_checkpoint(tmp_path / "m.gguf")["blk.1.attn_k.weight"].array()
    theirs = safetensors.numpy.load_file(source / "model.safetensors")["model.layers.1.self_attn.k_proj.weight"]
    for head in range(2):
        for i in range(8):
            np.testing.assert_array_equal(ours[16 * head + 2 * i], theirs[16 * head + i])
            np.testing.assert_array_equal(ours[16 * head + 2 * i + 1], theirs[16 * head + 8 + i])


@pytest.mark.parametrize("fmt", ["f32", "q8_0", "q4_1", "mxfp4"])
def test_diff_and_measure_know_the_order_of_rows(tmp_path, fmt):
    """The original against llama.cpp's file of it: the loss of the format, of queries and keys as of the others."""
    source = folder(tmp_path / "hf")
    write_llama_gguf(source, tmp_path / "m.gguf")
    a, b = open_checkpoint(source), open_checkpoint(tmp_path / "m.gguf")
    if fmt == "f32":
        assert {d.status for d in diff_checkpoints(a, b).differences} == {"equal", "equal values"}
        assert not diff_checkpoints(b, a).beyond(0) and not diff_checkpoints(b, b).beyond(0)
        return
    quantize_checkpoint(b, tmp_path / "q", fmt, "gguf", layers=["blk.*"])
    quantized = open_checkpoint(tmp_path / "q")
    losses = {loss.name: loss for loss in measure_checkpoints(a, quantized)}
    same = {to_hf(loss.name): loss for loss in measure_checkpoints(b, quantized)}
    assert len(losses) == 14
    for name, loss in losses.items():
        assert loss.sqnr_db == pytest.approx(same[name].sqnr_db, abs=1e-9) and loss.sqnr_db > 15
    assert not diff_checkpoints(a, quantized).beyond(10 ** (-1.5)) and not diff_checkpoints(quantized, a).beyond(0.04)
    shutil.copytree(tmp_path / "q", tmp_path / "bad")
    tensor = quantized["blk.1.attn_k.weight"]
    raw = bytearray((tmp_path / "bad" / "model.gguf").read_bytes())
    blocks = np.frombuffer(raw, np.uint8)[tensor.offset : tensor.offset + tensor.nbytes]
    if fmt == "mxfp4":  # a mistake in rows of keys has its name as elsewhere
        blocks = blocks.reshape(-1, 17)
        blocks[:, 1:] = blocks[:, 1:] >> 4 | blocks[:, 1:] << 4
        (tmp_path / "bad" / "model.gguf").write_bytes(bytes(raw))
        worst = diff_checkpoints(a, open_checkpoint(tmp_path / "bad")).beyond(0.04)
        assert [d.name for d in worst] == ["model.layers.1.self_attn.k_proj.weight"]


def test_what_llama_cpp_would_not_run_is_refused_by_name(tmp_path, capsys):
    out = tmp_path / "m.gguf"
    for number, (changes, words) in enumerate([
        ({"model_type": "bert"}, "architecture 'bert'"), ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"vocab_size": 319}, "has shape"),
    ]):  # fmt: skip
        with pytest.raises(CheckpointError, match=words):
            write_llama_gguf(folder(tmp_path / f"{number}", **changes), out)
    source = folder(tmp_path / "hf")
    made = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(source / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="by a rule that is not known.*Whitespace"):
        write_llama_gguf(source, out)
    (source / "tokenizer.json").unlink()
    assert main(["gguf", str(source), str(out)]) == 2 and main(["gguf", str(source), "m.bin"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    quantize_checkpoint(open_checkpoint(folder(tmp_path / "whole")), tmp_path / "q", "nvfp4")
    with pytest.raises(CheckpointError, match="only models in float32"):
        write_llama_gguf(tmp_path / "q", out)
    assert not out.exists() and not list(tmp_path.glob(".gguf*"))
