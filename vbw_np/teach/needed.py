"""Which cells of a notebook an answer needs: those that define what its cell names, and what these name in turn.

So a grader runs one exercise without the trainings, pictures and mistakes of the cells around it.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re
import symtable
from collections.abc import Iterator, Sequence

from .runner import Cell


def runnable(source: str) -> str:
    """A cell's source as plain Python: a line of Jupyter's own (`%timeit`, `!pip`) becomes a comment."""
    try:
        compile(source, "<cell>", "exec")
    except (SyntaxError, ValueError):
        return re.sub(r"^(\s*)([%!].*)$", r"\1pass  # \2", source, flags=re.MULTILINE)
    return source


@functools.lru_cache(maxsize=4096)
def names(source: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a cell binds at its top level, and which global names it uses. Both empty if it is not Python."""
    try:
        top = symtable.symtable(runnable(source), "<cell>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset(), frozenset()
    binds = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    uses = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    for table in _below(top):
        uses |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
        binds |= {s.get_name() for s in table.get_symbols() if s.is_declared_global() and s.is_assigned()}
    return frozenset(binds), frozenset(uses - set(dir(builtins)) | uses & binds)


def _below(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _below(child)


def defines(source: str, target: str) -> bool:
    """Whether a cell binds a name at its top level, or was meant to before somebody made a mistake in it."""
    binds, uses = names(source)
    if binds or uses:
        return target in binds
    return re.search(rf"^(?:def\s+{target}\s*\(|{target}\s*=)", source, re.MULTILINE) is not None


def needed(cells: Sequence[Cell], wanted: Sequence[int]) -> list[int]:
    """The numbers of the cells that those of `wanted` need, and of these, in order.

    A name is taken from the cells above that bind it, else from those below. A cell that imports `*` is always
    needed; one that checks an exercise never is.
    """
    code = {i: names(cell.source) for i, cell in enumerate(cells) if cell.kind == "code" and not cell.check}
    stars = {i for i in code if re.search(r"^\s*from\s+\S+\s+import\s+\*", cells[i].source, re.MULTILINE)}
    found, waiting = set(wanted) | stars, [*wanted, *stars]
    while waiting:
        here = waiting.pop()
        for name in code.get(here, ((), ()))[1]:
            binders = [i for i in code if name in code[i][0] and i != here]
            for i in [i for i in binders if i < here] or binders:
                if i not in found:
                    found.add(i)
                    waiting.append(i)
    return sorted(found)


def without_idle_imports(source: str, used: set[str]) -> str:
    """A cell without those of its imports that bind nothing that is used; its other lines keep their numbers."""
    source = runnable(source)
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        return source
    lines = source.splitlines()
    for node in statements:
        if isinstance(node, ast.Import | ast.ImportFrom) and node.end_lineno is not None:
            binds = {alias.asname or alias.name.split(".")[0] for alias in node.names}
            inside = [other for other in statements if other is not node and _overlap(node, other)]
            if not binds & used and "*" not in binds and not inside:
                lines[node.lineno - 1 : node.end_lineno] = ["pass", *[""] * (node.end_lineno - node.lineno)]
    return "\n".join(lines)


def _overlap(one: ast.stmt, other: ast.stmt) -> bool:
    """Whether two statements share a line (`import a; b = 1`)."""
    return one.lineno <= (other.end_lineno or other.lineno) and other.lineno <= (one.end_lineno or one.lineno)


def excerpt(cells: Sequence[Cell], wanted: Sequence[int]) -> list[tuple[int, str]]:
    """The cells that those of `wanted` need, by number and source, without imports that none of them uses."""
    numbers = needed(cells, wanted)
    used: set[str] = set().union(*(names(cells[i].source)[1] for i in numbers))
    return [(i, cells[i].source if i in wanted else without_idle_imports(cells[i].source, used)) for i in numbers]
