"""What a reader would complain of: axe's findings, things wider than the window, buttons that a thumb misses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

axe_core = pytest.importorskip(
    "axe_playwright_python", reason='the browser extra is not installed: pip install --editable ".[test,browser]"'
)
AXE = (Path(axe_core.__file__).parent / "axe.min.js").read_text("utf-8")

SERIOUS = {"serious", "critical"}
TOUCH = 24
"""CSS pixels: the least width and height of a target, WCAG 2.2, success criterion 2.5.8."""


def complaints(page: Any, axe: str = AXE) -> list[str]:
    """Serious and critical findings of axe-core, each with where it is."""
    page.evaluate(axe)
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {one['nodes'][0]['html'][:200]} "
        f"{one['nodes'][0].get('failureSummary', '')[:300]} ({len(one['nodes'])} places)"
        for one in found
        if one["impact"] in SERIOUS
    ]


def wide(page: Any) -> list[str]:
    """What makes the page wider than its window; nothing if it is not."""
    return page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] :
        [...document.body.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > innerWidth + 1
          && !e.closest(".scroll, pre")).map(e => e.outerHTML.slice(0, 120)).slice(0, 5)"""
    )


def small_targets(page: Any) -> list[str]:
    """Buttons, fields and the like that are smaller than a finger needs; words in a text are not meant."""
    return page.evaluate(
        """least => [...document.querySelectorAll("button, input, select, summary, textarea")].filter(e => {
          const box = e.getBoundingClientRect(), label = e.closest("label");
          const at = label ? label.getBoundingClientRect() : box;
          return box.width > 0 && (Math.max(box.height, at.height) < least || Math.max(box.width, at.width) < least);
        }).map(e => e.outerHTML.slice(0, 100) + JSON.stringify(e.getBoundingClientRect()))""",
        TOUCH,
    )
