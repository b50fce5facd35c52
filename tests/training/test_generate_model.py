"""``vbw generate --model``: a tiny random Llama in a GGUF file, written by the library gguf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vbw_np.cli import main
from vbw_np.layers.rotary import to_interleaved
from vbw_np.models.generation import generate
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.models.llama_cards import place_llama, recipe_of, traffic
from vbw_np.models.llama_files import gguf_name, load_llama
from vbw_np.models.tokenizer import load_tokenizer

gguf = pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
SIGNS = [chr(b) for b in SHOWN] + [chr(256 + i) for i in range(256 - len(SHOWN))]
TOKENS = ["<|end|>", *SIGNS, "th", "the"]
CONFIG = LlamaConfig(
    vocab_size=len(TOKENS), hidden_size=64, intermediate_size=96, max_position_embeddings=40, rope_theta=500.0
)


def write_model(path: Path, architecture: str = "llama", merges: bool = True) -> Path:
    model = Llama(CONFIG, seed=5)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(CONFIG.rope_theta)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
    writer.add_eos_token_id(0)
    if merges:
        writer.add_token_merges(["t h", "th e"])
    for name, parameter in model.named_parameters():
        values = parameter.data * (1 if parameter.ndim == 1 else 8)
        for part, heads in ((".q_proj.", CONFIG.num_attention_heads), (".k_proj.", CONFIG.num_key_value_heads)):
            values = to_interleaved(values, heads) if part in name else values
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def call(file: Path, *options: object) -> int:
    return main(["generate", "--model", str(file), "--prompt", "the 12", *map(str, options)])


def test_text_figures_and_json_are_those_of_the_library(file: Path, capsys: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ("--max-new-tokens", 9, "--temperature", 0.7, "--kv-keys", "nvfp4", "--kv-values", "mxfp4")
    assert call(file, *options, "--json", out) == 0
    told, record = capsys.readouterr(), json.loads(out.read_text("utf-8"))
    model, tokenizer = load_llama(file), load_tokenizer(file)
    for device in place_llama(model):
        device.drop_masters()
    prompt = tokenizer.encode("the 12")[None]
    cache = {"keys": "nvfp4", "values": "mxfp4"}
    written = generate(model, prompt, 9, temperature=0.7, stop=tokenizer.stop, **cache).tokens[0]
    assert record["tokens"] == written.tolist()
    assert told.out == f"the 12{tokenizer.decode(written, special=False)}\n"
    body, head = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64), len(TOKENS) * 64
    nvfp4, q8 = body // 2 + body // 16, head + head // 32 * 2  # codes and block scales
    # More at most: the head's scales as float32, and a few numbers a card.
    assert 0 <= record["took"]["bytes_read_a_token"] - nvfp4 - q8 <= head // 32 * 2 + 15 * 16
    assert record["took"]["bytes_kept_a_token"] == model.cache(1, 1, **cache).token_nbytes
    assert "bits a weight on 15 cards" in told.err and "MB of weights read a token" in told.err
    assert traffic(model).weights == body + head


@pytest.mark.parametrize("recipe", ["fp32", "nf4", "mxfp4", "nvfp4-train"])
def test_every_kind_of_recipe_writes(recipe: str, file: Path, capsys: Any) -> None:
    assert call(file, "--max-new-tokens", 3, "--recipe", recipe, "--temperature", 0) == 0
    assert f"recipe {recipe}" in capsys.readouterr().err


def test_the_prompt_and_the_text_may_fill_the_context_and_no_more(file: Path, capsys: Any) -> None:
    assert call(file, "--max-new-tokens", 36) == 0
    capsys.readouterr()
    assert call(file, "--max-new-tokens", 37) == 2
    error = capsys.readouterr().err
    assert "41 tokens, prompt and answer together, are more than the 40" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "nvpf4"], "did you mean nvfp4"),
        (["--kv-keys", "seed-v6"], "cannot be kept as seed-v6"),
        (["--kv-values", "nothing"], "nothing"),
        (["--head", "nothing"], "nothing"),
        (["--checkpoint", "x"], "not allowed with argument --model"),
    ],
)
def test_bad_settings_are_one_line(file: Path, options: list[str], message: str, capsys: Any) -> None:
    assert call(file, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_bad_files_are_one_line(file: Path, tmp_path: Path, capsys: Any) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:-5000])
    wrong = {
        cut: "it is cut off",
        write_model(tmp_path / "bert.gguf", architecture="bert"): "architecture 'bert'; known here: llama",
        write_model(tmp_path / "merges.gguf", merges=False): "has no tokenizer.ggml.merges",
        tmp_path / "none.gguf": "none.gguf",
    }
    for path, message in wrong.items():
        assert call(path) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, path


def test_any_block_format_is_a_recipe() -> None:
    assert recipe_of("int4-g32").weight == "int4-g32" and recipe_of("nvfp4").summary.startswith("NVFP4")
    with pytest.raises(ValueError, match="there is no recipe"):
        recipe_of("int3")
