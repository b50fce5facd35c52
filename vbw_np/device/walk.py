"""A walk through the events of a step, forwards and backwards, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

E = TypeVar("E")


class Walk(Sequence[E], Generic[E]):
    """A sequence of events with a reader in it, who stands before the first at the beginning.

    Events have a `kind` and a `card`, and may have a `phase`.

    Parameters
    ----------
    events : sequence
    """

    def __init__(self, events: Sequence[E]) -> None:
        self._events = list(events)
        self._next = 0

    def __len__(self) -> int:
        return len(self._events)

    @overload
    def __getitem__(self, index: int) -> E: ...

    @overload
    def __getitem__(self, index: slice) -> list[E]: ...

    def __getitem__(self, index: Any) -> Any:
        return self._events[index]

    @property
    def now(self) -> E | None:
        """The event at which the reader stands; None before the first."""
        return self[self._next - 1] if self._next else None

    def next(self) -> E | None:
        """The next event, for one notebook cell a step; None after the last."""
        if self._next == len(self):
            return None
        self._next += 1
        return self.now

    def back(self) -> E | None:
        """The event before; None before the first."""
        self._next = max(self._next - 1, 0)
        return self.now

    def goto(self, what: str | int, card: str | None = None) -> E:
        """The first event of a phase or kind (on a card), or the event of that number.

        Raises
        ------
        LookupError
            There is none; it names what there is.
        """
        if isinstance(what, int):
            if not -len(self) <= what < len(self):
                raise IndexError(f"there are {len(self)} events, and none of number {what}")
            self._next = what % len(self) + 1
            return self[self._next - 1]
        return self._to(self._matching(what, card), 0, what, card)

    def until(self, what: str | Callable[[E], bool], card: str | None = None) -> E:
        """Go on from here to the next event of a phase or kind (on a card), or to the next for which `what` is true.

        Raises
        ------
        LookupError
            None comes; the reader stays where he was.
        """
        test = self._matching(what, card) if isinstance(what, str) else what
        return self._to(test, self._next, what, card)

    def _to(self, test: Callable[[E], bool], start: int, what: Any, card: str | None) -> E:
        for index in range(start, len(self)):
            if test(self[index]):
                self._next = index + 1
                return self[index]
        where = f" on card {card!r}" if card is not None else ""
        later = " from here on" if start else ""
        raise LookupError(f"there is no event {what!r}{where}{later}; there are: {self._known()}")

    @staticmethod
    def _names(event: E) -> tuple[str, ...]:
        return tuple(name for name in (getattr(event, "phase", ""), event.kind) if name)  # type: ignore[attr-defined]

    def _matching(self, what: str, card: str | None) -> Callable[[E], bool]:
        return lambda event: what in self._names(event) and (card is None or event.card == card)  # type: ignore

    def _known(self) -> str:
        names = dict.fromkeys(name for event in self for name in self._names(event))
        cards = dict.fromkeys(event.card for event in self)  # type: ignore[attr-defined]
        return f"{', '.join(names)}; on {', '.join(cards)}"

    def __str__(self) -> str:
        return "\n".join(str(event) for event in self)
