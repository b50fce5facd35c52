"""What `inspect` found as text, and as one HTML page with pictures (inline SVG, no script, nothing from elsewhere)."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from .inspecting import Inspection, Row

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


# ---- convert, quantize, measure


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
