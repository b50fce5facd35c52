"""Scale rules: from a block's amax to its scale, and from an element to the quotient that gets rounded.

A rule is data: a `ScaleRule` record of small functions, all float32, in a stated order of operations, because
two orders that agree on paper differ in the last bit and then in a code. Notation: `amax_b` the largest magnitude
of a block, `amax` that of the tensor (or row), `s` the decoded block scale, `g` the producer's stored tensor-level
number. Division, multiplication and addition are each rounded once to float32.

============ =======================================  ==============================  ======================
rule         block scale                              quotient                        stored `g`
============ =======================================  ==============================  ======================
mx-floor     E8M0 of floor(log2 amax_b) - emax        x / s                           none
mx-even      the same of amax_b's bits + 2**21        x / s                           none
mx-ceil      E8M0 of ceil(log2 amax_b) - emax         x / s                           none
mx-rceil     E8M0 of ceil(log2(amax_b / 6))           x / s                           none
te           E4M3(min(amax_b * (S * (1/6)), 448))     clip(x * min(1/(s * (1/S)), M)) amax; S = 2688 / amax
absmax       amax_b / 6 (7 for INT4, 1 for NF4)       x / s                           none
============ =======================================  ==============================  ======================

No E8M0 scale of these is above 2**(127 - emax): a finite block stays finite. The producers' own rules are in
`profiles.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from .elements import E4M3, E8M0, ElementFormat

FLOAT32_MAX = np.float32(np.finfo(np.float32).max)
ONE = np.float32(1)
LEAST_MULTIPLIER = float(ONE / FLOAT32_MAX)
"""1 / S where S is as large as it can be: what a tensor-level scale of our own is at least (a float32 subnormal)."""
_MANTISSA = np.uint32(0x7FFFFF)


@dataclass(frozen=True)
class RuleNumbers:
    """A scale rule as numbers, for whoever computes by it without calling its functions (the fast kernels).

    Parameters
    ----------
    family : {"mx", "te", "absmax"}
        Which of the three definitions of this module: `mx_rule`, `te_rule` or `absmax_rule`.
    exponent : {"floor", "even", "ceil", "rceil"} or ""
        How an MX rule rounds the logarithm of amax.
    largest, cap, headroom, least : float
        As in `te_rule`; `absmax` has `largest` alone.
    two_level : bool
        Whether there is a tensor-level scale.
    """

    family: str
    exponent: str = ""
    largest: float = 6.0
    cap: float = 448.0
    headroom: float = 1.0
    least: float = 0.0
    two_level: bool = False

    @property
    def inverse(self) -> np.float32:
        """What a block's amax times S is multiplied with: 1 / (largest * headroom) in float32."""
        return ONE / np.float32(self.largest * self.headroom)

    @property
    def range(self) -> np.float32:
        """Largest element times largest block scale: what the tensor's amax is mapped to."""
        return np.float32(self.cap * self.largest)


def _made_of(numbers: RuleNumbers, *functions: Callable) -> tuple[Callable, ...]:
    """The functions of a rule, marked with the numbers that they were made of."""
    for function in functions:
        function.numbers = numbers  # type: ignore[attr-defined]
    return functions


@dataclass(frozen=True)
class AffineRule:
    """How a producer makes codes of whole blocks, where more than the largest magnitude decides.

    Parameters
    ----------
    fit : (blocks float32 (..., blocks, block)) -> (scales, offsets or None, inner scales, inner offsets or None)
        float32 (..., blocks) each. The inner numbers are those that the encoder divides with, before they are rounded
        to what is stored. A fifth array, where there is one, is what the container keeps of them, uint8
        (`PackedTensor.headers`).
    encode : (blocks, inner scales, inner offsets) -> uint8 codes of the blocks' shape
    group : int
        Blocks of a row whose scales are fitted together, since they share numbers: 8 of Q4_K.
    """

    fit: Callable[[np.ndarray], tuple[np.ndarray | None, ...]]
    encode: Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
    group: int = 1


