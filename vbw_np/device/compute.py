"""How a card multiplies: three ways to do the products of a linear layer with one version of its weight.

`dequant` decodes the weight and leaves the products to BLAS: the reference for the others. `fp4` quantizes both
operands of the product, and of both gradients where the recipe says so: on the virtual tensor core where it knows both
formats, else decoded (`operands`). `packed` multiplies few rows straight from the packed bytes.
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
from ..formats import FORMATS, BlockFormat, ElementFormat, FormatError, PackedTensor, get_format, quantize
from ..kernels.fp4 import definitions, support
from ..kernels.fp4.panels import RightOperand
from ..layers import fused_loss
from . import codec, operands
from .recipe import Operands, Recipe

if TYPE_CHECKING:
    from .card import Card

empty, matmul_arrays = autograd.memory.empty, autograd.ops.matmul_arrays

COMPUTES = ("auto", "dequant", "fp4", "packed")

ACTIVATIONS = {"nvfp4": Operands("nvfp4-row-scaled"), "mxfp4": Operands("mxfp4")}
"""How activations are quantized where a recipe does not say: like the weight, with a second level a token row."""


def activation_of(recipe: Recipe) -> Operands:
    """How the recipe's activations are quantized where a product is made of quantized operands."""
    return recipe.activation or ACTIVATIONS[support.family(get_format(recipe.weight)).kernel]


def product_formats(recipe: Recipe) -> dict[str, tuple[BlockFormat, BlockFormat]]:
    """The formats of the left and right operand of each product that the recipe quantizes, by the product's slot."""
    formats = {"activation": (get_format(activation_of(recipe).format), get_format(recipe.weight))}
    if recipe.gradient is not None:
        formats["gradient"] = get_format(recipe.gradient.format), get_format(recipe.weight)
    if recipe.weight_gradient is not None:
        both = recipe.weight_gradient
        formats["weight_gradient"] = get_format(both.format), get_format(both.right or both.format)
    return formats


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
    """

    forward: operands.Right
    backward: operands.Right | None
    packed: PackedTensor

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in (self.forward, self.backward) if part is not None)


def weight_panels(card: Card) -> WeightPanels:
    """Lay the card's packed weight out for products with quantized operands.

    A weight with square scale tiles serves both directions with the same codes; any other is quantized a second time
    along its other axis, from the master weight.
    """
    packed, recipe = card.packed, card.recipe
    formats = product_formats(recipe)
    kinds = {slot: card.family(*formats[slot]) for slot in formats}
    backward = None
    if recipe.gradient is not None and card.device.mode_now() != "inference":
        kind = kinds["gradient"]
        if packed.format.block_rows == packed.format.block:
            backward = operands.transposed(packed, kind)
        elif packed.planes or packed.format.fine is not None:
            backward = operands.laid_out(card.packed_again(np.ascontiguousarray(card.parameter.data.T)), kind)
        else:
            backward = operands.right_operand(card.parameter.data, packed.format, kind, transpose=True)
    return WeightPanels(operands.laid_out(packed, kinds["activation"]), backward, packed)


def packed_panels(card: Card) -> RightOperand:
    """Lay the card's packed weight out for products straight from packed bytes."""
    return definitions.right_operand(card.packed)


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
    """The three products of a linear layer on quantized operands, with one version of a card's weight.

    A gradient that the recipe does not quantize is computed in float32, with the decoded weight. With `share`, rounded
    activations are kept for the next layer that reads them (`OperandCache`). What is quantized with one scale for all
    rows is quantized anew in each chunk of a loss that is computed in chunks: each is a product of its own.
    """

    def __init__(self, card: Card, panels: WeightPanels, share: bool = False) -> None:
        self.card = card
        self.recipe = card.recipe
        self.panels = panels
        self.share = share
        self.formats = product_formats(card.recipe)
        self.kinds = {slot: card.family(*pair) for slot, pair in self.formats.items()}

    def _activation(self, x: NDArray, kind: Hashable, make: Callable[[NDArray], Any]) -> Any:
        """`make` of x's rows, or what the last layer that read x has left."""
        if not self.share:
            return make(_rows(x))
        return self.card.device.operands.get(x, kind, lambda: make(_rows(x)))

    def _key(self, how: Operands) -> tuple[int, int] | None:
        return self.card.device.next_key() if how.stochastic else None

    def _told(self, slot: str) -> None:
        self.card.ways[slot] = operands.TENSOR_CORE if self.kinds[slot] else operands.DECODED

    def forward(self, x: NDArray) -> NDArray:
        """x W^T: x (..., in), to (N, out)"""
        how, kind, fmt = activation_of(self.recipe), self.kinds["activation"], self.formats["activation"][0]
        self._told("activation")
        rows, width = x.size // x.shape[-1], self.panels.forward.shape[0]
        if not rows:
            return np.zeros((0, width), np.float32)
        if how.stochastic:
            left = operands.left_operand(_rows(x), fmt, kind, self._key(how))
        else:
            left = self._activation(x, ("left", fmt, kind), lambda x: operands.left_operand(x, fmt, kind))
        return operands.multiply(left, self.panels.forward, empty((rows, width)), sums=self.recipe.accumulate)

    def to_x(self, g: NDArray, out: NDArray | None = None) -> NDArray:
        """g W: g (N, out), to (N, in)"""
        how = self.recipe.gradient
        out = empty((len(g), self.panels.forward.shape[1])) if out is None else out
        if not len(g):
            return out
        if how is None or self.panels.backward is None:
            return matmul_arrays(g, codec.decode(self.panels.packed), out)
        self._told("gradient")
        left = operands.left_operand(g, self.formats["gradient"][0], self.kinds["gradient"], self._key(how))
        return operands.multiply(left, self.panels.backward, out, sums=self.recipe.accumulate)

    def to_weight(self, g: NDArray, x: NDArray, out: NDArray | None = None) -> NDArray:
        """g^T x: g (N, out), x (..., in), to (out, in); added to `out` if that is given"""
        how = self.recipe.weight_gradient
        add = out is not None
        out = empty((g.shape[1], x.shape[-1])) if out is None else out
        if not len(g):
            return out if add else np.zeros_like(out)
        if how is None:
            x = _rows(x)
            return np.add(out, matmul_arrays(g.T, x), out=out) if add else matmul_arrays(g.T, x, out)
        self._told("weight_gradient")
        (left_format, right_format), kind = self.formats["weight_gradient"], self.kinds["weight_gradient"]
        options = {"transpose": True, "hadamard": bool(how.hadamard)}
        left = operands.left_operand(g, left_format, kind, self._key(how), **options)
        right = self._activation(
            x,
            ("right", right_format, kind, how.hadamard),
            lambda x: operands.right_operand(x, right_format, kind, **options),
        )
        return operands.multiply(left, right, out, accumulate=add, sums=self.recipe.accumulate)


