"""The three products of a linear layer on quantized operands, with one version of a weight.

On the virtual tensor core where it knows both formats, else of decoded operands (`operands`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine import F, autograd
from ..formats import PackedTensor
from ..layers import fused_loss
from . import codec, operands, pairs
from .recipe import Operands, Recipe
from .slots import Slot, activation_of, slots_of
from .unit import ComputeUnit

empty, matmul_arrays = autograd.memory.empty, autograd.ops.matmul_arrays


@dataclasses.dataclass(frozen=True, eq=False)
class WeightPanels:
    """One version of a weight as the products of quantized operands want it.

    Attributes
    ----------
    forward : right operand, (out, in)
        For y = x W^T.
    backward : right operand, (in, out), or None
        For dx = g W; None where the gradient is not quantized, or none will be asked for.
    packed : PackedTensor
        What both were made of.
    slots : dict of str to Slot
        The products that are quantized.
    """

    forward: operands.Right
    backward: operands.Right | None
    packed: PackedTensor
    slots: dict[str, Slot]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in (self.forward, self.backward) if part is not None)


def weight_panels(
    packed: PackedTensor, recipe: Recipe, master: NDArray | None, again: Callable[[NDArray], PackedTensor]
) -> WeightPanels:
    """Lay a packed weight out for products with quantized operands.

    A weight with square scale tiles serves both directions with the same codes; any other is quantized a second time
    along its other axis, from the master weight.

    Parameters
    ----------
    packed : PackedTensor, (out, in)
    recipe : Recipe
    master : float32 (out, in), or None
        None: no gradient will be asked for.
    again : callable
        Packs another matrix with the tiers that `packed` has.
    """
    slots = slots_of(recipe, packed.format)
    backward = None
    if recipe.gradient is not None and master is not None and not pairs.quantizes_anew(recipe.gradient):
        kind = slots["gradient"].kind
        if packed.format.block_rows == packed.format.block:
            backward = operands.transposed(packed, kind)
        elif packed.planes or packed.format.fine is not None:
            backward = operands.laid_out(again(np.ascontiguousarray(master.T)), kind)
        else:
            backward = operands.right_operand(master, packed.format, kind, transpose=True)
    return WeightPanels(operands.laid_out(packed, slots["activation"].kind), backward, packed, slots)


class Fp4Products:
    """The three products with one version of a weight.

    A gradient that the recipe does not quantize is computed in float32, with the decoded weight. What is quantized
    with one scale for all rows is quantized anew in each chunk of a loss that is computed in chunks: each is a product
    of its own.

    Parameters
    ----------
    recipe : Recipe
    unit : ComputeUnit
    panels : WeightPanels
    ways : dict of str to str
        Told how each product was computed, by its slot.
    share : bool
        Whether rounded activations are kept for the next layer that reads them (`OperandCache`).
    """

    def __init__(
        self, recipe: Recipe, unit: ComputeUnit, panels: WeightPanels, ways: dict[str, str], share: bool = False
    ) -> None:
        self.recipe = recipe
        self.unit = unit
        self.panels = panels
        self.ways = ways
        self.share = share
        self.sums = {"sums": recipe.accumulate, "promote": recipe.promote}

    def _slot(self, name: str) -> Slot:
        """The slot of a product that is computed now."""
        slot = self.panels.slots[name]
        self.ways[name] = operands.TENSOR_CORE if slot.kind else operands.DECODED
        return slot

    def _activation(self, x: NDArray, kind: Hashable, make: Callable[[NDArray], Any]) -> Any:
        """`make` of x's rows, or what the last layer that read x has left."""
        if not self.share:
            return make(rows_of(x))
        return self.unit.operands.get(x, kind, lambda: make(rows_of(x)))

    def _key(self, how: Operands) -> tuple[int, int] | None:
        return self.unit.next_key() if how.stochastic else None

    def forward(self, x: NDArray) -> NDArray:
        """x W^T: x (..., in), to (N, out)"""
        how, slot = activation_of(self.recipe), self._slot("activation")
        rows, width = x.size // x.shape[-1], self.panels.forward.shape[0]
        if not rows:
            return np.zeros((0, width), np.float32)
        if how.stochastic:
            left = operands.left_operand(rows_of(x), slot.left, slot.kind, self._key(how))
        else:
            make = lambda x: operands.left_operand(x, slot.left, slot.kind)  # noqa: E731
            left = self._activation(x, ("left", slot.left, slot.kind), make)
        return operands.multiply(left, self.panels.forward, empty((rows, width)), **self.sums)

    def to_x(self, g: NDArray, out: NDArray | None = None) -> NDArray:
        """g W: g (N, out), to (N, in)"""
        how = self.recipe.gradient
        out = empty((len(g), self.panels.forward.shape[1])) if out is None else out
        if not len(g):
            return out
        if how is None:
            return matmul_arrays(g, codec.decode(self.panels.packed), out)
        slot = self._slot("gradient")
        if self.panels.backward is None:  # the weight is quantized anew, for this product alone
            weight = np.ascontiguousarray(codec.decode(self.panels.packed).T)
            return self._pair(g, weight, how, slot, out)
        left = operands.left_operand(g, slot.left, slot.kind, self._key(how))
        return operands.multiply(left, self.panels.backward, out, **self.sums)

    def to_weight(self, g: NDArray, x: NDArray, out: NDArray | None = None) -> NDArray:
        """g^T x: g (N, out), x (..., in), to (out, in); added to `out` if that is given"""
        how = self.recipe.weight_gradient
        add = out is not None
        out = empty((g.shape[1], x.shape[-1])) if out is None else out
        if not len(g):
            return out if add else np.zeros_like(out)
        if how is None:
            x = rows_of(x)
            return np.add(out, matmul_arrays(g.T, x), out=out) if add else matmul_arrays(g.T, x, out)
        slot = self._slot("weight_gradient")
        if pairs.together(how):
            left, right = (np.ascontiguousarray(side.T) for side in (g, rows_of(x)))
            return self._pair(left, right, how, slot, out, accumulate=add)
        options = {"transpose": True, "hadamard": bool(how.hadamard)}
        left = operands.left_operand(g, slot.left, slot.kind, self._key(how), **options)
        right = self._activation(
            x,
            ("right", slot.right, slot.kind, how.hadamard),
            lambda x: operands.right_operand(x, slot.right, slot.kind, **options),
        )
        return operands.multiply(left, right, out, accumulate=add, **self.sums)

    def _pair(
        self, left: NDArray, right: NDArray, how: Operands, slot: Slot, out: NDArray, accumulate: bool = False
    ) -> NDArray:
        formats, options = (slot.left, slot.right, slot.kind), {"accumulate": accumulate, **self.sums}
        return pairs.product(left, right, how, formats, self.unit.next_key, out, **options)


