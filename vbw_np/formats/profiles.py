"""Profiles: a producer's exact behaviour as a frozen record. Same input, same bytes.

"NVFP4" names a family. Its producers differ in the order of float32 operations, in ties, in what a zero block's
scale is, in the sign of zero, in NaN and Inf, and they change between releases. A profile pins one release. The
arithmetic of each is a `ScaleRule` below; ties, zeros, nibble order and container are fields of its `BlockFormat`.

==================================== =========== ============== ======================== ============= ===========
profile                              ties        zero           zero block's scale       tensor level  nibbles
==================================== =========== ============== ======================== ============= ===========
ocp-mxfp4                            even        -0 kept        2**-127 (byte 0)         none          low first
torchao-0.18-{floor,even,ceil,rceil} even        -0 kept        byte 0                   none          low first
compressed-tensors-0.20-mxfp4        even        -0 becomes +0  byte 0                   none          low first
modelopt-mxfp4                       toward zero 0 becomes -0   byte 0                   none          low first
ggml-mxfp4                           toward zero never -0       byte 0                   none          split 32
te-nvfp4[-16x16][-4over6-mse, -mae]  even        -0 becomes +0  0                        amax          low first
torchao-0.18-nvfp4, -1level          even        -0 kept        2**-6 (byte 0x08)        amax / 2688   low first
modelopt-nvfp4                       even        -0 becomes +0  1 (byte 0x38)            amax / 2688   low first
compressed-tensors-0.20-nvfp4        even        -0 becomes +0  0.125 (byte 0x20)        2688 / amax   low first
compressed-tensors-0.20-nvfp4-bf16   even        -0 becomes +0  0.125; amax / 6 in bf16  2688 / amax   low first
ggml-nvfp4                           toward zero never -0       0                        separate      split 16
bitsandbytes-nf4, -fp4               down        (codebook)     float32 0                none          high first
==================================== =========== ============== ======================== ============= ===========

The profiles of 6 and 8 bits, and of integers with zero points, are in `mixed.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .blocks import FORMATS, PRODUCERS_OWN, BlockFormat
from .codebooks import BNB_FP4, NF4
from .elements import E2M1, E4M3, E8M0
from .errors import FormatError, unknown_name
from .mixed import PRODUCERS
from .scales import MX_FLOOR, ONE, ScaleRule, bits_of, divide_by_scale, te_rule

SIX = np.float32(6)
LEVEL = np.float32(2688)
"""6 * 448, the largest element times the largest E4M3 scale."""
MIN_NORMAL = np.float32(2.0**-126)


@dataclass(frozen=True)
class Profile:
    """What one release of one library does.

    Parameters
    ----------
    name : str
    producer, version : str
    format : BlockFormat
        The record with the producer's arithmetic, tie and zero rules, and container.
    family : str
        The plain format that it is a variant of.
    checked : str
        How our bytes are known to be the library's: `library` (its own output, recorded or live), `formulas`
        (its published formulas, run separately), `source` (read in its source, decoding checked against it).
    """

    name: str
    producer: str
    version: str
    format: BlockFormat
    family: str
    checked: str

    def for_format(self, fmt: BlockFormat) -> BlockFormat:
        """This profile's record, if it is a variant of `fmt`."""
        if fmt.name not in (self.family, self.format.name):
            fitting = ", ".join(sorted(p.name for p in PROFILES.values() if p.family == fmt.name)) or "none"
            raise FormatError(
                f"profile {self.name} is a variant of {self.family}, not of {fmt.name}; "
                f"profiles of {fmt.name}: {fitting}"
            )
        return self.format


# ---- torchao 0.18: MX


def _exponent(amax: np.ndarray) -> np.ndarray:
    return (bits_of(amax) >> np.uint32(23)).astype(np.int32)


def _torchao_byte(exponent: np.ndarray, amax: np.ndarray) -> np.ndarray:
    """Clamp the biased exponent to 0..255; Inf goes through like a number (253), NaN is 255."""
    return np.where(np.isnan(amax), 255, np.clip(exponent - 2, 0, 255)).astype(np.uint8)


def torchao_floor(amax: np.ndarray, g: None = None) -> np.ndarray:
    """FLOOR: the exponent field."""
    return _torchao_byte(_exponent(amax), amax)


