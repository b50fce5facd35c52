"""One output of a product as its tensor core adds it, for whoever walks through a step of the device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..definitions import fp8
from ..formats import PackedTensor, quantize
from ..formats.accumulate.explain import explain_sum
from ..formats.explain import Explanation
from . import operands
from .products import WeightPanels
from .recipe import Recipe
from .slots import activation_of

FP4_UNIT, FP4_STEP = "blackwell-mxf4nvf4", 64


def first_sum(recipe: Recipe, panels: WeightPanels, x: NDArray[np.float32]) -> Explanation | None:
    """How the sum of output [0, 0] of x W^T comes about inside the core; x (M, in), rounded as the recipe says.

    Where sums are promoted it is the first that leaves the core. Scales that are applied outside it are not in it. None
    where the activation is rounded by chance: its draw is not drawn twice.
    """
    if activation_of(recipe).stochastic:
        return None
    slot = panels.slots["activation"]
    left = quantize(np.ascontiguousarray(x[:1]), slot.left, measure=False)
    if slot.kind == operands.FP8:
        part = slice(0, recipe.promote or None)
        codes = [packed.unpacked_codes()[0, part] for packed in (left, panels.packed)]
        formats = {"a_format": slot.left.element.name, "b_format": slot.right.element.name}
        return explain_sum(fp8.UNITS[recipe.accumulate], *codes, **formats)
    block = slot.left.block
    sides = [_whole_steps(packed, block) for packed in (left, panels.packed)]
    scales = {"scale_format": "ue4m3" if block == 16 else "e8m0", "scale_block": block}
    return explain_sum(
        FP4_UNIT, sides[0][0], sides[1][0], scale_a=sides[0][1], scale_b=sides[1][1], **scales
    )


def _whole_steps(packed: PackedTensor, block: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Codes and scales of the first row, filled up with zeros to whole steps."""
    length = packed.shape[1]
    whole = -(-length // FP4_STEP) * FP4_STEP
    codes, scales = np.zeros(whole, np.uint8), np.zeros(whole // block, np.uint8)
    codes[:length] = packed.unpacked_codes()[0]
    scales[: packed.scales.shape[1]] = packed.scales[0]
    return codes, scales
