"""Build a site of the notebooks that any static host serves: to read, and to run in the browser with nothing installed.

    python tools/site/build.py [--out _site] [--pyodide DIR_OR_URL]
    python -m http.server --directory _site        # then open http://localhost:8000

A notebook's page loads Python (Pyodide, WebAssembly) into a worker when its reader first runs a cell, with NumPy,
matplotlib and the two packages of this project; nothing is compiled, and numba is not there. Pyodide comes from its
public address, of a pinned version; a folder that holds a distribution of it is copied into the site instead
(`VBW_PYODIDE` names one too), and then nothing is fetched from elsewhere. Needs mistune and Pygments (the `docs`
extra).
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pygments import highlight  # noqa: E402
from pygments.formatters import HtmlFormatter  # noqa: E402
from pygments.lexers import PythonLexer  # noqa: E402

from tools.notebooks import build, pages, widgets  # noqa: E402
from vbw_np.engine import autograd  # noqa: E402
from vbw_np.steps import step  # noqa: E402
from vbw_np.steps.page import write_page  # noqa: E402
from vbw_np.teach.runner import Cell  # noqa: E402

HERE = Path(__file__).parent
VERSION = "0.27.7"
PUBLIC = f"https://cdn.jsdelivr.net/pyodide/v{VERSION}/full/"
PACKAGES = ("numpy", "matplotlib")
CORE = ("pyodide.js", "pyodide.asm.js", "pyodide.asm.wasm", "pyodide-lock.json", "python_stdlib.zip")
FILES = "tests/checkpoints/data"
PACKED = ("vbw_np", "autograd", f"{FILES}/modelopt-nvfp4", f"{FILES}/original", "docs/ptq.md", "docs/language-model.md")
"""What the browser's Python gets: the two packages, and the files that notebooks 13, 14 and 17 open."""

RECIPES = ("nvfp4-train", "mxfp4-train", "fp32", "fp8-train", "seed-v6")
TIMES = HERE / "times.json"


class SiteError(Exception):
    """One line: what, why, what to do."""


# ---- Pyodide


def needed_files(folder: Path, packages: Sequence[str] = PACKAGES) -> list[str]:
    """The files of a Pyodide distribution that the site needs.

    Raises
    ------
    SiteError
        The folder holds none, or another version, or not all of it.
    """
    lock = folder / "pyodide-lock.json"
    if not lock.is_file():
        raise SiteError(f"{folder} holds no Pyodide (no pyodide-lock.json); `make pyodide` gets one")
    about = json.loads(lock.read_text("utf-8"))
    if about["info"]["version"] != VERSION:
        raise SiteError(f"{folder} holds Pyodide {about['info']['version']}; this site is made for {VERSION}")
    wanted, files = list(packages), list(CORE)
    for name in wanted:
        record = about["packages"][name.lower()]
        files.append(record["file_name"])
        wanted += [other for other in record["depends"] if other not in wanted]
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise SiteError(f"{folder} lacks {', '.join(missing)}; `make pyodide` gets a whole distribution")
    return files


def place_pyodide(source: str, out: Path) -> str:
    """Copy a local distribution into the site, if `source` is a folder; the address that pages load it from."""
    if "://" in source:
        return source.rstrip("/") + "/"
    target = out / "pyodide"
    target.mkdir()
    for name in needed_files(Path(source)):
        shutil.copyfile(Path(source) / name, target / name)
    return "pyodide/"


# ---- the packages


def packed_files() -> Iterator[Path]:
    """What goes into the archive, in order."""
    for name in PACKED:
        place = ROOT / name
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def write_archive(path: Path) -> None:
    """Our packages as one zip file, the same bytes for the same sources."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in packed_files():
            entry = zipfile.ZipInfo(file.relative_to(ROOT).as_posix())
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())


# ---- pages


def run_name(source: build.Source) -> str:
    """The file of a notebook's page to run."""
    return f"{source.name}-run.html"


