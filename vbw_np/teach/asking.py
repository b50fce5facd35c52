"""Ask an answer for every case, and write down as plain data what came of it.

This is the part that runs a learner's code. It knows the cases, but no right answers: they stay with the judge.
"""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import rules
from .givens import resolved
from .plain import from_plain, to_plain

VALUE, RAISED, STUB, NO_FUNCTION = "value", "raised", "stub", "no function"
_STOPPING = (Exception, SystemExit, GeneratorExit)


def outcomes(
    answer: Any, cases: Sequence[dict], allowed: dict[str, bool], catch: Any = _STOPPING
) -> Iterator[dict[str, Any]]:
    """What an answer gives for each case, one plain record after the other; the first that raises is the last.

    Parameters
    ----------
    answer : callable or value
    cases : sequence of dict
        Tuples of arguments, from `to_plain`.
    allowed : dict
        `Exercise.rules`.
    catch : exception classes
        Those that become records. Ctrl-C is not among them where the learner sits before it.
    """
    if not callable(answer):
        for case in cases:
            value = to_plain(answer)
            if case["v"] and value["t"] != "blank":
                yield {"kind": NO_FUNCTION, "type": value["t"]}
                return
            yield {"kind": VALUE, "value": value, "empty": True, "uses": []}
        return
    used = sorted(rules.library_names(answer)) if not allowed["library"] else []
    used += [f"a division ({name})" for name in sorted(rules.divisions(answer))] if not allowed["division"] else []
    empty = rules.does_nothing(answer)
    for case in cases:
        args = resolved(from_plain(case))
        if allowed["frozen"]:
            _freeze(args)
        record = _one(answer, args, allowed, catch)
        if record["kind"] == VALUE:
            record["empty"] = empty
            record["uses"] = sorted({*record["uses"], *used})
        yield record
        if record["kind"] != VALUE:
            return


def _freeze(value: Any) -> None:
    """From now on, writing to one of these arrays raises an error."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif isinstance(value, list | tuple):
        for item in value:
            _freeze(item)


def _one(answer: Any, args: tuple, allowed: dict[str, bool], catch: Any) -> dict[str, Any]:
    try:
        with rules.watched(allowed["library"]) as called:
            value = answer(*args)
        return {"kind": VALUE, "value": to_plain(value), "uses": sorted(called)}
    except NotImplementedError:
        return {"kind": STUB}
    except catch as error:
        return {"kind": RAISED, **described(error)}


def described(error: BaseException, files: Sequence[str] = ()) -> dict[str, Any]:
    """An exception as plain data: its type, its words, and the learner's line that it came from.

    Parameters
    ----------
    error : BaseException
    files : sequence of str
        The learner's files; without, every file that is neither the library nor installed counts as one.
    """
    try:
        words = str(error)[:500]
    except BaseException:
        words = "(its text cannot be shown)"
    number, text, where = 0, "", ""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        number, text, where, words = int(error.lineno), str(error.text or ""), str(error.filename), str(error.msg)[:500]
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if name in files or (not files and _is_learners(name)):
            number, text, where = line, linecache.getline(name, line, frame.f_globals), name
    return {
        "type": type(error).__name__[:100],
        "words": words,
        "line": number,
        "text": text.strip()[:200],
        "where": where if where.startswith("<") else "",
    }


def _is_learners(name: str) -> bool:
    return not (name.startswith((*rules.LIBRARY, "<frozen")) or "site-packages" in name or "/lib/python3" in name)


def in_words(error: dict[str, Any]) -> str:
    """`ZeroDivisionError: division by zero`, and below it the learner's line."""
    first = f"{error['type']}: {error['words']}" if error["words"] else f"{error['type']}"
    if not error["line"]:
        return first
    return f"{first}\n  line {error['line']}: {error['text']}"
