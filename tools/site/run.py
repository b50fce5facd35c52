"""Run the notebooks of a built site in a headless Chromium, as a reader would, and print how long each takes.

    python tools/site/run.py [02_e2m1 ...] [--site _site] [--answers] [--write]

Needs Chromium and playwright (the `browser` extra). `--answers` fills in the solutions first; `--write` keeps the times
in tools/site/times.json, from which pages say how long they take.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import platform
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.notebooks import build  # noqa: E402
from vbw_np.teach import exercises  # noqa: E402

TIMES = Path(__file__).parent / "times.json"
PATIENCE = 400.0
"""Seconds that a notebook may take before it counts as stuck."""


class Missing(Exception):
    """What is not there, and how to get it."""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {
        **http.server.SimpleHTTPRequestHandler.extensions_map, ".wasm": "application/wasm",
    }  # fmt: skip

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


_OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium that reaches this machine and nothing else (a playwright `Browser`).

    Raises
    ------
    Missing
        playwright or Chromium is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise Missing('playwright is not installed: python -m pip install --editable ".[test,browser]"') from None
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next((found for found in map(shutil.which, names) if found), None)
    if program is None:
        raise Missing("no Chromium on the path: install one (Debian: apt-get install chromium)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", _OFFLINE],
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Ran:
    """How a notebook's page ran: what the page itself shows."""

    name: str
    load: float  # seconds of the processor, in the page's process: what a machine takes that does nothing else
    run: float  # the same, all cells
    cells: list[dict[str, Any]]  # number, state, seconds, text
    status: str
    console: list[str]

    @property
    def wrong(self) -> list[dict[str, Any]]:
        """Cells that did not end well."""
        return [cell for cell in self.cells if cell["state"] != "done"]


_CELLS = """() => notebook.cells.map(cell => ({
    number: cell.number, state: cell.section.dataset.state || "", text: cell.out.textContent,
    seconds: Number((cell.state.textContent.match(/in ([\\d.]+) s/) || [0, 0])[1]),
    exercise: (JSON.parse(cell.section.dataset.metadata).vbw || {}).exercise || null }))"""


def opened(browser: Any, address: str, name: str) -> Any:
    """A notebook's page; what its console says is in `page.said`."""
    page = browser.new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.goto(f"{address}{name}-run.html")
    return page


def fill_in(page: Any, name: str) -> None:
    """Put the right answers into a page's exercise cells."""
    cells = build.notebook(next(s for s in build.sources() if s.name == name))["cells"]
    for cell in cells:
        exercise = cell["metadata"].get("vbw", {}).get("exercise")
        if exercise:
            text = build.answer_with("".join(cell["source"]), exercises()[exercise].solution)
            page.locator(f'.cell[data-id="{cell["id"]}"] textarea').fill(text)


def run_page(page: Any, name: str) -> Ran:
    """Press Run all, and wait."""
    begin = _processor_seconds(page)
    page.get_by_role("button", name="Run all").click()
    page.wait_for_function("notebook.ready || notebook.idle", timeout=1000 * PATIENCE, polling=50)
    loaded, start = _processor_seconds(page), time.perf_counter()
    page.wait_for_function("notebook.idle", timeout=1000 * PATIENCE, polling=200)
    run, wall = _processor_seconds(page) - loaded, time.perf_counter() - start
    cells = page.evaluate(_CELLS)
    for cell in cells:
        cell["seconds"] *= min(1.0, run / wall)  # what it would have taken alone
    return Ran(name, loaded - begin, run, cells, page.locator("[data-is=status]").inner_text(), page.said)


def _processor_seconds(page: Any) -> float:
    """Of all pages' processes together; there is one page."""
    session = page.context.browser.new_browser_cdp_session()
    found = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return sum(process["cpuTime"] for process in found if process["type"] == "renderer")


def line(ran: Ran) -> str:
    """One row of the table."""
    slowest = max(ran.cells, key=lambda cell: cell["seconds"])
    wrong = [f"cell {c['number']} {c['state'] or 'did not run'}: {c['text'][-300:]}" for c in ran.wrong]
    return (
        f"{ran.name:24} {ran.load:5.1f} s to load {ran.run:6.1f} s to run, "
        f"slowest cell {slowest['seconds']:5.1f} s  {'; '.join(wrong) or ran.status}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="notebooks (default: all)")
    parser.add_argument("--site", type=Path, default=ROOT / "_site")
    parser.add_argument("--answers", action="store_true", help="fill in the solutions first")
    parser.add_argument("--write", action="store_true", help=f"keep the times in {TIMES.name}")
    parser.add_argument("--table", action="store_true", help="print the kept times, and run nothing")
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
        return 0
    if not (arguments.site / "vbw.zip").is_file():
        print(f"there is no site in {arguments.site}; run: make site", file=sys.stderr)
        return 2
    known = [source.name for source in build.sources()]
    if unknown := [name for name in arguments.names if name not in known]:
        print(f"no such notebook: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    done: list[Ran] = []
    try:
        with served(arguments.site) as address, chromium() as browser:
            for name in arguments.names or known:
                page = opened(browser, address, name)
                if arguments.answers:
                    fill_in(page, name)
                done.append(run_page(page, name))
                print(line(done[-1]), flush=True)
                page.close()
    except Missing as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.write:
        keep(done)
    return 1 if any(ran.wrong for ran in done) else 0


def table() -> str:
    """The kept times as rows of Markdown."""
    times = json.loads(TIMES.read_text("utf-8"))["notebooks"]
    rows = ["| notebook | to load | all cells, with the answers | slowest cell |", "|---|---|---|---|"]
    rows += [f"| {name} | {t['load']} s | {t['run']} s | {t['slowest']} s |" for name, t in sorted(times.items())]
    return "\n".join(rows)


def keep(done: list[Ran]) -> None:
    """Write the times, and of slow cells how long each takes."""
    kept = json.loads(TIMES.read_text("utf-8")) if TIMES.is_file() else {"notebooks": {}}
    kept["made by"] = f"tools/site/run.py --write, on {platform.machine()}, {platform.system()}"
    for ran in done:
        slow = {str(cell["number"]): round(cell["seconds"]) for cell in ran.cells if cell["seconds"] > 5}
        slowest = round(max(cell["seconds"] for cell in ran.cells), 1)
        kept["notebooks"][ran.name] = {
            "load": round(ran.load, 1), "run": round(ran.run, 1), "slowest": slowest, "slow cells": slow,
        }  # fmt: skip
    TIMES.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
