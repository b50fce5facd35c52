"""One reading of a language model on cards: what each card did, which input of it is massive, what its block lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..device import Steps

PROMPT = "The capital of France is"
COUNT = 8
"""Rows of the table."""


def read_once(path: str, recipe: str, prompt: str) -> Steps:
    """Place a model's layers on cards and walk through what they do while it reads a prompt.

    Raises
    ------
    UserError
        The prompt has no tokens, or the recipe nothing to place.
    """
    from ..checkpoints import open_checkpoint
    from ..engine import no_grad
    from ..models.llama_cards import place_llama
    from ..models.llama_files import load_llama
    from ..models.tokenizer import load_tokenizer

    checkpoint = open_checkpoint(path)
    ids = load_tokenizer(checkpoint).encode(prompt)
    if not len(ids):
        raise UserError("the prompt has no tokens; give a word or more")
    model = load_llama(checkpoint)
    devices = place_llama(model, recipe, head=None)
    if not devices:
        raise UserError(f"recipe {recipe} places nothing on cards; take nvfp4 or mxfp4-train")
    with no_grad():
        return devices[0].step(model, ids[None])


def told(steps: Steps, card: str | None = None) -> str:
    """The cards with the most unusual inputs, and the first of them (or `card`) from its events to its block.

    Raises
    ------
    UserError
        There is no such card; names some.
    """
    found = steps.massive()
    cards = [event.card for event in found]
    if card is not None and card not in cards:
        known = ", ".join(sorted(cards)[:3])
        raise UserError(f"there is no card {card!r}; there are {len(cards)}, such as {known}")
    lines = [repr(steps), "", f"{'value':>12} {'times':>10}  {'token':>5} {'channel':>7}  input of"]
    for event in found[:COUNT]:
        seen = event.largest
        lines.append(f"{seen.value:>12,.2f} {seen.times:>10,.1f}  {seen.token:>5} {seen.channel:>7}  {event.card}")
    chosen = next(event for event in found if card in (None, event.card))
    of_card = [str(event) for event in steps if event.card == chosen.card]
    steps.goto(chosen.order)
    return "\n".join([*lines, "", *of_card, "", str(steps.explain_input())])
