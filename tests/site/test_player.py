"""The page that plays a training step, in a headless Chromium: the recording's own numbers, by keyboard alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.site.looking import AXE, complaints, small_targets, wide
from vbw_np.engine import autograd
from vbw_np.steps import TrainingSteps, step
from vbw_np.steps.page import write_page

pytestmark = pytest.mark.slow

RECIPES = ("nvfp4-train", "mxfp4-train", "fp32", "nvfp4-train:ms-eden+split-mean", "nvfp4-train:if4")
PLACE = {"token": 3, "input": 11, "unit": 5, "letter": 14}

SHOWN = """() => ({
    title: player.find("title").textContent, sentence: player.find("sentence").textContent,
    where: player.find("where").textContent,
    rows: [...player.find("values").rows].map(row => [...row.cells].map(cell => cell.textContent)) })"""


@pytest.fixture(scope="module", params=RECIPES)
def recorded(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingSteps, Path]:
    with autograd.use_twins(False):
        steps = step(request.param, seed=4)
    path = tmp_path_factory.mktemp("step") / "step.html"
    write_page(steps, path)
    return steps, path


def test_every_event_shows_the_recordings_numbers_by_keyboard_alone(recorded: Any, browser: Any) -> None:
    steps, path = recorded
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    for label, index in PLACE.items():
        field = page.locator(f"[data-is={label}]")
        field.focus()
        page.keyboard.press("Control+A")
        page.keyboard.type(str(index))
        page.keyboard.press("Enter")
    steps.place = dict(PLACE)
    page.get_by_role("button", name="Back", exact=True).focus()
    page.locator("[data-is=next]").focus()
    page.keyboard.press("Home")
    for event in steps:
        shown = page.evaluate(SHOWN)
        assert shown["where"].endswith(f"event {event.order} of {len(steps) - 1}")
        assert (shown["title"], shown["sentence"]) == (event.title, event.say())
        assert shown["rows"] == [list(row) for row in event.numbers()], event.title
        if event.order + 1 < len(steps):
            page.locator("[data-phase=forward]").focus()
            page.keyboard.press("ArrowRight")
    page.close()
    assert not said, said


def test_one_weight_can_be_followed_to_the_loss_and_back(recorded: Any, browser: Any) -> None:
    """With the box ticked, Next goes along the weight's way and nowhere else, there and back."""
    steps, path = recorded
    page = browser.new_page()
    page.goto(path.as_uri())
    page.locator("[data-is=card]").select_option("second")
    page.locator("[data-is=only]").check()
    page.locator("[data-phase=forward]").focus()
    page.keyboard.press("Home")
    visited = []
    for _ in range(len(steps)):
        before = page.evaluate("player.now")
        page.keyboard.press("ArrowRight")
        if page.evaluate("player.now") == before:
            break
        visited.append(page.evaluate("player.now"))
    assert visited == [n for n in steps.way("second") if n > 0]
    phases = [steps[n].phase for n in visited]
    assert [p for n, p in enumerate(phases) if p not in phases[:n]][:4] == ["forward", "loss", "backward", "update"]
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
def test_nothing_is_cut_off_too_small_or_unreadable(recorded: Any, browser: Any, width: int, scheme: str) -> None:
    steps, path = recorded
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, has_touch=width < 500)
    page = context.new_page()
    page.goto(path.as_uri())
    for kind in ("codes", "product", "gradient", "rotation", "length", "scale mended", "mean", "signs", "grid"):
        found = [event.order for event in steps if event.kind == kind]
        if found:
            page.evaluate("order => player.goto(order)", found[0])
            assert not wide(page), (kind, wide(page))
    assert not small_targets(page), small_targets(page)
    assert not complaints(page, AXE)
    context.close()


def test_it_plays_and_stops_and_scrubs(recorded: Any, browser: Any) -> None:
    """Play goes on by itself, ends at the end and begins anew; a second press stops it, and so does a step by hand."""
    steps, path = recorded
    page = browser.new_page()
    page.clock.install()
    page.goto(path.as_uri())
    play = page.locator("[data-is=play]")
    play.press("Enter")
    page.clock.run_for(3 * 1800 + 100)
    assert page.evaluate("player.now") == 3 and play.inner_text() == "Pause"
    play.press("Enter")
    page.clock.run_for(3 * 1800)
    assert page.evaluate("player.now") == 3 and play.inner_text() == "Play"
    scrub = page.locator("[data-is=scrub]")
    scrub.focus()
    page.keyboard.press("End")
    assert page.evaluate("player.now") == len(steps) - 1
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("player.now") == len(steps) - 2
    play.press("Enter")
    page.clock.run_for(10 * 1800)
    assert page.evaluate("player.now") == len(steps) - 1 and play.inner_text() == "Play"
    play.press("Enter")  # at the end: from the beginning
    page.locator("[data-is=next]").press("Enter")
    page.clock.run_for(5 * 1800)
    assert page.evaluate("player.now") == 1 and play.inner_text() == "Play"
    page.locator("[data-is=only]").check()
    way = steps.way("first")
    page.evaluate("order => player.goto(order)", way[-1])
    play.press("Enter")  # at the end of the way: from its beginning
    page.clock.run_for(1800 + 100)
    assert page.evaluate("player.now") == way[1] and play.inner_text() == "Pause"
    page.close()


def test_a_notebook_shows_the_player_in_a_cell(recorded: Any, browser: Any, tmp_path: Path) -> None:
    """The page inside a frame, as a notebook's output has it: it runs, steps, and says nothing on the console."""
    steps, _ = recorded
    (tmp_path / "cell.html").write_text(f"<!DOCTYPE html><title>cell</title>{steps.player()._repr_html_()}", "utf-8")
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "cell.html").as_uri())
    inside = page.frame_locator("iframe")
    inside.locator("[data-phase=loss]").click()
    inside.locator("[data-is=next]").click()
    assert inside.locator("[data-is=title]").inner_text() == "loss"
    inside.locator("[data-is=values] tr").first.wait_for()
    assert not said, said
    page.close()


def test_columns_that_only_fill_up_can_be_seen_and_not_chosen(browser: Any, tmp_path: Path) -> None:
    """A rotation of 128 of 32 tokens: a tap behind the last token chooses that one, an arrow key stops at it."""
    with autograd.use_twins(False):
        write_page(step("nvfp4-train:hadamard-128"), tmp_path / "step.html")
    page = browser.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "step.html").as_uri())
    page.evaluate("player.goto(player.events.find(event => event.kind === 'rotation').order)")
    grid = page.locator("[data-value=after]")
    assert (
        page.locator("figcaption").first.inner_text()
        == "after, 16 x 128 (down: letters; across: tokens; from 32 on filled up)"
    )
    box = grid.locator("canvas").bounding_box()
    for share, token in ((100.5 / 128, 31), (7.5 / 128, 7)):
        grid.locator("canvas").click(position={"x": share * box["width"], "y": box["height"] / 2})
        assert page.evaluate("player.place.token") == token
    for _ in range(40):
        grid.press("ArrowRight")
    assert page.evaluate("player.place.token") == 31 and not said
    page.close()


def test_without_script_the_whole_step_is_there_as_text(recorded: Any, browser: Any) -> None:
    steps, path = recorded
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("#text li").count() == len(steps) and page.locator("#text li").first.is_visible()
    assert not page.locator("#player").is_visible()
    context.close()
