"""Run the notebooks and render them as HTML pages for reading: `docs/notebooks/*.html` and an index.

    python tools/notebooks/pages.py [--only 02] [--out DIR]

The cells run in this process, as in the tests; there is no Jupyter in it. A page stands alone: styles inside, pictures
inside, no script, nothing fetched. Needs matplotlib, mistune and Pygments (the `notebooks` extra brings them).
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

from tools.notebooks import build  # noqa: E402
from vbw_np.teach import CLAIMS, RESULTS, exercises  # noqa: E402
from vbw_np.teach.runner import Cell, run_cells  # noqa: E402

_STYLE = """
:root { color-scheme: light; --ink: #1c1e21; --paper: #fdfdfb; --line: #d9d9d2; --code: #f4f3ee; --link: #00518a; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.06rem/1.62 Georgia, "DejaVu Serif", serif; }
main { max-width: 47rem; margin: 0 auto; padding: 1rem 1.1rem 4rem; }
nav { font: 0.9rem/1.5 system-ui, "DejaVu Sans", sans-serif; display: flex; flex-wrap: wrap; gap: 0.4rem 1.2rem;
      border-bottom: 1px solid var(--line); padding: 0.6rem 0; margin-bottom: 1rem; }
nav.end { border-bottom: 0; border-top: 1px solid var(--line); margin-top: 2.5rem; }
a { color: var(--link); }
h1, h2, h3 { font-family: system-ui, "DejaVu Sans", sans-serif; line-height: 1.25; }
h1 { font-size: 1.85rem; margin: 0.8rem 0; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 0.6rem; }
pre, code { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 0.86em; }
p code, li code { background: var(--code); padding: 0.08em 0.3em; border-radius: 3px; overflow-wrap: anywhere; }
pre { overflow-x: auto; margin: 0; padding: 0.75rem 0.9rem; line-height: 1.45; font-size: 0.8rem; }
.code { background: var(--code); border: 1px solid var(--line); border-radius: 5px; margin: 1rem 0 0; }
.exercise .code { border-left: 6px solid #0072B2; }
.out { border-left: 3px solid var(--line); margin: 0.3rem 0 1.2rem; padding: 0.2rem 0 0.2rem 0.4rem; overflow-x: auto; }
.out figure { margin: 0.4rem 0; }
.out img { display: block; max-width: 100%; height: auto; }
.out > pre { white-space: pre-wrap; overflow-wrap: anywhere; }
figcaption { font: 0.88rem/1.4 system-ui, "DejaVu Sans", sans-serif; color: #444; margin: 0.2rem 0; }
table { border-collapse: collapse; font: 0.83rem/1.4 system-ui, "DejaVu Sans", sans-serif; margin: 0.6rem 0; }
th, td { border: 1px solid var(--line); padding: 0.2rem 0.5rem; text-align: left; vertical-align: top; }
details { margin: 0.6rem 0; font: 0.9rem/1.5 system-ui, "DejaVu Sans", sans-serif; }
details pre { background: var(--code); border-radius: 5px; }
summary { cursor: pointer; color: var(--link); }
.scroll { overflow-x: auto; }
footer { font: 0.85rem/1.5 system-ui, "DejaVu Sans", sans-serif; color: #555; margin-top: 2rem; }
@media (max-width: 30rem) { body { font-size: 1rem; } h1 { font-size: 1.5rem; } pre { font-size: 0.74rem; }
  .out figure { overflow-x: auto; } .out img { width: 36rem; max-width: none !important; } }
"""


def style() -> str:
    """Our style, and Pygments' colors (a scheme with enough contrast)."""
    return _STYLE + HtmlFormatter(style="xcode", nobackground=True).get_style_defs(".code")


def page(title: str, body: str, made_from: str = "") -> str:
    """A whole HTML document; `made_from` is a digest of its source."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f'<meta name="made-from" content="{made_from}">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style()}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def markdown(text: str) -> str:
    """A text cell as HTML; links to the glossary and to other notebooks lead to pages."""
    text = text.replace("](../docs/glossary.md)", "](glossary.html)")
    rendered = mistune.create_markdown(plugins=["table"])(text)
    return re.sub(r"<table>", '<div class="scroll"><table>', rendered).replace("</table>", "</table></div>")


def _code(highlighted: str) -> str:
    return f'<div class="code">{highlighted}</div>'


def code_cell(cell: Cell) -> str:
    """A code cell with what came out of it."""
    parts = [f'<div class="code">{highlight(cell.source, PythonLexer(), HtmlFormatter(nowrap=False))}</div>']
    outputs = []
    if cell.stdout.strip():
        outputs.append(f"<pre>{html.escape(cell.stdout.rstrip())}</pre>")
    if cell.html:
        outputs.append(f'<div class="scroll">{cell.html}</div>')
    elif cell.value is not None:
        outputs.append(f"<pre>{html.escape(repr(cell.value))}</pre>")
    if outputs:
        parts.append(f'<div class="out">{"".join(outputs)}</div>')
    name = cell.exercise
    if name is None:
        return "".join(parts)
    hints = "".join(f"<li>{html.escape(h)}</li>" for h in exercises()[name].hints)
    answer = highlight(exercises()[name].solution, PythonLexer(), HtmlFormatter())
    return (
        f'<div class="exercise">{"".join(parts)}'
        f"<details><summary>Hints to exercise {name}</summary><ol>{hints}</ol></details>"
        f"<details><summary>An answer to exercise {name}</summary>{_code(answer)}</details></div>"
    )


def navigation(position: int, all_sources: list[build.Source], end: bool = False) -> str:
    """Links to the index and to the neighbors."""
    links = ['<a href="index.html">All notebooks</a>']
    if position > 0:
        before = all_sources[position - 1]
        links.append(f'<a href="{before.name}.html" rel="prev">Before: {html.escape(before.front["title"])}</a>')
    if position + 1 < len(all_sources):
        after = all_sources[position + 1]
        links.append(f'<a href="{after.name}.html" rel="next">Next: {html.escape(after.front["title"])}</a>')
    return f'<nav{" class=end" if end else ""} aria-label="notebooks">{"".join(links)}</nav>'


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
            parts.append(markdown(cell.source))
        elif cell.source == build.SETUP:
            shown = highlight(cell.source, PythonLexer(), HtmlFormatter())
            parts.append(f"<details><summary>The first cell finds the project</summary>{_code(shown)}</details>")
        else:
            parts.append(code_cell(cell))
    parts.append(
        f"<footer>{len(CLAIMS)} claims held when this page was made. It was made from "
        f"<code>notebooks/{source.name}.ipynb</code>; times in it are those of the machine that made it.</footer>"
    )
    parts.append(navigation(position, all_sources, end=True))
    return page(f"{source.number} {source.front['title']}", "\n".join(parts), digest(source))


def digest(source: build.Source) -> str:
    """Of the notebook that a page was made from."""
    return hashlib.sha256(build.rendered(source).encode()).hexdigest()


def index_page(all_sources: list[build.Source]) -> str:
    """The list of notebooks in order."""
    rows = "".join(
        f'<tr><td>{s.number}</td><td><a href="{s.name}.html">{html.escape(s.front["title"])}</a></td>'
        f"<td>{html.escape(s.front['question'])}</td><td>{s.front['minutes']}</td></tr>"
        for s in all_sources
    )
    minutes = sum(int(s.front["minutes"]) for s in all_sources)
    body = (
        "<h1>From one bit to a trained model, step by step</h1>"
        "<p>For readers who know Python and matrices, and nothing of quantization. Read them in order; run them "
        "in JupyterLab, VS Code or Colab from <code>notebooks/</code> to change things and to do the exercises, "
        f"which check themselves. All in all about {minutes} minutes. Words are explained where they first appear, "
        'and in the <a href="glossary.html">glossary</a>.</p>'
        '<div class="scroll"><table><thead><tr><th scope="col">No.</th><th scope="col">Notebook</th>'
        '<th scope="col">Question</th><th scope="col">Minutes</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    return page("vbw-np: the notebooks", body)


def glossary_page() -> str:
    """The glossary, with links to the notebook that explains each word first."""
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    names = {source.number: source.name for source in build.sources()}
    text = re.sub(r"^### (.+?) \((\d\d)\)", lambda m: f"### {m[1]} ([{m[2]}]({names[m[2]]}.html))", text, flags=re.M)
    return page("Glossary", '<nav aria-label="notebooks"><a href="index.html">All notebooks</a></nav>' + markdown(text))


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
    (arguments.out / "index.html").write_text(index_page(all_sources), "utf-8")
    (arguments.out / "glossary.html").write_text(glossary_page(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
