"""Run the notebooks and render them as HTML pages for reading: `docs/notebooks/*.html` and an index.

    python tools/notebooks/pages.py [--only 02] [--out DIR]

The cells run in this process, as in the tests; there is no Jupyter in it. A page stands alone: styles inside, pictures
inside, no script but that of its widgets (`widgets`), nothing fetched. Needs matplotlib, mistune and Pygments (the
`docs` extra brings them).
"""

from __future__ import annotations

import argparse
import hashlib
import html
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import mistune  # noqa: E402
from pygments import highlight  # noqa: E402
from pygments.formatters import HtmlFormatter  # noqa: E402
from pygments.lexers import PythonLexer  # noqa: E402

from tools.notebooks import build, cover, widgets  # noqa: E402
from vbw_np.device import get_recipe  # noqa: E402
from vbw_np.teach import CLAIMS, RESULTS, exercises  # noqa: E402
from vbw_np.teach.runner import Cell, run_cells  # noqa: E402

PAGES = ROOT / "docs" / "notebooks"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #4d4f52; --paper: #fdfdfb; --line: #d9d9d2; --code: #f4f3ee;
        --link: #00518a; --mark: #0072B2; --shade: rgba(0, 0, 0, 0.22); }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e0; --soft: #b4b6b8; --paper: #17191c; --line: #3d4045; --code: #202327; --link: #8cc4f0;
          --mark: #56B4E9; --shade: rgba(255, 255, 255, 0.22); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.06rem/1.62 Georgia, "DejaVu Serif", serif; }
main { max-width: 50rem; margin: 0 auto; padding: 1rem 1.1rem 4rem; }
main > p, main > ul, main > ol, footer { max-width: 42rem; }
nav { font: 0.9rem/1.5 system-ui, "DejaVu Sans", sans-serif; display: flex; flex-wrap: wrap; gap: 0.4rem 1.2rem;
      border-bottom: 1px solid var(--line); padding: 0.6rem 0; margin-bottom: 1rem; }
nav.end { border-bottom: 0; border-top: 1px solid var(--line); margin-top: 2.5rem; }
a { color: var(--link); }
a.term { color: inherit; text-decoration: underline dotted; text-underline-offset: 0.2em; }
h1, h2, h3 { font-family: system-ui, "DejaVu Sans", sans-serif; line-height: 1.25; text-wrap: balance; }
h1 { font-size: 1.85rem; margin: 0.8rem 0; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 0.6rem; }
h3 { font-size: 1.05rem; margin: 1.2rem 0 0.1rem; }
h3 + p { margin-top: 0; }
pre, code { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 0.86em; }
p code, li code { background: var(--code); padding: 0.08em 0.3em; border-radius: 3px; overflow-wrap: anywhere; }
pre { margin: 0; padding: 0.75rem 0.9rem; line-height: 1.45; font-size: 0.8rem; white-space: pre-wrap;
      overflow-wrap: anywhere; }
.code { border: 1px solid var(--line); border-radius: 5px; margin: 1rem 0 0; overflow: hidden; }
.exercise .code { border-left: 6px solid var(--mark); }
/* A shade at an edge says that there is more to scroll to. */
.scroll { --ground: var(--paper); background: linear-gradient(to right, var(--ground) 40%, transparent)
    left / 2.2rem 100% no-repeat local, linear-gradient(to left, var(--ground) 40%, transparent) right / 2.2rem 100%
    no-repeat local, linear-gradient(to right, var(--shade), transparent) left / 0.7rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 0.7rem 100% no-repeat scroll var(--ground); }
.code pre { background: var(--code); }
.scroll { overflow-x: auto; } .scroll:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.out { border-left: 3px solid var(--line); margin: 0.3rem 0 1.2rem; padding: 0.2rem 0 0.2rem 0.6rem; }
.out figure { margin: 0.4rem 0; }
.out img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
.out > pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.45rem 0.4rem; }
.out > pre span { display: block; min-height: 1.45em; padding-left: 2ch; text-indent: -2ch; }
.out b { font-family: system-ui, "DejaVu Sans", sans-serif; font-size: 0.9rem; }
figcaption { font: 0.9rem/1.4 system-ui, "DejaVu Sans", sans-serif; color: var(--soft); margin: 0.3rem 0; }
table { border-collapse: collapse; font: 0.83rem/1.4 system-ui, "DejaVu Sans", sans-serif; margin: 0.6rem 0;
        font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: 0.2rem 0.5rem; text-align: left; vertical-align: top; }
@media screen and (prefers-color-scheme: dark) {
  figure img, ol.index img { filter: invert(0.91) hue-rotate(180deg); } img.gray { filter: none !important; } }
