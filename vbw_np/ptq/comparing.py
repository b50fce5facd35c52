"""Formats and methods held against each other: a row of figures for every plan, and what is kept between runs."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_whole
from ..formats import FORMATS, BlockFormat, get_format
from ..models.llama import Llama
from ..viz import Picture, bars, curves
from .measuring import Quality, Reference, measure
from .methods import Method
from .quantizing import Calibration, Plan, Quantized, quantize_model
from .sites import KINDS

ROW_SCALED = {"nvfp4": "nvfp4-row-scaled", "nvfp4-4over6": "nvfp4-row-scaled"}
"""Formats of activations for formats of weights: one second-level scale a token, so that none changes another."""
FORMAT_VERSION = 1


def activations_of(choice: str, fmt: BlockFormat) -> BlockFormat | None:
    """The format of activations that a user asks for: none, the same as the weights, or one by name.

    Raises
    ------
    UserError
        A format under which a token's numbers depend on other tokens.
    """
    if choice == "none":
        return None
    name = ROW_SCALED.get(fmt.name, fmt.name) if choice == "same" else choice
    chosen = get_format(name)
    if chosen.tensor_level == "tensor" or chosen.flat or chosen.block_rows > 1 or chosen.quantile_codebook:
        good = ", ".join(n for n in ("nvfp4-row-scaled", "mxfp4", "int4-g32", "int8-row") if n in FORMATS)
        raise UserError(
            f"{chosen.name} scales all tokens together, so a later one would change an earlier one; take {good} or "
            "another format with scales a row or a block for --activations"
        )
    return chosen


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of a model under one plan.

    Attributes
    ----------
    format, method, activations : str
        As a user writes them.
    keep : tuple of str
    keys, values : str
        The formats in which they are kept, or float32.
    bits : float
        Bits a quantized weight.
    quality : Quality
    layers : tuple of (name, weight error, output error or None)
    seconds : float
        Of quantizing and measuring.
    """

    format: str
    method: str
    activations: str
    keep: tuple[str, ...]
    bits: float
    quality: Quality
    layers: tuple[tuple[str, float, float | None], ...]
    seconds: float
    keys: str = "float32"
    values: str = "float32"

    @property
    def key(self) -> tuple:
        return (self.format, self.method, self.activations, self.keep, self.keys, self.values)

    @property
    def label(self) -> str:
        """A short name for pictures."""
        kept = f" but {', '.join(self.keep)}" if self.keep else ""
        inputs = f", inputs {self.activations}" if self.activations != "none" else ""
        cache = [(what, fmt) for what, fmt in (("keys", self.keys), ("values", self.values)) if fmt != "float32"]
        return f"{self.format} {self.method}{inputs}{kept}" + "".join(f", {what} {fmt}" for what, fmt in cache)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        flat = dataclasses.asdict(self)
        return {**{k: v for k, v in flat.items() if k != "quality"}, **flat["quality"]}

    @classmethod
    def of(cls, flat: dict[str, Any]) -> Row:
        """From `as_dict`."""
        quality = {field.name: flat[field.name] for field in dataclasses.fields(Quality)}
        rest = {f.name: flat[f.name] for f in dataclasses.fields(cls) if f.name in flat}
        rest["keep"], rest["layers"] = tuple(rest["keep"]), tuple(map(tuple, rest["layers"]))
        return cls(**rest, quality=Quality(**quality))


def key_of(plan: Plan) -> tuple:
    """By what a plan's row is found again."""
    inputs, kept = plan.activations.name if plan.activations else "none", (plan.keys, plan.values)
    return (plan.fmt.name, str(plan.method), inputs, plan.keep, *(fmt.name if fmt else "float32" for fmt in kept))


