"""Element formats: what one code means, and how one number becomes a code.

Two kinds of records share one interface (`decode`, `encode`, `table`, `bits`, `max`):

- `ElementFormat`: a small sign-magnitude float given by its field widths (E2M1, E4M3, E5M2, E8M0, ...);
- `Codebook`: an explicit list of levels (INT4, NF4, bitsandbytes' FP4, Lloyd-Max, quantiles).

Rounding is a *table of thresholds*: with the magnitudes `v[0] < v[1] < ...` of a format, `|x|` gets the index
`i` of the last threshold not above it. A threshold is the midpoint of its two neighbors (exact in float32,
because a midpoint needs one bit more than the format), or the float32 just above the midpoint where a tie must
go down. So every tie rule is the same loop over another table, and a kernel can do the same with a few compares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .errors import DtypeError, FormatError, NonFiniteError, ShapeError, unknown_name
from .random_bits import uniform24

TIES = ("even", "zero", "away", "stochastic", "stochastic-8")
"""`even`: to the code whose lowest bit is 0 (IEEE). `zero`, `away`: toward or away from zero. `stochastic`: up
with probability equal to the fraction, 24-bit uniforms. `stochastic-8`: the hardware's 8-random-bit mode."""

SIGNED_ZERO = ("keep", "drop", "never", "negative")
"""What becomes of the sign of zero. `keep`: as IEEE. `drop`: the input -0 becomes +0, but a tiny negative number
keeps its sign. `never`: code 8 is never written. `negative`: a zero input of either sign becomes -0."""


def as_float32(x: object, what: str = "x") -> np.ndarray:
    """Convert an input to a float32 array, or refuse it.

    float16 and bfloat16 convert exactly; float64 is rounded to nearest (and refused where a finite value would
    overflow); integers, bools, complex numbers and objects are refused, because a silent conversion hides bugs.

    Raises
    ------
    DtypeError
        For a dtype that is not floating point, or a finite float64 beyond float32's range.
    """
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise DtypeError(f"{what} has masked entries, which no format can hold; say what they are: {what}.filled(0)")
    array = np.asarray(x)
    if array.dtype == np.float32:
        return array
    name = array.dtype.name
    if name == "float16" or name == "bfloat16":
        return array.astype(np.float32)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            converted = array.astype(np.float32)
        lost = np.isinf(converted) & np.isfinite(array)
        if lost.any():
            where = tuple(int(i) for i in np.argwhere(np.atleast_1d(lost))[0])
            raise DtypeError(
                f"{what}{list(where)} is finite in {name} but overflows float32, in which all arithmetic is done; "
                "scale the array down first"
            )
        return converted
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        raise DtypeError(
            f"{what} has dtype V2, two bytes that NumPy cannot name: bfloat16 from an .npy file comes back so. "
            f"Say what they are: import ml_dtypes; {what} = {what}.view(ml_dtypes.bfloat16), or without that package "
            f"{what} = (({what}.view(np.uint16).astype(np.uint32)) << 16).view(np.float32)"
        )
    raise DtypeError(
        f"{what} has dtype {name}; formats take floating-point numbers (float32; float16, bfloat16 and float64 are "
        f"converted). Convert it yourself if that is meant: {what}.astype(np.float32)"
    )


