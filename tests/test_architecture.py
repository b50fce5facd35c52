"""Imports run one way, as docs/architecture.md draws it; read from the sources, nothing is run."""

from __future__ import annotations

import ast
import functools
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each room may import of the others, besides itself. What it may not, it does not know about.
FOUNDATION = {"errors", "files", "options"}  # any room may raise the user's error, write a file, have options
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "options": {"errors", "files"},
    "machine": set(),
    "progress": set(),
    "door": {"autograd"},
    "optim": {"door"},
    "engine": {"door", "optim", "autograd"},  # autograd for types only
    "formats": set(),
    "layers": {"engine"},
    "definitions": {"formats", "engine"},
    "simd": {"engine"},
    "kernels": {"formats", "definitions", "simd", "engine", "layers", "machine"},  # graphs and experts have kernels
    "device": {"formats", "definitions", "kernels", "engine", "layers"},
    "checkpoints": {"formats", "progress"},
    "steps": {"formats", "device", "engine", "models", "checkpoints"},
    "conformance": {"formats"},
    "models": {"formats", "definitions", "kernels", "device", "engine", "layers", "checkpoints", "machine"},
    "data": set(),
    "ptq": {"formats", "definitions", "kernels", "engine", "layers", "models", "checkpoints", "viz", "progress"},
    "training": {
        "formats", "simd", "kernels", "device", "engine", "models", "checkpoints", "data", "machine", "progress",
    },
    "bench": {
        "formats", "definitions", "simd", "kernels", "device", "engine", "layers", "models", "data", "machine",
        "progress",
    },
    "viz": {"device", "engine"},
    "teach": {"formats", "device", "engine"},
}  # fmt: skip
TOP = {"cli", "doctor", "warmup", "__main__", "__init__"}  # may import everything below
OUTSIDE = set(sys.stdlib_module_names) | {"numpy"}
MAY_IMPORT_NUMBA = {"simd", "kernels", "doctor", "bench.peaks"}  # rooms and files
# Used where they are installed, imported only inside functions: pictures, and the peers that a benchmark compares with.
OPTIONAL = {
    "viz": {"matplotlib", "PIL"},  # PIL is what matplotlib writes PNG with
    "training": {"matplotlib", "distributed"},
    "models": {"tokenizers"},  # byte-level BPE
    "bench": {"torch", "torchao", "bitsandbytes", "gguf", "ml_dtypes", "llama_cpp"},
}


def sources(top: str) -> list[Path]:
    return sorted((ROOT / top).rglob("*.py"))


def room_of(module: str) -> str:
    """``vbw_np.formats.codec`` is of the room ``formats``; ``vbw_np`` itself of ``__init__``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> dict[str, Path]:
    """Every file of the product by its full name; a package stands for its ``__init__.py``."""
    return {module_of(path): path for top in ("autograd", "vbw_np") for path in sources(top)}


def is_loaded_by_name(node: ast.AST) -> bool:
    """``importlib.import_module("vbw_np.engine")`` is an import too."""
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__")
        and isinstance(node.args[0], ast.Constant)
    )


def imports(path: Path) -> list[tuple[str, bool]]:
    """What a file imports anywhere in it: at its top, in a function, under a condition, for types only.

    Each by its full name, and whether the import is relative. ``from x import y`` gives ``x.y`` where that is a file.
    """
    known = modules()
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found: list[tuple[str, bool]] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += [(alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names = [f"{full}.{alias.name}" for alias in node.names]
            found += [(name if name in known else full, node.level > 0) for name in names]
        elif is_loaded_by_name(node):
            found.append((node.args[0].value, False))
    return found


def imports_at_top(path: Path) -> set[str]:
    """Modules that are imported as soon as the file is."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    return found


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources("autograd"), ids=label)
def test_autograd_imports_numpy_and_itself_relatively(path: Path) -> None:
    for module, relative in imports(path):
        top = module.split(".")[0]
        assert (relative and top == "autograd") or (not relative and top in OUTSIDE), f"{label(path)} imports {module}"


