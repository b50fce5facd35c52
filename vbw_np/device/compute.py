"""How a card multiplies: three ways to do the products of a linear layer with one version of its weight.

`dequant` decodes the weight and leaves the products to BLAS: the reference for the others. `fp4` is the virtual tensor
core: both operands are FP4, and so may be the operands of both gradients. `packed` multiplies few rows straight from
the packed bytes.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..engine import F, autograd
from ..formats import PackedTensor, get_format
from ..kernels.fp4 import gemv, relayout, tensor_core
from . import codec
from .recipe import Operands, Recipe

if TYPE_CHECKING:
    from .card import Card

empty, matmul_arrays = autograd.memory.empty, autograd.ops.matmul_arrays

COMPUTES = ("auto", "dequant", "fp4", "packed")

ACTIVATIONS = {"nvfp4": Operands("nvfp4-row-scaled"), "mxfp4": Operands("mxfp4")}
"""How activations are quantized where a recipe does not say: like the weight, with a second level a token row."""


@dataclasses.dataclass(frozen=True, eq=False)
class WeightPanels:
    """One version of a weight as the tensor core wants it.

    Attributes
    ----------
    forward : RightOperand, (out, in)
        For y = x W^T.
    backward : RightOperand, (in, out), or None
        For dx = g W; None where no gradient will be asked for in FP4.
    packed : PackedTensor
        What both were made of.
    """

    forward: tensor_core.RightOperand
    backward: tensor_core.RightOperand | None
    packed: PackedTensor

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes() for part in (self.forward, self.backward) if part is not None)


def weight_panels(card: Card) -> WeightPanels:
    """Lay the card's packed weight out for the tensor core.

    A weight with square scale tiles serves both directions with the same codes; any other is quantized a second time
    along its other axis, from the master weight.
    """
    packed, recipe = card.packed, card.recipe
    backward = None
    if recipe.gradient is not None and card.device.mode_now() != "inference":
        if packed.format.block_rows == packed.format.block:
            backward = relayout.transposed_right_operand(packed)
        else:
            master = np.ascontiguousarray(card.parameter.data)
            backward = tensor_core.quantize_right(master, transpose=True, **_kind(recipe.weight))
    return WeightPanels(relayout.right_operand(packed), backward, packed)


def _kind(fmt: Any) -> dict[str, str]:
    """The tensor core's name for a block format, and its scale rule."""
    record = get_format(fmt)
    if record.block == 32:
        return {"fmt": "mxfp4", "rule": record.rule.name}
    return {"fmt": "nvfp4"}


def _left(x: NDArray, operands: Operands, key: tuple[int, int] | None, transpose: bool = False) -> Any:
    """Quantize the left operand of a product; `transpose` sums over the rows of x instead of its columns."""
    return tensor_core.quantize_left(
        np.ascontiguousarray(x),
        transpose=transpose,
        hadamard=bool(operands.hadamard),
        seed=key,
        **_kind(operands.format),
    )


def _right(x: NDArray, operands: Operands) -> Any:
    """Quantize the right operand of a weight gradient, x^T, summing over its rows; always to nearest."""
    return tensor_core.quantize_right(
        np.ascontiguousarray(x), transpose=True, hadamard=bool(operands.hadamard), **_kind(operands.format)
    )


class OperandCache:
    """Activations as operands: an array that several layers read (query, key and value; all experts) is rounded once.

    An entry is good for one array object, as long as that lives. So it is only for arrays that nobody writes to: those
    that a recorded operation made. Operands that are rounded stochastically are never shared: their draws are to be
    independent.

    Parameters
    ----------
    size : int
        Operands kept; the ones that were not used for longest go first.
    """

    def __init__(self, size: int = 8) -> None:
        self.size = size
        self._entries: OrderedDict[Hashable, tuple[weakref.ref[NDArray], Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, x: NDArray, kind: Hashable, make: Callable[[], Any]) -> Any:
        """The operand of `kind` of the array `x`, kept or made now."""
        key = id(x), kind
        with self._lock:
            array, operand = self._entries.get(key, (None, None))
            if array is not None and array() is x:
                self._entries.move_to_end(key)
                return operand
        operand = make()
        with self._lock:
            self._entries[key] = weakref.ref(x), operand
            self._entries.move_to_end(key)
            while len(self._entries) > self.size:
                self._entries.popitem(last=False)
        return operand


class Fp4Products:
    """The three products of a linear layer on FP4 operands, with one version of a card's weight.

    A gradient that the recipe does not quantize is computed in float32, with the decoded weight. With `share`, rounded
    activations are kept for the next layer that reads them (`OperandCache`).
    """

    def __init__(self, card: Card, panels: WeightPanels, share: bool = False) -> None:
        self.card = card
        self.recipe = card.recipe
        self.panels = panels
        self.share = share

    def _activation(self, x: NDArray, kind: Hashable, make: Callable[[NDArray], Any]) -> Any:
        """`make` of x's rows, or what the last layer that read x has left."""
        if not self.share:
            return make(_rows(x))
        return self.card.device.operands.get(x, kind, lambda: make(_rows(x)))

    def _key(self, operands: Operands) -> tuple[int, int] | None:
        return self.card.device.next_key() if operands.stochastic else None

    def forward(self, x: NDArray) -> NDArray:
        """x W^T: x (..., in), to (N, out). Each token row has its own second-level scale, so rows stay independent."""
        operands = self.recipe.activation or ACTIVATIONS[self.panels.forward.fmt]
        if operands.stochastic:
            left = _left(_rows(x), operands, self._key(operands))
        else:
            left = self._activation(x, ("left", operands), lambda rows: _left(rows, operands, None))
        return tensor_core.matmul(left, self.panels.forward, out=empty((left.shape[0], self.panels.forward.shape[0])))

    def to_x(self, g: NDArray, out: NDArray | None = None) -> NDArray:
        """g W: g (N, out), to (N, in)"""
        operands = self.recipe.gradient
        width = self.panels.forward.shape[1]
        out = empty((len(g), width)) if out is None else out
        if operands is None or self.panels.backward is None:
            return matmul_arrays(g, codec.decode(self.panels.packed), out)
        return tensor_core.matmul(_left(g, operands, self._key(operands)), self.panels.backward, out=out)

    def to_weight(self, g: NDArray, x: NDArray, out: NDArray | None = None) -> NDArray:
        """g^T x: g (N, out), x (..., in), to (out, in); added to `out` if that is given"""
        operands = self.recipe.weight_gradient
        add = out is not None
        out = empty((g.shape[1], x.shape[-1])) if out is None else out
        if operands is None:
            x = _rows(x)
            return np.add(out, matmul_arrays(g.T, x), out=out) if add else matmul_arrays(g.T, x, out)
        left = _left(g, operands, self._key(operands), transpose=True)
        right = self._activation(x, ("right", operands), lambda rows: _right(rows, operands))
        return tensor_core.matmul(left, right, out=out, accumulate=add)


def _rows(x: NDArray) -> NDArray:
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1]))


