"""The command ``vbw``: one frame for the verbs, each of which lives in its room.

A room offers its verbs in a module ``commands`` with two things::

    VERBS = {"bench": "train Claude4 on its cards and print the report"}     # a literal: it is read, not run

    def add_commands(subparsers): ...      # subparsers.add_parser(...), set_defaults(run=function of the arguments)

``vbw --help`` reads only the literals, so it stays quick however heavy a room is; a verb's room is imported when the
verb is used. `run` returns the exit code (None is 0), prints results to stdout and everything else to stderr.

Exit codes: 0 done, 1 a check did not pass, 2 bad input (one line on stderr), 3 something that this program did not
foresee (one line as well), 130 interrupted, 141 nobody reads stdout. ``VBW_DEBUG=1`` shows the traceback of an error.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .errors import UserError

FORESEEN = (ValueError, OSError, ImportError, MemoryError, FloatingPointError)
"""What bad input, a full disk or a missing package raises, with a message for whoever can mend it."""

ROOMS = (
    "vbw_np.bench.commands",
    "vbw_np.training.commands",
    "vbw_np.training.generate",
    "vbw_np.formats.commands",
    "vbw_np.checkpoints.commands",
    "vbw_np.models.commands",
    "vbw_np.conformance.commands",
    "vbw_np.data.commands",
    "vbw_np.ptq.commands",
    "vbw_np.steps.commands",
    "vbw_np.warmup",
    "vbw_np.teach.commands",
    "vbw_np.doctor",
)

_EPILOG = """examples:
{examples}

Every verb explains itself: vbw VERB --help. Results go to stdout, everything else to stderr.
VBW_DEBUG=1 shows where an error comes from; VBW_CACHE is the folder for caches; NO_COLOR is respected."""
_EXAMPLES = {
    "bench": "vbw bench --data random --json report.json",
    "doctor": "vbw doctor",
}


NEGATIVE_NUMBER = re.compile(r"-(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$|-(?:inf|infinity|nan)$", re.IGNORECASE)
"""What is a number and no option: argparse before Python 3.14 takes -1e-3 for an option."""


class ArgumentParser(argparse.ArgumentParser):
    """Argparse, with one line for an error and no guessing of shortened options."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **options)
        self._negative_number_matcher = NEGATIVE_NUMBER

    def _print_message(self, message: str, file: Any = None) -> None:
        """Argparse's own swallows the error of a stdout that cannot be written."""
        if message:
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see: {self.prog} --help)")


def room_file(module: str) -> Path | None:
    """The source of a room's commands, or None if the room is not built."""
    path = Path(__file__).parent.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def declared_verbs(file: Path) -> dict[str, str] | None:
    """The literal ``VERBS`` of a module, read without running it; None if it has none."""
    for statement in ast.parse(file.read_text("utf-8"), file.name).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "VERBS" for target in targets):
            return ast.literal_eval(statement.value)  # type: ignore[attr-defined]
    return None


def _asked_verbs(module: str) -> dict[str, str]:
    """The verbs of a room that declares none: imported and asked, which takes longer."""
    room = importlib.import_module(module)
    if not hasattr(room, "add_commands"):
        return {}
    subparsers = ArgumentParser(prog="vbw").add_subparsers()
    room.add_commands(subparsers)
    lines = {action.dest: action.help or "" for action in subparsers._choices_actions}
    return {verb: lines.get(verb, "") for verb in subparsers.choices}


def verbs() -> dict[str, tuple[str, str]]:
    """Every verb of the rooms that are built: its module, and a line of help."""
    found: dict[str, tuple[str, str]] = {}
    for module in ROOMS:
        file = room_file(module)
        declared: Mapping[str, str] | None = declared_verbs(file) if file else {}
        for verb, line in (_asked_verbs(module) if declared is None else declared).items():
            found[verb] = (module, line)
    return found


