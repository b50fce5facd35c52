"""Products of few rows, straight from packed bytes: what generating text one token at a time needs.

    y[r] = W x[r],   W (N, K) FP4 panels,   x (R, K) float32 with R small

Such a product is bound by reading W, so W is read once, in 4 bits, and decoded in registers. The activations become
FP4 (`activations="fp4"`: the tensor core's own product) or 8-bit integers under a power-of-two scale a block
(`"int8"`, the idea of MXINT8: below one percent of error instead of ten). Scales that are powers of two keep every
scaled block dot exact in float32, so here, too, all instruction sets and NumPy's `matmul_reference` agree bit for bit.
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np

from ...definitions import support
from ...definitions.aligned import check_rows, result_of
from ...definitions.fp4_products import quantize_left_int8
from ...definitions.panels import BY_ROWS, FORMATS, RightOperand
from ...formats import get_format
from ...formats.scales import TE
from ...simd import cpu
from ...simd.intrinsics import fetch_add
from ...simd.jit import block, jit, pjit, share
from ...simd.variant import Variant
from .intrinsics_matvec import matvec_panels, pass_panels, pass_rows
from .intrinsics_tile import ISAS
from .quantize_operands import INVERSE, LEAST, RANGE, left_rows, quantize_left, span_of
from .tensor_core import matmul

_RANGE, _INVERSE, _LEAST = span_of(TE.numbers)  # of TransformerEngine's rule

FEW_ROWS = 8
"""Rows of one pass over W."""

ACTIVATIONS = ("int8", "fp4")


def matvec(
    x: np.ndarray,
    right: RightOperand,
    out: np.ndarray | None = None,
    *,
    activations: str = "int8",
    isa: str | None = None,
) -> np.ndarray:
    """The product of a few float32 rows with a packed weight: `x @ W.T`.

    Parameters
    ----------
    x : float32 (K,) or (R, K), C-contiguous; any R works, up to about 16 it pays
    right : RightOperand (N, K)
    out : float32 (N,) or (R, N), C-contiguous, optional
    activations : {"int8", "fp4"}
    isa : str, optional
        An instruction set; AMX has none for this and takes `avx512vnni`.

    Returns
    -------
    float32 (N,) or (R, N)
    """
    if activations not in ACTIVATIONS:
        raise ValueError(f"unknown activations {activations!r}; choose one of {', '.join(ACTIVATIONS)}")
    check_rows(x, 1, 2)
    if x.shape[-1] != right.shape[1]:
        raise ValueError(f"x has {x.shape[-1]} columns, W is {right.shape}: the lengths of the reduction differ")
    out = result_of(out, (*x.shape[:-1], right.shape[0]))
    rows, result = block(x).reshape(-1, right.shape[1]), out.reshape(-1, right.shape[0])
    isa = cpu.choose_vector(isa)
    if isa not in ISAS:
        by_bytes = activations == "int8"
        left = quantize_left_int8(rows, right.family) if by_bytes else quantize_left(rows, BY_ROWS[right.family])
        matmul(left, right, result, isa=isa)
        return out
    quantizer, two_level = quantizer_of(activations, right.family)
    weight, threads = (right.codes, right.scales, right.factor, ISAS[isa].offset), numba.get_num_threads()
    for first in range(0, rows.shape[0], FEW_ROWS):
        some = rows[first : first + FEW_ROWS]
        mode = few_rows_mode(isa, right.family, FEW_ROWS if some.shape[0] > 1 else 1)  # two loops to compile, not eight
        tickets = np.zeros((threads, 8), np.int64)  # a cache line each
        _few_rows(mode, quantizer, two_level, some, *weight, tickets, result[first : first + FEW_ROWS])
    return out


@cache
def quantizer_of(activations: str, family: str) -> tuple[Variant, bool]:
    """What quantizes the activations, by the rule `int8` or that of `BY_ROWS`; whether rows have a second scale."""
    rule = "int8" if activations == "int8" else support.fused(get_format(BY_ROWS[family]), "even", "left").kernel
    return Variant(rule, FORMATS[family]), rule == "te"


@cache
def few_rows_mode(isa: str, family: str, rows: int) -> Variant:
    return Variant(f"{isa}+{family}+{rows}", FORMATS[family])


@jit
def quantized_rows(mode, quantizer, two_level, x, blocks, block, factor, shift):  # type: ignore[no-untyped-def]
    """The rows of x as integers: values, scales, where the accumulators of each block start, factors times `factor`.

    `shift` is what is added to the weights' codes on an instruction set.
    """
    rows = pass_rows(mode)
    values, scales = np.zeros((rows, blocks * block), np.int8), np.zeros((rows, blocks), np.float32)
    sums, starts = np.zeros((rows, blocks), np.int16), np.empty((rows, blocks), np.int32)
    factors, nothing = np.ones(rows, np.float32), np.empty(0, np.float32)
    span = np.empty(3, np.float32)
    span[RANGE], span[INVERSE], span[LEAST] = _RANGE, _INVERSE, _LEAST
    left_rows(quantizer, x.reshape(-1), 0, x.shape[0], x.shape[1], block, two_level, span, nothing, 0, 0, values, scales, factors, sums)  # noqa: E501
    for r in range(rows):
        factors[r] = factors[r] * factor
        for b in range(blocks):
            starts[r, b] = -shift * sums[r, b]
    return values, scales, starts, factors


@jit
def _one_pass(mode, values, scales, starts, factors, codes, scale_bytes, task, totals, out):  # type: ignore[no-untyped-def]
    """The columns of one pass's panels."""
    (panels, blocks), at_once, padded = scale_bytes.shape[:2], pass_panels(mode), codes.shape[1] * 8
    panel = task * at_once
    matvec_panels(
        mode, values.ctypes.data, padded, starts.ctypes.data, scales.ctypes.data, blocks * 4,
        codes.ctypes.data + panel * padded * 8, scale_bytes.ctypes.data + panel * blocks * 16,
        blocks, panels - panel, totals.ctypes.data, at_once * 64,
    )  # fmt: skip
    count = min(at_once * 16, out.shape[1] - panel * 16)
    for r in range(out.shape[0]):
        for c in range(count):
            out[r, panel * 16 + c] = totals[r, c] * factors[r]


@pjit
def _few_rows(team, mode, quantizer, two_level, x, codes, scale_bytes, factor, shift, tickets, out):  # type: ignore[no-untyped-def]
    """Every thread quantizes the rows of x for itself, multiplies its part of W, then helps with the others'.

    Threads that share no cache wait long for what another has written; and a part of W that a thread reads at every
    call stays in its own.
    """
    (panels, blocks), at_once = scale_bytes.shape[:2], pass_panels(mode)
    passes, block = (panels + at_once - 1) // at_once, codes.shape[1] * 8 // blocks
    threads = tickets.shape[0]
    for thread in share(team, threads):
        left = quantized_rows(mode, quantizer, two_level, x, blocks, block, factor, shift)
        totals = np.empty((pass_rows(mode), at_once * 16), np.float32)
        for step in range(threads):
            other = (thread + step) % threads
            start, stop = other * passes // threads, (other + 1) * passes // threads
            task = start + fetch_add(tickets.ctypes.data + other * 64)
            while task < stop:
                _one_pass(mode, *left, codes, scale_bytes, task, totals, out)
                task = start + fetch_add(tickets.ctypes.data + other * 64)