@pytest.mark.parametrize("path", sources("vbw_np"), ids=label)
def test_rooms_import_only_what_lies_below_them(path: Path) -> None:
    room = room_of(module_of(path))
    for module, _ in imports(path):
        top = module.split(".")[0]
        if top == "vbw_np":
            other = room_of(module)
            if other.startswith("__") and other != "__main__":  # vbw_np.__version__
                continue
            allowed = set(MAY_IMPORT) | TOP if room in TOP else MAY_IMPORT[room] | FOUNDATION
            assert other in allowed | {room}, f"{label(path)}: {room} must not import {module}"
        elif top == "autograd":
            assert "autograd" in MAY_IMPORT.get(room, ()), f"{label(path)}: import autograd through vbw_np.engine"
        elif top in ("numba", "llvmlite"):
            allowed = MAY_IMPORT_NUMBA & {room, module_of(path).removeprefix("vbw_np.")}
            assert allowed, f"{label(path)}: numba belongs into simd/ and kernels/"
        elif top in OPTIONAL.get(room, ()):
            assert module not in imports_at_top(path), f"{label(path)}: {module} may be missing"
        else:
            assert top in OUTSIDE, f"{label(path)} imports {module}: NumPy and numba are the only packages at run time"


CALLED = {"vbw_np.definitions", "vbw_np.definitions.token", "vbw_np.definitions.prompt"}  # those with twins


@pytest.mark.parametrize("path", sources("vbw_np"), ids=label)
def test_who_calls_definitions_puts_the_kernels_in_place(path: Path) -> None:
    """A definition runs the twin that a kernel has registered, so somebody has to import `kernels`."""
    imported = {module for module, _ in imports(path)}
    if imported & CALLED and room_of(module_of(path)) not in ("definitions", "kernels"):
        assert "vbw_np.kernels" in imported, f"{label(path)} calls definitions: from .. import kernels"


def test_every_room_is_on_the_map() -> None:
    rooms = {room_of(module_of(path)) for path in sources("vbw_np")}
    assert rooms <= set(MAY_IMPORT) | TOP, "a new room needs its place in MAY_IMPORT and docs/architecture.md"


