"""Batches of random windows, and a part of the stream held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .tokens import TokenStream


def check_length(stream: TokenStream, batch_size: int, seq_len: int) -> None:
    """Raise a `DataError` unless a batch of (B, T) windows can be drawn from the stream."""
    if batch_size < 1:
        raise DataError(f"a batch of {batch_size} windows is empty. Give --batch-size 1 or more.")
    if seq_len < 2:
        raise DataError(
            f"windows of {seq_len} tokens hold nothing to predict: the loss compares each token with the next. "
            "Give --seq-len 2 or more."
        )
    if len(stream) < seq_len:
        shorter = f", or --seq-len {len(stream)} or less" if len(stream) >= 2 else ""
        raise DataError(
            f"data: {stream.name} is too short for a batch: it has {len(stream):,} tokens, "
            f"and a window is {seq_len:,} long. Give more text{shorter}."
        )


def batches(
    stream: TokenStream,
    batch_size: int,
    seq_len: int,
    rng: np.random.Generator | int = 0,
) -> Iterator[NDArray[np.int64]]:
    """Random windows of the stream, without end; the same seed gives the same batches.

    Parameters
    ----------
    stream : TokenStream
    batch_size : int
        B, windows a batch; they may overlap.
    seq_len : int
        T, tokens a window.
    rng : Generator or int
        Where the windows start; an int is a seed.

    Yields
    ------
    ndarray (B, T), int64

    Raises
    ------
    DataError
        If the stream is shorter than a window; at the call, not at the first batch.
    """
    check_length(stream, batch_size, seq_len)
    generator = np.random.default_rng(rng)
    offsets = np.arange(seq_len)  # (T,)

    def draw() -> Iterator[NDArray[np.int64]]:
        while True:
            starts = generator.integers(0, len(stream) - seq_len + 1, batch_size)  # (B,)
            yield stream.ids[starts[:, None] + offsets].astype(np.int64)

    return draw()


def _part(stream: TokenStream, files: NDArray[np.int64], label: str) -> TokenStream:
    """The stream of some of its files, in their order."""
    spans = [slice(stream.starts[i], stream.starts[i + 1]) for i in files]
    ids = np.concatenate([stream.ids[span] for span in spans])
    ids.flags.writeable = False
    return dataclasses.replace(
        stream,
        ids=ids,
        starts=np.cumsum([0, *(span.stop - span.start for span in spans)], dtype=np.int64),
        files=tuple(stream.files[i] for i in files),
        name=f"{stream.name} ({label})",
        unk_share=float((ids == 0).mean()) if stream.tokenizer == "word" else 0.0,
    )


def split_by_file(stream: TokenStream, fraction: float = 0.05, seed: int = 0) -> tuple[TokenStream, TokenStream]:
    """Hold out whole files, so that nothing of a held-out file is seen in training.

    Files are drawn at random until they hold `fraction` of the tokens; one file at least stays on each side. The
    vocabulary, and `sha256` and `n_bytes`, are those of the whole corpus.

    Returns
    -------
    train, held_out : TokenStream

    Raises
    ------
    DataError
        If the stream has only one file (see `split_tail`) or the fraction is not between 0 and 1.
    """
    _check_fraction(fraction)
    n_files = len(stream.files)
    if n_files < 2:
        raise DataError(
            f"data: {stream.name} is one file, and a split by file needs two or more. "
            "Give a folder, or hold out its end (split_tail)."
        )
    order = np.random.default_rng(seed).permutation(n_files)
    held_tokens = np.cumsum(np.diff(stream.starts)[order])
    n_held = 1 + int(np.searchsorted(held_tokens, fraction * len(stream)))
    n_held = min(n_held, n_files - 1)
    return _part(stream, np.sort(order[n_held:]), "training"), _part(stream, np.sort(order[:n_held]), "held out")


def split_tail(stream: TokenStream, fraction: float = 0.05) -> tuple[TokenStream, TokenStream]:
    """Hold out the last `fraction` of the tokens: for a text in one file.

    Returns
    -------
    train, held_out : TokenStream
    """
    _check_fraction(fraction)
    cut = len(stream) - max(1, round(fraction * len(stream)))
    whole = dataclasses.replace(stream, starts=np.array([0, cut, len(stream)]), files=("start", "end"))
    return _part(whole, np.array([0]), "training"), _part(whole, np.array([1]), "held out")


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise DataError(f"a held-out share of {fraction} leaves one side empty. Give a number between 0 and 1.")
