"""Text to token ids and back: byte-level BPE by the library `tokenizers`, with the vocabulary of a model's file.

A GGUF file carries its vocabulary, its merges and the name of the rule that cuts text into words before anything is
merged; beside safetensors lies a `tokenizer.json`, which says all of it. The rule matters: with another one the same
vocabulary gives other ids, and the model reads another text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoints import Checkpoint, CheckpointError, open_checkpoint
from ..errors import UserError

CONTROL, USER_DEFINED = 3, 4  # of GGUF's token_type
TOKENIZER_FILE = "tokenizer.json"
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
    except ImportError:
        raise UserError(
            "the package tokenizers is not installed, and without it text cannot be made tokens: "
            "python -m pip install 'tokenizers>=0.20'"
        ) from None
    return tokenizers


def _gpt2(library: Any) -> Any:
    """Contractions, words, numbers, signs, spaces; the regular expression is the library's own."""
    return library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_first(library: Any) -> Any:
    """Every digit by itself, then GPT-2's rule for what is between them."""
    return library.pre_tokenizers.Sequence([library.pre_tokenizers.Digits(individual_digits=True), _gpt2(library)])


def _llama3(library: Any) -> Any:
    """Up to three digits at a time; letters take a sign before them."""
    split = library.pre_tokenizers.Split(library.Regex(LLAMA3_WORDS), "isolated")
    return library.pre_tokenizers.Sequence(
        [split, library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


WORDS: dict[str, Callable[[Any], Any]] = {
    "gpt-2": _gpt2,
    "smollm": _digits_first,
    "starcoder": _digits_first,
    "refact": _digits_first,
    "llama-bpe": _llama3,
    "llama3": _llama3,
    "llama-v3": _llama3,
}
"""How text is cut into words before bytes are merged, by GGUF's `tokenizer.ggml.pre`; the names are llama.cpp's."""


class Tokenizer:
    """Text to ids and back. `load_tokenizer` makes one.

    Attributes
    ----------
    vocab_size : int
    start : tuple of int
        What comes before every text.
    stop : frozenset of int
        Tokens that end a text.
    """

    def __init__(self, library: Any, start: Sequence[int] = (), stop: Sequence[int] = ()) -> None:
        self._library = library
        self.vocab_size: int = library.get_vocab_size(with_added_tokens=True)
        self.start, self.stop = tuple(start), frozenset(stop)

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size} tokens)"

    def encode(self, text: str, *, special: bool = True) -> NDArray[np.int64]:
        """The ids of a text, (T,).

        Parameters
        ----------
        text : str
        special : bool
            Whether a special token's name in the text, such as ``<|im_start|>``, is that token; else its letters are.
        """
        self._library.encode_special_tokens = not special
        return np.array([*self.start, *self._library.encode(text).ids], np.int64)

    def decode(self, ids: Sequence[int] | NDArray, *, special: bool = True) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. `special`: whether special tokens are shown."""
        return self._library.decode([int(i) for i in ids], skip_special_tokens=not special)

    def token(self, token: int) -> str:
        """How a token stands in the vocabulary."""
        return self._library.id_to_token(int(token))

    def stream(self) -> TextStream:
        """Decodes ids one at a time."""
        return TextStream(self)


class TextStream:
    """The text of ids that come one at a time; a character of several tokens appears with its last one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._pending = tokenizer, []

    def write(self, token: int) -> str:
        """What this token adds to the text that was given so far; may be empty."""
        self._pending.append(int(token))
        text = self._tokenizer.decode(self._pending)
        if text.endswith("\ufffd") and len(self._pending) < 8:  # perhaps the first bytes of a character
            return ""
        self._pending.clear()
        return text

    def end(self) -> str:
        """What is left: the bytes of a character that never became whole."""
        text = self._tokenizer.decode(self._pending) if self._pending else ""
        self._pending.clear()
        return text


