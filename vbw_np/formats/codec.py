"""The encoder: fit scales, round elements, pack. One for every format; it reads the record.

`quantize` is `encode(x, format, fit_scales(x, format))`. The two halves are separate so that scales and codebooks
can be kept while the codes follow a changing array (`quantize(x, format, reuse=packed)`).

Order of operations, all in float32:

1. amax of each block (and of the tensor or row), exact;
2. block scales by the format's `ScaleRule`;
3. quotients by the same rule;
4. elements by the format's tie rule; stochastic modes take one uint32 an element, at its flat row-major index;
5. the fine tier, from the quotients (nested, tied) or from `x - decoded coarse` (own, row).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .blocks import BlockFormat, apply_options, get_format
from .codebooks import quantile_codebook, quantile_codes
from .elements import E4M3, Codebook, ElementFormat, as_float32, first_index
from .errors import FormatError, NonFiniteError, ScaleError, unknown_name
from .fitted import FittedScales, check_fitted
from .measure import sqnr_db
from .packed import (
    FLAG,
    PLANES,
    PackedTensor,
    check_shape,
    checked_level,
    from_blocks,
    in_second_grid,
    layout_shape,
    nested_edges,
    to_blocks,
)
from .packing import pack_bits, pack_codes, pack_nibbles
from .profiles import Profile, get_profile
from .random_bits import random_bits

NONFINITE = ("raise", "propagate", "producer")
"""`raise`: refuse, naming the first index. `propagate`: the block's scale becomes NaN, so all of it decodes to NaN;
the rest of the tensor is scaled by its finite values. `producer`: exactly what the profile's library does."""

MEASURE_UP_TO = 1 << 16
"""`quantize` measures the SQNR of arrays up to this size unless told otherwise (it costs a decode)."""


# ---- amax


