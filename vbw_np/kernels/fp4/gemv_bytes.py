"""Rows of 8-bit activations times packed weights, few or many: the kernel of `byte_rows`, and who multiplies what."""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ...definitions.byte_rows import BLOCK, LANES, LEFT, ByteRows
from ...definitions.fp4_products import quantize_left_int8
from ...definitions.panels import FORMATS, LeftOperand, RightOperand, empty_left
from ...simd import cpu
from ...simd.intrinsics import F32, I8, I16, I32, Emitter, vec
from ...simd.jit import block, jit, pjit, share
from ...simd.variant import Variant, variant_intrinsic
from .gemv import matvec
from .quantize_operands import rows_left
from .tensor_core import matmul

ROWS = 4
"""Weight rows that one pass multiplies: what belongs to the left is fetched once for all of them."""

TASK = 128
"""Weight rows of a task."""

MANY_ROWS = 17
"""Left rows from which on the tensor core's tiles are faster than passes over the packed bytes."""


def quantize_rows_int8(x: NDArray, family: str) -> LeftOperand:
    """Twin of `fp4_products.quantize_left_int8`."""
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim != 2 or not x.flags.c_contiguous or not len(x):
        return quantize_left_int8(x, family)  # refuses it, or has nothing to do
    left = empty_left(*x.shape, family)
    left.factors[...] = 1
    target = left.values, left.scales, left.factors, left.sums
    numbers = np.zeros(3, np.float32), np.empty(0, np.float32), 0, 0  # powers of two need no numbers of a rule
    rows_left(Variant("int8", FORMATS[family]), block(x).reshape(-1), *x.shape, left.block, False, *numbers, *target)
    return left


def _pair_sums(e: Emitter, isa: str, a: ir.Value, b: ir.Value) -> ir.Value:
    """Of 16 products of int16, the sums of neighbours as 8 int32."""
    if isa == "x86":
        return e.call("llvm.x86.avx2.pmadd.wd", vec(I32, LANES), a, b)
    wide = vec(I32, 2 * LANES)
    product = e.b.mul(e.b.sext(a, wide), e.b.sext(b, wide))
    even, odd = (
        e.b.shuffle_vector(product, product, e.const(vec(I32, LANES), list(range(first, 2 * LANES, 2))))
        for first in (0, 1)
    )
    return e.b.add(even, odd)


def _emit_rows(variant: Variant, e: Emitter, values, left_scales, codes, scales, blocks, out):  # type: ignore[no-untyped-def]
    """`ROWS` weight rows, `blocks` * 32 bytes apart, times one left row; 8 lanes a row to `out`."""
    isa, half, short, lanes = variant.name, vec(I8, 16), vec(I16, 16), vec(F32, LANES)

    def body(i: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
        at = e.times(i, BLOCK)
        left = [e.b.sext(e.load(half, e.at(values, at, 16 * h), align=1), short) for h in range(2)]
        left_scale = e.load(F32, e.at(left_scales, e.times(i, 4)))
        added = []
        for r, total in enumerate(totals):
            row = e.at(codes, at, e.times(blocks, BLOCK * r))
            right = [e.b.sext(e.load(half, e.at(row, 16 * h), align=1), short) for h in range(2)]
            dots = e.b.add(*(_pair_sums(e, isa, a, b) for a, b in zip(left, right, strict=True)))
            scale = e.b.fmul(left_scale, e.load(F32, e.at(scales, e.times(i, 4), e.times(blocks, 4 * r))))
            product = e.b.fmul(e.splat(scale, LANES), e.b.sitofp(dots, lanes))
            added.append(e.b.fadd(total, product))
        return added

    for r, total in enumerate(e.loop(blocks, [ir.Constant(lanes, None)] * ROWS, body)):
        e.store(total, e.at(out, r * LANES * 4))


_rows_lanes = variant_intrinsic(6, _emit_rows)


@jit
def byte_rows_task(mode, values, left_scales, rows, codes, scales, task, out):  # type: ignore[no-untyped-def]
    """`TASK` weight rows times all left rows."""
    blocks, count = scales.shape[1], codes.shape[0]
    whole = count // ROWS * ROWS
    lanes = np.empty((ROWS, LANES), np.float32)
    tail_codes, tail_scales = np.zeros((ROWS, blocks * BLOCK), np.int8), np.zeros((ROWS, blocks), np.float32)
    for n in range(task * TASK, min((task + 1) * TASK, count), ROWS):
        if n < whole:
            first_code, first_scale = codes.ctypes.data + n * blocks * BLOCK, scales.ctypes.data + n * blocks * 4
        else:
            for r in range(count - n):
                tail_codes[r], tail_scales[r] = codes[n + r], scales[n + r]
            first_code, first_scale = tail_codes.ctypes.data, tail_scales.ctypes.data
        for m in range(rows):
            left, left_scale = values.ctypes.data + m * blocks * BLOCK, left_scales.ctypes.data + m * blocks * 4
            _rows_lanes(mode, left, left_scale, first_code, first_scale, blocks, lanes.ctypes.data)
            for r in range(min(ROWS, count - n)):
                a0, a1 = lanes[r, 0] + lanes[r, 4], lanes[r, 1] + lanes[r, 5]
                a2, a3 = lanes[r, 2] + lanes[r, 6], lanes[r, 3] + lanes[r, 7]
                out[m, n + r] = (a0 + a2) + (a1 + a3)


@pjit
def _products(team, mode, values, left_scales, rows, codes, scales, out):  # type: ignore[no-untyped-def]
    for task in share(team, (codes.shape[0] + TASK - 1) // TASK):
        byte_rows_task(mode, values, left_scales, rows, codes, scales, task, out)


@cache
def byte_rows_mode(isa: str) -> Variant:
    return Variant("x86" if isa in ("amx", "avx512vnni", "avxvnni", "avx2") else "any", BLOCK)


def matvec_bytes(x: NDArray, right: ByteRows, out: NDArray, isa: str | None = None) -> NDArray:
    """x W^T into `out` (R, N): the bits of `byte_rows.matvec_reference`, on every instruction set."""
    left = quantize_rows_int8(np.ascontiguousarray(x), LEFT)
    if len(x):
        _products(byte_rows_mode(cpu.choose(isa)), left.values, left.scales, len(x), right.codes, right.scales, out)
    return out


def matvec_int8(x: NDArray, right: RightOperand | ByteRows, out: NDArray) -> NDArray:
    """Twin of `definitions.matvec`."""
    if isinstance(right, ByteRows):
        return matvec_bytes(x, right, out)
    if len(x) < MANY_ROWS:
        return matvec(x, right, out)
    return matmul(quantize_rows_int8(np.ascontiguousarray(x), right.family), right, out)
