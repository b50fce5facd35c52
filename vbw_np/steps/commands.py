"""``vbw step``: one recorded training step, as text, JSON or a page that plays."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import options
from ..errors import UserError
from ..files import check_output

if TYPE_CHECKING:
    import numpy as np

VERBS = {"step": "one training step, number by number: as text, or as a page that plays; --model: a language model's"}

_DESCRIPTION = """Record one training step of a small model (two layers of 16 x 16, 32 letters) on virtual cards and
tell it event by event: scales, codes, bytes, products, the loss, gradients with the random bits that rounded them, the
update, and what caches do afterwards. Every number is the device's own, to the last bit.

With --model FILE: one reading of a language model on cards instead, which input is massive and what its block lost."""

_EXAMPLES = """examples:
  vbw step --recipe nvfp4-train --html step.html
  vbw step --recipe mxfp4-train --seed 3 --phase backward --card second
  vbw step --model model.gguf --recipe mxfp4-train --prompt "The capital of France is"
  vbw step --data weights.npz --json step.json"""

_OF_THE_SMALL_MODEL = {
    "seed": 0, "lr": 0.5, "accumulate": None, "error_budget": None, "data": None, "phase": None, "element": None,
    "html": None, "json": None,
}  # fmt: skip
"""Options that make no sense for a language model, and what they are if nobody gives them."""


UNPACKED = 64
"""How many times as large as its file an .npz may become: weights do not shrink so much."""


def add_commands(subparsers: Any) -> None:
    """Add ``step``."""
    parser = subparsers.add_parser("step", help=VERBS["step"], description=_DESCRIPTION, epilog=_EXAMPLES)
    add = parser.add_argument
    add("--recipe", type=options.name, default="nvfp4-train", help="what the cards do (default: %(default)s)")
    add("--seed", type=options.seed, default=0, help="of the weights and of the rounding (default: %(default)s)")
    add("--lr", type=options.number(), default=0.5, help="learning rate (default: %(default)s)")
    add("--accumulate", choices=("float32", "blackwell", "hopper"), help="how the terms of a product are added")
    add("--error-budget", type=options.number(0, open_ends=True), metavar="X",
        help="relative error above which a card's fine tier is asked for (the recipe's own)")  # fmt: skip
    add("--data", type=options.path, metavar="FILE",
        help="weights of your own: .npz with `first` or `second`, or .npy with the first card's; at least 16 x 16, of "
        "which the upper left corner is taken")  # fmt: skip
    add("--phase", choices=("forward", "loss", "backward", "update", "repack"), help="print this part only")
    add("--card", type=options.name, metavar="CARD", help="print this card's events only: first, second or model; "
        "with --model, a layer such as model.layers.11.mlp.down_proj")  # fmt: skip
    add("--element", type=options.whole(0, 15), nargs=2, metavar=("I", "J"),
        help="the weight that sentences are about, of --card (default: one that matters)")  # fmt: skip
    add("--html", type=options.path, metavar="FILE", help="write one page that plays, with everything in it")
    add("--json", type=options.path, metavar="FILE", help="write all events as JSON")
    add("--model", type=options.path, metavar="FILE", help="a language model (a .gguf file, a folder of safetensors)")
    add("--prompt", type=options.text, help="what it reads (default: The capital of France is)")
    parser.set_defaults(run=run_step)


def run_step(arguments: argparse.Namespace) -> int:
    """Record, and write or print."""
    from .page import write_page
    from .record import step

    if arguments.model is not None:
        return _read_model(arguments)
    if arguments.prompt is not None:
        raise UserError("--prompt is what a language model reads: name one with --model")
    if arguments.card not in (None, "first", "second", "model"):
        raise UserError(f"there is no card {arguments.card!r} in the small model; take first, second or model")
    for path in (arguments.html, arguments.json):
        if path is not None:
            check_output(path)
    weights = own_weights(arguments.data) if arguments.data is not None else None
    chosen = {name: getattr(arguments, name) for name in ("accumulate", "error_budget")}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    steps = step(arguments.recipe, seed=arguments.seed, lr=arguments.lr, weights=weights, **chosen)
    if arguments.element is not None:
        if arguments.card == "model":
            raise UserError("--element is an element of a card's weight: give --card first or --card second with it")
        steps.follow(arguments.card or "first", *arguments.element)
    if arguments.html is not None:
        write_page(steps, arguments.html)
    if arguments.json is not None:
        steps.save(arguments.json)
    if arguments.html is not None or arguments.json is not None:
        print("\n".join(str(path) for path in (arguments.html, arguments.json) if path is not None))
        return 0
    print(repr(steps))
    for event in steps:
        if arguments.phase in (None, event.phase) and arguments.card in (None, event.card):
            print(event)
    return 0


def _read_model(arguments: argparse.Namespace) -> int:
    from .language_model import PROMPT, read_once, told

    given = [name for name, default in _OF_THE_SMALL_MODEL.items() if getattr(arguments, name) != default]
    if given:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{words}: of the small model alone; leave them out with --model")
    prompt = PROMPT if arguments.prompt is None else arguments.prompt
    print(told(read_once(arguments.model, arguments.recipe, prompt), arguments.card))
    return 0


def own_weights(path: str) -> dict[str, np.ndarray]:
    """Weights of one's own from a file: of each matrix the upper left corner.

    Raises
    ------
    UserError
        The file is none of NumPy's, or has no matrix of at least 16 x 16.
    """
    import zipfile

    import numpy as np

    from .small_model import WIDTH

    if not Path(path).is_file():
        raise UserError(f"cannot read {path}: it is no file; name an .npy or .npz file of numbers")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                claimed = sum(part.file_size for part in archive.infolist())
            if claimed > UNPACKED * Path(path).stat().st_size:
                raise ValueError(f"its parts would unpack to {claimed:,} bytes")
        found = np.load(path, allow_pickle=False)
        arrays = dict(found) if hasattr(found, "files") else {"first": found}
    except OSError:
        raise
    except (ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no .npy or .npz file of numbers ({error}); write it with numpy.save") from None
    if not arrays:
        raise UserError(f"{path} has no arrays in it; give one with `first`, `second` or both")
    for name, array in arrays.items():
        if array.ndim != 2 or min(array.shape) < WIDTH:
            raise UserError(
                f"{path}: {name} has shape {array.shape}; the small model takes a matrix of {WIDTH} x {WIDTH} "
                "or the upper left corner of a larger one"
            )
    return {name: array[:WIDTH, :WIDTH] for name, array in arrays.items()}