def first_index(mask: np.ndarray) -> tuple[int, ...]:
    """The first index, in row-major order, at which a boolean mask is true."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape)) if mask.ndim else ()


def check_random(random: np.ndarray | None, shape: tuple[int, ...], ties: str) -> np.ndarray:
    """The random integers of a stochastic rounding, checked."""
    if random is None:
        raise FormatError(
            f"ties={ties!r} needs random bits: pass random=, a uint32 array of shape {shape} "
            "(for example vbw_np.formats.random_bits.random_bits(x.shape, seed))"
        )
    random = np.asarray(random)
    if random.dtype != np.uint32:
        raise DtypeError(f"random bits have dtype {random.dtype.name}; they must be uint32, 32 random bits an element")
    if random.shape != shape:
        raise ShapeError(f"random bits have shape {random.shape}; they must have the input's shape {shape}")
    return random


def _check_ties(ties: str) -> None:
    if ties not in TIES:
        raise unknown_name("rounding (ties=)", ties, TIES)


def _pick_thresholds(low: np.ndarray, high: np.ndarray, ties: str, high_even: np.ndarray) -> np.ndarray:
    """Thresholds between ascending levels: `high` is chosen when x >= threshold.

    `low` and `high` are float64 neighbors; midpoints are exact. Where a tie goes down the threshold is the next
    float32 above the midpoint. For signed levels `zero` and `away` depend on the side of zero.
    """
    return _thresholds_at(((low + high) * 0.5).astype(np.float32), ties, high_even)


def _thresholds_at(midpoint: np.ndarray, ties: str, high_even: np.ndarray) -> np.ndarray:
    """The thresholds where float32 cuts between levels are given."""
    above = np.nextafter(midpoint, np.float32(np.inf))
    if ties == "down":
        return above
    if ties == "zero":
        return np.where(midpoint > 0, above, midpoint).astype(np.float32)
    if ties == "away":
        return np.where(midpoint >= 0, midpoint, above).astype(np.float32)
    return np.where(high_even, midpoint, above).astype(np.float32)


def _count_thresholds(x: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many ascending thresholds are <= x, as uint8. NaN counts as 0 for short tables."""
    if len(thresholds) > 16:
        return np.searchsorted(thresholds, x, side="right").astype(np.uint8 if len(thresholds) < 256 else np.uint16)
    index = np.zeros(x.shape, np.uint8)
    for threshold in thresholds:
        index += x >= threshold
    return index