def run_plan(
    load: Callable[[], Llama],
    plan: Plan,
    reference: Reference,
    calibration: Calibration | None,
    done: Callable[[str], None] = lambda name: None,
) -> tuple[Row, Quantized]:
    """Quantize a fresh model by a plan and measure it."""
    started = time.perf_counter()
    quantized = quantize_model(load(), plan, calibration, done)
    quality = measure(quantized.model, reference, quantized.running(), done, keys=plan.keys, values=plan.values)
    layers = tuple((error.name, error.weight, error.output) for error in quantized.errors)
    *what, keys, values = key_of(plan)
    row = Row(*what, quantized.bits, quality, layers, time.perf_counter() - started, keys, values)
    return row, quantized


def plans_of(
    formats: Iterable[str],
    methods: Iterable[Method],
    activations: str,
    keep: tuple[str, ...],
    sensitivity: bool,
    keys: BlockFormat | None = None,
    values: BlockFormat | None = None,
) -> list[Plan]:
    """Every format with every method; with `sensitivity` each once more for every kind of layer that stays as it is.

    Raises
    ------
    UserError
        A pair that does not go together.
    """
    plans = []
    for name in formats:
        fmt = get_format(name)
        for method in methods:
            chosen = Plan(fmt, method, activations_of(activations, fmt), keep, keys, values)
            chosen.check()
            plans.append(chosen)
            if sensitivity:
                plans += [dataclasses.replace(chosen, keep=(*keep, f"*.{kind}")) for kind in KINDS]
    return plans


# ---- results


def write_results(path: str, settings: dict[str, Any], exact: Quality, rows: list[Row]) -> None:
    """All rows so far, as JSON."""
    content = {
        "version": FORMAT_VERSION,
        "settings": settings,
        "float32": dataclasses.asdict(exact),
        "rows": [row.as_dict() for row in rows],
    }
    write_whole(path, json.dumps(content, indent=1) + "\n")


def read_results(path: str, settings: dict[str, Any]) -> list[Row]:
    """Rows of an earlier run of the same model on the same texts.

    Raises
    ------
    UserError
        The file is none of these results, or of another model or text.
    """
    if not Path(path).is_file():
        raise UserError(f"cannot go on from {path}: it is no file; name another --json")
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        rows = [Row.of(flat) for flat in content["rows"]]
        before = content["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot go on from {path}: it holds no results of vbw ptq ({error})") from None
    changed = [key for key in settings if before.get(key) != settings[key]]
    if changed:
        raise UserError(f"cannot go on from {path}: it was made with another {', '.join(changed)}; name another --json")
    return rows


HEADINGS = (
    "format", "method", "inputs", "kept", "keys", "values", "bits", "perplexity", "KL", "top-1 %", "seconds"
)  # fmt: skip


def table_of(rows: list[Row], exact: Quality) -> str:
    """The rows as aligned text, the float model first."""
    cells = [HEADINGS, ("float32", *"-----", "32", f"{exact.perplexity:.2f}", "0", "100", "")]
    for row in rows:
        quality = row.quality
        figures = (f"{row.bits:.2f}", f"{quality.perplexity:.2f}", f"{quality.kl:.4f}", f"{100 * quality.top1:.1f}")
        inputs, kept = row.activations.replace("none", "-"), ", ".join(row.keep) or "-"
        cache = (row.keys.replace("float32", "-"), row.values.replace("float32", "-"))
        cells.append((row.format, row.method, inputs, kept, *cache, *figures, f"{row.seconds:.0f}"))
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADINGS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in cells)


def picture_of(rows: list[Row]) -> Picture:
    """For one row the errors of its layers by depth; for several their KL divergence."""
    if len(rows) > 1:
        values = {row.label: {"KL": row.quality.kl} for row in rows}
        return bars(values, ylabel="KL to float32, nats a token", title="What the model lost", form=".3f")
    row = rows[0]
    lines: dict[str, list[float]] = {}
    for name, weight, output in row.layers:
        lines.setdefault(name.rsplit(".", 1)[1], []).append(weight if output is None else output)
    lines = {kind: errors for kind, errors in lines.items() if len(errors) == max(map(len, lines.values()))}
    what = "weight" if any(output is None for *_, output in row.layers) else "output"
    return curves(lines, xlabel="block", ylabel=f"relative squared {what} error", title=row.label, logy=True)
