"""``vbw explain-activation``: which numbers of a language model are massive, and what the block of one loses."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .. import options
from ..errors import UserError
from ..files import check_output, write_whole

_EXAMPLES = """examples:
  vbw explain-activation model.gguf                                         the most unusual, and the first explained
  vbw explain-activation model.gguf --delete                                what the text costs without it
  vbw explain-activation model.gguf model.layers.11.mlp.down_proj 0 1229 --format mxfp4"""


def add_explaining(subparsers: Any, text: str) -> None:
    """Add ``explain-activation``; `text` is its line of help."""
    parser = subparsers.add_parser(
        "explain-activation", help=text, description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("model", type=options.path, metavar="MODEL", help="a Llama: a .gguf file, or a folder of safetensors")
    add("at", nargs="*", type=options.name, metavar="PLACE TOKEN CHANNEL",
        help="a layer, whose input is meant, or a block, behind which the stream is meant (default: the first of the "
        "table)")  # fmt: skip
    add("--format", type=options.name, default="nvfp4-row-scaled", metavar="F",
        help="in which its block is rounded (default: %(default)s)")  # fmt: skip
    add("--text", type=options.path, metavar="FILE", help="that the model reads (default: Python's help())")
    add("--length", type=options.whole(2), default=512, metavar="T", help="tokens of it (default: %(default)s)")
    add("--count", type=options.whole(1), default=10, metavar="N", help="rows of the table (default: %(default)s)")
    add("--delete", action="store_true", help="also read the text with this number set to zero")
    add("--json", type=options.path, metavar="FILE", help="write what was found")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run ``vbw explain-activation``."""
    import dataclasses

    from ..formats import get_format
    from .activations import activations_at, explain_activation, massive, without

    get_format(arguments.format)
    wanted = _wanted(arguments.at)
    if arguments.json is not None:
        check_output(arguments.json)
    model, ids, text_of = _model_and_text(arguments)
    found = massive(model, ids)
    print(_table(found[: arguments.count], ids, text_of))
    chosen = _chosen(found, wanted, model, ids)
    explained = explain_activation(activations_at(model, ids, chosen.place), chosen, arguments.format)
    print(f"\n{explained}")
    result = {"massive": [dataclasses.asdict(each) for each in found], "explained": explained.data}
    if arguments.delete:
        deleted = without(model, ids, chosen)
        result["deleted"] = dataclasses.asdict(deleted)
        print(
            f"\nwithout this one number: perplexity {deleted.without:.2f} instead of {deleted.perplexity:.2f}, "
            f"KL {deleted.kl:.3f} nats a token"
        )
    if arguments.json is not None:
        write_whole(arguments.json, json.dumps(result, indent=2, default=str) + "\n")
    return 0


def _wanted(at: list[str]) -> tuple[str, int, int] | None:
    """The place that was named, or None."""
    if not at:
        return None
    if len(at) != 3 or not all(word.isdecimal() for word in at[1:]):
        example = "model.layers.0.mlp.down_proj 0 5"
        raise UserError(f"{' '.join(at)}: give a place, a token and a channel, such as {example}")
    return at[0], int(at[1]), int(at[2])


def _model_and_text(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The model, token ids (T,), and a function from an id to its text."""
    from ..checkpoints import open_checkpoint
    from ..models.llama_files import load_llama
    from ..models.tokenizer import load_tokenizer
    from .texts import evaluation_text, read_text, windows_of

    text = read_text(arguments.text) if arguments.text else None
    checkpoint = open_checkpoint(arguments.model)
    tokenizer = load_tokenizer(checkpoint)
    text = evaluation_text() if text is None else text
    ids = windows_of(text, tokenizer.encode, 1, arguments.length, "explained")[0]
    return load_llama(checkpoint), ids, lambda token: tokenizer.decode([token])


def _chosen(found: list[Any], wanted: tuple[str, int, int] | None, model: Any, ids: Any) -> Any:
    import numpy as np

    from .activations import Activation, activations_at

    if wanted is None:
        return found[0]
    place, token, channel = wanted
    x = activations_at(model, ids, place)
    if token >= len(x) or channel >= x.shape[1]:
        raise UserError(
            f"{place} has {len(x)} tokens and {x.shape[1]} channels; there is no token {token}, channel {channel}"
        )
    usual = float(np.median(np.abs(x).max(axis=1)))
    return Activation(place, token, channel, float(x[token, channel]), usual)


def _table(found: list[Any], ids: Any, text_of: Any) -> str:
    lines = [f"{'value':>10} {'usual':>8} {'times':>8}  {'token':<18} {'channel':>7}  place"]
    for each in found:
        token = f"{each.token} {text_of(int(ids[each.token]))!r}"
        lines.append(
            f"{each.value:>10,.1f} {each.usual:>8,.2f} {each.times:>8,.0f}  {token:<18} {each.channel:>7}  {each.place}"
        )
    return "\n".join(lines)
