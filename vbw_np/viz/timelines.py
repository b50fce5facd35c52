"""Tapes, caches, timelines, curves and rooflines."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .picture import HATCHES, MARKERS, PALETTE, STYLES, WIDTH, Picture, folded, legend_above, plain_numbers, tidy


def curves(
    lines: Mapping[str, Sequence[float]],
    *,
    x: Sequence[float] | None = None,
    xlabel: str = "step",
    ylabel: str = "",
    title: str = "Curves",
    logx: bool = False,
    logy: bool = False,
    steps: bool = False,
) -> Picture:
    """Curves of one x, told apart by color, line style and marker.

    Parameters
    ----------
    lines : mapping of label to numbers, all of one length
    x : numbers, optional
        0, 1, 2, ... by default.
    steps : bool
        Draw steps instead of slopes.
    """
    data = {label: np.asarray(y, np.float64) for label, y in lines.items()}
    count = len(next(iter(data.values())))
    at = np.arange(count) if x is None else np.asarray(x, np.float64)
    pick = np.unique(np.linspace(0, count - 1, count if count <= 20 else 13).astype(int))
    rows = tuple((float(at[i]), *(float(y[i]) for y in data.values())) for i in pick)
    alt = (
        f"Curves over {xlabel}: "
        + "; ".join(f"{label} goes from {y[0]:.4g} to {y[-1]:.4g}" for label, y in data.items())
        + "."
    )

    every = max(1, count // 12)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for n, (label, y) in enumerate(data.items()):
            axes.plot(
                at,
                y,
                color=PALETTE[n % 8],
                ls=STYLES[n % 8],
                marker=MARKERS[n % 8],
                ms=4.5 + 0.9 * min(4, len(data) - 1 - n),
                markevery=(n * every // len(data), every),  # in turn, so that curves that lie on each other show theirs
                lw=1.6 + 0.5 * min(4, len(data) - 1 - n),  # the lower of two that lie on each other shows beside it
                drawstyle="steps-mid" if steps else "default",
                label=label,
            )
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if not logy and all((y == np.round(y)).all() for y in data.values()):
            axes.yaxis.get_major_locator().set_params(integer=True)
        if logx:
            axes.set_xscale("log", base=2)
            plain_numbers(axes.xaxis)
        if logy:
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
        if len(data) > 1 or next(iter(data)) != ylabel:
            legend_above(figure, axes)
        axes.grid(alpha=0.25)
        tidy(axes)

    return Picture(title, alt, (xlabel, *data), rows, draw, (WIDTH, 3.2))


def bars(
    values: Mapping[str, Mapping[str, float]],
    *,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "Bars",
    form: str = ".1f",
) -> Picture:
    """Groups of bars with their numbers written on them.

    Parameters
    ----------
    values : mapping of group to mapping of label to number
    """
    groups = list(values)
    labels = list(next(iter(values.values())))
    rows = tuple((group, *(float(values[group][label]) for label in labels)) for group in groups)
    alt = (
        f"Bars of {ylabel or 'values'}: "
        + "; ".join(
            f"{group}: " + ", ".join(f"{label} {_written(values[group][label], form)}" for label in labels)
            for group in groups
        )
        + "."
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        width = (0.86 if len(labels) > 1 else 0.6) / len(labels)
        size = 9.5 if len(labels) * len(groups) <= 12 else 8
        for n, label in enumerate(labels):
            at = np.arange(len(groups)) + (n - (len(labels) - 1) / 2) * width
            heights = [values[group][label] for group in groups]
            axes.bar(
                at,
                heights,
                width * 0.92,
                color=PALETTE[n % 8],
                hatch=HATCHES[n % 8],
                alpha=0.75,
                edgecolor="#333333",
                linewidth=0.5,
                label=label,
            )
            for place, height in zip(at, heights):
                axes.text(place, height, _written(height, form), ha="center", va="bottom", fontsize=size)
        axes.set_xticks(range(len(groups)), [folded(group, int(52 / len(groups))) for group in groups])
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.margins(y=0.12)
        if len(labels) > 1:
            legend_above(figure, axes)
        tidy(axes)

    return Picture(title, alt, (xlabel, *labels), rows, draw, (WIDTH, 3.2))


def _written(value: float, form: str) -> str:
    text = format(value, form)
    return text.lstrip("-") if float(text) == 0 else text  # no minus before a nought


# ---- the tape


@dataclasses.dataclass(frozen=True)
class _Tape:
    """What ran: values by the id of their tensor, in order of their depth."""

    keys: list[int]
    names: dict[int, str]
    numbers: dict[int, int]  # of operations, in the order in which they ran; leaves have none
    values: dict[int, Any]
    gradients: dict[int, Any]
    links: list[tuple[int, int]]
    depth: dict[int, int]

    def rows(self) -> tuple[tuple[str, str, str, str], ...]:
        """Name, value, gradient and where it comes from."""
        return tuple(
            (
                self.names[key] if key not in self.numbers else f"{self.names[key]} (#{self.numbers[key]})",
                _short(self.values[key]),
                _short(self.gradients.get(key)),
                ", ".join(self.names[a] for a, b in self.links if b == key) or "leaf",
            )
            for key in self.keys
        )

    def places(self) -> dict[int, tuple[float, float]]:
        """Where each box stands: a column a depth."""
        columns: dict[int, list[int]] = {}
        for key in self.keys:
            columns.setdefault(self.depth[key], []).append(key)
        return {
            key: (2.6 * level, -(i - (len(column) - 1) / 2) * 1.3)
            for level, column in columns.items()
            for i, key in enumerate(column)
        }


def tape(function: Callable[..., Any], **leaves: Any) -> Picture:
    """Run a function on named leaves, walk back, and draw every operation with its value and its gradient.

    Parameters
    ----------
    function : callable
        Takes tensors by name and returns a tensor of one element.
    leaves : numbers or arrays
    """
    recorded = _walked(function, leaves)
    rows = recorded.rows()
    told = "; ".join(f"{r[0]}: value {r[1]}, gradient {r[2]}" for r in rows)
    deepest = max(recorded.depth[key] for key in recorded.keys)
    tallest = max(Counter(recorded.depth[key] for key in recorded.keys).values())
    return Picture(
        "The tape: values forward, gradients backward",
        f"The tape as a graph from left to right. {told}.",
        ("made by", "value", "gradient", "from"),
        rows,
        lambda figure: _draw_tape(figure, recorded, deepest, tallest),
        (max(WIDTH, 1.25 * (deepest + 1)), max(1.8, 0.95 * tallest)),
    )


def _walked(function: Callable[..., Any], leaves: Mapping[str, Any]) -> _Tape:
    """Run the function and walk back, watching both."""
    from ..engine import Tensor

    tensors = {name: Tensor(np.asarray(value, np.float64), requires_grad=True) for name, value in leaves.items()}
    output, made = watched(function, tensors)
    gradients: dict[int, Any] = {}
    for result, _ in made:
        result.node.vjp = _spied(result.node.vjp, gradients, id(result))
    names = {id(t): name for name, t in tensors.items()}
    names |= {id(result): result.node.primitive.name for result, _ in made}
    links = [(id(source), id(result)) for result, inputs in made for source in inputs if id(source) in names]
    values = {id(t): t.data for t in tensors.values()} | {id(r): r.data for r, _ in made}
    depth: dict[int, int] = dict.fromkeys((id(t) for t in tensors.values()), 0)
    for result, inputs in made:
        depth[id(result)] = 1 + max((depth[id(s)] for s in inputs if id(s) in depth), default=0)
    output.backward()
    gradients |= {id(t): t.grad for t in tensors.values()}
    used = {key for link in links for key in link} | {id(output)}
    numbers = {id(result): number for number, (result, _) in enumerate(made)}
    return _Tape([key for key in depth if key in used], names, numbers, values, gradients, links, depth)


def watched(function: Callable[..., Any], tensors: Mapping[str, Any]) -> tuple[Any, list[tuple[Any, tuple]]]:
    """What the function returns, and every operation's result and inputs in the order in which they ran."""
    from ..engine import autograd

    made: list[tuple[Any, tuple]] = []
    original = autograd.Primitive.__call__

    def recording(self: Any, *inputs: Any, **static: Any) -> Any:
        result = original(self, *inputs, **static)
        if result.node is not None:
            made.append((result, inputs))
        return result

    autograd.Primitive.__call__ = recording
    try:
        return function(**tensors), made
    finally:
        autograd.Primitive.__call__ = original


