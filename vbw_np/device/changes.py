"""Recipes by name, and with something changed: ``nvfp4-train:no-hadamard`` says what that trick is worth.

    get_recipe("nvfp4-train")
    get_recipe("nvfp4-train:no-hadamard")
    get_recipe("mxfp4-train:keep-head+no-sr")     # several changes, left to right
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable

from ..errors import UserError
from .recipe import RECIPES, Operands, Recipe, Schedule

Operation = Callable[[Recipe], Recipe]


def _operands(recipe: Recipe, **changes: dict[str, object]) -> Recipe:
    """The recipe with fields of its operands changed, such as ``gradient={"stochastic": False}``."""
    changed = {}
    for name, fields in changes.items():
        operands = getattr(recipe, name)
        if operands is None:
            raise UserError(
                f"recipe {recipe.name} keeps the operand {name!r} in float32, so there is nothing to change in it; "
                "this change is for recipes that run all three products in FP4 (nvfp4-train, mxfp4-train)"
            )
        changed[name] = dataclasses.replace(operands, **fields)
    return dataclasses.replace(recipe, **changed)


def _format_of(recipe: Recipe, slot: str, formats: dict[str, str], change: str) -> Recipe:
    """The recipe with the format of one of its operands replaced by another."""
    operands = getattr(recipe, slot)
    if operands is None or operands.format not in formats:
        found = "float32" if operands is None else operands.format
        raise UserError(f"recipe {recipe.name}: {change!r} is for {slot} in {', '.join(formats)}, not {found}")
    return _operands(recipe, **{slot: {"format": formats[operands.format]}})


def _four_over_six_activations(error: str, cap: int) -> tuple[str, Operation]:
    change = "four-over-six-activations" + ("-mae" if error == "absolute" else "") + ("-448" if cap == 448 else "")
    fmt = "nvfp4-row-4over6" + ("-mae" if error == "absolute" else "") + ("-448" if cap == 448 else "")
    return (
        f"each activation block's largest value on 6 or on 4, by {error} error, scales up to {cap}",
        lambda recipe: _format_of(recipe, "activation", {"nvfp4-row-scaled": fmt}, change),
    )


def _rotation(points: int) -> tuple[str, Operation]:
    return (
        f"the weight gradient's operands rotated {points} at a time under signs drawn anew for every product",
        lambda recipe: _operands(recipe, weight_gradient={"hadamard": points, "signs": "random"}),
    )


def _ms_eden(recipe: Recipe) -> Recipe:
    _operands(recipe, gradient={}, weight_gradient={})  # refuses a recipe that keeps them in float32
    if recipe.accumulate == "hopper" or not str(recipe.gradient.format).startswith("nvfp4"):
        raise UserError(f"recipe {recipe.name}: 'ms-eden' is for gradients in NVFP4, not {recipe.gradient.format}")
    both = Operands("nvfp4-eden", hadamard=128, signs="random", eden=True)
    return dataclasses.replace(recipe, gradient=both, weight_gradient=both)


def _no_promotion(recipe: Recipe) -> Recipe:
    if not recipe.promote:
        raise UserError(f"recipe {recipe.name} promotes no partial sums: 'no-promotion' is for fp8-train")
    return dataclasses.replace(recipe, promote=0)


def _all_formats(recipe: Recipe, names: dict[str, str], change: str) -> Recipe:
    """The recipe with the formats of its weight and of all its operands replaced by others."""
    recipe = _weight_format(recipe, names, change)
    for slot in ("activation", "gradient", "weight_gradient"):
        recipe = _format_of(recipe, slot, names, change)
    right = recipe.weight_gradient.right
    return recipe if right is None else _operands(recipe, weight_gradient={"right": names[right]})


UE5M3 = {
    "nvfp4": "fp4-ue5m3", "nvfp4-16x16": "fp4-ue5m3-16x16", "nvfp4-row-scaled": "fp4-ue5m3",
    "nvfp4-row-headroom": "fp4-ue5m3-headroom",
}  # fmt: skip
IF4 = {"nvfp4": "if4", "nvfp4-16x16": "if4-16x16", "nvfp4-row-scaled": "if4-row", "nvfp4-row-headroom": "if4-row"}
"""NVFP4's formats, and what stands in their place under other scales or with two grids."""


def _over_time(**fields: object) -> Operation:
    """Fields of the recipe's schedule set; those that are set already stay."""

    def change(recipe: Recipe) -> Recipe:
        if recipe.weight is None:
            raise UserError(f"recipe {recipe.name} quantizes nothing, so nothing is counted, reset or switched over")
        return dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule or Schedule(), **fields))

    return change


def _weight_format(recipe: Recipe, formats: dict[str, str], change: str) -> Recipe:
    if recipe.weight not in formats:
        raise UserError(f"recipe {recipe.name}: {change!r} is for weights in {', '.join(formats)}, not {recipe.weight}")
    return dataclasses.replace(recipe, weight=formats[recipe.weight])


