"""Operands for the sums of tensor cores, the same on every machine: what MMA-Sim was run on, and our model is.

Kinds name a unit of `vbw_np.formats.accumulate`, the formats of both sides and of the scales. Each case of a kind draws
bit patterns from the counter-based generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vbw_np.formats.accumulate import ACCUMULATORS
from vbw_np.formats.accumulate.decoding import FP16, FP32, OPERANDS, SCALES
from vbw_np.formats.elements import ElementFormat
from vbw_np.formats.random_bits import random_bits

CASES = ("any", "narrow", "cancel", "zeros", "subnormal", "extreme", "special", "tiny", "edge", "alone", "tie")
"""`any`: finite codes, all as likely. `narrow`: exponents close to one another. `cancel`: products that cancel.
`zeros`: half of the operands, and c, are zeros of either sign. `subnormal`: the two smallest exponents. `extreme`: the
smallest and the largest exponent, scales over the whole range. `special`: NaN and Inf here and there. `tiny`: so small
that the exponent with which a zero counts decides the last bit of a subnormal result. `edge`: the smallest result (half
of it in fp16) and one product more, from row to row a power of two smaller. `alone`: a subnormal c beside zeros, or one
and a half times the smallest result. `tie`: c is 1, and what decides its last bit gets smaller from row to row."""

SMALL_ROWS = 24


@dataclass(frozen=True)
class Kind:
    """One kind of product: the unit and the formats that it is given."""

    unit: str
    a: str
    b: str
    scale: str | None = None
    block: int | None = None

    @property
    def name(self) -> str:
        scale = f"/{self.scale}-{self.block}" if self.scale else ""
        return f"{self.unit}/{self.a}-{self.b}{scale}"

    @property
    def length(self) -> int:
        return 2 * ACCUMULATORS[self.unit].terms


def kinds() -> list[Kind]:
    """Every unit that MMA-Sim has, with every pair of operands and every kind of scales that it takes."""
    found = []
    for unit in ACCUMULATORS.values():
        if unit.separate:  # MMA-Sim does not emulate it; the hardware's rows are what it is held to
            continue
        for a in unit.operands:
            for b in unit.operands:
                found += [Kind(unit.name, a, b, scale, block) for scale, block in unit.scales or ((None, None),)]
    return found


def case_input(kind: Kind, case: str, rows: int, draw: int = 0) -> dict[str, np.ndarray]:
    """Codes `a`, `b` (rows, K), `c` (rows,), and `scale_a`, `scale_b` (rows, K / block) where the kind has scales."""
    stream = 1000 * CASES.index(case) + 7 * draw
    unit, out = ACCUMULATORS[kind.unit], {}
    for i, side in enumerate("ab"):
        codes = _codes(OPERANDS[getattr(kind, side)], case, (rows, kind.length), stream + i)
        out[side] = codes
    if case == "cancel":
        half = kind.length // 2
        for side in "ab":
            pairs = out[side].reshape(rows, half, 2)
            pairs[..., 1] = pairs[..., 0]
        out["b"].reshape(rows, half, 2)[..., 1] ^= out["b"].dtype.type(_sign_bit(OPERANDS[kind.b]))
    c = FP16 if unit.output.dtype == "float16" else FP32
    out["c"] = _accumulators(c, case, rows, stream + 2).view(unit.output.dtype)
    if kind.scale:
        shape = (rows, kind.length // kind.block)
        for i, side in enumerate("ab"):
            out[f"scale_{side}"] = _scales(SCALES[kind.scale], case, shape, stream + 3 + i)
    if case == "tiny":
        _first_terms(out, kind)
    elif case in ("edge", "alone", "tie"):
        _few_terms(out, kind, case)
    return out


def _few_terms(out: dict[str, np.ndarray], kind: Kind, case: str) -> None:
    """Two products at most, powers of two, and c; a power that the operands do not have is a zero."""
    rows, half_precision = np.arange(len(out["c"])), kind.unit.endswith("to-fp16")
    smallest = 25 if half_precision else 149
    exact = FP16 if half_precision else FP32
    c, first, other = np.zeros(len(rows), np.int64), np.full(len(rows), 10**6), np.full(len(rows), 10**6)
    if case == "edge":
        first[:], other = smallest, smallest + rows - (0 if half_precision else 4)
    elif case == "alone":
        c = np.where(rows % 2, 0, 2 * rows + 1) << np.where((rows % 4 == 2) & (not half_precision), 10, 0)
        first[rows % 2 == 1], other[rows % 2 == 1] = smallest, smallest + 1
    else:
        c[:] = exact.bias << exact.mantissa_bits
        first[:], other = 11 if half_precision else 10**6, 12 + rows
    out["c"] = c.astype(f"u{exact.bits // 8}").view(out["c"].dtype)
    for i, side in enumerate("ab"):
        element = OPERANDS[getattr(kind, side)]
        out[side][:] = 0
        for at, power in ((0, first), (1, other)):
            out[side][:, at] = [_power_code(element, (int(p) + i) // 2) for p in power]
        if side == "b" and case != "alone" and not half_precision:
            out[side][:, 1] |= out[side].dtype.type(_sign_bit(element))


def _power_code(element: ElementFormat, k: int) -> int:
    """The code of 2**-k, or 0 where there is none."""
    below = k - (element.bias - 1)  # the smallest normal exponent
    if below > element.mantissa_bits:
        return 0
    code = 1 << (element.mantissa_bits - below) if below > 0 else (element.bias - k) << element.mantissa_bits
    return code << 13 if element.name == "tf32" else code


ONE_PRODUCT = {"fp16": (3 << 10, 2 << 10), "bf16": (53 << 7, 52 << 7), "tf32": (53 << 23, 52 << 23)}
"""Codes whose product is half of the smallest fp16, and the smallest float32."""


def _first_terms(out: dict[str, np.ndarray], kind: Kind) -> None:
    """The first product (or group) is the smallest result, or half of it; what else there is lies far below."""
    if kind.a in ONE_PRODUCT:
        out["a"][:, 0], out["b"][:, 0] = ONE_PRODUCT[kind.a]
        out["a"][:, 1:] &= out["a"].dtype.type(_sign_bit(OPERANDS[kind.a]) - 1)
        out["b"][:, 1:] &= out["b"].dtype.type(_sign_bit(OPERANDS[kind.b]) - 1)
        if kind.unit.endswith("to-fp16"):
            return
        out["b"][:, 1:] |= out["b"].dtype.type(_sign_bit(OPERANDS[kind.b]))
    elif kind.unit == "blackwell-mxf8f6f4" and kind.scale:
        for side, scale in (("a", 127 - 75), ("b", 127 - 74)):
            element = OPERANDS[getattr(kind, side)]
            out[side][:, 0], out[f"scale_{side}"][:, 0] = element.bias << element.mantissa_bits, scale
            out[side][:, 1:] &= np.uint8(_sign_bit(element) - 1)
        out["b"][:, 1:] |= np.uint8(_sign_bit(OPERANDS[kind.b]))
    elif kind.scale == "e8m0":
        out["a"][:, : kind.block], out["b"][:, : kind.block] = 6, 6  # 4 * 4 each
        for side, first, rest in (("scale_a", 127 - 79, 127 - 88), ("scale_b", 127 - 78, 127 - 87)):
            out[side][:, 0] = first - (kind.block == 32 and side == "scale_b")
            out[side][:, 1:] = rest - out[side][:, 1:] % 3


def _sign_bit(element: ElementFormat) -> int:
    return 1 << 31 if element.name == "tf32" else element.sign_mask


def _codes(element: ElementFormat, case: str, shape: tuple[int, ...], stream: int) -> np.ndarray:
    """Codes of an operand; of tf32 with the 13 bits that the core does not read."""
    bits = random_bits(shape, seed=17, stream=stream).astype(np.int64)
    other = random_bits(shape, seed=18, stream=stream)
    field, low = _fields(element, case, bits, other)
    code = (
        (((bits >> 30) & 1) << (element.exponent_bits + element.mantissa_bits)) | field << element.mantissa_bits | low
    )
    if case == "zeros":
        code = np.where(other & 1, code & element.sign_mask, code)
    code = _finite(element, code, (other >> 8) % 40 == 0 if case == "special" else np.zeros(shape, bool))
    if element.name == "tf32":
        return (code << 13 | (bits & 0x1FFF)).astype(np.uint32)
    return code.astype(np.uint8 if element.bits <= 8 else np.uint16)


def _fields(element: ElementFormat, case: str, bits: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exponent fields and mantissas."""
    low = bits & ((1 << element.mantissa_bits) - 1)
    top = (1 << element.exponent_bits) - 1
    field = (bits >> 16) & top
    if case == "narrow":
        field = np.clip(element.bias - 1 + (bits >> 16) % 4, 0, top)
    elif case == "subnormal":
        field = (bits >> 16) & 1
    elif case == "extreme":
        field = np.where(other & 16, 1, top)
    elif case == "tiny" and element.exponent_bits == 8:  # products of 2**-164 and a little more
        field = element.bias - 82 + (bits >> 16) % 4
    elif case == "tiny" and element.name == "fp16":  # products of 2**-48 to 2**-42
        field, low = np.zeros_like(field), 1 << (bits % 4)
    elif case == "tiny" and element.exponent_bits > 3:
        field = element.bias - 6 + (bits >> 16) % 2
    return field, low


