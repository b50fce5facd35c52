"""``vbw generate``: write on from a prompt, with a checkpoint's model on packed weights."""

from __future__ import annotations

import argparse
import codecs
import dataclasses
import json
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import options
from ..files import check_output, write_whole

if TYPE_CHECKING:
    import numpy as np

    from ..data import TokenStream
    from ..models.generation import Generation
    from .loop import TrainedModel

VERBS = {"generate": "write on from a prompt, with a trained model on packed weights"}

_DESCRIPTION = """Write on from a prompt, with the model of a checkpoint on cards in mode 'inference': its weights are
packed, and the float32 masters dropped. A causal model computes one row for each new token.

The text goes to stdout, what it took to stderr."""

_EXAMPLES = """examples:
  vbw generate --checkpoint runs/bytes-nvfp4-seed0 --prompt "def main("
  vbw generate --checkpoint runs/bytes-nvfp4-seed0/best.vbw --temperature 0 --compare-compute"""

COMPUTES = ("auto", "dequant", "fp4", "packed")
COMPARED = ("dequant", "packed")


def add_commands(subparsers: Any) -> None:
    """Add ``generate``."""
    parser = subparsers.add_parser("generate", help=VERBS["generate"], description=_DESCRIPTION, epilog=_EXAMPLES)
    add = parser.add_argument
    add("--checkpoint", type=options.path, required=True, metavar="FILE",
        help="last.vbw or best.vbw, or the run's folder (then the best)")  # fmt: skip
    add("--prompt", type=options.text, default="def ", help="what to go on from (default: %(default)r)")
    add("--max-new-tokens", type=options.whole(1), default=200, metavar="N", help="default: %(default)s")
    add("--temperature", type=options.number(), default=0.8, help="0 takes the likeliest token (default: %(default)s)")
    add("--top-k", type=options.whole(1), metavar="K", help="only the K likeliest tokens (default: all)")
    add("--top-p", type=options.number(0, 1), default=0.9, metavar="P",
        help="only the nucleus of probability P (default: 0.9)")  # fmt: skip
    add("--seed", type=options.seed, default=0, help="default: %(default)s")
    add("--recipe", type=options.name, default="nvfp4",
        help="what the cards do (default: %(default)s); fp32 packs nothing")  # fmt: skip
    add("--compute", choices=COMPUTES, default="auto", help="how products are computed (default: %(default)s)")
    add("--whole", action="store_true", help="compute all rows anew for every token, as a check")
    add("--compare-compute", action="store_true",
        help=f"write greedily, computing once by {' and once by '.join(COMPARED)}, and say where the texts part")
    add("--threads", type=options.whole(1), metavar="N", help="threads to compute with (default: all)")
    add("--json", type=options.path, metavar="FILE", help="also write tokens, text, settings and times as JSON")
    parser.set_defaults(run=run_generate)


def run_generate(arguments: argparse.Namespace) -> int:
    """``vbw generate``"""
    from ..device import get_recipe
    from ..models.sampling import Sampling
    from .loop import load_model

    get_recipe(arguments.recipe)  # settings first: a typing error shall not wait for a large file
    Sampling(arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed)
    if arguments.json is not None:
        check_output(arguments.json)
    if arguments.threads is not None:
        from .threads import set_threads

        set_threads(arguments.threads)
    trained = load_model(arguments.checkpoint)
    prompt = _prompt_ids(trained.text, arguments.prompt)
    if arguments.compare_compute:
        return _compare(trained, prompt, arguments)
    writer = TextWriter(trained.text, sys.stdout)
    print(arguments.prompt, end="", flush=True)
    result, facts = _generate(trained, prompt, arguments, arguments.compute, lambda step: writer.write(step.tokens[0]))
    writer.end()
    print(facts, file=sys.stderr)
    if arguments.json is not None:
        _write_json(arguments, trained, result)
    return 0


def _prompt_ids(text: TokenStream, prompt: str) -> np.ndarray:
    """(1, T) ids of the prompt; says so if it has words that the model does not know."""
    from ..errors import UserError

    ids = text.encode(prompt)
    if not len(ids):
        raise UserError("the prompt is empty; give at least one token to go on from (--prompt)")
    unknown = int((ids == 0).sum()) if text.tokenizer == "word" else 0
    if unknown:
        print(f"{unknown} of the prompt's {len(ids)} tokens are not in the model's vocabulary", file=sys.stderr)
    return ids[None]


def _generate(
    trained: TrainedModel,
    prompt: np.ndarray,
    arguments: argparse.Namespace,
    compute: str,
    on_step: Callable[[Any], None] | None = None,
    **changes: Any,
) -> tuple[Generation, str]:
    """Write with the weights on cards in one way to compute, and take them off again; what it took, in words."""
    from ..device import place
    from ..models.generation import generate

    device = place(trained.model, arguments.recipe, mode="inference", compute=compute)
    settings = {
        "temperature": arguments.temperature,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "seed": arguments.seed,
        "vocab_size": trained.text.vocab_size,
        "incremental": False if arguments.whole else None,
        "on_step": on_step,
    } | changes
    if not arguments.compare_compute:
        device.drop_masters()
    result = generate(trained.model, prompt, arguments.max_new_tokens, **settings)
    rate = result.tokens_per_second
    facts = (
        f"{result.tokens.shape[1]} tokens, {'' if math.isnan(rate) else f'{rate:,.1f} tokens/s after the first, '}"
        f"the first in {1e3 * result.prompt_seconds:,.0f} ms; recipe {device.recipe.name}, compute {compute}"
    )
    if device.dropped:
        weights = sum(card.parameter.size for card in device.cards.values())
        facts += f", {8 * device.nbytes / weights:.2f} bits a weight on {len(device.cards)} cards"
    else:
        device.release()
    return result, facts


def _compare(trained: TrainedModel, prompt: np.ndarray, arguments: argparse.Namespace) -> int:
    """Greedy texts of the ways to compute, side by side; 0 whether they are the same or not: both are results."""
    from ..models.generation import parting

    results = {}
    for compute in COMPARED:
        results[compute], facts = _generate(
            trained, prompt, arguments, compute, temperature=0.0, top_k=None, top_p=1.0, keep_logits=True
        )
        print(facts, file=sys.stderr)
    first, second = (results[compute] for compute in COMPARED)
    print(arguments.prompt + trained.text.decode(first.tokens[0]))
    found = parting(first, second)
    print(f"{' and '.join(COMPARED)}: {found}", file=sys.stderr)
    if found.index is not None:
        texts = [trained.text.decode([token]) for token in found.tokens]
        print(f"  {COMPARED[0]} went on with {texts[0]!r}, {COMPARED[1]} with {texts[1]!r}", file=sys.stderr)
    if arguments.json is not None:
        _write_json(arguments, trained, first, parting=dataclasses.asdict(found))
    return 0


class TextWriter:
    """Writes tokens as text, as they come; a character of several bytes appears when its last byte does."""

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


def _write_json(
    arguments: argparse.Namespace, trained: TrainedModel, result: Generation, **more: Any
) -> None:
    kept = ("checkpoint", "prompt", "max_new_tokens", "temperature", "top_k", "top_p", "seed", "recipe", "compute")
    rate = result.tokens_per_second
    record = {
        "settings": {name: getattr(arguments, name) for name in kept},
        "step": trained.step,
        "tokens": result.tokens[0].tolist(),
        "text": trained.text.decode(result.tokens[0]),
        "prompt_seconds": result.prompt_seconds,
        "seconds": result.seconds,
        "tokens_per_second": None if math.isnan(rate) else rate,
        **more,
    }
    write_whole(arguments.json, json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n")
