"""The slots of a recipe: which formats meet in each product of a linear layer, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..definitions import support
from ..definitions.fp8 import why_not_promote
from ..formats import FORMATS, BlockFormat, ElementFormat, FormatError, get_format, quantize
from . import operands
from .pairs import quantizes_anew
from .recipe import Operands, Recipe

ACTIVATIONS = {"nvfp4": Operands("nvfp4-row-scaled"), "mxfp4": Operands("mxfp4")}
"""How activations are quantized where a recipe does not say: like the weight, with a second level a token row."""


def activation_of(recipe: Recipe) -> Operands:
    """How the recipe's activations are quantized where a product is made of quantized operands."""
    return recipe.activation or ACTIVATIONS[support.family(get_format(recipe.weight)).kernel]


@dataclasses.dataclass(frozen=True)
class Slot:
    """One product of quantized operands.

    Attributes
    ----------
    left, right : BlockFormat
    kind : str or None
        The tensor core's family that both belong to; None: the operands are decoded.
    """

    left: BlockFormat
    right: BlockFormat
    kind: str | None

    @classmethod
    def of(cls, left: BlockFormat, right: BlockFormat, sums: str = "float32") -> Slot:
        return cls(left, right, operands.family(left, right, sums))


def slots_of(recipe: Recipe, weight: BlockFormat) -> dict[str, Slot]:
    """The products that the recipe quantizes, by slot; `weight`: the format of those tiers that are used."""
    sums = recipe.accumulate
    slots = {"activation": Slot.of(get_format(activation_of(recipe).format), weight, sums)}
    if recipe.gradient is not None:
        how = recipe.gradient
        again = get_format(how.right or how.format) if quantizes_anew(how) else weight
        slots["gradient"] = Slot.of(get_format(how.format), again, sums)
    if recipe.weight_gradient is not None:
        both = recipe.weight_gradient
        slots["weight_gradient"] = Slot.of(get_format(both.format), get_format(both.right or both.format), sums)
    return slots


def check_slots(recipe: Recipe, quantizes: bool) -> None:
    """Raise if a slot of the recipe cannot be computed as it is named.

    Parameters
    ----------
    recipe : Recipe
    quantizes : bool
        Whether products are made of quantized operands.

    Raises
    ------
    ValueError
        A slot's format cannot be rounded as the slot asks; an operand is rotated whose partner is not; the sums are
        not known for two formats that meet.
    """
    _check_format(recipe.name, "weight", recipe.weight, None)
    _check_sums(recipe, quantizes)
    for slot in ("activation", "gradient", "weight_gradient"):
        how = getattr(recipe, slot)
        if how is None:
            continue
        for fmt, ties in ((how.format, "stochastic" if how.stochastic else None), (how.right or how.format, None)):
            _check_format(recipe.name, slot, fmt, ties)
        _check_partner(recipe.name, slot, how)


def _check_partner(recipe: str, slot: str, how: Operands) -> None:
    """Raise if the slot asks something of its right operand that this operand cannot give."""
    if slot == "activation" and how.split_mean:
        raise ValueError(
            f"recipe {recipe}: split_mean in activation: the mean over tokens would let a later token change what an "
            "earlier one sees; split it off in gradient and weight_gradient"
        )
    changed = [name for name in ("hadamard", "right") if getattr(how, name)]
    again = slot == "weight_gradient" or (slot == "gradient" and (how.hadamard or how.split_mean))
    if changed and not again:
        what = "a Hadamard rotation" if how.hadamard else "a format of the right operand"
        raise ValueError(
            f"recipe {recipe}: {what} in {slot}: the right operand there is the weight, which is quantized as `weight` "
            "says; weight_gradient, and gradient where it rotates or splits a mean off, quantize both of their operands"
        )


_KNOWN_SUMS = {
    "blackwell": "of NVFP4 with NVFP4, of MXFP4 with MXFP4, of FP8 with FP8 under float32 scales, one tier each",
    "hopper": "of FP8 with FP8 under float32 scales",
}


def _check_sums(recipe: Recipe, quantizes: bool) -> None:
    """A tensor core's sums are those of products with two operands that it multiplies; any other is refused."""
    if recipe.accumulate == "float32":
        if recipe.promote:
            what = f"promote={recipe.promote} is about a tensor core's sums"
            raise ValueError(f"recipe {recipe.name}: {what}; give accumulate='hopper' or 'blackwell' with it")
        return
    if not quantizes:
        raise ValueError(
            f"recipe {recipe.name}: accumulate={recipe.accumulate!r} is about products of two quantized operands, and "
            "none is made here: take a recipe that quantizes activations (nvfp4-train, mxfp4-train, fp8-train), or "
            "compute='fp4'"
        )
    for name, slot in slots_of(recipe, get_format(recipe.weight)).items():
        if slot.kind is None:
            raise ValueError(
                f"recipe {recipe.name}: accumulate={recipe.accumulate!r} knows the sums "
                f"{_KNOWN_SUMS[recipe.accumulate]}; {name} multiplies {slot.left.name} with {slot.right.name}"
            )
        why = why_not_promote(recipe.promote, slot.left.block is not None or slot.right.block is not None)
        if slot.kind != operands.FP8 and recipe.promote:
            why = f"promote={recipe.promote} is for FP8's sums; FP4's are not promoted"
        elif slot.kind != operands.FP8:
            why = ""
        if why:
            raise ValueError(f"recipe {recipe.name}, {name}: {why}")


def _check_format(recipe: str, slot: str, fmt: str | BlockFormat, ties: str | None) -> None:
    """Let the definition round a small matrix, so that what it refuses is refused before anything is placed."""
    record = get_format(fmt)
    options = {"ties": ties, "seed": 0} if ties else {}
    try:
        quantize(np.ones((16, 256), np.float32), record, **options)
    except FormatError as error:
        plain = [other for other in FORMATS.values() if other.fine is None and other.rule.affine is None]
        can = [other.name for other in plain if isinstance(other.element, ElementFormat)]
        raise ValueError(
            f"recipe {recipe}: {slot} in {record.name}{f', rounded {ties!r}' if ties else ''}, cannot be computed: "
            f"{error}. Formats that can: {', '.join(can)}"
        ) from error