def _rows(x: NDArray) -> NDArray:
    return np.ascontiguousarray(x.reshape(x.size // x.shape[-1], x.shape[-1]))


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


FP4_TWINS = {"linear": fp4_linear, "linear_cross_entropy": fp4_linear_cross_entropy}
"""What runs on the tensor core in place of a dense primitive, by the primitive's name."""

def packed_linear(weight: RightOperand, x: NDArray, bias: NDArray | None) -> tuple[NDArray, Any]:
    """`linear` for few rows, straight from packed bytes, with activations rounded to 8-bit integers; no gradients."""
    rows = _rows(x)
    y = definitions.matvec(rows, weight, empty((len(rows), weight.shape[0])))
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], y.shape[-1]), ()


LAYOUTS = {"dequant": lambda card: codec.decode(card.packed), "fp4": weight_panels, "packed": packed_panels}
"""What the compute unit wants of a weight, by way of computing."""

FEW_ROWS = 16
"""Most rows that `packed` multiplies; more are left to `dequant`."""


def check_compute(compute: str, recipe: Recipe) -> None:
    """Raise if the named way of computing, or a slot of the recipe, cannot be computed as it is named.

    Raises
    ------
    ValueError
        No such way; no activations are named for quantized operands; a slot's format cannot be rounded as the slot
        asks; an operand is rotated whose partner is not.
    """
    if compute not in COMPUTES:
        raise ValueError(f"there is no way to compute {compute!r}; there are: {', '.join(COMPUTES)}")
    if recipe.weight is None:
        return
    record = get_format(recipe.weight)
    kind, why = support.weights(record)
    if compute == "packed" and (kind is None or recipe.fine != "never"):
        why = why or f"{record.name} is used with its fine tier"
        raise ValueError(f"recipe {recipe.name}: compute='packed' cannot multiply its weights: {why}; use 'dequant'")
    if compute == "fp4" and recipe.activation is None and kind is None:
        raise ValueError(
            f"recipe {recipe.name}: compute='fp4' quantizes activations, and the recipe does not say how ({why}); give "
            "it an activation format, such as Operands('nvfp4-row-scaled'), or use compute='dequant'"
        )
    _check_format(recipe.name, "weight", recipe.weight, None)
    _check_sums(compute, recipe)
    for slot in ("activation", "gradient", "weight_gradient"):
        how = getattr(recipe, slot)
        if how is None:
            continue
        for fmt, ties in ((how.format, "stochastic" if how.stochastic else None), (how.right or how.format, None)):
            _check_format(recipe.name, slot, fmt, ties)
        if slot != "weight_gradient" and (how.hadamard or how.right):
            what = "a Hadamard rotation" if how.hadamard else "a format of the right operand"
            raise ValueError(
                f"recipe {recipe.name}: {what} in {slot}: the right operand there is the weight, which is quantized as "
                "`weight` says and not rotated; only weight_gradient rotates and quantizes both of its operands"
            )


def _check_sums(compute: str, recipe: Recipe) -> None:
    """Blackwell's sums are those of products with two FP4 operands of one family; any other product is refused."""
    if recipe.accumulate == "float32":
        return
    if recipe.weight is None or (recipe.activation is None and compute != "fp4"):
        raise ValueError(
            f"recipe {recipe.name}: accumulate={recipe.accumulate!r} is about products of two FP4 operands, and none "
            "is made here: take a recipe that quantizes activations (nvfp4-train, mxfp4-train), or compute='fp4'"
        )
    for slot, (left, right) in product_formats(recipe).items():
        if operands.family(left, right) is None:
            raise ValueError(
                f"recipe {recipe.name}: accumulate={recipe.accumulate!r} knows the sums of NVFP4 with NVFP4 and of "
                f"MXFP4 with MXFP4, one tier each; {slot} multiplies {left.name} with {right.name}"
            )


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
