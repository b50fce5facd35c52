"""The products of the virtual tensor core by their definition, in NumPy alone (fast: `kernels.fp4`)."""

from __future__ import annotations

import numpy as np

from ..formats import E2M1, E4M3, E8M0
from ..formats.accumulate import matmul as matmul_by_definition
from .aligned import check_rows
from .panels import DOUBLED, LeftOperand, RightOperand, empty_left

UNIT = "blackwell-mxf4nvf4"
"""The record of `formats.accumulate.ACCUMULATORS` by which `blackwell_reference` adds."""

STEP = 64
"""Elements of the reduction that Blackwell adds at once."""


def transformer_engine_alpha(
    amax_left: np.ndarray | np.float32, amax_right: np.ndarray | np.float32, *, reciprocal: bool = False
) -> np.ndarray | np.float32:
    """What TransformerEngine multiplies a product of two NVFP4 operands with; pass it to `matmul` as `alpha`.

    `(amax_left * amax_right) / (36 * 448**2)`, each operation rounded to float32.

    Parameters
    ----------
    amax_left, amax_right : float32
        The second-level numbers of both operands (there: one a tensor; on the left one a row, (M,), works too).
    reciprocal : bool
        `(amax_left * amax_right) * (1 / (36 * 448**2))` instead, as its later releases have it.

    Notes
    -----
    Source: `compute_nvfp4_per_tensor_scale_kernel` in `transformer_engine/common/recipe/nvfp4.cu`.
    """
    factor = np.float32(36 * 448**2)
    product = np.float32(amax_left) * np.float32(amax_right)
    return product * (np.float32(1) / factor) if reciprocal else product / factor


def factors_of(left: LeftOperand, right: RightOperand, alpha: np.ndarray | float | None) -> np.ndarray:
    """What each row of sums is multiplied with, float32: `alpha`, or the product of both operands' factors.

    Raises
    ------
    ValueError
        If alpha is neither one number nor one a row.
    """
    if alpha is None:
        return left.factors * right.factor
    alpha = np.asarray(alpha, np.float32)
    if alpha.shape not in ((), (1,), (left.shape[0],)):
        raise ValueError(f"alpha has shape {alpha.shape}; it is one number, or one a row of the left operand: "
                         f"({left.shape[0]},)")  # fmt: skip
    factors = np.zeros_like(left.factors)
    factors[: left.shape[0]] = alpha
    return factors


def matmul_reference(left: LeftOperand, right: RightOperand, alpha: np.ndarray | float | None = None) -> np.ndarray:
    """The product by its definition, in NumPy: block after block, exact dots, float32 sums. (M, N) float32."""
    check_pair(left, right)
    (m, length), n, block = left.shape, right.shape[0], left.block
    x, w = left.values[:m].astype(np.float32), right.values().astype(np.float32)
    scale_x, scale_w = left.scales[:m], right.half_scales()
    y = np.zeros((m, n), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for b in range(-(-length // block)):
            k = slice(b * block, (b + 1) * block)
            dot = x[:, k] @ w[:, k].T  # integers up to 4608: exact in any order
            y += np.multiply.outer(scale_x[:, b], scale_w[:, b]) * dot
        return y * factors_of(left, right, alpha)[:m, None]


def check_pair(left: LeftOperand, right: RightOperand) -> None:
    if left.family != right.family:
        raise ValueError(
            f"the left operand is {left.family}, the right one {right.family}; quantize both to one format"
        )
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"left is {left.shape}, right is {right.shape}: the reduction runs along the last axis of both, "
            "whose lengths differ"
        )


def quantize_left_int8(x: np.ndarray, family: str) -> LeftOperand:
    """A left operand of 8-bit integers for weights of a format: blocks of its length, power-of-two scales.

    The scale is the least power of two not below amax / 127 (2**-126 at least); values are rounded to nearest even.

    Parameters
    ----------
    x : float32 (R, K), C-contiguous
    family : {"mxfp4", "nvfp4"}
        The weights' format, which sets the block length.
    """
    check_rows(x, 2)
    left = empty_left(*x.shape, family)
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


def blackwell_reference(left: LeftOperand, right: RightOperand) -> np.ndarray:
    """The product by its definition, in NumPy, (M, N) float32; rows and columns with a NaN scale are NaN."""
    (m, length), n = left.shape, right.shape[0]
    padded = -(-length // STEP) * STEP
    element = E8M0 if left.family == "mxfp4" else E4M3
    code = np.zeros(25, np.uint8)
    code[DOUBLED[:8] + 12], code[DOUBLED[9:] + 12] = np.arange(8), np.arange(9, 16)
    a, b = np.zeros((m, padded), np.uint8), np.zeros((n, padded), np.uint8)
    a[:, :length] = code[left.values[:m, :length] + 12]
    b[:, :length] = code[right.values()[:, :length] + 12]
    scale_a = np.zeros((m, padded // left.block), np.uint8)
    scale_b = np.zeros((n, padded // left.block), np.uint8)
    stored = left.scales[:m].astype(np.float64) * 2
    scale_a[:, : stored.shape[1]] = element.encode(stored.astype(np.float32))
    scale_b[:, : right.scales.shape[1]] = right.scales.transpose(0, 2, 1).reshape(-1, right.scales.shape[1])[:n]
    options = {"scale_format": "e8m0" if left.family == "mxfp4" else "ue4m3", "scale_block": left.block}
    sums = matmul_by_definition(UNIT, a, b, scale_a=scale_a, scale_b=scale_b, **options)
    assert E2M1.table[code[DOUBLED[7] + 12]] == 6
    with np.errstate(invalid="ignore", over="ignore"):
        return sums * (left.factors[:m] * right.factor)[:, None]
