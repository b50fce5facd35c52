"""FP8 products as a readable definition: tensor cores' sums by `formats.accumulate`, then scales.

    y[m, n] = s_x[m] * (s_w[n] * sum)                      scales of whole rows
    y[m, n] = sum over blocks of (s_x[m, b] * s_w[n, b]) * partial sum        scales per 128 elements

Every operation outside the core is one float32 operation, to nearest even. The first line is the order of CUTLASS's
row-wise epilogue, as `torch._scaled_mm` calls it; the second DeepGEMM's (whose compiler may fuse the multiplication and
the addition; here they are two). With `promote`, partial sums of so many products begin at zero and are added up in
float32 outside the core (DeepSeek-V3, arXiv:2412.19437, section 3.3); scales per 128 elements need that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..formats.accumulate import ACCUMULATORS
from ..formats.accumulate import matmul as matmul_by_definition
from .definition import Definition
from .fp8_operands import BLOCK, Fp8Operand

UNITS = {"hopper": "hopper-fp8", "blackwell": "blackwell-f8f6f4"}
"""The instruction whose sums are meant, a name in `formats.accumulate.ACCUMULATORS`, by the word that recipes use."""

STEP = 32
"""Products that both add at once."""


def why_not_promote(promote: int, blocked: bool) -> str:
    """Why partial sums of so many products cannot be; empty where they can. 0: sums are not cut into parts."""
    if promote % STEP or promote < 0:
        return f"promote is {promote}; partial sums are of whole steps of {STEP} products (0: none are promoted)"
    if blocked and (not promote or BLOCK % promote):
        return (
            f"scales per {BLOCK} elements are applied to partial sums outside the core, so promote is {STEP}, "
            f"{2 * STEP} or {BLOCK} there, not {promote}"
        )
    return ""


def check(left: Fp8Operand, right: Fp8Operand, sums: str, promote: int) -> None:
    """Refuse operands that do not belong together, and sums that nobody knows."""
    if sums not in UNITS:
        raise ValueError(f"FP8 products are added up as on {' or '.join(UNITS)}, not {sums!r}")
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"left is {left.shape}, right is {right.shape}: both are summed over their last axis")
    why = why_not_promote(promote, left.blocked or right.blocked)
    if why:
        raise ValueError(why)


@Definition
def matmul_fp8(
    left: Fp8Operand,
    right: Fp8Operand,
    out: NDArray,
    *,
    sums: str = "hopper",
    promote: int = 0,
    accumulate: bool = False,
) -> NDArray:
    """left right^T into `out` (M, N), or added to it.

    Parameters
    ----------
    left, right : Fp8Operand, (M, K) and (N, K)
    sums : {"hopper", "blackwell"}
    promote : int
        Products whose sum is added in float32 outside the core; 0: all of them are summed inside.
    """
    check(left, right, sums, promote)
    with np.errstate(over="ignore", invalid="ignore"):
        product = _blocked(left, right, sums, promote) if left.blocked or right.blocked else _plain(
            left, right, sums, promote
        )  # fmt: skip
        np.add(out, product, out=out) if accumulate else np.copyto(out, product)
    return out


def _plain(left: Fp8Operand, right: Fp8Operand, sums: str, promote: int) -> NDArray:
    formats = {"a_format": left.element, "b_format": right.element}
    total = matmul_by_definition(UNITS[sums], left.codes, right.codes, promote=promote or None, **formats)
    return left.scales * (right.scales[:, 0] * total)


def _blocked(left: Fp8Operand, right: Fp8Operand, sums: str, promote: int) -> NDArray:
    unit, formats = ACCUMULATORS[UNITS[sums]], {"a_format": left.element, "b_format": right.element}
    total = np.zeros((left.shape[0], right.shape[0]), np.float32)
    for at in range(0, left.shape[1], promote):
        part, block = slice(at, at + promote), at // BLOCK
        x, w = (side.scales[:, block if side.blocked else 0] for side in (left, right))
        partial = matmul_by_definition(unit, left.codes[:, part], right.codes[:, part], **formats)
        total = total + np.multiply.outer(x, w) * partial
    return total