def circles(graph: Mapping[str, Set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node: each of their nodes reaches every other."""

    def reached_from(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    below = {name: reached_from(name) for name in graph}
    mutual = {frozenset(other for other in below[name] if name in below[other]) | {name} for name in graph}
    return sorted(sorted(component) for component in mutual if len(component) > 1)


@functools.cache
def files_graph() -> dict[str, set[str]]:
    known = modules()
    return {name: {module for module, _ in imports(path)} & set(known) - {name} for name, path in known.items()}


def merged(graph: Mapping[str, Set[str]], name_of: Callable[[str], str]) -> dict[str, set[str]]:
    """The same graph between groups of files."""
    groups: dict[str, set[str]] = {name_of(name): set() for name in graph}
    for name, below in graph.items():
        groups[name_of(name)] |= {name_of(other) for other in below} - {name_of(name)}
    return groups


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"f"}, "f": {"g"}, "g": {"e"}}
    assert circles(graph) == [["b", "c"], ["e", "f", "g"]]


def test_the_map_allows_nothing_that_no_file_needs() -> None:
    needed = merged(files_graph(), lambda name: room_of(name) if name.startswith("vbw_np") else "autograd")
    spare = {room: sorted(allowed - needed[room]) for room, allowed in MAY_IMPORT.items() if allowed - needed[room]}
    assert not spare, f"take these out of MAY_IMPORT and of docs/architecture.md: {spare}"


def test_the_map_has_no_circle() -> None:
    assert circles({"autograd": set(), **MAY_IMPORT}) == []


def test_rooms_have_no_circle() -> None:
    assert circles(merged(files_graph(), lambda name: room_of(name) if name.startswith("vbw_np") else name)) == []


def test_files_have_no_circle() -> None:
    """Whoever reads one file of a circle has to read them all, and importing them works in one lucky order only."""
    found = circles(files_graph())
    assert not found, "\n".join(" <-> ".join(circle) for circle in found)


PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
BLOCKS = {kind: text for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)}
ANYWHERE = {"errors", "files", "options", "machine", "progress"}  # small things, which the picture leaves out


def drawn() -> dict[str, set[str]]:
    """The picture's arrows: ``a & b --> c & d``, ``a -. "why" .-> b``, ``a --> b --> c``; ``a["words"]`` is a."""
    found: dict[str, set[str]] = {}
    for line in BLOCKS["mermaid"].splitlines()[1:]:
        groups = [
            {re.sub(r"\[.*", "", name).strip() for name in group.split("&")}
            for group in re.split(r'-->|-\. "[^"]*" \.->', line)
        ]
        for left, right in itertools.pairwise(groups):
            for name in left:
                found.setdefault(name, set()).update(right)
            for name in right:
                found.setdefault(name, set())
    return found


def reach(graph: Mapping[str, Set[str]], name: str) -> set[str]:
    return graph[name].union(*(reach(graph, other) for other in graph[name]))


def test_the_picture_is_the_map() -> None:
    """What a room reaches by arrows is what it reaches by imports, and every arrow is an import."""
    rooms = {room: allowed - ANYWHERE for room, allowed in MAY_IMPORT.items() if room not in ANYWHERE}
    arrows, rooms = drawn(), {"autograd": set(), **rooms}
    assert arrows.pop("cli") == set(rooms) - set().union(*rooms.values()), "the command has what nobody else has"
    assert arrows.keys() == rooms.keys()
    for room, allowed in rooms.items():
        assert arrows[room] <= allowed, f"{room} imports no {arrows[room] - allowed}"
        assert reach(arrows, room) == reach(rooms, room), room


def test_the_list_of_rooms_is_whole() -> None:
    named = set(re.findall(r"^(?:  |    )?((?:[\w.]+(?:/|\.py)\s+)+)", BLOCKS[""], re.MULTILINE))
    entries = {entry for names in named for entry in names.split()} - {"vbw_np/"}
    rooms = {f"{room}/" for room in room_folders()}
    files = {path.name for path in (ROOT / "vbw_np").glob("[!_]*.py")}
    inner = {f"{path.parent.name}/" for path in (ROOT / "vbw_np").glob("*/*/__init__.py")} - {"lessons/"}
    assert entries == rooms | files | inner


# How large what is read in one sitting may be. Lower a number when something shrinks; raise one with a reason.
LINES_OF_ROOM = {
    "autograd": 2300, "bench": 3800, "checkpoints": 4700, "conformance": 1500, "data": 1000, "definitions": 1550,
    "device": 3640, "formats": 8700, "kernels": 7200, "layers": 1300, "models": 2500, "ptq": 2950, "simd": 1700,
    "steps": 3150, "teach": 4150, "training": 3220, "viz": 1450,
}  # fmt: skip
LINES_OF_CORE = 1000  # tensor, primitive, ops and functional together: what a reader of autograd begins with
LINES_OF_FILE = 600
LINES_OF_FUNCTION = 60  # pictures aside, which are lists of what is drawn


def lines_of(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def functions_of(tree: ast.AST, within: str = "") -> list[tuple[str, int]]:
    """Every function's dotted name below the file, and its lines."""
    found = []
    for node in ast.iter_child_nodes(tree):
        inner = within
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{within}.{node.name}".strip(".")
            if not isinstance(node, ast.ClassDef):
                found.append((inner, node.end_lineno - node.lineno + 1))
        found += functions_of(node, inner)
    return found


def room_folders() -> dict[str, Path]:
    folders = {path.name: path for path in (ROOT / "vbw_np").iterdir() if (path / "__init__.py").is_file()}
    return {"autograd": ROOT / "autograd", **folders}


def test_every_room_has_a_size() -> None:
    assert set(room_folders()) == set(LINES_OF_ROOM)


@pytest.mark.parametrize("room", LINES_OF_ROOM)
def test_a_room_is_read_in_one_sitting(room: str) -> None:
    assert sum(map(lines_of, room_folders()[room].rglob("*.py"))) <= LINES_OF_ROOM[room]


def test_the_core_of_autograd_is_small() -> None:
    core = ("tensor", "primitive", "ops", "functional")
    assert sum(lines_of(ROOT / "autograd" / f"{name}.py") for name in core) <= LINES_OF_CORE


def test_files_and_functions_are_short() -> None:
    long = []
    for name, path in modules().items():
        if lines_of(path) > LINES_OF_FILE:
            long.append(f"{label(path)}: {lines_of(path)} lines")
        if name.startswith("vbw_np.viz"):
            continue
        for function, lines in functions_of(ast.parse(path.read_text("utf-8"))):
            if lines > LINES_OF_FUNCTION:
                long.append(f"{label(path)}: {function} has {lines} lines")
    assert not long, "\n".join(long)


# ------------------------------------------------------------------------------------- tests, and their names

WHOLE = {"test_architecture.py", "test_packaging.py"}  # tests of the project, not of a part
WITHOUT_MODULES = {"notebooks", "oracles", "site"}  # folders whose tests are of no room of the product


def mirrored(path: Path) -> bool:
    """Whether ``tests/x/test_y.py`` or ``tests/x/test_y_more.py`` has a module ``x/y`` (or a room ``x/y``)."""
    room = path.relative_to(ROOT / "tests").parent
    top = ROOT if room.parts[:1] == ("autograd",) else ROOT / "vbw_np"
    words = path.stem.removeprefix("test_").split("_")
    names = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    return any((top / room / f"{name}.py").is_file() or (top / room / name).is_dir() for name in names)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=label)
def test_a_test_is_named_after_what_it_tests(path: Path) -> None:
    """After a module, or it walks over a kind and says so: ``test_walk_...``."""
    if path.name in WHOLE or path.relative_to(ROOT / "tests").parts[0] in WITHOUT_MODULES:
        return
    assert path.name.startswith("test_walk_") or mirrored(path), f"{label(path)} tests no module of that name"


SAME_JOB = {
    "commands", "errors",  # a room's verbs, its exceptions
    "codec", "graph", "measure", "prompt",  # the same functions, by kernels
    "cache",  # what is kept so that it is not made twice
    "blocks", "products", "quantizing",  # the same things: what they are, drawn, or step by step
    "explain", "explaining", "judging", "measuring", "report", "worker",  # one job, for what the room is about
}  # fmt: skip


def test_files_of_one_name_do_the_same_job() -> None:
    rooms: dict[str, set[Path]] = {}
    for path in sources("vbw_np") + sources("autograd"):
        if path.stem != "__init__" and path.parent.name != "lessons":  # a lesson is named after its subject
            rooms.setdefault(path.stem, set()).add(path)
    several = {name for name, paths in rooms.items() if len(paths) > 1}
    unknown = {label(path) for name in several - SAME_JOB for path in rooms[name]}
    assert not unknown, f"another name for one of {', '.join(sorted(unknown))}"
    assert several == SAME_JOB, f"no longer twice there: {sorted(SAME_JOB - several)}"


PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
NAMED = re.compile(r"(?<![\w/.-])(?:tests|tools|vbw_np|autograd|notebooks)/[\w/.-]+\.(?:py|ipynb|js|css)\b")


@pytest.mark.parametrize("path", PAGES, ids=label)
def test_files_that_a_page_names_are_there(path: Path) -> None:
    named = {name for name in NAMED.findall(path.read_text("utf-8")) if "NN_" not in name}  # NN_: any of a kind
    missing = sorted(name for name in named if not (ROOT / name).is_file())
    assert not missing, f"{label(path)} names {', '.join(missing)}, which is not there"
