"""What the index shows of each notebook: a picture from its page, and a map of what builds on what."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

from tools.notebooks import build

WIDTH = 360
"""Pixels of a picture on the index; it is shown at half of that."""


_FIRST = re.compile(
    r'(?:<source media="[^"]*" srcset="data:image/png;base64,([^"]+)">)?'
    r'<img src="data:image/png;base64,([^"]+)" alt="[^"]*"( class=gray)?'
)


def picture(page: Path) -> str:
    """The first picture of a built page, small, as an element; nothing if the page has none or is not there."""
    found = _FIRST.search(page.read_text("utf-8")) if page.is_file() else None
    if not found:
        return ""
    data, size = _small(found[2])
    image = f'<img src="{data}" alt="A picture of this notebook"{found[3] or ""} {size}>'
    if not found[1]:
        return image
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{_small(found[1])[0]}">'
    return f"<picture>{dark}{image}</picture>"


def _small(data: str) -> tuple[str, str]:
    """The upper part of a picture in few colors, as an address that holds it, and its size on the page."""
    from PIL import Image  # matplotlib brings it

    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    height = round(image.height * WIDTH / image.width)
    small = image.resize((WIDTH, height), Image.Resampling.LANCZOS).crop((0, 0, WIDTH, min(height, WIDTH * 2 // 3)))
    stream = io.BytesIO()
    small.quantize(32).save(stream, "PNG", optimize=True)
    address = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return address, f'width="{small.width // 2}" height="{small.height // 2}"'


def needs(source: build.Source) -> list[str]:
    """The numbers of the notebooks that one builds on."""
    return re.findall(r"\d\d", source.front.get("needs", ""))


def column_of(all_sources: Sequence[build.Source]) -> dict[str, int]:
    """For each number how many notebooks stand before it, one building on the other."""
    column: dict[str, int] = {}
    for source in all_sources:
        column[source.number] = 1 + max((column[n] for n in needs(source) if n in column), default=-1)
    return column


def map_of(all_sources: Sequence[build.Source]) -> str:
    """A drawing of what builds on what, from left to right, each notebook a link; the list says the same in words."""
    column = column_of(all_sources)
    place: dict[str, tuple[int, int]] = {}
    for source in all_sources:
        x = column[source.number]
        place[source.number] = (x, sum(other[0] == x for other in place.values()))
    wide, high = max(x for x, _ in place.values()) + 1, max(y for _, y in place.values()) + 1

    def at(number: str) -> tuple[int, int]:
        x, y = place[number]
        return 44 + 92 * x, 34 + 58 * y

    lines, boxes = [], []
    for source in all_sources:
        x, y = at(source.number)
        for before in needs(source):
            a, b = at(before)
            lines.append(f'<path d="M{a + 26} {b}C{a + 56} {b} {x - 56} {y} {x - 26} {y}"/>')
        title = html.escape(f"{source.number} {source.front['title']}")
        extra = ' stroke-dasharray="4 3"' if source.front.get("optional") else ""
        boxes.append(
            f'<a href="{source.name}.html" aria-label="{title}"><title>{title}</title>'
            f'<rect x="{x - 26}" y="{y - 18}" width="52" height="36" rx="8"{extra}/>'
            f'<text x="{x}" y="{y + 5}" text-anchor="middle">{source.number}</text></a>'
        )
    size = f"0 0 {88 + 92 * (wide - 1)} {68 + 58 * (high - 1)}"
    return (
        '<figure class="map"><div class="scroll">'
        f'<svg viewBox="{size}" role="group" aria-label="What builds on what">{"".join(lines + boxes)}</svg></div>'
        "<figcaption>What builds on what, from left to right; dashed: optional.</figcaption></figure>"
    )
