"""Which kernel stands in for which readable function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import definitions
from ..definitions import prompt, token
from ..engine import autograd, optim
from ..layers import fused_loss, gru_gates, mix_experts
from ..layers import graph as graphs
from ..simd import jit
from .fp4 import blackwell, dequantize, gemv_bytes, measure, quantize, quantize_operands, relayout, tensor_core
from .fp8 import sums as fp8_sums
from .fp32 import product
from .token import kernel as token_kernel
from .token import prompt as token_prompt
from .twins import elementwise, graph, losses, optimizer, rows

Arguments = list[tuple[tuple, dict]]


def _normal(*shapes: tuple[int, ...], scale: float = 1.0, **static: object) -> Callable:
    """Samples: float32 arguments of these shapes."""

    def samples(rng: np.random.Generator) -> Arguments:
        return [(tuple((scale * rng.normal(size=shape)).astype(np.float32) for shape in shapes), dict(static))]

    return samples


def _each(*samples: Callable) -> Callable:
    return lambda rng: [arguments for sample in samples for arguments in sample(rng)]


def _take_rows_samples(rng: np.random.Generator) -> Arguments:
    def table(count: int, width: int) -> tuple:
        return (rng.normal(size=(count, width)).astype(np.float32),)

    return [
        (table(300, 37), {"rows": rng.integers(0, 300, (5, 90))}),
        (table(1000, 64), {"rows": rng.integers(0, 1000, 700).astype(np.int32)}),
        (table(3, 5), {"rows": np.array([[2, 2], [2, 0]])}),
    ]


def _cross_entropy_samples(rng: np.random.Generator) -> Arguments:
    def logits(*shape: int) -> tuple:
        return ((3 * rng.normal(size=shape)).astype(np.float32),)

    return [
        (logits(9, 9001), {"targets": rng.integers(0, 9001, 9)}),
        (logits(40, 17), {"targets": rng.integers(0, 17, 40)}),
        (logits(1, 1), {"targets": np.array([0])}),
    ]


def _into_gradient_samples(rng: np.random.Generator) -> Arguments:
    logits = (3 * rng.normal(size=(9, 4099))).astype(np.float32)
    return [((logits, rng.integers(0, 4099, 9), 1 / 9), {})]


def _linear_cross_entropy_samples(rng: np.random.Generator) -> Arguments:
    def arrays(rows: int, width: int, vocabulary: int) -> tuple:
        shapes = ((rows, width), (vocabulary, width))
        return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)

    return [
        (arrays(12, 20, 301), {"targets": rng.integers(0, 301, 12)}),
        (arrays(700, 8, 50_021), {"targets": rng.integers(0, 50_021, 700)}),  # two chunks of logits
    ]


def _product_samples(rng: np.random.Generator) -> Arguments:
    """Operands as stored and transposed; sums of one piece and of several; results that end within tiles."""

    def matrix(rows: int, columns: int, transposed: int) -> np.ndarray:
        shape = (columns, rows) if transposed else (rows, columns)
        made = rng.normal(size=shape).astype(np.float32)
        return made.T if transposed else made

    return [
        ((matrix(m, length, left), matrix(length, n, right)), {})
        for m, length, n in ((70, 256, 130), (101, 617, 47), (1016, 40, 300), (384, 512, 64))
        for left in (0, 1)
        for right in (0, 1)
    ]


def _adam_samples(rng: np.random.Generator) -> Arguments:
    settings = {"step": 7, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}

    def arrays(*shape: int) -> tuple:
        w, g, m = (rng.normal(size=shape).astype(np.float32) for _ in range(3))
        return w, g, m, rng.random(shape).astype(np.float32)

    return [
        (arrays(*shape), settings | {"decay": decay, "decoupled": decoupled})
        for shape in ((7, 5), (130, 301))
        for decay, decoupled in ((0.0, False), (0.1, False), (0.1, True))
    ]


def _attention_samples(rng: np.random.Generator) -> Arguments:
    samples = []
    for shape, spread in (((2, 3, 70, 70), 3.0), ((3, 128, 128), 2.0), ((5, 5), 1.0), ((1, 1), 1.0)):
        weights = np.exp(spread * rng.normal(size=shape))
        samples.append((((weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32), 0.02), {}))
    return [*samples, ((np.zeros((4, 4), np.float32), 0.1), {}), ((np.eye(65, k=1, dtype=np.float32), 0.5), {})]


def _distance_samples(rng: np.random.Generator) -> Arguments:
    drawn = rng.exponential(size=(2, 3, 70, 70)).astype(np.float32)
    causal = np.where(np.tri(33, dtype=bool), drawn[0, 0, :33, :33], np.float32(np.inf))
    holes = np.where(drawn > 2, np.float32(np.inf), drawn)
    broken = np.where(drawn[0] > 5, np.float32(np.nan), drawn[0])
    return [((array,), {}) for array in (drawn, causal, holes, broken, np.full((3, 3), np.inf, np.float32))]


def _nearest_samples(rng: np.random.Generator) -> Arguments:
    ties = rng.integers(0, 4, (3, 40, 40)).astype(np.float32)
    return [
        ((np.tril(rng.random((2, 70, 70))).astype(np.float32), 5), {}),
        ((rng.exponential(size=(3, 33, 33)).astype(np.float32), 1), {}),
        ((ties, 7), {}),
        ((np.triu(np.full((9, 9), np.inf, np.float32), 1), 9), {}),
        ((np.where(ties > 2, np.float32(np.nan), ties), 6), {}),
    ]


def _table() -> list[tuple[object, Callable, Callable]]:
    functional, ops = autograd.functional, autograd.ops
    gates = [_normal((n, 3 * width), (n, 3 * width), (n, width)) for n, width in ((33, 21), (70, 256))]
    norms = [_normal((3, 150, width), (width,), (width,), eps=1e-5) for width in (256, 21)]
    masks = [_normal((7, 33), p=0.3, key=(5, 6)), _normal((3, 9001), p=0.1, key=(2**31 + 7, 2**32 - 1))]
    softmaxes = [_normal((2, 3, 37, 37), axis=-1), _normal((5, 4099), scale=5.0, axis=1)]
    return [
        (functional.gelu, elementwise.gelu, _each(_normal((3, 7, 21), scale=3.0), _normal((9, 4001), scale=2.0))),
        (ops.sigmoid, elementwise.sigmoid, _each(_normal((40, 13), scale=4.0), _normal((5, 7001), scale=30.0))),
        (functional.dropout_by_key, elementwise.dropout_by_key, _each(*masks)),
        (gru_gates, elementwise.gru_gates, _each(*gates)),
        (functional.softmax, rows.softmax, _each(*softmaxes)),
        (functional.layer_norm, rows.layer_norm, _each(*norms)),
        (functional.add_bias, rows.add_bias, _each(*[_normal((n, w), (w,)) for n, w in ((700, 256), (800, 93))])),
        (functional.sum_of_rows, rows.sum_of_rows, _each(_normal((700, 256)), _normal((800, 93)))),
        (ops.take_rows, rows.take_rows, _take_rows_samples),
        (ops.matmul_arrays, product.matmul_arrays, _product_samples),
        (mix_experts, rows.mix_experts, _normal((9, 13, 4), *[(9, 13, 37)] * 4)),
        (functional.cross_entropy_rows, losses.cross_entropy, _cross_entropy_samples),
        (fused_loss.cross_entropy_into_gradient, losses.cross_entropy_into_gradient, _into_gradient_samples),
        (fused_loss.dense_linear_cross_entropy, losses.linear_cross_entropy, _linear_cross_entropy_samples),
        (optim.adam_update, optimizer.adam_update, _adam_samples),
        (graphs.component_sizes, graph.component_sizes, _attention_samples),
        (graphs.past_reach, graph.past_reach, _attention_samples),
        (graphs.shortest_paths, graph.shortest_paths, _distance_samples),
        (graphs.nearest_nodes, graph.nearest_nodes, _nearest_samples),
    ]


_PACKED = (
    (definitions.quantize, quantize.quantize),
    (definitions.dequantize, dequantize.dequantize),
    (definitions.relative_error, measure.relative_error),
    (definitions.quantize_left, quantize_operands.fused_left),
    (definitions.quantize_right, quantize_operands.fused_right),
    (definitions.right_operand, relayout.right_operand),
    (definitions.transposed_right_operand, relayout.transposed_right_operand),
    (definitions.matmul, tensor_core.matmul),
    (definitions.matmul_blackwell, blackwell.matmul),
    (definitions.matvec, gemv_bytes.matvec_int8),
    (definitions.matmul_fp8, fp8_sums.matmul_fp8),
)
"""Definitions over packed numbers and their twins; `tests/definitions/test_walk_definitions.py` tries them."""


def install() -> None:
    """Register every twin with its readable function. Compiles nothing; can be called again.

    With numba switched off (``NUMBA_DISABLE_JIT=1``) nothing is registered: everything runs on the definitions.
    """
    if jit.enabled():
        for function, twin, samples in _table():
            function.register_twin(twin, samples)
        for function, twin in _PACKED:
            function.register_twin(twin)
        token.step.register_twin(token_kernel.step)
        for name in ("norm_rows", "gate_rows", "turn_rows", "causal_softmax", "products", "add_product"):
            getattr(prompt, name).register_twin(getattr(token_prompt, name))