@dataclass(frozen=True)
class ElementFormat:
    """A small float: sign, exponent and mantissa fields, bias, and what its special codes are.

    Parameters
    ----------
    name : str
    exponent_bits, mantissa_bits, bias : int
    signed : bool
        Whether the top bit is a sign (E8M0 and UE4M3 have none).
    specials : {"none", "ieee", "last", "e8m0"}
        `none`: every code is a finite number (E2M1, E2M3, E3M2). `ieee`: the top exponent holds Inf and NaN
        (E5M2). `last`: only the all-ones magnitude is NaN (E4M3, as in arXiv:2209.05433). `e8m0`: code 0xFF is
        NaN, there is no zero and no subnormal (OCP MX v1.0, table 7).
    written_nan : int or None
        The code, without its sign, that a producer writes for NaN where it is another than the first quiet one, or
        where the format has no NaN at all.

    Notes
    -----
    Sources: OCP Microscaling Formats v1.0 section 5.3, tables 1 to 7; arXiv:2209.05433 table 1.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    signed: bool = True
    specials: str = "none"
    written_nan: int | None = None

    @property
    def bits(self) -> int:
        """Width of a code."""
        return int(self.signed) + self.exponent_bits + self.mantissa_bits

    @property
    def code_dtype(self) -> type:
        """What a code is kept in: uint8, or uint16 for the 16-bit floats."""
        return np.uint8 if self.bits <= 8 else np.uint16

    @property
    def codes(self) -> np.ndarray:
        """Every code, ascending, as `code_dtype`."""
        return np.arange(1 << self.bits, dtype=self.code_dtype)

    @property
    def sign_mask(self) -> int:
        """The sign bit's mask (0 for an unsigned format)."""
        return 1 << (self.bits - 1) if self.signed else 0

    @cached_property
    def max_code(self) -> int:
        """The code of the largest finite magnitude."""
        all_ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        if self.specials == "ieee":
            return all_ones - (1 << self.mantissa_bits)
        return all_ones - (self.specials in ("last", "e8m0"))

    @cached_property
    def nan_code(self) -> int | None:
        """The positive NaN's code, or None where the format has no NaN."""
        if self.written_nan is not None:
            return self.written_nan
        if self.specials == "none":
            return None
        all_ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        return all_ones if self.specials != "ieee" else all_ones - (1 << (self.mantissa_bits - 1)) + 1

    @cached_property
    def inf_code(self) -> int | None:
        """The positive infinity's code, or None."""
        return self.max_code + 1 if self.specials == "ieee" else None

    def _magnitude(self, code: int) -> float:
        """The finite value that a magnitude code would have, by the fields alone (float64, exact)."""
        exponent, mantissa = code >> self.mantissa_bits, code & ((1 << self.mantissa_bits) - 1)
        if exponent == 0 and self.specials != "e8m0":
            return mantissa * 2.0 ** (1 - self.bias - self.mantissa_bits)
        return (1 + mantissa / (1 << self.mantissa_bits)) * 2.0 ** (exponent - self.bias)

    @cached_property
    def magnitudes(self) -> np.ndarray:
        """The finite non-negative values, ascending; index = magnitude code. float32, exact."""
        return np.array([self._magnitude(c) for c in range(self.max_code + 1)], np.float64).astype(np.float32)

    @cached_property
    def table(self) -> np.ndarray:
        """The value of every code, float32 (NaN and Inf included)."""
        positive = np.full(1 << (self.exponent_bits + self.mantissa_bits), np.nan, np.float32)
        positive[: self.max_code + 1] = self.magnitudes
        if self.inf_code is not None:
            positive[self.inf_code] = np.inf
        table = np.concatenate([positive, -positive]) if self.signed else positive
        table.setflags(write=False)
        return table

    @property
    def max(self) -> float:
        """The largest finite value."""
        return float(self.magnitudes[-1])

    @property
    def smallest(self) -> float:
        """The smallest positive value (a subnormal where the format has them)."""
        return float(self.magnitudes[0 if self.specials == "e8m0" else 1])

    def thresholds(self, ties: str = "even", saturate: bool = True) -> np.ndarray:
        """The float32 thresholds of a deterministic rounding: magnitude code = number of thresholds <= |x|.

        With `saturate=False` one more threshold stands above the largest value, halfway to where the next value
        would be: E4M3 overflows above 464, E5M2 from 61440 on (its tie goes up, to even).
        """
        _check_ties(ties)
        values = self.magnitudes.astype(np.float64)
        if not saturate:
            values = np.append(values, self._magnitude(self.max_code + 1))
        codes = np.arange(1, len(values))
        return _pick_thresholds(values[:-1], values[1:], ties, codes % 2 == 0)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The float32 values of an array of codes (any integer dtype; each below `2**bits`)."""
        return self.table[check_codes(codes, self)]

    def encode(
        self,
        x: np.ndarray,
        ties: str = "even",
        saturate: bool = True,
        *,
        random: np.ndarray | None = None,
        signed_zero: str = "keep",
        nan_code: int | None = None,
    ) -> np.ndarray:
        """Round numbers to codes.

        Parameters
        ----------
        x : float array of any shape
        ties : one of `TIES`
        saturate : bool
            True: beyond the largest value, Inf included, comes the largest value. False: overflow gives Inf where
            the format has it, else NaN; refused where it has neither (E2M1, E2M3, E3M2).
        random : uint32 array of x's shape, for the stochastic modes (`stochastic-8` uses the low 8 bits)
        signed_zero : one of `SIGNED_ZERO`
        nan_code : int, optional
            The code for NaN inputs. Default: the format's NaN with the input's sign; a format without NaN refuses.

        Returns
        -------
        array of `code_dtype`, of x's shape.

        Raises
        ------
        NonFiniteError
            NaN without a code for it; the message names the first index.
        FormatError
            Unknown rule, missing random bits, or `saturate=False` where overflow has no code.
        """
        _check_ties(ties)
        if signed_zero not in SIGNED_ZERO:
            raise unknown_name("signed_zero rule", signed_zero, SIGNED_ZERO)
        if not saturate and self.specials == "none":
            raise FormatError(f"{self.name} has neither Inf nor NaN, so overflow has no code: use saturate=True")
        x = as_float32(x)
        magnitude = np.abs(x)
        if ties.startswith("stochastic"):
            code = self._stochastic(magnitude, ties, check_random(random, x.shape, ties))
        else:
            code = _count_thresholds(magnitude, self.thresholds(ties, saturate=True))
        if not saturate:
            rounding = ties if not ties.startswith("stochastic") else "even"
            overflow = magnitude >= self.thresholds(rounding, saturate=False)[-1]
            if self.specials == "e8m0":  # there is no code for zero either
                overflow |= magnitude == 0
            code[overflow] = self.inf_code if self.inf_code is not None else self.nan_code
        if self.signed:
            code |= self._sign(x, code, signed_zero)
        elif self.nan_code is not None:
            code[x < 0] = self.nan_code
        return self._place_nans(x, code, nan_code)

    def _sign(self, x: np.ndarray, code: np.ndarray, rule: str) -> np.ndarray:
        """The sign bits, in place, by the rule for zeros."""
        negative = np.signbit(x) if rule == "keep" else x < 0
        if rule == "never":
            negative &= code != 0
        elif rule == "negative":
            negative |= x == 0
        return negative.astype(self.code_dtype) * self.code_dtype(self.sign_mask)

    def _place_nans(self, x: np.ndarray, code: np.ndarray, nan_code: int | None) -> np.ndarray:
        is_nan = np.isnan(x)
        if not is_nan.any():
            return code
        if nan_code is not None:
            code[is_nan] = nan_code
        elif self.nan_code is not None:
            signs = np.signbit(x[is_nan]) & self.signed
            code[is_nan] = self.nan_code | signs.astype(self.code_dtype) * self.code_dtype(self.sign_mask)
        else:
            raise NonFiniteError(
                f"x{list(first_index(is_nan))} is NaN and {self.name} has no code for NaN; "
                "remove it, or choose one with nan_code="
            )
        return code

    def _stochastic(self, magnitude: np.ndarray, ties: str, random: np.ndarray) -> np.ndarray:
        if ties == "stochastic-8":
            return self._stochastic_8_bit(magnitude, random)
        # Floor, then up when u < (|x| - low) / step. All three operations are exact in float32: |x| and low are
        # within a factor of two (or low is 0), and a step is a power of two.
        values = self.magnitudes
        code = _count_thresholds(magnitude, values[1:])
        step = np.append(np.diff(values.astype(np.float64)), 1.0).astype(np.float32)
        with np.errstate(invalid="ignore"):
            fraction = (magnitude - values[code]) * (np.float32(1) / step)[code]
        below_max = code < self.max_code
        code += (uniform24(random) < fraction) & below_max
        return code

    def _stochastic_8_bit(self, magnitude: np.ndarray, random: np.ndarray) -> np.ndarray:
        """Add r/256 of the local step, rounded once to float32 (a fused multiply-add), and truncate.

        The sum is formed in float64, where it is exact or harmless, and rounded once: that *is* the fused
        operation `cvt.rs.satfinite.e2m1x4.f32` is modelled by in TransformerEngine's software twin.
        """
        values = self.magnitudes
        step = np.append(np.diff(values.astype(np.float64)), 0.0)
        step[-1] = step[-2]
        low = _count_thresholds(magnitude, values[1:])
        fraction = (random & np.uint32(0xFF)).astype(np.float64) * 2.0**-8
        with np.errstate(over="ignore"):
            dithered = (magnitude.astype(np.float64) + fraction * step[low]).astype(np.float32)
        return _count_thresholds(dithered, values[1:])

    def __repr__(self) -> str:
        return f"<{self.name}: {self.bits} bits, largest {self.max:g}, smallest {self.smallest:g}>"


@dataclass(frozen=True, repr=False)
class FlaggedFormat(ElementFormat):
    """A format of numbers that are never negative, whose highest bit says something else and not the sign."""

    @cached_property
    def table(self) -> np.ndarray:
        """The value of every code, float32: the same with and without the flag."""
        half = super().table[: 1 << (self.bits - 1)]
        table = np.concatenate([half, half])
        table.setflags(write=False)
        return table


@dataclass(frozen=True)
class Codebook:
    """An explicit list of levels: `table[code]` is the value.

    Parameters
    ----------
    name : str
    levels : tuple of float
        Value of each code, in code order (need not ascend; repeated values, as two zeros, are allowed).
    bits : int
    cuts : tuple of float, optional
        Thresholds between ascending levels where a producer's are not the midpoints.
    ties : str
        The rule at a cut when the caller names none: `down` takes the lower level, else one of `TIES`.
    write_order : tuple of int, optional
        The codes in ascending order, where a producer's order keeps two codes of one level (two zeros).

    Notes
    -----
    `even` means the code with lowest bit 0; for two's complement integers that is the even integer.
    """

    name: str
    levels: tuple[float, ...]
    bits: int = 4
    cuts: tuple[float, ...] = ()
    ties: str = "even"
    write_order: tuple[int, ...] = ()
    signed: bool = field(default=True, repr=False)

    nan_code = None

    @property
    def codes(self) -> np.ndarray:
        """Every code that has a level, ascending, as uint8."""
        return np.arange(len(self.levels), dtype=np.uint8)

    @cached_property
    def table(self) -> np.ndarray:
        """The value of every code, float32."""
        table = np.zeros(1 << self.bits, np.float32)
        table[: len(self.levels)] = np.asarray(self.levels, np.float64).astype(np.float32)
        table.setflags(write=False)
        return table

    @cached_property
    def order(self) -> np.ndarray:
        """The codes in ascending order of their levels; of equal levels only the first is ever written."""
        if self.write_order:
            return np.array(self.write_order, np.uint8)
        levels = self.table[: len(self.levels)]
        codes = np.argsort(levels, kind="stable").astype(np.uint8)
        keep = np.concatenate([[True], np.diff(levels[codes]) > 0])
        return codes[keep]

    @property
    def max(self) -> float:
        """The largest level."""
        return float(self.table[self.order[-1]])

    @property
    def smallest(self) -> float:
        """The smallest positive level."""
        positive = self.table[self.table > 0]
        return float(positive.min())

    def thresholds(self, ties: str | None = None, saturate: bool = True) -> np.ndarray:
        """The float32 thresholds: position in `order` = number of thresholds <= x."""
        ties = ties or self.ties
        if ties != "down":
            _check_ties(ties)
        even = self.order[1:] % 2 == 0
        if self.cuts:
            return _thresholds_at(np.asarray(self.cuts, np.float64).astype(np.float32), ties, even)
        values = self.table[self.order].astype(np.float64)
        return _pick_thresholds(values[:-1], values[1:], ties, even)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The float32 values of an array of codes."""
        return self.table[check_codes(codes, self)]

    def encode(
        self,
        x: np.ndarray,
        ties: str | None = None,
        saturate: bool = True,
        *,
        random: np.ndarray | None = None,
        signed_zero: str = "drop",
        nan_code: int | None = None,
    ) -> np.ndarray:
        """Round numbers to the codes of the nearest levels; the parameters are those of `ElementFormat.encode`.

        A codebook always saturates. Stochastic rounding goes to the two neighboring levels with probabilities
        that keep the mean: up when `u < (x - low) / (high - low)`, one float32 subtraction and one division.
        """
        if not saturate:
            raise FormatError(f"codebook {self.name} has no code for overflow: use saturate=True")
        x = as_float32(x)
        ties = ties or self.ties
        if ties == "stochastic-8":
            raise FormatError(f"the 8-random-bit rounding is defined for floats, not for codebook {self.name}")
        if ties == "stochastic":
            position = self._stochastic(x, check_random(random, x.shape, ties))
        else:
            position = _count_thresholds(x, self.thresholds(ties))
        code = self.order[position]
        is_nan = np.isnan(x)
        if is_nan.any():
            if nan_code is None:
                raise NonFiniteError(
                    f"x{list(first_index(is_nan))} is NaN and codebook {self.name} has no code for NaN; "
                    "remove it, or choose one with nan_code="
                )
            code[is_nan] = nan_code
        return code

    def _stochastic(self, x: np.ndarray, random: np.ndarray) -> np.ndarray:
        levels = self.table[self.order]
        x = np.clip(x, levels[0], levels[-1])
        low = np.minimum(_count_thresholds(x, levels[1:]), len(levels) - 2).astype(np.uint8)
        with np.errstate(invalid="ignore"):  # between two zeros
            fraction = (x - levels[low]) / (levels[low + 1] - levels[low])
        return low + (uniform24(random) < fraction).astype(np.uint8)

    def __repr__(self) -> str:
        return f"<codebook {self.name}: {len(self.levels)} levels, {self.bits} bits>"