details { margin: 0.6rem 0; font: 0.9rem/1.5 system-ui, "DejaVu Sans", sans-serif; }
summary { cursor: pointer; color: var(--link); padding: 0.1rem 0; }
.rail { display: none; }
@media screen and (min-width: 80rem) { .contents { display: none; }
  .rail { display: block; position: fixed; top: 1.2rem; left: max(0.7rem, calc(50% - 40.4rem)); width: 13.6rem;
          max-height: calc(100vh - 2.4rem); overflow-y: auto; border: 0; padding: 0; margin: 0; font-size: 0.82rem; }
  .rail b { color: var(--soft); } .rail ul { list-style: none; margin: 0.3rem 0; padding: 0; }
  .rail li { margin: 0.3rem 0; line-height: 1.35; } .rail a { color: var(--soft); text-decoration: none; }
  .rail a:hover, .rail a:focus-visible { color: var(--link); text-decoration: underline; } }
.index { list-style: none; padding: 0; }
.index picture { display: contents; }
.index li { display: grid; grid-template-columns: 2.2rem 1fr auto auto;
            align-items: start; gap: 0 0.4rem; border-top: 1px solid var(--line);
            padding: 0.55rem 0; }
.index span, .index a { font: 1rem/1.5 system-ui, "DejaVu Sans", sans-serif; }
.index span { color: var(--soft); }
.index q { grid-column: 2 / 4; quotes: none; }
.index q small { color: var(--soft); font: 0.85rem/1.4 system-ui, "DejaVu Sans", sans-serif; }
.index img { grid-column: 4; grid-row: 1 / span 4; width: 11rem; height: auto; border-radius: 4px; margin-left: 1rem; }
.map { margin: 1.2rem 0; } .map svg { display: block; width: 100%; min-width: 44rem; height: auto; }
.map path { fill: none; stroke: var(--soft); opacity: 0.55; } .map rect { fill: var(--code); stroke: var(--link); }
.map text { fill: var(--link); font: 600 15px system-ui, "DejaVu Sans", sans-serif; }
.map a:focus-visible rect, .map a:hover rect { stroke-width: 3; }
.index a.run { grid-column: 2 / 4; justify-self: start; font-size: 0.9rem; }
footer { font: 0.85rem/1.5 system-ui, "DejaVu Sans", sans-serif; color: var(--soft); margin-top: 2rem; }
@media (max-width: 30rem) { .index img { grid-column: 2 / 4; grid-row: auto; margin: 0.4rem 0; }
  body { font-size: 1rem; } main { padding: 0.6rem 0.9rem 3rem; } h1 { font-size: 1.5rem; }
  pre { font-size: 0.75rem; padding: 0.6rem 0.7rem; } .out { border-left: 0; padding-left: 0; } }
@media print { nav, details { display: none; } body { font-size: 10.5pt; } main { max-width: none; padding: 0; }
  .code pre, .scroll { background: none; }
  a { color: inherit; } h1, h2, h3 { break-after: avoid; } figure, .code, .out > pre { break-inside: avoid; } }
"""


def style() -> str:
    """Our style, and Pygments' colors: a scheme with enough contrast by day, one by night."""
    day, night = (
        "\n".join(line for line in HtmlFormatter(style=name).get_style_defs(".code").splitlines() if " ." in line)
        for name in ("xcode", "github-dark")
    )
    return (
        f"{_STYLE}@media print, (prefers-color-scheme: light) {{\n{day}\n}}\n"
        f"@media screen and (prefers-color-scheme: dark) {{\n{night}\n}}\n"
    )


