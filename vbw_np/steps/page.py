"""A recorded step as one self-contained page: a player where scripts run, the whole text where they do not."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from ..files import check_output, write_whole
from .event import PHASES, Event
from .values import LABELS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the page may load: nothing."""


class Recorded(Protocol):
    """What a page asks of a recorded step."""

    about: dict[str, Any]
    place: dict[str, int]

    def as_json(self) -> dict[str, Any]: ...

    def __iter__(self) -> Iterator[Event]: ...

    def __len__(self) -> int: ...


WORDS = {"token": "Token", "input": "Input", "unit": "Hidden unit", "letter": "Letter"}


def page(steps: Recorded) -> str:
    """The page, as HTML."""
    about = steps.about
    title = f"One training step under {about['recipe']['name']}"
    body = [_head(title, about), _controls(), _stage(), _text(steps), _foot(about)]
    data = json.dumps(steps.as_json(), separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{part('player.css')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f'\n</main>\n<script type="application/json" id="step">{data}</script>\n'
        f"<script>\n{part('player.js')}</script>\n</body>\n</html>\n"
    )


def write_page(steps: Recorded, path: str | Path) -> None:
    """Write the page, whole or not at all."""
    write_whole(check_output(path), page(steps))


class Player:
    """The page inside a notebook's output; as text, how to get it elsewhere."""

    def __init__(self, steps: Recorded) -> None:
        self.steps = steps

    def __repr__(self) -> str:
        return f"{self.steps!r}\nA notebook shows the player here; elsewhere: vbw step --html FILE"

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="One training step, to walk through" srcdoc="{html.escape(page(self.steps))}" '
            'style="width: 100%; height: 54rem; border: 1px solid #85888c"></iframe>'
        )


def part(name: str) -> str:
    """The text of a file that lies beside this one."""
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _head(title: str, about: dict[str, Any]) -> str:
    recipe = about["recipe"]
    own = f" The weights of {' and '.join(about['own_weights'])} are your own." if about["own_weights"] else ""
    return (
        f"<h1>{html.escape(title)}</h1>\n"
        f"<p>{html.escape(recipe['summary'][0].upper() + recipe['summary'][1:])}. Two layers of 16 x 16 learn to say "
        f"the next letter of <q>{html.escape(about['text'])}</q>; the loss was {about['loss']:.4f}, after one step "
        f"it is {about['loss_after']:.4f}. Seed {about['seed']}, learning rate {about['lr']:g}.{html.escape(own)} Each "
        "number is the device's own, to the last bit.</p>"
    )


def _controls() -> str:
    phases = "".join(
        f'<button type="button" data-phase="{phase}" aria-pressed="false" title="{html.escape(says)}">{phase}</button>'
        for phase, says in PHASES.items()
    )
    places = "".join(
        f'<label>{WORDS[label]} <input type="number" inputmode="numeric" min="0" data-is="{label}"></label>'
        for label in LABELS
    )
    return (
        '<div id="player" hidden>\n<div class="controls">\n'
        f'<div role="group" aria-label="parts of the step">{phases}</div>\n'
        '<label><input type="range" min="0" step="1" data-is="scrub" aria-label="event"></label>\n'
        '<div><button type="button" data-is="back">Back</button><button type="button" data-is="play">Play</button>'
        '<button type="button" data-is="next">Next</button>'
        '<label>Card <select data-is="card"><option>first</option><option>second</option></select></label>'
        '<label><input type="checkbox" data-is="only"> step along this weight\'s way only</label></div>\n'
        f'<div role="group" aria-label="the place that all sentences are about">{places}</div>\n</div>'
    )


def _stage() -> str:
    return (
        '<div class="stage">\n<section aria-label="the event">\n<p class="where" data-is="where"></p>\n'
        '<h2 data-is="title"></h2>\n<p class="sentence" data-is="sentence" aria-live="polite"></p>\n'
        '<div class="grids" data-is="grids"></div>\n</section>\n<section aria-label="numbers">\n'
        "<h3>All numbers at this place</h3>\n<table><thead><tr><th scope=col>name</th><th scope=col>number</th>"
        '<th scope=col>its bytes</th><th scope=col>kind</th></tr></thead><tbody data-is="values"></tbody></table>\n'
        '<h3>This weight\'s way, to the loss and back</h3>\n<ol class="way" data-is="way"></ol>\n</section>\n</div>\n'
        "<p>Arrow keys, or a tap, choose an element in a picture; elsewhere they go to the event before or after. Blue "
        "is positive, orange negative, and the stronger the larger; the frame is the place.</p>\n</div>"
    )


def _text(steps: Recorded) -> str:
    items = "".join(
        f"<li value={event.order}><b>{html.escape(f'{event.phase}, {event.card} | {event.title}')}</b>"
        f"{html.escape(event.say())}</li>"
        for event in steps
    )
    place = ", ".join(f"{WORDS[label].lower()} {steps.place[label]}" for label in LABELS)
    return (
        f'<details id="text" open><summary>All {len(steps)} events as text, about {place}</summary>\n<ol>{items}</ol>\n'
        "</details>"
    )


def _foot(about: dict[str, Any]) -> str:
    words = {"recipe": about["recipe"]["name"], "seed": about["seed"]}
    words |= {"lr": f"{about['lr']:g}"} if about["lr"] != 0.5 else {}
    words |= {name.replace("_", "-"): value for name, value in about["options"].items()}
    words |= {"data": "YOUR_WEIGHTS"} if about["own_weights"] else {}
    command = "vbw step" + "".join(f" --{name} {word}" for name, word in words.items()) + " --html FILE"
    return (
        f"<footer>Made by <code>{html.escape(command)}</code>. The recording is in this page, as JSON: floating point "
        "numbers as the hexadecimal digits of their bytes. Nothing is fetched.</footer>"
    )