def check_codes(codes: np.ndarray, element: ElementFormat | Codebook) -> np.ndarray:
    """Codes as an integer array within the element's range, or a FormatError naming the first bad one."""
    codes = np.asarray(codes)
    if codes.dtype.kind not in "ui":
        raise DtypeError(f"{element.name} codes have dtype {codes.dtype.name}; codes are integers (uint8)")
    if element.bits < 8 * codes.dtype.itemsize or codes.dtype.kind == "i":
        bad = (codes < 0) | (codes >= len(element.table))
        if bad.any():
            raise FormatError(
                f"code {int(codes[first_index(bad)])} at {list(first_index(bad))} is out of range: "
                f"{element.name} has the codes 0 to {len(element.table) - 1}"
            )
    return codes


E2M1 = ElementFormat("e2m1", 2, 1, bias=1)
E2M3 = ElementFormat("e2m3", 2, 3, bias=1)
E3M2 = ElementFormat("e3m2", 3, 2, bias=3)
E4M3 = ElementFormat("e4m3", 4, 3, bias=7, specials="last")
UE4M3 = ElementFormat("ue4m3", 4, 3, bias=7, signed=False, specials="last")
UE5M3 = ElementFormat("ue5m3", 5, 3, bias=15, signed=False, specials="last")
"""E4M3's precision over E5M2's range: 0xFE is 114,688, 0xFF NaN (arXiv:2509.17791; AMD's ALTO, `ue5m3_ops.py`)."""
E5M2 = ElementFormat("e5m2", 5, 2, bias=15, specials="ieee")
E8M0 = ElementFormat("e8m0", 8, 0, bias=127, signed=False, specials="e8m0")

