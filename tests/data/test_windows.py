"""Random windows and held-out files."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbw_np.data import Corpus, TokenStream, batches, random_ids, split_by_file, split_tail, tokenize
from vbw_np.errors import DataError


def stream_of(sizes: list[int]) -> TokenStream:
    """Bytes that name their file: file i is full of byte i."""
    contents = tuple(bytes([i]) * size for i, size in enumerate(sizes))
    return tokenize(Corpus("test", tuple(map(str, range(len(sizes)))), contents), "byte")


def first(stream: TokenStream, count: int, seed: object, shape: tuple[int, int] = (4, 16)) -> np.ndarray:
    return np.stack(list(itertools.islice(batches(stream, *shape, seed), count)))


def test_batches_are_windows_of_the_stream() -> None:
    stream = random_ids(50_000, 1_000)
    drawn = first(stream, 50, 0)
    assert drawn.shape == (50, 4, 16) and drawn.dtype == np.int64
    windows = {tuple(stream.ids[i : i + 16]) for i in range(1_000 - 16 + 1)}
    assert all(tuple(window) in windows for window in drawn.reshape(-1, 16))


def test_every_window_can_be_drawn_the_first_and_the_last_too() -> None:
    stream = random_ids(1_000, 20)
    starts = {tuple(window) for window in first(stream, 100, 1).reshape(-1, 16)}
    assert starts == {tuple(stream.ids[i : i + 16]) for i in range(5)}


def test_a_stream_as_long_as_a_window() -> None:
    stream = random_ids(9, 16)
    assert np.array_equal(first(stream, 1, 0)[0], np.tile(stream.ids, (4, 1)))


def test_the_same_seed_gives_the_same_batches() -> None:
    stream = random_ids(50_000, 1_000)
    assert np.array_equal(first(stream, 5, 7), first(stream, 5, 7))
    assert np.array_equal(first(stream, 5, 7), first(stream, 5, np.random.default_rng(7)))
    assert not np.array_equal(first(stream, 5, 7), first(stream, 5, 8))


def test_the_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first(random_ids(9, 99), 3, 0)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@given(st.lists(st.integers(0, 50), min_size=2, max_size=40), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_split_keeps_files_whole(sizes: list[int], fraction: float, seed: int) -> None:
    stream = stream_of(sizes)
    train, held = split_by_file(stream, fraction, seed)
    assert train.files and held.files
    assert sorted((*train.files, *held.files), key=int) == list(stream.files)
    for part in (train, held):
        assert list(part.files) == sorted(part.files, key=int)
        assert part.starts[-1] == len(part.ids)
        for i, name in enumerate(part.files):
            assert part.ids[part.starts[i] : part.starts[i + 1]].tolist() == [int(name)] * sizes[int(name)]
    if len(train.files) > 1:  # else the one file that must stay in training may break the share
        assert len(held) >= fraction * len(stream) - 1e-9


def test_a_split_is_seeded() -> None:
    stream = stream_of([10] * 100)
    assert split_by_file(stream, 0.1, 1)[1].files == split_by_file(stream, 0.1, 1)[1].files
    assert split_by_file(stream, 0.1, 1)[1].files != split_by_file(stream, 0.1, 2)[1].files
    assert len(split_by_file(stream, 0.1, 1)[1].files) == 10


def test_the_unknown_share_of_a_part_is_its_own() -> None:
    stream = tokenize(Corpus("t", ("a", "b"), (b"x x x x", b"x y")), vocab_size=3, cache=False)
    parts = split_by_file(stream, 0.5, 0)
    assert sorted(part.unk_share for part in parts) == [0.0, pytest.approx(1 / 3)]


def test_the_end_of_a_stream() -> None:
    stream = random_ids(50_000, 1_000)
    train, held = split_tail(stream, 0.1)
    assert np.array_equal(np.concatenate([train.ids, held.ids]), stream.ids) and len(held) == 100


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batches(random_ids(9, 99), 0, 16), "batch of 0.*--batch-size 1"),
        (lambda: batches(random_ids(9, 99), 2, 1), "windows of 1.*--seq-len 2"),
        (lambda: batches(random_ids(9, 10), 2, 16), "too short for a batch: it has 10 tokens.*16"),
        (lambda: split_by_file(random_ids(9, 99)), "one file.*two or more"),
        (lambda: split_by_file(stream_of([1, 2]), 0.0), "share of 0.0"),
        (lambda: split_tail(random_ids(9, 99), 1.0), "share of 1.0"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()
