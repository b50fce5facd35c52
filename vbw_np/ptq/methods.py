"""Methods of quantizing as data: frozen records that add up, and go with any format.

    Method("awq") + Method("rotate", points=64) + Method("gptq")
    read_method("awq+rotate:points=64+gptq")             # the same

A method is a set of steps, at most one of each kind. However they are written, they run in the order in which they can:
scale search, rotation, choice of scales, rounding. What a step does to a format is decided when the two meet
(`Method.format_of`), so a method needs no format and a format no method.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..errors import UserError
from ..formats import BlockFormat
from ..formats.scales import te_rule

WHOLE = 0
"""`points` of a rotation over the whole width."""


def _check(kind: str, option: str, value: Any, good: bool, what: str) -> None:
    if not good:
        raise UserError(f"{kind}: {option} is {what}, not {value!r}")


@dataclasses.dataclass(frozen=True)
class Awq:
    """Input channels are scaled by rms ** alpha, the alpha of each site the one with the least output error.

    Activation-aware weight quantization (arXiv 2306.00978); the candidates are judged by the Hessian, not by a run.

    Attributes
    ----------
    alphas : tuple of float
        0 leaves a site as it is.
    """

    alphas: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6)

    def __post_init__(self) -> None:
        good = len(self.alphas) > 0 and all(0 <= alpha <= 1 for alpha in self.alphas)
        _check("awq", "alphas", self.alphas, good, "one or more numbers from 0 to 1")


@dataclasses.dataclass(frozen=True)
class SmoothQuant:
    """Input channels are scaled by max |x| ** alpha / max |w| ** (1 - alpha), which moves outliers into the weights.

    arXiv 2211.10438.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        _check("smoothquant", "alpha", self.alpha, 0 <= self.alpha <= 1, "a number from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Rotate:
    """Inputs of every layer are rotated by a random Hadamard matrix, and weights with them.

    Attributes
    ----------
    points : int
        Size of the blocks that are rotated; 0 (`WHOLE`) rotates the whole width at once.
    where : {"inputs", "stream"}
        `inputs`: each layer's own input, while the model runs. `stream`: the residual stream and the values of each
        head, folded into the weights around them (QuaRot, arXiv 2404.00456; SpinQuant's R1 and R2): the model stays an
        ordinary one, and the inputs of `down_proj`, which no weight can rotate, stay as they are.
    seed : int
        Of the signs.
    """

    points: int = 16
    where: str = "inputs"
    seed: int = 0

    def __post_init__(self) -> None:
        power = self.points == WHOLE or (self.points > 1 and not self.points & (self.points - 1))
        _check("rotate", "points", self.points, power, "a power of two, or 0 for the whole width")
        _check("rotate", "where", self.where, self.where in ("inputs", "stream"), "inputs or stream")
        _check("rotate", "seed", self.seed, self.seed >= 0, "not negative")


@dataclasses.dataclass(frozen=True)
class Clip:
    """Each block takes the scale, among those of its amax times each factor, that loses least.

    Attributes
    ----------
    factors : tuple of float
        Below 1: the largest elements saturate and the others are held finer. Above: the opposite; 1.5 is the second
        choice of four-over-six.
    by : {"hessian", "mse"}
        Squared errors of a block are weighted by the mean squares of its inputs, or all alike.
    activations : bool
        Whether blocks of quantized activations choose, too (while the model runs, by squared error).
    """

    factors: tuple[float, ...] = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
    by: str = "hessian"
    activations: bool = False

    def __post_init__(self) -> None:
        good = len(self.factors) > 0 and all(0 < factor < math.inf for factor in self.factors)
        _check("clip", "factors", self.factors, good, "one or more positive numbers")
        _check("clip", "by", self.by, self.by in ("hessian", "mse"), "hessian or mse")


@dataclasses.dataclass(frozen=True)
class FourOverSix:
    """Each block of NVFP4 is mapped to 6 or to 4, whichever errs less (arXiv 2512.02010)."""


@dataclasses.dataclass(frozen=True)
class Rtn:
    """Every weight to the nearest value that its block can hold."""


@dataclasses.dataclass(frozen=True)
class Gptq:
    """Column by column, each carrying the errors of those before it (`gptq`; arXiv 2210.17323).

    Attributes
    ----------
    damping : float
        Added to the Hessian's diagonal, as a share of its mean.
    order : {"given", "activation"}
        `activation`: columns with the largest mean square inputs first (GPTQ's ``act_order``).
    scales : {"group", "static"}
        Fitted when a block begins, to what is left there by then; or all of them in advance, to the weights as they
        were. The order by activation needs them in advance.
    sequential : bool
        The Hessian of each block of layers is that of its inputs with all earlier ones quantized.
    """

    damping: float = 0.01
    order: str = "given"
    scales: str = "group"
    sequential: bool = False

    def __post_init__(self) -> None:
        _check("gptq", "damping", self.damping, 0 < self.damping < math.inf, "a positive number")
        _check("gptq", "order", self.order, self.order in ("given", "activation"), "given or activation")
        _check("gptq", "scales", self.scales, self.scales in ("group", "static"), "group or static")
        if self.order == "activation" and self.scales == "group":
            raise UserError("gptq: order=activation takes columns of all blocks by turns; it needs scales=static")


Step = Awq | SmoothQuant | Rotate | Clip | FourOverSix | Rtn | Gptq

KINDS: Mapping[str, type] = MappingProxyType(
    {
        "rtn": Rtn,
        "gptq": Gptq,
        "awq": Awq,
        "smoothquant": SmoothQuant,
        "rotate": Rotate,
        "clip": Clip,
        "four-over-six": FourOverSix,
    }
)
"""Every kind of step by its name."""

NAMED: Mapping[str, str] = MappingProxyType({"mr-gptq": "rotate+gptq"})
"""Methods that have a name of their own, and what they are made of (MR-GPTQ: arXiv 2509.23202)."""

SLOTS = ((Awq, SmoothQuant), (Rotate,), (FourOverSix,), (Clip,), (Rtn, Gptq))
"""The order in which steps run; of each of these at most one."""


class Method:
    """What is done to a model's weights before and while they are rounded.

    Parameters
    ----------
    kind : str, optional
        A name in `KINDS` or `NAMED`; ``Method()`` rounds to nearest.
    options
        Of that kind's record.

    Attributes
    ----------
    steps : tuple of Step
        In the order in which they run; the last one rounds.
    """

    __slots__ = ("steps",)
    steps: tuple[Step, ...]

    def __init__(self, kind: str = "rtn", **options: Any) -> None:
        if kind in NAMED and not options:
            steps = read_method(NAMED[kind]).steps
        else:
            steps = (_step(kind, options),)
        object.__setattr__(self, "steps", steps)

    @classmethod
    def of(cls, *steps: Step) -> Method:
        """A method of these steps.

        Raises
        ------
        UserError
            Two of them want the same place.
        """
        ordered: list[Step] = []
        for slot in SLOTS:
            found = [step for step in steps if isinstance(step, slot)]
            if len(set(found)) > 1:
                names = " and ".join(name_of(step) for step in found)
                raise UserError(f"a method has one step of a kind: {names} want the same place; leave one out")
            ordered += found[:1]
        method = object.__new__(cls)
        object.__setattr__(method, "steps", tuple(ordered))
        return method

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to {name!r}: a method is a record; add methods up")

    def __add__(self, other: Method) -> Method:
        return Method.of(*self.steps, *other.steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Method) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Method.of({', '.join(map(repr, self.steps))})"

    def __str__(self) -> str:
        """As `read_method` takes it: ``rotate:points=64+gptq``."""
        return "+".join(map(_text, self.steps))

    @property
    def _key(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if not isinstance(step, Rtn))

    def find(self, kind: type[Any]) -> Any:
        """The step of this kind, or None."""
        return next((step for step in self.steps if isinstance(step, kind)), None)

    def format_of(self, fmt: BlockFormat) -> BlockFormat:
        """The format that weights are rounded to: `fmt`, or its four-over-six sibling.

        Raises
        ------
        UserError
            The format has no such choice.
        """
        if self.find(FourOverSix) is None:
            return fmt
        numbers = fmt.rule.numbers
        if fmt.rule.four_over_six_base is None or numbers is None or fmt.fine is not None or numbers.largest != 6:
            raise UserError(
                f"four-over-six maps blocks of E2M1 under E4M3 scales to 6 or 4, and {fmt.name} has other scales; "
                "use nvfp4 or one of its kin, or clip with factors"
            )
        if fmt.four_over_six != "off":
            return fmt
        cap = 256 if numbers.two_level else 448  # room for scales that grow by 1.5
        rule = te_rule(f"te-cap-{cap}", cap=cap, headroom=numbers.headroom, two_level=numbers.two_level)
        return dataclasses.replace(fmt, name=f"{fmt.name}-4over6", rule=rule, four_over_six="mse")

    @property
    def rotates_inputs(self) -> bool:
        """Whether inputs of layers are rotated while the model runs."""
        rotate = self.find(Rotate)
        return rotate is not None and rotate.where == "inputs"

    @property
    def rotates_stream(self) -> bool:
        """Whether a rotation of the stream is folded into the weights."""
        rotate = self.find(Rotate)
        return rotate is not None and rotate.where == "stream"

    @property
    def needs_inputs(self) -> bool:
        """Whether a calibration must show what flows into the layers."""
        return any(
            isinstance(step, Awq | SmoothQuant | Gptq) or (isinstance(step, Clip) and step.by == "hessian")
            for step in self.steps
        )


def name_of(step: Step) -> str:
    """The name in `KINDS` of a step's kind."""
    return next(name for name, kind in KINDS.items() if isinstance(step, kind))


def _text(step: Step) -> str:
    """A step as it is written, with what differs from the defaults."""
    changed = [
        f"{field.name}={_value_text(getattr(step, field.name))}"
        for field in dataclasses.fields(step)
        if getattr(step, field.name) != field.default
    ]
    return ":".join([name_of(step), *changed])


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "/".join(f"{item:g}" for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unknown(what: str, name: str, known: Mapping[str, Any] | list[str]) -> UserError:
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return UserError(f"there is no {what} {name!r}.{hint} Known are {', '.join(known) or 'none'}.")


def _step(kind: str, options: Mapping[str, Any]) -> Step:
    if kind not in KINDS:
        raise _unknown("method", kind, [*KINDS, *NAMED])
    known = {field.name: field for field in dataclasses.fields(KINDS[kind])}
    for option in options:
        if option not in known:
            raise _unknown(f"option of {kind}", option, known)
    return KINDS[kind](**options)


def _read_value(kind: str, option: str, text: str) -> Any:
    """The value of an option as its default's type has it."""
    fields = {field.name: field.default for field in dataclasses.fields(KINDS[kind])}
    if option not in fields:
        raise _unknown(f"option of {kind}", option, fields)
    default = fields[option]
    try:
        if isinstance(default, bool):
            return {"yes": True, "no": False}[text]
        if isinstance(default, tuple):
            return tuple(float(item) for item in text.split("/"))
        return type(default)(text)
    except (ValueError, KeyError):
        what = {bool: "yes or no", tuple: "numbers joined by /", int: "a whole number", float: "a number"}
        raise UserError(f"{kind}: {option} is {what[type(default)]}, not {text!r}") from None


def read_method(text: str) -> Method:
    """A method as a user writes it: steps joined by ``+``, options behind colons, ``rotate:points=64+gptq``.

    Raises
    ------
    UserError
        A step or option that there is not, a value that makes no sense, two steps for one place.
    """
    steps: list[Step] = []
    for part in text.split("+"):
        kind, *settings = part.strip().split(":")
        if kind in NAMED and not settings:
            steps += read_method(NAMED[kind]).steps
            continue
        if kind not in KINDS:
            raise _unknown("method", kind, [*KINDS, *NAMED])
        options = {}
        for setting in settings:
            option, equals, value = setting.partition("=")
            if not equals:
                raise UserError(f"{kind}: write an option as name=value, not {setting!r}")
            options[option] = _read_value(kind, option, value)
        steps.append(_step(kind, options))
    return Method.of(*steps)
