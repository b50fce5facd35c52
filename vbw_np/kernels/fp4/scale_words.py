"""Block scales in the forms that the loops of products want, and how they are multiplied with what.

How a scaled dot product is formed is a matter of speed alone (see `intrinsics_tile`): `Multiplied`, `ByExponent`,
`ByTable`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from llvmlite import ir

from ...definitions.panels import half_scales
from ...simd.intrinsics import F32, I8, I16, I32, I64, Emitter, vec


class Multiplied:
    """Scales as float32 numbers: total += dot * (left * right), with one fma."""

    words = "numbers"

    def right(self, e: Emitter, ty: ir.VectorType, address: ir.Value) -> ir.Value:
        """The scales of a vector of columns."""
        return e.load(ty, address)

    def left(self, e: Emitter, lanes: int, address: ir.Value) -> ir.Value:
        """The scale of a row."""
        return e.splat(e.load(F32, address), lanes)

    def add(self, e: Emitter, dot: ir.Value, left: ir.Value, right: ir.Value, total: ir.Value) -> ir.Value:
        """The accumulators with a block's scaled dot products added."""
        return e.fma(dot, e.b.fmul(left, right), total)


def _scalef(e: Emitter, x: ir.Value, n: ir.Value) -> ir.Value:
    """x * 2**floor(n), sixteen lanes: AVX-512's `vscalefps`."""
    all_lanes, present_rounding = ir.Constant(I16, -1), ir.Constant(I32, 4)
    return e.call("llvm.x86.avx512.mask.scalef.ps.512", x.type, x, n, x, all_lanes, present_rounding)


class ByExponent(Multiplied):
    """E8M0 scales as their exponents, float32: total += dot * 2**(left + right).

    Equal to the multiplication while no scale and no product leaves float32's normal range: see `tensor_core.fits`.
    """

    words = "exponents"

    def add(self, e: Emitter, dot: ir.Value, left: ir.Value, right: ir.Value, total: ir.Value) -> ir.Value:
        return e.b.fadd(total, _scalef(e, dot, e.b.fadd(left, right)))


class ByTable(Multiplied):
    """E4M3 scales, whose product is looked up: total += dot * product.

    A left scale is the place of its row in a table: its products with the sixteen signed significands that an E4M3
    number can have, times 2**7. A right scale is one word: in its four lowest bits its significand's place in such a
    row, in its upper half how much its exponent, 7 at most, is below 7, where the upper half of a float32 has its
    exponent. Such a product has 8 significant bits, so its lower half is zero; one permutation and one subtraction of
    16-bit halves give the product of two scales. The subtraction stops at 0, which makes a scale of 0 right; but it
    knows no NaN: see `tensor_core.fits` and `fill_left_words`.
    """

    words = "places"

    def left(self, e: Emitter, lanes: int, address: ir.Value) -> ir.Value:
        module, name = e.b.module, "vbw_e4m3_products"
        if name not in module.globals:
            values = product_table().reshape(-1)
            ty = ir.ArrayType(F32, values.size)
            table = ir.GlobalVariable(module, ty, name)
            table.initializer = ir.Constant(ty, [ir.Constant(F32, float(v)) for v in values])
            table.linkage, table.global_constant, table.align = "internal", True, 64
        first = e.b.ptrtoint(module.globals[name], I64)
        return e.load(vec(F32, lanes), e.at(first, e.b.zext(e.load(I32, address), I64)))

    def add(self, e: Emitter, dot: ir.Value, left: ir.Value, right: ir.Value, total: ir.Value) -> ir.Value:
        places = e.b.bitcast(right, vec(I32, 16))
        product = e.call("llvm.x86.avx512.permvar.sf.512", left.type, left, places)
        halves = vec(I16, 32)
        lowered = e.call("llvm.usub.sat.v32i16", halves, e.b.bitcast(product, halves), e.b.bitcast(right, halves))
        return e.fma(dot, e.b.bitcast(lowered, left.type), total)


SIGNIFICANDS = np.array([(8 + i) / 8 for i in range(8)] + [-(8 + i) / 8 for i in range(8)], np.float32)
"""The signed significands of E4M3 numbers, in the order of `ByTable`'s rows."""


@lru_cache(maxsize=1)
def product_table() -> np.ndarray:
    """2**7 times half of each E4M3 number times each significand, float32 (256, 16); a zero is +0."""
    return np.multiply.outer(half_scales("nvfp4") * np.float32(128), SIGNIFICANDS) + np.float32(0)


@lru_cache(maxsize=8)
def right_words(family: str, words: str) -> np.ndarray:
    """What `Multiplied.right` wants for every scale byte of a format, as float32 (256,).

    NaN scales are NaN, but for "places".

    Parameters
    ----------
    family : {"mxfp4", "nvfp4"}
    words : {"numbers", "exponents", "places"}
    """
    scales = half_scales(family)
    if words == "numbers":
        return scales
    known = np.where(np.isnan(scales), np.float32(1), scales)
    significand, exponent = np.frexp(known)  # significand in [1/2, 1)
    if words == "exponents":
        return np.where(np.isnan(scales), scales, exponent - 1).astype(np.float32)
    place = (np.abs(significand) * 16 - 8).astype(np.uint32) & 7 | np.signbit(known) * np.uint32(8)
    lowered = np.where(known == 0, 0xFFFF, (7 - (exponent - 1)) << 7).astype(np.uint32)
    return (lowered << 16 | place).astype(np.uint32).view(np.float32)


