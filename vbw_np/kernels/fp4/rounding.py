"""The arithmetic of quantizing to FP4 on sixteen lanes, once for all kernels: scales, elements, random bits.

Operation by operation that of `vbw_np.formats` (see `formats.scales`), so the bits are equal. Loops in LLVM IR call the
code generators (`emit_...`), kernels that numba compiles the functions of lanes made of them.

- *To nearest even* rounds the float adder: adding 2**(e + 22), where e is the exponent of the quotient but at least 0,
  leaves room for exactly one mantissa bit below e.
- *Stochastically*: in steps of the local grid, 2**(e - 1), every operation but the comparison with a uniform is exact.
- The code of a magnitude is its number of steps, plus 2 for each exponent above 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir

from ...definitions.kernel_numbers import HIGHEST
from ...simd.lanes import F16, U16, on_lanes
from ...simd.wide import FLOAT, INT, Wide

_ONE = 127 << 23
_SIX = 0x40C00000
_INF = 0x7F800000
LARGEST = float(np.finfo(np.float32).max)


# ---- scales --------------------------------------------------------------------------------------------------


def emit_e4m3(e: Wide, v: ir.Value) -> ir.Value:
    """Codes of 0 .. 448, nearest even: by the bits, and below 2**-6 by adding 2**14, whose spacing is 2**-9."""
    b, u = e.b, e.bits(v)
    odd = b.and_(b.lshr(u, e.i(20)), e.i(1))
    normal = b.sub(b.lshr(b.add(b.add(u, e.i(0x7FFFF)), odd), e.i(20)), e.i(960))
    small = b.sub(e.bits(b.fadd(v, e.f(16384.0))), e.i(0x46800000))
    return b.select(b.fcmp_ordered("<", v, e.f(2.0**-6)), small, normal)


def emit_e4m3_value(e: Wide, code: ir.Value) -> ir.Value:
    """The numbers of non-negative E4M3 codes; 480 for that of NaN."""
    b = e.b
    normal = e.float(b.shl(b.add(code, e.i(960)), e.i(20)))
    small = b.fmul(b.sitofp(code, FLOAT), e.f(2.0**-9))
    return b.select(b.icmp_signed("<", code, e.i(8)), small, normal)


def emit_te_code(e: Wide, amax: ir.Value, encode: ir.Value) -> ir.Value:
    """E4M3 scale codes from bits of amax, by TransformerEngine's rule; `encode` is S * (1 / 6)."""
    return emit_e4m3(e, e.fmin(e.b.fmul(e.float(amax), encode), e.f(448.0)))


def emit_te_factor(e: Wide, value: ir.Value, decode: ir.Value) -> ir.Value:
    """What elements are multiplied with, from the scale's value; `decode` is 1 / S."""
    return e.fmin(e.b.fdiv(e.f(1.0), e.b.fmul(value, decode)), e.f(LARGEST))


def emit_mx_code(e: Wide, rule: str, amax: ir.Value) -> ir.Value:
    """E8M0 scale codes from bits of amax, by a rule of `formats.scales`."""
    b = e.b
    if rule == "mx-rceil":
        u = e.bits(b.fdiv(e.float(amax), e.f(6.0)))
        exponent, mantissa = b.lshr(u, e.i(23)), b.and_(u, e.i(0x7FFFFF))
        up = b.zext(b.icmp_signed("!=", mantissa, e.i(0)), INT)
        tiny = b.zext(b.icmp_signed(">", mantissa, e.i(0x400000)), INT)
        return e.imin(b.select(b.icmp_signed("==", exponent, e.i(0)), tiny, b.add(exponent, up)), e.i(HIGHEST))
    exponent = b.lshr(b.add(amax, e.i(0x200000)) if rule == "mx-even" else amax, e.i(23))
    if rule == "mx-ceil":
        exponent = b.add(exponent, b.zext(b.icmp_signed("!=", b.and_(amax, e.i(0x7FFFFF)), e.i(0)), INT))
    code = e.imax(b.sub(exponent, e.i(2)), e.i(0))
    return code if rule == "mx-floor" else e.imin(code, e.i(HIGHEST))  # the exponent of a finite amax is 254 at most


def emit_mx_factor(e: Wide, code: ir.Value) -> ir.Value:
    """2**-(scale's exponent), by which multiplying is dividing; for codes below 254, where it is no subnormal."""
    return e.float(e.b.shl(e.b.sub(e.i(254), code), e.i(23)))


def _mx_code(rule: str) -> Callable:
    return on_lanes(U16, U16)(lambda e, amax: emit_mx_code(e, rule, amax))


mx_floor, mx_even, mx_ceil, mx_rceil = (_mx_code(rule) for rule in ("mx-floor", "mx-even", "mx-ceil", "mx-rceil"))
"""E8M0 codes from bits of amax."""

te_code = on_lanes(U16, U16, F16)(emit_te_code)
"""E4M3 codes from bits of amax and S * (1 / 6)."""

te_factor = on_lanes(F16, U16, F16)(lambda e, code, decode: emit_te_factor(e, emit_e4m3_value(e, code), decode))
"""What elements are multiplied with, from codes and 1 / S."""