@dataclass(frozen=True)
class ScaleRule:
    """How one producer forms scales. Every function takes and returns float32 unless said otherwise.

    Parameters
    ----------
    name, summary : str
    scale_element : ElementFormat or None
        The block scale's format; None for float32.
    block : (amax_b, g) -> uint8 codes, or float32 where `scale_element` is None
    quotient : (x, s, g) -> what is rounded to an element
    stored : (amax) -> g, or None for a rule of one level
    multiplier : (g) -> the factor that decoding multiplies with
    four_over_six_base : (amax_b, g) -> the unrounded scale that four-over-six multiplies by 1 and 1.5
    range : float
        Largest element times largest block scale: what the tensor's amax is mapped to.
    ragged_quotient : as quotient, optional
        Where a producer treats a ragged last block of a flat format otherwise.
    affine : AffineRule, optional
        For scales that come with a sign, a zero point or a minimum: it takes the place of `block` and `quotient`.
    skip_nan : bool
        A block's amax leaves NaN out, as the comparison `amax < fabsf(x)` in C does.
    told : RuleNumbers, optional
        The numbers it was made of, for whoever explains it; fast kernels may not know its scale element (`numbers`).
    """

    name: str
    summary: str
    scale_element: ElementFormat | None
    block: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    quotient: Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
    stored: Callable[[np.ndarray], np.ndarray] | None = None
    multiplier: Callable[[np.ndarray], np.ndarray] = lambda g: g
    four_over_six_base: Callable[[np.ndarray, np.ndarray | None], np.ndarray] | None = None
    range: float = 2688.0
    ragged_quotient: Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray] | None = None
    affine: AffineRule | None = None
    skip_nan: bool = False
    told: RuleNumbers | None = None

    @property
    def two_level(self) -> bool:
        """Whether there is a tensor-level scale beside the block scales."""
        return self.stored is not None

    def stored_of(self, multiplier: np.ndarray) -> np.ndarray:
        """The stored number of a multiplier, for a tensor that has only this; the inverse of `multiplier`."""
        given = np.asarray(multiplier, np.float32)
        with np.errstate(divide="ignore", over="ignore"):
            convention = {"multiplier": given, "reciprocal": ONE / given, "amax": given * np.float32(self.range)}
            return np.minimum(convention[self.convention], FLOAT32_MAX)[()]

    @property
    def convention(self) -> str:
        """What the stored number is, as `multiplier` shows: "amax", "multiplier" (amax / range) or "reciprocal"."""
        factor = float(self.multiplier(np.float32(2)))
        return {2.0: "multiplier", 0.5: "reciprocal"}.get(factor, "amax")

    @property
    def numbers(self) -> RuleNumbers | None:
        """The rule as numbers, where all of its functions were made of the same; None for arithmetic of its own."""
        if self.affine is not None or self.ragged_quotient is not None:
            return None
        numbers = getattr(self.block, "numbers", None)
        functions = [self.quotient, *([self.stored, self.multiplier] if self.two_level else [])]
        same = all(f is divide_by_scale or getattr(f, "numbers", None) is numbers for f in functions)
        return numbers if same and numbers is not None and numbers.two_level == self.two_level else None


def bits_of(x: np.ndarray) -> np.ndarray:
    """The uint32 bit patterns of float32 numbers."""
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def e8m0_floor(amax: np.ndarray, emax: int = 2) -> np.ndarray:
    """OCP MX section 6.3: the exponent field of amax, less the element's emax; clamped to 0 (zero block: 0)."""
    exponent = (bits_of(amax) >> np.uint32(23)).astype(np.int32)
    return _e8m0(exponent - emax, amax, emax)


def e8m0_even(amax: np.ndarray, emax: int = 2) -> np.ndarray:
    """Round amax to the element's own mantissa width first: add 2**21 to the bits, so 1.75 * 2**k rounds up."""
    exponent = ((bits_of(amax) + np.uint32(0x200000)) >> np.uint32(23)).astype(np.int32)
    return _e8m0(exponent - emax, amax, emax)


def e8m0_ceil(amax: np.ndarray, emax: int = 2) -> np.ndarray:
    """The exponent field, plus one where any mantissa bit is set."""
    bits = bits_of(amax)
    exponent = (bits >> np.uint32(23)).astype(np.int32) + ((bits & _MANTISSA) != 0)
    return _e8m0(exponent - emax, amax, emax)


