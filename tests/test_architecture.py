"""Imports run one way, as docs/architecture.md draws it; read from the sources, nothing is run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each room may import of the others, besides itself. What it may not, it does not know about.
FOUNDATION = {"errors", "files"}  # any room may raise the user's error and write a file
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "machine": set(),
    "progress": set(),
    "engine": {"autograd"},
    "formats": set(),
    "kernels": {"formats", "engine", "machine"},
    "device": {"formats", "kernels", "engine", "machine"},
    "models": {"formats", "kernels", "device", "engine"},
    "data": {"formats", "kernels", "device", "engine"},
    "training": {"formats", "kernels", "device", "engine", "models", "data", "machine", "progress"},
    "bench": {"formats", "kernels", "device", "engine", "models", "data", "machine", "progress"},
    "viz": {"formats", "kernels", "device", "engine", "models", "data"},
}
TOP = {"cli", "doctor", "teach", "__main__", "__init__"}  # may import everything below
OUTSIDE = set(sys.stdlib_module_names) | {"numpy"}
MAY_IMPORT_NUMBA = {"kernels", "doctor"}
# Used where they are installed, imported only inside functions: pictures, and the peers that a benchmark compares with.
OPTIONAL = {
    "viz": {"matplotlib", "PIL"},  # PIL is what matplotlib writes PNG with
    "training": {"matplotlib", "distributed"},
    "bench": {"torch", "torchao", "bitsandbytes", "gguf", "ml_dtypes"},
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


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """Everything below ``if TYPE_CHECKING:``, which does not run."""
    guarded: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            guarded.update(child for statement in node.body for child in ast.walk(statement))
    return guarded


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module a file imports anywhere in it, by its full name, and whether the import is relative."""
    tree = ast.parse(path.read_text("utf-8"), str(path))
    skipped = for_types_only(tree)
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            if node.level and full == package[0]:  # ``from .. import engine`` names rooms, not objects
                found += [(f"{full}.{alias.name}", True) for alias in node.names]
            elif full == "vbw_np":
                found += [(f"{full}.{alias.name}", False) for alias in node.names]
            else:
                found.append((full, node.level > 0))
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
            assert room == "engine", f"{label(path)}: import autograd through vbw_np.engine"
        elif top in ("numba", "llvmlite"):
            assert room in MAY_IMPORT_NUMBA, f"{label(path)}: numba belongs into kernels/"
        elif top in OPTIONAL.get(room, ()):
            assert module not in imports_at_top(path), f"{label(path)}: {module} may be missing"
        else:
            assert top in OUTSIDE, f"{label(path)} imports {module}: NumPy and numba are the only packages at run time"


def test_every_room_is_on_the_map() -> None:
    rooms = {room_of(module_of(path)) for path in sources("vbw_np")}
    assert rooms <= set(MAY_IMPORT) | TOP, "a new room needs its place in MAY_IMPORT and docs/architecture.md"


def test_the_map_has_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {room for room, below in MAY_IMPORT.items() if room not in done and below - {"autograd"} <= done}
        assert ready, f"a circle among {set(MAY_IMPORT) - done}"
        done |= ready


def test_modules_of_a_room_have_no_circle_at_import() -> None:
    """Imports at the top of a module, package by package file by file: a circle works only in one lucky order."""
    files = {module_of(path): path for top in ("autograd", "vbw_np") for path in sources(top)}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text("utf-8"))
        at_top = {id(node) for node in tree.body}
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        graph[name] = set()
        for node in ast.walk(tree):
            if id(node) not in at_top or not isinstance(node, ast.ImportFrom):
                continue
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            full = f"{base}.{node.module}".strip(".") if node.module else base
            names = {f"{full}.{alias.name}" for alias in node.names} & set(files)
            graph[name] |= names or ({full} & set(files))
    graph = {name: {other for other in below if other != name} for name, below in graph.items()}
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {name for name, below in graph.items() if name not in done and below <= done}
        assert ready, f"a circle among {sorted(set(graph) - done)}"
        done |= ready


def tracked_text_files() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    binary = (".npz", ".npy", ".png", ".gz")
    return [ROOT / name for name in listed if name and not name.endswith(binary) and (ROOT / name).is_file()]


# Spelled so that this file does not contain them.
FOREIGN_WORDS = re.compile(
    "|".join(["/wo" + r"rk/", r"\.\./sha" + "red", r"\bsha" + r"red/(?:facts|spec|golden|seed|design)",
              r"\bpypi\.or" + "g", r"files\.pythonh" + "osted"])
)  # fmt: skip


def test_no_word_of_the_place_where_it_was_made() -> None:
    found = [
        f"{label(path)}:{number}: {line.strip()}"
        for path in tracked_text_files()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if FOREIGN_WORDS.search(line)
    ]
    assert not found, "\n".join(found)
