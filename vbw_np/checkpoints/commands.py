"""The verbs for checkpoints: `vbw inspect`, `diff`, `explain`, `convert`, `quantize`, `measure`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .. import options
from ..errors import UserError

VERBS = {
    "inspect": "what is in a safetensors or GGUF checkpoint, and what looks wrong",
    "diff": "two checkpoints, weight by weight: equal, or how far apart and why",
    "explain": "one number, or one element of a checkpoint, step by step",
    "convert": "a checkpoint in another producer's layout, without loss",
    "quantize": "quantize a whole model, or an .npy array",
    "measure": "what a quantized checkpoint lost against the original, weight by weight",
}


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add the verbs to an argparse parser; each sets `run`, a function of the parsed arguments."""
    inspecting = subparsers.add_parser("inspect", help=VERBS["inspect"])
    inspecting.add_argument("checkpoint", type=options.path, metavar="FILE",
                            help="a .safetensors or .gguf file, a folder, an index")  # fmt: skip
    inspecting.add_argument("--stats", action="store_true", help="read the data too: statistics, more suspicions")
    inspecting.add_argument("--json", action="store_true", help="as JSON")
    inspecting.add_argument("--html", type=options.path, metavar="PAGE", help="write one HTML page with pictures")
    inspecting.set_defaults(run=run_inspect)

    differing = subparsers.add_parser("diff", help=VERBS["diff"])
    differing.add_argument("a", type=options.path, metavar="A", help="the checkpoint that is right")
    differing.add_argument("b", type=options.path, metavar="B", help="the one to compare with it")
    differing.add_argument(
        "--tolerance", type=options.number(), default=0.0,
        help="relative squared error up to which a weight passes (default 0)"
    )
    differing.add_argument("--all", action="store_true", help="list equal weights too")
    differing.add_argument("--json", action="store_true", help="as JSON")
    differing.set_defaults(run=run_diff)

    explaining = subparsers.add_parser(
        "explain",
        help=VERBS["explain"],
        usage="vbw explain X [X ...] [--format FORMAT] [--index I] [--ties RULE] [--json]\n"
        "       vbw explain FILE WEIGHT I J [--json]",
    )
    explaining.add_argument("what", type=options.text, nargs="+", metavar="X",
                            help="a block of numbers; or FILE, WEIGHT and positions")  # fmt: skip
    explaining.add_argument("--format", type=options.name, default="nvfp4",
                            help="format, profile or element format (default nvfp4)")  # fmt: skip
    explaining.add_argument("--index", type=options.whole(-options.LARGEST), default=0,
                            help="which number to explain (default 0, the first)")  # fmt: skip
    explaining.add_argument("--ties", choices=("even", "zero", "away"), default="even", help="for an element format")
    explaining.add_argument("--json", action="store_true", help="as JSON")
    explaining.set_defaults(run=run_explain)
    _add_writers(subparsers)


