"""A Llama of Hugging Face's as a GGUF model that llama.cpp runs: names, order of rows, metadata, tokenizer.

Values keep their bytes. Query and key rows go from transformers' order (halves of a head) to GGUF's (neighbors), as
llama.cpp's own converter does; vectors become float32, which llama.cpp wants. What it would not run, or would run as
another model, is refused by name.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints import Checkpoint, CheckpointError, Weight, find_weights, open_checkpoint
from ..checkpoints.opening import read_json
from ..checkpoints.writing import Planned, write_gguf
from ..layers.rotary import to_interleaved
from .llama import Llama, LlamaConfig
from .llama_files import GGUF_KEYS, ROPE_FACTORS, check_tensors, config_of, gguf_name
from .tokenizer import CONTROL, TOKENIZER_FILE, USER_DEFINED, words_rule

NORMAL, UNUSED = 1, 5
"""Of GGUF's token_type."""
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
"""`general.file_type` by the dtype of the matrices."""


def write_llama_gguf(source: str | os.PathLike[str] | Checkpoint, out: str | os.PathLike[str]) -> int:
    """Write an unquantized Llama, safetensors with a `config.json` and a `tokenizer.json`, as one GGUF file.

    Parameters
    ----------
    source : path or Checkpoint
    out : path of a file that does not exist yet; written whole or not at all

    Returns
    -------
    int
        The number of tensors.

    Raises
    ------
    CheckpointError
        It is no Llama, quantized already, or its tokenizer has a rule that GGUF has no name for.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    if checkpoint.kind != "safetensors":
        raise CheckpointError(f"{checkpoint.path} is a GGUF file already; `vbw quantize` and `vbw convert` take it")
    config, weights = config_of(checkpoint), find_weights(checkpoint)
    tensors = _tensors(checkpoint, config, weights)
    metadata = _sizes(checkpoint, config, weights) | _vocabulary(checkpoint, config)
    out = Path(out).expanduser()
    with tempfile.TemporaryDirectory(prefix=".gguf-", dir=out.parent) as folder:
        made = Path(folder) / "model.gguf"
        write_gguf(made, tensors, metadata)
        os.replace(made, out)
    return len(tensors)


# ---- tensors


def _tensors(checkpoint: Checkpoint, config: LlamaConfig, weights: Mapping[str, Weight]) -> list[Planned]:
    shapes = {name: parameter.shape for name, parameter in Llama(config, seed=None).named_parameters()}
    check_tensors(checkpoint, weights, shapes, str)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tensors = []
    for name, shape in shapes.items():
        weight = weights[name]
        if not weight.is_plain or weight.parts["values"].dtype not in FILE_TYPES:
            raise CheckpointError(
                f"{checkpoint.path}: {name} is {weight.format}; only models in float32, float16 or bfloat16 become "
                "GGUF here. Take the unquantized one, then quantize the GGUF file"
            )
        tensors.append(_planned(name, weight, shape, heads.get(name.rsplit(".", 2)[-2])))
    if config.rope_factors is not None:
        factors = np.array(config.rope_factors, "<f4")
        tensors.append(Planned(ROPE_FACTORS, "F32", factors.shape, lambda: [factors]))
    return tensors


def _planned(name: str, weight: Weight, shape: tuple[int, ...], heads: int | None) -> Planned:
    tensor = weight.parts["values"]

    def values() -> list[np.ndarray]:
        array = tensor.array() if len(shape) > 1 else tensor.float32()
        return [to_interleaved(array, heads) if heads else array]

    return Planned(gguf_name(name), tensor.dtype if len(shape) > 1 else "F32", shape, values)


# ---- metadata


def _sizes(checkpoint: Checkpoint, config: LlamaConfig, weights: Mapping[str, Weight]) -> dict[str, Any]:
    """The architecture's numbers; float32 where llama.cpp reads float32."""
    dtype = weights["model.layers.0.mlp.up_proj.weight"].parts["values"].dtype
    pairs: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": str(checkpoint.config.get("_name_or_path") or checkpoint.folder.resolve().name),
        "general.file_type": FILE_TYPES[dtype],
        "llama.vocab_size": config.vocab_size,
        "llama.rope.dimension_count": config.head_dim,
        "llama.attention.value_length": config.head_dim,
    }
    for ours, theirs in GGUF_KEYS.items():
        value = getattr(config, ours)
        pairs[f"llama.{theirs}"] = float(np.float32(value)) if isinstance(value, float) else int(value)
    return pairs


def _vocabulary(checkpoint: Checkpoint, config: LlamaConfig) -> dict[str, Any]:
    """Tokens, merges and the rule by which text is cut, of a byte-level BPE in `tokenizer.json`."""
    path = checkpoint.folder / TOKENIZER_FILE
    if not path.is_file():
        raise CheckpointError(f"there is no {path}, without which llama.cpp cannot read text; get it with the model")
    about = read_json(path)
    rule = words_rule(path)
    model, added = about.get("model", {}), about.get("added_tokens", [])
    try:
        ids = {int(number): str(token) for token, number in model["vocab"].items()}
        special = {int(token["id"]): (str(token["content"]), bool(token["special"])) for token in added}
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is no byte-level BPE that is known ({type(error).__name__}: {error})") from None
    tokens, kinds = [], []
    for number in range(max(config.vocab_size, 1 + max([*ids, *special], default=0))):
        word, control = special.get(number, (ids.get(number), None))
        kinds.append({None: NORMAL, True: CONTROL, False: USER_DEFINED}[control] if word is not None else UNUSED)
        tokens.append(word if word is not None else f"[PAD{number}]")
    if len(tokens) > config.vocab_size:
        raise CheckpointError(f"{path} has {len(tokens)} tokens and the model {config.vocab_size}: not of one model")
    pairs = {"model": "gpt2", "pre": rule, "tokens": tokens, "token_type": np.array(kinds, np.int32), "merges": merges}
    pairs |= _ends(checkpoint, tokens)
    template = _settings(checkpoint).get("chat_template")
    if isinstance(template, str):
        pairs["chat_template"] = template
    named = {f"tokenizer.ggml.{key}": value for key, value in pairs.items()}
    return {key.replace("ggml.chat_template", "chat_template"): value for key, value in named.items()}


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _ends(checkpoint: Checkpoint, tokens: list[str]) -> dict[str, Any]:
    """Which tokens begin, end and fill up a text, and whether one is put before it."""
    about = _settings(checkpoint)
    found: dict[str, Any] = {}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        number = checkpoint.config.get(f"{ours}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if number is None:
            word = about.get(f"{ours}_token")
            word = word.get("content") if isinstance(word, dict) else word
            number = tokens.index(word) if word in tokens else None
        if type(number) is int and 0 <= number < len(tokens):
            found[f"{theirs}_token_id"] = number
    if isinstance(about.get("add_bos_token"), bool):
        found["add_bos_token"] = about["add_bos_token"]
    elif "bos_token_id" in found:
        found["add_bos_token"] = _adds_bos(checkpoint.folder / TOKENIZER_FILE, tokens[found["bos_token_id"]])
    return found


def _adds_bos(path: Path, word: str) -> bool:
    """Whether the file's post-processor puts that token before a text."""
    return json.dumps(word) in json.dumps(read_json(path).get("post_processor") or {})
