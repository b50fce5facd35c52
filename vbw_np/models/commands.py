"""The verb for models: `vbw gguf`."""

from __future__ import annotations

import argparse

from .. import options

VERBS = {"gguf": "a Llama of Hugging Face's as a GGUF file that llama.cpp runs"}


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to an argparse parser; it sets `run`, a function of the parsed arguments."""
    parser = subparsers.add_parser(
        "gguf",
        help=VERBS["gguf"],
        description="Write an unquantized Llama (safetensors, config.json, tokenizer.json) as one GGUF file with "
        "names, rows, metadata and tokenizer as llama.cpp has them; `vbw quantize FILE.gguf` quantizes it.",
    )
    parser.add_argument("model", type=options.path, metavar="FOLDER", help="a folder of Hugging Face's")
    parser.add_argument("out", type=options.path, metavar="FILE.gguf", help="a file that does not exist yet")
    parser.set_defaults(run=run_gguf)


def run_gguf(args: argparse.Namespace) -> int:
    """`vbw gguf`."""
    import os

    from ..errors import UserError
    from ..files import check_output
    from .llama_gguf import write_llama_gguf

    if not args.out.endswith(".gguf") or os.path.lexists(args.out):
        raise UserError(f"{args.out} is no new file that ends in .gguf; name one, so that nothing is overwritten")
    check_output(args.out)
    count = write_llama_gguf(args.model, args.out)
    print(f"{args.out}: {count} tensors, {os.path.getsize(args.out):,} bytes")
    return 0