def _add_writers(subparsers: argparse._SubParsersAction) -> None:
    converting = subparsers.add_parser("convert", help=VERBS["convert"])
    converting.add_argument("checkpoint", type=options.path, metavar="IN",
                            help="a .safetensors or .gguf file, a folder, an index")  # fmt: skip
    converting.add_argument("out", type=options.path, metavar="OUT", help="a folder that does not exist yet")
    converting.add_argument("--to", type=options.name, required=True,
                            help="modelopt, compressed-tensors, torchao or gguf")  # fmt: skip
    converting.add_argument("--lossy", type=options.name, metavar="FORMAT",
                            help="quantize to it what the target does not store as it is")  # fmt: skip
    converting.add_argument("--fuse", action="store_true", help="one tensor scale for q, k, v and for gate, up")
    converting.add_argument("--json", action="store_true", help="as JSON")
    converting.set_defaults(run=run_convert)

    quantizing = subparsers.add_parser("quantize", help=VERBS["quantize"])
    quantizing.add_argument("file", type=options.path, metavar="MODEL",
                            help="a checkpoint (file, folder, index), or an .npy array")  # fmt: skip
    quantizing.add_argument("--format", type=options.name, default="nvfp4",
                            help="format, see `vbw formats` (default nvfp4)")  # fmt: skip
    quantizing.add_argument("--out", type=options.path, metavar="OUT",
                            help="a folder that does not exist yet (.npy: an .npz file)")  # fmt: skip
    model = quantizing.add_argument_group("for a checkpoint")
    model.add_argument("--producer", type=options.name, default=None,
                       help="whose layout (default compressed-tensors; gguf for q4_0, q4_k, ...)")  # fmt: skip
    model.add_argument("--layers", type=options.name, action="append", metavar="PATTERN",
                       help="weights to quantize, such as '*mlp*'")  # fmt: skip
    model.add_argument("--keep", type=options.name, action="append", metavar="PATTERN",
                       help="weights to leave as they are, besides")  # fmt: skip
    array = quantizing.add_argument_group("for an .npy array")
    array.add_argument("--profile", type=options.name, help="a producer's exact arithmetic, see `vbw formats`")
    array.add_argument("--ties", type=options.name, help="another rounding than the format's")
    array.add_argument("--seed", type=options.seed, default=0, help="seed of stochastic rounding (default 0)")
    array.add_argument("--nonfinite", choices=("raise", "propagate", "producer"), default="raise", help="NaN and Inf")
    array.add_argument("--report", action="store_true", help="errors, histogram of codes, worst element")
    quantizing.add_argument("--json", action="store_true", help="as JSON")
    quantizing.set_defaults(run=run_quantize)

    measuring = subparsers.add_parser("measure", help=VERBS["measure"])
    measuring.add_argument("original", type=options.path, metavar="ORIGINAL", help="the checkpoint in full precision")
    measuring.add_argument("quantized", type=options.path, metavar="QUANTIZED", help="the quantized one")
    measuring.add_argument("--json", action="store_true", help="as JSON")
    measuring.add_argument("--html", type=options.path, metavar="PAGE", help="write one HTML page with a picture")
    measuring.set_defaults(run=run_measure)


def print_json(data: Any) -> None:
    """Data as strict JSON."""
    from ..formats import commands as formats

    formats.print_json(data)


def is_number(text: str) -> bool:
    """Whether a word is a number, rather than the name of a file."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def run_inspect(args: argparse.Namespace) -> int:
    """`vbw inspect`: exit code 1 when something is suspicious."""
    from ..files import check_output, write_whole
    from .inspecting import inspect_checkpoint
    from .opening import open_checkpoint
    from .showing import inspection_page, inspection_text

    if args.html:
        check_output(args.html)
    found = inspect_checkpoint(open_checkpoint(args.checkpoint), args.stats)
    if args.html:
        write_whole(args.html, inspection_page(found))
    if args.json:
        print_json(found.as_dict())
    else:
        print(inspection_text(found))
    return 1 if found.suspicious else 0


def run_diff(args: argparse.Namespace) -> int:
    """`vbw diff`: exit code 1 on any difference beyond the tolerance."""
    from .differing import diff_checkpoints
    from .opening import open_checkpoint
    from .showing_changes import comparison_text

    if not 0 <= args.tolerance < float("inf"):
        raise UserError(f"--tolerance {args.tolerance} is no number from 0 on; 0.02 passes what NVFP4 loses")
    found = diff_checkpoints(open_checkpoint(args.a), open_checkpoint(args.b))
    if args.json:
        print_json(found.as_dict(args.tolerance))
    else:
        print(comparison_text(found, args.tolerance, args.all))
    return 1 if found.beyond(args.tolerance) else 0


def run_explain(args: argparse.Namespace) -> int:
    """`vbw explain`: numbers, or an element of a checkpoint."""
    from ..formats import commands as formats

    if is_number(args.what[0]):
        wrong = [word for word in args.what if not is_number(word)]
        if wrong:
            raise UserError(f"{wrong[0]!r} is not a number; write numbers only, or FILE WEIGHT I J")
        args.values = [float(word) for word in args.what]
        return formats.run_explain(args)
    return _explain_element(args)


def _explain_element(args: argparse.Namespace) -> int:
    from ..formats import commands as formats
    from .explaining import explain_weight
    from .opening import open_checkpoint
    from .producers import find_weights

    checkpoint = open_checkpoint(args.what[0])
    weights = find_weights(checkpoint)
    if len(args.what) < 2 or args.what[1] not in weights:
        name = args.what[1] if len(args.what) > 1 else ""
        raise UserError(f"{args.what[0]} has no weight {name!r}; `vbw inspect {args.what[0]}` lists its {len(weights)}")
    try:
        index = tuple(int(word) for word in args.what[2:])
    except ValueError:
        raise UserError(
            f"{' '.join(args.what[2:])!r} are no positions; write whole numbers, one for each axis"
        ) from None
    formats.print_explanations([explain_weight(weights[args.what[1]], index)], args.json)
    return 0


def _note_on_gguf(source_kind: str, to: str) -> None:
    """Say on stderr what a GGUF file made of Hugging Face's tensors is not."""
    if to == "gguf" and source_kind != "gguf":
        print(
            "vbw: note: tensors keep their names and order of rows, and no tokenizer goes along; readers of GGUF "
            "decode this file, llama.cpp does not run it. For that, `vbw gguf FOLDER FILE.gguf` first (a Llama), then "
            "`vbw quantize FILE.gguf`",
            file=sys.stderr,
        )


