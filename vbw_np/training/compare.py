"""Recipes against each other: from the same start, on the same batches, over several seeds.

Runs with the same seed share initial weights, batches and dropout, so that their difference is the recipe's: the gap to
`fp32` is taken seed by seed, and its spread is over seeds.

Every run has a folder of its own and goes on from its last checkpoint, so a comparison can be stopped and called again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..device import Recipe
from ..errors import UserError
from ..files import write_whole
from . import checkpoint
from .config import TrainConfig
from .folder import LAST, LOG, RESULT
from .log import RunLog
from .loop import Trainer, load_split
from .not_finite import NonFiniteTraining
from .trained import config_of

BASELINE = "fp32"


@dataclasses.dataclass(frozen=True)
class Run:
    """One recipe with one seed.

    Attributes
    ----------
    config : TrainConfig
    folder : str
        Relative to the comparison's.
    """

    config: TrainConfig
    folder: str


def plan(config: TrainConfig, recipes: Sequence[Recipe], seeds: Sequence[int]) -> list[Run]:
    """All runs, seed by seed, so that a comparison that is cut short has whole seeds."""
    if len({recipe.name for recipe in recipes}) != len(recipes):
        raise UserError("a recipe is listed twice; each needs a name of its own")
    if len(set(seeds)) != len(seeds) or not seeds:
        raise UserError(f"the seeds {list(seeds)} must be different numbers, at least one")
    return [
        Run(dataclasses.replace(config, recipe=recipe, seed=seed), f"{_file_name(recipe.name)}-seed{seed}")
        for seed in seeds
        for recipe in recipes
    ]


def _file_name(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-._" else "_" for sign in name)


def execute(
    run: Run,
    out: str | os.PathLike[str],
    *,
    streams: Any = None,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Do one run, or what is left of it, and keep what it came to in its folder.

    Returns
    -------
    dict
        What `table` needs: the recipe, the seed, the curves, times and bytes.
    """
    folder = Path(out) / run.folder
    done = _finished(run, folder)
    if done is not None:
        return done
    trainer = Trainer.start_or_resume(run.config, folder, streams)
    try:
        error = _train(trainer, stop, tell, progress)
        result = trainer.result()
        summary = {
            "recipe": run.config.recipe.name,
            "seed": run.config.seed,
            "folder": run.folder,
            "run": trainer.place.id,
            "host": platform.node(),
            "error": error,
            **result.as_dict(),
            "step_seconds": _step_seconds(trainer.log),
            "weight_bytes": _weight_bytes(trainer),
            "curve": [[e["step"], e["val_loss"]] for e in trainer.log.read() if "val_loss" in e],
        }
    finally:
        trainer.close()
    checkpoint.write_text(folder / RESULT, json.dumps(summary, indent=1, allow_nan=False))
    return summary


def _train(trainer: Trainer, stop: Any, tell: Any, progress: bool | None) -> str | None:
    """Train; a loss that is not finite is a result of the comparison, in words, not the end of it."""
    try:
        trainer.run(stop=stop, tell=tell, progress=progress)
    except NonFiniteTraining as error:
        return str(error)
    return None


def _step_seconds(log: RunLog) -> float | None:
    """The median step: the first one compiles kernels, and an interrupted run has several first ones."""
    seconds = [entry["seconds"] for entry in log.read() if "loss" in entry]
    return float(np.median(np.diff(seconds, prepend=0.0))) if seconds else None


def _weight_bytes(trainer: Trainer) -> int:
    """Bytes of the linear layers' weights as the recipe stores them: codes, scales, agreed planes of the fine tier."""
    cards = trainer.habits.cards
    on_them = [card.parameter.host is card and card.packed is not None for card in cards]
    return sum(
        card.packed.nbytes if packed else card.parameter.data.nbytes
        for card, packed in zip(cards, on_them, strict=True)
    )


