"""Products of few rows, straight from packed bytes: what generating text one token at a time needs.

    y[r] = W x[r],   W (N, K) FP4 panels,   x (R, K) float32 with R small

Such a product is bound by reading W, so W is read once, in 4 bits, and decoded in registers. The activations become
FP4 (`activations="fp4"`: the tensor core's own product) or 8-bit integers under a power-of-two scale a block
(`"int8"`, the idea of MXINT8: below one percent of error instead of ten). Scales that are powers of two keep every
scaled block dot exact in float32, so here, too, all instruction paths and NumPy's `matmul_reference` agree bit for bit.
"""

from __future__ import annotations

import numba
import numpy as np

from . import cpu
from .intrinsics_quantize import row_amax, row_left
from .intrinsics_tile import ISAS, KernelPath, matvec_panel
from .jit import jit, pjit
from .lanes import keep
from .panels import FORMATS, ROW_MULTIPLE, LeftOperand, RightOperand, empty_left, quantize_left
from .tensor_core import matmul, matmul_reference

FEW_ROWS = 8
"""Rows of one pass over W."""

ACTIVATIONS = ("int8", "fp4")

_INT8 = {block: KernelPath("int8", block) for block in FORMATS.values()}
_NOTHING = (  # values, scales, factors, sums of a left operand that the kernel itself will make
    np.empty((0, 0), np.int8),
    np.empty((0, 0), np.float32),
    np.ones(ROW_MULTIPLE, np.float32),
    np.empty((0, 0), np.int16),
)


def quantize_left_int8(x: np.ndarray, fmt: str) -> LeftOperand:
    """A left operand of 8-bit integers for weights of a format: blocks of its length, power-of-two scales.

    The scale is the least power of two not below amax / 127 (2**-126 at least); values are rounded to nearest even.

    Parameters
    ----------
    x : float32 (R, K), C-contiguous
    fmt : {"mxfp4", "nvfp4"}
        The weights' format, which sets the block length.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim != 2 or not x.flags.c_contiguous:
        found = f"{getattr(x, 'dtype', type(x).__name__)} {getattr(x, 'shape', '')}"
        raise ValueError(f"x must be a C-contiguous float32 matrix, got {found}: np.ascontiguousarray(x, np.float32)")
    left = empty_left(*x.shape, fmt)
    block, blocks = left.block, left.scales.shape[1]
    padded = np.zeros((x.shape[0], blocks * block), np.float32)
    padded[:, : x.shape[1]] = x
    parts = padded.reshape(x.shape[0], blocks, block)
    with np.errstate(invalid="ignore"):
        scales = _scale_int8(np.abs(parts).max(axis=2))
        values = np.clip(np.rint(parts * (np.float32(1) / scales)[:, :, None]), -127, 127)
    left.scales[: x.shape[0]] = scales
    left.values[: x.shape[0]] = np.nan_to_num(values).reshape(x.shape[0], -1).astype(np.int8)
    left.sums[: x.shape[0]] = left.values[: x.shape[0]].reshape(parts.shape).sum(axis=2)
    return left


def _scale_int8(amax: np.ndarray) -> np.ndarray:
    """The least power of two not below amax / 127, at least 2**-126; NaN where amax is not finite."""
    bits = (amax / np.float32(127)).astype(np.float32).view(np.int32)
    exponent = np.clip((bits + 0x7FFFFF) >> 23, 1, 254).astype(np.int32)
    scales = (exponent << 23).view(np.float32)
    return np.where(np.isfinite(amax), scales, np.float32(np.nan))


def matvec(
    x: np.ndarray,
    right: RightOperand,
    out: np.ndarray | None = None,
    *,
    activations: str = "int8",
    path: str | None = None,
) -> np.ndarray:
    """The product of a few float32 rows with a packed weight: `x @ W.T`.

    Parameters
    ----------
    x : float32 (K,) or (R, K), C-contiguous; any R works, up to about 16 it pays
    right : RightOperand (N, K)
    out : float32 (N,) or (R, N), C-contiguous, optional
    activations : {"int8", "fp4"}
    path : str, optional
        An instruction path; AMX has none for this and takes `avx512vnni`.

    Returns
    -------
    float32 (N,) or (R, N)
    """
    if activations not in ACTIVATIONS:
        raise ValueError(f"unknown activations {activations!r}; choose one of {', '.join(ACTIVATIONS)}")
    rows = x.reshape(-1, x.shape[-1]) if isinstance(x, np.ndarray) and x.ndim in (1, 2) else x
    if activations == "fp4":
        left = quantize_left(rows, right.fmt)
    else:
        left = None if _fused(rows, right, path) else quantize_left_int8(rows, right.fmt)
    if rows.shape[1] != right.shape[1]:
        raise ValueError(f"x has {rows.shape[1]} columns, W is {right.shape}: the lengths of the reduction differ")
    shape = (*x.shape[:-1], right.shape[0])
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous float32 {shape}, got {out.dtype} {out.shape}")
    result = out.reshape(rows.shape[0], -1)
    if cpu.jit_disabled():
        result[...] = matmul_reference(left, right)
        return out
    path = _vector_path(path)
    if path not in ISAS:
        matmul(left, right, result, path=path)
        return out
    for first in range(0, rows.shape[0], FEW_ROWS):
        count = min(FEW_ROWS, rows.shape[0] - first)
        several = FEW_ROWS if count > 1 else 1  # two loops to compile, not eight
        mode = KernelPath(f"{path}+{right.fmt}+{several}", right.block)
        some = slice(first, first + several)
        target = result[first : first + count]
        if left is None:
            args = rows[first : first + count], *_NOTHING
        else:
            args = rows[:0], left.values[some], left.scales[some], left.factors[some], left.sums[some]
        weight = right.codes, right.scales, right.factor
        _few_rows(mode, _INT8[right.block], *args, several, *weight, ISAS[path].offset, target)
    return out


def _vector_path(path: str | None) -> str:
    chosen = cpu.choose_path(path)
    return "avx512vnni" if chosen == "amx" and "avx512vnni" in cpu.available_paths() else chosen


def _fused(rows: np.ndarray, right: RightOperand, path: str | None) -> bool:
    """Whether the kernel itself can quantize the activations: whole blocks, compiled, a vector path."""
    whole = isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype == np.float32
    whole = whole and rows.flags.c_contiguous and rows.shape[1] % FORMATS[right.fmt] == 0
    return whole and not cpu.jit_disabled() and _vector_path(path) in ISAS


@jit
def _scales_int8(amax, scales, inverses):  # type: ignore[no-untyped-def]
    """Scales from the bits of blocks' amax (`_scale_int8`), and what the values are multiplied with."""
    exponents, inverse = scales.view(np.int32), inverses.view(np.int32)
    for b in range(amax.size):
        top = amax[b]
        share = np.float32(np.int32(top).view(np.float32) / np.float32(127.0)).view(np.int32)
        exponent = min(max((share + 0x7FFFFF) >> 23, 1), 254)
        finite = top < 0x7F800000
        exponents[b] = (exponent << 23) if finite else 0x7FC00000
        inverse[b] = max((254 - exponent) << 23, 0x00400000) if finite else 0x7FC00000


