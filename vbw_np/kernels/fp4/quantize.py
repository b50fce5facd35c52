"""Quantize and dequantize rows: fast twins of `vbw_np.formats`, equal bit for bit.

    quantize(x, "nvfp4")            -> PackedTensor, as formats.quantize(x, "nvfp4", measure=False)
    dequantize(packed, out=buffer)  -> float32, as packed.dequantize()

The kernels are in `strips` and `two_tiers`; formats that none of them knows are left to NumPy.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ... import formats
from ...definitions import support
from ...definitions.kernel_numbers import ABSMAX, TE
from ...engine import autograd
from ...formats.blocks import apply_options
from ...formats.fitted import check_fitted
from ...formats.packed import byte_shape, checked_level, nested_edges, scale_shape
from ...formats.random_bits import hash_keys
from ...formats.scales import te_encode_scale
from ...simd.jit import block as block_ready
from ...simd.jit import read_only
from ...simd.jit import row as jit_row
from ...simd.lanes import PIECE
from ...simd.wide import WIDTH
from .dequantize import dequantize
from .strips import Arrays, Settings, amax_rows, quantize_strips
from .two_tiers import fast_quantile_codebook, quantize_quantile_rows

__all__ = ["dequantize", "is_known", "quantize", "row_amax", "tensor_amax"]

empty = autograd.memory.empty
_INFINITY = 0x7F800000

# ------------------------------------------------------------------------------------------------------- from Python

_NOTHING = np.empty(0, np.float32), np.empty(0, np.uint8)


def _flat(x: NDArray) -> NDArray:
    """All of an array on one axis, to be read: a copy only where it has to be."""
    return read_only(np.require(x, requirements=["C", "A"]).reshape(-1))


def tensor_amax(x: NDArray) -> np.float32:
    """The largest magnitude of a float32 array; NaN or Inf if there is one in it."""
    flat = _flat(x.T if x.flags.f_contiguous else x)
    tops = np.empty(-(-flat.size // PIECE), np.uint32)
    amax_rows(flat, PIECE, tops)
    return tops.max().view(np.float32)


def row_amax(x: NDArray) -> NDArray:
    """The largest magnitude of each row: (..., K) to (..., 1)."""
    tops = np.empty((*x.shape[:-1], 1), np.uint32)
    amax_rows(_flat(x), x.shape[-1], tops.reshape(-1))
    return tops.view(np.float32)


def is_known(fmt: formats.BlockFormat, ties: str) -> bool:
    """Whether a kernel quantizes this format with this rounding."""
    return support.strips(fmt, ties).kernel is not None


def _level(x: NDArray, fmt: formats.BlockFormat, amax: NDArray | np.float32 | None) -> NDArray | np.float32 | None:
    """The second level's amax, measured where it is not given: None, a number, or (..., 1)."""
    if fmt.tensor_level == "none":
        return None
    if amax is not None:
        return checked_level(amax, "amax", x.shape, fmt, allow_nan=True)
    return row_amax(x) if fmt.tensor_level == "row" else tensor_amax(x)


def _te_numbers(fmt: formats.BlockFormat, stored: NDArray | np.float32 | None) -> tuple[NDArray, NDArray]:
    """S * (1 / 6) and 1 / S of TransformerEngine's rule, in its order of operations; one number, or one a row."""
    numbers = fmt.rule.numbers
    encode_scale = np.float32(1) if stored is None else te_encode_scale(stored, numbers.cap, numbers.largest)
    return np.reshape(encode_scale * numbers.inverse, -1), np.reshape(np.float32(1) / encode_scale, -1)


def _nested_tables(fmt: formats.BlockFormat) -> NDArray:
    tables = np.zeros(2 * WIDTH, np.float32)
    if fmt.fine is not None:
        low, width = nested_edges(fmt.fine.top)
        tables[:8], tables[WIDTH : WIDTH + 8] = low, width / np.float32(16)
    return tables


