"""What the device has to say, as text, HTML or JSON."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..formats import decibels
from ..formats.packed import PLANES
from . import codec
from .card import Card
from .link import tier_bytes
from .statistics import Statistics
from .unit import ComputeUnit

COLUMNS = ("card", "shape", "format", "bits", "bytes", "error", "SQNR dB", "computes", "hits", "refreshes", "decodes")


def _sqnr_db(error: float | None) -> float | None:
    """Signal to quantization noise in dB of a relative RMS error; None without an error."""
    return decibels(error * error) if error and math.isfinite(error) else None


def _finite(error: float | None) -> float | None:
    """JSON knows no infinity: an error without a signal to compare with is none."""
    return error if error is not None and math.isfinite(error) else None


def measured_errors(card: Card) -> dict[str, float | None]:
    """Relative RMS errors of the tiers against the master weight as it is now, packed with the scales as they are.

    Returns
    -------
    dict
        `coarse`: of the coarse tier; `used`: of the tiers that the compute unit uses; `all`: of everything that the
        format has. None where there is nothing to measure: a card in full precision, an idle one, or one whose
        master was dropped.
    """
    with card.parameter.lock:
        planes = sorted({0, card.planes, card.offered_planes})
        packed = {p: card.encode(p) for p in planes}
        if packed[0] is None:
            return {"coarse": None, "used": None, "all": None}
        weight = card.parameter.data
        errors = {p: codec.relative_error(weight, codec.decode(packed[p])) for p in planes}
    return {"coarse": errors[0], "used": errors[card.planes], "all": errors[card.offered_planes]}


def fine_tier_bytes(card: Card) -> int:
    """Bytes that the whole fine tier of a card takes on the link; 0 for a format without one."""
    if not card.offered_planes or card.scales is None or card.dropped:
        return 0
    return tier_bytes(card.packed if card.planes == PLANES else card.encode(PLANES))[1]


def card_dict(card: Card) -> dict[str, Any]:
    """One card's state and counts; the errors are measured now (see `measured_errors`)."""
    errors = measured_errors(card)
    size = card.parameter.size
    statistics = card.statistics
    could_carry = fine_tier_bytes(card) * statistics.decodes
    return {
        "name": card.name,
        "shape": list(card.parameter.shape),
        "format": card.format.name if card.format else "float32",
        "planes": card.planes,
        "offered_planes": card.offered_planes,
        "bytes": card.nbytes,
        "float32_bytes": 4 * size,
        "bits_per_value": 8 * card.nbytes / size,
        "relative_error": _finite(errors["used"]),
        "sqnr_db": _sqnr_db(errors["used"]),
        "coarse_error": _finite(errors["coarse"]),
        "error_with_all_tiers": _finite(errors["all"]),
        "fine_bytes_saved": max(could_carry - statistics.fine_bytes, 0),
        "master_dropped": card.dropped,
        "ways": dict(card.ways),
        **statistics.as_dict(),
        "hit_rate": statistics.hit_rate,
    }


def error_histogram(errors: list[float]) -> list[dict[str, Any]]:
    """How many cards have which error, in bins of one decibel, from the smallest SQNR up.

    Parameters
    ----------
    errors : list of float
        Relative RMS errors; those of 0 (an exact copy) are counted in a bin of their own, without bounds.

    Returns
    -------
    list of dict
        `sqnr_db` (low, high) and `relative_error` (low, high) of the bin, and `cards`, their number.
    """
    exact = sum(error == 0 for error in errors)
    floors = [math.floor(decibels(error * error)) for error in errors if error]
    bins = [
        {
            "sqnr_db": [low, low + 1],
            "relative_error": [10 ** (-(low + 1) / 20), 10 ** (-low / 20)],
            "cards": floors.count(low),
        }
        for low in sorted(set(floors))
    ]
    if exact:
        bins.append({"sqnr_db": None, "relative_error": [0.0, 0.0], "cards": exact})
    return bins


