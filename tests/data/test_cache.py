"""The cache of encoded ids: used when sound, made again when not, and never needed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from vbw_np.data import Corpus, TokenStream, cache, cache_folder, clear_cache, tokenize, tokens

TEXT = Corpus("sample", ("a.txt", "b.txt"), (b"to be, or not to be", b"that is the question"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VBW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows whenever text is really tokenized."""
    calls: list[str] = []
    original = tokens._tokenize_words

    def counted(corpus: Corpus, vocab_size: int) -> TokenStream:
        calls.append(corpus.name)
        return original(corpus, vocab_size)

    monkeypatch.setattr(tokens, "_tokenize_words", counted)
    return calls


def same(a: TokenStream, b: TokenStream) -> bool:
    rest = ("vocab", "vocab_size", "files", "name", "tokenizer", "sha256", "n_bytes", "unk_share")
    return (
        np.array_equal(a.ids, b.ids)
        and a.ids.dtype == b.ids.dtype
        and np.array_equal(a.starts, b.starts)
        and all(getattr(a, name) == getattr(b, name) for name in rest)
    )


def test_the_second_time_comes_from_the_disk(made: list[str], folder: Path) -> None:
    fresh, kept = tokenize(TEXT), tokenize(TEXT)
    assert same(fresh, kept) and made == ["sample"]
    assert isinstance(kept.ids.base, np.memmap)  # mapped, not read
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".npy"]  # no half-written file left


@pytest.mark.parametrize(
    "other",
    [
        Corpus("sample", TEXT.files, (b"to be, or not to bE", TEXT.contents[1])),
        Corpus("sample", TEXT.files, (b"to be, or not to bethat", b" is the question")),  # same bytes, other files
        Corpus("sample", ("a.txt", "c.txt"), TEXT.contents),
    ],
)
def test_another_corpus_is_another_entry(made: list[str], other: Corpus) -> None:
    tokenize(TEXT)
    assert same(tokenize(other), tokenize(other, cache=False)) and len(made) == 3


def test_another_vocabulary_is_another_entry(made: list[str]) -> None:
    assert tokenize(TEXT, vocab_size=4).vocab_size == 4
    assert tokenize(TEXT, vocab_size=5).vocab_size == 5
    assert len(made) == 2


def damage_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    path.write_bytes(b"[1, 2, 3]")


def remove(path: Path) -> None:
    path.unlink()


def pickled(path: Path) -> None:
    """An array of objects runs code when it is loaded; it must not be."""
    with path.open("wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("harm", [damage_last_byte, truncate, empty, foreign, remove, pickled])
@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_damaged_entry_is_made_again(made: list[str], folder: Path, harm, suffix: str) -> None:
    fresh = tokenize(TEXT)
    harm(next(folder.glob("*" + suffix)))
    assert same(tokenize(TEXT), fresh)
    assert len(made) == 2
    assert same(tokenize(TEXT), fresh) and len(made) == 2  # and is sound again


def test_a_changed_word_in_the_sidecar_is_noticed(made: list[str], folder: Path) -> None:
    tokenize(TEXT)
    path = next(folder.glob("*.json"))
    about = json.loads(path.read_text())
    about["vocab"][1] = "other"
    path.write_text(json.dumps(about))
    assert "other" not in tokenize(TEXT).vocab and len(made) == 2


def test_a_folder_that_cannot_be_written(made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("VBW_CACHE", str(blocked))
    assert same(tokenize(TEXT), tokenize(TEXT)) and len(made) == 2


def test_a_full_disk_leaves_nothing_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file, ids, allow_pickle):
        file.write(b"some bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    assert tokenize(TEXT).ids.size == 19
    assert list(folder.iterdir()) == []


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VBW_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("VBW_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "vbw-np"
    if os.name != "nt":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert cache_folder() == tmp_path / "home" / ".cache" / "vbw-np"


def test_clearing_removes_only_our_files(made: list[str], folder: Path) -> None:
    tokenize(TEXT)
    (entry,) = folder.glob("*.json")
    copied = f"{0:032x}"  # a name as entries have them, and the content of another entry
    mine = {"notes.txt": "mine", f"{copied}.json": entry.read_text("utf-8"), f"{copied}.npy": "mine",
            f"{1:032x}.json": f'{{"key": "{1:032x}", "mine": true}}', f"{2:032x}.npy": "no entry of that name",
            "a.json": '{"key": "a", "sha256_ids": ""}', ".download.part": "half"}  # fmt: skip
    for name, text in mine.items():
        (folder / name).write_text(text, "utf-8")
    assert clear_cache() == 2
    assert {path.name: path.read_text("utf-8") for path in folder.iterdir()} == mine
    for name in mine:
        (folder / name).unlink()
    assert cache.cache_usage()[0] == 0
    tokenize(TEXT)
    assert len(made) == 2


@pytest.mark.parametrize("suffix", [".json", ".npy"])
@pytest.mark.parametrize("kind", ["text", "deep", "zip", "null", "list", "folder", "pipe", "link"])
def test_whatever_lies_in_an_entrys_place_is_no_error_and_is_not_cleared(
    kind: str, suffix: str, folder: Path, tmp_path: Path
) -> None:
    if kind == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes")
    right = tokenize(TEXT, vocab_size=20)
    (path,) = folder.glob(f"*{suffix}")
    path.unlink()
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    contents = {"text": b"x", "deep": b"[" * 100_000, "zip": b"PK\x03\x04cut", "null": b"null", "list": b"[1, 2]"}
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(mine)
    before = path.lstat().st_ino
    clear_cache()
    if suffix == ".json":
        assert path.lstat().st_ino == before
    assert same(tokenize(TEXT, vocab_size=20), right)
    assert mine.read_bytes() == b"mine"
