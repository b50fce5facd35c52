"""Producers' exact arithmetic beyond four-bit floats: MXFP8, MXFP6, FP8, INT8, INT4 with zero points, GGUF's blocks.

================================================ =================================================== ==================
profile                                          scale                                               a block of zeros
================================================ =================================================== ==================
torchao-0.18-mx{fp8,fp6}-*-floor                 E8M0, exponent of amax - emax                       byte 0
torchao-0.18-mxfp8-e4m3-rceil                    E8M0, ceil(log2(amax / 448))                        byte 0
modelopt-mxfp8                                   E8M0, ceil(log2(amax / 448))                        byte 0
compressed-tensors-0.20-fp8-{tensor,row,128x128} amax / 448                                          2**-23
compressed-tensors-0.20-int8-row                 amax / 127.5; codes -128 to 127                     2**-23
compressed-tensors-0.20-int4-{g32,g128}          amax / 7.5; codes -8 to 7, stored + 8               2**-23
compressed-tensors-0.20-int4-zero-g128           (max - min) / 15; zero point -8 to 7, stored + 8    2**-23
modelopt-fp8-tensor                              amax / 448                                          0, codes NaN
ggml-q4_0, -q4_1, -q8_0                          float16; signed maximum, range, amax                0
ggml-q4_k                                        a search; 6 bits under a float16 per 256            0
ggml-iq4_nl                                      a search; float16, of either sign                   0
================================================ =================================================== ==================
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .affine import EPSILON, encode_int8, fit_symmetric
from .blocks import FORMATS, BlockFormat
from .elements import E2M3, E3M2, E5M2, E8M0
from .scales import ONE, ScaleRule, absmax_rule, bits_of, divide_by_scale

MIN_NORMAL = np.float32(2.0**-126)
TORCHAO = ("torchao", "0.18.0")
MODELOPT = ("NVIDIA Model Optimizer", "0.47.0")
COMPRESSED_TENSORS = ("compressed-tensors", "0.20.0")
GGML = ("ggml / gguf", "gguf 0.19.0")
MADE_NAN = -np.float32(np.nan)
"""The NaN that x86 processors make of 0 / 0 and Inf / Inf: its sign is set. Stated, so that every machine writes it."""
WRITTEN_NAN = {
    "mxfp8-e5m2": replace(E5M2, written_nan=0x7F), "mxfp6-e2m3": replace(E2M3, written_nan=12),
    "mxfp6-e3m2": replace(E3M2, written_nan=14),
}  # fmt: skip
"""Elements as torchao writes NaN into them; the 6-bit ones have no NaN, and the bit tricks make a number of it."""


def torchao_floor(emax: int) -> ScaleRule:
    """FLOOR: the exponent field less emax, Inf like a number, NaN 255; `x / max(s, 2**-126)`, byte 255 as Inf."""

    def block(amax: np.ndarray, g: None = None) -> np.ndarray:
        exponent = (bits_of(amax) >> np.uint32(23)).astype(np.int32) - emax
        return np.where(np.isnan(amax), 255, np.clip(exponent, 0, 255)).astype(np.uint8)

    def quotient(x: np.ndarray, s: np.ndarray, g: None = None) -> np.ndarray:
        divisor = np.where(np.isnan(s), np.float32(np.inf), np.maximum(s, MIN_NORMAL))
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(np.isinf(x) & np.isinf(divisor), MADE_NAN, x / divisor)

    return ScaleRule(f"torchao-floor-{emax}", "torchao 0.18, FLOOR", E8M0, block, quotient)


def _ceil_log2(d: np.ndarray) -> np.ndarray:
    """`ceil(log2(d))` of a logarithm that is rounded to float32 first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.ceil(np.log2(d.astype(np.float64)).astype(np.float32))


def torchao_rceil(largest: float) -> ScaleRule:
    """RCEIL: `ceil(log2(amax / largest))`; times the exact reciprocal, and times 1 where the byte is 0."""

    def block(amax: np.ndarray, g: None = None) -> np.ndarray:
        descale = np.asarray(amax, np.float32) / np.float32(largest)
        byte = np.clip(_ceil_log2(descale), -127, 127) + 127
        return np.where(np.isinf(descale), 254, np.where(np.isnan(descale), 255, byte)).astype(np.uint8)

    def quotient(x: np.ndarray, s: np.ndarray, g: None = None) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            q = x * np.where(s == np.float32(2.0**-127), ONE, ONE / s)
        return np.where(np.isnan(s), np.float32(np.nan), q)

    return ScaleRule(f"torchao-rceil-{largest:g}", "torchao 0.18, RCEIL", E8M0, block, quotient)