INT4 = Codebook("int4", tuple(range(8)) + tuple(range(-8, 0)))
"""Two's complement, -8 to 7. Symmetric quantizers use a scale of amax/7, so that -8 never appears."""

INT4_TO_6 = Codebook("int4-to-6", tuple(k * 6 / 7 for k in INT4.levels), write_order=(*range(9, 16), *range(8)))
"""INT4 in -7..7, times 6/7, so that it reaches as far as E2M1 does; -8 is never written (IF4, arXiv:2603.28765)."""

FLAGGED_E4M3 = FlaggedFormat("e4m3-flagged", 4, 3, bias=7, specials="last")
"""E4M3 whose sign bit tells which grid the block's elements are of (IF4)."""

INT8 = Codebook("int8", tuple(range(128)) + tuple(range(-128, 0)), bits=8)
"""Two's complement, -128 to 127."""

UINT4 = Codebook("uint4", tuple(range(16)))
"""0 to 15: what a zero point or a minimum is taken from or added to."""

INT4_OFFSET = Codebook("int4-offset-8", tuple(range(-8, 8)))
"""-8 to 7, stored as 0 to 15."""

BF16 = ElementFormat("bf16", 8, 7, bias=127, specials="ieee")
FP16 = ElementFormat("fp16", 5, 10, bias=15, specials="ieee")

ELEMENTS: dict[str, ElementFormat | Codebook] = {
    e.name: e for e in (E2M1, E2M3, E3M2, E4M3, UE4M3, UE5M3, E5M2, E8M0, INT4, UINT4, INT4_OFFSET, INT8, BF16, FP16)
}


def get_element(name: str | ElementFormat | Codebook) -> ElementFormat | Codebook:
    """An element format by name (`e2m1`, `e4m3`, ...)."""
    if isinstance(name, (ElementFormat, Codebook)):
        return name
    if name not in ELEMENTS:
        raise unknown_name("element format", name, ELEMENTS)
    return ELEMENTS[name]