def tier_report(cards: list[dict[str, Any]]) -> dict[str, Any]:
    """Which cards ran on the coarse tier alone, and what that saved (bytes on the link) and cost (error)."""
    used = [card for card in cards if card["decodes"] and card["offered_planes"]]
    coarse_only = [card for card in used if card["planes"] == 0]
    return {
        "coarse_only": [card["name"] for card in coarse_only],
        "with_fine_tier": {card["name"]: card["planes"] for card in used if card["planes"]},
        "fine_bytes_carried": sum(card["fine_bytes"] for card in used),
        "fine_bytes_saved": sum(card["fine_bytes_saved"] for card in used),
        "coarse_only_error": _mean([card["relative_error"] for card in coarse_only]),
        "coarse_only_error_with_all_tiers": _mean([card["error_with_all_tiers"] for card in coarse_only]),
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _format_cell(card: dict[str, Any]) -> str:
    """The format, with the planes of its fine tier that are used; in brackets while nothing is packed yet."""
    name = card["format"] + (f" +{card['planes']}" if card["planes"] else "")
    return f"({name})" if card["format"] != "float32" and not card["separations"] else name


class DeviceReport:
    """A snapshot of a device; prints as text, shows as a table in notebooks, and turns into plain data.

    Parameters
    ----------
    recipe : str
    unit : ComputeUnit
    cards : mapping of str to Card
        They are measured now: each weight is packed and decoded once more, which counts for nothing.
    """

    def __init__(self, recipe: str, unit: ComputeUnit, cards: Mapping[str, Card]) -> None:
        policy, cache = unit.policy, unit.decode_cache
        totals = sum((card.statistics for card in cards.values()), Statistics())
        rows = [card_dict(card) for card in cards.values()]
        self.data: dict[str, Any] = {
            "recipe": recipe,
            "mode": policy.mode,
            "refresh_interval": policy.refresh_interval,
            "boh": policy.boh,
            "error_budget": policy.error_budget,
            "totals": totals.as_dict() | {"hit_rate": totals.hit_rate},
            "bytes": sum(row["bytes"] for row in rows),
            "float32_bytes": sum(row["float32_bytes"] for row in rows),
            "link": unit.link.counts(),
            "decode_cache": {
                "bytes": cache.bytes,
                "capacity": cache.capacity,
                "entries": len(cache),
                "evictions": cache.evictions,
            },
            "tiers": tier_report(rows),
            "idle": [row["name"] for row in rows if row["computes"] == 0],
            "error_histogram": error_histogram([r["relative_error"] for r in rows if r["relative_error"] is not None]),
            "cards": rows,
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return self.data

    def save(self, path: str | Path) -> None:
        """Write the report, whole or not at all: as JSON, HTML or text, as the file's name ends.

        Raises
        ------
        ValueError
            The name ends neither in ``.json`` nor in ``.html`` nor in ``.txt``.
        """
        kinds = {".json": self.as_json, ".html": self.as_html, ".txt": lambda: f"{self}\n"}
        suffix = Path(path).suffix.lower()
        if suffix not in kinds:
            ending = suffix or "nothing"
            raise ValueError(f"a report is written as {', '.join(kinds)}; {str(path)!r} ends in {ending!r}")
        write_whole(path, kinds[suffix]())

    def as_json(self) -> str:
        return json.dumps(self.data, indent=2, allow_nan=False) + "\n"

    # -- rows and lines, for all kinds of display

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                card["name"],
                f"{card['shape'][1]} -> {card['shape'][0]}",
                _format_cell(card),
                f"{card['bits_per_value']:.2f}",
                f"{card['bytes']:,}",
                "" if card["relative_error"] is None else f"{card['relative_error']:.4f}",
                "" if card["sqnr_db"] is None else f"{card['sqnr_db']:.2f}",
                f"{card['computes']:,}",
                f"{card['hits']:,}",
                f"{card['refreshes']:,}",
                f"{card['decodes']:,}",
            )
            for card in self.data["cards"]
        ]

    def _summary(self) -> list[str]:
        data, totals, link, cache = (self.data, *(self.data[key] for key in ("totals", "link", "decode_cache")))
        boh = "on" if data["boh"] else "off"
        lines = [
            f"{len(data['cards'])} cards, recipe {data['recipe']}, mode {data['mode']}, BOH {boh}",
            f"held: {data['bytes']:,} bytes ({data['float32_bytes']:,} in float32)",
            f"computes {totals['computes']:,}, scale-cache hits {totals['hits']:,} ({totals['hit_rate']:.1%}), "
            f"refreshes {totals['refreshes']:,}, separations {totals['separations']:,}",
            f"decodes {totals['decodes']:,}, decode-cache hits {totals['decode_hits']:,}; the cache holds "
            f"{cache['bytes']:,} of {cache['capacity']:,} bytes, evicted {cache['evictions']:,}",
            f"link: {link['handshakes']:,} handshakes, {link['coarse_bytes']:,} bytes coarse, "
            f"{link['fine_bytes']:,} bytes fine",
            *self._tier_lines(),
        ]
        if data["idle"]:
            lines.append(f"idle: {', '.join(data['idle'])}")
        return lines

    def _tier_lines(self) -> list[str]:
        tiers = self.data["tiers"]
        coarse, fine = tiers["coarse_only"], tiers["with_fine_tier"]
        if not coarse and not fine:
            return []
        line = (
            f"tiers: {len(coarse)} cards ran on the coarse tier alone, {len(fine)} with planes of the fine one "
            f"(error budget {self.data['error_budget']:g}); saved {tiers['fine_bytes_saved']:,} bytes on the link"
        )
        if tiers["coarse_only_error"] is not None:
            line += (
                f", at a mean error of {tiers['coarse_only_error']:.4f} where all tiers have "
                f"{tiers['coarse_only_error_with_all_tiers']:.4f}"
            )
        return [line]

    def _bars(self) -> list[tuple[str, int]]:
        """The histogram of errors: a label and a number of cards per bin."""
        bars = []
        for bin_ in self.data["error_histogram"]:
            if bin_["sqnr_db"] is None:
                bars.append(("exact", bin_["cards"]))
                continue
            (low_db, high_db), (low, high) = bin_["sqnr_db"], bin_["relative_error"]
            bars.append((f"{low_db:3d} to {high_db:3d} dB, error {low:.4f} to {high:.4f}", bin_["cards"]))
        return bars

    def __str__(self) -> str:
        rows = [COLUMNS, *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        table = [
            "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
            for row in rows
        ]
        bars = [f"{label}  {'#' * min(count, 60)} {count}" for label, count in self._bars()]
        return "\n".join([*self._summary(), *bars, "", *(line.rstrip() for line in table)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        summary = "".join(f"<li>{html.escape(line)}</li>" for line in self._summary())
        most = max((count for _, count in self._bars()), default=1)
        bars = "".join(
            f"<tr><td>{html.escape(label)}</td><td>{count}</td>"
            f"<td><div style='background:#4477aa;height:0.8em;width:{round(200 * count / most)}px'></div></td></tr>"
            for label, count in self._bars()
        )
        histogram = f"<table><caption>Cards by error</caption><tbody>{bars}</tbody></table>" if bars else ""
        body = "".join(row(cells, "td") for cells in self._rows())
        return (
            f"<ul>{summary}</ul>{histogram}"
            f"<table><caption>Cards</caption><thead>{row(COLUMNS, 'th')}</thead><tbody>{body}</tbody></table>"
        )

    def as_html(self) -> str:
        """A whole page, for a browser."""
        style = (
            "body{font:15px/1.4 system-ui,sans-serif;margin:1.5em}table{border-collapse:collapse;margin:1em 0;"
            "display:block;overflow-x:auto}td,th{padding:.15em .6em;border-bottom:1px solid #ddd;white-space:nowrap;"
            "text-align:right}td:first-child,th:first-child{text-align:left;white-space:normal;min-width:9em}"
            "li,td:first-child{overflow-wrap:anywhere}caption{text-align:left;font-weight:600}"
        )
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Virtual Blackwell: device</title>'
            f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>'
            f"<body><h1>Virtual Blackwell: {html.escape(self.data['recipe'])}</h1>{self._repr_html_()}</body></html>\n"
        )
