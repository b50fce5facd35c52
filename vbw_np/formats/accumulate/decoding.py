"""What a tensor core reads of a number: its significand as an integer, its exponent, and whether it is NaN or Inf."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..elements import E2M1, E2M3, E3M2, E4M3, E5M2, E8M0, UE4M3, ElementFormat
from ..errors import DtypeError, FormatError, unknown_name

FP16 = ElementFormat("fp16", 5, 10, bias=15, specials="ieee")
BF16 = ElementFormat("bf16", 8, 7, bias=127, specials="ieee")
TF32 = ElementFormat("tf32", 8, 10, bias=127, specials="ieee")
FP32 = ElementFormat("fp32", 8, 23, bias=127, specials="ieee")
"""Field widths only: their codes do not fit the bytes that `ElementFormat.encode` writes."""

OPERANDS: dict[str, ElementFormat] = {e.name: e for e in (FP16, BF16, TF32, E4M3, E5M2, E2M3, E3M2, E2M1)}
"""Formats that tensor cores multiply."""

SCALES: dict[str, ElementFormat] = {e.name: e for e in (E8M0, UE4M3)}
"""Formats of the block scales that they multiply with."""


def get_operand(name: str) -> ElementFormat:
    """An operand's format by its name."""
    if name not in OPERANDS:
        raise unknown_name("operand of a tensor core", name, OPERANDS)
    return OPERANDS[name]


@dataclass(frozen=True)
class Parts:
    """Numbers taken apart: value = significand * 2**(exponent - fraction_bits), unless `nan` or `inf`.

    Attributes
    ----------
    significand : int64
        With its sign; below 2**(fraction_bits + 1). Subnormals keep the smallest exponent and are not normalised. Of
        Inf it is 1 or -1, of NaN 0.
    exponent : int64
    fraction_bits : int
    nan, inf : bool
    """

    significand: NDArray[np.int64]
    exponent: NDArray[np.int64]
    fraction_bits: int
    nan: NDArray[np.bool_]
    inf: NDArray[np.bool_]


def as_codes(x: NDArray, element: ElementFormat) -> NDArray[np.int64]:
    """The bit patterns of an operand as integers.

    Parameters
    ----------
    x : array of any shape
        Unsigned integers: codes (of tf32 the 32 bits of the float32, of which the core reads the upper 19). Or the
        floating-point dtype of the same bits: float16 for fp16, float32 for tf32 and fp32.

    Raises
    ------
    DtypeError, FormatError
    """
    x = np.asarray(x)
    if (element.name, x.dtype) in (("fp16", np.float16), ("tf32", np.float32), ("fp32", np.float32)):
        x = x.view(f"u{x.dtype.itemsize}")
    if x.dtype.kind != "u":
        raise DtypeError(
            f"operands of dtype {x.dtype.name}: a tensor core reads bits, so {element.name} operands are codes in an "
            f"array of unsigned integers; encode them first (for example vbw_np.formats.E4M3.encode(x))"
        )
    codes = x.astype(np.int64)
    if element.name == "tf32":
        return codes >> 13
    if codes.size and codes.max() >> element.bits:
        raise FormatError(f"{element.name} has the codes 0 to {(1 << element.bits) - 1}, not {codes.max()}")
    return codes


def take_apart(x: NDArray, element: ElementFormat) -> Parts:
    """Significands and exponents of an array of codes."""
    codes = as_codes(x, element)
    width = element.mantissa_bits
    magnitude = codes & ((1 << (element.exponent_bits + width)) - 1)
    field, mantissa = magnitude >> width, magnitude & ((1 << width) - 1)
    none = np.zeros(codes.shape, bool)
    if element.specials == "e8m0":
        return Parts(np.where(codes == 255, 0, 1), field - element.bias, 0, codes == 255, none)
    significand = mantissa + ((field > 0).astype(np.int64) << width)
    exponent = np.maximum(field, 1) - element.bias
    nan, inf = none, none
    if element.specials == "last":
        nan = magnitude == (1 << (element.exponent_bits + width)) - 1
    elif element.specials == "ieee":
        top = field == (1 << element.exponent_bits) - 1
        nan, inf = top & (mantissa != 0), top & (mantissa == 0)
        significand = np.where(inf, 1, significand)
    significand = np.where(nan, 0, significand)
    if element.signed:
        significand = np.where(codes & element.sign_mask, -significand, significand)
    return Parts(significand, exponent, width, nan, inf)
