"""Token streams: real text that every machine has, the user's own, or random ids.

    from vbw_np.data import batches, load_stream

    stream = load_stream("stdlib", vocab_size=50_000)      # or a file, a folder, "random"
    stream.ids, stream.vocab, stream.unk_share, stream.sha256, stream.decode(stream.ids[:20])
    ids = next(batches(stream, batch_size=8, seq_len=128, rng=0))      # (B, T) int64

Modules
-------
corpus     bytes of text, file by file: `stdlib_text`, `load_text`
tokens     `TokenStream`; word-level and byte-level tokenizers: `tokenize`, `random_ids`
cache      encoded ids kept on disk, checked when read
windows    `batches`, `split_by_file`
commands   `vbw data`
"""

from __future__ import annotations

from .cache import cache_folder, clear_cache
from .corpus import Corpus, load_text, stdlib_text
from .tokens import TOKENIZERS, UNK, TokenStream, load_stream, random_ids, split_words, tokenize
from .windows import batches, check_length, split_by_file, split_tail

__all__ = [
    "TOKENIZERS",
    "UNK",
    "Corpus",
    "TokenStream",
    "batches",
    "cache_folder",
    "check_length",
    "clear_cache",
    "load_stream",
    "load_text",
    "random_ids",
    "split_by_file",
    "split_tail",
    "split_words",
    "stdlib_text",
    "tokenize",
]
