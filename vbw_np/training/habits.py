"""What a recipe does as training goes on: oscillating weights reset, the last steps in float32, a stop sign.

`Habits` keeps to a `device.Schedule` of any recipe, in any training loop:

    habits = Habits(recipe.schedule, device, steps)
    for step in range(steps):
        habits.before_step(step)
        ...                                  # gradients, the optimizer's step
        habits.after_step()
        print(habits.seen)                   # what it found in this step, for a log

**Oscillation.** A weight near the middle between two codes is pushed to and fro by its own rounding: its code moves by
a whole step while the master hardly moves. Over a window of steps, both distances are added up for every weight,
sum |w' - w| and sum |Q(w') - Q(w)|, Q being what the card decodes. Where the second is `ratio` times the first, the
weight oscillates, and is set to Q(w), the middle of its interval (TetraJet-v2, arXiv:2510.27527; AMD's ALTO #25).

**The stop sign.** The gradient computed with quantized operands is g + e. When |g + e| falls below the square root of 3
times |e|, training in FP4 gets nowhere, says arXiv:2505.19115; from then on all products are float32. The error e is
measured: the same gradient once more in float32, from the same random states, every so many steps.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..device import Card, Device, Schedule, decode


class Habits:
    """Keeps to a schedule.

    Parameters
    ----------
    schedule : Schedule or None
        None: nothing is ever done.
    device : Device
        Whose cards are watched, and released where products become float32.
    steps : int
        Of the whole run.

    Attributes
    ----------
    cards : list of Card
        All of the device's, also after they were released.
    seen : dict
        What was found in the present step, by name: `oscillating`, `reset` (numbers of weights), `noise_ratio` (length
        of the gradient over that of its error), `precise` (True from the step on in which products became float32).
    """

    def __init__(self, schedule: Schedule | None, device: Device, steps: int) -> None:
        self.schedule = schedule or Schedule()
        self.device = device
        self.cards: list[Card] = list(device.cards.values())
        self.steps = steps
        self.seen: dict[str, Any] = {}
        self.precise = False
        self._stop = False
        self._watched: dict[str, dict[str, NDArray]] = {}
        self._step_of_window = 0

    # -- steps

    def before_step(self, step: int) -> None:
        """Before gradients are computed: products become float32, if that is due."""
        self.seen = {}
        last = self.schedule.last and step >= self.steps - round(self.schedule.last * self.steps)
        if (last or self._stop) and not self.precise:
            self._to_float32()
            self.seen["precise"] = True

    def _to_float32(self) -> None:
        self.precise = True
        self.device.release()
        self._watched = {}

    def after_step(self) -> None:
        """After the optimizer's step: what moved, and at a window's end what oscillates."""
        if self.schedule.oscillation == "off" or self.precise:
            return
        first = not self._watched
        for card in self.cards:
            if card.format is not None:
                self._watch(card)
        self._step_of_window = 0 if first else self._step_of_window + 1
        if self._step_of_window == self.schedule.window:
            self._end_window()

    def _watch(self, card: Card) -> None:
        now = card.parameter.data
        coded = decode(card.packed_again(now)) if card.packed is not None else np.array(now)
        seen = self._watched.get(card.name)
        if seen is None:
            zeros = np.zeros(now.shape, np.float32)
            self._watched[card.name] = {"moved": zeros, "jumped": zeros.copy(), "weight": now.copy(), "coded": coded}
            return
        seen["moved"] += np.abs(now - seen["weight"])
        seen["jumped"] += np.abs(coded - seen["coded"])
        seen["weight"], seen["coded"] = now.copy(), coded

    def _end_window(self) -> None:
        found = reset = 0
        for card in self.cards:
            seen = self._watched.get(card.name)
            if seen is None:
                continue
            oscillates = (seen["moved"] > 0) & (seen["jumped"] >= np.float32(self.schedule.ratio) * seen["moved"])
            found += int(oscillates.sum())
            if self.schedule.oscillation == "reset" and oscillates.any():
                reset += int(oscillates.sum())
                with card.parameter.mutate() as data:
                    data[oscillates] = seen["coded"][oscillates]
                seen["weight"] = card.parameter.data.copy()
                seen["coded"] = decode(card.packed_again(seen["weight"]))
            seen["moved"][:], seen["jumped"][:] = 0, 0
        self._step_of_window = 0
        self.seen |= {"oscillating": found} | ({"reset": reset} if self.schedule.oscillation == "reset" else {})

    # -- the stop sign

    def wants_exact(self, step: int) -> bool:
        """Whether the error of this step's gradient is to be measured."""
        return bool(self.schedule.stop_below) and not self.precise and step % self.schedule.every == 0

    @contextlib.contextmanager
    def in_float32(self) -> Iterator[None]:
        """Products inside the context are those of the master weights, in float32; no card counts them."""
        resting = [card for card in self.cards if card.parameter.host is card]
        for card in resting:
            card.parameter.host = None
        try:
            yield
        finally:
            for card in resting:
                card.parameter.host = card

    def note_error(self, ours: Sequence[NDArray | None], exact: Sequence[NDArray | None]) -> None:
        """Compare gradients with those computed in float32; the next step is float32 if their error is too large."""
        pairs = [(a, b) for a, b in zip(ours, exact, strict=True) if a is not None and b is not None]
        length = math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs))
        error = math.sqrt(sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs))
        self.seen["noise_ratio"] = length / error if error else None  # None: no error at all
        self._stop = length < self.schedule.stop_below * error

    # -- state

    def state(self) -> dict[str, Any]:
        """Plain data that a run must remember to go on bit for bit, beside `arrays`."""
        return {"precise": self.precise, "stop": self._stop, "step_of_window": self._step_of_window}

    def arrays(self) -> dict[str, NDArray]:
        """The distances of the present window, by ``habits/card/name``."""
        return {
            f"habits/{card}/{name}": array for card, seen in self._watched.items() for name, array in seen.items()
        }

    def restore(self, state: Mapping[str, Any] | None, arrays: Mapping[str, NDArray]) -> None:
        """Go on from `state` and `arrays` (names without ``habits/``); None: a run of before there were any."""
        if state is None:
            return
        self._stop, self._step_of_window = bool(state["stop"]), int(state["step_of_window"])
        for name, array in arrays.items():
            card, _, part = name.rpartition("/")
            self._watched.setdefault(card, {})[part] = np.array(array)
        if state["precise"]:
            self._to_float32()
