"""The verbs `vbw vectors` and `vbw conform`."""

from __future__ import annotations

import argparse
import sys

from .. import options

VERBS = {
    "vectors": "inputs and right answers of a producer's profile, to test a quantizer with",
    "conform": "run a quantizer on a profile's vectors; name the first rule that it breaks",
}


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add the verbs to an argparse parser; each sets `run`, a function of the parsed arguments."""
    making = subparsers.add_parser("vectors", help=VERBS["vectors"])
    making.add_argument("profile", type=options.name, metavar="PROFILE", help="see `vbw formats`")
    making.add_argument("--out", type=options.path, metavar="FILE.json", help="write a file (default: stdout)")
    making.set_defaults(run=run_vectors)

    judging = subparsers.add_parser("conform", help=VERBS["conform"])
    judging.add_argument("quantizer", type=options.text, metavar="MODULE:FUNCTION",
                         help="a module (or file.py) and its function of a float32 array")  # fmt: skip
    judging.add_argument("--profile", type=options.name, required=True, help="whose bytes are right, see `vbw formats`")
    judging.add_argument("--seconds", type=options.number(0, open_ends=True), default=60.0,
                         help="time limit of its process (default: %(default)g)")  # fmt: skip
    judging.add_argument("--python", type=options.path, metavar="PYTHON",
                         help="the Python that runs it; it needs NumPy (default: this one)")  # fmt: skip
    judging.add_argument("--json", action="store_true", help="as JSON")
    judging.set_defaults(run=run_conform)


def run_vectors(args: argparse.Namespace) -> int:
    """`vbw vectors`."""
    from ..files import check_output, write_whole
    from .vectors import vectors

    if args.out:
        check_output(args.out)
    document = vectors(args.profile)
    if not args.out:
        print(document.as_json(), end="")
        return 0
    write_whole(args.out, document.as_json())
    print(f"{len(document.vectors)} vectors of {args.profile} in {args.out}")
    return 0


def run_conform(args: argparse.Namespace) -> int:
    """`vbw conform`: exit code 1 when a rule is broken."""
    from ..formats.commands import print_json
    from .running import conform

    verdict = conform(args.quantizer, args.profile, seconds=args.seconds, python=args.python)
    print(verdict.printed, end="", file=sys.stderr)
    if args.json:
        print_json(verdict.as_dict())
    else:
        print(verdict)
    return 0 if verdict.conforms else 1