def _draw_tape(figure: Any, recorded: _Tape, deepest: int, tallest: int) -> None:
    """A box for each value, an arrow for each use."""
    axes, place = figure.subplots(), recorded.places()
    boxes = {key: _tape_box(axes, recorded, key, place[key]) for key in recorded.keys}
    for a, b in recorded.links:
        (x0, y0), (x1, y1) = place[a], place[b]
        far = x1 - x0 > 3  # an arrow past other boxes bows out of their way, upward from above, downward from below
        bow = (-0.18 if y0 >= y1 else 0.18) if far else 0
        axes.annotate(
            "",
            xy=(x1, y1),
            xytext=(x0, y0),
            zorder=1,
            arrowprops={
                "arrowstyle": "-|>",
                "color": "#444444",
                "lw": 1.3,
                "patchA": boxes[a].get_bbox_patch(),
                "patchB": boxes[b].get_bbox_patch(),
                "connectionstyle": f"arc3,rad={bow}",
            },
        )
    axes.set_xlim(-1.1, 2.6 * deepest + 1.1)
    axes.set_ylim(-0.65 * tallest - 0.1, 0.65 * tallest + 0.1)
    axes.axis("off")


def _tape_box(axes: Any, recorded: _Tape, key: int, place: tuple[float, float]) -> Any:
    """Name, value and gradient: rounded and blue for a leaf, dashed for what an operation made."""
    leaf = key not in recorded.numbers
    return axes.text(
        *place,
        f"{recorded.names[key]}\nvalue {_short(recorded.values[key])}\ngrad {_short(recorded.gradients.get(key))}",
        ha="center",
        va="center",
        fontsize=9.5,
        family="monospace",
        zorder=3,
        bbox={
            "boxstyle": "round,pad=0.35" if leaf else "square,pad=0.35",
            "facecolor": "#DDEEFA" if leaf else "#FFF3D6",
            "edgecolor": "#333333",
            "linestyle": "-" if leaf else "--",
        },
    )


