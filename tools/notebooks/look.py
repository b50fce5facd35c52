"""Open the built pages in a headless Chromium, at 1280 and 400 pixels, and complain about what a reader would see.

    python tools/notebooks/look.py [--shots DIR] [PAGE.html ...]

Complaints: anything in the console, an image that does not load or has no description, a page wider than its window
(with every fold of it opened). Needs a `chromium` (or `google-chrome`) on the path, no driver; nothing is fetched.
The exit code is 1 if there is a complaint, 2 if there is nothing to look with or at.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PAGES = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
WIDTHS = (1280, 400)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --allow-file-access-from-files "
    "--enable-logging=stderr --virtual-time-budget=4000"
).split()

# The page is put into a frame of the wanted width: a browser's window cannot be made as narrow as a telephone.
_FRAME = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,">
<style>body{{margin:0;background:#888}}iframe{{border:0;display:block;background:#fff}}</style>
<iframe id="f" src="{url}" width="{width}" height="{height}"></iframe><pre id="r"></pre>
<script>
const f = document.getElementById("f");
f.onload = () => {{
  const d = f.contentDocument, images = [...d.images], height = d.documentElement.scrollHeight;
  const folds = [...d.querySelectorAll("details")];
  for (const fold of folds) fold.open = true;
  const wide = [...d.body.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > {width} + 1
    && !e.closest(".scroll, .out, pre, .code")).map(e => e.tagName).slice(0, 5);
  document.getElementById("r").textContent = JSON.stringify({{
    height, width: d.documentElement.scrollWidth, images: images.length,
    broken: images.filter(i => !i.complete || i.naturalWidth === 0).length,
    undescribed: images.filter(i => !i.alt).length, wide }});
  for (const fold of folds) fold.open = false;
}};
</script>"""


def browser() -> str:
    """The browser's name."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if shutil.which(name):
            return name
    print("no Chromium on the path: install one (Debian: apt-get install chromium)", file=sys.stderr)
    sys.exit(2)


def _open(frame: Path, size: tuple[int, int], *extra: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser(), *FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", *extra,
            frame.as_uri(),
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def look(page: Path, width: int, shots: Path | None) -> list[str]:
    """Open one page at one width; what is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(_FRAME.format(url=page.resolve().as_uri(), width=width, height=900), "utf-8")
        run = _open(frame, (max(width, 600), 1000), "--dump-dom")
        found = re.search(r'<pre id="r">(\{.*?\})</pre>', run.stdout, re.S)
        if not found:
            return [f"did not load\n{run.stderr[-500:]}"]
        facts = json.loads(html.unescape(found.group(1)))
        complaints = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
        if facts["width"] > width:
            complaints.append(f"is {facts['width']} pixels wide: {facts['wide']}")
        if facts["broken"]:
            complaints.append(f"{facts['broken']} of {facts['images']} images do not load")
        if facts["undescribed"]:
            complaints.append(f"{facts['undescribed']} images have no description")
        if shots is not None:
            height = min(int(facts["height"]), 15_000)
            frame.write_text(_FRAME.format(url=page.resolve().as_uri(), width=width, height=height), "utf-8")
            _open(frame, (max(width, 500), height), f"--screenshot={shots / f'{page.stem}_{width}.png'}")
    return complaints


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    arguments = parser.parse_args()
    browser()
    pages = arguments.pages or sorted(PAGES.glob("*.html"))
    if missing := [str(page) for page in pages if not page.is_file()] or ([] if pages else [f"{PAGES}/*.html"]):
        print(f"no such page: {', '.join(missing)}; make docs builds them", file=sys.stderr)
        return 2
    if arguments.shots:
        arguments.shots.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for page in pages:
        for width in WIDTHS:
            complaints = look(page, width, arguments.shots)
            wrong += len(complaints)
            print(f"{page.name} at {width}: " + ("; ".join(complaints) or "fine"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
