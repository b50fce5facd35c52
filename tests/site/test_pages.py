"""All pages of the curriculum in a headless Chromium: wide and narrow, light and dark, by axe, and without script."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mistune", reason='the docs extra is not installed: pip install --editable ".[docs]"')

from PIL import Image  # matplotlib brings it

from tests.site.looking import complaints, small_targets, wide
from tools.notebooks import build
from tools.site import build as site
from tools.site import run

NAMES = ["index", "glossary", *(source.name for source in build.sources())]
pytestmark = pytest.mark.slow

LOOKS = [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The site without Python in it."""
    folder: Path = tmp_path_factory.mktemp("pages")
    site.write_site(folder, site.PUBLIC, players=False)
    with run.served(folder) as address:
        yield address


def opened(browser: Any, address: str, width: int, scheme: str, **options: Any) -> Any:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **options)
    page = context.new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.goto(address)
    return page


@pytest.mark.parametrize("look", LOOKS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_page_to_read(name: str, look: tuple[int, str], browser: Any, pages: str) -> None:
    page = opened(browser, f"{pages}{name}.html", *look)
    page.evaluate("() => document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert not wide(page), wide(page)
    assert not small_targets(page), small_targets(page)
    assert not (found := complaints(page)), "\n".join(found)
    assert not page.said, page.said
    page.context.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_without_script_has_all_its_text_and_no_widgets(name: str, browser: Any, pages: str) -> None:
    with_script = opened(browser, f"{pages}{name}.html", 400, "light")
    without = opened(browser, f"{pages}{name}.html", 400, "light", java_script_enabled=False)
    parts = "main > h1, main > h2, main > p, main > .code"
    texts = [page.locator(parts).all_inner_texts() for page in (with_script, without)]
    assert texts[0] == texts[1] and len(texts[0]) >= 2
    assert not any(widget.is_visible() for widget in without.locator(".widget").all())
    with_script.context.close()
    without.context.close()


def seen(picture: Any) -> np.ndarray:
    """The brightness of every pixel of what is seen of a picture, 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"), np.int16)


@pytest.mark.parametrize("name", [source.name for source in build.sources()])
def test_pictures_have_the_colors_of_the_page(name: str, browser: Any, pages: str) -> None:
    """Their ground is the page's, light or dark; lines and letters stand out from it; photographs keep their grays."""
    light, dark = (opened(browser, f"{pages}{name}.html", 1280, scheme) for scheme in ("light", "dark"))
    for page in (light, dark):
        page.evaluate("() => document.querySelectorAll('details').forEach(d => { d.open = true; })")
    pairs = list(zip(light.locator("figure img").all(), dark.locator("figure img").all()))
    assert pairs
    for bright, dim in pairs:
        day, night = seen(bright), seen(dim)
        assert day[3, 3] > 240 and night[3, 3] < 40 and night.max() > 180, (name, day[3, 3], night[3, 3], night.max())
        if bright.get_attribute("class") == "gray":
            assert np.mean(np.abs(day - night) <= 2) > 0.3
    light.context.close()
    dark.context.close()


def test_the_contents_stand_beside_the_text_where_there_is_room(browser: Any, pages: str) -> None:
    for width, beside in ((1280, True), (1279, False), (400, False)):
        page = opened(browser, f"{pages}01_reverse_mode.html", width, "light")
        assert page.locator(".rail").is_visible() is beside and page.locator(".contents").is_visible() is not beside
        if beside:
            rail, text = (page.locator(part).first.bounding_box() for part in (".rail", "main > p"))
            assert rail["x"] >= 0 and rail["x"] + rail["width"] <= text["x"]
            page.locator(".rail a").last.click()
            last = page.locator("h2[id], h3[id]:not(.widget h3)").last
            assert last.evaluate("e => e.getBoundingClientRect().top < innerHeight")
        page.context.close()


@pytest.mark.parametrize("look", LOOKS, ids=str)
@pytest.mark.parametrize("name", ["02_e2m1", "10_training"])
def test_a_page_to_run(name: str, look: tuple[int, str], browser: Any, pages: str) -> None:
    page = opened(browser, f"{pages}{name}-run.html", *look)
    assert not wide(page), wide(page)
    assert not small_targets(page), small_targets(page)
    assert not (found := complaints(page)), "\n".join(found)
    same = page.evaluate(
        """() => [...document.querySelectorAll(".editor")].every(e => {
        const [copy, area] = [e.querySelector("pre"), e.querySelector("textarea")];
        return Math.abs(copy.offsetHeight - area.offsetHeight) < 1 && area.scrollHeight <= area.clientHeight; })"""
    )
    assert same, "a text area does not lie exactly over its colored copy"
    assert not page.said, page.said
    page.context.close()


def test_a_page_to_run_can_be_read_without_script(browser: Any, pages: str) -> None:
    page = opened(browser, f"{pages}02_e2m1-run.html", 1280, "light", java_script_enabled=False)
    assert page.get_by_role("link", name="Read it executed").first.is_visible()
    assert not page.get_by_role("button", name="Run all").is_visible()
    assert "sixteen" in page.locator("main").inner_text()
    page.context.close()
