"""Everything that decides a training run, as one record that can be written into a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from ..device import Operands, Recipe, Schedule, get_recipe
from ..errors import UserError
from ..formats import FORMATS, BlockFormat
from ..models.claude4 import Claude4Config
from .schedules import warmup_cosine, warmup_linear

SCHEDULES = ("cosine", "linear", "constant")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A run: the same record gives the same weights, bit for bit.

    Attributes
    ----------
    model : Claude4Config
    recipe : Recipe
        What the cards do; `fp32` for the baseline.
    data : str
        ``stdlib``, ``random``, or a file or folder of text.
    tokenizer : {"word", "byte"}
    held_out : float
        Share of the tokens held out for validation, in whole files.
    steps : int
        Optimizer steps.
    batch_size, seq_len : int
        B windows of T tokens; a step sees `accumulate` such batches.
    accumulate : int
        Batches whose gradients are averaged before one step.
    lr : float
        Highest learning rate of Adam.
    betas : tuple of float
    weight_decay : float
        Decoupled (AdamW); 0: Adam as in the report.
    schedule : {"cosine", "linear", "constant"}
        After `warmup` steps up to `lr`: down to `floor` times it, or not at all.
    clip : float
        Largest Euclidean length of all gradients together; 0: not clipped.
    eval_every, eval_batches : int
        Validate every so many steps, on so many batches of fixed windows.
    save_every : int
        Write a checkpoint every so many steps; besides at every validation and at the end. 0: only there.
    seed : int
        Of the initial weights, the batches, dropout, and stochastic rounding. The split does not depend on it.
    """

    model: Claude4Config
    recipe: Recipe = dataclasses.field(default_factory=lambda: get_recipe("fp32"))
    data: str = "stdlib"
    tokenizer: str = "word"
    held_out: float = 0.05
    steps: int = 1000
    batch_size: int = 8
    seq_len: int = 128
    accumulate: int = 1
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: int = 100
    floor: float = 0.1
    clip: float = 1.0
    eval_every: int = 100
    eval_batches: int = 8
    save_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipe", by_names(get_recipe(self.recipe)))
        for name in ("steps", "batch_size", "accumulate", "eval_every", "eval_batches"):
            _check(name, getattr(self, name), isinstance(getattr(self, name), int) and getattr(self, name) >= 1,
                   "a whole number, at least 1")  # fmt: skip
        _check("seq_len", self.seq_len, self.seq_len >= 2, "at least 2: each token is compared with the next")
        for name in ("warmup", "save_every", "seed"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("lr", "clip", "weight_decay"):
            value = getattr(self, name)
            _check(name, value, value >= 0 and math.isfinite(value), "a finite number, 0 or more")
        _check("floor", self.floor, 0 <= self.floor <= 1, "a share of the learning rate, 0 to 1")
        _check("held_out", self.held_out, 0 < self.held_out < 1, "between 0 and 1")
        _check("schedule", self.schedule, self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step sees."""
        return self.batch_size * self.seq_len * self.accumulate

    def factor(self) -> Callable[[int], float]:
        """The learning rate's factor by step."""
        if self.schedule == "constant":
            return lambda step: min((step + 1) / max(self.warmup, 1), 1.0)
        shape = warmup_cosine if self.schedule == "cosine" else warmup_linear
        return shape(self.warmup, self.steps, self.floor)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> TrainConfig:
        """The inverse of `as_dict`."""
        model = Claude4Config(**saved["model"])
        betas = tuple(saved["betas"])
        return cls(**{**saved, "model": model, "recipe": recipe_from_dict(saved["recipe"]), "betas": betas})


def _check(name: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise UserError(f"{name.replace('_', '-')} {value!r} does not make sense; give {wanted}")


def by_names(recipe: Recipe) -> Recipe:
    """The recipe with names in place of format records: a checkpoint holds names.

    Raises
    ------
    UserError
        A record is not the one of that name in `formats.FORMATS`.
    """

    def name_of(fmt: str | BlockFormat | None, slot: str) -> str | None:
        if not isinstance(fmt, BlockFormat):
            return fmt
        if FORMATS.get(fmt.name) is not fmt:
            raise UserError(
                f"recipe {recipe.name}: {slot} is a record of your own, {fmt.name}, and a checkpoint holds names; "
                "add it to vbw_np.formats.FORMATS under a name of its own, here and wherever the run is resumed"
            )
        return fmt.name

    changed: dict[str, Any] = {"weight": name_of(recipe.weight, "weight")}
    for slot in ("activation", "gradient", "weight_gradient"):
        how = getattr(recipe, slot)
        if how is not None:
            names = {part: name_of(getattr(how, part), slot) for part in ("format", "right")}
            changed[slot] = dataclasses.replace(how, **names)
    return dataclasses.replace(recipe, **changed)


def recipe_from_dict(saved: dict[str, Any]) -> Recipe:
    """A recipe from what `dataclasses.asdict` made of it, perhaps by way of JSON."""
    fields = dict(saved)
    for field in dataclasses.fields(Recipe):
        value = fields.get(field.name)
        if isinstance(value, dict):
            fields[field.name] = (Schedule if field.name == "schedule" else Operands)(**value)
        elif isinstance(value, list):
            fields[field.name] = tuple(value)
    return Recipe(**fields)
