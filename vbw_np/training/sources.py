"""Models that can write, and how each one's text becomes tokens: a run's checkpoint, or a language model's file."""

from __future__ import annotations

import codecs
import dataclasses
import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from numpy.typing import NDArray

from ..checkpoints import open_checkpoint
from ..data import TokenStream
from ..device import Device, place
from ..engine import nn
from ..errors import UserError
from ..models.llama_cards import HEAD_FORMAT, place_llama, traffic
from ..models.llama_files import config_of, load_llama
from ..models.tokenizer import Tokenizer, load_tokenizer
from .trained import load_model


class Writes(Protocol):
    """Writes tokens as text, as they come."""

    def write(self, token: int) -> None: ...

    def end(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """A model that can write.

    Attributes
    ----------
    model : Module
    prompt : str
        What it goes on from where nobody says.
    vocab_size : int
        Only tokens below it are chosen.
    stop : frozenset of int
        Tokens that end a text.
    encode : callable
        A prompt to its ids (T,).
    decode : callable
        Ids to text.
    writer : callable
        A stream to what writes to it.
    place : callable
        ``(recipe, compute, head)``: put it on cards; gives the devices.
    traffic : callable
        ``(keys, values)``, formats in which those are kept: bytes that a token costs; empty where nobody asks.
    facts : dict
        What else the JSON says of it.
    """

    model: nn.Module
    prompt: str
    vocab_size: int
    stop: frozenset[int]
    encode: Callable[[str], NDArray]
    decode: Callable[[Iterable[int]], str]
    writer: Callable[[Any], Writes]
    place: Callable[[str, str, str | None], tuple[Device, ...]]
    traffic: Callable[[str | None, str | None], dict[str, int]]
    facts: dict[str, Any]

    def prompt_ids(self, prompt: str | None) -> NDArray:
        """(1, T)"""
        ids = self.encode(self.prompt if prompt is None else prompt)
        if not len(ids):
            raise UserError("the prompt is empty; give at least one token to go on from (--prompt)")
        return ids[None]


def trained_source(path: str) -> Source:
    """The model of a run's checkpoint."""
    trained = load_model(path)
    text = trained.text

    def encode(prompt: str) -> NDArray:
        ids = text.encode(prompt)
        unknown = int((ids == 0).sum()) if text.tokenizer == "word" else 0
        if unknown:
            print(f"{unknown} of the prompt's {len(ids)} tokens are not in the model's vocabulary", file=sys.stderr)
        return ids

    def on_cards(recipe: str, compute: str, head: str | None) -> tuple[Device, ...]:
        if head not in (None, HEAD_FORMAT):
            raise UserError("--head is for language models (--model); a checkpoint's head is as its recipe says")
        return (place(trained.model, recipe, mode="inference", compute=compute),)

    return Source(
        trained.model, "def ", text.vocab_size, frozenset(), encode, text.decode,
        lambda stream: StreamWriter(text, stream), on_cards, lambda keys, values: {}, {"step": trained.step},
    )  # fmt: skip


def file_source(path: str) -> Source:
    """The language model of a GGUF or safetensors file; what can be wrong with its text is said before it is loaded."""
    checkpoint = open_checkpoint(path)
    config_of(checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    model = load_llama(checkpoint)

    def bytes_a_token(keys: str | None, values: str | None) -> dict[str, int]:
        kept = model.cache(1, 1, keys=keys, values=values).token_nbytes
        return {"bytes_read_a_token": traffic(model).nbytes, "bytes_kept_a_token": kept}

    return Source(
        model,
        "The capital of France is",
        min(tokenizer.vocab_size, model.config.vocab_size),
        tokenizer.stop,
        tokenizer.encode,
        lambda ids: tokenizer.decode(list(ids), special=False),
        lambda stream: TokenizerWriter(tokenizer, stream),
        lambda recipe, compute, head: place_llama(model, recipe, head=head, compute=compute),
        bytes_a_token,
        {"context": model.config.max_position_embeddings},
    )


class StreamWriter:
    """Writes tokens of a token stream; a character of several bytes appears when its last byte does."""

    def __init__(self, text: TokenStream, stream: Any) -> None:
        self._text, self._stream = text, stream
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace") if text.tokenizer == "byte" else None

    def write(self, token: int) -> None:
        if self._bytes is not None:
            self._put(self._bytes.decode(bytes([int(token)])))
        else:
            self._put(self._text.decode([token]) + ("" if self._text.vocab else " "))

    def end(self) -> None:
        self._put((self._bytes.decode(b"", final=True) if self._bytes is not None else "") + "\n")

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class TokenizerWriter:
    """Writes a language model's tokens; those that end a text are not text."""

    def __init__(self, tokenizer: Tokenizer, stream: Any) -> None:
        self._tokens, self._stop, self._stream = tokenizer.stream(), tokenizer.stop, stream

    def write(self, token: int) -> None:
        if int(token) not in self._stop:
            self._stream.write(self._tokens.write(token))
            self._stream.flush()

    def end(self) -> None:
        self._stream.write(self._tokens.end() + "\n")
        self._stream.flush()
