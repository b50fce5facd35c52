"""From text to token ids and back.

Word level: a token is a word, a run of spaces, or one other sign (``\\w+|\\s+|[^\\w\\s]``), so joining tokens gives the
text back. The vocabulary holds the commonest tokens, ties in order of first appearance; id 0 stands for all others.
Byte level: 256 ids, nothing unknown.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from . import cache as disk
from .corpus import Corpus, load_text, stdlib_text

UNK = "<unk>"
TOKENIZERS = ("word", "byte")

_WORDS = re.compile(r"\w+|\s+|[^\w\s]")
_CHUNK = 1 << 22  # characters tokenized at a time, so that one huge file does not become one huge list


@dataclasses.dataclass(frozen=True)
class TokenStream:
    """Token ids of a corpus, file after file.

    Attributes
    ----------
    ids : ndarray (N,), uint16 or uint32
        Read-only; may be mapped from the cache file.
    vocab : tuple of str or bytes
        Text of every id; empty for random ids.
    vocab_size : int
        Number of ids in use: every id is below it.
    starts : ndarray (number of files + 1,), int64
        Where each file begins in `ids`; the last entry is N.
    files : tuple of str
    name, tokenizer, sha256 : str
        Of the corpus; the hash of the bytes that were read ("" for random ids).
    n_bytes : int
        Size of the corpus.
    unk_share : float
        Share of tokens that are not in the vocabulary.
    """

    ids: NDArray[np.unsignedinteger] = dataclasses.field(repr=False)
    vocab: tuple[str, ...] | tuple[bytes, ...] = dataclasses.field(repr=False)
    vocab_size: int
    starts: NDArray[np.int64] = dataclasses.field(repr=False)
    files: tuple[str, ...] = dataclasses.field(repr=False)
    name: str
    tokenizer: str
    sha256: str
    n_bytes: int
    unk_share: float

    def __len__(self) -> int:
        return len(self.ids)

    def decode(self, ids: ArrayLike) -> str:
        """Text of the ids, any shape; ``<unk>`` for an unknown token, the numbers themselves for random ids.

        Raises
        ------
        DataError
            If an id is outside the vocabulary.
        """
        flat = np.asarray(ids).ravel()
        if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < self.vocab_size:
            raise DataError(
                f"decode: ids from {flat.min()} to {flat.max()} are not all in the vocabulary of {self.name}, "
                f"whose ids are 0 to {self.vocab_size - 1}. Were they made with another stream?"
            )
        if not self.vocab:
            return " ".join(map(str, flat.tolist()))
        if self.tokenizer == "byte":
            return bytes(flat.tolist()).decode("utf-8", errors="replace")
        return "".join(self.vocab[i] for i in flat.tolist())

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids of a text in this stream's vocabulary, such as a prompt; shape (n,)."""
        if not self.vocab:
            raise DataError(f"encode: {self.name} has no text, only ids. Use a stream made from text.")
        if self.tokenizer == "byte":
            return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64)
        number = {word: i for i, word in enumerate(self.vocab)}
        return np.array([number.get(word, 0) for word in split_words(text)], np.int64)


def split_words(text: str) -> list[str]:
    """Words, runs of spaces and single other signs; ``"".join`` of them is the text."""
    return _WORDS.findall(text)


def _chunks(text: str) -> Iterator[list[str]]:
    """`split_words` piece by piece: the last token of a piece may be cut, so the next piece starts with it."""
    start, size = 0, _CHUNK
    while start < len(text):
        end = min(start + size, len(text))
        tokens = _WORDS.findall(text, start, end)
        if end < len(text):
            if len(tokens) == 1:  # one token longer than a piece
                size *= 2
                continue
            end -= len(tokens.pop())
        yield tokens
        start, size = end, _CHUNK


def _count_words(texts: Iterable[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64], list[str]]:
    """Ids in order of first appearance, where each text starts, and the words in that order; one pass."""
    numbers: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    pieces: list[NDArray[np.uint32]] = []
    starts = [0]
    for text in texts:
        length = 0
        for tokens in _chunks(text):
            pieces.append(np.fromiter(map(numbers.__getitem__, tokens), np.uint32, len(tokens)))
            length += len(tokens)
        starts.append(starts[-1] + length)
    ids = np.concatenate(pieces) if pieces else np.empty(0, np.uint32)
    return ids, np.array(starts, np.int64), list(numbers)


def _id_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def _tokenize_words(corpus: Corpus, vocab_size: int) -> TokenStream:
    first_seen, starts, words = _count_words(corpus.texts())
    counts = np.bincount(first_seen, minlength=len(words))
    kept = np.argsort(-counts, kind="stable")[: vocab_size - 1]  # stable: of equally common ones the first seen
    new_id = np.zeros(len(words), _id_dtype(vocab_size))
    new_id[kept] = np.arange(1, len(kept) + 1)
    return TokenStream(
        ids=new_id[first_seen],
        vocab=(UNK, *(words[i] for i in kept.tolist())),
        vocab_size=len(kept) + 1,
        starts=starts,
        files=corpus.files,
        name=corpus.name,
        tokenizer="word",
        sha256=corpus.sha256,
        n_bytes=corpus.n_bytes,
        unk_share=1.0 - float(counts[kept].sum() / counts.sum()),
    )