def _spied(vjp: Any, gradients: dict[int, Any], key: int) -> Any:
    """The same vjp, remembering the gradient that arrives."""

    def spy(function: Callable) -> Callable:
        def spied(g: Any) -> Any:
            gradients[key] = np.array(g)
            return function(g)

        return spied

    return spy(vjp) if callable(vjp) else tuple(spy(function) for function in vjp)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    array = np.asarray(value)
    if array.size == 1:
        return f"{float(array.reshape(())):.4g}"
    return f"{'x'.join(map(str, array.shape))} array"


# ---- the device


def access_map(accesses: Sequence[tuple[str, bool]], title: str = "Cache: hit or miss") -> Picture:
    """Who asked the cache, in order, and whether it hit.

    Parameters
    ----------
    accesses : sequence of (name, hit)
    """
    names = list(dict.fromkeys(name for name, _ in accesses))
    rows = tuple(
        (
            name,
            sum(n == name for n, _ in accesses),
            sum(n == name and hit for n, hit in accesses),
            "".join("." if n != name else "H" if hit else "M" for n, hit in accesses),
        )
        for name in names
    )
    hits = sum(hit for _, hit in accesses)
    alt = (
        f"{len(accesses)} accesses in order, {hits} hits (H) and {len(accesses) - hits} misses (M). "
        + "; ".join(f"{r[0]}: {r[2]} hits of {r[1]}" for r in rows)
        + "."
    )

    def draw(figure: Any) -> None:
        from matplotlib.patches import Rectangle

        axes = figure.subplots()
        for i, (name, hit) in enumerate(accesses):
            y = -names.index(name)
            axes.add_patch(
                Rectangle(
                    (i, y - 0.4),
                    0.92,
                    0.8,
                    facecolor=PALETTE[2] if hit else PALETTE[1],
                    hatch="" if hit else "///",
                    edgecolor="#333333",
                    lw=0.5,
                    alpha=0.6,
                )
            )
            if len(accesses) <= 24:
                axes.text(i + 0.46, y, "H" if hit else "M", ha="center", va="center", weight="bold")
        axes.set_yticks([-i for i in range(len(names))], names)
        every = -(-len(accesses) // 12)
        axes.set_xticks([i + 0.46 for i in range(0, len(accesses), every)], range(1, len(accesses) + 1, every))
        axes.set_xlim(-0.3, len(accesses) + 0.3)
        axes.set_ylim(-len(names) + 0.4, 0.6)
        axes.set_xlabel("access, in order (H: hit, M: miss)")
        tidy(axes)

    return Picture(
        title,
        alt,
        ("who", "asked", "hits", "sequence"),
        rows,
        draw,
        (WIDTH, 0.7 + 0.38 * len(names)),
    )


def timeline(events: Sequence[Any], title: str = "What the device did") -> Picture:
    """Recorded events over time, one lane a kind, times measured on this machine.

    Parameters
    ----------
    events : sequence of objects with kind, start and end (nanoseconds)
    """
    kinds = list(dict.fromkeys(event.kind for event in events))
    begin = min(event.start for event in events)
    whole = 1e-6 * (max(event.end for event in events) - begin)  # milliseconds
    totals = {kind: 1e-6 * sum(e.end - e.start for e in events if e.kind == kind) for kind in kinds}
    rows = tuple((kind, sum(e.kind == kind for e in events), totals[kind]) for kind in kinds)
    alt = (
        f"A timeline of {len(events)} events in {len(kinds)} lanes, in order of first appearance: "
        + "; ".join(f"{r[0]}, {r[1]} times, {r[2]:.2f} ms in all" for r in rows)
        + "."
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for n, kind in enumerate(kinds):
            hair = 0.006 * whole  # so that the shortest can be seen
            spans = [
                (1e-6 * (e.start - begin), max(1e-6 * (e.end - e.start), hair)) for e in events if e.kind == kind
            ]
            axes.broken_barh(
                spans,
                (-n - 0.4, 0.8),
                facecolor=PALETTE[n % 8],
                hatch=HATCHES[n % 8],
                edgecolor="#333333",
                linewidth=0.4,
                alpha=0.8,
            )
        axes.set_yticks([-n for n in range(len(kinds))], kinds)
        axes.set_xlabel("milliseconds, measured here")
        tidy(axes)

    return Picture(title, alt, ("event", "times", "total ms"), rows, draw, (WIDTH, 0.7 + 0.32 * len(kinds)))


def roofline(
    points: Mapping[str, tuple[float, float]],
    *,
    peak: float,
    bandwidth: float,
    title: str = "Roofline",
    unit: str = "GFLOP/s",
) -> Picture:
    """Work per byte against work per second, under the two roofs: memory and arithmetic.

    Parameters
    ----------
    points : mapping of label to (operations a byte, 1e9 operations a second)
    peak : float
        1e9 operations a second, at most.
    bandwidth : float
        1e9 bytes a second.
    """
    ridge = peak / bandwidth
    rows = tuple(
        (label, intensity, rate, min(peak, bandwidth * intensity), "memory" if intensity < ridge else "arithmetic")
        for label, (intensity, rate) in points.items()
    )
    alt = (
        f"A roofline: up to {ridge:.3g} operations a byte the memory's {bandwidth:.3g} GB/s limit, beyond it the "
        f"arithmetic's {peak:.4g} {unit}. "
        + "; ".join(f"{r[0]} at {r[1]:.3g} operations a byte reaches {r[2]:.3g}, limited by {r[4]}" for r in rows)
        + "."
    )
    low = min([ridge / 8, *(p[0] / 2 for p in points.values())])
    high = max([ridge * 8, *(p[0] * 2 for p in points.values())])

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        at = np.geomspace(low, high, 200)
        axes.plot(at, np.minimum(peak, bandwidth * at), color="black", lw=2)
        axes.text(ridge, peak * 1.12, f"arithmetic: {peak:.3g} {unit}", ha="left", va="bottom", fontsize=9.5)
        axes.set_ylim(0.5 * min([bandwidth * low, *(p[1] for p in points.values())]), peak * 2.5)
        axes.text(  # along the slope, over it
            (low * ridge) ** 0.5,
            1.15 * bandwidth * (low * ridge) ** 0.5,
            f"memory: {bandwidth:.3g} GB/s",
            fontsize=9.5,
            ha="center",
            va="bottom",
            rotation=np.degrees(np.arctan(bandwidth)),
            rotation_mode="anchor",
            transform_rotates_text=True,
        )
        for n, (label, (intensity, rate)) in enumerate(points.items()):
            axes.plot([intensity], [rate], MARKERS[n % 8], ms=9, color=PALETTE[n % 8], label=label, ls="none")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        plain_numbers(axes.xaxis)
        plain_numbers(axes.yaxis)
        axes.set_xlabel("operations a byte")
        axes.set_ylabel(unit)
        legend_above(figure, axes)
        axes.grid(alpha=0.25)
        tidy(axes)

    header = ("what", "operations a byte", unit, "roof there", "limited by")
    return Picture(title, alt, header, rows, draw, (WIDTH, 3.5))
