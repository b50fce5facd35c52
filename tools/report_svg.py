"""Draw a text, such as the report of ``vbw bench``, as an SVG picture of a terminal.

    python -m vbw_np bench > report.txt
    python tools/report_svg.py report.txt docs/report.svg --command "make bench"

Runs of similar lines (the placed cards) are folded to the first and the last. The picture follows the reader's light or
dark theme, and carries the whole text for those who cannot see it.
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
from pathlib import Path
from xml.sax.saxutils import escape

CHARACTER, LINE, MARGIN, BAR = 7.8, 18, 16, 30  # pixels at a font size of 13
STYLE = """
    .page { fill: #ffffff; stroke: #d0d7de } .text { fill: #1f2328 } .dim { fill: #656d76 } .head { fill: #0550ae }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; stroke: #30363d } .text { fill: #e6edf3 } .dim { fill: #8b949e } .head { fill: #79c0ff }
    }
    text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "Noto Sans Mono CJK SC", monospace }
"""


def width(text: str) -> int:
    """Columns a terminal gives the text: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def kind(line: str) -> str:
    """What a line has in common with those it may be folded with."""
    return line.split()[0] if line.strip() else ""


def fold(lines: list[str], longest: int) -> list[str]:
    """Replace the middle of a run of more than `longest` lines that begin with the same word."""
    folded: list[str] = []
    start = 0
    while start < len(lines):
        end = start
        while end < len(lines) and kind(lines[end]) == kind(lines[start]):
            end += 1
        run = lines[start:end]
        if len(run) > longest:
            run = [run[0], run[1], f"... {len(run) - 3} more ...", run[-1]]
        folded += run
        start = end
    return folded


def cut(text: str, until: str | None) -> str:
    """The lines before the first that has `until` in it, and a sign that there was more."""
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if until and until in line), None)
    return text if end is None else "\n".join([*lines[:end], "..."])


def style_of(line: str, lines: list[str], index: int) -> str:
    """Rules and folds are dim; a line between two rules is a heading."""
    def is_rule(text: str) -> bool:
        return len(text) >= 8 and not text.strip("=-─━ ")

    if is_rule(line) or line.startswith("... "):
        return "dim"
    between = 0 < index < len(lines) - 1 and is_rule(lines[index - 1]) and is_rule(lines[index + 1])
    return "head" if between else "text"


def draw(text: str, command: str, longest: int = 6) -> str:
    """The picture of a text as SVG source."""
    lines = fold(text.rstrip().expandtabs().splitlines(), longest)
    if command:
        lines = [f"$ {command}", *lines]
    columns = max(map(width, lines), default=1)
    page_width = round(columns * CHARACTER + 2 * MARGIN)
    page_height = BAR + LINE * len(lines) + MARGIN
    rows = [
        f'  <text class="{style_of(line, lines, i)}" x="{MARGIN}" y="{BAR + LINE * (i + 1) - 5}" '
        f'xml:space="preserve">{escape(line)}</text>'
        for i, line in enumerate(lines)
        if line.strip()
    ]
    dots = [f'  <circle class="dim" cx="{MARGIN + 6 + 18 * i}" cy="{BAR // 2}" r="5" opacity="0.5"/>' for i in range(3)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {page_width} {page_height}" width="{page_width}" '
            f'height="{page_height}" role="img" aria-labelledby="title description">',
            f"  <title id=\"title\">{escape(f'Output of {command}' if command else 'Report')}</title>",
            f'  <desc id="description">{escape(text.strip())}</desc>',
            f"  <style>{STYLE}  </style>",
            f'  <rect class="page" x="0.5" y="0.5" width="{page_width - 1}" height="{page_height - 1}" rx="8"/>',
            *dots,
            *rows,
            "</svg>",
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="file with the text, or - for stdin")
    parser.add_argument("svg", type=Path, help="the picture to write")
    parser.add_argument("--command", default="make bench", help="shown as what was typed (default: make bench)")
    parser.add_argument("--until", metavar="TEXT", help="end before the first line that has this text")
    parser.add_argument("--fold", type=int, default=6, help="longest run of similar lines shown whole (default: 6)")
    arguments = parser.parse_args()
    try:
        text = sys.stdin.read() if arguments.text == "-" else Path(arguments.text).read_text("utf-8")
        if not text.strip():
            parser.error(f"{arguments.text} is empty; give the output of vbw bench")
        text = cut(text, arguments.until)
        arguments.svg.write_text(draw(text, arguments.command, arguments.fold), encoding="utf-8")
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
