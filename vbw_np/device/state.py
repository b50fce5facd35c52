"""What a device must remember to go on bit for bit: scales, uses, agreed tiers, counts, random state.

Codes are not saved: packing the loaded weight under the saved scales gives them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .card import Card
from .unit import ComputeUnit

VERSION = 1


def device_state(recipe: str, unit: ComputeUnit, cards: Mapping[str, Card]) -> dict[str, Any]:
    """See `Device.state_dict`."""
    dropped = [card.name for card in cards.values() if card.dropped]
    if dropped:
        raise RuntimeError(
            f"the master weights of {len(dropped)} cards were dropped ({dropped[0]}, ...), so there is no state to "
            "train on from; save before dropping them"
        )
    return {
        "version": VERSION,
        "recipe": recipe,
        "generator": unit.generator.state_dict(),
        "link": unit.link.counts(),
        "cards": {name: card.state_dict() for name, card in cards.items()},
    }


def load_device_state(recipe: str, unit: ComputeUnit, cards: Mapping[str, Card], state: dict[str, Any]) -> None:
    """See `Device.load_state_dict`."""
    _check(recipe, cards, state)
    unit.generator.load_state_dict(state["generator"])
    unit.link.load_counts(state["link"])
    for name, card in cards.items():
        card.load_state_dict(state["cards"][name])


def _check(recipe: str, cards: Mapping[str, Card], state: dict[str, Any]) -> None:
    """Raise if the state is not for these cards; nothing has changed then."""
    if state.get("version") != VERSION:
        raise ValueError(f"the device's state has version {state.get('version')!r}; this program reads {VERSION}")
    if state["recipe"] != recipe:
        raise ValueError(
            f"the state is of a device with recipe {state['recipe']!r}, this one has {recipe!r}; "
            "place the model with the same recipe"
        )
    missing, extra = cards.keys() - state["cards"].keys(), state["cards"].keys() - cards.keys()
    if missing or extra:
        raise ValueError(
            f"the state is not of these cards: it lacks {sorted(missing)[:8]} and has {sorted(extra)[:8]} besides; "
            "place the same layers (select=) of the same model"
        )
    for name, card in cards.items():
        if tuple(state["cards"][name]["shape"]) != card.parameter.shape:
            raise ValueError(
                f"card {name}: the state is of a weight of shape {tuple(state['cards'][name]['shape'])}, "
                f"this one has {card.parameter.shape}"
            )