def _groups(size: int, rows: int, length: int, tile: int, fmt: formats.BlockFormat, whole: bool) -> tuple[int, int]:
    """Rows and their length as the kernel shall see them: one long row, cut, where rows are whole blocks."""
    if tile > 1 or whole or fmt.tensor_level == "row" or length % (fmt.block or 1):
        return rows, length
    return -(-size // PIECE), PIECE


def _trusted(**fields: object) -> formats.PackedTensor:
    """A PackedTensor of arrays that a kernel has just made; checking them again would cost as much as making them."""
    packed = object.__new__(formats.PackedTensor)
    for field in dataclasses.fields(formats.PackedTensor):
        object.__setattr__(packed, field.name, fields.get(field.name, field.default))
    return packed


def quantize(
    x: NDArray,
    format: str | formats.BlockFormat = "nvfp4",
    *,
    ties: str | None = None,
    seed: int | None = None,
    stream: int = 0,
    amax: NDArray | np.float32 | float | None = None,
    reuse: formats.PackedTensor | formats.FittedScales | None = None,
    out: formats.PackedTensor | None = None,
) -> formats.PackedTensor:
    """Twin of `formats.quantize`, without measuring the error.

    Parameters
    ----------
    x : float32 (..., K)
    format : name or BlockFormat
    ties, seed, stream, reuse : as in `formats.quantize`
    amax : float32, or (..., 1) for a format with one level a row
        The second level's amax where it is known already; it must not be below the largest magnitude.
    out : PackedTensor of the same shape and format, optional
        Overwritten: its arrays become those of the result.

    Returns
    -------
    PackedTensor

    Raises
    ------
    As `formats.quantize`.
    """
    fmt = apply_options(formats.get_format(format), ties)
    if type(x) is not np.ndarray:
        x = formats.elements.as_float32(x)
    plain = isinstance(x, np.ndarray) and x.dtype == np.float32 and x.ndim and 0 < x.size < 2**32
    if fmt.quantile_codebook and plain and x.shape[-1] % WIDTH == 0:
        return _quantize_quantiles(x, fmt, reuse, out)
    stochastic = fmt.ties.startswith("stochastic")
    stacked = fmt.block_rows > 1 and np.ndim(x) != 2
    if not plain or stacked or not is_known(fmt, fmt.ties) or (stochastic and seed is None):
        return _by_numpy(x, fmt, seed, stream, amax, reuse)
    scales = formats.FittedScales.of(reuse) if isinstance(reuse, formats.PackedTensor) else reuse
    if scales is not None:
        check_fitted(scales, x.shape, fmt)
        stored = scales.stored
    else:
        stored = _level(x, fmt, amax)
        if stored is not None and not (np.isfinite(stored) & (stored >= 0)).all():
            return _by_numpy(x, fmt, seed, stream, amax, reuse)  # which says what is wrong
    packed, tops = _run(x, fmt, stored, scales, hash_keys(seed or 0, stream), out)
    if tops.max() >= _INFINITY:
        return _by_numpy(x, fmt, seed, stream, None, reuse)  # which says where the NaN or Inf is
    return packed


def _quantize_quantiles(
    x: NDArray,
    fmt: formats.BlockFormat,
    reuse: formats.PackedTensor | formats.FittedScales | None,
    out: formats.PackedTensor | None,
) -> formats.PackedTensor:
    """`seed-v6`: a codebook of quantiles, signs, and the residual in INT4."""
    if not np.isfinite(tensor_amax(x)):
        return _by_numpy(x, fmt, None, 0, None, reuse)
    scales = formats.FittedScales.of(reuse) if isinstance(reuse, formats.PackedTensor) else reuse
    if scales is not None:
        check_fitted(scales, x.shape, fmt)
    codes, fine, row_scales = _outputs(x, fmt, scales, out)
    signs = empty(byte_shape(x.shape, fmt, bits=1), np.uint8) if out is None else out.signs
    codebook = block_ready(scales.codebook) if scales is not None else fast_quantile_codebook(x)
    quantize_quantile_rows(
        jit_row(x), x.shape[-1], codebook, int(scales is None), row_scales.reshape(-1), codes.reshape(-1),
        fine.reshape(-1), signs.reshape(-1),
    )  # fmt: skip
    return _trusted(
        codes=codes, scales=row_scales, shape=x.shape, format=fmt, fine=fine, planes=4, signs=signs, codebook=codebook
    )


def _by_numpy(x, fmt, seed, stream, amax, reuse) -> formats.PackedTensor:
    return formats.quantize(x, fmt, seed=seed, stream=stream, amax=amax, reuse=reuse, measure=False)


def _run(
    x: NDArray,
    fmt: formats.BlockFormat,
    stored: NDArray | np.float32 | None,
    scales: formats.FittedScales | None,
    keys: tuple[int, int],
    out: formats.PackedTensor | None,
) -> tuple[formats.PackedTensor, NDArray]:
    """Allocate, run the kernel, wrap; also the bit patterns of amax by groups."""
    rule, block, whole = support.rule(fmt).kernel, fmt.block or WIDTH, fmt.block is None
    length = x.shape[-1]
    rows, tile = x.size // length, fmt.block_rows
    codes, fine, block_scales = _outputs(x, fmt, scales, out)
    factors = s_decs = np.ones(1, np.float32)
    if rule == TE:
        factors, s_decs = _te_numbers(fmt, stored)
    elif whole:
        if scales is None:
            np.divide(row_amax(x), np.float32(6), out=block_scales)
        factors = np.where(block_scales == 0, np.float32(1), block_scales).reshape(-1)
        s_decs = factors
    settings = Settings(
        block, rule, support.ROUNDINGS[fmt.ties], support.SIGNS[fmt.signed_zero], *keys, int(scales is None),
        int(whole), int(fine is not None), tile,
    )  # fmt: skip
    flat, nothing = block_scales.reshape(-1), _NOTHING
    arrays = Arrays(
        jit_row(x),
        codes.reshape(-1),
        nothing[1] if fine is None else fine.reshape(-1),
        nothing[1] if rule == ABSMAX else flat,
        flat if rule == ABSMAX else nothing[0],
        _nested_tables(fmt),
    )
    rows, length = _groups(x.size, rows, length, tile, fmt, whole)
    tops = np.zeros(-(-rows // tile), np.uint32)
    quantize_strips(*arrays, rows, length, tile, factors, s_decs, settings, tops)
    multiplier = None
    if stored is not None:
        multiplier = scales.tensor if scales is not None else fmt.rule.multiplier(stored)
        multiplier = np.float32(multiplier) if np.ndim(multiplier) == 0 else multiplier
    packed = _trusted(
        codes=codes, scales=block_scales, shape=x.shape, format=fmt, tensor_scale=multiplier, stored_scale=stored,
        fine=fine, planes=0 if fine is None else 4,
    )  # fmt: skip
    return packed, tops


def _outputs(x, fmt, scales, out) -> tuple[NDArray, NDArray | None, NDArray]:
    """Arrays for codes, fine codes and scales: those of `out`, or fresh; given scales are used as they are."""
    codes_shape, scales_shape = byte_shape(x.shape, fmt), scale_shape(x.shape, fmt)
    if out is not None and (out.shape != x.shape or apply_options(out.format, fmt.ties) != fmt):
        raise formats.ShapeError(
            f"out is a {out.format.name} tensor of shape {out.shape}; the result is {fmt.name} of shape {x.shape}"
        )
    codes = empty(codes_shape, np.uint8) if out is None else out.codes
    fine = None
    if fmt.fine is not None:
        fine = empty(codes_shape, np.uint8) if out is None else out.fine
    if scales is not None:
        return codes, fine, block_ready(scales.block)
    dtype = np.uint8 if fmt.rule.scale_element else np.float32
    return codes, fine, empty(scales_shape, dtype) if out is None else out.scales
