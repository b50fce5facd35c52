"""The result of a speed test as text, section by section, in the words of `labels`.

Every function takes the plain data that `speed.measure` makes (and ``--json`` writes) and yields lines, so a report can
be printed while the run goes on, or again from its JSON.
"""

from __future__ import annotations

import math
import statistics
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from ..machine import SPEED_VARIABLES
from .labels import LANGUAGES
from .speed import WINDOW

WIDTH = 80
DETAILED = 3  # cards whose counts are shown in full
DOUBLE, SINGLE = "=" * WIDTH, "-" * WIDTH

Lines = Iterator[str]


def render(result: Mapping[str, Any], language: str = "en") -> str:
    """The whole report.

    Parameters
    ----------
    result : mapping
        See `speed.measure`.
    language : {"en", "zh"}
    """
    report = Report(language)
    lines = [*report.head(result)]
    for run in result["runs"]:
        lines += report.training_head(result, run)
        for count in range(1, len(run["loss"]) + 1):
            lines += report.batch_line(result, run, count)
        lines += report.run_tail(result, run)
    return "\n".join([*lines, *report.tail(result)])


def seconds_text(seconds: float) -> str:
    """``2.72s``; with more digits where two would say nothing."""
    return f"{seconds:.2f}s" if seconds >= 0.1 or seconds == 0 else f"{seconds:.4f}s"


def memory_text(size: int | None) -> str:
    """``1.42 GB``; a question mark where the system does not tell."""
    if size is None:
        return "?"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def gflop_text(flop: int) -> str:
    """Billions of operations with four digits: ``158.7``."""
    return f"{flop / 1e9:.4g}"


