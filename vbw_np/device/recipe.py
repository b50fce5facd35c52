"""Recipes: what a card keeps of its weight and how it computes, as data."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence

from ..engine import Parameter
from ..formats import BlockFormat, get_format

Select = str | Sequence[str] | Callable[[str, Parameter], bool]

FINE_CHOICES = ("never", "budget", "always")
GRADIENT_RULES = ("straight-through", "row-max")
SUMS = ("float32", "blackwell", "hopper")
"""How products of two quantized operands are added up: `float32`: of FP4, exact dots of blocks, added one after the
other in float32, each rounded to nearest, of all else the product of the decoded operands; `blackwell`, `hopper`: as
these tensor cores add (`vbw_np.formats.accumulate`), FP4 and FP8 the one, FP8 the other."""


ROTATIONS = (0, 16, 32, 64, 128)
"""Points of a Hadamard rotation; 0: none."""
SIGNS = ("fixed", "random")


@dataclasses.dataclass(frozen=True)
class Operands:
    """How the two operands of one product are made from float32.

    Attributes
    ----------
    format : str or BlockFormat
        A block format along the axis that the product sums over.
    stochastic : bool
        Stochastic rounding instead of round-to-nearest-even.
    hadamard : int
        Size of the Hadamard rotation along the summed axis before quantizing, one of `ROTATIONS`; 0 for none. Both
        operands are rotated, so that the rotation cancels: in `weight_gradient`, and in `gradient`, where the weight is
        then quantized anew from what the card has decoded.
    signs : {"fixed", "random"}
        Of the rotation: the same always (of 16 points TransformerEngine's), or drawn anew for every product.
    eden : bool
        MS-EDEN (`formats.eden`) on both operands: rounded to nearest, their length mended by way of the block scales.
        With a rotation of 128 points under random signs, in the format `nvfp4-eden`.
    split_mean : bool
        The mean over the summed axis is split off both operands and multiplied in float32 (Averis, arXiv:2603.10444).
    right : str or BlockFormat, optional
        In `weight_gradient`: the format of its right operand, x^T, where that is another. In `gradient` that of the
        weight, where it is quantized anew because it is rotated or its mean is split off; else it is the weight's own.
    """

    format: str | BlockFormat
    stochastic: bool = False
    hadamard: int = 0
    right: str | BlockFormat | None = None
    signs: str = "fixed"
    eden: bool = False
    split_mean: bool = False

    def __post_init__(self) -> None:
        get_format(self.format)
        if self.right is not None:
            get_format(self.right)
        if self.hadamard not in ROTATIONS:
            known = ", ".join(map(str, ROTATIONS[1:]))
            raise ValueError(f"a Hadamard rotation has {known} points or none (0), not {self.hadamard}")
        if self.signs not in SIGNS:
            raise ValueError(f"the signs of a rotation are one of {', '.join(SIGNS)}, not {self.signs!r}")
        if self.signs == "random" and not self.hadamard:
            raise ValueError("random signs are those of a Hadamard rotation, and there is none: give hadamard= as well")
        if self.eden:
            self._check_eden()

    def __str__(self) -> str:
        """As words: the format, and what is done before and while rounding to it."""
        words = [get_format(self.format).name]
        words += ["without its mean"] if self.split_mean else []
        drawn = ", signs drawn anew" if self.signs == "random" else ""
        words += [f"rotated {self.hadamard} at a time{drawn}"] if self.hadamard else []
        words += ["rounded by chance"] if self.stochastic else []
        words += ["its length mended (MS-EDEN)"] if self.eden else []
        return ", ".join(words)

    def _check_eden(self) -> None:
        names = {get_format(fmt).name for fmt in (self.format, self.right or self.format)}
        rotated = self.hadamard == 128 and self.signs == "random"
        if names != {"nvfp4-eden"} or not rotated or self.stochastic:
            raise ValueError(
                "MS-EDEN rounds nvfp4-eden to nearest after a rotation of 128 points under random signs: give "
                "Operands('nvfp4-eden', eden=True, hadamard=128, signs='random')"
            )


OSCILLATION = ("off", "count", "reset")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What a recipe does as training goes on. A training loop keeps to it (`training.habits`); a device alone does not.

    Attributes
    ----------
    oscillation : {"off", "count", "reset"}
        Count the weights that oscillate: whose code, times its scale, moved `ratio` times as far in a window as the
        master weight did. `reset`: at the window's end their master becomes the decoded weight (TetraJet-v2,
        arXiv:2510.27527; AMD's ALTO #25, whose defaults these numbers are).
    window : int
        Steps of a window.
    ratio : float
    last : float
        Share of the last steps in which all products are float32 (arXiv:2509.25149, section on the last steps).
    stop_below : float
        All products are float32 from the step on after which the gradient is shorter than so many times its error from
        quantization; the square root of 3 in arXiv:2505.19115. 0: never.
    every : int
        Steps between two measurements of that error; each computes a gradient a second time, in float32.
    """

    oscillation: str = "off"
    window: int = 25
    ratio: float = 16.0
    last: float = 0.0
    stop_below: float = 0.0
    every: int = 25

    def __post_init__(self) -> None:
        if self.oscillation not in OSCILLATION:
            raise ValueError(f"oscillation is one of {', '.join(OSCILLATION)}, not {self.oscillation!r}")
        for name in ("window", "every"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} is a number of steps, at least 1, not {getattr(self, name)!r}")
        if not 0 <= self.last <= 1:
            raise ValueError(f"last is a share of the steps, 0 to 1, not {self.last!r}")
        if not self.ratio > 0 or not self.stop_below >= 0:
            raise ValueError(f"ratio={self.ratio!r} must be above 0 and stop_below={self.stop_below!r} not below")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a card does with its weight.

    Compose your own from an existing one: ``dataclasses.replace(RECIPES["nvfp4"], name="mine", keep=("*gate*",))``.

    Attributes
    ----------
    name : str
    weight : str or None
        Block format of the packed weight; None keeps it in float32.
    fine : {"never", "budget", "always"}
        When the compute unit asks for the format's fine tier: never, when the coarse tier's relative RMS error is
        above `error_budget`, or always.
    error_budget : float
        Relative RMS error, |w - decoded| / |w|, that a card may have.
    activation : Operands or None
        For the forward product x W^T: how x is quantized, one second-level scale per token row. None: float32.
    gradient : Operands or None
        For the product g W of the input's gradient: how g is quantized.
    weight_gradient : Operands or None
        For the product g^T x of the weight's gradient: how both are quantized (rounding of g only is stochastic).
    keep : tuple of str, or str
        Name patterns of layers that stay in full precision on their card.
    gradient_rule : {"straight-through", "row-max"}
        Where the weight's gradient goes: to every weight, or, as in the system behind the seed report, only to the
        one weight of each row that sets the row's scale.
    accumulate : {"float32", "blackwell", "hopper"}
        How products of two quantized operands are added up, one of `SUMS`. With a float32 operand it is float32.
    promote : int
        Of FP8 operands: partial sums of so many products leave the tensor core and are added up in float32
        (DeepSeek-V3, arXiv:2412.19437, section 3.3: 128); 0: none do.
    schedule : Schedule or None
        What changes as training goes on.
    summary : str
        One line for people.
    """

    name: str
    weight: str | None
    summary: str
    fine: str = "never"
    error_budget: float = 0.1
    activation: Operands | None = None
    gradient: Operands | None = None
    weight_gradient: Operands | None = None
    keep: tuple[str, ...] = ()
    gradient_rule: str = "straight-through"
    accumulate: str = "float32"
    promote: int = 0
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        for slot in ("activation", "gradient", "weight_gradient"):
            how = getattr(self, slot)
            if how is not None and not isinstance(how, Operands):
                raise ValueError(f"recipe {self.name}: {slot} is Operands(format, ...) or None, not {how!r}")
        if isinstance(self.keep, str):  # as a tuple it would be one pattern a letter, and a star keeps everything
            object.__setattr__(self, "keep", (self.keep,))
        if self.schedule is not None and not isinstance(self.schedule, Schedule):
            raise ValueError(f"recipe {self.name}: schedule is a Schedule(...) or None, not {self.schedule!r}")
        if self.weight is not None:
            fmt = get_format(self.weight)
            if self.fine != "never" and fmt.fine is None:
                raise ValueError(f"recipe {self.name}: format {fmt.name} has no fine tier, so fine must be 'never'")
        if self.fine not in FINE_CHOICES:
            raise ValueError(f"recipe {self.name}: fine is one of {', '.join(FINE_CHOICES)}, not {self.fine!r}")
        if self.gradient_rule not in GRADIENT_RULES:
            raise ValueError(
                f"recipe {self.name}: gradient_rule is one of {', '.join(GRADIENT_RULES)}, not {self.gradient_rule!r}"
            )
        if self.accumulate not in SUMS:
            raise ValueError(f"recipe {self.name}: accumulate is one of {', '.join(SUMS)}, not {self.accumulate!r}")
        if not self.error_budget > 0:
            raise ValueError(f"recipe {self.name}: the error budget is a positive number, not {self.error_budget}")
        if self.weight is None and (self.activation or self.gradient or self.weight_gradient):
            raise ValueError(f"recipe {self.name}: FP4 products need an FP4 weight")

    def keeps(self, name: str) -> bool:
        """Whether the layer `name` stays in full precision."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.keep)


def _training(
    name: str, weight: str, operand: str, summary: str, gradient: str | None = None, right: str | None = None
) -> Recipe:
    gradient = gradient or operand
    return Recipe(
        name,
        weight,
        summary,
        activation=Operands(operand),
        gradient=Operands(gradient, stochastic=True),
        weight_gradient=Operands(gradient, stochastic=True, hadamard=16, right=right),
    )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("fp32", None, "the baseline: weights as they are"),
        Recipe("seed-v6", "seed-v6", "the report's: 16 quantiles of |w| with a sign, INT4 residual", fine="always"),
        Recipe("fp4-row", "fp4-row", "E2M1 with one scale a row: why block scales exist"),
        Recipe("mxfp4", "mxfp4", "OCP MXFP4: E2M1 with a power-of-two scale per 32"),
        Recipe("nvfp4", "nvfp4", "NVFP4: E2M1 with an E4M3 scale per 16 and one scale a tensor"),
        Recipe(
            "nvfp4-boh",
            "nvfp4-nested",
            "NVFP4 first, its nested fine tier where the error budget asks for it",
            fine="budget",
            error_budget=0.02,
        ),
        _training(
            "mxfp4-train",
            "mxfp4-rceil",
            "mxfp4-rceil",
            "all three products of a layer on MXFP4 operands",
        ),
        _training(
            "nvfp4-train",
            "nvfp4-16x16",
            "nvfp4-row-scaled",
            "all three products of a layer on NVFP4 operands (arXiv 2509.25149)",
            gradient="nvfp4-row-headroom",
            right="nvfp4",
        ),
        Recipe(
            "fp8-train",
            "fp8-row",
            "all three products on E4M3 operands, a scale a row, summed as Hopper sums, promoted every 128",
            activation=Operands("fp8-row"),
            gradient=Operands("fp8-row"),
            weight_gradient=Operands("fp8-row"),
            accumulate="hopper",
            promote=128,
        ),
        Recipe(
            "fp8-block-train",
            "fp8-128x128",
            "DeepSeek-V3's: E4M3, weights in 128 x 128 tiles, all else per 1 x 128, promoted every 128",
            activation=Operands("fp8-1x128"),
            gradient=Operands("fp8-1x128"),
            weight_gradient=Operands("fp8-1x128"),
            accumulate="hopper",
            promote=128,
        ),
    )
}


LARGE = 1 << 16  # entries of a weight that `select="large"` places


def selector(select: Select) -> Callable[[str, Parameter], bool]:
    """A predicate over (name, parameter) from what a user writes.

    "linear" places the weights of all linear layers, "large" those with at least 65,536 entries, "all" every matrix;
    other strings (one or several) are name patterns, such as ``"blocks.*.ffn.*"``.
    """
    if callable(select):
        return select
    if select in ("linear", "all"):
        return lambda name, parameter: True
    if select == "large":
        return lambda name, parameter: parameter.size >= LARGE
    patterns = (select,) if isinstance(select, str) else tuple(select)
    return lambda name, parameter: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
