"""FP8 products by kernels: the twin of `definitions.matmul_fp8`, bit for bit.

Operands are laid out as numbers and powers of two (`intrinsics_fp8`), filled up with zeros to whole steps of 32; a zero
counts with 2**-133 in the largest exponent of a step, which no FP8 product and no accumulator comes near. Operands with
NaN or Inf are left to the definition.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...definitions.aligned import aligned_empty, result_of
from ...definitions.fp8 import STEP, check
from ...definitions.fp8_operands import BLOCK, ELEMENTS, Fp8Operand
from ...simd.jit import pjit, read_only, share
from .intrinsics_fp8 import COLUMNS, ROWS, step_blackwell, step_hopper

_ROWS_AT_ONCE = 64


def tables(element: str) -> NDArray[np.float32]:
    """Value and power of two of every code, (2, 256); the power of a zero is 0."""
    record = ELEMENTS[element]
    codes = np.arange(256)
    field = (codes >> record.mantissa_bits) & ((1 << record.exponent_bits) - 1)
    powers = np.ldexp(1.0, np.maximum(field, 1) - record.bias)
    return np.stack([record.table, np.where(record.table == 0, 0, powers)]).astype(np.float32)


@pjit
def _lay_out(team, codes, table, width, laid_out):  # type: ignore[no-untyped-def]
    """Rows to values and powers, [rows / width][2][K, filled up][width]."""
    rows, length = codes.shape
    for p in share(team, laid_out.shape[0]):
        laid_out[p] = 0
        for r in range(p * width, min(rows, (p + 1) * width)):
            for k in range(length):
                code = codes[r, k]
                laid_out[p, 0, k, r - p * width] = table[0, code]
                laid_out[p, 1, k, r - p * width] = table[1, code]


def _laid_out(operand: Fp8Operand, width: int, multiple: int) -> NDArray[np.float32]:
    rows, length = operand.shape
    panels = -(-rows // (width * multiple)) * multiple
    whole = aligned_empty((panels, 2, -(-length // STEP) * STEP, width), np.float32)
    _lay_out(operand.codes, tables(operand.element), width, whole)
    return whole


@pjit
def _product(team, wide, left, right, promote, blocked, left_scales, right_scales, add, out):  # type: ignore[no-untyped-def]
    """left [M, filled up to two][2][K][1], right [panels][2][K][16]; `promote`, `blocked`: steps, 0 where none are."""
    rows, columns = out.shape
    length = right.shape[2]
    steps, chunks = length // STEP, -(-rows // _ROWS_AT_ONCE)
    for task in share(team, right.shape[0] * chunks):
        p, chunk = task // chunks, task % chunks
        sums, total = np.zeros((ROWS, COLUMNS), np.float32), np.zeros((ROWS, COLUMNS), np.float32)
        sums_at, left_at, right_at = sums.ctypes.data, left.ctypes.data, right[p].ctypes.data
        for m in range(chunk * _ROWS_AT_ONCE, min(rows, (chunk + 1) * _ROWS_AT_ONCE), ROWS):
            sums[:] = 0
            total[:] = 0
            for s in range(steps):
                at, panel = left_at + (2 * m * length + s * STEP) * 4, right_at + s * STEP * COLUMNS * 4
                if wide:
                    step_blackwell(at, 8 * length, 4 * length, panel, 64 * length, sums_at)
                else:
                    step_hopper(at, 8 * length, 4 * length, panel, 64 * length, sums_at)
                if promote and ((s + 1) % promote == 0 or s + 1 == steps):
                    for r in range(min(ROWS, rows - m)):
                        for c in range(min(COLUMNS, columns - p * COLUMNS)):
                            partial = sums[r, c]
                            if blocked:
                                x = left_scales[m + r, s // blocked % left_scales.shape[1]]
                                w = right_scales[p * COLUMNS + c, s // blocked % right_scales.shape[1]]
                                partial = (x * w) * partial
                            total[r, c] = total[r, c] + partial
                    sums[:] = 0
            for r in range(min(ROWS, rows - m)):
                for c in range(min(COLUMNS, columns - p * COLUMNS)):
                    value = total[r, c] if promote else sums[r, c]
                    if not blocked:
                        value = left_scales[m + r, 0] * (right_scales[p * COLUMNS + c, 0] * value)
                    out[m + r, p * COLUMNS + c] = out[m + r, p * COLUMNS + c] + value if add else value


def matmul_fp8(
    left: Fp8Operand,
    right: Fp8Operand,
    out: NDArray,
    *,
    sums: str = "hopper",
    promote: int = 0,
    accumulate: bool = False,
) -> NDArray:
    """See `definitions.matmul_fp8`."""
    check(left, right, sums, promote)
    if not (left.finite and right.finite):
        return NotImplemented
    out = result_of(out, (left.shape[0], right.shape[0]))
    laid_out = _laid_out(left, 1, ROWS), _laid_out(right, COLUMNS, 1)
    blocked = BLOCK // STEP if left.blocked or right.blocked else 0
    scales = read_only(left.scales), read_only(right.scales)
    _product(sums == "blackwell", *laid_out, promote // STEP, blocked, *scales, accumulate, out)
    return out