def run_convert(args: argparse.Namespace) -> int:
    """`vbw convert`."""
    from .converting import convert_checkpoint
    from .opening import open_checkpoint
    from .showing_changes import conversion_text

    source = open_checkpoint(args.checkpoint)
    done = convert_checkpoint(source, args.out, args.to, lossy=args.lossy, fuse=args.fuse)
    _note_on_gguf(source.kind, args.to)
    if args.json:
        print_json(done.as_dict())
    else:
        print(conversion_text(done, args.out))
    return 0


def run_quantize(args: argparse.Namespace) -> int:
    """`vbw quantize`: a checkpoint into a folder, or an array."""
    from ..formats import commands as formats

    if args.file.endswith(".npy"):
        if args.layers or args.keep or args.producer:
            raise UserError(f"{args.file} is one array: --layers, --keep and --producer are for checkpoints")
        return formats.run_quantize(args)
    for option in ("profile", "ties", "report"):
        if getattr(args, option):
            raise UserError(f"--{option} is for an .npy array; a checkpoint takes --format and --producer")
    if not args.out:
        raise UserError("a checkpoint is quantized into a folder: name it with --out FOLDER")
    return _quantize_checkpoint(args)


def _quantize_checkpoint(args: argparse.Namespace) -> int:
    from .opening import open_checkpoint
    from .quantizing import quantize_checkpoint
    from .showing_changes import quantized_text

    producer = args.producer or ("gguf" if args.format.startswith(("q", "iq4", "ggml-")) else "compressed-tensors")
    source = open_checkpoint(args.file)
    done = quantize_checkpoint(source, args.out, args.format, producer, layers=args.layers, keep=args.keep)
    _note_on_gguf(source.kind, producer)
    if args.json:
        print_json(done.as_dict())
    else:
        print(quantized_text(done, args.out))
    return 0


def run_measure(args: argparse.Namespace) -> int:
    """`vbw measure`."""
    from ..files import check_output, write_whole
    from .measuring import measure_checkpoints
    from .opening import open_checkpoint
    from .showing_changes import loss_page, loss_text

    if args.html:
        check_output(args.html)
    losses = measure_checkpoints(open_checkpoint(args.original), open_checkpoint(args.quantized))
    if args.html:
        write_whole(args.html, loss_page(losses, args.quantized))
    if args.json:
        print_json([loss.as_dict() for loss in losses])
    else:
        print(loss_text(losses))
    return 0
