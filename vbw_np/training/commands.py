"""``vbw train`` and ``vbw compare``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import options
from ..files import check_output, write_whole

VERBS = {
    "train": "train a causal language model on real text, under any recipe",
    "compare": "recipes against each other: same start, same batches, several seeds",
}

_FIELDS = (
    ("--data", options.path, "stdlib, random, or a file or folder of text"),
    ("--tokenizer", options.one_of("word", "byte"), "word or byte"),
    ("--steps", options.whole(1), "optimizer steps"),
    ("--batch-size", options.whole(1), "windows a batch"),
    ("--seq-len", options.whole(2), "tokens a window"),
    ("--accumulate", options.whole(1), "batches a step, their gradients averaged"),
    ("--lr", options.number(), "highest learning rate"),
    ("--weight-decay", options.number(), "decoupled weight decay"),
    ("--schedule", options.one_of("cosine", "linear", "constant"), "cosine, linear or constant, after the warmup"),
    ("--warmup", options.whole(0), "steps up to the highest learning rate"),
    ("--clip", options.number(), "largest length of all gradients together; 0: no clipping"),
    ("--held-out", options.number(0, 1, open_ends=True), "share of the text held out for validation, in whole files"),
    ("--eval-every", options.whole(1), "steps between validations"),
    ("--eval-batches", options.whole(1), "batches a validation"),
    ("--save-every", options.whole(0), "steps between checkpoints, besides those at validations"),
)
_MODEL_FIELDS = (
    ("--vocab-size", options.whole(2), "token ids"),
    ("--layers", options.whole(1), "blocks"),
    ("--rank", options.whole(1), "width of the attention's subspace"),
)


def add_commands(subparsers: Any) -> None:
    """Add ``train`` and ``compare``."""
    train = subparsers.add_parser("train", help=VERBS["train"], description=_TRAIN, epilog=_TRAIN_EXAMPLES)
    _add_run_options(train)
    train.add_argument("--recipe", type=options.name,
                       help="what the cards do (default: fp32); changes after a colon, see vbw compare")  # fmt: skip
    train.add_argument("--seed", type=options.seed, help="of weights, batches, dropout and rounding (default: 0)")
    train.add_argument("--out", type=options.path, metavar="FOLDER",
                       help="where the run goes (default: runs/PRESET-RECIPE-seedN)")  # fmt: skip
    train.add_argument("--resume", type=options.path, metavar="FOLDER",
                       help="go on with a run, or from its best.vbw; --steps, --lr, --clip may change it")  # fmt: skip
    train.add_argument("--json", type=options.path, metavar="FILE", help="also write what the run came to, as JSON")
    train.add_argument("--sample", type=options.whole(0), metavar="N", default=200,
                       help="tokens to write at the end (0: none)")  # fmt: skip
    train.add_argument("--prompt", type=options.text,
                       help="what the sample goes on from (default: the start of a held-out file)")  # fmt: skip
    train.set_defaults(run=run_train)

    compare = subparsers.add_parser("compare", help=VERBS["compare"], description=_COMPARE, epilog=_recipe_help())
    _add_run_options(compare)
    compare.add_argument("--recipes", type=options.name, metavar="A,B,...",
                         default="fp32,nvfp4,nvfp4-boh,mxfp4-train,nvfp4-train",
                         help="default: %(default)s; 'ablations' stands for all changes of nvfp4-train")  # fmt: skip
    compare.add_argument("--seeds", type=options.name, default="0", metavar="N,N,...",
                         help="or a count such as x3 (default: 0)")  # fmt: skip
    compare.add_argument("--out", type=options.path, metavar="FOLDER", default="runs/compare",
                         help="default: %(default)s")  # fmt: skip
    compare.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    compare.add_argument("--json", type=options.path, metavar="FILE", help="write table, curves and settings as JSON")
    compare.add_argument("--plot", type=options.path, metavar="FILE",
                         help="write the curves as a picture (.svg, .png, .pdf)")  # fmt: skip
    compare.add_argument("--dask", type=options.name, metavar="ADDRESS",
                         help="give the runs to this Dask cluster (extra: cluster)")  # fmt: skip
    compare.set_defaults(run=run_compare)


_TRAIN = "Train Claude4 with a causal mask on real text, the standard library's sources by default."
_TRAIN_EXAMPLES = """examples:
  vbw train --preset bytes
  vbw train --preset bytes --recipe nvfp4-train --steps 500
  vbw train --preset report --recipe fp32 --out runs/report
  vbw train --resume runs/report"""
_COMPARE = "Train under several recipes from the same start on the same batches; print a table of losses and gaps."


def _recipe_help() -> str:
    from ..device.changes import CHANGES

    lines = [f"  :{name:14} {summary}" for name, (summary, _) in CHANGES.items()]
    return "changes of a recipe, such as nvfp4-train:no-sr, joined by +:\n" + "\n".join(lines)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", type=options.name,
                        help="report (35.9 M parameters), bytes (1.0 M) or tiny (default: bytes)")  # fmt: skip
    for option, kind, text in (*_FIELDS, *_MODEL_FIELDS):
        parser.add_argument(option, type=kind, help=f"{text} (default: the preset's)")
    parser.add_argument("--minutes", type=options.number(), help="stop after so many, with a checkpoint")
    parser.add_argument("--threads", type=options.whole(1),
                        help="for products and kernels; results do not depend on it")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress and no lines for validations")


# --------------------------------------------------------------------------------------------------------------- common


def _given(arguments: argparse.Namespace, fields: tuple) -> dict[str, Any]:
    names = [option.lstrip("-").replace("-", "_") for option, _, _ in fields]
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _config(arguments: argparse.Namespace) -> Any:
    from .presets import get_preset

    preset = get_preset(arguments.preset or "bytes")
    changes = _given(arguments, _FIELDS)
    steps = changes.get("steps", preset.steps)
    if steps < preset.steps:  # a shorter run: a warmup and validations in proportion, unless they are given
        changes.setdefault("warmup", min(preset.warmup, max(steps // 10, 1)))
        changes.setdefault("eval_every", max(min(preset.eval_every, steps // 4), 1))
    model = dataclasses.replace(preset.model, **_given(arguments, _MODEL_FIELDS))
    return dataclasses.replace(preset, model=model, **changes)


def _tell(arguments: argparse.Namespace) -> Callable[[str], None] | None:
    if arguments.quiet:
        return None
    return lambda line: print(line, file=sys.stderr, flush=True)


def _set_threads(count: int | None) -> None:
    if count is None:
        return
    from .threads import set_threads

    set_threads(count)


@contextlib.contextmanager
def _stop_request(minutes: float | None) -> Iterator[Callable[[], bool]]:
    """A function that says whether to stop: the time is up, or the user asked once (Ctrl-C) or the system (SIGTERM).

    A second Ctrl-C interrupts at once; the last checkpoint is whole all the same.
    """
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    asked: list[int] = []

    def handle(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nstopping after this step, with a checkpoint; Ctrl-C again to stop now", file=sys.stderr, flush=True)

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # not the main thread: nobody can ask
            before[number] = signal.signal(number, handle)
    try:
        yield lambda: bool(asked) or time.monotonic() > deadline
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------------------------------------------------------- train


def run_train(arguments: argparse.Namespace) -> int:
    """``vbw train``"""
    if arguments.json is not None:
        check_output(arguments.json)
    _set_threads(arguments.threads)
    tell = _tell(arguments)
    trainer = _trainer(arguments)
    config = trainer.config
    if arguments.sample and arguments.prompt is not None:
        trainer.train_stream.encode(arguments.prompt)  # refused now, not after the training
    if tell is not None:
        data = trainer.train_stream
        tell(f"{trainer.model.num_parameters():,} parameters, recipe {config.recipe.name}, {len(data):,} tokens of "
             f"{data.name}, {len(trainer.held_out):,} held out; run in {trainer.folder}")  # fmt: skip
        if trainer.step:
            tell(f"going on after step {trainer.step:,}")
    with _stop_request(arguments.minutes) as stop:
        result = trainer.run(stop=stop, tell=tell, progress=False if arguments.quiet else None)
    complete = result.step == config.steps
    print(f"{'trained' if complete else 'stopped after'} {result.step:,} of {config.steps:,} steps in "
          f"{result.seconds:.0f} s: validation loss {result.val_loss:.4f} nats a token, "
          f"best {result.best_loss:.4f} at step {result.best_step:,}")  # fmt: skip
    if not complete:
        print(f"go on with: vbw train --resume {trainer.folder}")
    if arguments.json is not None:
        summary = {"config": config.as_dict(), "result": result.as_dict(), "folder": str(trainer.folder)}
        write_whole(arguments.json, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    if arguments.sample and complete:
        print(_sample(trainer, arguments.prompt, arguments.sample))
    trainer.close()
    return 0


def _trainer(arguments: argparse.Namespace) -> Any:
    from ..device import get_recipe
    from ..errors import UserError
    from .loop import Trainer

    if arguments.resume is not None:
        changes = {name: getattr(arguments, name) for name in ("steps", "lr", "clip")
                   if getattr(arguments, name) is not None}  # fmt: skip
        allowed = {"resume", "verb", "run", "json", "minutes", "threads", "quiet", "sample", "prompt", *changes}
        other = [name for name, value in vars(arguments).items() if value is not None and name not in allowed]
        if other:
            raise UserError(f"--{other[0].replace('_', '-')} is decided when a run begins; a resumed one keeps it")
        return Trainer.resume(arguments.resume, **changes)
    config = _config(arguments)
    recipe = get_recipe(arguments.recipe or "fp32")
    config = dataclasses.replace(config, recipe=recipe, seed=arguments.seed or 0)
    name = f"{arguments.preset or 'bytes'}-{recipe.name.replace(':', '_')}-seed{config.seed}"
    return Trainer(config, arguments.out or Path("runs") / name)


def _sample(trainer: Any, prompt: str | None, count: int) -> str:
    """Text that goes on from the prompt, or from the start of a held-out file."""
    import numpy as np

    from ..models.generation import generate

    stream = trainer.train_stream
    ids = trainer.held_out.ids[:16] if prompt is None else stream.encode(prompt)
    ids = np.asarray(ids, np.int64)[None]
    written = generate(trainer.model, ids, count, temperature=0.8, seed=trainer.config.seed)
    return stream.decode(np.concatenate([ids, written.tokens], axis=1)[0])


# -------------------------------------------------------------------------------------------------------------- compare


def run_compare(arguments: argparse.Namespace) -> int:
    """``vbw compare``"""
    from ..device.changes import get_recipes
    from ..errors import UserError
    from . import compare as comparison

    for file in filter(None, (arguments.json, arguments.plot)):
        check_output(file)
    if arguments.plot is not None:
        comparison.check_plot(arguments.plot)
    _set_threads(arguments.threads)
    config = _config(arguments)
    runs = comparison.plan(config, get_recipes(arguments.recipes), _seeds(arguments.seeds))
    tell = _tell(arguments)
    if arguments.dask is not None:
        from .cluster import compare_on_cluster

        results = compare_on_cluster(runs, arguments.out, arguments.dask, tell=tell)
    else:
        results = comparison.compare(runs, arguments.out, minutes=arguments.minutes, tell=tell,
                                     progress=False if arguments.quiet else None)  # fmt: skip
    for result in results:
        if result["error"]:
            print(f"{result['recipe']}, seed {result['seed']}: {result['error']}", file=sys.stderr)
    results = [result for result in results if result["curve"]]
    if not results:
        raise UserError("no run came to its first validation; give more --minutes, or a smaller --eval-every")
    table = comparison.rows(results)
    print(comparison.as_markdown(table) if arguments.markdown else comparison.as_text(table))
    if len(results) < len(runs):
        print(f"{len(results)} of {len(runs)} runs; call again to go on", file=sys.stderr)
    if arguments.json is not None:
        text = json.dumps(comparison.as_dict(config, results), indent=1, allow_nan=False)
        write_whole(arguments.json, text + "\n")
    if arguments.plot is not None:
        comparison.plot(results, arguments.plot, f"{arguments.preset or 'bytes'}, {table[0].seeds} seed(s)")
    return 0


def _seeds(text: str) -> list[int]:
    from ..errors import UserError

    try:
        seeds = list(range(int(text[1:]))) if text.startswith("x") else [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise UserError(f"--seeds {text!r}: give numbers from 0 on, joined by commas (0,1,2), or a count (x3)")
    return seeds
