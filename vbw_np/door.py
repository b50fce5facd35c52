"""The one door from `vbw_np` to the top-level package `autograd`.

The name `autograd` is also that of HIPS/autograd on the package index, and pip lets one overwrite the other without a
word. So nothing in `vbw_np` says ``import autograd``: this module does, after it has looked at the file it would get.
Ours carries the line ``__vbw__ = True``. When another package has taken the name and our folder still lies beside
`vbw_np` (a checkout), ours is loaded from there under the private name `vbw_np._autograd`; the other one is neither
run nor replaced, so whoever wants it still gets it. When ours is gone, the import fails and says which file is in the
way and what to do.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

PRIVATE_NAME = "vbw_np._autograd"
_MARKER = re.compile(r"^__vbw__\s*=\s*True\b", re.MULTILINE)


def sibling() -> Path:
    """Where our `autograd` lies in a checkout and in a wheel alike: beside `vbw_np`."""
    return Path(__file__).resolve().parent.parent / "autograd" / "__init__.py"


def is_ours(init: str | Path | None) -> bool:
    """Whether a package's ``__init__.py`` carries our marker; it is read, not run."""
    try:
        return init is not None and _MARKER.search(Path(init).read_text("utf-8", errors="replace")) is not None
    except OSError:
        return False


def found_file() -> str | None:
    """The file that a plain ``import autograd`` gives now, or None if there is none (or it is blocked)."""
    if "autograd" in sys.modules:
        module = sys.modules["autograd"]
        return None if module is None else getattr(module, "__file__", None) or str(module)
    try:
        spec = importlib.util.find_spec("autograd")
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return spec.origin or str(next(iter(spec.submodule_search_locations or []), None))


def foreign_file() -> str | None:
    """The file of another package that a plain ``import autograd`` gives, or None if that is ours or nothing."""
    loaded = sys.modules.get("autograd")
    if loaded is not None and getattr(loaded, "__vbw__", False):
        return None
    found = found_file()
    return None if found is None or is_ours(found) else found


def _load_private(init: Path) -> ModuleType:
    """Load our package from its file under a name that nobody else uses; it imports relatively, so any name works."""
    if PRIVATE_NAME in sys.modules:
        return sys.modules[PRIVATE_NAME]
    spec = importlib.util.spec_from_file_location(PRIVATE_NAME, init, submodule_search_locations=[str(init.parent)])
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[PRIVATE_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for name in [n for n in sys.modules if n == PRIVATE_NAME or n.startswith(PRIVATE_NAME + ".")]:
            del sys.modules[name]
        raise
    return module


def load() -> ModuleType:
    """Our `autograd` package, however many others of that name there are.

    Returns
    -------
    module
        ``sys.modules["autograd"]`` in the usual case; `vbw_np._autograd` when another package has the name.

    Raises
    ------
    ImportError
        If a foreign `autograd` has the name and ours is not beside `vbw_np`, or if there is none at all.
    """
    foreign = foreign_file()
    if foreign is None and (found_file() is not None):
        return importlib.import_module("autograd")
    init = sibling()
    if is_ours(init):
        return _load_private(init)
    if foreign is None:
        problem, reason = "vbw_np needs its own package 'autograd', and none can be imported", "the installation is cut"
    else:
        problem = f"'autograd' is {foreign}, which is not vbw-np's package of that name"
        reason = "another project of that name (most likely HIPS/autograd) has taken its place"
    raise ImportError(
        f"{problem}: {reason}. Install vbw-np from its checkout into an environment of its own: "
        f"python -m venv .venv, then in it: python -m pip install --editable . "
        f"(or here: pip uninstall autograd, then reinstall vbw-np).",
        name="autograd",
        path=foreign,
    )


if TYPE_CHECKING:
    import autograd
else:
    autograd = load()