def _finite(element: ElementFormat, code: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """NaN and Inf only where they are allowed, elsewhere large numbers; where they are allowed, they come."""
    if element.specials == "none":
        return code
    all_ones = (1 << (element.exponent_bits + element.mantissa_bits)) - 1
    magnitude, sign = code & all_ones, code & element.sign_mask
    if element.specials == "last":
        magnitude = np.where(allowed, all_ones, np.minimum(magnitude, all_ones - 1))
        return magnitude | sign
    infinity = all_ones - (1 << element.mantissa_bits) + 1
    special = np.where(code & 2, infinity, infinity | code & ((1 << element.mantissa_bits) - 1))
    return np.where(allowed, special, np.minimum(magnitude, infinity - 1)) | sign


def _accumulators(element: ElementFormat, case: str, rows: int, stream: int) -> np.ndarray:
    """c: exponents around 1; zero or subnormal where the case says so; whole range in `extreme`."""
    bits = random_bits((rows,), seed=19, stream=stream).astype(np.int64)
    other = random_bits((rows,), seed=20, stream=stream).astype(np.int64)
    low, top = bits & ((1 << element.mantissa_bits) - 1), (1 << element.exponent_bits) - 2
    spread = {"narrow": 8, "cancel": 64}.get(case, 32)
    field = np.clip(element.bias - spread // 2 + (other >> 4) % spread, 0, top)
    if case == "extreme":
        field = (other >> 4) % (top + 1)
    elif case == "subnormal":
        field = (other >> 4) & 1
    code = field << element.mantissa_bits | low
    if case in ("zeros", "cancel"):
        code = np.where(other & 1, 0, code)
    if case == "tiny":
        code = np.zeros_like(code)
    code |= ((bits >> 30) & 1) << (element.exponent_bits + element.mantissa_bits)
    return _finite(element, code, (other % 16 == 0) & (case == "special")).astype(f"u{element.bits // 8}")


def _scales(element: ElementFormat, case: str, shape: tuple[int, ...], stream: int) -> np.ndarray:
    """Scale codes: within 16 binades of 1, everything in `any` and `extreme`, subnormal ones and zeros, some NaN."""
    bits = random_bits(shape, seed=21, stream=stream).astype(np.int64)
    largest = 254 if element.name == "e8m0" else 0x7E
    code = bits % (largest + 1)
    if case in ("narrow", "cancel"):
        code = (element.bias << element.mantissa_bits) + bits % (4 << element.mantissa_bits)
    elif case == "subnormal":
        code = bits % (1 + (1 << element.mantissa_bits))
    elif case == "zeros":
        code = np.where(bits & 256, code, 0)
    elif case == "special":
        code = np.where((bits >> 8) % 40 == 0, largest + 1, code)
    elif case == "tiny" and element.name == "e8m0":
        code = 127 - 80 + bits % 6
    return code.astype(np.uint8)