def text_width(text: str) -> int:
    """Columns of a terminal: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def table(rows: list[list[str]]) -> Lines:
    """Columns side by side, the first to the left, the others to the right."""
    widths = [max(map(text_width, column)) for column in zip(*rows)]
    for row in rows:
        first, *others = (" " * (width - text_width(cell)) for cell, width in zip(row, widths))
        yield "  ".join([row[0] + first, *(space + cell for space, cell in zip(others, row[1:]))]).rstrip()


class Report:
    """The sections of the report in one language.

    Parameters
    ----------
    language : {"en", "zh"}
    """

    def __init__(self, language: str = "en") -> None:
        self.labels = LANGUAGES[language]

    def say(self, label: str, **fields: Any) -> str:
        return self.labels[label].format(**fields)

    def title(self, label: str, **fields: Any) -> Lines:
        yield from (DOUBLE, self.say(label, **fields), DOUBLE)

    def section(self, label: str, result: Mapping[str, Any], run: Mapping[str, Any]) -> Lines:
        """A title that names the recipe where there are several."""
        if len(result["recipes"]) > 1:
            yield from self.title(f"{label}_recipe", recipe=run["recipe"])
        else:
            yield from self.title(label)

    # -- before the training

    def head(self, result: Mapping[str, Any]) -> Lines:
        """What is run: the model, its cards, configuration and data."""
        settings, model = result["settings"], result["model"]
        yield from self.title("title", version=result["vbw_np"])
        yield self.say("device")
        yield ""
        yield self.say("creating")
        yield self.say("parameters", parameters=model["parameters"])
        yield ""
        yield self.say("placing")
        if len(result["recipes"]) == 1:
            yield self.mode_line(settings, result["recipes"][0]["fp4"])
        for layer in model["layers"]:
            yield self.say("placed", name=layer["name"], inputs=layer["in_features"], outputs=layer["out_features"])
        yield self.say("cards", cards=len(model["layers"]))
        yield ""
        yield self.say(
            "configuration",
            batch_size=settings["batch_size"],
            seq_len=settings["seq_len"],
            batches=settings["n_batches"],
        )
        for recipe in result["recipes"]:
            yield self.say("recipe", recipe=recipe["name"], summary=recipe["summary"])
        yield self.say("model", **settings["model"])
        yield self.say("training", **settings)
        yield from self.data_lines(result["data"])
        yield DOUBLE

    def mode_line(self, settings: Mapping[str, Any], fp4: bool) -> str:
        switch = {True: self.say("on"), False: self.say("off")}
        return self.say("mode", mode=self.say(f"mode.{settings['mode']}"), fp4=switch[fp4], boh=switch[settings["boh"]])

    def data_lines(self, data: Mapping[str, Any]) -> Lines:
        yield self.say("data", name=data["name"], tokens=data["tokens"], used=data["different_tokens"])
        if data["sha256"]:
            yield self.say("text", bytes=data["corpus_bytes"], **data)

    # -- the training

    def training_head(self, result: Mapping[str, Any], run: Mapping[str, Any]) -> Lines:
        yield ""
        if len(result["recipes"]) > 1:
            fp4 = {recipe["name"]: recipe["fp4"] for recipe in result["recipes"]}
            yield self.say("start_recipe", recipe=run["recipe"])
            yield self.mode_line(result["settings"], fp4[run["recipe"]])
        else:
            yield self.say("start")
        yield SINGLE

    def batch_line(self, result: Mapping[str, Any], run: Mapping[str, Any], count: int) -> Lines:
        """A line after every fifth batch and the last: means over the batches since the line before."""
        total = result["settings"]["n_batches"]
        if count % WINDOW and count != total:
            return
        window = (count - 1) % WINDOW + 1
        yield self.say(
            "batch",
            batch=count,
            batches=total,
            loss=statistics.fmean(run["loss"][count - window : count]),
            last=seconds_text(run["batch_s"][count - 1]),
            mean=seconds_text(statistics.fmean(run["batch_s"][count - window : count])),
            count=window,
        )

    # -- after it

    def run_tail(self, result: Mapping[str, Any], run: Mapping[str, Any]) -> Lines:
        """Performance and statistics of one recipe's run."""
        yield SINGLE
        yield ""
        yield from self.section("performance", result, run)
        yield from self.performance(run)
        yield ""
        yield from self.floor_lines(result, run)
        yield ""
        yield from self.section("statistics", result, run)
        yield from self.statistics(run)
        yield ""
        yield from self.details(run)

    def performance(self, run: Mapping[str, Any]) -> Lines:
        timing, totals = run["timing"], run["device"]["totals"]
        yield self.say("total", total=seconds_text(timing["total_s"]))
        yield self.say("batches", batches=len(run["batch_s"]))
        yield self.say("mean", mean=seconds_text(timing["mean_s"]))
        note = self.say("separating") if totals["separations"] else ""
        yield self.say("first", first=seconds_text(timing["first_s"]), note=note)
        if timing["later_mean_s"] is not None:
            note = self.say("caching") if totals["hits"] else ""
            yield self.say("later", later=seconds_text(timing["later_mean_s"]), note=note)
        yield self.say("throughput", batches_per_s=timing["batches_per_s"])
        if timing["epoch_100_batches_s"] is not None:
            epoch = timing["epoch_100_batches_s"]
            yield ""
            yield self.say("epoch", seconds=epoch, minutes=epoch / 60)
        yield ""
        if timing["later_median_s"] is not None:
            parts = {step: seconds_text(timing[f"later_median_{step}_s"]) for step in ("forward", "backward", "update")}
            yield self.say("steps", median=seconds_text(timing["later_median_s"]), **parts)
        compiled, warm_up = run["warm_up_compile_s"], run["warm_up_s"]
        yield self.say("compile", compiled=seconds_text(compiled), warm_up=seconds_text(warm_up))
        if sum(run["compile_s"]):
            yield self.say("compile_inside", compiled=seconds_text(sum(run["compile_s"])))

    def floor_lines(self, result: Mapping[str, Any], run: Mapping[str, Any]) -> Lines:
        products, floor, settings = result["floor"], run["floor"], result["settings"]
        yield self.say(
            "floor",
            floor=seconds_text(floor["median_s"]),
            gflop=gflop_text(products["flop"]),
            rate=floor["gflop_per_s"],
        )
        by_part = products["flop_by_part"].items()
        yield self.say(
            "floor_parts",
            parts=", ".join(f"{self.say(f'part.{part}')} {gflop_text(flop)}" for part, flop in by_part),
            batch_size=settings["batch_size"],
            head_rows=products["head_rows_a_window"],
            passes=floor["n"],
        )
        if run["times_floor"] is None:
            yield self.say("no_later")
        else:
            yield self.say("multiple", multiple=run["times_floor"])

    def statistics(self, run: Mapping[str, Any]) -> Lines:
        device, totals = run["device"], run["device"]["totals"]
        for label in ("computes", "hits", "refreshes", "separations"):
            yield self.say(label, **totals)
        yield self.say("idle", count=len(device["idle"]))
        yield from (f"  {name}" for name in device["idle"])
        yield self.say("held", **device, bits=bits_a_weight(device))
        error = run["relative_error"]
        yield self.say("error", error=error, sqnr=decibels(error)) if error else self.say("exact")
        coarse, fine = (len(device["tiers"][name]) for name in ("coarse_only", "with_fine_tier"))
        if coarse or fine:
            yield self.say("tiers", coarse=coarse, fine=fine)
        yield self.say("link", **device["link"])
        yield self.say("decodes", **totals)

    def details(self, run: Mapping[str, Any]) -> Lines:
        """The first cards, with all that they counted."""
        cards = run["device"]["cards"][:DETAILED]
        yield self.say("details", count=len(cards))
        yield SINGLE
        for card in cards:
            yield ""
            yield self.say("card", **card)
            for label in ("card_computes", "card_hits", "card_refreshes", "card_hit_rate"):
                yield self.say(label, **card)
            if card["computes"]:
                yield self.say("card_held", **card, bits=card["bits_per_value"])
            if card["relative_error"]:
                yield self.say("card_error", error=card["relative_error"], sqnr=card["sqnr_db"])

    def tail(self, result: Mapping[str, Any]) -> Lines:
        """The recipes side by side, the environment, the end."""
        yield ""
        if len(result["runs"]) > 1:
            yield from self.title("comparison")
            yield from table(self.comparison(result["runs"]))
            yield ""
        yield from self.title("environment")
        yield from self.environment(result)
        yield ""
        yield from self.title("done")

    def comparison(self, runs: list[Mapping[str, Any]]) -> list[list[str]]:
        """A row a recipe; the loss also against the first one's."""
        first = runs[0]
        count = min(WINDOW, len(first["loss"]))
        names = ("recipe", "later", "multiple", "loss", "difference", "bytes", "bits", "error")
        rows = [[self.say(f"column.{name}", count=count, recipe=first["recipe"]) for name in names]]
        for run in runs:
            later, multiple = run["timing"]["later_median_s"], run["times_floor"]
            loss, device, error = run["loss_last_mean"], run["device"], run["relative_error"]
            rows.append(
                [
                    run["recipe"],
                    "-" if later is None else seconds_text(later),
                    "-" if multiple is None else f"{multiple:.2f}",
                    f"{loss:.4f}",
                    "-" if run is first else f"{loss / first['loss_last_mean'] - 1:+.2%}",
                    f"{device['bytes']:,}",
                    f"{bits_a_weight(device):.2f}",
                    "0" if not error else f"{error:.3%}",
                ]
            )
        return rows

    def environment(self, result: Mapping[str, Any]) -> Lines:
        found = result["environment"]
        load = found["load_average_1min"]
        yield self.say("cpu", **found, load="?" if load is None else f"{load:.1f}")
        yield self.say("python", **found)
        blas = {name: found["blas"][name] or "?" for name in ("library", "kernel", "threads")}
        yield self.say("numpy", numpy=found["numpy"], **blas)
        if found["numba"] is None:
            yield self.say("no_numba")
        else:
            off = self.say("numba_off") if found["numba"]["switched_off"] else ""
            yield self.say("numba", off=off, **found["numba"] | {"layer": found["numba"]["threading_layer"] or "-"})
        yield self.say("twins", **found["twins"])
        peak, floor = memory_text(result["peak_memory_bytes"]), memory_text(result["floor"]["buffer_bytes"])
        yield self.say("memory", peak=peak, floor=floor)
        for name, value in found["blas"]["variables"].items():
            if name in SPEED_VARIABLES:
                yield self.say("variable_set", name=name, value=value)
        for name, value in found["variables_taken_away"].items():
            yield self.say("variable_taken_away", name=name, value=value)


def bits_a_weight(device: Mapping[str, Any]) -> float:
    """Bits that a card holds for each weight, over the cards in use (an idle one still holds its float32 master)."""
    used = [card for card in device["cards"] if card["computes"]]
    return 32 * sum(card["bytes"] for card in used) / sum(card["float32_bytes"] for card in used)


def decibels(relative_error: float) -> float:
    """Signal-to-noise ratio of a relative RMS error."""
    return -20 * math.log10(relative_error)
