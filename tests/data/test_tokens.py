"""Tokens: the pattern, the vocabulary's order, ids and back, and the standard library as a corpus."""

from __future__ import annotations

import collections
import hashlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbw_np.data import Corpus, load_stream, random_ids, split_words, stdlib_text, tokenize, tokens
from vbw_np.errors import DataError


def corpus(*texts: str) -> Corpus:
    return Corpus("test", tuple(f"{i}.txt" for i in range(len(texts))), tuple(text.encode() for text in texts))


def ids_one_by_one(texts: list[str], vocab_size: int) -> tuple[list[int], list[str]]:
    """The definition, word for word: count, sort by frequency (first seen first), number, replace."""
    words = [word for text in texts for word in re.findall(r"\w+|\s+|[^\w\s]", text)]
    vocab = ["<unk>"] + [word for word, _ in collections.Counter(words).most_common(vocab_size - 1)]
    number = {word: i for i, word in enumerate(vocab)}
    return [number.get(word, 0) for word in words], vocab


def test_the_pattern() -> None:
    assert split_words("def f_1(x):\n    return x+2.5  # ü") == [
        "def", " ", "f_1", "(", "x", ")", ":", "\n    ", "return", " ", "x", "+", "2", ".", "5", "  ", "#", " ", "ü",
    ]  # fmt: skip


@given(st.lists(st.text(alphabet=st.sampled_from("ab_1 \n.,é中\u00a0"), min_size=1), min_size=1), st.integers(2, 9))
def test_ids_and_vocabulary_follow_the_definition(texts: list[str], vocab_size: int) -> None:
    stream = tokenize(corpus(*texts), vocab_size=vocab_size, cache=False)
    expected_ids, expected_vocab = ids_one_by_one(texts, vocab_size)
    assert stream.ids.tolist() == expected_ids
    assert list(stream.vocab) == expected_vocab
    assert stream.vocab_size == len(expected_vocab)
    assert stream.unk_share == pytest.approx(expected_ids.count(0) / len(expected_ids), abs=1e-12)


@given(st.text(min_size=1))
def test_decoding_gives_the_text_back(text: str) -> None:
    text = text.encode("utf-8", "replace").decode("utf-8")
    for tokenizer in ("word", "byte"):
        stream = tokenize(corpus(text), tokenizer, vocab_size=10_000, cache=False)
        assert stream.decode(stream.ids) == text
        assert stream.encode(text).tolist() == stream.ids.tolist()


@given(st.text(alphabet=st.sampled_from("ab .\n"), min_size=1), st.integers(1, 5))
def test_pieces_of_a_long_text_cut_no_token(text: str, chunk: int) -> None:
    whole, kept = tokens._CHUNK, split_words(text)
    tokens._CHUNK = chunk
    try:
        assert [word for piece in tokens._chunks(text) for word in piece] == kept
    finally:
        tokens._CHUNK = whole


def test_tokens_do_not_run_across_files() -> None:
    stream = tokenize(corpus("ab", "", "ba b"), vocab_size=10, cache=False)
    assert stream.starts.tolist() == [0, 1, 1, 4]
    assert [stream.vocab[i] for i in stream.ids] == ["ab", "ba", " ", "b"]


def test_dtype_holds_the_vocabulary() -> None:
    assert tokenize(corpus("a b"), vocab_size=65_536, cache=False).ids.dtype == np.uint16
    assert tokenize(corpus("a b"), vocab_size=65_537, cache=False).ids.dtype == np.uint32
    assert random_ids(65_537, 10).ids.dtype == np.uint32


def test_ids_are_read_only(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("VBW_CACHE", str(tmp_path))
    streams = [tokenize(corpus("a b"), cache=cache) for cache in (False, True, True)]
    for stream in (*streams, random_ids(9, 9), tokenize(corpus("a b"), "byte")):
        with pytest.raises(ValueError, match="read-only"):
            stream.ids[0] = 1


def test_bytes_are_their_own_ids() -> None:
    stream = tokenize(corpus("é", "A"), "byte")
    assert stream.ids.tolist() == [0xC3, 0xA9, 0x41] and stream.starts.tolist() == [0, 2, 3]
    assert (stream.vocab_size, stream.unk_share) == (256, 0.0)


def test_random_ids_are_uniform_and_seeded() -> None:
    stream = random_ids(50_000, 200_000, seed=3)
    assert np.array_equal(stream.ids, random_ids(50_000, 200_000, seed=3).ids)
    assert not np.array_equal(stream.ids, random_ids(50_000, 200_000, seed=4).ids)
    counts = np.bincount(stream.ids // 5_000, minlength=10)  # ten bins of 20,000 expected, deviation 134
    assert counts.size == 10 and np.abs(counts - 20_000).max() < 5 * 134
    assert stream.decode([7, 8]) == "7 8"


def test_the_standard_library(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("VBW_CACHE", str(tmp_path))
    text = stdlib_text()
    assert "os.py" in text.files and not any("site-packages" in name for name in text.files)
    assert list(text.files) == sorted(text.files, key=lambda name: name.split("/"))
    assert text.sha256 == hashlib.sha256(b"".join(text.contents)).hexdigest()
    stream = load_stream("stdlib")
    assert stream.vocab_size == 50_000 and stream.n_bytes == text.n_bytes and stream.sha256 == text.sha256
    assert 0 < stream.unk_share < 0.02  # 0.9% with CPython 3.11
    first = text.files.index("os.py")
    ids = stream.ids[stream.starts[first] : stream.starts[first + 1]]
    vocab = set(stream.vocab)
    words = split_words(text.contents[first].decode())
    assert stream.decode(ids) == "".join(word if word in vocab else "<unk>" for word in words)


def test_a_library_without_sources_is_refused(tmp_path) -> None:
    (tmp_path / "os.pyc").write_bytes(b"\0")
    with pytest.raises(DataError, match="keeps them compiled.*--data"):
        stdlib_text(tmp_path)


def test_installed_packages_are_not_the_standard_library(tmp_path) -> None:
    for name in ("os.py", "site-packages/x.py", "dist-packages/x.py", "a/__pycache__/x.py", "a/b.py", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert stdlib_text(tmp_path).files == ("a/b.py", "os.py")


def test_source_that_is_not_utf8_is_read(tmp_path) -> None:
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"))
    stream = tokenize(stdlib_text(tmp_path), cache=False)
    assert stream.decode(stream.ids) == "# -*- coding: latin-1 -*-\nx = '\ufffd'\n"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tokenize(corpus("a"), "letters"), "unknown tokenizer 'letters'.*word, byte"),
        (lambda: tokenize(corpus("a"), vocab_size=0), "vocabulary of 0 is too small.*2 or more"),
        (lambda: tokenize(corpus("a"), "byte", vocab_size=255), "vocabulary of 255.*256 or more"),
        (lambda: load_stream("random", vocab_size=0), "vocabulary of 0 is too small"),
        (lambda: random_ids(9, 0), "0 random ids"),
        (lambda: tokenize(corpus("a b"), cache=False).decode([4]), "ids from 4 to 4.*0 to 3"),
        (lambda: tokenize(corpus("a b"), cache=False).decode([-1]), "ids from -1"),
        (lambda: random_ids(9, 9).encode("a"), "no text"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(DataError, match=message):
        call()