def emit_half_scales(e: Emitter, family: str, lanes: int, address: ir.Value) -> ir.Value:
    """Half the value of each of `lanes` scale bytes, float32, NaN and signs included: the twin of `half_scales`."""
    int_ty, float_ty = vec(I32, lanes), vec(F32, lanes)
    stored = e.load(vec(I8, lanes), address)

    def number(value: float) -> ir.Constant:
        return e.const(float_ty, value)

    if family == "nvfp4":  # E4M3's fields in float32's places; the multiplication moves the bias, subnormals too
        shifted = e.b.shl(e.b.sext(stored, int_ty), e.const(int_ty, 20))
        fields = e.b.and_(shifted, e.const(int_ty, -0x78100000))
        value = e.b.fmul(e.b.bitcast(fields, float_ty), number(2.0**119))
        largest = e.const(int_ty, 0x07F00000)
        bad = e.b.icmp_signed("==", e.b.and_(fields, largest), largest)
    else:  # 2**(code - 127) by its exponent, or for code 0 by the mantissa of a subnormal; halved
        exponent = e.b.shl(e.b.zext(stored, int_ty), e.const(int_ty, 23))
        least = e.const(int_ty, 0x00400000)
        whole = e.b.select(e.b.icmp_unsigned(">", exponent, least), exponent, least)
        value = e.b.fmul(e.b.bitcast(whole, float_ty), number(0.5))
        bad = e.b.icmp_signed("==", exponent, e.const(int_ty, 0x7F800000))
    return e.b.select(bad, e.b.bitcast(e.const(int_ty, 0x7FC00000), float_ty), value)


PLAIN_SCALES = {"mxfp4": (1, 254, 2.0**-1), "nvfp4": (0, 126, 2.0**119)}
"""The scale bytes that `emit_plain_scales` knows, first and last, and what it leaves to be multiplied with."""


def emit_plain_scales(e: Emitter, family: str, lanes: int, address: ir.Value) -> ir.Value:
    """As `emit_half_scales` in two instructions, for the bytes and up to the factor in `PLAIN_SCALES`.

    What NaN, signs and (mxfp4) the one subnormal cost in every block pays only for the rare weight that has them.
    """
    int_ty = vec(I32, lanes)
    stored = e.b.zext(e.load(vec(I8, lanes), address), int_ty)
    places = e.const(int_ty, 20 if family == "nvfp4" else 23)
    return e.b.bitcast(e.b.shl(stored, places), vec(F32, lanes))


def emit_right_words(e: Emitter, family: str, words: str, address: ir.Value) -> ir.Value:
    """The words of sixteen scale bytes: the twin of `right_words`, for "places" without NaN."""
    int_ty, float_ty = vec(I32, 16), vec(F32, 16)
    if words == "exponents":
        code = e.b.zext(e.load(vec(I8, 16), address), int_ty)
        exponent = e.b.sitofp(e.b.sub(code, e.const(int_ty, 128)), float_ty)
        nan = e.b.icmp_signed("==", code, e.const(int_ty, 255))
        return e.b.select(nan, e.b.bitcast(e.const(int_ty, 0x7FC00000), float_ty), exponent)
    scale = emit_half_scales(e, family, 16, address)
    if words == "numbers":
        return scale
    bits = e.b.bitcast(scale, int_ty)

    def field(shift: int, mask: int) -> ir.Value:
        return e.b.and_(e.b.lshr(bits, e.const(int_ty, shift)), e.const(int_ty, mask))

    exponent = e.b.and_(bits, e.const(int_ty, 0x7F800000))  # lowered: 7 - exponent, where float32 has its exponent
    zero = e.b.icmp_signed("==", exponent, e.const(int_ty, 0))
    lowered = e.b.select(zero, e.const(int_ty, -0x10000), e.b.sub(e.const(int_ty, (127 + 7) << 23), exponent))
    return e.b.bitcast(e.b.or_(lowered, e.b.or_(field(20, 7), field(28, 8))), float_ty)


def scale_word(e: Emitter, bits: ir.Value, words: str) -> ir.Value:
    """Left scales, half their decoded values as float32 bits, in the form that a tile loop wants."""
    b, int_ty, float_ty = e.b, bits.type, vec(F32, bits.type.count)

    def number(value: int) -> ir.Constant:
        return e.const(int_ty, value)

    def real(value: float) -> ir.Constant:
        return e.const(float_ty, value)

    if words == "numbers":
        return bits
    magnitude = b.and_(bits, number(0x7FFFFFFF))
    exponent = b.lshr(magnitude, number(23))
    if words == "exponents":
        return b.bitcast(b.sitofp(b.sub(exponent, number(127)), float_ty), int_ty)
    whole = b.fmul(b.bitcast(magnitude, float_ty), real(2.0))
    nan = b.icmp_signed(">", magnitude, number(0x7F800000))
    subnormal = b.fptosi(b.fmul(b.select(nan, real(0.0), whole), real(512.0)), int_ty)
    normal = b.sub(b.lshr(b.bitcast(whole, int_ty), number(20)), number(960))
    code = b.select(b.icmp_signed("<", exponent, number(120)), subnormal, normal)
    code = b.select(nan, number(127), code)  # E4M3's code of the whole scale: its row in `product_table`
    return b.or_(b.shl(code, number(6)), b.and_(b.lshr(bits, number(18)), number(0x2000)))
