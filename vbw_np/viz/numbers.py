"""Number lines, rounding staircases and the bits themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .picture import HATCHES, MARKERS, PALETTE, STYLES, WIDTH, Picture, legend_above, listed, tidy

_MARK = "#A34700"  # a darker vermilion, for thin lines and letters
_FIELD = {"S": 3, "E": 1, "M": 0, "0": 7, "c": 0, "s": 2, "low": 0, "high": 1}

_MEANS = {"S": "sign", "E": "exponent", "M": "mantissa"}


def number_line(
    element: Any, *, low: float | None = None, high: float | None = None, points: Mapping[str, float] | None = None
) -> Picture:
    """The values of a small format on a line, and the bin of numbers that rounds to each.

    Parameters
    ----------
    element : ElementFormat or Codebook
    low, high : float, optional
        What part of the line to show; by default all values.
    points : mapping of label to number, optional
        Numbers to mark, each with an arrow to the value it rounds to.
    """
    codes = np.arange(len(element.table))
    table = np.asarray(element.table, np.float64)
    finite = np.isfinite(table)
    values, first = np.unique(table[finite], return_index=True)
    names = codes[finite][first]
    low = float(values[0]) - 0.6 if low is None else low
    high = float(values[-1]) + 0.6 if high is None else high
    edges = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    keep = [i for i in range(len(values)) if low <= values[i] <= high]
    rows = tuple((format(names[i], f"0{element.bits}b"), values[i], edges[i], edges[i + 1]) for i in keep)
    marks = {
        label: (x, float(element.decode(element.encode(np.array([x], np.float32)))[0]))
        for label, x in (points or {}).items()
    }
    alt = (
        f"A number line from {low:g} to {high:g} with the {len(keep)} values of {element.name} on it: "
        f"{listed([values[i] for i in keep], 16)}. Around each value lies the bin of numbers that round to it; "
        "bins are bounded by the midpoints between neighbors, so they are wide where the values are far apart."
    )
    if marks:
        alt += " Marked: " + ", ".join(f"{label} at {x:g} goes to {y:g}" for label, (x, y) in marks.items()) + "."

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for n, i in enumerate(keep):
            left, right = max(edges[i], low), min(edges[i + 1], high)
            axes.add_patch(_patch(left, 0, right - left, 1, PALETTE[n % 2], HATCHES[n % 2], 0.35))
            axes.plot([values[i]], [0.5], MARKERS[0], color="black", ms=5)
            axes.text(
                values[i],
                1.1,
                format(names[i], f"0{element.bits}b"),
                rotation=90,
                ha="center",
                va="bottom",
                fontsize=9,
                family="monospace",
            )
            low_row = n % 2 * 0.36  # neighbors in two rows: they stand close where the values are dense
            axes.plot([values[i]] * 2, [0, -0.06 - low_row], color="#444444", lw=0.6)
            axes.text(values[i], -0.1 - low_row, f"{values[i]:g}", ha="center", va="top", fontsize=9)
        for n, (label, (x, y)) in enumerate(marks.items()):
            height = -1.3 - 0.55 * n
            arrow = {"arrowstyle": "->", "color": _MARK, "lw": 1.4}
            axes.annotate("", xy=(y, -0.85), xytext=(x, height), arrowprops=arrow)
            axes.plot([x, x], [0, 1], color=_MARK, lw=2)
            axes.plot([x, x], [0, height], color=_MARK, lw=1, ls=":")
            axes.text(x, height - 0.04, f"{label} = {x:g}", ha="center", va="top", fontsize=10, color=_MARK)
        axes.set_xlim(low, high)
        axes.set_ylim(-0.9 - 0.8 * bool(marks) - 0.55 * max(0, len(marks) - 1), 1.2 + 0.22 * element.bits)
        axes.axis("off")

    return Picture(
        f"{element.name.upper()}: codes above, values below, and the bin of numbers that rounds to each",
        alt,
        ("code", "value", "bin from", "bin to"),
        rows,
        draw,
        (WIDTH, 1.7 + 0.35 * len(marks)),
    )


def _patch(x: float, y: float, width: float, height: float, color: str, hatch: str, alpha: float = 0.6) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (x, y), width, height, facecolor=color, hatch=hatch, alpha=alpha, edgecolor="#444444", linewidth=0.6
    )


def staircase(
    functions: Mapping[str, Any], low: float, high: float, *, points: int = 1601, title: str = "Rounding staircases"
) -> Picture:
    """What goes in against what comes out, for one rounding or several.

    Parameters
    ----------
    functions : mapping of label to callable, float32 array -> float32 array
    low, high : float
    """
    x = np.linspace(low, high, points, dtype=np.float32)
    outs = {label: np.asarray(f(x), np.float64) for label, f in functions.items()}
    at = np.linspace(low, high, 13, dtype=np.float32)
    samples = {label: np.asarray(f(at), np.float64) for label, f in functions.items()}
    rows = tuple((float(v), *(samples[label][i] for label in samples)) for i, v in enumerate(at))
    alt = (
        f"Output against input from {low:g} to {high:g} for {', '.join(outs)}: each is a staircase around the dashed "
        "diagonal; where a step is higher, the rounding error may be larger."
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([low, high], [low, high], color="#999999", ls="--", lw=1, label="no rounding")
        for n, (label, y) in enumerate(outs.items()):
            axes.plot(x, y, color=PALETTE[n], ls=STYLES[n % len(STYLES)], lw=2, label=label)
        axes.set_xlabel("input")
        axes.set_ylabel("output")
        legend_above(figure, axes)
        axes.grid(alpha=0.25)
        tidy(axes)

    return Picture(title, alt, ("input", *outs), rows, draw, (WIDTH, 3.6))


def bit_lanes(lanes: Sequence[tuple[str, str, str]], title: str = "Bits") -> Picture:
    """Rows of bits, each bit a box with its digit and the letter of its field.

    Parameters
    ----------
    lanes : sequence of (label, bits, fields)
        `bits` a string of 0 and 1, `fields` one letter a bit: S sign, E exponent, M mantissa.
    """
    rows = tuple((label, bits, fields) for label, bits, fields in lanes)
    alt = "Rows of bits. " + "; ".join(f"{label}: {bits} with fields {fields}" for label, bits, fields in lanes) + "."
    widest = max(len(bits) for _, bits, _ in lanes)
    margin = 0.6 + 0.2 * max(len(label) for label, _, _ in lanes)  # boxes

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for r, (label, bits, fields) in enumerate(lanes):
            y = -1.5 * r
            axes.text(-0.3, y + 0.5, label, ha="right", va="center")
            for i, (bit, letter) in enumerate(zip(bits, fields)):
                n = _FIELD.get(letter, 5)
                axes.add_patch(_patch(i, y, 0.95, 1, PALETTE[n], HATCHES[n % 4], 0.35))
                axes.text(
                    i + 0.47, y + 0.6, bit, ha="center", va="center", fontsize=11, family="monospace", weight="bold"
                )
                axes.text(i + 0.47, y + 0.18, letter, ha="center", va="center", fontsize=8)
        axes.set_xlim(-margin, widest + 0.3)
        axes.set_ylim(-1.5 * (len(lanes) - 1) - 0.2, 1.2)
        axes.axis("off")
        letters = dict.fromkeys(letter for _, _, fields in lanes for letter in fields)
        meant = [f"{letter} {_MEANS[letter]}" for letter in letters if letter in _MEANS]
        figure.supxlabel("   ".join(meant), fontsize=9.5)

    size = (min(8.0, 0.42 * (margin + widest + 0.3)), 0.58 * len(lanes) + 0.5)
    return Picture(title, alt, ("row", "bits", "fields"), rows, draw, size)


def byte_lane(packed: np.ndarray, length: int | None = None, *, order: str = "low_first") -> Picture:
    """Packed bytes as two nibbles each, with the element that lives in which nibble.

    Parameters
    ----------
    packed : uint8 array (n,), at most 8 bytes are drawn
    length : int, optional
        Number of elements; the rest is padding.
    order : {"low_first", "high_first"}
    """
    packed = np.asarray(packed, np.uint8).reshape(-1)[:8]
    length = 2 * len(packed) if length is None else length
    rows = []
    for j, byte in enumerate(packed):
        high, low = int(byte) >> 4, int(byte) & 15
        first, second = (high, low) if order == "high_first" else (low, high)
        e = [str(2 * j + k) if 2 * j + k < length else "padding" for k in (0, 1)]
        rows.append(
            (
                j,
                f"0x{int(byte):02x}",
                f"{high:04b}",
                f"{low:04b}",
                f"{first} (element {e[0]})",
                f"{second} (element {e[1]})",
            )
        )
    lines = -(-len(packed) // 3)
    where = "low" if order == "low_first" else "high"
    alt = (
        f"{len(packed)} bytes, each drawn as its high nibble on the left and its low nibble on the right; "
        f"the first element of each pair lies in the {where} nibble. "
        + "; ".join(f"byte {r[0]} is {r[1]}" for r in rows)
        + "."
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for j, byte in enumerate(packed):
            for k, (shift, name) in enumerate(((4, "high"), (0, "low"))):
                nibble = int(byte) >> shift & 15
                element = 2 * j + ((k == 0) if order == "low_first" else (k == 1))
                x, y = 9.4 * (j % 3) + 4.5 * k, -2.9 * (j // 3)
                n = _FIELD[name]
                axes.add_patch(_patch(x, y, 4.4, 1, PALETTE[n], HATCHES[n], 0.3))
                axes.text(
                    x + 2.2,
                    y + 0.64,
                    f"{nibble:04b}",
                    ha="center",
                    va="center",
                    fontsize=11,
                    family="monospace",
                    weight="bold",
                )
                text = f"element {element}" if element < length else "padding"
                axes.text(x + 2.2, y - 0.12, text, ha="center", va="top", fontsize=9)
                axes.text(x + 2.2, y + 0.2, name, ha="center", va="center", fontsize=9)
            where = 9.4 * (j % 3) + 4.45, -2.9 * (j // 3) + 1.2
            axes.text(*where, f"byte {j}: 0x{int(byte):02x}", ha="center", va="bottom", fontsize=10)
        axes.set_xlim(-0.3, 9.4 * min(3, len(packed)))
        axes.set_ylim(-2.9 * (lines - 1) - 0.8, 1.9)
        axes.axis("off")

    return Picture(
        "Two codes a byte",
        alt,
        ("byte", "hex", "high nibble", "low nibble", "first code", "second code"),
        tuple(rows),
        draw,
        (WIDTH * min(3, len(packed)) / 3, 1.25 * lines),
    )
