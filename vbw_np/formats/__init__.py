"""What FP4 bits mean: elements, block formats, two tiers, packing. Pure NumPy; the reference for every kernel.

The core::

    from vbw_np.formats import quantize, E2M1, FORMATS

    packed = quantize(w, "nvfp4")            # PackedTensor: .codes .scales .tensor_scale .shape .format
    packed.dequantize()                      # float32: (element * scale) * tensor_scale
    packed.bits_per_value, packed.nbytes     # everything counted
    quantize(g, "nvfp4", ties="stochastic", seed=7, stream=layer)   # counter-based random bits
    quantize(w, "nvfp4", reuse=packed)       # old scales, new codes
    scales = fit_scales(w, "nvfp4"); encode(w, "nvfp4", scales)     # the two halves of quantize
    fine = quantize(w, "nvfp4-nested"); fine.dequantize(planes=2); fine.coarse()

Modules
-------
elements      `E2M1 E4M3 E5M2 E8M0 UE4M3 E2M3 E3M2 INT4`: `.decode(codes)`, `.encode(x, ties=...)`, `.thresholds`
random_bits   `hash_bits(seed, stream, index)`: the counter behind stochastic rounding
scales        scale rules: amax -> scale, element -> quotient, in a stated order of float32 operations
blocks        `BlockFormat` records, the registry `FORMATS`, `get_format`
affine        rules whose scales have a sign, a zero point or a minimum
codebooks     NF4, bitsandbytes' FP4, Lloyd-Max, quantiles
codec         `quantize`, `fit_scales`, `encode`, `dequantize`, `fake_quantize`
fitted        `FittedScales`: what the encoder uses, and whether it is a format's own
packed        `PackedTensor` and the decoder
packing       nibble orders, bit planes, the 128 x 4 scale swizzle
accumulate    how tensor cores add, bit for bit
hadamard      the random rotation before quantizing; eden: NVFP4 that is unbiased on average
ggml          GGUF's blocks: their bytes; ggml_blocks: as packed tensors; ggml_search: encoders that search
profiles      producers' exact behaviour as frozen records: `quantize(w, "nvfp4", profile="torchao-0.18-nvfp4")`
mixed         ... beyond four-bit floats; fusing: tensor scales of fused layers made one
containers    producers' named arrays: `to_container(packed, "gguf")`, `from_container`; `save_packed`, `load_packed`
scalar        the scalar tier: one number in exact fractions, with its reasons
explain       `packed.explain(i, j, x=w)`, `explain_code`, `explain_values`
explain_block what one number costs its block; measure: errors, in float64
diagnose      `diagnose(a, b, x)`: why two packed tensors of one matrix differ
other_parts   what `diagnose` compares beside codes and scales
double_quant  float32 block maxima in 8 bits
orthogonal    INT4 over 8 x 8 blocks, near-orthogonal ones made orthogonal
claims        published figures, reproduced; claims_2026: of sums and recipes
commands      `vbw formats`, `bits`, `quantize`, `explain`, `claims`
"""

from __future__ import annotations

from .blocks import FORMATS, BlockFormat, FineTier, codebook_format, get_format
from .codebooks import BNB_FP4, NF4, lloyd_max_normal, lloyd_max_samples, normal_float_levels, quantile_codebook
from .codec import FittedScales, dequantize, encode, fake_quantize, fit_scales, quantize
from .containers import from_container, load_packed, save_packed, to_container
from .diagnose import Diagnosis, diagnose
from .double_quant import double_quantize, with_double_quantized_scales
from .elements import (
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    E8M0,
    ELEMENTS,
    INT4,
    TIES,
    UE4M3,
    Codebook,
    ElementFormat,
    get_element,
)
from .errors import (
    DtypeError,
    FormatError,
    NonFiniteError,
    ScaleError,
    ShapeError,
    UnknownNameError,
)
from .explain import Explanation, explain_code, explain_values
from .measure import decibels, relative_mse, sqnr_db
from .orthogonal import quantize_orthogonal
from .packed import PackedTensor
from .packing import (
    join_planes,
    pack_nibbles,
    split_planes,
    swizzle_scales,
    unpack_nibbles,
    unswizzle_scales,
)
from .profiles import PROFILES, Profile, get_profile
from .random_bits import hash_bits, random_bits

__all__ = [
    "BNB_FP4",
    "E2M1",
    "E2M3",
    "E3M2",
    "E4M3",
    "E5M2",
    "E8M0",
    "ELEMENTS",
    "FORMATS",
    "INT4",
    "NF4",
    "PROFILES",
    "TIES",
    "UE4M3",
    "BlockFormat",
    "Codebook",
    "Diagnosis",
    "DtypeError",
    "ElementFormat",
    "Explanation",
    "FineTier",
    "FittedScales",
    "FormatError",
    "NonFiniteError",
    "PackedTensor",
    "Profile",
    "ScaleError",
    "ShapeError",
    "UnknownNameError",
    "codebook_format",
    "decibels",
    "dequantize",
    "diagnose",
    "double_quantize",
    "encode",
    "explain_code",
    "explain_values",
    "fake_quantize",
    "fit_scales",
    "from_container",
    "get_element",
    "get_format",
    "get_profile",
    "hash_bits",
    "join_planes",
    "lloyd_max_normal",
    "lloyd_max_samples",
    "load_packed",
    "normal_float_levels",
    "pack_nibbles",
    "quantile_codebook",
    "quantize",
    "quantize_orthogonal",
    "random_bits",
    "relative_mse",
    "save_packed",
    "split_planes",
    "sqnr_db",
    "swizzle_scales",
    "to_container",
    "unpack_nibbles",
    "unswizzle_scales",
    "with_double_quantized_scales",
]
