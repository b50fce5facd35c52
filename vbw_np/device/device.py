"""The device: the cards of a model, with a recipe and a mode."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import Parameter, autograd, nn
from ..files import check_output
from ..layers import GRU, MultiheadAttention
from .cache import DecodeCache
from .card import Card
from .changes import get_recipe
from .link import Link
from .recipe import Recipe, Select, selector
from .report import DeviceReport
from .state import device_state, load_device_state
from .statistics import Statistics
from .trace import Recorder, Steps
from .unit import ComputeUnit, Policy
from .ways import check_compute, ways_of


class Device:
    """Cards that hold a model's weights and compute with them.

    Parameters
    ----------
    recipe : str or Recipe
    mode : {"training", "inference", "auto", "precision"}
        `training`: straight-through gradients, scales kept for `refresh_interval` uses. `inference`: packed once,
        and afresh only when the weight changes; masters may be dropped. `auto`: one of these two, as the model's
        `training` says. `precision`: both tiers always, scales afresh at each change.
    refresh_interval : int
        Uses of a card before its scales or codebook are computed again.
    boh : bool
        Whether cards offer their fine tier; without, the coarse tier alone is used.
    error_budget : float, optional
        Relative RMS error that a card may have before the fine tier is asked for; the recipe's by default.
    cache_bytes : int
        Capacity of the decode cache.
    verify : bool
        Debug mode: hash every weight at every use and report a change that moved no version.
    compute : {"auto", "dequant", "fp4", "packed"}
        How products are computed: decode the weight and multiply in float32 (`dequant`); quantize the activations
        too and use the virtual tensor core (`fp4`); or, without gradients, multiply the packed bytes, those of q8_0
        too, with activations in 8-bit integers, and otherwise as `dequant` (`packed`). `auto` is `fp4` for
        recipes that quantize activations, else `dequant`.
    accumulate : {"float32", "blackwell", "hopper"}, optional
        How products of two quantized operands are added up; the recipe's by default. `blackwell` and `hopper` give the
        bits of these tensor cores (`vbw_np.formats.accumulate`).
    promote : int, optional
        Products of FP8 operands whose partial sum is added in float32, outside the core; the recipe's by default. 0:
        the core sums everything.
    seed : int
        For stochastic rounding.
    """

    def __init__(
        self,
        recipe: str | Recipe = "nvfp4",
        *,
        mode: str = "training",
        refresh_interval: int = 100,
        boh: bool = True,
        error_budget: float | None = None,
        cache_bytes: int = 1 << 30,
        verify: bool = False,
        compute: str = "auto",
        accumulate: str | None = None,
        promote: int | None = None,
        seed: int = 0,
    ) -> None:
        self.recipe = get_recipe(recipe)
        sums = {"accumulate": accumulate, "promote": promote}
        self.recipe = dataclasses.replace(self.recipe, **{k: v for k, v in sums.items() if v is not None})
        budget = self.recipe.error_budget if error_budget is None else error_budget
        policy = Policy(mode, refresh_interval, boh, budget, verify, compute)
        if error_budget is not None and self.recipe.fine != "budget":
            raise ValueError(
                f"recipe {self.recipe.name} chooses no tiers by an error budget, so error_budget={error_budget} would "
                "decide nothing; take a recipe that does, such as nvfp4-boh"
            )
        check_compute(compute, self.recipe)
        self.unit = ComputeUnit(policy, cache_bytes=cache_bytes, seed=seed)
        self._cards: list[Card] = []

    def __repr__(self) -> str:
        return f"Device({self.recipe.name}, mode={self.mode}, {len(self.cards)} cards)"

    @property
    def cards(self) -> dict[str, Card]:
        """By name, in the model's order: those whose parameter still lives on them."""
        return {card.name: card for card in self._cards if card.parameter.host is card}

    # -- the policy, and the parts of the compute unit that users look at

    @property
    def policy(self) -> Policy:
        """What all cards go by; setting `mode` or `error_budget` puts another one in its place."""
        return self.unit.policy

    @property
    def mode(self) -> str:
        """One of `MODES`; may be changed at any time, unless that takes a master weight that was dropped."""
        return self.policy.mode

    @mode.setter
    def mode(self, mode: str) -> None:
        policy, dropped = dataclasses.replace(self.policy, mode=mode), self.dropped
        if dropped and mode not in ("inference", "auto"):
            raise RuntimeError(
                f"mode {mode!r} needs the master weights, and those of {len(dropped)} cards were dropped "
                f"({dropped[0]}, ...); stay in mode 'inference', call restore_masters() to go on from the decoded "
                "weights, or load the weights into a new model"
            )
        self.unit.policy = policy

    def mode_now(self) -> str:
        """The mode in force: `auto` follows the model."""
        return self.unit.mode

    @property
    def error_budget(self) -> float:
        """Relative RMS error that a card may have before the fine tier is asked for; may be changed at any time."""
        return self.policy.error_budget

    @error_budget.setter
    def error_budget(self, budget: float) -> None:
        self.unit.policy = dataclasses.replace(self.policy, error_budget=budget)

    @property
    def link(self) -> Link:
        """What the weights travel over, with its counts."""
        return self.unit.link

    @property
    def decode_cache(self) -> DecodeCache:
        """Weights laid out for computing, bounded in bytes."""
        return self.unit.decode_cache

    @property
    def generator(self) -> autograd.Generator:
        """For stochastic rounding."""
        return self.unit.generator

    # -- placing

    def place(
        self, model: nn.Module, select: Select = "linear", log: Callable[[str], None] | None = None
    ) -> list[Card]:
        """Put weights of `model` on cards, one each. Names, values and optimizer state stay as they are.

        Parameters
        ----------
        model : Module
        select : str, sequence of str, or callable
            See `recipe.selector`. A card of a linear layer has the layer's name, others the parameter's.
        log : callable, optional
            Told of each card, in words.

        Returns
        -------
        list of Card

        Raises
        ------
        ValueError
            Nothing matches, a weight lives on a card already, the device holds cards of another model, or it computes
            with FP4 operands and the model is in float64; then nothing is placed.
        """
        if self.cards and self.unit.model is not model:
            raise ValueError(f"this device holds the {len(self.cards)} cards of another model; make a new Device")
        candidates = matrices(model, packed_too=select != "linear" and select != "large")
        wanted = selector(select)
        chosen = [(name, parameter) for name, parameter in candidates if wanted(name, parameter)]
        if not chosen:
            names = ", ".join(name for name, _ in candidates[:8])
            raise ValueError(
                f"nothing in this {type(model).__name__} matches select={select!r}; "
                + (f"there are {len(candidates)} matrices: {names}, ..." if candidates else "it has no matrices")
            )
        taken = [name for name, parameter in chosen if parameter.host is not None]
        if taken:
            more = f" and {len(taken) - 8} more" if len(taken) > 8 else ""
            raise ValueError(
                f"placed already: {', '.join(taken[:8])}{more}; a weight lives on one card. Call release(model) first, "
                "or select other layers"
            )
        new = [Card(name, parameter, self.recipe, self.unit) for name, parameter in chosen]
        if any(way.float32_only for way in ways_of(self.recipe, self.policy.compute)):
            double = [card.name for card in new if card.format is not None and card.parameter.dtype != np.float32]
            if double:
                raise ValueError(
                    f"{double[0]} is {chosen[0][1].dtype}, and FP4 products are made of float32: make the model with "
                    "dtype=np.float32, or take compute='dequant' with a recipe that leaves activations alone"
                )
        for card in new:
            card.parameter.host = card
            if log is not None:
                out, width = card.parameter.shape
                log(f"placed {card.name} ({width} -> {out})")
        self._cards = [*self.cards.values(), *new]
        self.unit.model = model
        return new

    def release(self) -> None:
        """Take all weights off their cards; the model computes in float32 again, with the master weights.

        Raises
        ------
        RuntimeError
            A master weight was dropped, so there is nothing to go back to.
        """
        leave(list(self.cards.values()))

    def check(self) -> None:
        """Raise if the model no longer has the parameters that the cards hold.

        Reports, traces, saved states and dropping masters begin with this check.

        Raises
        ------
        RuntimeError
            Names the cards whose parameter was replaced: they would never be asked to compute.
        """
        if self.unit.model is None:
            return
        present = {id(parameter) for parameter in self.unit.model.parameters()}
        gone = [card.name for card in self.cards.values() if id(card.parameter) not in present]
        if gone:
            raise RuntimeError(
                f"the parameters of {', '.join(gone)} were replaced after placing, so their cards compute nothing; "
                "use parameter.assign(values) to change values, or release and place the model again"
            )

    def drop_masters(self) -> list[str]:
        """Give up the float32 weights of all cards: only the packed ones stay. For inference.

        A layer that reads its weight past its card (the reflection's `out_proj`, unless the model routes it) goes
        through the card from then on, since nobody else has the weight. A weight that a layer of another kind shares
        stays: an embedding that is the head's weight as well is read row by row, which no card does.

        Returns
        -------
        list of str
            Names of the cards whose float32 weight stays because it is shared.

        Raises
        ------
        RuntimeError
            The mode is not `inference` (or `auto` with the model in evaluation).
        """
        self.check()
        if self.mode_now() != "inference":
            raise RuntimeError(f"master weights can be dropped in mode 'inference' only, not {self.mode_now()!r}")
        read_elsewhere = past_cards(self.unit.model) if self.unit.model is not None else set()
        kept = [card.name for card in self.cards.values() if id(card.parameter) in read_elsewhere]
        for card in self.cards.values():
            if card.name not in kept:
                card.drop_master()
        return kept

    def restore_masters(self) -> None:
        """Fill dropped master weights with the decoded ones."""
        for card in self.cards.values():
            card.restore_master()

    @property
    def dropped(self) -> list[str]:
        """Names of the cards whose master weight was dropped."""
        return [card.name for card in self.cards.values() if card.dropped]

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """What the device must remember, beside the model's weights, for a run to go on bit for bit.

        Returns
        -------
        dict
            Nested dicts of numbers, strings, None and arrays (copies): per card its scales or codebook, how often
            they were used, the tiers agreed on and its counts; the link's counts; the random state.

        Raises
        ------
        RuntimeError
            A master weight was dropped, or a parameter replaced.
        """
        self.check()
        return device_state(self.recipe.name, self.unit, self.cards)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()` of a device with the same recipe and cards. Load the model's weights before.

        Raises
        ------
        ValueError
            The state is of another recipe, of other cards or of other shapes; nothing has changed then.
        """
        load_device_state(self.recipe.name, self.unit, self.cards, state)

    # -- watching

    @property
    def statistics(self) -> Statistics:
        """The counts of all cards together."""
        return sum((card.statistics for card in self.cards.values()), Statistics())

    @property
    def idle(self) -> list[str]:
        """Names of the cards that never computed."""
        return [card.name for card in self.cards.values() if card.statistics.computes == 0]

    @property
    def nbytes(self) -> int:
        """Bytes that the cards hold."""
        return sum(card.nbytes for card in self.cards.values())

    def span(self, kind: str, card: str, **values: Any) -> contextlib.AbstractContextManager[dict[str, Any]]:
        """Record what happens inside the context, if anybody records."""
        return self.unit.span(kind, card, **values)

    @property
    def recorder(self) -> Recorder | None:
        """What records now, if anything."""
        return self.unit.recorder

    @contextlib.contextmanager
    def trace(self, path: str | Path | None = None, samples: bool = False) -> Iterator[Recorder]:
        """Record everything inside the context; at its end, write a Chrome trace to `path` if one is given.

        Parameters
        ----------
        path : path, optional
            A file; that it can be made is checked before anything runs. Open it at ui.perfetto.dev.
        samples : bool
            Whether to keep the first entries of the arrays at hand, as `step` does.

        Raises
        ------
        RuntimeError
            The device is being traced already.
        """
        if self.recorder is not None:
            raise RuntimeError("this device is being traced already; one recording at a time")
        self.check()
        if path is not None:
            check_output(path)
        self.unit.recorder = recorder = Recorder(samples)
        try:
            yield recorder
        finally:
            self.unit.recorder = None
        if path is not None:
            recorder.save(path)

    def step(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Steps:
        """Run a function, and walk through what the device did for it, one event at a time.

        Returns
        -------
        Steps
            The events in order, each with a sentence that explains it, the values at hand and the first entries of
            the arrays at hand; `.next()` gives one at a time, `.result` is what the function returned.

        Examples
        --------
        >>> for event in device.step(model, ids):   # doctest: +SKIP
        ...     print(event)
        """
        with self.trace(samples=True) as recorder:
            result = function(*args, **kwargs)
        operand = self.recipe.activation
        return Steps(recorder.in_order(), result, self.recipe.weight if operand is None else operand.format)

    def report(self) -> DeviceReport:
        """Everything about the cards: `str()` for text, HTML in a notebook, `.as_dict()` for JSON, `.save(path)`."""
        self.check()
        return DeviceReport(self.recipe.name, self.unit, self.cards)


def matrices(model: nn.Module, packed_too: bool) -> list[tuple[str, Parameter]]:
    """The weights of all linear layers by layer name, in order; with `packed_too`, also packed ones by their own name.

    Packed weights are those that `functional.linear` multiplies with but no Linear owns: a GRU's, an attention's
    in-projection. A weight that several layers share is listed once, under its first name.
    """
    found: dict[int, tuple[str, Parameter]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found.setdefault(id(module.weight), (path or "linear", module.weight))
        elif packed_too and isinstance(module, GRU | MultiheadAttention):
            for name, value in module.__dict__.items():
                if isinstance(value, Parameter) and value.ndim == 2:
                    found.setdefault(id(value), (f"{path}.{name}" if path else name, value))
    return list(found.values())


def past_cards(model: nn.Module) -> set[int]:
    """The ids of parameters that a module holds which may read them without asking for a product: an embedding."""
    return {
        id(value)
        for module in model.modules()
        if not isinstance(module, nn.Linear | GRU | MultiheadAttention)
        for value in module.__dict__.values()
        if isinstance(value, Parameter)
    }


def place(
    model: nn.Module,
    recipe: str | Recipe = "nvfp4",
    *,
    select: Select = "linear",
    log: Callable[[str], None] | None = None,
    **options: Any,
) -> Device:
    """Put a model's weights on the cards of a new device; see `Device` for the options.

    Examples
    --------
    >>> device = place(model, "nvfp4", mode="inference")   # doctest: +SKIP
    """
    device = Device(recipe, **options)
    device.place(model, select, log)
    return device


def release(model: nn.Module) -> None:
    """Take all weights of `model` off whatever cards they are on."""
    leave([parameter.host for parameter in model.parameters() if parameter.host is not None])


def leave(cards: Sequence[Card]) -> None:
    """Take weights off these cards, all or none."""
    dropped = [card.name for card in cards if card.dropped]
    if dropped:
        raise RuntimeError(
            f"the master weights of {len(dropped)} cards were dropped ({dropped[0]}, ...); call restore_masters() "
            "to fill them with the decoded weights, or load the weights into a new model"
        )
    for card in cards:
        card.leave()
