"""What every picture is: a lazy drawing with a description and a table."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000")
"""Okabe and Ito's eight colors, in an order whose neighbors differ in lightness too."""

HATCHES = ("", "///", "...", "xx", "\\\\\\", "ooo", "++", "---")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)), (0, (3, 3)))

WIDTH = 5.2
"""Inches. On a telephone such a picture is shrunk to two thirds of what a page of text shows: letters of ten points are
then as high as small print, and can be read."""

_INCH = 129  # CSS pixels that an inch of a picture takes at most: `WIDTH` of them are as wide as a line of text
_LOOK = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}

_INSTALL = "matplotlib is not installed, so there is no picture: python -m pip install matplotlib"


def have_matplotlib() -> bool:
    """Whether pictures can be drawn here."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn when somebody looks at it.

    Attributes
    ----------
    title : str
    alt : str
        What a reader who cannot see the picture should know.
    columns : tuple of str
    rows : tuple of tuples
        The plotted numbers, or the most telling of them.
    draw : callable (matplotlib.figure.Figure) -> None
    size : (float, float)
        Inches.
    gray : bool
        Its grays are values (a photograph, a map): a page in dark colors turns over what stands around them only.
    """

    title: str
    alt: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    draw: Callable[[Any], None]
    size: tuple[float, float] = (WIDTH, 2.6)
    gray: bool = False

    def figure(self) -> Any:
        """The drawn matplotlib Figure, free of pyplot's global state.

        Raises
        ------
        ImportError
            matplotlib is missing; the message says how to get it.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError(_INSTALL) from None
        with _look():
            figure = Figure(figsize=self.size, layout="constrained")
            FigureCanvasAgg(figure)
            self.draw(figure)
        return figure

    def png(self, dpi: int = 200, *, dark: bool = False) -> bytes:
        """The picture as PNG; `dark` turns over all but gray values, for a dark page."""
        figure = self.figure()
        from PIL import Image, PngImagePlugin  # matplotlib brings it

        figure.set_dpi(dpi)
        with _look():
            figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
        if dark:
            pixels = _turned_over(figure, pixels)
        gray = bool((pixels == pixels[..., :1]).all())
        notes = PngImagePlugin.PngInfo()
        notes.add_itxt("Description", self.alt)
        stream = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if gray else pixels))
        image.save(stream, format="png", optimize=True, pnginfo=notes)
        return stream.getvalue()

    def save(self, path: str | Path, dpi: int = 200) -> None:
        """Write the picture as PNG."""
        Path(path).write_bytes(self.png(dpi))

    def cells(self) -> list[tuple[str, ...]]:
        """The table as text, row by row."""
        return [tuple(_cell(value) for value in row) for row in self.rows]

    @property
    def table(self) -> str:
        """The plotted numbers as aligned text."""
        grid = [self.columns, *self.cells()]
        widths = [max(len(row[i]) for row in grid) for i in range(len(self.columns))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in grid)

    def __repr__(self) -> str:
        return f"{self.title}\n{self.alt}\n\n{self.table}"

    def _repr_html_(self) -> str:
        return self._html("")

    def page_html(self) -> str:
        """As in a notebook, for a page that shows pictures in dark colors where a reader prefers them.

        The page's style turns pictures over (invert, hue-rotate), but those of the class `gray`, which bring their own.
        """
        if not (self.gray and have_matplotlib()):
            return self._html("")
        dark = base64.b64encode(self.png(dark=True)).decode()
        return self._html(f'<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">')

    def _html(self, source: str) -> str:
        alt, title = html.escape(self.alt, quote=True), html.escape(self.title)
        if have_matplotlib():
            data = base64.b64encode(self.png()).decode()
            image = (
                f'<img src="data:image/png;base64,{data}" alt="{alt}"{" class=gray" if self.gray else ""} '
                f'style="max-width:100%;height:auto;background:#fff" width="{int(self.size[0] * _INCH)}">'
            )
            image = f"<picture>{source}{image}</picture>" if source else image
        else:
            image = f"<p>{html.escape(self.alt)}</p><p><em>{_INSTALL}</em></p>"
        head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.cells()
        )
        return (
            f'<figure class="vbw-figure" style="margin:0">{image}<figcaption>{title}</figcaption>'
            f"<details><summary>the same as a table</summary><div class='scroll' style='overflow-x:auto'>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details></figure>"
        )


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, int) or (hasattr(value, "dtype") and value.dtype.kind in "ui"):
        return f"{int(value)}"
    if isinstance(value, float) or hasattr(value, "dtype"):
        return f"{float(value):.6g}"
    return str(value)


def _turned_over(figure: Any, pixels: np.ndarray) -> np.ndarray:
    """What CSS's invert(0.91) makes of letters and lines; images inside stay as they are."""
    turned = (0.91 * 255 - 0.82 * pixels.astype(np.float32)).round().astype(np.uint8)
    for image in (image for axes in figure.axes for image in axes.images):
        left, bottom, right, top = np.clip(np.round(image.get_window_extent().extents).astype(int), 0, None)
        inside = slice(len(pixels) - top, len(pixels) - bottom), slice(left, right)
        turned[inside] = pixels[inside]
    return turned


def _look() -> Any:
    """Our sizes of letters, for as long as a picture is drawn."""
    from matplotlib import rc_context

    return rc_context(_LOOK)


def plain_numbers(axis: Any) -> None:
    """20 and 100 on a logarithmic axis, not powers."""
    from matplotlib.ticker import FuncFormatter, LogFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(LogFormatter())


def tidy(axes: Any) -> None:
    """Fewer lines around a plot."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def folded(label: str, width: int) -> str:
    """A label in lines of at most so many letters, words kept whole."""
    return fill(label, max(width, 4), break_long_words=False, break_on_hyphens=False)


def legend_above(figure: Any, axes: Any) -> None:
    """The legend over the plot, where it hides nothing, in as many rows as its labels need."""
    handles, labels = axes.get_legend_handles_labels()
    columns = len(labels)
    while columns > 1 and columns * (max(map(len, labels)) + 5) > 66:
        columns -= 1
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=2.6, columnspacing=1.4)


def listed(values: Sequence[Any], most: int = 6) -> str:
    """A few values for a description."""
    shown = ", ".join(_cell(v) for v in values[:most])
    return shown + (", ..." if len(values) > most else "")
