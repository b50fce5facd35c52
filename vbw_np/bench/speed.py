"""The speed test: train Claude4 on its cards for some batches, and keep every sample.

The result is plain data, ready for JSON; units are in the names (`_s` seconds, `_bytes`, `flop`). `report.render`
makes the text of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__, machine
from .. import kernels as _fast_twins  # noqa: F401  importing it puts the fast kernels in place
from ..data import TOKENIZERS, TokenStream, batches, check_length, load_stream
from ..device import Device, get_recipe
from ..engine import autograd, optim
from ..errors import UserError
from ..formats import NonFiniteError
from ..layers import ShortestPathReflection
from ..models import compile_ahead
from ..models.claude4 import Claude4, Claude4Config
from . import environment
from .floor import PARTS, Floor, Product, flop_by_part, step_products

SCHEMA_VERSION = 1
EPOCH = 100  # batches of the projected epoch
WINDOW = 5  # batches between two lines of the report, and in its running means
FLOOR_PASSES = 7  # passes over the floor's products, spread over a run


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything a run depends on; the defaults are the report's.

    Attributes
    ----------
    recipes : tuple of str
        Each is run from the same initial weights on the same batches.
    n_batches, batch_size, seq_len : int
    model : Claude4Config
    lr : float
        Of Adam.
    mode : str
        Of the device, see `vbw_np.device.Device`.
    refresh_interval : int
        Uses of a card before its scales are computed again.
    boh : bool
        Whether cards offer their fine tier.
    error_budget : float or None
        Relative error a card may have before its fine tier is asked for; None: the recipe's own.
    compute : str
        How cards compute, see `vbw_np.device.Device`.
    seed : int
        Of the initial weights, dropout, the batches and random ids.
    data : str
        "stdlib", "random", or the name of a file or folder of text.
    tokenizer : {"word", "byte"}
    """

    recipes: tuple[str, ...] = ("seed-v6",)
    n_batches: int = 20
    batch_size: int = 8
    seq_len: int = 128
    model: Claude4Config = dataclasses.field(default_factory=Claude4Config)
    lr: float = 1e-3
    mode: str = "training"
    refresh_interval: int = 100
    boh: bool = True
    error_budget: float | None = None
    compute: str = "auto"
    seed: int = 0
    data: str = "stdlib"
    tokenizer: str = "word"

    def __post_init__(self) -> None:
        if self.n_batches < 1:
            raise UserError(f"a run of {self.n_batches} batches measures nothing; give --batches 1 or more")
        if self.batch_size < 1:
            raise UserError(f"a batch of {self.batch_size} windows is empty; give --batch-size 1 or more")
        nearest = ShortestPathReflection.NEAREST
        if self.seq_len < nearest:
            raise UserError(
                f"windows of {self.seq_len} tokens are too short: the model's reflection reads the {nearest} nearest "
                f"tokens of each; give --seq-len {nearest} or more"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"a learning rate is a positive number, not {self.lr:g}; the report's is --lr 0.001")
        if self.seed < 0:
            raise UserError(f"a seed is a non-negative integer, not {self.seed}")
        if self.tokenizer not in TOKENIZERS:
            raise UserError(f"unknown tokenizer {self.tokenizer!r}; choose one of: {', '.join(TOKENIZERS)}")
        if not self.recipes:
            raise UserError("no recipe to run; name one or several, such as --recipe fp32,nvfp4")
        for recipe in self.recipes:
            if self.recipes.count(recipe) > 1:
                raise UserError(f"the recipe {recipe} is listed twice; each is run once")
            self.new_device(recipe)  # refuses an unknown recipe, mode, interval or budget

    def new_device(self, recipe: str) -> Device:
        """An empty device for one of the recipes."""
        return Device(recipe, error_budget=self.error_budget, **self.device_options())

    def device_options(self) -> dict[str, Any]:
        """What a device is made with, but for its error budget."""
        names = ("mode", "refresh_interval", "boh", "compute", "seed")
        return {name: getattr(self, name) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return dataclasses.asdict(self) | {"recipes": list(self.recipes)}


class Listener:
    """Told how a run comes along; the base does nothing with it."""

    def started(self, result: dict[str, Any]) -> None:
        """Settings, data and model are known; no batch has run."""

    def run_started(self, result: dict[str, Any], run: dict[str, Any]) -> None:
        """One recipe's training begins; in `run` there are its names and no samples."""

    def batch_done(self, result: dict[str, Any], run: dict[str, Any]) -> None:
        """`run` has one more sample in each of its lists."""

    def run_done(self, result: dict[str, Any], run: dict[str, Any]) -> None:
        """`run` is complete."""

    def done(self, result: dict[str, Any]) -> None:
        """`result` is complete."""


def open_data(settings: Settings) -> TokenStream:
    """The stream of tokens that the settings name, long enough for a window.

    Raises
    ------
    DataError
        If it is missing, empty, binary or too short.
    """
    stream = load_stream(
        settings.data, tokenizer=settings.tokenizer, vocab_size=settings.model.vocab_size, seed=settings.seed
    )
    check_length(stream, settings.batch_size, settings.seq_len)
    return stream


def measure(
    settings: Settings,
    stream: TokenStream | None = None,
    listener: Listener | None = None,
    *,
    trace: Path | None = None,
    taken_away: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run the speed test.

    Every recipe starts from the same weights and sees the same batches; the same settings give the same losses, bit
    for bit, in any process of the same machine. Between the batches, and outside their times, the floor is measured.

    Parameters
    ----------
    settings : Settings
    stream : TokenStream, optional
        Default: what the settings name.
    listener : Listener, optional
    trace : path, optional
        File for a Chrome trace of the batches' device events; for one recipe only.
    taken_away : mapping, optional
        What `environment.prepare_process` returned.

    Returns
    -------
    dict
        The whole result: what ``vbw bench --json`` writes.

    Raises
    ------
    UserError
        If the loss is not finite: names the recipe and the batch.
    """
    listener = listener or Listener()
    if trace is not None and len(settings.recipes) > 1:
        raise UserError("a trace shows one recipe; name one with --recipe, or leave out --trace")
    began = time.perf_counter()
    stream = stream or open_data(settings)
    model = Claude4(settings.model, settings.seed)
    products = step_products(model, settings.batch_size, settings.seq_len)
    result = _head(settings, stream, model)
    listener.started(result)
    floor = Floor(products)
    result["floor"] = _describe_floor(floor, products, settings)
    del model  # before the next is made: two at once need twice the memory
    result["runs"] = []
    for recipe in settings.recipes:
        _train(settings, recipe, stream, floor, result, listener, trace)
    result["floor"].update(_floor_summary([p for run in result["runs"] for p in run["floor_passes_s"]], floor.flop))
    result["peak_memory_bytes"] = machine.peak_memory_bytes()
    result["environment"] = environment.describe(taken_away)
    result["duration_s"] = time.perf_counter() - began
    listener.done(result)
    return result


def _head(settings: Settings, stream: TokenStream, model: Claude4) -> dict[str, Any]:
    """What a result says before anything is measured."""
    return {
        "schema": "vbw-np speed test",
        "schema_version": SCHEMA_VERSION,
        "vbw_np": __version__,
        "created_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "settings": settings.as_dict(),
        "recipes": [_describe_recipe(name) for name in settings.recipes],
        "data": _describe_data(stream, settings),
        "model": _describe_model(model, settings),
    }


def _describe_floor(floor: Floor, products: Sequence[Product], settings: Settings) -> dict[str, Any]:
    return {
        "products": [dataclasses.asdict(product) | {"flop": product.flop} for product in products],
        "flop": floor.flop,
        "flop_by_part": flop_by_part(products),
        "head_rows_a_window": settings.seq_len - 1,
        "buffer_bytes": floor.nbytes,
    }


def _describe_recipe(name: str) -> dict[str, Any]:
    recipe = get_recipe(name)
    return {"name": recipe.name, "summary": recipe.summary, "fp4": recipe.weight is not None}


def _describe_data(stream: TokenStream, settings: Settings) -> dict[str, Any]:
    return {
        "source": settings.data,
        "name": stream.name,
        "tokenizer": stream.tokenizer,
        "files": len(stream.files),
        "corpus_bytes": stream.n_bytes,
        "sha256": stream.sha256,
        "tokens": len(stream),
        "different_tokens": stream.vocab_size,
        "unk_share": stream.unk_share,
    }


def _describe_model(model: Claude4, settings: Settings) -> dict[str, Any]:
    """Size of the model, and the layers that a device places."""
    device = settings.new_device(settings.recipes[0])
    layers = [
        {"name": card.name, "in_features": card.parameter.shape[1], "out_features": card.parameter.shape[0]}
        for card in device.place(model)
    ]
    device.release()
    return {"name": "Claude4", "parameters": model.num_parameters(), "layers": layers}


# ------------------------------------------------------------------------------------------------ one recipe's training


def _train(
    settings: Settings,
    recipe: str,
    stream: TokenStream,
    floor: Floor,
    result: dict[str, Any],
    listener: Listener,
    trace: Path | None,
) -> None:
    """Add one recipe's run to the result; its model lives no longer than this call."""
    trainer = _Trainer(settings, recipe, floor)
    result["runs"].append(trainer.run)
    listener.run_started(result, trainer.run)
    with trainer.device.trace(trace) if trace is not None else contextlib.nullcontext():
        for _ in trainer.train(stream):
            listener.batch_done(result, trainer.run)
    trainer.finish()
    listener.run_done(result, trainer.run)


class _Trainer:
    """One recipe's training; `run` is its part of the result."""

    def __init__(self, settings: Settings, recipe: str, floor: Floor) -> None:
        self.settings, self.floor = settings, floor
        self.device = settings.new_device(recipe)
        self.run: dict[str, Any] = {
            "recipe": recipe,
            **_warm_up(settings, recipe),
            **{name: [] for name in ("loss", "batch_s", "forward_s", "backward_s", "update_s", "compile_s")},
            "floor_passes_s": [],
        }
        self.model = Claude4(settings.model, settings.seed)
        self.device.place(self.model)
        self.optimizer = optim.Adam(self.model.parameters(), lr=settings.lr)

    def train(self, stream: TokenStream) -> Iterator[None]:
        """One batch after the other; passes over the floor's products in between."""
        settings = self.settings
        passes_after = _spread(settings.n_batches, FLOOR_PASSES)
        first_pass = len(self.floor.passes)
        windows = batches(stream, settings.batch_size, settings.seq_len, settings.seed)
        for number, ids in zip(range(1, settings.n_batches + 1), windows):
            self._step(ids, number)
            yield
            for _ in range(passes_after.count(number)):
                self.floor.run()
        self.run["floor_passes_s"] = self.floor.passes[first_pass:]

    def _step(self, ids: NDArray, number: int) -> None:
        """Train on one batch (B, T), and keep its loss and its times."""
        with environment.CompileClock() as clock, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            start = time.perf_counter()
            found = self._gradients(ids, number)
            differentiated = time.perf_counter()
            self.optimizer.step()
            end = time.perf_counter()
        self.run["loss"].append(found.loss)
        self.run["batch_s"].append(end - start)
        self.run["forward_s"].append(found.forward_s)
        self.run["backward_s"].append(differentiated - start - found.forward_s)
        self.run["update_s"].append(end - differentiated)
        self.run["compile_s"].append(clock.seconds)

    def _gradients(self, ids: NDArray, number: int) -> optim.Gradients:
        """The gradients of a batch, whose loss must be a finite number."""
        try:
            found = optim.mean_gradients(self.optimizer, self.model.loss, [ids])
        except NonFiniteError as error:  # a card refuses to pack such a weight
            raise self._diverged(number, "cannot be computed, for weights are no longer finite numbers") from error
        if not math.isfinite(found.loss):
            raise self._diverged(number, f"is {found.loss}")
        return found

    def _diverged(self, number: int, what: str) -> UserError:
        return UserError(
            f"batch {number} of {self.settings.n_batches}: the loss {what} (recipe {self.run['recipe']}); the run "
            f"stops here, and nothing is written. Training has diverged: lower --lr, now {self.settings.lr:g}"
        )

    def finish(self) -> None:
        """Complete `run`, and take the model off its cards."""
        run = self.run
        run["timing"] = _timing(run)
        run["floor"] = _floor_summary(run["floor_passes_s"], self.floor.flop)
        run["loss_last_mean"] = statistics.fmean(run["loss"][-WINDOW:])
        run["device"] = self.device.report().as_dict()
        run["relative_error"] = _relative_error(self.device, run["device"]["cards"])
        later = run["timing"]["later_median_s"]
        run["times_floor"] = None if later is None else later / run["floor"]["median_s"]
        self.device.release()


def _warm_up(settings: Settings, recipe: str) -> dict[str, float]:
    """Two steps of a small model with the same recipe: compiles (or loads) the kernels before anything is timed.

    Its arrays are large enough for the kernels of large ones, but for those of products, which is called by itself.
    """
    start = time.perf_counter()
    with environment.CompileClock() as clock:
        compile_ahead.ahead(recipe, settings.model, **settings.device_options())
        model = Claude4(compile_ahead.small(settings.model))
        dataclasses.replace(settings, error_budget=None).new_device(recipe).place(model)
        autograd.ops.matmul_arrays(*np.zeros((2, 128, 128), np.float32))
        compile_ahead.steps(model)
    return {"warm_up_s": time.perf_counter() - start, "warm_up_compile_s": clock.seconds}


def _spread(total: int, count: int) -> list[int]:
    """`count` numbers of 1 ... total, evenly spread and ending with `total`; repeated where there are fewer."""
    return [max(1, round(total * (i + 1) / count)) for i in range(count)]


# ----------------------------------------------------------------------------------------------------------- summaries


def _timing(run: dict[str, Any]) -> dict[str, float | None]:
    """The report's figures from the samples; those of later batches are None where there is only one."""
    seconds = run["batch_s"]
    total, later = math.fsum(seconds), seconds[1:]
    figures: dict[str, float | None] = {
        "total_s": total,
        "mean_s": total / len(seconds),
        "first_s": seconds[0],
        "batches_per_s": len(seconds) / total,
        "later_mean_s": statistics.fmean(later) if later else None,
        "later_median_s": statistics.median(later) if later else None,
        "later_iqr_s": _iqr(later),
        "epoch_100_batches_s": seconds[0] + (EPOCH - 1) * statistics.fmean(later) if later else None,
    }
    for step in ("forward_s", "backward_s", "update_s"):
        figures[f"later_median_{step}"] = statistics.median(run[step][1:]) if later else None
    return figures


def _iqr(samples: list[float]) -> float | None:
    """Width of the middle half of the samples."""
    if len(samples) < 2:
        return None
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return high - low


def _floor_summary(passes: list[dict[str, float]], flop: int) -> dict[str, Any]:
    """Median of some passes over the products."""
    median = statistics.median(math.fsum(seconds.values()) for seconds in passes)
    return {
        "n": len(passes),
        "median_s": median,
        "median_by_part_s": {part: statistics.median(seconds[part] for seconds in passes) for part in PARTS},
        "gflop_per_s": flop / median / 1e9,
    }


def _norm(weight: NDArray) -> float:
    """The square root of the sum of squares, in float64, some rows at a time: no second array of the weight's size."""
    rows = max(1, (1 << 20) // weight.shape[-1])
    return math.hypot(*(np.linalg.norm(weight[i : i + rows].astype(np.float64)) for i in range(0, len(weight), rows)))


def _relative_error(device: Device, cards: list[dict[str, Any]]) -> float | None:
    """|w - decoded| / |w| over all weights that cards hold in low precision; None where there are none."""
    errors = {card["name"]: card["relative_error"] for card in cards if card["relative_error"] is not None}
    if not errors:
        return None
    norms = {name: _norm(device.cards[name].parameter.data) for name in errors}
    norm = math.hypot(*norms.values())
    return math.hypot(*(errors[name] * norms[name] for name in errors)) / norm if norm else 0.0