@pjit
def _few_rows(mode, int8, x, values, scales, factors, sums, rows, codes, scale_bytes, factor, shift, out):  # type: ignore[no-untyped-def]
    panels, blocks = scale_bytes.shape[:2]
    length = codes.shape[1] * 8
    if x.shape[0] > 0:
        values, scales = np.zeros((rows, length), np.int8), np.zeros((rows, blocks), np.float32)
        sums = np.zeros((rows, blocks), np.int16)
        amax, inverses = np.empty(blocks, np.int32), np.empty(blocks, np.float32)
        for r in range(x.shape[0]):
            row_amax(int8, x[r].ctypes.data, blocks, amax.ctypes.data)
            _scales_int8(amax, scales[r], inverses)
            at = x[r].ctypes.data, inverses.ctypes.data
            row_left(int8, at[0], at[1], blocks, values[r].ctypes.data, sums[r].ctypes.data, 0, 0, 0)
        keep(inverses)  # named after the last plain address into it was used
    starts = np.empty((rows, blocks), np.int32)
    for r in range(rows):
        for b in range(blocks):
            starts[r, b] = -shift * sums[r, b]
    group = 4
    for task in numba.prange((panels + group - 1) // group):
        sums = np.empty((rows, 16), np.float32)
        for panel in range(task * group, min(task * group + group, panels)):
            matvec_panel(
                mode,
                values.ctypes.data,
                length,
                starts.ctypes.data,
                scales.ctypes.data,
                blocks * 4,
                codes.ctypes.data + panel * length * 8,
                scale_bytes.ctypes.data + panel * blocks * 16,
                blocks,
                sums.ctypes.data,
                64,
            )
            count = min(16, out.shape[1] - panel * 16)
            for r in range(out.shape[0]):
                for c in range(count):
                    out[r, panel * 16 + c] = sums[r, c] * (factors[r] * factor)