def torchao_even(amax: np.ndarray, g: None = None) -> np.ndarray:
    """EVEN: the exponent field after adding 2**21 to the bits."""
    rounded = ((bits_of(amax) + np.uint32(0x200000)) >> np.uint32(23)).astype(np.int32) & 0xFF
    return _torchao_byte(rounded, amax)


def torchao_ceil(amax: np.ndarray, g: None = None) -> np.ndarray:
    """CEIL: the exponent field, plus one where a mantissa bit is set."""
    return _torchao_byte(_exponent(amax) + ((bits_of(amax) & np.uint32(0x7FFFFF)) != 0), amax)


def log2_float32(x: np.ndarray) -> np.ndarray:
    """log2 rounded to float32, as the libraries' float32 `log2` gives it.

    Just above a power of two the rounded logarithm *is* the integer, so `ceil` and `floor` of it are not those of
    the true logarithm. Profiles must reproduce that; rules of our own work on the bits instead.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log2(x.astype(np.float64)).astype(np.float32)


def torchao_rceil(amax: np.ndarray, g: None = None) -> np.ndarray:
    """RCEIL: `ceil(log2(amax / 6))` in float32; Inf gives 254, NaN 255."""
    descale = np.asarray(amax, np.float32) / SIX
    exponent = np.clip(np.ceil(log2_float32(descale)), -127, 127)
    byte = np.where(np.isinf(descale), 254, np.where(np.isnan(descale), 255, exponent + 127))
    return byte.astype(np.uint8)


def torchao_divide(x: np.ndarray, s: np.ndarray, g: None = None) -> np.ndarray:
    """`x / max(s, 2**-126)`: blocks of byte 0 are divided by twice what they decode with; byte 255 acts as Inf.

    Inf beside NaN so becomes Inf / Inf, a NaN that the library's bit tricks turn into code 11. They round the bits of a
    NaN that came in as if it were a number: to code 3 or 4 with its sign, which x86 sets in the NaN that it makes.
    """
    divisor = np.where(np.isnan(s), np.float32(np.inf), np.maximum(s, MIN_NORMAL))
    with np.errstate(over="ignore", invalid="ignore"):
        q = x / divisor
    written = np.copysign(np.where(bits_of(x) & np.uint32(0x200000), np.float32(2), np.float32(1.5)), x)
    return np.where(np.isnan(x), written, np.where(np.isnan(q), np.float32(-1.5), q))


def torchao_reciprocal(x: np.ndarray, s: np.ndarray, g: None = None) -> np.ndarray:
    """RCEIL multiplies by the exact reciprocal, and by 1 where the byte is 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        return x * np.where(s == np.float32(2.0**-127), ONE, ONE / s)


def _torchao_mx(name: str) -> ScaleRule:
    block = {"floor": torchao_floor, "even": torchao_even, "ceil": torchao_ceil, "rceil": torchao_rceil}[name]
    quotient = torchao_reciprocal if name == "rceil" else torchao_divide
    return ScaleRule(f"torchao-{name}", f"torchao 0.18, {name.upper()}", E8M0, block, quotient)


# ---- other producers of MXFP4


def compressed_tensors_mx(amax: np.ndarray, g: None = None) -> np.ndarray:
    """The even rule; what rounds up to Inf, and Inf and NaN, end as byte 127 through a float-to-int cast."""
    rounded = ((bits_of(amax) + np.uint32(0x200000)) >> np.uint32(23)).astype(np.int32) & 0xFF
    return np.where((rounded == 255) | ~np.isfinite(amax), 127, np.clip(rounded - 2, 0, 254)).astype(np.uint8)


def compressed_tensors_mx_quotient(x: np.ndarray, s: np.ndarray, g: None = None) -> np.ndarray:
    """`x / s`; a block whose byte came through that cast was divided by Inf, so its codes are 0."""
    rounded = (bits_of(np.abs(x).max(axis=-1, keepdims=True)) + np.uint32(0x200000)) >> np.uint32(23)
    return np.where(rounded >= 255, np.float32(0), divide_by_scale(x, s))


def modelopt_mx_quotient(x: np.ndarray, s: np.ndarray, g: None = None) -> np.ndarray:
    """`x / s`; in a block with Inf or NaN everything counts as zero (and zero is code 8 here)."""
    finite = np.isfinite(np.abs(x).max(axis=-1, keepdims=True))
    return np.where(finite, divide_by_scale(x, s), np.float32(0))


