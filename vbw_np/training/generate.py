"""``vbw generate``: write on from a prompt, with a run's model or a language model's file, on packed weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import options
from ..errors import UserError
from ..files import check_output, write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..models.generation import Generation
    from .sources import Source

VERBS = {"generate": "write on from a prompt, with a trained model on packed weights"}

_DESCRIPTION = """Write on from a prompt, with the model of a checkpoint, or a language model's file, on cards in mode
'inference': its weights are packed, and the float32 masters dropped. A causal model computes one row for each new
token; keys and values of the others are kept.

The text goes to stdout, what it took to stderr."""

_EXAMPLES = """examples:
  vbw generate --model SmolLM2-135M-Instruct.Q4_1.gguf --recipe nvfp4 --prompt "The capital of France is"
  vbw generate --model FOLDER --recipe mxfp4 --kv-keys nvfp4 --kv-values mxfp4 --temperature 0
  vbw generate --checkpoint runs/bytes-nvfp4-seed0 --prompt "def main("
  vbw generate --checkpoint runs/bytes-nvfp4-seed0/best.vbw --temperature 0 --compare-compute"""

COMPUTES = ("auto", "dequant", "fp4", "packed")
COMPARED = ("dequant", "packed")


def add_commands(subparsers: Any) -> None:
    """Add ``generate``."""
    parser = subparsers.add_parser("generate", help=VERBS["generate"], description=_DESCRIPTION, epilog=_EXAMPLES)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=options.path, metavar="FILE",
                        help="last.vbw or best.vbw, or the run's folder (then the best)")  # fmt: skip
    source.add_argument("--model", type=options.path, metavar="FILE",
                        help="a language model of the Llama family: a GGUF file, or a folder with safetensors, "
                        "config.json and tokenizer.json")  # fmt: skip
    add("--prompt", type=options.text, help="what to go on from (default: 'def ', or the capital of France)")
    add("--max-new-tokens", type=options.whole(1), default=200, metavar="N",
        help="at most so many; a language model may end its text before (default: %(default)s)")  # fmt: skip
    add("--temperature", type=options.number(), default=0.8, help="0 takes the likeliest token (default: %(default)s)")
    add("--top-k", type=options.whole(1), metavar="K", help="only the K likeliest tokens (default: all)")
    add("--top-p", type=options.number(0, 1), default=0.9, metavar="P",
        help="only the nucleus of probability P (default: 0.9)")  # fmt: skip
    add("--seed", type=options.seed, default=0, help="default: %(default)s")
    add("--recipe", type=options.name, default="nvfp4",
        help="what the cards do (default: %(default)s); fp32 packs nothing; with --model also any block format")
    add("--head", type=options.name, default="q8_0", metavar="FORMAT",
        help="format of a language model's head (default: %(default)s); float32 leaves it as it is")  # fmt: skip
    add("--kv-keys", type=options.name, metavar="FORMAT", help="keep keys in this block format (default: float32)")
    add("--kv-values", type=options.name, metavar="FORMAT", help="keep values in this one (default: float32)")
    add("--compute", choices=COMPUTES, default="auto",
        help="how products are computed (default: %(default)s; with --model straight from packed bytes where possible)")
    add("--whole", action="store_true", help="compute all rows anew for every token, as a check")
    add("--compare-compute", action="store_true",
        help=f"write greedily, computing once by {' and once by '.join(COMPARED)}, and say where the texts part")
    add("--threads", type=options.whole(1), metavar="N", help="threads to compute with (default: all)")
    add("--json", type=options.path, metavar="FILE", help="also write tokens, text, settings and times as JSON")
    parser.set_defaults(run=run_generate)


def run_generate(arguments: argparse.Namespace) -> int:
    """``vbw generate``"""
    from .sources import file_source, trained_source

    _check(arguments)
    if arguments.json is not None:
        check_output(arguments.json)
    if arguments.threads is not None:
        from .threads import set_threads

        set_threads(arguments.threads)
    if arguments.model is not None:
        from .threads import steady_blas

        steady_blas()  # the same text for the same seed on any number of threads
    source = trained_source(arguments.checkpoint) if arguments.model is None else file_source(arguments.model)
    prompt = source.prompt_ids(arguments.prompt)
    if arguments.compare_compute:
        return _compare(source, prompt, arguments)
    writer = source.writer(sys.stdout)
    print(_prompt(source, arguments), end="", flush=True)
    result, took = _generate(source, prompt, arguments, arguments.compute, lambda step: writer.write(step.tokens[0]))
    writer.end()
    print(_told(result, took), file=sys.stderr)
    if arguments.json is not None:
        _write_json(arguments, source, result, took)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Settings first: a typing error shall not wait for a large file."""
    from ..device import get_recipe
    from ..models.key_value_cache import format_of_vectors
    from ..models.llama_cards import recipe_of
    from ..models.sampling import Sampling

    if arguments.model is None:
        get_recipe(arguments.recipe)
        if arguments.kv_keys or arguments.kv_values:
            raise UserError("--kv-keys and --kv-values are for language models (--model)")
    else:
        recipe_of(arguments.recipe)
        for fmt in (arguments.kv_keys, arguments.kv_values):
            format_of_vectors(fmt, 64)
        if _head(arguments):
            recipe_of(_head(arguments))
    Sampling(arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed)