def rows_of(x: NDArray) -> NDArray:
    """x (..., in) as a matrix (N, in) without gaps."""
    return np.ascontiguousarray(x.reshape(x.size // x.shape[-1], x.shape[-1]))


def fp4_linear(products: Fp4Products, x: NDArray, bias: NDArray | None) -> tuple[NDArray, Any]:
    """`linear` on the virtual tensor core: output (..., out) and the gradients of x, weight and bias."""
    y = products.forward(x)
    if bias is not None:
        F.add_bias(y, bias)
    return y.reshape(*x.shape[:-1], y.shape[-1]), (
        lambda g: products.to_x(rows_of(g)).reshape(x.shape),
        lambda g: products.to_weight(rows_of(g), x),
        lambda g: F.sum_of_rows(rows_of(g)),
    )


def fp4_linear_cross_entropy(products: Fp4Products, x: NDArray, *, targets: NDArray) -> tuple[NDArray, Any]:
    """`linear_cross_entropy` on the virtual tensor core; never holds all logits."""
    rows, classes = len(x), products.panels.forward.shape[0]
    record = autograd.is_grad_enabled()
    total = 0.0
    grad_x = empty(x.shape) if record else None
    grad_weight = None
    for chunk in fused_loss.chunks_of_rows(rows, classes):
        gradient = products.forward(x[chunk])  # logits, at first
        total += fused_loss.cross_entropy_into_gradient(gradient, targets[chunk], 1 / rows).sum(dtype=np.float64)
        if record:
            products.to_x(gradient, out=grad_x[chunk])
            grad_weight = products.to_weight(gradient, x[chunk], out=grad_weight)
    if not record:
        return np.asarray(total / rows, x.dtype), ()
    return np.asarray(total / rows, x.dtype), (
        lambda g: grad_x if g == 1 else grad_x * g,
        lambda g: grad_weight if g == 1 else grad_weight * g,
    )
