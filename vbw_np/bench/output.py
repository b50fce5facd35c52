"""Handing a benchmark's result over: a table for people, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from ..files import check_output, write_whole


def emit(destination: str | None, measure: Callable[[], dict[str, Any]], table: Callable[[dict[str, Any]], str]) -> int:
    """Check where the result goes, measure, print the table and write the file; returns the exit code.

    Parameters
    ----------
    destination : str or None
        A file for JSON beside the printed table; ``-``: JSON to stdout, and no table.
    measure : callable
        Makes the result; runs only if the file can be written.
    table : callable
        The result for people.
    """
    file = None if destination in (None, "-") else check_output(destination)
    result = measure()
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if destination == "-":
        sys.stdout.write(text)
    else:
        print(table(result))
    if file is not None:
        write_whole(file, text)
    return 0
