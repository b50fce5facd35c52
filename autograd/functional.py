"""The functions that layers are made of. `linear` is the one seam where somebody else may take over.

Readable NumPy throughout; where the formula would be slow or overflow, it says what it does instead.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from . import ops
from .memory import reshaped
from .ops import matmul_arrays
from .parameter import Parameter
from .primitive import primitive
from .random import random_bits
from .tensor import Tensor
from .twin import procedure

# ----------------------------------------------------------------------------------------------------------- linear


def _rows(x: NDArray) -> NDArray:
    """All leading axes as one: (..., D) to (N, D)."""
    return reshaped(x, (-1, x.shape[-1]))


def check_linear(x: NDArray, weight: NDArray, bias: NDArray | None) -> None:
    """Raise if x (..., in), weight (out, in) and bias (out,) do not fit each other."""
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: the input has shape {x.shape}, the weight {weight.shape} (out, in): "
            f"the input's last axis must be {weight.shape[-1]}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias {bias.shape} does not fit weight {weight.shape}: it must be {weight.shape[:1]}")


@procedure(samples=lambda rng: [((rng.normal(size=(3, 5)), rng.normal(size=5)), {})])
def add_bias(y: NDArray, bias: NDArray) -> NDArray:
    """y + bias, (N, out) and (out,), in place; returns y."""
    y += bias
    return y


@procedure(samples=lambda rng: [((rng.normal(size=(3, 5)),), {})])
def sum_of_rows(g: NDArray) -> NDArray:
    """The rows of a matrix (N, out) added up, one after the other: (out,)."""
    return g.sum(axis=0)


@primitive(
    name="linear",
    samples=lambda rng: [
        ((rng.normal(size=(2, 3, 4)), rng.normal(size=(5, 4)), rng.normal(size=5)), {}),
        ((rng.normal(size=(3, 4)), rng.normal(size=(5, 4)), None), {}),
    ],
)
def dense_linear(x, weight, bias):
    """x W^T + b with all three right here: what `linear` does when the weight has no host"""
    check_linear(x, weight, bias)
    y = matmul_arrays(_rows(x), weight.T)
    if bias is not None:
        add_bias(y, bias)
    return y.reshape(*x.shape[:-1], weight.shape[0]), (
        lambda g: matmul_arrays(_rows(g), weight).reshape(x.shape),
        lambda g: matmul_arrays(_rows(g).T, _rows(x)),
        lambda g: sum_of_rows(_rows(g)),
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b.

    The one seam between models and devices: if `weight` has a host (`autograd.Host`), the host computes.

    Parameters
    ----------
    x : Tensor, (..., in)
    weight : Tensor, (out, in)
    bias : Tensor, (out,), optional

    Returns
    -------
    Tensor, (..., out)
    """
    host = weight.host if isinstance(weight, Parameter) else None
    if host is not None:
        return host.linear(x, weight, bias)
    return dense_linear(x, weight, bias)


# ------------------------------------------------------------------------------------------------------ activations


def _erf(x: NDArray) -> NDArray:
    """The error function, element by element from the standard library (NumPy has none)."""
    return np.frompyfunc(math.erf, 1, 1)(x).astype(x.dtype)


@primitive(samples=lambda rng: [((rng.normal(size=(3, 4)),), {})])
def gelu(x):
    """Gaussian error linear unit, exact: x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2 (arXiv 1606.08415)"""
    one = x.dtype.type(1)
    cdf = (one + _erf(x * x.dtype.type(math.sqrt(0.5)))) * x.dtype.type(0.5)

    def vjp(g: NDArray) -> NDArray:
        density = np.exp(x * x * x.dtype.type(-0.5)) * x.dtype.type(1 / math.sqrt(2 * math.pi))
        return g * (cdf + x * density)

    return x * cdf, (vjp,)


@primitive(samples=lambda rng: [((rng.normal(size=(2, 3, 4)),), {"axis": axis}) for axis in (-1, 1)])
def softmax(x, *, axis=-1):
    """e ** x over its sum along `axis`; the largest x is subtracted first, so it cannot overflow

    A row of -inf only would divide by zero; such rows are the caller's mistake.
    """
    if x.size == 0:
        return x.copy(), (lambda g: g,)
    y = np.exp(x - x.max(axis=axis, keepdims=True))
    y /= y.sum(axis=axis, keepdims=True)
    return y, (lambda g: y * (g - (g * y).sum(axis=axis, keepdims=True)),)


# ---------------------------------------------------------------------------------------------------- normalization


@primitive(samples=lambda rng: [((rng.normal(size=(2, 3, 4)), rng.normal(size=4), rng.normal(size=4)), {"eps": 1e-5})])
def layer_norm(x, weight, bias, *, eps=1e-5):
    """(x - mean) / sqrt(variance + eps) over the last axis, times weight, plus bias (arXiv 1607.06450)"""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt(variance + x.dtype.type(eps))
    normal = centred * rstd  # (..., D), mean 0 and variance 1

    def vjp_x(g: NDArray) -> NDArray:
        # Moving x along the mean or along itself changes nothing: take these two directions out of the gradient.
        g = g * weight
        along_mean = g.mean(axis=-1, keepdims=True)
        along_self = (g * normal).mean(axis=-1, keepdims=True)
        return (g - along_mean - normal * along_self) * rstd

    return normal * weight + bias, (vjp_x, lambda g: _rows(g * normal).sum(axis=0), lambda g: _rows(g).sum(axis=0))


