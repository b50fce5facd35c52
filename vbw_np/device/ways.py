"""The ways in which a card multiplies: each says what it accepts, lays the weight out, and multiplies.

`dequant` decodes the weight and leaves the products to BLAS: the reference for the others. `fp4` quantizes both
operands of the product, and of both gradients where the recipe says so (`products`). `packed` multiplies the
packed bytes with 8-bit activations. A card in full precision multiplies with the master itself.
"""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from .. import definitions
from .. import kernels as _twins  # noqa: F401  of the definitions
from ..definitions import support
from ..engine import Parameter, autograd
from ..formats import PackedTensor, get_format
from . import codec
from .one_sum import first_sum
from .products import Fp4Products, fp4_linear, fp4_linear_cross_entropy, rows_of, weight_panels
from .recipe import Recipe
from .slots import check_slots
from .unit import ComputeUnit


class Holder(Protocol):
    """What a way asks of the card that holds the weight."""

    name: str
    recipe: Recipe
    unit: ComputeUnit
    parameter: Parameter
    packed: PackedTensor | None
    ways: dict[str, str]  # how each product was last computed, by its slot

    def packed_again(self, weight: NDArray) -> PackedTensor:
        """Another matrix packed as this card's weight is."""


class Way:
    """One way to compute: this one decodes the weight and runs the dense product.

    Attributes
    ----------
    name : str
        For the option `compute` and for traces.
    label : str
        For reports.
    float32_only : bool
        Whether the master weight must be float32.
    """

    name = "dequant"
    label = "decoded weight"
    float32_only = False

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError if no weight of the recipe can be multiplied with in this way."""

    def accepts(self, product: str, rows: int) -> bool:
        """Whether the named product ("linear", "linear_cross_entropy") with so many rows goes this way, now."""
        return True

    def lay_out(self, card: Holder) -> Any:
        """The card's packed weight as `multiply` wants it; anything with `nbytes`."""
        return codec.decode(card.packed)

    def multiply(
        self,
        card: Holder,
        weight: Any,
        dense: autograd.Primitive,
        x: NDArray,
        *rest: Any,
        share: bool = False,
        **static: Any,
    ) -> tuple[NDArray, Any]:
        """Output and vjp of the product that the primitive `dense` has a name and a definition for.

        `share`: nobody writes to x, so that what is made of it may serve the next layer that reads it.
        """
        card.ways["activation"] = self.label
        return dense.run(x, weight, *rest, **static)


class FullPrecision(Way):
    """The master weight, multiplied with as it is."""

    name = "float32"
    label = "float32"


FP4_TWINS = {"linear": fp4_linear, "linear_cross_entropy": fp4_linear_cross_entropy}
"""What computes in place of a dense primitive, by the primitive's name."""


class Fp4(Way):
    """Both operands quantized; see `products`."""

    name = "fp4"
    label = "quantized operands"
    float32_only = True

    def check(self, recipe: Recipe) -> None:
        kind, why = support.weights(get_format(recipe.weight))
        if recipe.activation is None and kind is None:
            raise ValueError(
                f"recipe {recipe.name}: compute='fp4' quantizes activations, and the recipe does not say how ({why}); "
                "give it an activation format, such as Operands('nvfp4-row-scaled'), or use compute='dequant'"
            )

    def lay_out(self, card: Holder) -> Any:
        master = None if card.unit.mode == "inference" else card.parameter.data
        return weight_panels(card.packed, card.recipe, master, card.packed_again)

    def multiply(self, card, weight, dense, x, *rest, share=False, **static):  # type: ignore[no-untyped-def]
        products = Fp4Products(card.recipe, card.unit, weight, card.ways, share)
        made = FP4_TWINS[dense.name](products, x, *rest, **static)
        recorder = card.unit.recorder
        if recorder is not None and recorder.samples and card.recipe.accumulate != "float32" and x.size:
            with card.unit.span("sum", card.name, output="[0, 0]") as values:
                explained = first_sum(card.recipe, weight, rows_of(x))
                if explained is not None:
                    values.update(sum=explained.data["result"], steps=str(explained))
        return made


class Packed(Way):
    """Packed bytes times activations that are rounded to 8-bit integers; no gradients."""

    name = "packed"
    label = "packed weight, 8-bit activations"
    float32_only = True

    def check(self, recipe: Recipe) -> None:
        record = get_format(recipe.weight)
        kind, why = support.int8_products(record)
        if kind is None or recipe.fine != "never":
            why = why or f"{record.name} is used with its fine tier"
            raise ValueError(
                f"recipe {recipe.name}: compute='packed' cannot multiply its weights: {why}; use 'dequant'"
            )

    def accepts(self, product: str, rows: int) -> bool:
        return product == "linear" and not autograd.is_grad_enabled()

    def lay_out(self, card: Holder) -> Any:
        return definitions.int8_operand(card.packed)

    def multiply(self, card, weight, dense, x, bias=None, *, share=False):  # type: ignore[no-untyped-def]
        card.ways["activation"] = self.label
        rows = rows_of(x)
        y = definitions.matvec(rows, weight, autograd.memory.empty((len(rows), weight.shape[0])))
        if bias is not None:
            y += bias
        return y.reshape(*x.shape[:-1], y.shape[-1]), ()


FULL_PRECISION, DEQUANT, FP4, PACKED = FullPrecision(), Way(), Fp4(), Packed()
CHOICES = {"auto": (DEQUANT,), "dequant": (DEQUANT,), "fp4": (FP4,), "packed": (PACKED, DEQUANT)}
"""The option `compute`: the ways to ask, the first that accepts computes."""
COMPUTES = tuple(CHOICES)


def ways_of(recipe: Recipe, compute: str) -> tuple[Way, ...]:
    """The ways to ask, in order, for a packed weight; a recipe that quantizes activations has one alone."""
    return CHOICES[compute] if recipe.activation is None else (FP4,)


def check_compute(compute: str, recipe: Recipe) -> None:
    """Raise if the named way of computing, or a slot of the recipe, cannot be computed as it is named.

    Raises
    ------
    ValueError
        No such way; no activations are named for quantized operands; see `check_slots`.
    """
    if compute not in CHOICES:
        raise ValueError(f"there is no way to compute {compute!r}; there are: {', '.join(COMPUTES)}")
    if recipe.weight is not None:
        CHOICES[compute][0].check(recipe)
        check_slots(recipe, quantizes=FP4 in ways_of(recipe, compute))
