"""The twins of `definitions.prompt`: rows are shared by threads, and what several weights read is rounded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...definitions.byte_rows import ByteRows
from ...definitions.panels import RightOperand
from ...engine import autograd
from ...simd.jit import block, pjit, share
from ...simd.lanes_memory import load_part, store_part
from ...simd.wide import WIDTH
from ..fp4.gemv_bytes import MANY_ROWS, quantize_rows_int8
from ..fp4.tensor_core import matmul
from ..twins.rows import exp_row, row_max
from .kernel import rms_norm, swiglu_row, turn_heads

empty = autograd.memory.empty


@pjit
def _norm_rows(team, x, weight, eps, out):
    for i in share(team, len(x)):
        rms_norm(x[i], weight, eps, out[i])


def norm_rows(x: NDArray, weight: NDArray, eps: float) -> NDArray:
    """Twin of `prompt.norm_rows`."""
    out = empty(x.shape)
    _norm_rows(block(x), block(weight), np.float32(eps), out)
    return out


@pjit
def _gate_rows(team, gate, up, out):
    for row in share(team, len(gate)):
        swiglu_row(gate[row], up[row], out[row])


def gate_rows(gate: NDArray, up: NDArray) -> NDArray:
    """Twin of `prompt.gate_rows`."""
    out = empty(gate.shape)
    _gate_rows(block(gate), block(up), out)
    return out


@pjit
def _turn_rows(team, x, cos, sin, heads, head_dim, interleaved, out):
    for t in share(team, len(x)):
        turn_heads(x[t], 0, heads, head_dim, cos[t], sin[t], interleaved, out, t * head_dim, len(x) * head_dim)


def turn_rows(x: NDArray, cos: NDArray, sin: NDArray, head_dim: int, interleaved: bool) -> NDArray:
    """Twin of `prompt.turn_rows`."""
    heads = x.shape[1] // head_dim
    out = empty((heads, len(x), head_dim))
    _turn_rows(block(x), block(cos), block(sin), heads, head_dim, int(interleaved), out.reshape(-1))
    return out


@pjit
def _causal_softmax(team, scores, new):
    for row in share(team, len(scores)):
        seen = scores.shape[1] - new + 1 + row % new
        x = scores[row, :seen]
        total = exp_row(x, x, row_max(x))
        for i in range(0, seen, WIDTH):
            count = min(WIDTH, seen - i)
            store_part(x, i, count, load_part(x, i, count, 0.0) / total)
        scores[row, seen:] = 0


def causal_softmax(scores: NDArray, new: int) -> Any:
    """Twin of `prompt.causal_softmax`."""
    if not scores.flags.c_contiguous:
        return NotImplemented
    _causal_softmax(scores, new)
    return None


def products(x: NDArray, weights: Sequence[RightOperand | ByteRows]) -> Any:
    """Twin of `prompt.products`."""
    if len(x) < MANY_ROWS or any(isinstance(w, ByteRows) for w in weights):
        return NotImplemented
    left = quantize_rows_int8(block(x), weights[0].family)
    return [matmul(left, w, empty((len(x), w.shape[0]))) for w in weights]


def add_product(total: NDArray, x: NDArray, weight: RightOperand | ByteRows) -> Any:
    """Twin of `prompt.add_product`."""
    if len(x) < MANY_ROWS or isinstance(weight, ByteRows) or not total.flags.c_contiguous:
        return NotImplemented
    matmul(quantize_rows_int8(block(x), weight.family), weight, total, accumulate=True)
    return None