def modelopt_mx(amax: np.ndarray, g: None = None) -> np.ndarray:
    """`ceil(max(log2(amax / 6), -127)) + 127` in float32; Inf and NaN end as byte 0 through the cast."""
    descale = np.asarray(amax, np.float32) / SIX
    byte = np.ceil(np.maximum(log2_float32(descale), np.float32(-127))) + 127
    return np.where(np.isfinite(amax), np.nan_to_num(byte, posinf=0.0), 0).astype(np.uint8)


def ggml_mx(amax: np.ndarray, g: None = None) -> np.ndarray:
    """`floor(log2(amax)) - 2 + 127` in float32, wrapped to a byte (amax below 2**-125 gives 232 to 255)."""
    exponent = np.floor(log2_float32(np.asarray(amax, np.float32))) + 125
    usable = (amax > 0) & np.isfinite(amax)
    return (np.where(usable, exponent, 0).astype(np.int64) & 0xFF).astype(np.uint8)


def ggml_quotient(x: np.ndarray, s: np.ndarray, g: None = None) -> np.ndarray:
    """What ggml's search over the 16 values finds: the first code with the least `|value * s - x|`, in float32.

    Where rounding `x / s` finds the same value, the quotient itself is given, so that explanations show it. The search
    runs in float32, so that huge and tiny blocks, NaN and Inf end at other codes than rounding.
    """
    half = np.where(np.isnan(s), np.float32(2.0**127), s * np.float32(0.5))  # byte 255 acts as 2**128
    doubled = E2M1.table * np.float32(2)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = np.zeros(x.shape, np.float32)
        least = np.abs(half * np.float32(0) - x)
        for value in (*doubled[1:8], *doubled[9:]):
            error = np.abs(half * value - x)
            better = error < least
            found, least = np.where(better, value * np.float32(0.5), found), np.where(better, error, least)
        q = np.where(np.isnan(s), (x * np.float32(2.0**-126)) * np.float32(0.25), x / s)
        rounded = E2M1.table[E2M1.encode(np.nan_to_num(q), "zero", signed_zero="never")]
    return np.where(rounded == found, q, found)


# ---- NVFP4


def nan_scale(code: np.ndarray, scale: np.ndarray, *positive: np.ndarray) -> np.ndarray:
    """The two NaN bytes of E4M3: 0x7F where a NaN came in, 0xFF where the arithmetic made one (0/0, Inf/Inf).

    That is what x86 processors do; stated here so that every machine writes the same byte.
    """
    came_in = np.logical_or.reduce([np.broadcast_to(np.isnan(p), scale.shape) for p in positive])
    return np.where(np.isnan(scale), np.where(came_in, np.uint8(0x7F), np.uint8(0xFF)), code)


def torchao_nv_block(amax_b: np.ndarray, g: np.ndarray | None) -> np.ndarray:
    """`E4M3(clamp((amax_b / 6) / g, 2**-6, 448))`; never a subnormal."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = amax_b / SIX if g is None else (amax_b / SIX) / g
        return nan_scale(E4M3.encode(np.clip(scale, np.float32(2.0**-6), np.float32(448)), "even"), scale, amax_b)


def torchao_nv_quotient(x: np.ndarray, s: np.ndarray, g: np.ndarray | None) -> np.ndarray:
    """`x * ((1 / g) / s)`, or `x * (1 / s)` without a tensor level.

    Where 1 / g overflows, 0 * Inf makes a NaN that the library's bit tricks turn into code 11; one decoded from a
    NaN scale has another payload and becomes code 12 (4 without a tensor level): the record's `nan_code`.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        q = x * ((ONE if g is None else ONE / g) / s)
    return np.where(np.isnan(q) & ~np.isnan(s), np.float32(-1.5), q)


def modelopt_nv_block(amax_b: np.ndarray, g: np.ndarray) -> np.ndarray:
    """`amax_b / (6 * g)`, 1 where that is 0, `E4M3(clamp(., 2**-9, 448))`."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = amax_b / (SIX * g)
        scale = np.where(scale == 0, ONE, scale)
        return nan_scale(E4M3.encode(np.clip(scale, np.float32(2.0**-9), np.float32(448)), "even"), scale, amax_b, g)


def modelopt_nv_quotient(x: np.ndarray, s: np.ndarray, g: np.ndarray) -> np.ndarray:
    """`x / (s * g)`."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return x / (s * g)


