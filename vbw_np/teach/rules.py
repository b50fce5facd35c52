"""What an answer uses: the library where it should do without, a division where none was asked for.

Two looks, for neither sees all. The code is read: the function, and the learner's own functions that it names. And
the run is watched: a call into the library is noticed, by whatever name it was made.
"""

from __future__ import annotations

import contextlib
import dis
import gc
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIBRARY = tuple(str(Path(__file__).resolve().parents[depth] / name) for depth, name in ((1, ""), (2, "autograd")))
_TEACH = str(Path(__file__).parent)
_GIVENS = str(Path(__file__).with_name("givens.py"))
_DIVIDES = {"/", "//"}
_DIVIDING_NAMES = {
    "divide", "true_divide", "floor_divide", "reciprocal", "divmod", "truediv", "floordiv",
    "power", "float_power", "pow", "__truediv__", "__rtruediv__",
}  # fmt: skip


def is_library_file(name: str) -> bool:
    """Whether a file is of the library; the functions that an exercise hands out do not count."""
    return name.startswith(LIBRARY) and name != _GIVENS


def is_library_object(value: Any) -> bool:
    """Whether a module, a function, or an object of a class is of the library."""
    if type(value) is types.ModuleType:
        name = types.ModuleType.__getattribute__(value, "__dict__").get("__name__")
    elif type(value) is types.FunctionType:
        return is_library_file(value.__code__.co_filename)
    else:
        name = type.__dict__["__module__"].__get__(value if issubclass(type(value), type) else type(value))
    return isinstance(name, str) and name.split(".")[0] in ("vbw_np", "autograd")


def code_reached(function: Any) -> Iterator[tuple[types.CodeType, dict[str, Any]]]:
    """The code of a function and of all plain functions that it names, with what its names mean."""
    waiting, seen = [function], set()
    while waiting:
        current = waiting.pop()
        if type(current) is not types.FunctionType or is_library_file(current.__code__.co_filename):
            continue
        cells = zip(current.__code__.co_freevars, current.__closure__ or ())
        closure = {name: cell.cell_contents for name, cell in cells if _is_full(cell)}
        meaning = {**current.__globals__, **closure}
        codes = [current.__code__]
        while codes:
            code = codes.pop()
            if code in seen:
                continue
            seen.add(code)
            yield code, meaning
            codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
            waiting += [meaning.get(name) for name in (*code.co_names, *code.co_freevars)]


def _is_full(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def does_nothing(function: Any) -> bool:
    """Whether a function has a body of `pass`, `...` or `return None` only."""
    if type(function) is not types.FunctionType:
        return False
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "COPY_FREE_VARS", "CACHE"}
    return all(step.opname in idle for step in dis.get_instructions(function))


def library_names(function: Any) -> set[str]:
    """Names of the library that the code uses."""
    found = set()
    for code, names in code_reached(function):
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF") and is_library_object(names.get(step.argval)):
                found.add(step.argval)
            elif step.opname == "IMPORT_NAME" and str(step.argval).split(".")[0] in ("vbw_np", "autograd"):
                found.add(step.argval)
    return found


def divisions(function: Any) -> set[str]:
    """Divisions that the code does, by operator or by name."""
    found = set()
    for code, _ in code_reached(function):
        before = None
        for step in dis.get_instructions(code):
            if step.opname == "BINARY_OP":
                operator = step.argrepr.rstrip("=")
                if operator in _DIVIDES or (operator == "**" and before == -1):
                    found.add(operator)
            elif step.argval in _DIVIDING_NAMES and step.opname.startswith("LOAD"):
                found.add(step.argval)
            before = step.argval if step.opname == "LOAD_CONST" else None
    return found


@contextlib.contextmanager
def watched(library: bool) -> Iterator[set[str]]:
    """Collect the names of the library's functions that are called inside.

    Garbage is not collected meanwhile: what is left of other arrays would be cleared away by the library's functions,
    and nobody inside has called those.

    Parameters
    ----------
    library : bool
        Whether they are allowed; then only the exercises' own answers are noticed, which never are.
    """
    called: set[str] = set()
    forbidden = _TEACH if library else LIBRARY

    def note(frame: types.FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(forbidden) and file != _GIVENS:
            called.add(frame.f_code.co_qualname)

    before, collecting = sys.getprofile(), gc.isenabled()
    gc.disable()
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(before)
        if collecting:
            gc.enable()
        called.discard("watched")  # its own end, which is in this file
