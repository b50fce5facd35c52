"""The link: shared memory that stands for NVLink, and the BOH protocol that moves a weight over it.

BOH (Binary Optimization Hierarchy): a handshake names sender, receiver, size and the tiers on offer; the coarse tier
travels first; of the fine tier only as many bit planes follow as the receiver's error budget asks for.
"""

from __future__ import annotations

import dataclasses
import threading

from ..formats import PackedTensor


@dataclasses.dataclass(frozen=True)
class Handshake:
    """What sender and receiver agree on before a weight moves.

    Attributes
    ----------
    sender, receiver : str
    coarse_bytes : int
        Size of the coarse tier.
    fine_bytes : int
        Size of the part of the fine tier that was asked for.
    offered_planes, planes : int
        Bit planes of the fine tier that the sender can make, and that were asked for.
    """

    sender: str
    receiver: str
    coarse_bytes: int
    fine_bytes: int
    offered_planes: int
    planes: int


def tier_bytes(packed: PackedTensor) -> tuple[int, int]:
    """Bytes of the coarse tier and of the fine tier as it is present in `packed`."""
    coarse = packed.coarse().nbytes
    return coarse, packed.nbytes - coarse


_COUNTS = ("handshakes", "coarse_bytes", "fine_bytes")


class Link:
    """Carries tiers from cards to the compute unit and counts handshakes and bytes; safe to share among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.handshakes = 0
        self.coarse_bytes = 0
        self.fine_bytes = 0

    def handshake(self, sender: str, agreed: PackedTensor, offered_planes: int) -> Handshake:
        """Agree on transferring `agreed`, whose sender could offer `offered_planes` bit planes of a fine tier."""
        coarse, fine = tier_bytes(agreed)
        with self._lock:
            self.handshakes += 1
        return Handshake(sender, "compute unit", coarse, fine, offered_planes, agreed.planes)

    def carry(self, coarse_bytes: int = 0, fine_bytes: int = 0) -> None:
        """Count a transfer."""
        with self._lock:
            self.coarse_bytes += coarse_bytes
            self.fine_bytes += fine_bytes

    def counts(self) -> dict[str, int]:
        """Handshakes, and bytes carried per tier."""
        with self._lock:
            return {name: getattr(self, name) for name in _COUNTS}

    def load_counts(self, counts: dict[str, int]) -> None:
        """Go on from `counts()` of another link."""
        with self._lock:
            for name in _COUNTS:
                setattr(self, name, int(counts[name]))
