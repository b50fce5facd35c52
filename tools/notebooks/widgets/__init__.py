"""Things on a page that a reader moves: a bit toggle, an outlier, a staircase with a die, and more.

A widget computes nothing of the formats: it looks up tables that `tables` made with `vbw_np`. Its script is inline, has
no framework and fetches nothing; without script a page reads as if there were none.
"""

from __future__ import annotations

import functools
import html
import json
import re
from pathlib import Path

from . import tables

HERE = Path(__file__).parent

PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "01_reverse_mode": (("picture", "tape"),),
    "02_e2m1": (("manipulate-three-fields", "bits"),),
    "03_packing": (("manipulate", "nibbles"),),
    "05_which_four_bits": (("predict", "histogram"),),
    "06_device": (("picture-a-cache-that-is-one-byte-too-small", "cache"),),
    "11_speed_test": (("manipulate-intensity-of-a-product", "roofline"),),
    "04_block_scales": (("manipulate-the-scale-of-one-block", "outlier"),),
    "08_straight_through": (("second-way-out-roll-a-die", "stairs"),),
    "18_int8_to_four_bits": (("calibration", "clip"),),
    "19_kv_cache": (("another-remedy-let-tokens-share", "kv"),),
}
"""Notebook: at the end of which section (the name of its heading) which widget stands."""

TITLES = {
    "tape": "Walk the tape, node by node",
    "bits": "Toggle the bits of any format",
    "nibbles": "Which code goes where in a byte",
    "histogram": "Numbers through the formats",
    "cache": "A cache of some size",
    "roofline": "The two roofs, and a product under them",
    "outlier": "One number grows, and its neighbors pay",
    "clip": "Move the clip",
    "kv": "Bits and groups of a cache",
    "stairs": "A staircase, and a die that decides between two steps",
}


CURVES = {"clip", "kv"}
"""The widgets that `curves.js` draws."""


@functools.cache
def table(kind: str) -> str:
    """A widget's tables as JSON."""
    data = getattr(tables, kind)()
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")


def markup(kind: str) -> str:
    """What stands in the page: shown by the script, hidden without."""
    return (
        f'<section class="widget" data-widget="{kind}" aria-label="{html.escape(TITLES[kind])}" hidden>'
        f"<h3>{html.escape(TITLES[kind])}</h3></section>"
    )


def kinds_of(name: str) -> list[str]:
    """The widgets of a notebook's page."""
    return sorted({kind for _, kind in PLACES.get(name, ())})


def scripts(kinds: list[str]) -> list[str]:
    """The scripts that widgets need, tags included; none where there is none."""
    if not kinds:
        return []
    parts = [f'<script type="application/json" id="table-{kind}">{table(kind)}</script>' for kind in kinds]
    before, start, after = (HERE / "widgets.js").read_text("utf-8").rpartition("for (const root of document")
    curves = (HERE / "curves.js").read_text("utf-8") + "\n" if CURVES & {*kinds} else ""
    return [*parts, f"<script>\n{before}{curves.lstrip()}{start}{after}</script>"]


def dressed(body: str, kinds: list[str]) -> str:
    """A body with the style before it, and the scripts after it, that its widgets need."""
    if not kinds:
        return body
    return f"<style>{(HERE / 'widgets.css').read_text('utf-8')}</style>{body}\n" + "\n".join(scripts(kinds))


def placed(name: str, body: str) -> str:
    """A page's body with its widgets at the ends of their sections, and the scripts at its own end.

    Raises
    ------
    ValueError
        There is no such section.
    """
    for heading, kind in PLACES.get(name, ()):
        start = body.find(f'<h2 id="{heading}">')
        if start < 0:
            raise ValueError(f"{name} has no section {heading!r} for the widget {kind!r}")
        after = re.compile(r"<h2 |<footer").search(body, start + 4)
        end = after.start() if after else len(body)
        body = body[:end] + markup(kind) + "\n" + body[end:]
    return dressed(body, kinds_of(name))