def fp4_linear(products: Fp4Products, x: NDArray, bias: NDArray | None) -> tuple[NDArray, Any]:
    """`linear` on the virtual tensor core: output (..., out) and the gradients of x, weight and bias."""
    y = products.forward(x)
    if bias is not None:
        F.add_bias(y, bias)
    return y.reshape(*x.shape[:-1], y.shape[-1]), (
        lambda g: products.to_x(_rows(g)).reshape(x.shape),
        lambda g: products.to_weight(_rows(g), x),
        lambda g: F.sum_of_rows(_rows(g)),
    )


def fp4_linear_cross_entropy(products: Fp4Products, x: NDArray, *, targets: NDArray) -> tuple[NDArray, Any]:
    """`linear_cross_entropy` on the virtual tensor core; never holds all logits."""
    rows, classes = len(x), products.panels.forward.shape[0]
    record = autograd.is_grad_enabled()
    total = 0.0
    grad_x = empty(x.shape) if record else None
    grad_weight = None
    for chunk in F.chunks_of_rows(rows, classes):
        gradient = products.forward(x[chunk])  # logits, at first
        total += F.cross_entropy_into_gradient(gradient, targets[chunk], 1 / rows).sum(dtype=np.float64)
        if record:
            products.to_x(gradient, out=grad_x[chunk])
            grad_weight = products.to_weight(gradient, x[chunk], out=grad_weight)
    if not record:
        return np.asarray(total / rows, x.dtype), ()
    return np.asarray(total / rows, x.dtype), (
        lambda g: grad_x if g == 1 else grad_x * g,
        lambda g: grad_weight if g == 1 else grad_weight * g,
    )


FP4_TWINS = {"linear": fp4_linear, "linear_cross_entropy": fp4_linear_cross_entropy}
"""What runs on the tensor core in place of a dense primitive, by the primitive's name."""

def packed_linear(panels: WeightPanels, x: NDArray, bias: NDArray | None) -> tuple[NDArray, Any]:
    """`linear` for few rows, straight from packed bytes, with activations rounded to 8-bit integers; no gradients."""
    rows = _rows(x)
    y = gemv.matvec(rows, panels.forward, out=empty((len(rows), panels.forward.shape[0])), activations="int8")
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], y.shape[-1]), ()


LAYOUTS = {"dequant": lambda card: codec.decode(card.packed), "fp4": weight_panels, "packed": weight_panels}
"""What the compute unit wants of a weight, by way of computing."""

FEW_ROWS = 16
"""Most rows that `packed` multiplies; more are left to `dequant`."""


def check_compute(compute: str, recipe: Recipe) -> None:
    """Raise if `recipe` keeps weights that the named way of computing cannot multiply with.

    Raises
    ------
    ValueError
        No such way; or the tensor core does not know the recipe's weight format, or only its coarse tier.
    """
    if compute not in COMPUTES:
        raise ValueError(f"there is no way to compute {compute!r}; there are: {', '.join(COMPUTES)}")
    if recipe.weight is None:
        return
    record = get_format(recipe.weight)
    wanted = compute in ("fp4", "packed") or recipe.activation is not None
    if wanted and (not relayout.is_known(record) or recipe.fine != "never"):
        raise ValueError(
            f"recipe {recipe.name}: the virtual tensor core multiplies NVFP4 and MXFP4 weights of one tier, not "
            f"{record.name}{' with its fine tier' if recipe.fine != 'never' else ''}; use compute='dequant'"
        )
