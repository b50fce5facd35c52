"""What the cards count."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Statistics:
    """Counts of one card, or of all together.

    Attributes
    ----------
    computes : int
        Forward products.
    hits : int
        Of these, how many found scales or codebook in the scale cache.
    separations : int
        How often scales or codebook were computed: at first use and at every refresh.
    refreshes : int
        Separations after the first.
    decodes : int
        How often the weight was decoded (or laid out) for computing.
    decode_hits : int
        How often a weight laid out before was used again.
    handshakes : int
        How often a card and the compute unit agreed on what to transfer.
    coarse_bytes, fine_bytes : int
        Carried by the link, per tier.
    """

    computes: int = 0
    hits: int = 0
    separations: int = 0
    refreshes: int = 0
    decodes: int = 0
    decode_hits: int = 0
    handshakes: int = 0
    coarse_bytes: int = 0
    fine_bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits over computes; 0 for an idle card."""
        return self.hits / self.computes if self.computes else 0.0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    def as_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)
