"""What the device has to say, as text, HTML or JSON."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .card import Card
    from .device import Device

COLUMNS = ("card", "shape", "format", "bits", "bytes", "error", "SQNR dB", "computes", "hits")


def card_dict(card: Card) -> dict[str, Any]:
    """One card's state and counts; errors are relative RMS, measured now."""
    error = card.weight_error()
    size = card.parameter.size
    return {
        "name": card.name,
        "shape": list(card.parameter.shape),
        "format": card.format.name if card.format else "float32",
        "planes": card.planes,
        "bytes": card.nbytes,
        "float32_bytes": 4 * size,
        "bits_per_value": 8 * card.nbytes / size,
        "used_bits_per_value": 8 * card._asked_for().nbytes / size if card.packed is not None else None,
        "relative_error": error,
        "sqnr_db": -20 * math.log10(error) if error else None,
        "coarse_error": card.coarse_error,
        "master_dropped": card.dropped,
        **card.statistics.as_dict(),
        "hit_rate": card.statistics.hit_rate,
    }


def error_histogram(errors: list[float]) -> list[tuple[float, float, int]]:
    """Counts of relative errors in bins that halve: (low, high, count), from the largest down."""
    if not errors:
        return []
    bins: dict[int, int] = {}
    for error in errors:
        power = math.frexp(error)[1] if error else -64
        bins[power] = bins.get(power, 0) + 1
    return [(2.0 ** (power - 1), 2.0**power, bins[power]) for power in sorted(bins, reverse=True)]


class DeviceReport:
    """A snapshot of a device; prints as text, shows as a table in notebooks, and turns into plain data."""

    def __init__(self, device: Device) -> None:
        cards = [card_dict(card) for card in device.cards.values()]
        used = [card for card in cards if card["computes"]]
        self.data: dict[str, Any] = {
            "recipe": device.recipe.name,
            "mode": device.mode,
            "refresh_interval": device.refresh_interval,
            "boh": device.boh,
            "error_budget": device.error_budget,
            "cards": cards,
            "idle": device.idle,
            "totals": device.statistics.as_dict() | {"hit_rate": device.statistics.hit_rate},
            "link": {
                "handshakes": device.link.handshakes,
                "coarse_bytes": device.link.coarse_bytes,
                "fine_bytes": device.link.fine_bytes,
            },
            "decode_cache": {
                "bytes": device.decode_cache.bytes,
                "capacity": device.decode_cache.capacity,
                "entries": len(device.decode_cache),
                "evictions": device.decode_cache.evictions,
            },
            "bytes": device.nbytes,
            "float32_bytes": sum(card["float32_bytes"] for card in cards),
            "coarse_only": [card["name"] for card in used if card["planes"] == 0 and card["format"] != "float32"],
            "with_fine_tier": [card["name"] for card in used if card["planes"]],
            "error_histogram": error_histogram([c["relative_error"] for c in cards if c["relative_error"] is not None]),
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return self.data

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                card["name"],
                f"{card['shape'][1]} -> {card['shape'][0]}",
                card["format"] + (f" +{card['planes']}" if card["planes"] else ""),
                f"{card['bits_per_value']:.2f}",
                f"{card['bytes']:,}",
                "" if card["relative_error"] is None else f"{card['relative_error']:.4f}",
                "" if card["sqnr_db"] is None else f"{card['sqnr_db']:.2f}",
                f"{card['computes']}",
                f"{card['hits']}",
            )
            for card in self.data["cards"]
        ]

    def _summary(self) -> list[str]:
        data, totals, link = self.data, self.data["totals"], self.data["link"]
        lines = [
            f"{len(data['cards'])} cards, recipe {data['recipe']}, mode {data['mode']}",
            f"held: {data['bytes']:,} bytes ({data['float32_bytes']:,} in float32)",
            f"computes {totals['computes']:,}, scale-cache hits {totals['hits']:,} ({totals['hit_rate']:.1%}), "
            f"refreshes {totals['refreshes']:,}, separations {totals['separations']:,}",
            f"decodes {totals['decodes']:,}, decode-cache hits {totals['decode_hits']:,}",
            f"link: {link['handshakes']:,} handshakes, {link['coarse_bytes']:,} bytes coarse, "
            f"{link['fine_bytes']:,} bytes fine",
        ]
        if data["with_fine_tier"] or data["coarse_only"]:
            lines.append(
                f"tiers: {len(data['coarse_only'])} cards ran on the coarse tier alone, "
                f"{len(data['with_fine_tier'])} with planes of the fine one (error budget {data['error_budget']:g})"
            )
        if data["idle"]:
            lines.append(f"idle: {', '.join(data['idle'])}")
        for low, high, count in data["error_histogram"]:
            lines.append(f"error {low:8.2g} to {high:<8.2g} {'#' * count} {count}")
        return lines

    def __str__(self) -> str:
        rows = [COLUMNS, *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        table = [
            "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
            for row in rows
        ]
        return "\n".join([*self._summary(), "", *(line.rstrip() for line in table)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        summary = "".join(f"<li>{html.escape(line)}</li>" for line in self._summary())
        body = "".join(row(cells, "td") for cells in self._rows())
        return f"<ul>{summary}</ul><table><thead>{row(COLUMNS, 'th')}</thead><tbody>{body}</tbody></table>"
