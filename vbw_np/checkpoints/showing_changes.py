"""What `diff`, `convert`, `quantize` and `measure` did, as text and pages.

Apart from `showing`, so that `vbw inspect` loads none of them.
"""

from __future__ import annotations

from .converting import Converted
from .differing import Comparison, Difference
from .measuring import Loss
from .quantizing import Quantized
from .showing import bars, html_table, page, text_table


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