def block_amax(x: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    """The largest magnitude of each block, (..., ceil(K / block)); tiles of rows are replicated to their rows."""
    largest = np.fmax if fmt.rule.skip_nan else np.maximum
    amax = largest.reduce(np.abs(to_blocks(x, fmt)), axis=-1)  # (..., R, blocks)
    if fmt.block_rows == 1:
        return amax
    rows = amax.shape[-2]
    starts = np.arange(0, rows, fmt.block_rows)
    tiles = np.maximum.reduceat(amax, starts, axis=-2)  # (..., ceil(R / 16), blocks)
    return np.repeat(tiles, fmt.block_rows, axis=-2)[..., :rows, :]


def tensor_amax(
    x: np.ndarray, fmt: BlockFormat, given: np.ndarray | np.float32 | float | None = None
) -> np.ndarray | np.float32 | None:
    """The second level's amax: np.float32 for a tensor, (..., 1) for rows, None without one; or what was given."""
    if fmt.tensor_level == "none":
        return None
    if given is not None:
        return checked_level(given, "amax", x.shape, fmt)
    if fmt.tensor_level == "row":
        return np.abs(x).max(axis=-1, keepdims=True)
    return np.float32(np.abs(x).max())


# ---- fitting


def fit_scales(
    x: np.ndarray,
    format: str | BlockFormat,
    *,
    nonfinite: str = "raise",
    amax: np.ndarray | np.float32 | float | None = None,
) -> FittedScales:
    """The scales (and codebook) of an array under a format; no element is rounded into the result.

    Parameters
    ----------
    x : float array (..., K)
    format : name or BlockFormat
    nonfinite : one of `NONFINITE`
    amax : float, or (..., 1) for a format with one level a row, optional
        The second level's amax where it is known already; measured by default.
    """
    fmt = get_format(format)
    x = _checked_input(x, fmt, nonfinite)
    if fmt.quantile_codebook:
        return _fit_quantile(x)
    if fmt.rule.affine is not None:
        block, offsets, inner, inner_offsets, *headers = fmt.rule.affine.fit(to_blocks(x, fmt))
        if nonfinite == "raise":
            _check_scales_are_numbers(block, fmt, None)
        return FittedScales(block, offsets=offsets, inner=(inner, inner_offsets), headers=next(iter(headers), None))
    scales = _fit_block_scales(x, fmt, nonfinite, amax)
    return _fit_own_fine(x, fmt, scales) if fmt.fine is not None and fmt.fine.kind == "own" else scales


def _fit_block_scales(x: np.ndarray, fmt: BlockFormat, nonfinite: str, given: object = None) -> FittedScales:
    rule, level_input = fmt.rule, x
    if nonfinite == "propagate":
        level_input = np.where(np.isfinite(x), x, np.float32(0))
    amax = tensor_amax(level_input, fmt, given)
    stored = None
    if amax is not None:
        if rule.stored is None:
            raise FormatError(f"{fmt.name}: rule {rule.name} has one level, the format asks for two")
        stored = rule.stored(amax)
        stored = np.float32(stored) if np.ndim(stored) == 0 else stored
    amax_b = block_amax(x, fmt)
    if nonfinite == "propagate":
        amax_b = np.where(np.isfinite(amax_b), amax_b, np.float32(np.nan))
    if fmt.four_over_six != "off":
        block, _ = four_over_six(x, amax_b, stored, fmt)
    elif fmt.second is not None:
        block = two_grids(x, amax_b, stored, fmt)
    else:
        block = rule.block(amax_b, stored)
    if nonfinite == "raise":
        _check_scales_are_numbers(block, fmt, stored)
    tensor = None
    if stored is not None:
        tensor = rule.multiplier(stored)
        tensor = np.float32(tensor) if np.ndim(tensor) == 0 else tensor.astype(np.float32)
    return FittedScales(block, stored, tensor)


def _check_scales_are_numbers(block: np.ndarray, fmt: BlockFormat, stored: np.ndarray | np.float32 | None) -> None:
    """Raise where a producer's arithmetic makes NaN of finite numbers: 0 / 0 under a tensor scale of 0, 0 * Inf."""
    element = fmt.rule.scale_element
    bad = np.isnan(block if element is None else element.table[block])
    if bad.any():
        level = "" if stored is None else f", under the tensor-level number {float(np.asarray(stored).flat[0]):g},"
        raise ScaleError(
            f"{fmt.name} makes NaN of a block that is finite{level} as its library does: scales"
            f"{list(first_index(bad))} would be NaN, and so would what it decodes to. nonfinite='producer' gives those "
            "bytes; a format of no producer's, such as nvfp4, holds such tensors"
        )


def four_over_six(
    x: np.ndarray, amax_b: np.ndarray, stored: np.ndarray | np.float32 | None, fmt: BlockFormat
) -> tuple[np.ndarray, np.ndarray]:
    """Choose for each block between amax mapped to 6 and to 4 (arXiv:2512.02010), as TransformerEngine does.

    ::

        base = (amax_b / 6) * S;   s6 = E4M3(min(base, 448));   s4 = E4M3(min(base * 1.5, 448))

    Each candidate is quantized and decoded, `((element * s) * amax) / (6 * cap)`; squared (or absolute) errors
    are added over the block in order, tiles in a binary tree of their 16 rows (8, 4, 2, 1). The smaller error
    wins and a tie keeps 6.

    Returns
    -------
    scales : uint8 (..., blocks)
    took_four : bool (..., blocks)
    """
    codes, errors = candidates(x, amax_b, stored, fmt)
    took_four = errors[1] < errors[0]
    return np.where(took_four, codes[1], codes[0]), took_four


def two_grids(
    x: np.ndarray, amax_b: np.ndarray, stored: np.ndarray | np.float32 | None, fmt: BlockFormat
) -> np.ndarray:
    """Choose each block's grid, the format's element or its `second`, by squared error (IF4, arXiv:2603.28765).

    Both take the same scale; errors are those of `four_over_six`, and a tie keeps the first. The choice is made by
    rounding to nearest, so that stochastic rounding stays unbiased in either grid.

    Returns
    -------
    uint8 (..., blocks)
        Scale codes, the highest bit set where the second grid is taken.
    """
    codes, errors = candidates(x, amax_b, stored, fmt)
    return np.where(errors[1] < errors[0], codes[1], codes[0])


def candidates(
    x: np.ndarray, amax_b: np.ndarray, stored: np.ndarray | np.float32 | None, fmt: BlockFormat
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What `four_over_six` and `two_grids` choose from: two scale codes a block, uint8, and their errors, float32."""
    if fmt.second is not None:
        codes = fmt.rule.block(amax_b, stored)
        tried = [codes, codes | FLAG]
    elif fmt.rule.four_over_six_base is None:
        raise FormatError(f"rule {fmt.rule.name} has no four-over-six choice; use the nvfp4-4over6 formats")
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            base = fmt.rule.four_over_six_base(amax_b, stored)
            scales = [np.minimum(scale, np.float32(448)) for scale in (base, base * np.float32(1.5))]
            tried = [E4M3.encode(scale, "even") for scale in scales]
    blocks, grids = to_blocks(x, fmt), (fmt.element, fmt.second or fmt.element)
    return tried, [_candidate_error(blocks, code, stored, fmt, grid) for code, grid in zip(tried, grids, strict=True)]


def _candidate_error(
    blocks: np.ndarray,
    codes: np.ndarray,
    stored: np.ndarray | np.float32 | None,
    fmt: BlockFormat,
    element: ElementFormat | Codebook,
) -> np.ndarray:
    """The error of each block (or tile) under one candidate, float32, in the stated order."""
    scale = fmt.rule.scale_element.table[codes]
    quotients = fmt.rule.quotient(blocks, scale[..., None], _level(stored))
    elements = element.table[element.encode(quotients, "even", nan_code=0)]
    error = np.zeros(codes.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(blocks.shape[-1]):
            decoded = elements[..., i] * scale
            if stored is not None:
                decoded = (decoded * stored) / np.float32(fmt.rule.range)
            difference = decoded - blocks[..., i]
            error = error + (np.abs(difference) if fmt.four_over_six == "mae" else difference * difference)
        return error if fmt.block_rows == 1 else _tile_sum(error, fmt.block_rows)


def _tile_sum(error: np.ndarray, tile: int) -> np.ndarray:
    """Add the errors of a tile's rows in a binary tree (8 + 8, 4 + 4, 2 + 2, 1 + 1), replicated to the rows."""
    rows = error.shape[-2]
    padded = np.zeros((*error.shape[:-2], -(-rows // tile) * tile, error.shape[-1]), np.float32)
    padded[..., :rows, :] = error
    tree = padded.reshape(*padded.shape[:-2], -1, tile, padded.shape[-1])
    while tree.shape[-2] > 1:
        half = tree.shape[-2] // 2
        tree = tree[..., :half, :] + tree[..., half:, :]
    return np.repeat(tree[..., 0, :], tile, axis=-2)[..., :rows, :]


def _fit_quantile(w: np.ndarray) -> FittedScales:
    """`seed-v6`: the quantile codebook, and one residual scale a row: max |w - coarse| / 7.5."""
    codebook = quantile_codebook(w)
    residual = np.abs(w) - codebook[quantile_codes(w, codebook)]
    row = np.abs(residual).max(axis=-1, keepdims=True) / np.float32(7.5)
    return FittedScales(row, codebook=codebook)


def _fit_own_fine(x: np.ndarray, fmt: BlockFormat, scales: FittedScales) -> FittedScales:
    """Scales of an INT4 residual of its own: amax / 7 a block, in float32 or as E4M3 under a float32 level."""
    coarse = encode(x, replace(fmt, fine=None), scales, measure=False).dequantize()
    amax_b = block_amax(x - coarse, fmt)
    if fmt.fine.scale == "float32":
        return replace(scales, fine=amax_b / np.float32(7))
    level = np.float32(amax_b.max()) / np.float32(448 * 7)
    level = level if level > 0 else np.float32(1)
    return replace(scales, fine=E4M3.encode((amax_b / np.float32(7)) / level, "even"), fine_tensor=level)


# ---- encoding


def _level(stored: np.ndarray | np.float32 | None) -> np.ndarray | np.float32 | None:
    """A tensor-level number shaped for blocks (..., blocks, block)."""
    return stored if stored is None or np.ndim(stored) == 0 else stored[..., None]


def quotients(x: np.ndarray, fmt: BlockFormat, scales: FittedScales) -> np.ndarray:
    """What is rounded: every element in units of its scale, by the format's rule; float32 of x's shape."""
    element = fmt.rule.scale_element
    decoded = scales.block if element is None else element.table[scales.block]
    level, blocks = _level(scales.stored), to_blocks(x, fmt)
    divided = fmt.rule.quotient(blocks, decoded[..., None], level)
    if fmt.rule.ragged_quotient is not None and blocks.size != x.size:
        divided[..., -1, :] = fmt.rule.ragged_quotient(blocks[..., -1, :], decoded[..., -1:], level)
    return from_blocks(divided, x.shape, fmt)


def encode(
    x: np.ndarray,
    format: str | BlockFormat,
    scales: FittedScales,
    *,
    ties: str | None = None,
    random: np.ndarray | None = None,
    nonfinite: str = "raise",
    measure: bool | None = None,
) -> PackedTensor:
    """Round and pack an array under scales that are given.

    Scales need not be fresh: an element beyond the largest code saturates.

    Parameters
    ----------
    x, format, nonfinite : as in `quantize`
    scales : FittedScales, of an array of the same shape
    ties : str, optional
        Another rounding than the format's.
    random : uint32 array of x's shape, for stochastic rounding
    """
    fmt = apply_options(get_format(format), ties)
    x = _checked_input(x, fmt, nonfinite)
    check_fitted(scales, x.shape, fmt)
    if fmt.quantile_codebook:
        packed = _encode_quantile(x, fmt, scales)
    else:
        packed = _encode_blocks(x, fmt, scales, random, nonfinite)
    if measure or (measure is None and x.size <= MEASURE_UP_TO and nonfinite == "raise"):
        packed = replace(packed, sqnr_db=sqnr_db(x, packed.dequantize()))
    return packed


def _encode_blocks(
    x: np.ndarray, fmt: BlockFormat, scales: FittedScales, random: np.ndarray | None, nonfinite: str
) -> PackedTensor:
    if fmt.rule.affine is not None:
        codes = from_blocks(fmt.rule.affine.encode(to_blocks(x, fmt), *scales.inner), x.shape, fmt)
        allow_nan = nonfinite != "raise"
        return PackedTensor(
            _pack(codes, fmt), scales.block, x.shape, fmt, offsets=scales.offsets, headers=scales.headers,
            allow_nan=allow_nan,
        )  # fmt: skip
    q = quotients(x, fmt, scales)
    options = {"random": random, "signed_zero": fmt.signed_zero, "nan_code": fmt.nan_code}
    codes = fmt.element.encode(q, fmt.ties, **options)
    if fmt.second is not None:
        codes = np.where(in_second_grid(scales.block, x.shape, fmt), fmt.second.encode(q, fmt.ties, **options), codes)
    packed = PackedTensor(
        codes=_pack(codes, fmt),
        scales=scales.block,
        shape=x.shape,
        format=fmt,
        tensor_scale=scales.tensor,
        stored_scale=scales.stored,
        allow_nan=nonfinite != "raise",
    )
    if fmt.fine is None:
        return packed
    fine = _fine_codes(x, q, codes, packed, scales)
    return replace(
        packed,
        fine=_pack_fine(fine, fmt),
        planes=PLANES,
        fine_scales=scales.fine,
        fine_tensor_scale=scales.fine_tensor,
    )


def _pack(codes: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    return pack_codes(codes.reshape(layout_shape(codes.shape, fmt)), fmt.code_bits)


def _pack_fine(fine: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    return pack_nibbles(fine.reshape(layout_shape(fine.shape, fmt)))


def _fine_codes(
    x: np.ndarray, q: np.ndarray, codes: np.ndarray, packed: PackedTensor, scales: FittedScales
) -> np.ndarray:
    fine = packed.format.fine
    if fine.kind == "nested":
        return nested_cells(q, codes, fine.top)
    if fine.kind == "tied":
        with np.errstate(over="ignore"):  # clipped in any case
            steps = (q - packed.format.element.table[codes]) * np.float32(fine.divisor)
        return int4_nibbles(steps, lowest=-8 if fine.divisor == 8 else -7)
    scale = scales.fine if fine.scale == "float32" else E4M3.table[scales.fine]
    if scales.fine_tensor is not None:
        scale = scale * scales.fine_tensor
    residual = to_blocks(x - packed.dequantize(0), packed.format)
    safe = np.where(scale == 0, np.float32(1), scale)[..., None]
    return from_blocks(int4_nibbles(residual / safe), x.shape, packed.format)


def nested_cells(q: np.ndarray, codes: np.ndarray, top: float) -> np.ndarray:
    """The nested fine tier: which of 16 equal cells of its code's rounding interval holds each quotient.

    ::

        a    = q for code 0 (whose interval -0.25..0.25 holds both signs), else |q|
        cell = clip(floor((a - low[code]) / (width[code] / 16)), 0, 15)

    One float32 subtraction and one division; a quotient on an interval's end that belongs to its neighbor by
    the tie rule, or beyond `top`, takes the last cell. Zero lies on an edge and takes the cell above it, so it
    decodes to 1/64 of its scale. uint8 of q's shape.
    """
    low, width = nested_edges(top)
    magnitude = codes & np.uint8(7)
    a = np.where(magnitude == 0, q, np.abs(q))
    with np.errstate(over="ignore"):  # beyond `top` in any case
        cell = np.floor((a - low[magnitude]) / (width / np.float32(16))[magnitude])
    return np.nan_to_num(np.clip(cell, 0, 15), nan=0.0).astype(np.uint8)


def int4_nibbles(steps: np.ndarray, lowest: int = -7) -> np.ndarray:
    """Round to nearest even, clip to lowest..7, two's complement in a nibble; uint8."""
    return np.clip(np.rint(steps), lowest, 7).astype(np.int8).view(np.uint8) & np.uint8(15)


def _encode_quantile(w: np.ndarray, fmt: BlockFormat, scales: FittedScales) -> PackedTensor:
    codes = quantile_codes(w, scales.codebook)
    negative = w < 0
    magnitude = scales.codebook[codes]
    residual = w - np.where(negative, -magnitude, magnitude)
    safe = np.where(scales.block == 0, np.float32(1), scales.block)
    return PackedTensor(
        codes=_pack(codes, fmt),
        scales=scales.block,
        shape=w.shape,
        format=fmt,
        fine=_pack_fine(int4_nibbles(residual / safe), fmt),
        planes=PLANES,
        signs=pack_bits(negative),
        codebook=scales.codebook,
    )


# ---- the whole


def quantize(
    x: np.ndarray,
    format: str | BlockFormat = "nvfp4",
    *,
    profile: str | Profile | None = None,
    ties: str | None = None,
    random: np.ndarray | None = None,
    seed: int | None = None,
    stream: int = 0,
    nonfinite: str = "raise",
    reuse: PackedTensor | FittedScales | None = None,
    amax: np.ndarray | np.float32 | float | None = None,
    measure: bool | None = None,
) -> PackedTensor:
    """Quantize an array to a packed tensor.

    Parameters
    ----------
    x : float array of one or more dimensions (..., K)
        float32; float16 and bfloat16 are converted exactly, float64 is rounded; other dtypes are refused.
        Blocks lie along the last axis.
    format : str or BlockFormat
        A name in `FORMATS`, or a record.
    profile : str or Profile, optional
        A producer whose exact arithmetic to use (see `PROFILES`); it must be of this format.
    ties : str, optional
        Another rounding than the format's: one of `TIES`.
    random : uint32 array of x's shape, optional
        The random bits of stochastic rounding.
    seed, stream : int, optional
        Instead of `random`: the counter-based bits `random_bits(x.shape, seed, stream)`.
    nonfinite : one of `NONFINITE`
    reuse : PackedTensor or FittedScales, optional
        Keep these scales (and codebook); only the codes follow `x`.
    amax : float, or (..., 1), optional
        As in `fit_scales`.
    measure : bool, optional
        Measure the SQNR; by default for small arrays only (`MEASURE_UP_TO` elements).

    Returns
    -------
    PackedTensor

    Raises
    ------
    UnknownNameError, DtypeError, ShapeError, NonFiniteError, FormatError
    """
    fmt = get_format(format)
    if profile is not None:
        fmt = get_profile(profile).for_format(fmt)
    apply_options(fmt, ties)  # a rounding that it does not have is refused before the work
    if (ties or fmt.ties).startswith("stochastic") and random is None and seed is not None:
        random = random_bits(np.shape(x), seed, stream)
    x = _checked_input(x, fmt, nonfinite)
    if reuse is not None:
        scales = FittedScales.of(reuse) if isinstance(reuse, PackedTensor) else reuse
    else:
        scales = fit_scales(x, fmt, nonfinite=nonfinite, amax=amax)
    return encode(x, fmt, scales, ties=ties, random=random, nonfinite=nonfinite, measure=measure)


def dequantize(packed: PackedTensor, planes: int | None = None) -> np.ndarray:
    """`packed.dequantize(planes)`."""
    return packed.dequantize(planes)


def fake_quantize(x: np.ndarray, format: str | BlockFormat = "nvfp4", **options: object) -> np.ndarray:
    """Quantize and decode at once: the float32 values that the format would hold."""
    return quantize(x, format, measure=False, **options).dequantize()  # type: ignore[arg-type]


# ---- checks


def _checked_input(x: object, fmt: BlockFormat, nonfinite: str) -> np.ndarray:
    if nonfinite not in NONFINITE:
        raise unknown_name("non-finite policy", nonfinite, NONFINITE)
    x = as_float32(x)
    check_shape(x.shape, fmt)
    affine = fmt.rule.affine is not None
    refuse = nonfinite == "raise" or fmt.quantile_codebook or fmt.fine is not None
    refuse |= affine and nonfinite == "propagate"
    if refuse and not np.isfinite(x).all():
        where = first_index(~np.isfinite(x))
        others = "raise and producer" if affine else "raise"
        why = "" if nonfinite == "raise" else f" ({fmt.name} has no policy but {others})"
        raise NonFiniteError(
            f"x{list(where)} is {float(x[where])} and {fmt.name} cannot hold it{why}; find out where it comes from, "
            f"or choose nonfinite='propagate' (its block becomes NaN) or 'producer'"
        )
    return x