def _modelopt_block(amax: np.ndarray, g: None = None) -> np.ndarray:
    """`ceil(log2(amax / 448))` clamped to -127..127; NaN compares as not positive, so it ends at byte 0."""
    descale = np.asarray(amax, np.float32) / np.float32(448)
    exponent = np.where(descale > 0, _ceil_log2(descale), np.float32(-127))
    return (np.clip(exponent, -127, 127) + 127).astype(np.uint8)


def _times_reciprocal(x: np.ndarray, s: np.ndarray, g: None = None) -> np.ndarray:
    """`x * 2**(127 - byte)`."""
    with np.errstate(over="ignore", invalid="ignore"):
        return x * (ONE / s)


def _divide(x: np.ndarray, s: np.ndarray, g: None = None) -> np.ndarray:
    """`x / s`, which is NaN in a tensor of zeros; the sign of a NaN is that of the operand that brought it."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        q = x / s
    return np.where(np.isnan(q) & ~np.isnan(x), np.where(np.isnan(s), np.float32(np.nan), MADE_NAN), q)


def epsilon_rule(largest: float) -> ScaleRule:
    """compressed-tensors: amax / largest, 2**-23 where that is 0; `x / s`."""

    def block(amax: np.ndarray, g: None = None) -> np.ndarray:
        scale = np.asarray(amax, np.float32) / np.float32(largest)
        return np.where(scale == 0, EPSILON, scale).astype(np.float32)

    name = f"compressed-tensors-amax-{largest:g}"
    return ScaleRule(name, f"amax / {largest:g}, 2**-23 for zeros", None, block, divide_by_scale)


def _of(family: str, name: str, rule: ScaleRule, **fields: object) -> BlockFormat:
    return replace(FORMATS[family], name=name, rule=rule, **fields)


def _producers() -> list[tuple[tuple[str, str], BlockFormat, str, str]]:
    found = []
    for family, emax in (("mxfp8-e4m3", 8), ("mxfp8-e5m2", 15), ("mxfp6-e2m3", 2), ("mxfp6-e3m2", 4)):
        rule = torchao_floor(emax)
        element = WRITTEN_NAN.get(family, FORMATS[family].element)
        fmt = _of(family, f"torchao-0.18-{family}-floor", rule, nan_code=None, element=element)
        found.append((TORCHAO, fmt, family, "library"))
    rceil = _of("mxfp8-e4m3", "torchao-0.18-mxfp8-e4m3-rceil", torchao_rceil(448.0), nan_code=None)
    found.append((TORCHAO, rceil, "mxfp8-e4m3", "library"))
    rule = ScaleRule("modelopt-mxfp8", "ceil(log2(amax / 448))", E8M0, _modelopt_block, _times_reciprocal)
    found.append((MODELOPT, _of("mxfp8-e4m3", "modelopt-mxfp8", rule, nan_code=None), "mxfp8-e4m3", "library"))
    rule = replace(absmax_rule(448), name="modelopt-fp8", summary="amax / 448; zeros become NaN", quotient=_divide)
    fp8 = _of("fp8-tensor", "modelopt-fp8-tensor", rule, nan_code=None)
    found.append((MODELOPT, fp8, "fp8-tensor", "library"))
    for family in ("fp8-tensor", "fp8-row", "fp8-128x128"):
        fmt = _of(family, f"compressed-tensors-0.20-{family}", epsilon_rule(448), nan_code=None, signed_zero="drop")
        found.append((COMPRESSED_TENSORS, fmt, family, "library"))
    int8 = replace(FORMATS["int4-offset8-g32"].rule, name="compressed-tensors-int8", summary="amax / 127.5")
    int8 = replace(int8, affine=replace(int8.affine, fit=fit_symmetric(127.5), encode=encode_int8))
    fmt = _of("int8-row", "compressed-tensors-0.20-int8-row", int8)
    found.append((COMPRESSED_TENSORS, fmt, "int8-row", "library"))
    for family, name in (
        ("int4-offset8-g32", "int4-g32"), ("int4-offset8-g128", "int4-g128"), ("int4-zero-g128", "int4-zero-g128"),
    ):  # fmt: skip
        fmt = replace(FORMATS[family], name=f"compressed-tensors-0.20-{name}")
        found.append((COMPRESSED_TENSORS, fmt, family, "library"))
    for family in ("q4_0", "q4_1", "q8_0", "q4_k", "iq4_nl"):
        found.append((GGML, replace(FORMATS[family], name=f"ggml-{family}"), family, "library"))
    return found


PRODUCERS = _producers()
"""(producer, version), record, family and how it is checked."""
