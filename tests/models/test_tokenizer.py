"""Text to ids and back with the vocabulary of a file; what is wrong with one is said in a line."""

from __future__ import annotations

import builtins
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vbw_np.checkpoints import CheckpointError, open_checkpoint
from vbw_np.errors import UserError
from vbw_np.models import tokenizer
from vbw_np.models.tokenizer import WORDS, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")

# Every byte under the sign that GPT-2 shows it by: printable ones as they are, the others from U+0100 on.
SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
SIGN = {byte: chr(byte) for byte in SHOWN} | {
    byte: chr(256 + place) for place, byte in enumerate(b for b in range(256) if b not in SHOWN)
}
MERGES = ["t h", "th e", "Ġ the", "1 2", "12 3", "Ã ©", "Ġ 1", "c a", "ca t"]
TOKENS = ["<|end|>", "<|start|>", *SIGN.values(), *(merge.replace(" ", "") for merge in MERGES)]
METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.token_type": np.array([3, 3] + [1] * (len(TOKENS) - 2), np.int32),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
}


def packed_text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def packed_value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + packed_text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(packed_text, value))
    return struct.pack("<IIQ", 9, 5, len(value)) + value.tobytes()


def vocabulary_file(path: Path, **changes: Any) -> Path:
    """A GGUF file without tensors; a change to None leaves the key out."""
    pairs = METADATA | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    pairs = {key: value for key, value in pairs.items() if value is not None}
    body = b"".join(packed_text(key) + packed_value(value) for key, value in pairs.items())
    path = path / "vocabulary.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body)
    return path


def shown(made: tokenizer.Tokenizer, text: str, **options: Any) -> list[str]:
    return [made.token(i) for i in made.encode(text, **options)]


def test_digits_are_split_first_and_merges_do_the_rest(tmp_path: Path) -> None:
    made = load_tokenizer(vocabulary_file(tmp_path))
    assert shown(made, "the cat, 123é") == ["the", "Ġ", "cat", ",", "Ġ", "1", "2", "3", "Ã©"]
    other = load_tokenizer(vocabulary_file(tmp_path, pre="gpt-2"))
    assert shown(other, "the cat, 123é") == ["the", "Ġ", "cat", ",", "Ġ", "123", "Ã©"]
    assert made.vocab_size == len(TOKENS) and made.stop == {0} and made.start == ()


def test_every_byte_comes_back(tmp_path: Path) -> None:
    made = load_tokenizer(vocabulary_file(tmp_path))
    text = "".join(map(chr, range(1, 0x250))) + "日本語 👩‍👩‍👧\r\n\t  x"
    ids = made.encode(text)
    assert made.decode(ids) == text
    stream = made.stream()
    assert "".join(stream.write(i) for i in ids) + stream.end() == text


def test_a_character_appears_when_its_last_byte_does(tmp_path: Path) -> None:
    made = load_tokenizer(vocabulary_file(tmp_path))
    stream = made.stream()
    assert [stream.write(i) for i in made.encode("a日b")] == ["a", "", "", "日", "b"]
    ids = made.encode("日")
    assert [stream.write(i) for i in ids[:2]] == ["", ""] and stream.end() == "\ufffd" and stream.end() == ""


def test_special_tokens_are_tokens_or_letters(tmp_path: Path) -> None:
    made = load_tokenizer(vocabulary_file(tmp_path))
    assert made.encode("<|start|>a").tolist() == [1, TOKENS.index("a")]
    assert shown(made, "<|start|>", special=False) == [*"<|start|>"]
    assert made.decode([1, TOKENS.index("a")], special=False) == "a"
    starting = load_tokenizer(vocabulary_file(tmp_path, add_bos_token=True))
    assert starting.encode("a").tolist() == [1, TOKENS.index("a")]


def test_the_same_vocabulary_from_a_tokenizer_json(tmp_path: Path) -> None:
    made = load_tokenizer(vocabulary_file(tmp_path))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"eos_token_id": [0, 5]}))
    with pytest.raises(CheckpointError, match=r"there is no .*tokenizer\.json"):
        load_tokenizer(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is no tokenizer"):
        load_tokenizer(tmp_path / "hf")
    made._library.save(str(tmp_path / "hf" / "tokenizer.json"))
    again = load_tokenizer(open_checkpoint(tmp_path / "hf"))
    text = "the cat sat in 1234 <|start|>é"
    assert again.encode(text).tolist() == made.encode(text).tolist() and again.stop == {0, 5}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"merges": None}, "has no tokenizer.ggml.merges, without which"),
        ({"merges": ["th e"] * 2 + ["x"]}, "the merge 'x' is not two parts"),
        ({"merges": ["no pe"]}, "its merges do not fit its vocabulary"),
        ({"tokens": None}, "has no tokenizer.ggml.tokens"),
        ({"tokens": [*TOKENS, "a"]}, "its vocabulary has 1 tokens twice"),
        ({"token_type": np.ones(3, np.int32)}, "tokens, and 3 kinds of them"),
        ({"model": None}, "has no vocabulary; known is byte-level BPE"),
        ({"model": "llama"}, "a vocabulary of the kind 'llama'"),
        ({"pre": "tekken"}, "by the rule 'tekken' .* known are gpt-2, smollm"),
        ({"pre": None}, "by the rule None"),
    ],
)
def test_what_is_missing_or_not_known_is_said(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=complaint) as refused:
        load_tokenizer(vocabulary_file(tmp_path, **changes))
    assert "\n" not in str(refused.value)


def test_without_the_library_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "tokenizers":
            raise ImportError(name)
        return imported(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="python -m pip install 'tokenizers"):
        load_tokenizer(vocabulary_file(tmp_path))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("gpt-2", ["I", "'ll", "Ġpay", "Ġ1234", "Ġ", "Ġ€!?", "ĊĊ", "Ġok"]),
        ("smollm", ["I", "'ll", "Ġpay", "Ġ", "1", "2", "3", "4", "Ġ", "Ġ€!?", "ĊĊ", "Ġok"]),
        ("llama-bpe", ["I", "'ll", "Ġpay", "Ġ", "123", "4", "Ġ", "Ġ€!?ĊĊ", "Ġok"]),
    ],
)
def test_the_rules_that_cut_words(rule: str, words: list[str]) -> None:
    found = WORDS[rule](tokenizers).pre_tokenize_str("I'll pay 1234  €!?\n\n ok")
    assert [word.replace("âĤ¬", "€") for word, _ in found] == words