def page(title: str, body: str, made_from: str = "") -> str:
    """A whole HTML document; `made_from` is a digest of its source."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f'<meta name="made-from" content="{made_from}">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style()}</style>\n</head>\n<body>\n<main>\n{reachable(body)}\n"
        "</main>\n"
        "</body>\n</html>\n"
    )


def reachable(body: str) -> str:
    """What scrolls sideways can be reached and moved with the keyboard."""
    named = '<div class="scroll" role="region" aria-label="table, wider than the page" tabindex="0"'
    return re.sub(r"<div class=([\"'])scroll\1(?! role)", named, body)


def markdown(text: str) -> str:
    """A text cell as HTML; links to the glossary and to other notebooks lead to pages."""
    text = text.replace("](../docs/glossary.md)", "](glossary.html)").replace("](../docs/", "](../")
    rendered = mistune.create_markdown(plugins=["table"])(text)
    return re.sub(r"<table>", '<div class="scroll"><table>', rendered).replace("</table>", "</table></div>")


def anchored(body: str) -> tuple[str, list[tuple[str, str]]]:
    """The body with a name on every heading, and the (name, heading) pairs."""
    found: list[tuple[str, str]] = []

    def named(match: re.Match[str]) -> str:
        words = re.sub(r"<[^>]*>", "", match[2])
        name = _slug(words)
        name += f"-{len(found)}" if name in dict(found) else ""
        found.append((name, words))
        return f'<h{match[1]} id="{name}">{match[2]}</h{match[1]}>'

    return re.sub(r"<h([23])>(.*?)</h\1>", named, body), found


def _slug(words: str) -> str:
    words = re.sub(r"\(\d\d\)", "", html.unescape(words)).lower()
    return re.sub(r"[^a-z0-9]+", "-", words.split(",")[0]).strip("-")


def linked_terms(body: str) -> str:
    """Bold words of the glossary as links to it."""
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    names = {}
    for forms in re.findall(r"^### (.+?) \(\d\d\)", text, re.M):
        names |= {form.strip().lower(): _slug(forms) for form in forms.split(",")}

    def link(match: re.Match[str]) -> str:
        word = match[1].lower()
        known = next((names[w] for w in (word, word.removesuffix("s"), word.removesuffix("es")) if w in names), None)
        return f'<a class="term" href="glossary.html#{known}">{match[0]}</a>' if known else match[0]

    return re.sub(r"<strong>([^<]*)</strong>", link, body)


def _code(highlighted: str) -> str:
    return f'<div class="code">{highlighted}</div>'


def _with_code(text: str) -> str:
    """A line of text; what stands in backquotes is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _lines(text: str) -> str:
    """What was printed; a line too long for the page goes on, indented, in the next."""
    return "<pre>" + "".join(f"<span>{html.escape(line)}</span>" for line in text.splitlines()) + "</pre>"


def code_cell(cell: Cell) -> str:
    """A code cell with what came out of it."""
    parts = [_code(highlight(cell.source, PythonLexer(), HtmlFormatter()))]
    outputs = []
    if cell.stdout.strip():
        outputs.append(_lines(cell.stdout.rstrip()))
    if cell.html:
        shown = getattr(cell.value, "page_html", lambda: cell.html)()
        outputs.append(shown if "<figure" in shown else f'<div class="scroll">{shown}</div>')
    elif cell.value is not None:
        outputs.append(_lines(repr(cell.value)))
    if outputs:
        out = "".join(outputs)
        if cell.predicts:
            out = f"<details><summary>Guess first, then look</summary>{out}</details>"
        parts.append(f'<div class="out">{out}</div>')
    if cell.exercise is None:
        return "".join(parts)
    return f'<div class="exercise">{"".join(parts)}{help_for(cell.exercise)}</div>'


def help_for(exercise: str) -> str:
    """Its hints and an answer, folded."""
    hints = "".join(f"<li>{_with_code(h)}</li>" for h in exercises()[exercise].hints)
    answer = highlight(exercises()[exercise].solution, PythonLexer(), HtmlFormatter())
    return (
        f"<details><summary>Hints to exercise {exercise}</summary><ol>{hints}</ol></details>"
        f"<details><summary>An answer to exercise {exercise}</summary>{_code(answer)}</details>"
    )


def navigation(position: int, all_sources: list[build.Source], end: bool = False) -> str:
    """Links to the index and to the neighbors."""
    links = ['<a href="index.html">All notebooks</a>', '<a href="glossary.html">Glossary</a>']
    if position > 0:
        before = all_sources[position - 1]
        links.append(f'<a href="{before.name}.html" rel="prev">Before: {html.escape(before.front["title"])}</a>')
    if position + 1 < len(all_sources):
        after = all_sources[position + 1]
        links.append(f'<a href="{after.name}.html" rel="next">Next: {html.escape(after.front["title"])}</a>')
    return f'<nav{" class=end" if end else ""} aria-label="notebooks">{"".join(links)}</nav>'


_CONTENTS = "<!-- contents -->"