def _tokenize_bytes(corpus: Corpus) -> TokenStream:
    lengths = [len(content) for content in corpus.contents]
    return TokenStream(
        ids=np.frombuffer(b"".join(corpus.contents), np.uint8).astype(np.uint16),
        vocab=tuple(bytes([code]) for code in range(256)),
        vocab_size=256,
        starts=np.cumsum([0, *lengths], dtype=np.int64),
        files=corpus.files,
        name=corpus.name,
        tokenizer="byte",
        sha256=corpus.sha256,
        n_bytes=corpus.n_bytes,
        unk_share=0.0,
    )


def _cache_key(corpus: Corpus, vocab_size: int) -> str:
    """All that the ids depend on; also where files end, and which signs count as letters (Unicode's tables)."""
    parts = [
        corpus.sha256,
        list(corpus.files),
        [len(content) for content in corpus.contents],
        _WORDS.pattern,
        vocab_size,
        unicodedata.unidata_version,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def tokenize(corpus: Corpus, tokenizer: str = "word", vocab_size: int = 50_000, *, cache: bool = True) -> TokenStream:
    """Token ids of a corpus.

    Parameters
    ----------
    corpus : Corpus
    tokenizer : {"word", "byte"}
    vocab_size : int
        At most this many ids, ``<unk>`` included; the byte level has 256 and needs that many.
    cache : bool
        Keep word-level ids on disk and take them from there; see `vbw_np.data.cache`.

    Returns
    -------
    TokenStream

    Raises
    ------
    DataError
        For an unknown tokenizer or a vocabulary that is too small.
    """
    if tokenizer not in TOKENIZERS:
        raise DataError(f"unknown tokenizer {tokenizer!r}. Choose one of: {', '.join(TOKENIZERS)}.")
    _check_vocab(vocab_size, least=256 if tokenizer == "byte" else 2)
    if tokenizer == "byte":
        return _freeze(_tokenize_bytes(corpus))
    if not cache:
        return _freeze(_tokenize_words(corpus, vocab_size))
    key = _cache_key(corpus, vocab_size)
    kept = disk.read(key)
    if kept is not None:
        return _from_cache(corpus, *kept)
    stream = _freeze(_tokenize_words(corpus, vocab_size))
    about = {"vocab": stream.vocab, "starts": stream.starts.tolist(), "unk_share": stream.unk_share}
    disk.write(key, stream.ids, {"corpus": corpus.name, **about})
    return stream


def _freeze(stream: TokenStream) -> TokenStream:
    """The same whether it comes from the cache or not: read-only."""
    stream.ids.flags.writeable = False
    return stream


def _from_cache(corpus: Corpus, ids: NDArray, about: dict) -> TokenStream:
    return TokenStream(
        ids=ids,
        vocab=tuple(about["vocab"]),
        vocab_size=len(about["vocab"]),
        starts=np.array(about["starts"], np.int64),
        files=corpus.files,
        name=corpus.name,
        tokenizer="word",
        sha256=corpus.sha256,
        n_bytes=corpus.n_bytes,
        unk_share=about["unk_share"],
    )


def _check_vocab(vocab_size: int, least: int = 2) -> None:
    if vocab_size < least:
        why = "a byte can have 256 values" if least == 256 else "one id is <unk>, and a model needs a choice"
        raise DataError(f"a vocabulary of {vocab_size} is too small: {why}. Give --vocab-size {least} or more.")


def random_ids(vocab_size: int = 50_000, n_tokens: int = 1 << 20, seed: int = 0) -> TokenStream:
    """Ids drawn uniformly at random: the report's synthetic data, from which nothing can be learned.

    Its best loss is ln(vocab_size).
    """
    _check_vocab(vocab_size)
    if n_tokens < 1:
        raise DataError(f"a stream of {n_tokens} random ids has nothing in it. Ask for 1 or more.")
    ids = np.random.default_rng(seed).integers(0, vocab_size, n_tokens, dtype=np.uint32).astype(_id_dtype(vocab_size))
    stream = TokenStream(
        ids=ids,
        vocab=(),
        vocab_size=vocab_size,
        starts=np.array([0, n_tokens], np.int64),
        files=("random",),
        name="random ids",
        tokenizer="none",
        sha256="",
        n_bytes=0,
        unk_share=0.0,
    )
    return _freeze(stream)


def load_stream(
    data: str | os.PathLike[str] = "stdlib",
    *,
    tokenizer: str = "word",
    vocab_size: int = 50_000,
    seed: int = 0,
    cache: bool = True,
) -> TokenStream:
    """What ``--data`` means: ``stdlib``, ``random``, or a file or folder of text (``./random`` for one of that name).

    Raises
    ------
    DataError
        See `load_text` and `tokenize`.
    """
    _check_vocab(vocab_size)
    if data == "random":
        return random_ids(vocab_size, seed=seed)
    corpus = stdlib_text() if data == "stdlib" else load_text(data)
    return tokenize(corpus, tokenizer, vocab_size, cache=cache)