def build_parser(argv: Sequence[str]) -> ArgumentParser:
    """The parser for these arguments: every verb by name, the one that is used in full."""
    known = verbs()
    examples = "\n".join(f"  {line}" for verb, line in _EXAMPLES.items() if verb in known)
    parser = ArgumentParser(
        prog="vbw",
        description="Virtual Blackwell in NumPy: see, step through, trust and time every bit of an FP4 training step.",
        usage="vbw [--help] [--version] VERB ...",
        epilog=_EPILOG.format(examples=examples),
    )
    parser.add_argument("--version", action="version", help="print the version", version=f"vbw-np {__version__}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", prog="vbw")
    used = next((word for word in argv if not word.startswith("-")), None)
    if used in known:
        importlib.import_module(known[used][0]).add_commands(subparsers)
    elif used is not None:
        close = difflib.get_close_matches(used, known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"The verbs are: {', '.join(known)}."
        raise UserError(f"unknown verb {used!r}. {hint} (see: vbw --help)")
    else:
        for verb, (_, line) in known.items():
            subparsers.add_parser(verb, help=line, add_help=False)
    return parser


def _message(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, OSError) and error.strerror:
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        text = f"{names}: {error.strerror}" if names else error.strerror
    else:
        text = str(error) or type(error).__name__
    return "; ".join(part.strip() for part in text.splitlines() if part.strip())


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed as well
        print(f"vbw: error: {line}", file=sys.stderr)


def _open_standard_streams() -> None:
    """Refuse a closed stdout, for the results would be lost; replace a closed stdin or stderr by the null device.

    The numbers 0, 1 and 2 must not be free: the next file that is opened would get one of them, and with it whatever
    a library prints.
    """
    closed = [number for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)) if stream is None]
    for number in closed:
        with contextlib.suppress(OSError):
            while (handle := os.open(os.devnull, os.O_RDWR)) < number:
                pass
            if handle != number:  # it was open after all: somebody has put None in the stream's place
                os.close(handle)
    if 2 in closed:  # print(file=None) would print to stdout
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if 1 in closed:
        raise UserError("stdout is closed, so the results would be lost. Send them to a file, or to /dev/null.")


def _tolerate_any_character() -> None:
    """A console that knows no Chinese or no arrows shows a substitute instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


def _forget_stdout() -> None:
    """After a write that failed: let the interpreter's last flush go nowhere instead of complaining."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _flush_stdout() -> None:
    """Write what is still held back; an error of the last bytes is an error of the command."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget_stdout()
        raise OSError(error.errno, error.strerror, "stdout") from error


def _run(argv: Sequence[str]) -> int:
    parser = build_parser(argv)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        prog = f"{parser.prog} {arguments.verb}" if arguments.verb else parser.prog
        raise UserError(f"unrecognized arguments: {' '.join(unknown)} (see: {prog} --help)")
    if arguments.verb is None:
        parser.print_help(sys.stderr)
        return 2
    return int(arguments.run(arguments) or 0)


def _run_and_flush(argv: Sequence[str] | None) -> int:
    _open_standard_streams()
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
    except SystemExit as leaving:  # argparse after --help and --version
        code = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 2
    except OSError as error:
        if error.filename is None:  # was it stdout? then what it still holds cannot be written either
            _flush_stdout()
        raise
    _flush_stdout()
    return code


def _calm_blas() -> None:
    """Let OpenBLAS's threads wait awake for some 15 microseconds; read when NumPy is loaded, which nothing did so far.

    They would spin for about 25 ms, on the processors that the kernels which follow need. Not at all would be too
    short: waking them costs as much as a small product.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``vbw`` with these arguments (default: the process's) and return its exit code."""
    _tolerate_any_character()
    _calm_blas()
    debugging = os.environ.get("VBW_DEBUG", "0") not in ("", "0")
    try:
        return _run_and_flush(argv)
    except BrokenPipeError:
        _forget_stdout()
        return 141
    except KeyboardInterrupt:
        with contextlib.suppress(OSError, ValueError):
            print("\nvbw: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debugging:
            raise
        if isinstance(error, FORESEEN):
            _say(_message(error))
            return 2
        _say(
            f"unforeseen {type(error).__name__}: {_message(error)}. This is a defect, or a damaged file or "
            "installation (see: vbw doctor); VBW_DEBUG=1 shows where it happened."
        )
        return 3