def _finished(run: Run, folder: Path) -> dict[str, Any] | None:
    """What a run that is complete came to, or None."""
    try:
        summary = json.loads((folder / RESULT).read_text())
        same = config_of(folder / LAST, checkpoint.load_meta(folder / LAST)) == run.config
        done = same and summary["step"] == run.config.steps
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return summary if done else None


def compare(
    runs: Iterable[Run],
    out: str | os.PathLike[str],
    *,
    minutes: float | None = None,
    tell: Callable[[str], None] | None = None,
    progress: bool | None = None,
) -> list[dict[str, Any]]:
    """Do the runs one after the other on this machine.

    Parameters
    ----------
    minutes : float, optional
        After so many, the run in hand is saved and the rest is left for another call; one run is always begun.

    Returns
    -------
    list of dict
        Of the runs that were begun.
    """
    runs = list(runs)
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    streams = load_split(runs[0].config)
    Path(out).mkdir(parents=True, exist_ok=True)
    results = []
    for number, run in enumerate(runs, 1):
        if results and time.monotonic() > deadline:
            break
        if tell is not None:
            tell(f"run {number}/{len(runs)}: {run.config.recipe.name}, seed {run.config.seed}")
        results.append(
            execute(run, out, streams=streams, stop=lambda: time.monotonic() > deadline, tell=tell, progress=progress)
        )
    return results


# -------------------------------------------------------------------------------------------------------------- tables


@dataclasses.dataclass(frozen=True)
class Row:
    """One recipe of a comparison; a spread is the standard deviation over seeds, None for one seed.

    Attributes
    ----------
    recipe : str
    seeds : int
        Runs that the figures are over.
    step : int
        At which losses are compared: the last validation that all runs of the comparison have.
    val_loss, val_spread : float
        Validation loss in nats a token.
    gap, gap_spread : float or None
        Of the validation loss to fp32's with the same seed, percent.
    step_seconds : float
        The median.
    weight_mib : float
        Of the linear layers' weights as stored, 2**20 bytes.
    """

    recipe: str
    seeds: int
    step: int
    val_loss: float
    val_spread: float | None
    gap: float | None
    gap_spread: float | None
    step_seconds: float
    weight_mib: float


def common_step(results: Sequence[dict[str, Any]]) -> int:
    """The last step at which every run with a validation has one."""
    curves = [{step for step, _ in result["curve"]} for result in results if result["curve"]]
    shared = set.intersection(*curves) if curves else set()
    if not shared:
        raise UserError("no validation that all runs have: give them more steps, or a smaller --eval-every")
    return max(shared)


def rows(results: Sequence[dict[str, Any]]) -> list[Row]:
    """One row a recipe, in the order of the results."""
    results = [result for result in results if not result["error"]]
    step = common_step(results)
    losses: dict[str, dict[int, float]] = {}
    for result in results:
        at = dict(map(tuple, result["curve"])).get(step)
        if at is not None:
            losses.setdefault(result["recipe"], {})[result["seed"]] = float(at)
    table = []
    for recipe, by_seed in losses.items():
        own = [result for result in results if result["recipe"] == recipe and result["curve"]]
        values = list(by_seed.values())
        base = losses.get(BASELINE, {})
        gaps = [100 * (loss / base[seed] - 1) for seed, loss in by_seed.items() if seed in base]
        table.append(
            Row(
                recipe,
                len(values),
                step,
                float(np.mean(values)),
                _spread(values),
                float(np.mean(gaps)) if gaps else None,
                _spread(gaps),
                float(np.median([result["step_seconds"] for result in own])),
                float(np.mean([result["weight_bytes"] for result in own])) / 2**20,
            )
        )
    return table


