"""What a device must remember to go on bit for bit: scales, uses, agreed tiers, counts, random state.

Codes are not saved: packing the loaded weight under the saved scales gives them again.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formats import FittedScales
from .statistics import Statistics

if TYPE_CHECKING:
    from .card import Card
    from .device import Device

VERSION = 1


def device_state(device: Device) -> dict[str, Any]:
    """See `Device.state_dict`."""
    dropped = [card.name for card in device.cards.values() if card.dropped]
    if dropped:
        raise RuntimeError(
            f"the master weights of {len(dropped)} cards were dropped ({dropped[0]}, ...), so there is no state to "
            "train on from; save before dropping them"
        )
    return {
        "version": VERSION,
        "recipe": device.recipe.name,
        "generator": device.generator.state_dict(),
        "link": {name: getattr(device.link, name) for name in ("handshakes", "coarse_bytes", "fine_bytes")},
        "cards": {name: _card_state(card) for name, card in device.cards.items()},
    }


def _card_state(card: Card) -> dict[str, Any]:
    with card.parameter.lock:
        scales = card._scales
        return {
            "shape": list(card.parameter.shape),
            "uses": card._uses,
            "planes": card.planes,
            "scaled_now": scales is not None and card._scaled_version == card.parameter.version,
            "coarse_error": card.coarse_error,
            "error": card.error,
            "agreed_terms": None if card._agreed_terms is None else list(card._agreed_terms),
            "statistics": card.statistics.as_dict(),
            "scales": None if scales is None else _arrays(scales),
        }


def _arrays(scales: FittedScales) -> dict[str, np.ndarray]:
    """Those parts of the scales that exist, as arrays; copies, so that a saved state stays as it was."""
    parts = ((field.name, getattr(scales, field.name)) for field in dataclasses.fields(scales))
    return {name: np.array(value) for name, value in parts if value is not None}


def load_device_state(device: Device, state: dict[str, Any]) -> None:
    """See `Device.load_state_dict`."""
    _check(device, state)
    device.generator.load_state_dict(state["generator"])
    for name, value in state["link"].items():
        setattr(device.link, name, int(value))
    for name, card in device.cards.items():
        _load_card(card, state["cards"][name])
        device.decode_cache.drop(card)


def _check(device: Device, state: dict[str, Any]) -> None:
    """Raise if the state is not for these cards; nothing has changed then."""
    if state.get("version") != VERSION:
        raise ValueError(f"the device's state has version {state.get('version')!r}; this program reads {VERSION}")
    if state["recipe"] != device.recipe.name:
        raise ValueError(
            f"the state is of a device with recipe {state['recipe']!r}, this one has {device.recipe.name!r}; "
            "place the model with the same recipe"
        )
    missing, extra = device.cards.keys() - state["cards"].keys(), state["cards"].keys() - device.cards.keys()
    if missing or extra:
        raise ValueError(
            f"the state is not of these cards: it lacks {sorted(missing)[:8]} and has {sorted(extra)[:8]} besides; "
            "place the same layers (select=) of the same model"
        )
    for name, card in device.cards.items():
        if tuple(state["cards"][name]["shape"]) != card.parameter.shape:
            raise ValueError(
                f"card {name}: the state is of a weight of shape {tuple(state['cards'][name]['shape'])}, "
                f"this one has {card.parameter.shape}"
            )


def _load_card(card: Card, state: dict[str, Any]) -> None:
    arrays = state["scales"]
    with card.parameter.lock:
        card.statistics = Statistics(**{name: int(value) for name, value in state["statistics"].items()})
        card.planes, card._uses = int(state["planes"]), int(state["uses"])
        card.coarse_error, card.error = state["coarse_error"], state["error"]
        card._agreed_terms = None if state["agreed_terms"] is None else tuple(state["agreed_terms"])
        card._scales = None
        if arrays is not None:
            # A level for the whole tensor is one float32 number, not an array.
            card._scales = FittedScales(**{n: np.asarray(a)[()] if np.ndim(a) == 0 else a for n, a in arrays.items()})
        card.packed, card._packed_version, card._fingerprint = None, -1, None
        card._scaled_version = card.parameter.version if state["scaled_now"] else -1