def e8m0_rceil(amax: np.ndarray, largest: float = 6.0) -> np.ndarray:
    """The least power of two not below amax / 6, from the bits of the float32 quotient.

    It clips no element, but where the largest element under that scale would be above float32's range.
    """
    return e8m0_round_up(np.asarray(amax, np.float32) / np.float32(largest), math.frexp(largest)[1] - 1)


def e8m0_round_up(d: np.ndarray, emax: int = 0) -> np.ndarray:
    """The least E8M0 code whose value is not below d; d subnormal gives 0 up to 2**-127 and 1 above."""
    bits = bits_of(d)
    exponent, mantissa = (bits >> np.uint32(23)).astype(np.int32), bits & _MANTISSA
    byte = np.where(exponent == 0, mantissa > np.uint32(0x400000), exponent + (mantissa != 0))
    return _e8m0(byte, d, emax)


def _e8m0(byte: np.ndarray, amax: np.ndarray, emax: int) -> np.ndarray:
    """Clamp to codes under which the largest element, below 2**(emax + 1), decodes to a finite float32.

    A block with NaN or Inf gets the NaN code 255. A rule that rounds up reaches the bound where amax is near float32's
    largest number; the block's largest elements then saturate, as they do under any rule that rounds down.
    """
    code = np.clip(byte, 0, 254 - emax).astype(np.uint8)
    code[~np.isfinite(amax)] = 255
    return code


def divide_by_scale(x: np.ndarray, s: np.ndarray, g: np.ndarray | None = None) -> np.ndarray:
    """`x / s`, one division; 0 where the scale is 0 (an all-zero block)."""
    safe = np.where(s == 0, ONE, s)
    with np.errstate(over="ignore", invalid="ignore"):
        return x / safe


def mx_rule(
    name: str, exponent: Callable[[np.ndarray], np.ndarray], summary: str, largest: float | None = None
) -> ScaleRule:
    """An MX rule: an exponent function, and an exact division by a power of two.

    `largest`: what quotients are clipped to, for integer elements whose lowest code has no opposite.
    """

    def block(amax_b: np.ndarray, g: np.ndarray | None) -> np.ndarray:
        return exponent(amax_b)

    if exponent in _EXPONENTS:
        _made_of(RuleNumbers("mx", _EXPONENTS[exponent]), block)
    if largest is None:
        return ScaleRule(name, summary, E8M0, block, divide_by_scale)
    top = np.float32(largest)
    return ScaleRule(name, summary, E8M0, block, lambda x, s, g: np.clip(divide_by_scale(x, s), -top, top))


_EXPONENTS = {e8m0_floor: "floor", e8m0_even: "even", e8m0_ceil: "ceil", e8m0_rceil: "rceil"}


def share_of(amax: np.ndarray, top: np.float32) -> np.ndarray:
    """`amax / top`, and one float32 less where that times `top` would round up to Inf (amax at float32's largest)."""
    share = np.asarray(amax, np.float32) / top
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(np.isfinite(share) & np.isinf(share * top), np.nextafter(share, np.float32(0)), share)


def absmax_rule(largest: float) -> ScaleRule:
    """One float32 scale a block: amax_b / largest, one division; the quotient is x / s, one division."""
    top = np.float32(largest)

    def block(amax_b: np.ndarray, g: np.ndarray | None) -> np.ndarray:
        return share_of(amax_b, top)

    _made_of(RuleNumbers("absmax", largest=largest), block)
    return ScaleRule(f"absmax-{largest:g}", f"scale = amax / {largest:g} in float32", None, block, divide_by_scale)


def te_encode_scale(amax: np.ndarray, cap: float = 448.0, largest: float = 6.0) -> np.ndarray:
    """`S = min((cap * largest) / amax, FLT_MAX)`, and 1 where that is 0 (amax Inf) or amax is 0."""
    amax = np.asarray(amax, np.float32)
    with np.errstate(divide="ignore", over="ignore"):
        s_enc = np.minimum(np.float32(cap * largest) / amax, FLOAT32_MAX)
    return np.where((s_enc == 0) | (amax == 0), ONE, s_enc).astype(np.float32)