def notebook_page(position: int, all_sources: list[build.Source]) -> str:
    """Run one notebook and render it.

    Raises
    ------
    RuntimeError
        A cell failed.
    """
    source = all_sources[position]
    cells = [
        Cell(c["cell_type"], "".join(c["source"]), c["metadata"]) for c in build.notebook(source)["cells"]
    ]
    CLAIMS.clear()
    RESULTS.clear()
    run_cells(cells, source.name)
    broken = [cell for cell in cells if cell.error]
    if broken:
        raise RuntimeError(f"{source.name}: a cell failed\n{broken[0].source}\n{broken[0].error}")
    parts = [navigation(position, all_sources)]
    for cell in cells:
        if cell.kind == "markdown":
            parts.append(linked_terms(markdown(cell.source)))
        elif cell.source == build.setup():
            shown = highlight(cell.source, PythonLexer(), HtmlFormatter())
            parts.append(_CONTENTS)
            parts.append(f"<details><summary>The first cell finds the project</summary>{_code(shown)}</details>")
        else:
            parts.append(code_cell(cell))
    parts.append(
        f"<footer>{len(CLAIMS)} claims held when this page was made. It was made from "
        f"<code>notebooks/{source.name}.ipynb</code>; times in it are those of the machine that made it.</footer>"
    )
    parts.append(navigation(position, all_sources, end=True))
    body, headings = anchored("\n".join(parts))
    links = "".join(f'<li><a href="#{name}">{words}</a></li>' for name, words in headings)
    body = body.replace(_CONTENTS, contents(links))
    return page(f"{source.number} {source.front['title']}", widgets.placed(source.name, body), digest(source))


def contents(links: str) -> str:
    """The headings: a rail beside the text where there is room, else folded above it."""
    return (
        f'<nav class="rail" aria-label="On this page"><b>On this page</b><ul>{links}</ul></nav>'
        f'<details class="contents"><summary>On this page</summary><ul>{links}</ul></details>'
    )


def digest(source: build.Source) -> str:
    """Of the notebook that a page was made from."""
    return hashlib.sha256(build.rendered(source).encode()).hexdigest()


def index_page(
    all_sources: list[build.Source],
    runs: dict[str, str] | None = None,
    steps: dict[str, str] | None = None,
    built: Path = PAGES,
) -> str:
    """The list of notebooks in order, with a picture from each page in the folder `built`, and a map.

    On a site, with the pages that run (by name) and play a step (by recipe).
    """
    rows = "".join(
        f'<li><span>{s.number}</span><a href="{s.name}.html">{html.escape(s.front["title"])}</a>'
        f"<span>{s.front['minutes']} minutes</span><q>{html.escape(s.front['question'])}{_built_on(s)}</q>"
        f"{cover.picture(built / f'{s.name}.html')}"
        + (f'<a class="run" href="{runs[s.name]}">Run it in your browser</a></li>' if runs else "</li>")
        for s in all_sources
    )
    players = "".join(
        f'<li><a href="{file}">{html.escape(recipe)}</a>: {html.escape(get_recipe(recipe).summary)}</li>'
        for recipe, file in (steps or {}).items()
    )
    after = f"<h2>One training step, to walk through</h2><ul>{players}</ul>" if players else ""
    where = "here in the browser, or " if runs else ""
    minutes = sum(int(s.front["minutes"]) for s in all_sources)
    body = (
        "<h1>From one bit to a trained model, step by step</h1>"
        "<p>For readers who know Python and matrices, and nothing of quantization. Read them in order; run them "
        f"{where}in JupyterLab, VS Code or Colab from <code>notebooks/</code> to change things and to do the "
        f"exercises, which check themselves. All in all about {round(minutes / 60)} hours. Words are explained where "
        'they first appear, and in the <a href="glossary.html">glossary</a>.</p>'
        f'{cover.map_of(all_sources)}<ol class="index">{rows}</ol>{after}'
    )
    return page("vbw-np: the notebooks", body)


def _built_on(source: build.Source) -> str:
    before = ", ".join(cover.needs(source))
    optional = " Optional." if source.front.get("optional") else ""
    return f" <small>{f'Builds on {before}.' if before else ''}{optional}</small>"


def glossary_page() -> str:
    """The glossary, with links to the notebook that explains each word first."""
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    names = {source.number: source.name for source in build.sources()}
    text = re.sub(r"^### (.+?) \((\d\d)\)", lambda m: f"### {m[1]} ([{m[2]}]({names[m[2]]}.html))", text, flags=re.M)
    body, _ = anchored(markdown(text))
    return page("Glossary", '<nav aria-label="notebooks"><a href="index.html">All notebooks</a></nav>\n' + body)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", help="number of one notebook")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "notebooks")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    all_sources = build.sources()
    for position, source in enumerate(all_sources):
        if arguments.only and source.number != arguments.only:
            continue
        start = time.perf_counter()
        (arguments.out / f"{source.name}.html").write_text(notebook_page(position, all_sources), "utf-8")
        print(f"{source.name}.html  {time.perf_counter() - start:.1f} s")
    (arguments.out / "index.html").write_text(index_page(all_sources, built=arguments.out), "utf-8")
    (arguments.out / "glossary.html").write_text(glossary_page(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
