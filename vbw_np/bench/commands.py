"""``vbw bench``: the speed test; its sub-verbs live beside it.

Imports nothing heavy: the process's threads must be set before NumPy is loaded, so that happens when the verb runs.
A sub-verb is a module of this package with ``add_commands(subparsers)``, and must be as light to import.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import options
from ..errors import UserError
from ..files import check_output, write_whole
from ..progress import Progress

if TYPE_CHECKING:
    from .report import Report
    from .speed import Settings

VERBS = {"bench": "train Claude4 on its 62 virtual cards, and print how fast and how well"}
SUBVERBS = ("kernels", "scaling", "peers", "model")

COUNT = options.whole(1)

_DESCRIPTION = """\
Train Claude4 on its virtual cards for some batches and print the report: the placed layers, losses and times, the
time in multiples of the fp32 floor (numpy's sgemm alone on the same matrix products), and what the cards counted.
The defaults are the report's settings."""

_EXAMPLES = """examples:
  vbw bench                                      the report, on the sources of Python's standard library
  vbw bench --recipe fp32,seed-v6,nvfp4          several recipes from the same start, side by side
  vbw bench --data random --lang zh              the original report's synthetic data and labels
  vbw bench --data book.txt --json report.json   your own text; everything with raw samples as JSON
  vbw bench --batches 3 --trace trace.json       what each card did and when; opens at ui.perfetto.dev"""


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add ``vbw bench`` and the sub-verbs that are there."""
    parser = subparsers.add_parser(
        "bench", help=VERBS["bench"], description=_DESCRIPTION, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_options(parser)
    parser.set_defaults(run=run)
    _name_unknown_options(parser)
    present = [name for name in SUBVERBS if importlib.util.find_spec(f"{__package__}.{name}") is not None]
    if present:
        inner = parser.add_subparsers(title="other benchmarks", metavar="VERB", dest="bench_verb")
        for name in present:
            importlib.import_module(f"{__package__}.{name}").add_commands(inner)


def _name_unknown_options(parser: argparse.ArgumentParser) -> None:
    """Let ``vbw bench --batch 3`` complain of ``--batch``, where argparse takes the 3 for a sub-verb's name."""
    parse = parser.parse_known_args

    def checked(args: Sequence[str], namespace: argparse.Namespace | None = None) -> Any:
        own = list(itertools.takewhile(lambda word: word not in SUBVERBS, args))
        known = parser._option_string_actions
        unknown = [word for word in own if word.startswith("--") and word.partition("=")[0] not in known]
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parse(args, namespace)

    parser.parse_known_args = checked  # type: ignore[method-assign]


def _add_options(parser: argparse.ArgumentParser) -> None:
    training = parser.add_argument_group("training")
    _number(training, "--batches", 20, "batches to train on")
    _number(training, "--batch-size", 8, "windows a batch")
    _number(training, "--seq-len", 128, "tokens a window")
    training.add_argument("--lr", type=options.number(0, open_ends=True), default=1e-3, metavar="X",
                          help="Adam's learning rate (0.001)")  # fmt: skip
    _number(training, "--seed", 0, "of weights, dropout and batches; the same seed gives the same losses, bit for bit",
            kind=options.seed)  # fmt: skip
    training.add_argument(
        "--data", type=options.path, default="stdlib", metavar="WHAT",
        help="a text file, a folder, 'stdlib' (the sources of Python's standard library) or 'random' ids (stdlib)",
    )  # fmt: skip
    training.add_argument("--tokenizer", type=options.name, default="word", metavar="NAME", help="word or byte (word)")
    training.add_argument("--threads", type=options.whole(1), metavar="N",
                          help="for BLAS and numba (as many as they take)")  # fmt: skip

    model = parser.add_argument_group("model")
    _number(model, "--vocab-size", 50_000, "tokens in the vocabulary", "--vocab")
    _number(model, "--d-model", 256, "width of the residual stream")
    _number(model, "--heads", 4, "attention heads")
    _number(model, "--hidden", 1024, "width inside an expert")
    _number(model, "--layers", 3, "blocks; the later half have a reflection")
    _number(model, "--rank", 4, "width of the attention's subspace")
    _number(model, "--experts", 4, "experts a block")
    model.add_argument("--dropout", type=options.number(0, 1), default=0.1, metavar="P", help="probability (0.1)")
    model.add_argument("--causal", action="store_true", help="nothing looks at a later token (the original does)")

    device = parser.add_argument_group("device")
    device.add_argument(
        "--recipe", type=options.name, default="seed-v6", metavar="NAME[,NAME...]",
        help="what the cards keep and compute with (seed-v6)"
    )
    device.add_argument(
        "--mode", type=options.name, default="training", metavar="NAME",
        help="training, inference, auto or precision (training)"
    )
    _number(device, "--refresh-interval", 100, "uses of a card before its scales are computed again")
    device.add_argument(
        "--boh", action=argparse.BooleanOptionalAction, default=True, help="offer the fine tier over the link (on)"
    )
    device.add_argument(
        "--error-budget", type=options.number(0, open_ends=True), metavar="X",
        help="relative error of a card above which its fine tier is asked for (the recipe's own)",
    )  # fmt: skip

    device.add_argument(
        "--compute", type=options.name, default="auto", metavar="HOW",
        help="dequant (decode, then float32), fp4 (activations too, codes times codes) or auto (the recipe's way)",
    )  # fmt: skip

    output = parser.add_argument_group("output")
    output.add_argument("--lang", default="en", choices=("en", "zh"), help="language of the report: en or zh (en)")
    output.add_argument("--json", type=options.path, metavar="FILE",
                        help="write everything with raw samples; '-': to stdout, no report")  # fmt: skip
    output.add_argument("--trace", type=options.path, metavar="FILE", help="write what the cards did as a Chrome trace")
    output.add_argument("--quiet", action="store_true", help="no progress line on stderr")


def _number(group: Any, option: str, default: int, text: str, *more: str, kind: Any = COUNT) -> None:
    group.add_argument(option, *more, type=kind, default=default, metavar="N", help=f"{text} ({default:,})")


def run(arguments: argparse.Namespace) -> int:
    """Check everything, then run the speed test and print its report; returns the exit code."""
    json_file, trace_file = check_outputs(arguments.json, arguments.trace)
    from .environment import prepare_process

    taken_away = prepare_process(arguments.threads)
    from . import speed

    settings = settings_of(arguments)
    if trace_file is not None and len(settings.recipes) > 1:
        raise UserError("--trace shows one recipe at a time; name one with --recipe")
    stream = speed.open_data(settings)
    listener = _listener(arguments, settings)
    try:
        result = speed.measure(settings, stream, listener, trace=trace_file, taken_away=taken_away)
    finally:
        listener.close()
    text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    if json_file is not None:
        write_whole(json_file, text)
    elif arguments.json == "-":
        sys.stdout.write(text)
    return 0


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings that the options name, checked."""
    from ..models.claude4 import Claude4Config
    from .speed import Settings

    model = Claude4Config(
        vocab_size=arguments.vocab_size,
        d_model=arguments.d_model,
        heads=arguments.heads,
        hidden=arguments.hidden,
        layers=arguments.layers,
        rank=arguments.rank,
        experts=arguments.experts,
        dropout=arguments.dropout,
        causal=arguments.causal,
    )
    return Settings(
        recipes=tuple(name.strip() for name in arguments.recipe.split(",") if name.strip()),
        n_batches=arguments.batches,
        batch_size=arguments.batch_size,
        seq_len=arguments.seq_len,
        model=model,
        lr=arguments.lr,
        mode=arguments.mode,
        refresh_interval=arguments.refresh_interval,
        boh=arguments.boh,
        error_budget=arguments.error_budget,
        compute=arguments.compute,
        seed=arguments.seed,
        data=arguments.data,
        tokenizer=arguments.tokenizer,
    )


def check_outputs(json_file: str | None, trace_file: str | None) -> tuple[Path | None, Path | None]:
    """Both files, if they can be written; before a run that would be lost otherwise. ``-`` is no file."""
    json_path = None if json_file in (None, "-") else check_output(json_file)
    if trace_file is None:
        return json_path, None
    if trace_file == "-":
        raise UserError("--trace needs the name of a file; stdout is for the report")
    trace_path = check_output(trace_file)
    if trace_path == json_path:
        raise UserError(f"--json and --trace both name {trace_file}; give each a file of its own")
    return json_path, trace_path


def _listener(arguments: argparse.Namespace, settings: Settings) -> Any:
    """Prints the report as the run comes along, and draws a progress line."""
    from .report import Report
    from .speed import Listener

    class Printer(Listener):
        def __init__(self, report: Report) -> None:
            self.report = report
            self.progress: Progress | None = None

        def print(self, lines: Iterable[str]) -> None:
            """Print lines of the report, with the progress line out of the way."""
            lines = list(lines)
            if lines and arguments.json != "-":
                self.close()
                print("\n".join(lines), flush=True)

        def close(self) -> None:
            if self.progress is not None:
                self.progress.close()

        def started(self, result: dict[str, Any]) -> None:
            self.print(self.report.head(result))

        def run_started(self, result: dict[str, Any], run: dict[str, Any]) -> None:
            self.print(self.report.training_head(result, run))
            self.progress = Progress(
                settings.n_batches,
                run["recipe"],
                items_per_step=settings.batch_size * settings.seq_len,
                enabled=not arguments.quiet,
            )

        def batch_done(self, result: dict[str, Any], run: dict[str, Any]) -> None:
            self.print(self.report.batch_line(result, run, len(run["loss"])))
            self.progress.step(f"loss {run['loss'][-1]:.4f}")

        def run_done(self, result: dict[str, Any], run: dict[str, Any]) -> None:
            self.print(self.report.run_tail(result, run))

        def done(self, result: dict[str, Any]) -> None:
            self.print(self.report.tail(result))

    return Printer(Report(arguments.lang))