def amax_over_level(amax: np.ndarray) -> np.ndarray:
    """The multiplier convention: amax / 2688."""
    return np.asarray(amax, np.float32) / LEVEL


def compressed_tensors_stored(amax: np.ndarray) -> np.ndarray:
    """The reciprocal convention: 2688 * (1 / max(amax, tiny)); NaN and Inf become 1.

    The library writes `2688.0 / tensor`, which torch carries out as a reciprocal and a product.
    """
    with np.errstate(over="ignore"):
        g = LEVEL * (ONE / np.maximum(np.asarray(amax, np.float32), MIN_NORMAL))
    return np.where(np.isfinite(g), g, ONE).astype(np.float32)


def _compressed_tensors_scale(sixth: np.ndarray, amax_b: np.ndarray, g: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        scale = g * sixth
        code = nan_scale(E4M3.encode(np.clip(scale, np.float32(-448), np.float32(448)), "even"), scale, amax_b)
    return np.where(code == 0, np.uint8(0x20), code)


def compressed_tensors_nv_block(amax_b: np.ndarray, g: np.ndarray) -> np.ndarray:
    """`E4M3(clamp(g * (amax_b / 6), -448, 448))`, and 0.125 where that is 0."""
    return _compressed_tensors_scale(amax_b / SIX, amax_b, g)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round float32 numbers to bfloat16, nearest even, kept as float32; NaN stays NaN, Inf stays Inf."""
    bits = bits_of(x)
    bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, bits.view(np.float32).reshape(np.shape(x)))


def compressed_tensors_stored_bf16(amax: np.ndarray) -> np.ndarray:
    """The reciprocal convention for a bfloat16 checkpoint: reciprocal and product each rounded to bfloat16."""
    with np.errstate(over="ignore"):
        reciprocal = to_bfloat16(ONE / np.maximum(np.asarray(amax, np.float32), MIN_NORMAL))
        g = to_bfloat16(LEVEL * reciprocal)
    return np.where(np.isfinite(g), g, ONE).astype(np.float32)


def compressed_tensors_nv_block_bf16(amax_b: np.ndarray, g: np.ndarray) -> np.ndarray:
    """As in float32, but amax_b / 6 is rounded to bfloat16, the dtype of the observed extremes."""
    return _compressed_tensors_scale(to_bfloat16(amax_b / SIX), amax_b, g)


def compressed_tensors_nv_quotient(x: np.ndarray, s: np.ndarray, g: np.ndarray) -> np.ndarray:
    """`x / (s / g)`."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return x / (s / g)


def reciprocal_multiplier(g: np.ndarray) -> np.ndarray:
    """What a stored reciprocal multiplies with: 1 / g."""
    with np.errstate(divide="ignore"):
        return ONE / np.asarray(g, np.float32)


def ggml_ue4m3(x: np.ndarray) -> np.ndarray:
    """ggml's float32 to unsigned E4M3: halves up, 256 and more all become 448, subnormals stop at 7."""
    x = np.clip(np.nan_to_num(np.asarray(x, np.float32)), 0, np.float32(448))
    bits = bits_of(x)
    exponent = (bits >> np.uint32(23)).astype(np.int32) - 120
    rounded = ((bits + np.uint32(0x80000)) >> np.uint32(20)).astype(np.int32) - (120 << 3)
    subnormal = np.minimum((x * np.float32(512) + np.float32(0.5)).astype(np.int32), 7)
    normal = np.where(rounded >= 15 << 3, 0x7E, rounded)
    return np.where(x <= 0, 0, np.where(exponent <= 0, subnormal, normal)).astype(np.uint8)


# ---- bitsandbytes


def bitsandbytes_quotient(x: np.ndarray, s: np.ndarray, g: None = None) -> np.ndarray:
    """`clamp(x * (1 / max(absmax, 1e-38)), -1, 1)`: a reciprocal, then a product."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.clip(x * (ONE / np.maximum(s, np.float32(1e-38))), np.float32(-1), ONE)


def bitsandbytes_ragged_quotient(x: np.ndarray, s: np.ndarray, g: None = None) -> np.ndarray:
    """A ragged last block is divided: `clamp(x / max(absmax, 1e-38), -1, 1)`."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.clip(x / np.maximum(s, np.float32(1e-38)), np.float32(-1), ONE)


BITSANDBYTES = ScaleRule(
    "bitsandbytes",
    "float32 absmax; reciprocal, then product",
    None,
    lambda amax_b, g: np.asarray(amax_b, np.float32),
    bitsandbytes_quotient,
    ragged_quotient=bitsandbytes_ragged_quotient,
)


# ---- the records


def _mx(name: str, rule: ScaleRule, **fields: object) -> BlockFormat:
    return replace(FORMATS["mxfp4"], name=name, rule=rule, **fields)


def _nv(name: str, rule: ScaleRule, **fields: object) -> BlockFormat:
    return replace(FORMATS["nvfp4"], name=name, rule=rule, **fields)


_TORCHAO_NV = ScaleRule("torchao-nvfp4", "torchao 0.18", E4M3, torchao_nv_block, torchao_nv_quotient, amax_over_level)
_MODELOPT_NV = ScaleRule("modelopt-nvfp4", "ModelOpt", E4M3, modelopt_nv_block, modelopt_nv_quotient, amax_over_level)
_CT_NV = ScaleRule(
    "compressed-tensors-nvfp4",
    "compressed-tensors 0.20",
    E4M3,
    compressed_tensors_nv_block,
    compressed_tensors_nv_quotient,
    compressed_tensors_stored,
    reciprocal_multiplier,
)
_CT_NV_BF16 = replace(
    _CT_NV,
    name="compressed-tensors-nvfp4-bf16",
    block=compressed_tensors_nv_block_bf16,
    stored=compressed_tensors_stored_bf16,
)
_CT_MX = ScaleRule("compressed-tensors-mxfp4", "even rule", E8M0, compressed_tensors_mx, compressed_tensors_mx_quotient)
_MODELOPT_MX = ScaleRule("modelopt-mxfp4", "ceil(log2(amax / 6))", E8M0, modelopt_mx, modelopt_mx_quotient)
_GGML_MX = ScaleRule("ggml-mxfp4", "floor(log2(amax)) - 2, wrapping", E8M0, ggml_mx, ggml_quotient)
_GGML_NV = ScaleRule(
    "ggml-nvfp4",
    "halves up; 256 and more become 448",
    E4M3,
    lambda amax_b, g: ggml_ue4m3(np.asarray(amax_b, np.float32) / SIX),
    ggml_quotient,
    skip_nan=True,
)
_GGML = dict(ties="zero", signed_zero="never", nibble_order="split_half", decode_order="halves", positive_zero=True)
_BNB_NF4 = replace(NF4, cuts=())  # the CPU path cuts at float32 midpoints, the CUDA kernels at literals
_BNB_FP4 = replace(BNB_FP4, cuts=(), write_order=(11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3))


def _four_over_six(tile: str, error: str) -> BlockFormat:
    base = FORMATS[f"nvfp4{tile}-4over6"]
    rule, name = te_rule("te-cap-256", cap=256, least=0), f"te-nvfp4{tile}-4over6-{error}"
    return replace(base, name=name, rule=rule, four_over_six=error, decode_order="amax-first")


_RECORDS = [
    Profile("ocp-mxfp4", "OCP MX specification", "1.0", _mx("ocp-mxfp4", MX_FLOOR), "mxfp4", "source"),
    *(
        Profile(
            f"torchao-0.18-{mode}",
            "torchao",
            "0.18.0",
            _mx(f"torchao-0.18-{mode}", _torchao_mx(mode), nan_code=3),
            "mxfp4",
            "library",
        )
        for mode in ("floor", "even", "ceil", "rceil")
    ),
    Profile(
        "compressed-tensors-0.20-mxfp4",
        "compressed-tensors",
        "0.20.0",
        _mx("compressed-tensors-0.20-mxfp4", _CT_MX, signed_zero="drop"),
        "mxfp4",
        "library",
    ),
    Profile(
        "modelopt-mxfp4",
        "NVIDIA Model Optimizer",
        "0.47.0",
        _mx("modelopt-mxfp4", _MODELOPT_MX, ties="zero", signed_zero="negative", nan_code=8),
        "mxfp4",
        "library",
    ),
    Profile(
        "ggml-mxfp4",
        "ggml / gguf",
        "gguf 0.19.0",
        _mx("ggml-mxfp4", _GGML_MX, **_GGML, nibble_group=32),
        "mxfp4",
        "library",
    ),
    Profile(
        "te-nvfp4",
        "TransformerEngine",
        "main, 2026",
        _nv("te-nvfp4", te_rule(least=0), decode_order="amax-first"),
        "nvfp4",
        "formulas",
    ),
    Profile(
        "te-nvfp4-16x16",
        "TransformerEngine",
        "main, 2026",
        replace(FORMATS["nvfp4-16x16"], name="te-nvfp4-16x16", rule=te_rule(least=0), decode_order="amax-first"),
        "nvfp4-16x16",
        "formulas",
    ),
    *(
        Profile(
            f"te-nvfp4{tile}-4over6-{error}",
            "TransformerEngine",
            "main, 2026",
            _four_over_six(tile, error),
            f"nvfp4{tile}-4over6",
            "formulas",
        )
        for tile in ("", "-16x16")
        for error in ("mse", "mae")
    ),
    Profile(
        "torchao-0.18-nvfp4",
        "torchao",
        "0.18.0",
        _nv("torchao-0.18-nvfp4", _TORCHAO_NV, signed_zero="keep", nan_code=12, decode_order="scale-first"),
        "nvfp4",
        "library",
    ),
    Profile(
        "torchao-0.18-nvfp4-1level",
        "torchao",
        "0.18.0",
        _nv(
            "torchao-0.18-nvfp4-1level",
            replace(_TORCHAO_NV, name="torchao-nvfp4-1level", stored=None),
            signed_zero="keep",
            nan_code=4,
            tensor_level="none",
        ),
        "nvfp4-1level",
        "library",
    ),
    Profile(
        "modelopt-nvfp4",
        "NVIDIA Model Optimizer",
        "0.47.0",
        _nv("modelopt-nvfp4", _MODELOPT_NV, nan_code=7, decode_order="scale-first", positive_zero=True),
        "nvfp4",
        "library",
    ),
    Profile(
        "compressed-tensors-0.20-nvfp4",
        "compressed-tensors",
        "0.20.0",
        _nv("compressed-tensors-0.20-nvfp4", _CT_NV, decode_order="divide"),
        "nvfp4",
        "library",
    ),
    Profile(
        "compressed-tensors-0.20-nvfp4-bf16",
        "compressed-tensors",
        "0.20.0",
        _nv("compressed-tensors-0.20-nvfp4-bf16", _CT_NV_BF16, nan_code=8, decode_order="divide"),
        "nvfp4",
        "library",
    ),
    Profile(
        "ggml-nvfp4",
        "ggml / gguf",
        "llama.cpp of llama-cpp-python 0.3.36",
        _nv(
            "ggml-nvfp4",
            _GGML_NV,
            **_GGML,
            nibble_group=16,
            tensor_level="none",
        ),
        "nvfp4-1level",
        "library",
    ),
    *(
        Profile(
            f"bitsandbytes-{kind}",
            "bitsandbytes",
            "0.50.2",
            replace(
                FORMATS[family],
                name=f"bitsandbytes-{kind}",
                element=element,
                rule=BITSANDBYTES,
                nibble_order="high_first",
                flat=True,
                nan_code=nan_code,
            ),
            family,
            "library",
        )
        for kind, family, element, nan_code in (("nf4", "nf4", _BNB_NF4, 15), ("fp4", "bnb-fp4", _BNB_FP4, 3))
    ),
]
_RECORDS += [Profile(fmt.name, *producer, fmt, family, checked) for producer, fmt, family, checked in PRODUCERS]

PROFILES: dict[str, Profile] = {profile.name: profile for profile in _RECORDS}
PRODUCERS_OWN.update({profile.name: profile.format for profile in _RECORDS})


def get_profile(name: str | Profile) -> Profile:
    """A profile by name, or the record itself.

    Raises
    ------
    UnknownNameError
        Lists the names that exist.
    """
    if isinstance(name, Profile):
        return name
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]
