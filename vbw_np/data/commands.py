"""``vbw data``: what a token stream holds, before a model is trained on it."""

from __future__ import annotations

import argparse

from .. import options

VERBS = {"data": "what a text holds as tokens: size, hash, vocabulary, unknown share, samples"}


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which tokens to use; also for other verbs that read text."""
    parser.add_argument(
        "--data",
        type=options.path,
        default="stdlib",
        metavar="FILE|DIR|stdlib|random",
        help="text to read: a file, a folder, the sources of the Python standard library (default), or random ids",
    )
    parser.add_argument("--tokenizer", choices=("word", "byte"), default="word", help="default: word")
    parser.add_argument("--vocab-size", type=options.whole(2), default=50_000, metavar="V",
                        help="ids in all (default: 50000)")  # fmt: skip
    parser.add_argument("--seed", type=options.seed, default=0, help="for every random draw (default: 0)")


def describe(arguments: argparse.Namespace) -> dict[str, object]:
    """The facts ``vbw data --json`` prints."""
    import numpy as np

    from .tokens import load_stream
    from .windows import batches

    stream = load_stream(
        arguments.data,
        tokenizer=arguments.tokenizer,
        vocab_size=arguments.vocab_size,
        seed=arguments.seed,
        cache=not arguments.no_cache,
    )
    windows = next(batches(stream, arguments.samples, arguments.seq_len, arguments.seed)) if arguments.samples else []
    common = np.argsort(-np.bincount(stream.ids, minlength=stream.vocab_size), kind="stable")[:10]
    return {
        "name": stream.name,
        "tokenizer": stream.tokenizer,
        "files": len(stream.files),
        "bytes": stream.n_bytes,
        "sha256": stream.sha256,
        "tokens": len(stream),
        "vocab_size": stream.vocab_size,
        "unk_share": stream.unk_share,
        "commonest": [stream.decode([i]) for i in common],
        "samples": [stream.decode(window) for window in windows],
    }


def render(facts: dict) -> str:
    """The facts as text."""
    lines = [
        f"{facts['name']}: {facts['bytes']:,} bytes in {facts['files']:,} files",
        f"sha256      {facts['sha256'] or 'none, the ids are drawn'}",
        f"tokens      {facts['tokens']:,} ({facts['tokenizer']} level)",
        f"vocabulary  {facts['vocab_size']:,}, unknown {facts['unk_share']:.2%} of the tokens",
        f"commonest   {'  '.join(map(repr, facts['commonest']))}",
    ]
    return "\n".join(lines + [f"sample      {sample!r}" for sample in facts["samples"]])


def run(arguments: argparse.Namespace) -> int:
    import json

    facts = describe(arguments)
    print(json.dumps(facts, indent=2, ensure_ascii=False) if arguments.json else render(facts))
    return 0


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add ``vbw data``."""
    parser = subparsers.add_parser(
        "data",
        help=VERBS["data"],
        description="Print what a text holds as tokens. The first time takes seconds; the ids are then kept on disk.",
        epilog="examples:\n  vbw data\n  vbw data --data book.txt --tokenizer byte --samples 2",
    )
    add_data_options(parser)
    parser.add_argument("--samples", type=options.whole(0), default=0, metavar="N",
                        help="random windows to print (default: 0)")  # fmt: skip
    parser.add_argument("--seq-len", type=options.whole(2), default=128, metavar="T",
                        help="tokens a window (default: 128)")  # fmt: skip
    parser.add_argument("--no-cache", action="store_true", help="neither read nor write the cache of encoded texts")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run)