CHANGES: dict[str, tuple[str, Operation]] = {
    "no-hadamard": (
        "no random Hadamard rotation of the weight gradient's operands",
        lambda recipe: _operands(recipe, weight_gradient={"hadamard": 0, "signs": "fixed"}),
    ),
    "no-sr": (
        "round to nearest everywhere: gradients are no longer unbiased",
        lambda recipe: _operands(recipe, gradient={"stochastic": False}, weight_gradient={"stochastic": False}),
    ),
    "sr-everywhere": (
        "stochastic rounding of the activations too",
        lambda recipe: _operands(
            recipe,
            activation={"stochastic": True},
            gradient={"stochastic": True},
            weight_gradient={"stochastic": True},
        ),
    ),
    "1d-scales": (
        "weight scales per 1 x 16 along the summed axis: forward and backward see different weights",
        lambda recipe: _weight_format(recipe, {"nvfp4-16x16": "nvfp4"}, "1d-scales"),
    ),
    "four-over-six": (
        "each weight block's largest value on 6 or on 4, whichever errs less (arXiv 2512.02010)",
        lambda recipe: _weight_format(
            recipe, {"nvfp4-16x16": "nvfp4-16x16-4over6", "nvfp4": "nvfp4-4over6"}, "four-over-six"
        ),
    ),
    "blackwell-sums": (
        "products added up as Blackwell's tensor cores add, to the last bit",
        lambda recipe: dataclasses.replace(recipe, accumulate="blackwell"),
    ),
    "no-promotion": ("FP8's sums stay inside the tensor core, none is promoted to float32", _no_promotion),
    "hadamard-16": _rotation(16),
    "hadamard-32": _rotation(32),
    "hadamard-64": _rotation(64),
    "hadamard-128": _rotation(128),
    "ms-eden": ("both gradients to nearest, lengths mended by way of the scales (arXiv 2601.22813)", _ms_eden),
    "split-mean": (
        "the mean over the tokens split off the weight gradient's operands (arXiv 2603.10444)",
        lambda recipe: _operands(recipe, weight_gradient={"split_mean": True}),
    ),
    "four-over-six-activations": _four_over_six_activations("squared", 256),
    "four-over-six-activations-mae": _four_over_six_activations("absolute", 256),
    "four-over-six-activations-448": _four_over_six_activations("squared", 448),
    "four-over-six-activations-mae-448": _four_over_six_activations("absolute", 448),
    "ue5m3": (
        "block scales in UE5M3, which need no scale a tensor or row (arXiv 2509.17791)",
        lambda recipe: _all_formats(recipe, UE5M3, "ue5m3"),
    ),
    "if4": (
        "IF4 everywhere: E2M1 or INT4 a block, whichever errs less (arXiv 2603.28765)",
        lambda recipe: _all_formats(recipe, IF4, "if4"),
    ),
    "count-oscillation": (
        "count the weights whose code moves 16 times as far as they do, every 25 steps: the same bits",
        _over_time(oscillation="count"),
    ),
    "reset-oscillation": (
        "such weights become the decoded ones (arXiv 2510.27527)",
        _over_time(oscillation="reset"),
    ),
    "last-steps": (
        "all products in float32 in the last tenth of the steps (arXiv 2509.25149)",
        _over_time(last=0.1),
    ),
    "stop-sign": (
        "all products in float32 once the gradient is below sqrt(3) times its error (arXiv 2505.19115)",
        _over_time(stop_below=math.sqrt(3)),
    ),
    "keep-head": (
        "the output head in full precision",
        lambda recipe: dataclasses.replace(recipe, keep=(*recipe.keep, "output_head")),
    ),
    "keep-all": (
        "every layer in full precision: the same bits as fp32",
        lambda recipe: dataclasses.replace(recipe, keep=(*recipe.keep, "*")),
    ),
    "fine-always": (
        "all bit planes of the format's fine tier at every use, whatever the error budget says",
        lambda recipe: dataclasses.replace(recipe, fine="always"),
    ),
    "ste=off": (
        "the original's gradient: only the one weight of each row that sets its scale is trained",
        lambda recipe: dataclasses.replace(recipe, gradient_rule="row-max"),
    ),
}

NOT_OF_NVFP4_TRAIN = ("fine-always", "no-promotion", "count-oscillation")
"""What that recipe has nothing for, and what changes no bit."""

ABLATIONS = tuple(f"nvfp4-train:{change}" for change in CHANGES if change not in NOT_OF_NVFP4_TRAIN)
"""The all-FP4 recipe with one change at a time."""


def get_recipe(recipe: str | Recipe) -> Recipe:
    """A recipe by name, with changes after a colon, joined by ``+``; a recipe is returned as it is.

    Raises
    ------
    UserError
        No such recipe or change, or one that does not apply; lists those that exist.
    """
    if isinstance(recipe, Recipe):
        return recipe
    base, _, changes = recipe.partition(":")
    found = _known("recipe", base, RECIPES, "The recipes are")
    words = [found.summary]
    for change in filter(None, changes.split("+")):
        summary, operation = _known("change of a recipe", change, CHANGES, "There are")
        try:
            found = operation(found)
        except ValueError as error:
            if repr(change) in str(error):
                raise
            whose = "" if "recipe " in str(error) else f" of recipe {base}"  # the records themselves know no names
            raise UserError(f"change {change!r}{whose}: {error}") from error
        words.append(summary)
    return dataclasses.replace(found, name=recipe, summary="; ".join(words)) if changes else found


def _known(kind: str, name: str, known: dict, lead: str) -> object:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ";"
        raise UserError(f"there is no {kind} {name!r}{hint} {lead}: {', '.join(known)}")
    return known[name]


def get_recipes(names: str) -> list[Recipe]:
    """Recipes from a comma-separated list; ``ablations`` stands for all of `ABLATIONS`."""
    found: list[Recipe] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        group = ABLATIONS if name == "ablations" else (name,)
        found += [get_recipe(one) for one in group]
    unique = {recipe.name: recipe for recipe in found}
    if not unique:
        raise UserError("no recipes given; name some, joined by commas, such as fp32,nvfp4-train")
    return list(unique.values())