def editor(cell: Cell, identity: str, number: int) -> str:
    """A code cell that can be changed and run."""
    shown = highlight(cell.source, PythonLexer(), HtmlFormatter(nowrap=True))
    slow = " slow" if "slow" in cell.metadata.get("tags", []) else ""
    kind = "exercise" if cell.exercise else ""
    return (
        f'<section class="cell {kind}{slow}" data-id="{identity}" data-number="{number}" '
        f'data-metadata="{html.escape(json.dumps(cell.metadata), quote=True)}" aria-label="cell {number}">'
        '<div class="keys"><button type="button" class="run" hidden>Run</button>'
        f'<span class="number">cell {number}</span><span class="state" role="status"></span>'
        '<button type="button" class="again" hidden>As it came</button></div>'
        f'<div class="code editor"><pre aria-hidden="true"><code>{shown}</code></pre>'
        f'<textarea spellcheck="false" autocapitalize="off" autocomplete="off" autocorrect="off" readonly '
        f'aria-label="code of cell {number}">{html.escape(cell.source)}</textarea></div>'
        f'<div class="out" hidden></div>{pages.help_for(cell.exercise) if cell.exercise else ""}</section>'
    )


_BAR = """
<div class="bar" role="region" aria-label="running">
<noscript><p>Running needs scripts, which are off here. <a href="{read}">Read it executed</a> instead.</p></noscript>
<div class="buttons" hidden><button type="button" data-is="all">Run all</button>
<button type="button" data-is="stop" disabled>Stop</button>
<button type="button" data-is="download">Download</button>
<span data-is="status" role="status">Python is not loaded yet.</span></div></div>
<details class="about"><summary>How this page runs</summary><p>Everything happens in your browser; nothing is sent
anywhere. The first run loads Python, NumPy and matplotlib (about 20 MB, kept by the browser) and this project's two
packages. Run a cell with its button, or Shift and Enter inside it; cells above it that have not run yet run first.
The Tab key indents; press Escape first, and it leaves the cell. What you change is kept in this browser. There are no
compiled kernels here: the same bits, slower{times}. Trainings are shorter than in JupyterLab.</p></details>
"""


def bar(source: build.Source) -> str:
    """The buttons at the top."""
    times = json.loads(TIMES.read_text("utf-8"))["notebooks"] if TIMES.is_file() else {}
    known = times.get(source.name)
    said = f": all cells of this notebook in about {max(1, round(known['run']))} seconds" if known else ""
    return _BAR.format(read=f"{source.name}.html", times=said)


def run_page(source: build.Source, all_sources: list[build.Source], pyodide: str) -> str:
    """A notebook's page to run."""
    parts, number = [navigation(source, all_sources)], 0
    for n, raw in enumerate(build.notebook(source)["cells"]):
        cell = Cell(raw["cell_type"], "".join(raw["source"]), raw["metadata"])
        if cell.kind == "markdown":
            parts.append(pages.linked_terms(pages.markdown(cell.source)))
        else:
            number += 1
            made = editor(cell, raw["id"], number)
            if cell.source == build.setup():
                made = f"<details><summary>The first cell finds the project</summary>{made}</details>"
            parts.append(made)
        if n == 0:
            parts.append(bar(source))
    parts.append(f'<footer>Made from <code>notebooks/{source.name}.ipynb</code>.</footer>')
    body = widgets.placed(source.name, pages.anchored("\n".join(parts))[0])
    settings = {"name": source.name, "pyodide": pyodide, "packages": PACKAGES,
                "notebooks": [s.name for s in all_sources]}  # fmt: skip
    body += f'\n<script type="application/json" id="settings">{json.dumps(settings)}</script>'
    text = pages.page(f"{source.number} {source.front['title']}, to run", body, pages.digest(source))
    return to_documents(text).replace(
        "</head>", '<link rel="stylesheet" href="runner.css">\n<script src="editor.js" defer></script>\n'
        '<script src="runner.js" defer></script>\n</head>', 1
    )  # fmt: skip


def navigation(source: build.Source, all_sources: list[build.Source]) -> str:
    """Links to the index, to the page to read, and to the neighbors."""
    position = all_sources.index(source)
    links = ['<a href="index.html">All notebooks</a>', f'<a href="{source.name}.html">Read it executed</a>',
             '<a href="glossary.html">Glossary</a>']  # fmt: skip
    for label, other in (("Before", position - 1), ("Next", position + 1)):
        if 0 <= other < len(all_sources):
            near = all_sources[other]
            links.append(f'<a href="{run_name(near)}">{label}: {html.escape(near.front["title"])}</a>')
    return f'<nav aria-label="notebooks">{"".join(links)}</nav>'