def _spread(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


_HEADS = ("recipe", "seeds", "step", "validation loss", "gap to fp32", "s/step", "weights MiB")


def _cells(row: Row) -> tuple[str, ...]:
    def with_spread(value: float | None, spread: float | None, form: str) -> str:
        if value is None:
            return "-"
        return form.format(value) + (f" ± {form.format(spread).lstrip('+')}" if spread is not None else "")

    gap = with_spread(row.gap, row.gap_spread, "{:+.2f}%") if row.recipe != BASELINE else "-"
    loss = with_spread(row.val_loss, row.val_spread, "{:.4f}")
    return (row.recipe, str(row.seeds), f"{row.step:,}", loss, gap, f"{row.step_seconds:.3f}", f"{row.weight_mib:.2f}")


def as_text(table: Sequence[Row]) -> str:
    """Aligned columns."""
    lines = [_HEADS, *map(_cells, table)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(line, widths))).rstrip()
        for line in lines
    )  # fmt: skip


def as_markdown(table: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = [_HEADS, ("---", *["---:"] * (len(_HEADS) - 1)), *map(_cells, table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_dict(config: TrainConfig, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Everything, for JSON."""
    shared = {name: value for name, value in config.as_dict().items() if name not in ("recipe", "seed")}
    return {"config": shared, "table": [dataclasses.asdict(row) for row in rows(results)], "runs": list(results)}


def losses_by_step(folder: str | os.PathLike[str]) -> list[float]:
    """A run's training losses."""
    return [float(entry["loss"]) for entry in RunLog(Path(folder) / LOG).read() if "loss" in entry]


# ---------------------------------------------------------------------------------------------------------------- plot


def check_plot(path: str | os.PathLike[str]) -> str:
    """The kind of picture that the name's ending stands for, such as ``svg``; called before a long run.

    Raises
    ------
    UserError
        matplotlib is missing, or it cannot write such a file.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise UserError(
            "a plot needs matplotlib, which is not installed; it comes with the notebooks' extra: "
            "python -m pip install 'matplotlib>=3.8' (the table needs nothing)"
        ) from None
    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    kind = Path(path).suffix.lstrip(".").lower()
    if kind not in kinds:
        raise UserError(f"plot: {path} ends in none of the pictures that can be written: .{', .'.join(kinds)}")
    return kind


def plot(results: Sequence[dict[str, Any]], path: str | os.PathLike[str], title: str) -> None:
    """Validation curves, and the gap to fp32 with its spread over seeds, as a picture.

    Raises
    ------
    UserError
        matplotlib is missing, or it cannot write such a file.
    """
    kind = check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    curves, gaps = figure.subplots(1, 2)
    by_recipe: dict[str, dict[int, dict[int, float]]] = {}
    for result in results:
        if result["curve"]:
            by_recipe.setdefault(result["recipe"], {})[result["seed"]] = dict(map(tuple, result["curve"]))
    base = by_recipe.get(BASELINE, {})
    for number, (recipe, seeds) in enumerate(by_recipe.items()):
        color = f"C{number % 10}"  # the same in both pictures
        steps = sorted(set.intersection(*(set(curve) for curve in seeds.values())))
        _band(curves, steps, [[curve[step] for step in steps] for curve in seeds.values()], recipe, color)
        paired = [seed for seed in seeds if seed in base]
        if recipe == BASELINE or not paired:
            continue
        shared = [step for step in steps if all(step in base[seed] for seed in paired)]
        values = [[100 * (seeds[seed][step] / base[seed][step] - 1) for step in shared] for seed in paired]
        _band(gaps, shared, values, recipe, color)
    curves.set(title=title, xlabel="step", ylabel="validation loss, nats a token")
    gaps.set(title="gap to fp32, same seed", xlabel="step", ylabel="percent")
    gaps.axhline(0, color="gray", linewidth=0.8)
    curves.legend()
    write_whole(path, lambda file: figure.savefig(file, format=kind))


def _band(axes: Any, steps: Sequence[int], values: Sequence[Sequence[float]], label: str, color: str) -> None:
    """The mean over seeds, and one standard deviation around it."""
    array = np.array(values)  # (seeds, steps)
    mean = array.mean(axis=0)
    axes.plot(steps, mean, marker=".", label=label, color=color)
    if len(array) > 1:
        spread = array.std(axis=0, ddof=1)
        axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.2)