def te_rule(
    name: str = "te",
    cap: float = 448.0,
    largest: float = 6.0,
    headroom: float = 1.0,
    two_level: bool = True,
    least: float = LEAST_MULTIPLIER,
    element: ElementFormat = E4M3,
) -> ScaleRule:
    """TransformerEngine's NVFP4 (and arXiv:2509.25149 appendix B), operation by operation.

    ::

        S    = min((cap * largest) / amax, FLT_MAX); 1 where that is 0 or amax is 0       te_encode_scale
        s_b  = E4M3(clip(min(amax_b * (S * (1 / largest)), FLT_MAX), -448, 448))          nearest even
        e_b  = min(1 / (s_b * (1 / S)), FLT_MAX)
        q    = clip(x * e_b, -largest, largest)

    `cap` is 256 when four-over-six may enlarge a scale by 1.5; `largest` is 7 for INT4 elements. `headroom` (16/17 in
    Quartet II's unbiased stochastic rounding) shrinks the range that amax_b is mapped to, so that a scale which rounded
    down cannot push an element past the largest code: 1/largest becomes 1/(largest * headroom). One level: S is 1.
    Decoding multiplies with ``amax / (cap * largest)``. Where S stopped at FLT_MAX (amax below 7.9e-36), that is not
    what was encoded with; `least`, 1/FLT_MAX, is then what decoding multiplies with (0: as the producers do, whose
    values are then too small). `element`: of block scales; 448 is its largest number, where it is not E4M3.
    """
    numbers = RuleNumbers("te", "", largest, cap, headroom, least, two_level)

    def encode_scale(g: np.ndarray | None) -> np.ndarray:
        return te_encode_scale(g, cap, largest) if g is not None else ONE

    def block(amax_b: np.ndarray, g: np.ndarray | None) -> np.ndarray:
        with np.errstate(over="ignore"):
            scale = np.minimum(amax_b * (encode_scale(g) * numbers.inverse), FLOAT32_MAX)
        return element.encode(np.minimum(scale, np.float32(element.max)), "even")

    def base(amax_b: np.ndarray, g: np.ndarray | None) -> np.ndarray:
        return (amax_b / np.float32(largest)) * encode_scale(g)

    def quotient(x: np.ndarray, s: np.ndarray, g: np.ndarray | None) -> np.ndarray:
        s_dec = ONE / encode_scale(g)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            e_b = np.minimum(ONE / (s * s_dec), FLOAT32_MAX)
            return x * e_b

    stored = partial(np.asarray, dtype=np.float32)
    multiplier = partial(te_multiplier, numbers=numbers)
    if element is E4M3:  # what computes by numbers alone knows no other scales
        _made_of(numbers, block, quotient, stored, multiplier)
    return ScaleRule(
        name,
        f"{element.name.upper()} block scale {'under one float32 scale a tensor' if two_level else 'alone'}",
        element,
        block,
        quotient,
        stored=stored if two_level else None,
        multiplier=multiplier,
        four_over_six_base=base if element is E4M3 else None,
        range=cap * largest,
        told=numbers,
    )


def te_multiplier(g: np.ndarray, numbers: RuleNumbers) -> np.ndarray:
    """`amax / (cap * largest)`, not below `least` (but 0 for amax 0)."""
    g = np.asarray(g, np.float32)
    multiplier = share_of(g, numbers.range)
    if not numbers.least:
        return multiplier
    return np.where(g > 0, np.maximum(multiplier, np.float32(numbers.least)), multiplier)


MX_FLOOR = mx_rule("mx-floor", e8m0_floor, "exponent of amax (OCP MX v1.0)")
MX_EVEN = mx_rule("mx-even", e8m0_even, "exponent of amax rounded to one mantissa bit")
MX_CEIL = mx_rule("mx-ceil", e8m0_ceil, "exponent of amax rounded up")
MX_RCEIL = mx_rule("mx-rceil", e8m0_rceil, "power of two not below amax / 6")
TE = te_rule()
TE_ONE_LEVEL = te_rule("te-one-level", two_level=False)
