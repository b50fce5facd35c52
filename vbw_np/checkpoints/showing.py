"""Results as text, and as one HTML page with pictures (inline SVG, no script, nothing from elsewhere)."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from .converting import Converted
from .differing import Comparison, Difference
from .inspecting import Inspection, Row
from .measuring import Loss
from .quantizing import Quantized

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}
body{color:#1c1c1c;background:#fff}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th:first-child,td:first-child,td.l{text-align:left}
.bad{color:#a40000}rect{fill:#3b6ea5}text{font:11px system-ui,sans-serif;fill:currentColor}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}th,td{border-color:#444}.bad{color:#ff8a80}
rect{fill:#7fb2e5}}"""


def text_table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Rows as aligned text; columns in `right` are flushed right."""
    right = set(right)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            text.rjust(w) if i in right else text.ljust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def shape_text(shape: Sequence[int]) -> str:
    """`4096 x 1024`."""
    return " x ".join(map(str, shape)) or "scalar"


def number(value: float | None, digits: int = 4) -> str:
    """A number in a few digits, or a dash."""
    return "-" if value is None else f"{value:.{digits}g}"


# ---- inspect


def inspection_text(found: Inspection) -> str:
    """Every weight, totals, several tensor scales of fused layers, suspicions."""
    with_statistics = any(row.statistics for row in found.rows)
    head = ["weight", "shape", "stored", "format", "producer", "bits", "bytes"]
    head += ["kurtosis", "max/rms", "zeros", "saturated"] if with_statistics else []
    rows = [head, *(_cells(row, with_statistics) for row in found.rows)]
    parts = [text_table(rows, right=range(5, len(head))), "", totals_text(found)]
    for group, levels in found.fused.items():
        parts.append(f"\nseveral tensor scales in {group}, which engines fuse (merge them with `vbw convert --fuse`):")
        parts += [f"  {name}  {level:.6g}" for name, level in levels.items()]
    suspicious = found.suspicious
    if suspicious:
        parts.append(f"\n{len(suspicious)} of {len(found.rows)} weights are suspicious:")
        for row in suspicious:
            parts += [f"  {row.name}: {s.name}: {s.what}. {s.fix}" for s in row.suspicions]
    else:
        scope = "" if with_statistics else " in headers and tensor scales (--stats reads the data too)"
        parts.append(f"\nnothing suspicious{scope}")
    return "\n".join(parts)


def _cells(row: Row, with_statistics: bool) -> list[str]:
    cells = [
        row.name, shape_text(row.shape), row.stored, row.format, row.producer, f"{row.bits:.4g}", f"{row.bytes:,}"
    ]  # fmt: skip
    if with_statistics:
        s = row.statistics
        share = s.get("saturated")
        cells += [number(s.get("kurtosis")), number(s.get("max_over_rms"))]
        cells += [f"{s['zeros']:.2%}" if "zeros" in s else "-", f"{share:.2%}" if share is not None else "-"]
    return cells


def totals_text(found: Inspection) -> str:
    """Totals by format and producer."""
    totals = found.totals()
    rows = [["format", "producer", "weights", "values", "bytes"]]
    rows += [
        [f["format"], f["producer"], f"{f['weights']:,}", f"{f['values']:,}", f"{f['bytes']:,}"]
        for f in totals["formats"]
    ]
    rows.append(["all", "", f"{totals['weights']:,}", f"{totals['values']:,}", f"{totals['bytes']:,}"])
    return text_table(rows, right=(2, 3, 4)) + f"\n{totals['bits_per_value']:.4g} bits a value in all"


# ---- diff


def comparison_text(found: Comparison, tolerance: float, everything: bool = False) -> str:
    """The differences, the worst first; equal weights only if asked for."""
    shown = [d for d in found.differences if everything or d.status != "equal"]
    parts = []
    if shown:
        rows = [["weight", "A", "B", "NMSE", "", "reason"]]
        rows += [[d.name, d.a, d.b, _nmse(d), d.status, ": ".join(t for t in (d.reason, d.what) if t)] for d in shown]
        parts.append(text_table(rows, right=(3,)))
    equal = sum(d.status == "equal" for d in found.differences)
    beyond = found.beyond(tolerance)
    parts.append(f"{equal:,} of {len(found.differences):,} weights are equal in every byte")
    parts += [f"note: {note}" for note in found.notes]
    if beyond:
        worst = beyond[0]
        parts.append(
            f"{len(beyond):,} differ beyond {tolerance:g}; the worst is {worst.name} ({worst.reason or worst.status})"
        )
    else:
        parts.append(f"none differs beyond {tolerance:g}")
    return "\n".join(parts)


def _nmse(difference: Difference) -> str:
    return f"{difference.nmse:.4g}" if difference.status == "differs" else "-"


# ---- convert, quantize, measure


def conversion_text(done: Converted, out: str) -> str:
    """What a conversion did."""
    lines = [f"{out}: {done.moved:,} quantized weights moved without loss, {done.copied:,} copied"]
    for title, losses in (("quantized anew", done.losses), ("under one tensor scale now", done.merged)):
        if losses:
            lines.append(f"{len(losses):,} {title}; relative squared error, the worst first:")
            lines += [f"  {name}  {loss:.4g}" for name, loss in sorted(losses.items(), key=lambda item: -item[1])]
    return "\n".join(lines)


def quantized_text(done: Quantized, out: str) -> str:
    """What a quantization lost, the worst layer first, and what it kept."""
    rows = [["weight", "SQNR dB", "relative MSE", "largest error", "at", "amax"]]
    rows += [
        [
            layer.name, f"{layer.sqnr_db:.2f}", f"{layer.relative_mse:.4g}", f"{layer.largest_error:.4g}",
            str(layer.largest_error_at), f"{layer.amax:.4g}",
        ]
        for layer in sorted(done.layers, key=lambda layer: -layer.relative_mse)
    ]  # fmt: skip
    lines = [text_table(rows, right=(1, 2, 3, 5))]
    reasons: dict[str, int] = {}
    for why in done.kept.values():
        reasons[why] = reasons.get(why, 0) + 1
    lines += [f"{count:,} kept: {why}" for why, count in reasons.items()]
    lines.append(
        f"{out}: {len(done.layers):,} weights quantized, {done.bytes_before:,} bytes became {done.bytes_after:,} "
        f"({done.bytes_before / done.bytes_after:.2f} times less)"
    )
    return "\n".join(lines)


def loss_text(losses: list[Loss]) -> str:
    """The losses, the worst first, each with a bar of its SQNR."""
    top = max((loss.sqnr_db for loss in losses if loss.sqnr_db < 1e9), default=1.0)
    rows = [["weight", "format", "bits", "SQNR dB", "relative error", "largest error", "at", ""]]
    rows += [
        [
            loss.name, loss.format, f"{loss.bits:.4g}", f"{loss.sqnr_db:.2f}", f"{loss.relative_error:.4g}",
            f"{loss.largest_error:.4g}", str(loss.largest_error_at),
            "#" * round(24 * min(1.0, max(0.0, loss.sqnr_db / top))),
        ]
        for loss in losses
    ]  # fmt: skip
    return text_table(rows, right=(2, 3, 4, 5))


def loss_page(losses: list[Loss], name: str) -> str:
    """The losses as a page with a picture."""
    picture = bars({loss.name: loss.sqnr_db for loss in losses if abs(loss.sqnr_db) < 1e9}, label="SQNR in dB")
    head = ["weight", "format", "bits", "SQNR dB", "relative error", "largest error", "at"]
    rows = [
        [
            loss.name, loss.format, f"{loss.bits:.4g}", f"{loss.sqnr_db:.2f}", f"{loss.relative_error:.4g}",
            f"{loss.largest_error:.4g}", str(loss.largest_error_at),
        ]
        for loss in losses
    ]  # fmt: skip
    title = f"What {name.rstrip('/').rsplit('/', 1)[-1]} lost"
    return page(title, "<h2>SQNR in dB, the worst first</h2>" + picture + html_table([head, *rows]))


# ---- pages


def bars(values: dict[str, float], width: int = 640, label: str = "") -> str:
    """A horizontal bar chart as inline SVG; its numbers are in its text, for those who hear the page."""
    if not values:
        return ""
    largest = max(max(values.values()), 1e-30)
    height = 18 * len(values) + 6
    items = []
    for i, (name, value) in enumerate(values.items()):
        length = max(0.0, value) / largest * (width - 330)
        items.append(
            f'<text x="205" y="{18 * i + 15}" text-anchor="end">{html.escape(name[-34:])}</text>'
            f'<rect x="212" y="{18 * i + 4}" width="{length:.1f}" height="13"/>'
            f'<text x="{218 + length:.1f}" y="{18 * i + 15}">{value:.4g}</text>'
        )
    title = html.escape(label)
    return (
        f'<svg role="img" aria-label="{title}" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<title>{title}</title>{''.join(items)}</svg>"
    )


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table; the first is its head."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def page(title: str, body: str) -> str:
    """A whole page, self-contained."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>{body}"
        "</body></html>\n"
    )