def _emit_any_mx_factor(e: Wide, code: ir.Value) -> ir.Value:
    subnormal = e.b.icmp_signed("==", code, e.i(254))  # 2**-127, still exact
    return e.float(e.b.select(subnormal, e.i(0x400000), e.bits(emit_mx_factor(e, code))))


mx_factor = on_lanes(F16, U16)(_emit_any_mx_factor)
"""What elements are multiplied with, from any E8M0 codes but NaN's."""


# ---- elements ------------------------------------------------------------------------------------------------


def _exponent(e: Wide, bits: ir.Value) -> ir.Value:
    """The bits of 2**e: e is the exponent, at least 0; below, the grid has one spacing."""
    return e.imax(e.b.and_(bits, e.i(_INF)), e.i(_ONE))


def _above_zero(e: Wide, exponent: ir.Value) -> ir.Value:
    """2 for each exponent above 0."""
    return e.b.lshr(e.b.sub(exponent, e.i(_ONE)), e.i(22))


def emit_nearest(e: Wide, q: ir.Value) -> ir.Value:
    """Twice the nearest E2M1 value, int32 lanes, with its sign. (1.5 * 2**(e + 22) serves numbers of either sign.)"""
    q = e.fmin(e.fmax(q, e.f(-6.0)), e.f(6.0))
    shift = e.float(e.b.add(_exponent(e, e.bits(q)), e.i(22 << 23 | 0x400000)))
    rounded = e.b.fsub(e.b.fadd(q, shift), shift)
    return e.b.fptosi(e.b.fadd(rounded, rounded), INT)


def emit_nearest_nibble(e: Wide, q: ir.Value) -> ir.Value:
    """Magnitude codes of the nearest E2M1 values in the lowest four bits; above them stands anything.

    The sum's lowest bits are the steps and 6, its bits from the 22nd on 2 e + 298: together the code and 19 * 16.
    """
    a = e.umin(e.magnitude(q), e.i(_SIX))
    shift = e.b.add(_exponent(e, a), e.i(22 << 23 | 6))
    total = e.bits(e.b.fadd(e.float(a), e.float(shift)))
    return e.b.add(total, e.b.lshr(total, e.i(22)))


def emit_nearest_code(e: Wide, q: ir.Value) -> ir.Value:
    """Magnitude codes of the nearest E2M1 values."""
    return e.b.and_(emit_nearest_nibble(e, q), e.i(7))


def _steps(e: Wide, q: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Magnitudes, not above 6, in steps of the local grid; and the bits of 2**e."""
    m = e.fmin(e.float(e.magnitude(q)), e.f(6.0))
    exponent = _exponent(e, e.bits(m))
    return e.b.fmul(m, e.float(e.b.sub(e.i(255 << 23), exponent))), exponent


def _stochastic_steps(e: Wide, q: ir.Value, random: ir.Value) -> tuple[ir.Value, ir.Value]:
    """A neighbouring number of steps: up where the 24-bit uniform is below the fraction; and the bits of 2**e."""
    steps, exponent = _steps(e, q)
    whole = e.call("llvm.floor.v16f32", FLOAT, steps)
    uniform = e.b.fmul(e.b.sitofp(e.b.lshr(random, e.i(8)), FLOAT), e.f(2.0**-24))
    up = e.b.fcmp_ordered("<", uniform, e.b.fsub(steps, whole))
    return e.b.fadd(whole, e.b.select(up, e.f(1.0), e.f(0.0))), exponent


def emit_stochastic(e: Wide, q: ir.Value, random: ir.Value) -> ir.Value:
    """Twice an E2M1 neighbour of q, int32 lanes, with its sign."""
    steps, exponent = _stochastic_steps(e, q, random)
    doubled = e.b.fptosi(e.b.fmul(steps, e.float(exponent)), INT)
    return e.b.select(e.b.icmp_signed("<", e.bits(q), e.i(0)), e.b.sub(e.i(0), doubled), doubled)


def emit_stochastic_code(e: Wide, q: ir.Value, random: ir.Value) -> ir.Value:
    """Magnitude codes of an E2M1 neighbour."""
    steps, exponent = _stochastic_steps(e, q, random)
    return e.b.add(e.b.fptosi(steps, INT), _above_zero(e, exponent))


def emit_stochastic_8_code(e: Wide, q: ir.Value, random: ir.Value) -> ir.Value:
    """The same as hardware with 8 random bits has it: added below the step, then cut off; not above 6."""
    steps, exponent = _steps(e, q)
    added = e.b.fmul(e.b.sitofp(e.b.and_(random, e.i(255)), FLOAT), e.f(2.0**-8))
    whole = e.b.fptosi(e.b.fadd(steps, added), INT)
    return e.imin(e.b.add(whole, _above_zero(e, exponent)), e.i(7))


e2m1 = on_lanes(U16, F16)(emit_nearest_code)
"""Magnitude codes, ties to even."""

e2m1_nibble = on_lanes(U16, F16)(emit_nearest_nibble)
"""The same, with anything above the lowest four bits."""

e2m1_stochastic = on_lanes(U16, F16, U16)(emit_stochastic_code)
"""Magnitude codes by random words."""

e2m1_stochastic_8 = on_lanes(U16, F16, U16)(emit_stochastic_8_code)
"""Magnitude codes by the low 8 bits of random words."""
