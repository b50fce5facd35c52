"""``vbw ptq``: what a trained language model loses in four bits, by format and method; the model so quantized."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .. import options
from ..errors import UserError
from ..files import check_output
from .explaining import add_explaining

if TYPE_CHECKING:
    from ..checkpoints import Checkpoint
    from .quantizing import Plan

VERBS = {
    "ptq": "quantize a trained language model by several methods, and measure what each loses",
    "explain-activation": "which numbers inside a language model are massive, and what the block of one loses",
}

_DESCRIPTION = """Quantize the layers of a Llama's blocks (embedding and head stay) to every format by every method, and
measure perplexity, KL divergence and top-1 agreement against the float model.

A method is steps joined by +, with options behind colons: rtn, gptq, awq, smoothquant, rotate, clip, four-over-six.
Tables go to stdout, progress to stderr."""

_EXAMPLES = """examples:
  vbw ptq model.gguf --format nvfp4,mxfp4 --method rtn,gptq,awq+gptq
  vbw ptq model.gguf --format int4-row --method rtn,rotate:points=64 --activations same
  vbw ptq model.gguf --format nvfp4 --method awq+four-over-six+gptq --out quantized
  vbw ptq model.gguf --keep '*' --kv-keys nvfp4                    (weights stay, keys are rounded)
  vbw ptq model.gguf --format mxfp4 --method rtn --sensitivity --json mxfp4.json --picture mxfp4.svg"""


def add_commands(subparsers: Any) -> None:
    """Add ``ptq`` and ``explain-activation``."""
    add_explaining(subparsers, VERBS["explain-activation"])
    parser = subparsers.add_parser(
        "ptq", help=VERBS["ptq"], description=_DESCRIPTION, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("model", type=options.path, metavar="MODEL", help="a Llama: a .gguf file, or a folder of safetensors")
    add("--format", type=options.name, default="nvfp4", metavar="F,F,...", help="of weights (default: %(default)s)")
    add("--method", type=options.name, default="rtn", metavar="M,M,...", help="default: %(default)s")
    add("--activations", type=options.name, default="none", metavar="F",
        help="format of the layers' inputs: none, same as the weights, or a name (default: %(default)s)")  # fmt: skip
    add("--keep", type=options.name, action="append", default=[], metavar="PATTERN",
        help="layers that stay in float32, such as '*.down_proj' (may be repeated)")  # fmt: skip
    add("--sensitivity", action="store_true", help="also keep one kind of layer at a time in float32")
    add("--text", type=options.path, metavar="FILE", help="to judge by (default: the topics of Python's help())")
    add("--windows", type=options.whole(1), default=2, metavar="N", help="of that text (default: %(default)s)")
    add("--length", type=options.whole(2), default=512, metavar="T", help="tokens a window (default: %(default)s)")
    add("--calibration", type=options.path, metavar="FILE",
        help="text that methods learn from (default: docstrings of Python's library)")  # fmt: skip
    add("--calibration-windows", type=options.whole(1), default=32, metavar="N",
        help="of 128 tokens of that text (default: %(default)s)")  # fmt: skip
    add("--kv-keys", type=options.name, metavar="F", help="format in which keys are kept (default: float32)")
    add("--kv-values", type=options.name, metavar="F", help="format in which values are kept (default: float32)")
    add("--layers", action="store_true", help="print the errors of every layer")
    add("--json", type=options.path, metavar="FILE", help="write the rows, layer by layer, after each of them")
    add("--resume", action="store_true", help="rows that --json FILE holds already are not computed again")
    add("--picture", type=options.path, metavar="FILE.svg", help="draw what was lost")
    add("--out", type=options.path, metavar="PATH",
        help="write the quantized model: a new folder of safetensors, or a .gguf file (one plan only)")  # fmt: skip
    parser.set_defaults(run=run)


CALIBRATION_LENGTH = 128


def run(arguments: argparse.Namespace) -> int:
    """Run ``vbw ptq``."""
    from ..checkpoints import open_checkpoint
    from ..models.llama_files import config_of

    judging, learning = _texts_of_the_user(arguments)
    checkpoint = open_checkpoint(arguments.model)
    config = config_of(checkpoint)  # a model that is not known is refused before anything else
    plans = _plans(arguments, config.head_dim)
    _check_outputs(arguments, plans, checkpoint)
    judged, learned, settings = _texts(arguments, checkpoint, judging, learning)
    _run_all(arguments, checkpoint, plans, judged, learned, settings)
    return 0


def _plans(arguments: argparse.Namespace, head_dim: int) -> list[Plan]:
    from ..models.key_value_cache import format_of_vectors
    from .comparing import plans_of
    from .methods import read_method

    formats = [name.strip() for name in arguments.format.split(",")]
    methods = [read_method(text) for text in arguments.method.split(",")]
    cache = [format_of_vectors(name, head_dim) for name in (arguments.kv_keys, arguments.kv_values)]
    return plans_of(formats, methods, arguments.activations, tuple(arguments.keep), arguments.sensitivity, *cache)


def _check_outputs(arguments: argparse.Namespace, plans: list[Plan], checkpoint: Checkpoint) -> None:
    """Whatever could not be written is refused before the work."""
    from ..viz import have_matplotlib
    from .saving import check_out

    for path in (arguments.json, arguments.picture):
        if path is not None:
            check_output(path)
    if arguments.picture is not None and not have_matplotlib():
        raise UserError("matplotlib is not installed, so there is no --picture: python -m pip install matplotlib")
    if arguments.resume and arguments.json is None:
        raise UserError("--resume goes on from the rows of --json FILE; name it")
    if arguments.out is not None:
        if len(plans) != 1:
            raise UserError(f"--out writes one model, and {len(plans)} were asked for; give one format and one method")
        check_out(arguments.out, plans[0], checkpoint)


def _texts_of_the_user(arguments: argparse.Namespace) -> tuple[str | None, str | None]:
    """The text to judge by and the one to learn from, where they were named."""
    from .texts import read_text

    named = arguments.text, arguments.calibration
    return tuple(None if path is None else read_text(path) for path in named)


def _texts(
    arguments: argparse.Namespace, checkpoint: Checkpoint, judging: str | None, learning: str | None
) -> tuple[Any, Any, dict[str, Any]]:
    """Windows to judge by, windows to learn from, and what identifies both and the model.

    The default texts are put together here, after all that can be refused at once has been: it takes a second.
    """
    import hashlib
    from pathlib import Path

    from ..models.tokenizer import load_tokenizer
    from .calibration import check_windows
    from .texts import calibration_text, evaluation_text, windows_of

    encode = load_tokenizer(checkpoint).encode
    judging = evaluation_text() if judging is None else judging
    learning = calibration_text() if learning is None else learning
    judged = windows_of(judging, encode, arguments.windows, arguments.length, "evaluation")
    ids = encode(learning)
    length = min(CALIBRATION_LENGTH, max(len(ids), 1))
    learned = windows_of(learning, encode, arguments.calibration_windows, length, "calibration")
    check_windows(learned)
    settings = {
        "model": Path(arguments.model).name,
        "model bytes": checkpoint.nbytes,
        "evaluation text": hashlib.sha256(judged.tobytes()).hexdigest(),
        "calibration text": hashlib.sha256(learned.tobytes()).hexdigest(),
    }
    return judged, learned, settings


def _run_all(
    arguments: argparse.Namespace, checkpoint: Checkpoint, plans: list[Plan], judged: Any, learned: Any, settings: Any
) -> None:
    from pathlib import Path

    from ..models.llama_files import load_llama
    from ..progress import Progress
    from .comparing import key_of, picture_of, read_results, run_plan, table_of, write_results
    from .measuring import Reference, measure
    from .quantizing import Calibration
    from .saving import save

    known = {}
    if arguments.resume and Path(arguments.json).exists():
        known = {row.key: row for row in read_results(arguments.json, settings)}
    model = load_llama(checkpoint)
    reference = Reference.of(model, judged)
    exact = measure(model, reference)
    blocks = len(model.model.layers)
    del model
    calibration, rows = Calibration(learned), []
    with Progress(len(plans) * (blocks + len(judged)), "quantizing", item="steps") as progress:
        for plan in plans:
            row = known.get(key_of(plan))
            if row is None or arguments.out is not None:
                row, quantized = run_plan(
                    lambda: load_llama(checkpoint), plan, reference, calibration,
                    lambda name, plan=plan: progress.step(f"{plan.fmt.name} {plan.method}"),
                )  # fmt: skip
                if arguments.out is not None:
                    save(quantized, checkpoint, Path(arguments.out))
                del quantized
            else:
                progress.step("known", blocks + len(judged))
            rows.append(row)
            if arguments.json is not None:
                write_results(arguments.json, settings, exact, rows)
    print(table_of(rows, exact))
    if arguments.layers:
        _print_layers(rows)
    if arguments.picture is not None:
        picture_of(rows).figure().savefig(arguments.picture, format=Path(arguments.picture).suffix[1:] or "svg")


def _print_layers(rows: list[Any]) -> None:
    """Every layer's relative squared errors, the largest of the outputs first."""
    for row in rows:
        print(f"\n{row.label}\nweight     output     layer")
        for name, weight, output in sorted(row.layers, key=lambda layer: -(layer[2] or 0)):
            print(f"{weight:<9.3e}  {output:<9.3e}  {name}")
