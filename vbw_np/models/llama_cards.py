"""A Llama on cards for generation: what a recipe says for its layers, and a head of its own format."""

from __future__ import annotations

import dataclasses

from ..definitions import support
from ..device import RECIPES, Device, Recipe, get_recipe, place
from ..engine import nn
from ..formats import FORMATS, BlockFormat, get_format
from .llama import Llama

HEAD = "lm_head"
HEAD_FORMAT = "q8_0"
"""Eight bits: four in the head alone cost SmolLM2-135M as much as four in half of all its other layers."""


def recipe_of(name: str | Recipe | BlockFormat) -> Recipe:
    """A recipe by name, or one that keeps weights in the block format of that name, and leaves activations alone.

    Raises
    ------
    ValueError
        Neither is known; lists the recipes.
    """
    if isinstance(name, BlockFormat):
        return Recipe(name.name, name, f"weights in {name.name}")
    if isinstance(name, str) and name in FORMATS and name not in RECIPES:
        return Recipe(name, name, f"weights in {name}")
    return get_recipe(name)


def place_llama(
    model: Llama,
    recipe: str | Recipe | BlockFormat = "nvfp4",
    *,
    head: str | BlockFormat | None = HEAD_FORMAT,
    compute: str = "auto",
) -> tuple[Device, ...]:
    """Put a Llama on cards in mode `inference`; `drop_masters` of each device gives up the float32 weights.

    Parameters
    ----------
    model : Llama
    recipe : str, Recipe or BlockFormat
        Of all linear layers but the head; `fp32` leaves the whole model as it is.
    head : str or BlockFormat, optional
        Format of the head's weight; None leaves it in float32. A head that is the embedding as well stays there too.
    compute : str
        See `Device`; `auto` multiplies straight from packed bytes where the recipe allows it.

    Returns
    -------
    tuple of Device
        One for the layers; one for the head if it has a format.
    """
    recipe = recipe_of(recipe)
    if recipe.weight is None:
        return ()
    placed = [place(model, recipe, select=lambda name, _: name != HEAD, **_options(recipe, compute))]
    if head is not None:
        eight = dataclasses.replace(recipe_of(get_format(head)), summary="the head")
        placed.append(place(model, eight, select=HEAD, **_options(eight, "auto")))
    return tuple(placed)


def _options(recipe: Recipe, compute: str) -> dict[str, str]:
    known = support.int8_products(get_format(recipe.weight)).kernel
    packed = recipe.activation is None and recipe.fine == "never" and known
    return {"mode": "inference", "compute": "packed" if compute == "auto" and packed else compute}


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a token costs in bytes.

    Attributes
    ----------
    weights : int
        Numbers in the weights of linear layers, which every token multiplies with.
    nbytes : int
        Bytes that they take, which every token reads.
    """

    weights: int
    nbytes: int

    @property
    def bits(self) -> float:
        """Bits a weight."""
        return 8 * self.nbytes / self.weights


def traffic(model: nn.Module) -> Traffic:
    """What the linear layers of a model take, on cards or not."""
    parameters = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Linear)}.values()
    held = [p.data.nbytes if p.host is None else p.host.nbytes for p in parameters]
    return Traffic(sum(p.size for p in parameters), sum(held))