@primitive(samples=lambda rng: [((rng.normal(size=(3, 4)),), {"p": 0.4, "key": (1, 2)})])
def dropout_by_key(x, *, p, key):
    """Zero each element with probability `p` and scale the rest by 1 / (1 - p); `key` names the draw

    An element is kept where its 32 random bits, read as a fraction of 2 ** 32, are at least p.
    """
    p = float(p)  # 1 / (1 - p) is one number, whatever dtype NumPy gave it
    keep = (random_bits(key, x.size) >= np.uint32(p * 2**32)).reshape(x.shape)
    scale = x.dtype.type(1 / (1 - p))
    return x * keep * scale, (lambda g: g * keep * scale,)


def dropout(x: Tensor, p: float, key: tuple[int, int] | None) -> Tensor:
    """Zero elements at random and scale the others up, so that the expectation stays (arXiv 1207.0580).

    Parameters
    ----------
    x : Tensor
    p : float
        Probability of zero, 0 <= p < 1.
    key : tuple of two ints, or None
        Names the random draw (`random.Generator.next_key`); None: keep everything (evaluation).
    """
    if not 0 <= p < 1:
        raise ValueError(f"a dropout probability lies in [0, 1), not {p}")
    return x if key is None or p == 0 else dropout_by_key(x, p=float(p), key=key)


# -------------------------------------------------------------------------------------------------- tokens and losses


def check_ids(name: str, ids: NDArray, count: int) -> NDArray:
    """`ids` as an array of integers that NumPy indexes with, 0 <= id < `count`, or a clear error."""
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name}: ids are integers, not {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= count):
        bad = ids[(ids < 0) | (ids >= count)].flat[0]
        raise IndexError(f"{name}: id {bad} is outside 0 ... {count - 1}")
    return ids.astype(np.intp, copy=False)  # where addresses have 32 bits, NumPy takes no int64


def embedding(weight: Tensor, ids: NDArray) -> Tensor:
    """Rows of `weight` (V, D) by token number: ids of any shape, to ids.shape + (D,)."""
    return ops.take_rows(weight, rows=check_ids("embedding", ids, weight.shape[0]))


def nll_of_rows(logits: NDArray, targets: NDArray) -> tuple[NDArray, NDArray]:
    """Per row -log softmax(logits)[target], and softmax(logits); logits (N, V), targets (N,)."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    probabilities = np.exp(shifted)
    total = probabilities.sum(axis=-1, keepdims=True)
    probabilities /= total
    return np.log(total[:, 0]) - shifted[np.arange(len(targets)), targets], probabilities


@primitive(
    name="cross_entropy",
    samples=lambda rng: [((rng.normal(size=(5, 7)),), {"targets": np.array([0, 6, 3, 3, 1])})],
)
def cross_entropy_rows(logits, *, targets):
    """Mean over rows of -log softmax(logits)[target]"""
    losses, probabilities = nll_of_rows(logits, targets)

    def vjp(g: NDArray) -> NDArray:
        gradient = probabilities * (g / g.dtype.type(len(targets)))
        gradient[np.arange(len(targets)), targets] -= g / g.dtype.type(len(targets))
        return gradient

    return np.asarray(losses.mean(dtype=np.float64), logits.dtype), (vjp,)


IGNORE_INDEX = -100
"""The target that losses leave out unless told otherwise (PyTorch's default)."""


def counted_rows(name: str, rows: Tensor, targets: NDArray, classes: int, ignore_index: int) -> tuple[Tensor, NDArray]:
    """Rows (N, D) and targets (N,) of what counts in a loss, from (..., D) and (...)."""
    targets = np.asarray(targets)
    if rows.shape[:-1] != targets.shape:
        raise ValueError(f"{name}: {rows.shape} goes with targets {rows.shape[:-1]}, not {targets.shape}")
    rows, targets = rows.reshape(math.prod(targets.shape), rows.shape[-1]), targets.reshape(-1)
    counts = targets != ignore_index
    if not counts.any():
        raise ValueError(f"{name}: no targets (but {targets.size} to ignore), so there is no mean")
    if not counts.all():
        rows, targets = ops.take_rows(rows, rows=np.flatnonzero(counts)), targets[counts]
    return rows, check_ids(name, targets, classes)


def cross_entropy(logits: Tensor, targets: NDArray, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Mean cross-entropy of logits (..., V) against integer targets (...), in nats.

    Targets equal to `ignore_index` count neither in the sum nor in the mean's divisor.
    """
    logits, targets = counted_rows("cross_entropy", logits, targets, logits.shape[-1], ignore_index)
    return cross_entropy_rows(logits, targets=targets)