def inspection_page(found: Inspection) -> str:
    """The inspection as one page: totals, suspicions, the widest tails, codes and scale exponents, every weight."""
    with_statistics = any(row.statistics for row in found.rows)
    totals = found.totals()
    parts = [
        f"<p>{totals['values']:,} values in {totals['bytes']:,} bytes, {totals['bits_per_value']:.4g} bits a value.</p>"
    ]
    shares = {f"{f['format']} ({f['producer']})": float(f["bytes"]) for f in totals["formats"]}
    parts.append("<h2>Bytes by format</h2>" + bars(shares, label="bytes by format"))
    parts.append("<h2>Suspicions</h2>")
    items = [
        f'<li><b class="bad">{html.escape(s.name)}</b>: {html.escape(row.name)}: {html.escape(s.what)}. '
        f"{html.escape(s.fix)}</li>"
        for row in found.suspicious
        for s in row.suspicions
    ]
    parts.append(f"<ul>{''.join(items)}</ul>" if items else "<p>None.</p>")
    if with_statistics:
        ranked = sorted((r for r in found.rows if "kurtosis" in r.statistics), key=lambda r: -r.statistics["kurtosis"])
        tails = {row.name: row.statistics["kurtosis"] for row in ranked[:20]}
        parts.append("<h2>Kurtosis, the largest 20</h2>" + bars(tails, label="kurtosis of the weights"))
        parts += [_packed_pictures(row) for row in found.rows if "codes" in row.statistics][:40]
    head = ["weight", "shape", "stored", "format", "producer", "bits", "bytes"]
    head += ["kurtosis", "max/rms", "zeros", "saturated"] if with_statistics else []
    parts.append("<h2>Weights</h2>" + html_table([head, *(_cells(row, with_statistics) for row in found.rows)]))
    return page(f"Checkpoint {found.path.rsplit('/', 1)[-1]}", "".join(parts))


def _packed_pictures(row: Row) -> str:
    """Codes and scale exponents of one weight."""
    codes: list[float] = row.statistics["codes"]
    exponents: dict[Any, int] = row.statistics["scale_exponents"]
    picture = ""
    if len(codes) <= 16:
        picture += bars({f"code {i}": share for i, share in enumerate(codes)}, 480, f"share of each code of {row.name}")
    picture += bars({f"2**{e}": float(n) for e, n in exponents.items()}, 480, f"scale exponents of {row.name}")
    return f"<details><summary>{html.escape(row.name)}: codes and scales</summary>{picture}</details>"