def _head(arguments: argparse.Namespace) -> str | None:
    return None if arguments.head in ("float32", "fp32") else arguments.head


def _generate(
    source: Source,
    prompt: NDArray,
    arguments: argparse.Namespace,
    compute: str,
    on_step: Callable[[Any], None] | None = None,
    **changes: Any,
) -> tuple[Generation, dict[str, Any]]:
    """Write with the weights on cards in one way to compute, and take them off again; what it took."""
    from ..models.generation import generate

    devices = source.place(arguments.recipe, compute, _head(arguments))
    settings = {
        "temperature": arguments.temperature,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "seed": arguments.seed,
        "vocab_size": source.vocab_size,
        "incremental": False if arguments.whole else None,
        "keys": arguments.kv_keys,
        "values": arguments.kv_values,
        "stop": source.stop,
        "on_step": on_step,
    } | changes
    if not arguments.compare_compute:
        for device in devices:
            device.drop_masters()
    result = generate(source.model, prompt, arguments.max_new_tokens, **settings)
    took = {"recipe": arguments.recipe, "compute": compute} | source.traffic(arguments.kv_keys, arguments.kv_values)
    if any(device.dropped for device in devices):
        cards = [card for device in devices for card in device.cards.values()]
        took["cards"] = len(cards)
        took["bits_a_weight"] = 8 * sum(device.nbytes for device in devices) / sum(c.parameter.size for c in cards)
    else:
        for device in devices:
            device.release()
    return result, took


def _told(result: Generation, took: dict[str, Any]) -> str:
    """What it took, in words."""
    rate = result.tokens_per_second
    parts = [
        f"{result.tokens.shape[1]} tokens, {'' if math.isnan(rate) else f'{rate:,.1f} tokens/s after the first, '}"
        f"the first in {1e3 * result.prompt_seconds:,.0f} ms; recipe {took['recipe']}, compute {took['compute']}"
    ]
    if "cards" in took:
        parts.append(f"{took['bits_a_weight']:.2f} bits a weight on {took['cards']} cards")
    if "bytes_read_a_token" in took:
        parts.append(f"{took['bytes_read_a_token'] / 1e6:,.1f} MB of weights read a token")
        parts.append(f"{took['bytes_kept_a_token']:,} bytes of keys and values kept of it")
    return ", ".join(parts)


def _compare(source: Source, prompt: NDArray, arguments: argparse.Namespace) -> int:
    """Greedy texts of the ways to compute, side by side; 0 whether they are the same or not: both are results."""
    from ..models.generation import parting

    results = {}
    for compute in COMPARED:
        results[compute], took = _generate(
            source, prompt, arguments, compute, temperature=0.0, top_k=None, top_p=1.0, keep_logits=True
        )
        print(_told(results[compute], took), file=sys.stderr)
    first, second = (results[compute] for compute in COMPARED)
    print(_prompt(source, arguments) + source.decode(first.tokens[0]))
    found = parting(first, second)
    print(f"{' and '.join(COMPARED)}: {found}", file=sys.stderr)
    if found.index is not None:
        texts = [source.decode([token]) for token in found.tokens]
        print(f"  {COMPARED[0]} went on with {texts[0]!r}, {COMPARED[1]} with {texts[1]!r}", file=sys.stderr)
    if arguments.json is not None:
        _write_json(arguments, source, first, took, parting=dataclasses.asdict(found))
    return 0


def _prompt(source: Source, arguments: argparse.Namespace) -> str:
    return source.prompt if arguments.prompt is None else arguments.prompt


SETTINGS = (
    "checkpoint", "model", "max_new_tokens", "temperature", "top_k", "top_p", "seed", "recipe", "compute", "head",
    "kv_keys", "kv_values",
)  # fmt: skip


def _write_json(
    arguments: argparse.Namespace, source: Source, result: Generation, took: dict[str, Any], **more: Any
) -> None:
    rate = result.tokens_per_second
    record = {
        "settings": {name: getattr(arguments, name) for name in SETTINGS} | {"prompt": _prompt(source, arguments)},
        **source.facts,
        "tokens": result.tokens[0].tolist(),
        "text": source.decode(result.tokens[0]),
        "prompt_seconds": result.prompt_seconds,
        "seconds": result.seconds,
        "tokens_per_second": None if math.isnan(rate) else rate,
        "took": took,
        **more,
    }
    write_whole(arguments.json, json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n")
