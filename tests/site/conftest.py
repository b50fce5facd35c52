"""A site, a server for it on this machine, and a Chromium; tests that need what is missing are skipped, and say why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def pyodide() -> str:
    """A folder with Pyodide."""
    from tools.site import build as site

    folder = os.environ.get("VBW_PYODIDE", "") or str(site.ROOT / ".pyodide")
    try:
        site.needed_files(Path(folder))
    except site.SiteError as error:
        pytest.skip(f"no Pyodide to run notebooks with: {error}, or set VBW_PYODIDE")
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium that reaches this machine only."""
    from tools.site import run

    try:
        with run.chromium() as found:
            yield found
    except run.Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def address(pyodide: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The whole site, served, with Pyodide in it."""
    from tools.site import build as site
    from tools.site import run

    folder = tmp_path_factory.mktemp("site")
    site.write_site(folder, pyodide, check=False)
    with run.served(folder) as found:
        yield found