def read_page(source: build.Source) -> str:
    """The executed page, with a link to the one that runs.

    Raises
    ------
    SiteError
        It is missing or was made from another notebook.
    """
    path = pages.ROOT / "docs" / "notebooks" / f"{source.name}.html"
    text = path.read_text("utf-8") if path.is_file() else ""
    if f'content="{pages.digest(source)}"' not in text:
        raise SiteError(f"{path} is missing or not made from this notebook; run: make docs")
    link = f'<a class="run" href="{run_name(source)}"><b>Run this in your browser</b></a>'
    style, body = f"<style>{pages.style()}</style>", pages.reachable(text)
    body = re.sub(r"<style>.*?</style>", lambda _: style, body, count=1, flags=re.S)  # the site has one style
    return to_documents(body).replace('<a href="glossary.html">', link + '<a href="glossary.html">', 1)


def to_documents(text: str) -> str:
    """A page whose links into `docs/` lead to the site's own copies."""
    return re.sub(r'href="\.\./([\w-]+)\.md"', r'href="doc-\1.html"', text)


def write_documents(out: Path) -> None:
    """The pages of `docs/` that the site's pages lead to, and those that these lead to."""
    waiting = [page.read_text("utf-8") for page in out.glob("*.html")]
    while waiting:
        for name in re.findall(r'href="doc-([\w-]+)\.html', waiting.pop()):
            path = out / f"doc-{name}.html"
            if path.is_file():
                continue
            text = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
            title = text.splitlines()[0].lstrip("# ")
            back = '<nav aria-label="notebooks"><a href="index.html">All notebooks</a></nav>\n'
            page = pages.page(title, back + _among_documents(pages.markdown(text)))
            path.write_text(page, "utf-8")
            waiting.append(page)


def _among_documents(text: str) -> str:
    """A page of `docs/` whose links to others lead to the site's copies; what the site has not is no link."""
    text = re.sub(r'href="([\w-]+)\.md(#[^"]*)?"', r'href="doc-\1.html\2"', text)
    text = re.sub(r'<a href="\.\./[^"]*">(.*?)</a>', r"\1", text)
    return re.sub(r'<img src="(?!data:)[^"]*" alt="([^"]*)"[^>]*>', r"\1", text)


CHANGED = ("nvfp4-train:ms-eden", "nvfp4-train:split-mean", "nvfp4-train:if4")
"""Recipes with something changed that shows in a step what no other page does."""


def write_steps(out: Path) -> dict[str, str]:
    """A page that plays one training step, for each of a few recipes; the files by recipe."""
    files = {}
    with autograd.use_twins(False):  # by the definitions: the same bits, and nothing to compile
        for recipe in (*RECIPES, *CHANGED):
            files[recipe] = f"step-{recipe.replace(':', '-')}.html"
            write_page(step(recipe), out / files[recipe])
    return files


def write_site(out: Path, pyodide: str, *, check: bool = True, players: bool = True) -> None:
    """Build the site into a new folder.

    Parameters
    ----------
    out : Path
        Replaced if a site stands there.
    pyodide : str
        A folder, or an address.
    check : bool
        Refuse executed pages that are out of date.
    players : bool
        With the pages that play a training step.

    Raises
    ------
    SiteError
    """
    if out.exists() and any(out.iterdir()) and not (out / "vbw.zip").is_file():
        raise SiteError(f"{out} holds something that is no site; name another folder: --out")
    if "://" not in pyodide:
        needed_files(Path(pyodide))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    address = place_pyodide(pyodide, out)
    write_archive(out / "vbw.zip")
    for name in ("runner.js", "editor.js", "worker.js", "runner.css", "fontlist.json"):
        shutil.copyfile(HERE / name, out / name)
    all_sources = build.sources()
    for source in all_sources:
        (out / run_name(source)).write_text(run_page(source, all_sources, address), "utf-8")
        (out / f"{source.name}.ipynb").write_text(build.rendered(source), "utf-8")
        if check:
            (out / f"{source.name}.html").write_text(read_page(source), "utf-8")
    runs: dict[str, Any] = {source.name: run_name(source) for source in all_sources}
    steps = write_steps(out) if players else {}
    (out / "index.html").write_text(pages.index_page(all_sources, runs, steps), "utf-8")
    (out / "glossary.html").write_text(pages.glossary_page(), "utf-8")
    write_documents(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "_site")
    parser.add_argument(
        "--pyodide", default=os.environ.get("VBW_PYODIDE") or PUBLIC, metavar="DIR_OR_URL",
        help="a Pyodide distribution (default: the environment variable VBW_PYODIDE, else the public one)",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        write_site(arguments.out, arguments.pyodide)
    except SiteError as error:
        print(f"make site: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: serve it with any static host, for example")
    print(f"python -m http.server --directory {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
