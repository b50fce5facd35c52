"""Blocks: an image that posterizes, strips of values with their scales, maps of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .picture import PALETTE, Picture


def photograph(height: int = 128, width: int = 192, seed: int = 0) -> np.ndarray:
    """A picture with what photographs have: a smooth sky, a bright sun, hills with edges, grain, a fence of fine lines.

    Made from arithmetic alone. float32 (height, width), values in 0 to 1.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    v, u = y / height, x / width
    sky = 0.78 - 0.45 * v
    image = sky + 0.9 * np.exp(-(((u - 0.72) / 0.07) ** 2 + ((v - 0.22) / 0.1) ** 2))
    far = 0.52 + 0.07 * np.sin(9 * u) + 0.03 * np.sin(31 * u + 1)
    image = np.where(v > far, 0.30 + 0.25 * (v - far), image)
    near = 0.70 + 0.09 * np.sin(5 * u + 2)
    texture = 0.05 * np.sin(60 * u + 20 * v) * np.sin(45 * v - 15 * u)
    image = np.where(v > near, 0.10 + 0.12 * (v - near) + texture + 0.02 * rng.standard_normal((height, width)), image)
    fence = (v > 0.80) & (v < 0.93) & ((x % 12) < 2)
    image = np.where(fence, 0.85, image)
    return np.clip(image, 0, 1).astype(np.float32)


def images(
    pictures: Mapping[str, np.ndarray], *, columns: int = 2, title: str = "Images", signed: bool = False
) -> Picture:
    """Gray images side by side, on one scale.

    Parameters
    ----------
    pictures : mapping of label to float array (height, width)
    signed : bool
        Differences: gray is zero.
    """
    top = max(float(np.abs(p).max()) for p in pictures.values()) or 1.0
    low = -top if signed else 0.0
    rows = tuple(
        (label, f"{p.shape[0]} x {p.shape[1]}", float(p.min()), float(p.max()), float(p.mean()), len(np.unique(p)))
        for label, p in pictures.items()
    )
    alt = (
        f"{len(pictures)} gray images: "
        + "; ".join(f"{label} with {row[5]} different gray values" for label, row in zip(pictures, rows))
        + "."
    )
    lines = -(-len(pictures) // columns)
    ratio = next(iter(pictures.values())).shape
    height = 7.5 / columns * ratio[0] / ratio[1] + 0.3

    def draw(figure: Any) -> None:
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, (label, picture) in zip(grid.flat, pictures.items()):
            axes.imshow(picture, cmap="gray", vmin=low, vmax=top, interpolation="nearest")
            axes.set_title(label, fontsize=9)

    return Picture(
        title, alt, ("image", "size", "least", "largest", "mean", "gray values"), rows, draw, (7.5, height * lines)
    )


def block_strip(
    x: np.ndarray, decoded: np.ndarray, scales: Sequence[float], block: int, title: str = "Block by block"
) -> Picture:
    """One row of numbers before and after quantization, block by block, with each block's scale.

    Parameters
    ----------
    x, decoded : float arrays (K,)
    scales : one number a block
    block : int
    """
    x, decoded = np.asarray(x, np.float64).ravel(), np.asarray(decoded, np.float64).ravel()
    scales = [float(s) for s in np.ravel(scales)]
    rows = []
    for b, scale in enumerate(scales):
        part = slice(b * block, (b + 1) * block)
        rows.append(
            (
                b,
                scale,
                float(np.abs(x[part]).max()),
                float(np.abs(x[part] - decoded[part]).max()),
                int((decoded[part] == 0).sum()),
            )
        )
    top = float(max(np.abs(x).max(), np.abs(decoded).max(), 1e-30))
    alt = (
        f"{len(x)} numbers in {len(scales)} blocks of {block}, as bars before (thin, dark) and after (wide, light) "
        "quantization. " + "; ".join(f"block {r[0]}: scale {r[1]:.4g}, {r[4]} zeros" for r in rows) + "."
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        at = np.arange(len(x))
        axes.bar(
            at,
            decoded,
            width=0.9,
            color=PALETTE[4],
            edgecolor="#444444",
            linewidth=0.4,
            hatch="//",
            label="after (decoded)",
        )
        axes.bar(at, x, width=0.32, color="black", label="before")
        for b, scale in enumerate(scales):
            axes.axvline(b * block - 0.5, color="#777777", lw=1, ls="--")
            axes.text(
                b * block + block / 2 - 0.5, 1.16 * top, f"scale {scale:.3g}", ha="center", va="bottom", fontsize=8
            )
        axes.axhline(0, color="black", lw=0.6)
        axes.set_ylim(-1.15 * top, 1.35 * top)
        axes.set_xlim(-0.7, len(x) - 0.3)
        axes.set_xlabel("element")
        axes.legend(fontsize=8, frameon=False, ncols=2, loc="lower right")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)

    return Picture(title, alt, ("block", "scale", "amax", "largest error", "zeros after"), tuple(rows), draw, (8, 2.8))


def heat_map(
    values: np.ndarray,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str = "Map",
    form: str = ".2f",
    label: str = "",
) -> Picture:
    """A matrix as cells of gray with the numbers written in (up to 16 x 16; larger ones without).

    Parameters
    ----------
    values : float array (R, C)
    rows, columns : names
    form : str
        How to print a number.
    """
    values = np.asarray(values, np.float64)
    rows = [str(i) for i in range(values.shape[0])] if rows is None else list(rows)
    columns = [str(i) for i in range(values.shape[1])] if columns is None else list(columns)
    where = np.unravel_index(int(values.argmax()), values.shape)
    alt = (
        f"A map of {values.shape[0]} by {values.shape[1]} numbers{' (' + label + ')' if label else ''}, dark is "
        f"large; from {values.min():{form}} to {values.max():{form}}, the largest in row {rows[where[0]]}, "
        f"column {columns[where[1]]}."
    )
    shown = min(12, values.shape[1])
    table = tuple((rows[r], *(format(v, form) for v in values[r, :shown])) for r in range(min(16, values.shape[0])))
    small = values.size <= 256

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.imshow(
            values,
            cmap="gray_r",
            aspect="auto",
            interpolation="nearest",
            vmin=min(0, values.min()),
            vmax=values.max() * 1.25 or 1,
        )
        if small:
            middle = 0.6 * values.max()
            for r in range(values.shape[0]):
                for c in range(values.shape[1]):
                    axes.text(
                        c,
                        r,
                        format(values[r, c], form),
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white" if values[r, c] > middle else "black",
                    )
        if len(columns) <= 32:
            axes.set_xticks(range(len(columns)), columns, fontsize=7, rotation=45 if max(map(len, columns)) > 4 else 0)
        if len(rows) <= 32:
            axes.set_yticks(range(len(rows)), rows, fontsize=7)
        axes.set_title(label, fontsize=9)

    return Picture(
        title,
        alt,
        ("row", *columns[:shown]),
        table,
        draw,
        (min(8.0, 2.2 + 0.5 * values.shape[1]), min(5.0, 1.0 + 0.32 * values.shape[0])),
    )