def load_tokenizer(source: str | os.PathLike[str] | Checkpoint) -> Tokenizer:
    """The tokenizer of a GGUF file, or of the `tokenizer.json` beside safetensors.

    Raises
    ------
    CheckpointError
        There is none, it is damaged, or of a kind or with a rule that is not known.
    UserError
        The library is not installed.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    library = _library()
    if checkpoint.kind == "gguf":
        return _from_gguf(library, checkpoint.metadata, checkpoint.path)
    return _from_json(library, checkpoint.folder / TOKENIZER_FILE, checkpoint.config)


def _from_json(library: Any, path: Path, config: Mapping[str, Any]) -> Tokenizer:
    if not path.is_file():
        raise CheckpointError(f"there is no {path}, which says how text becomes tokens; get it from where the model is")
    try:
        made = library.Tokenizer.from_file(str(path))
    except Exception as error:
        raise CheckpointError(f"{path} is no tokenizer: {' '.join(str(error).split())[:200]}") from None
    stop = config.get("eos_token_id")
    return Tokenizer(made, stop=stop if isinstance(stop, list) else [] if stop is None else [stop])


def words_rule(path: Path) -> str:
    """llama.cpp's name of the rule by which a `tokenizer.json` cuts text into words.

    Raises
    ------
    CheckpointError
        It is no byte-level BPE, normalizes text, or cuts it by a rule that is not known.
    """
    library = _library()
    _from_json(library, path, {})  # damaged files get their words
    about = json.loads(library.Tokenizer.from_file(str(path)).to_str())
    if about["model"].get("type") != "BPE" or about["model"].get("byte_fallback") or about["normalizer"] is not None:
        raise CheckpointError(
            f"{path} holds {about['model'].get('type')} with byte_fallback={bool(about['model'].get('byte_fallback'))} "
            f"and a normalizer={about['normalizer'] is not None}; known is byte-level BPE of plain text"
        )

    for name, make in WORDS.items():
        known = library.Tokenizer(library.models.BPE())
        known.pre_tokenizer = make(library)
        if _cutting(json.loads(known.to_str())["pre_tokenizer"]) == _cutting(about["pre_tokenizer"]):
            return name
    raise CheckpointError(
        f"{path} cuts text into words by a rule that is not known, {json.dumps(about['pre_tokenizer'])[:200]}; "
        f"known are {', '.join(WORDS)}"
    )


def _cutting(state: Any) -> Any:
    """What of a pre-tokenizer's JSON decides where words end."""
    if isinstance(state, dict):
        return {key: _cutting(value) for key, value in state.items() if key != "trim_offsets"}
    return [_cutting(part) for part in state] if isinstance(state, list) else state


def _from_gguf(library: Any, metadata: Mapping[str, Any], path: Path) -> Tokenizer:
    kind, rule = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        what = "no vocabulary" if kind is None else f"a vocabulary of the kind {kind!r}"
        raise CheckpointError(f"{path} has {what}; known is byte-level BPE, which GGUF calls 'gpt2'")
    if rule not in WORDS:
        raise CheckpointError(
            f"{path} cuts text into words by the rule {rule!r} (tokenizer.ggml.pre), which is not known; known are "
            + ", ".join(WORDS)
        )
    tokens, merges = (_strings(metadata, name, path) for name in ("tokens", "merges"))
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise CheckpointError(f"{path}: its vocabulary has {len(tokens) - len(ids)} tokens twice")
    try:
        model = library.models.BPE(
            ids, [_pair(merge, path) for merge in merges], ignore_merges=WORDS[rule] is _llama3, fuse_unk=False
        )
        made = library.Tokenizer(model)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: its merges do not fit its vocabulary: {str(error)[:200]}") from None
    made.pre_tokenizer, made.decoder = WORDS[rule](library), library.decoders.ByteLevel()
    _add_special(library, made, tokens, metadata.get("tokenizer.ggml.token_type"), path)
    number = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot")}
    starts = metadata.get("tokenizer.ggml.add_bos_token", WORDS[rule] is _llama3)
    return Tokenizer(
        made,
        [number["bos"]] if starts and number["bos"] is not None else [],
        [number[name] for name in ("eos", "eot") if number[name] is not None],
    )


def _strings(metadata: Mapping[str, Any], name: str, path: Path) -> list[str]:
    found = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list) or not found or not all(isinstance(value, str) for value in found):
        raise CheckpointError(
            f"{path} has no tokenizer.ggml.{name}, without which text cannot be made tokens; get the file anew"
        )
    return found


def _pair(merge: str, path: Path) -> tuple[str, str]:
    first, space, second = merge.partition(" ")
    if not (first and space and second) or " " in second:
        raise CheckpointError(f"{path}: the merge {merge[:40]!r} is not two parts with a space between them")
    return first, second


def _add_special(library: Any, made: Any, tokens: list[str], kinds: Any, path: Path) -> None:
    """Tokens that are never merged from bytes: control tokens, and those that a user had added."""
    if kinds is None:
        return
    if len(kinds) != len(tokens):
        raise CheckpointError(f"{path} has {len(tokens)} tokens, and {len(kinds)} kinds of them")
    for kind, add in ((CONTROL, made.add_special_tokens), (USER_DEFINED, made.add_tokens)):
        add(
            [
                library.AddedToken(token, normalized=False, special=kind == CONTROL)
                for token, found in zip(tokens, kinds)
                if found == kind
            ]
        )
