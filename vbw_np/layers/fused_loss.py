"""The loss of a large head: a linear layer and its cross-entropy in one, so that never all logits are held."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..engine import F, Parameter, Tensor, autograd

empty, matmul_arrays = autograd.memory.empty, autograd.ops.matmul_arrays


def _row_samples(rng: np.random.Generator) -> list[tuple[tuple, dict]]:
    return [((rng.normal(size=(5, 7)), np.array([0, 6, 3, 3, 1]), 0.25), {})]


@autograd.procedure(samples=_row_samples)
def cross_entropy_into_gradient(logits: NDArray, targets: NDArray, scale: float) -> NDArray:
    """Turn logits (N, V) into `scale` times the gradient of the sum of their losses, in place; return the losses (N,).

    The gradient of -log softmax(logits)[target] is softmax(logits) - onehot(target).
    """
    losses, probabilities = F.nll_of_rows(logits, targets)
    probabilities[np.arange(len(targets)), targets] -= 1
    np.multiply(probabilities, logits.dtype.type(scale), out=logits)
    return losses


CHUNK_LOGITS = 1 << 24  # logits held at once by linear_cross_entropy: 64 MiB of float32


def chunks_of_rows(rows: int, columns: int) -> list[slice]:
    """Slices of `rows`, each with about `CHUNK_LOGITS` entries over `columns` columns at most.

    Their size is a multiple of 32 where there is more than one: no block of a block format is cut.
    """
    count = -(-rows * columns // CHUNK_LOGITS)
    size = -(-rows // count)
    if 1 < count and size > 16:
        size = -(-size // 32) * 32
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


@autograd.primitive(
    name="linear_cross_entropy",
    samples=lambda rng: [
        ((rng.normal(size=(5, 4)), rng.normal(size=(7, 4))), {"targets": np.array([0, 6, 3, 3, 1])}),
    ],
)
def dense_linear_cross_entropy(x, weight, *, targets):
    """cross_entropy(x W^T, targets) without ever holding all logits: x (N, D), weight (V, D), targets (N,)

    The gradient needs the same softmax as the loss, so both are made while a chunk of logits is at hand; the
    gradients wait, scaled by the incoming one, until backward.
    """
    total = 0.0
    if not autograd.is_grad_enabled():
        for rows in chunks_of_rows(len(x), len(weight)):
            total += F.nll_of_rows(matmul_arrays(x[rows], weight.T), targets[rows])[0].sum(dtype=np.float64)
        return np.asarray(total / len(targets), x.dtype), ()
    grad_x = empty(x.shape, x.dtype)
    grad_weight = None
    for rows in chunks_of_rows(len(x), len(weight)):
        gradient = matmul_arrays(x[rows], weight.T)  # logits, at first
        total += cross_entropy_into_gradient(gradient, targets[rows], 1 / len(targets)).sum(dtype=np.float64)
        np.matmul(gradient, weight, out=grad_x[rows])
        part = matmul_arrays(gradient.T, x[rows])
        grad_weight = part if grad_weight is None else np.add(grad_weight, part, out=grad_weight)
    return np.asarray(total / len(targets), x.dtype), (
        lambda g: grad_x if g == 1 else grad_x * g,
        lambda g: grad_weight if g == 1 else grad_weight * g,
    )


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: NDArray, *, ignore_index: int = F.IGNORE_INDEX) -> Tensor:
    """Mean cross-entropy of the logits x W^T against integer targets, in nats, without holding all logits.

    The same seam as `functional.linear`: a weight that has a host is computed there.

    Parameters
    ----------
    x : Tensor, (..., D)
    weight : Tensor, (V, D)
    targets : integer array, (...)
    ignore_index : int
        Targets of this value count neither in the sum nor in the mean's divisor.
    """
    F.check_linear(x.data, weight.data, None)
    x, targets = F.counted_rows("linear_cross_entropy", x, targets, weight.shape[0], ignore_index)
    host = weight.host if isinstance(weight, Parameter) else None
    if host is not None:
        return host.linear_cross_entropy(x, weight, targets)
    return dense_linear_cross_entropy(x, weight, targets=targets)
