"""Blocks: an image that posterizes, strips of values with their scales, maps of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .picture import PALETTE, WIDTH, Picture, folded, legend_above, tidy


def _cloudy(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 5) -> np.ndarray:
    """Noise as nature has it: large soft shapes, with half as much of every shape half as large. 0 to 1."""
    total, weight = np.zeros((height, width)), 1.0
    for _ in range(octaves):
        y, x = np.arange(height) / cell, np.arange(width) / cell
        i, j = y.astype(int), x.astype(int)
        grid = rng.random((i[-1] + 2, j[-1] + 2))
        v, u = (y - i)[:, None], x - j
        v, u = v * v * (3 - 2 * v), u * u * (3 - 2 * u)
        upper = grid[i][:, j] * (1 - u) + grid[i][:, j + 1] * u
        lower = grid[i + 1][:, j] * (1 - u) + grid[i + 1][:, j + 1] * u
        total += weight * (upper * (1 - v) + lower * v)
        weight, cell = weight / 2, max(cell / 2, 1.0)
    return (total - total.min()) / (total.max() - total.min())


def photograph(height: int = 192, width: int = 288, seed: int = 0) -> np.ndarray:
    """A picture with what photographs have: a smooth sky with clouds, a bright sun, mountains in haze, a lake that
    mirrors them, grain, and reeds as fine lines.

    Made from arithmetic alone. float32 (height, width), values in 0 to 1.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    v, u = y / height, x / width
    clouds = _cloudy(rng, height, width, width / 4)
    distance = np.hypot((u - 0.70) * 1.5, v - 0.24)
    image = 0.46 + 0.30 * v + 0.30 * np.exp(-((distance / 0.30) ** 2))
    image += 0.16 * np.clip(clouds - 0.5, 0, None) * np.exp(-(((v - 0.16) / 0.16) ** 2)) / 0.5
    image = np.maximum(image, 1.3 - 0.3 * np.clip(distance / 0.055, 1, None) ** 4)  # the sun's disc
    shore = 0.68
    for level, rough, tone, haze in ((0.42, 0.34, 0.46, 0.30), (0.54, 0.26, 0.27, 0.20), (0.635, 0.10, 0.10, 0.08)):
        ridge = level - rough * (_cloudy(rng, 1, width, width / 3, 6)[0] - 0.45)
        slopes = _cloudy(rng, height, width, width / 10)
        lit = 0.5 - np.clip(np.gradient(slopes, axis=1) * 8, -0.5, 0.5)  # the light comes from the right
        below = np.clip((v - ridge) / (shore - ridge + 1e-9), 0, 1)
        image = np.where(v > ridge, tone + 0.16 * (lit - 0.5) + haze * below**2, image)
    line = int(shore * height)
    depth = np.arange(height - line)
    ripple = _cloudy(rng, height - line, width, width / 20) - 0.5
    mirrored = np.clip(line - 1 - depth[:, None] - ripple * depth[:, None] * 0.35, 0, line - 1).astype(int)
    water = 0.78 * image[mirrored, x[line:]] + 0.10 * ripple - 0.05
    path = np.exp(-(((u[line:] - 0.70) / (0.02 + 0.25 * (v[line:] - shore))) ** 2))
    waves = rng.random((height - line, width // 5 + 1)).repeat(5, axis=1)[:, :width]
    image[line:] = np.where(waves < 0.45 * path, np.maximum(water, 0.55 + 0.45 * path), water)  # the sun's glitter
    for _ in range(26):  # reeds
        foot, tall, lean = 0.34 * rng.random() ** 1.5, 0.12 + 0.22 * rng.random(), 0.05 * rng.standard_normal()
        up = np.clip((1 - v) / tall, 0, 1)
        stalk = np.abs(u - foot - lean * up**2) < (0.0042 * (1 - 0.6 * up) + 0.0035 * (np.abs(up - 0.88) < 0.08))
        image = np.where(stalk & (1 - v < tall), 0.04, image)
    return np.clip(image + 0.004 * rng.standard_normal(image.shape), 0, 1).astype(np.float32)


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
        (
            label,
            f"{p.shape[0]}x{p.shape[1]}",
            *(float(f"{value:.4g}") for value in (p.min(), p.max(), p.mean())),
            len(np.unique(p)),
        )
        for label, p in pictures.items()
    )
    alt = (
        f"{len(pictures)} gray images: "
        + "; ".join(f"{label} with {row[5]} different gray values" for label, row in zip(pictures, rows))
        + "."
    )
    lines = -(-len(pictures) // columns)
    ratio = next(iter(pictures.values())).shape
    height = WIDTH / columns * ratio[0] / ratio[1] + 0.25

    def draw(figure: Any) -> None:
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, (label, picture) in zip(grid.flat, pictures.items()):
            axes.imshow(picture, cmap="gray", vmin=low, vmax=top, interpolation="nearest")
            axes.set_title(folded(label, 72 // columns), fontsize=9)

    return Picture(
        title, alt, ("image", "size", "least", "largest", "mean", "gray values"), rows, draw, (WIDTH, height * lines),
        gray=True,
    )  # fmt: skip


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
    top = float(max(x.max(), decoded.max(), 0))
    bottom = float(min(x.min(), decoded.min(), 0))
    room = 0.06 * (top - bottom or 1)
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
                b * block + block / 2 - 0.5, top + room, f"scale {scale:.3g}", ha="center", va="bottom", fontsize=9
            )
        axes.axhline(0, color="black", lw=0.6)
        axes.set_ylim(bottom - room, top + 3 * room)
        axes.set_xlim(-0.7, len(x) - 0.3)
        axes.set_xlabel("element")
        legend_above(figure, axes)
        tidy(axes)

    header = ("block", "scale", "amax", "largest error", "zeros after")
    return Picture(title, alt, header, tuple(rows), draw, (WIDTH, 2.9))


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
    cell = (WIDTH - 0.4 - 0.075 * max(map(len, rows))) / values.shape[1]  # inches
    across = [folded(name, int(cell / 0.085)) for name in columns]
    slanted = max(len(line) for name in across for line in name.split("\n")) * 0.085 > cell
    below = 0.07 * max(map(len, columns)) if slanted else 0.18 * max(name.count("\n") + 1 for name in across)

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
            middle = 0.55 * values.max()
            for r in range(values.shape[0]):
                for c in range(values.shape[1]):
                    axes.text(
                        c,
                        r,
                        format(values[r, c], form),
                        ha="center",
                        va="center",
                        fontsize=9.5 if cell > 0.4 else 7.5,
                        color="white" if values[r, c] > middle else "black",
                    )
        if len(columns) <= 32:
            axes.set_xticks(range(len(columns)), columns if slanted else across)
            if slanted:
                axes.tick_params(axis="x", labelrotation=45)
                for tick in axes.get_xticklabels():
                    tick.set(ha="right", rotation_mode="anchor")
        if len(rows) <= 32:
            axes.set_yticks(range(len(rows)), rows)
        axes.set_title(label)

    return Picture(
        title,
        alt,
        ("row", *columns[:shown]),
        table,
        draw,
        (WIDTH, min(5.5, 0.5 + below + 0.34 * values.shape[0])),
        gray=True,
    )
