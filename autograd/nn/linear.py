"""Linear, Embedding, Dropout and the activations as modules."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import functional as F
from ..random import Generator
from ..tensor import Tensor
from . import init
from .module import Module


def check_sizes(**sizes: int) -> None:
    """Raise if one of the named sizes is not a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{name} must be a positive integer, not {size!r}")


class Linear(Module):
    """y = x W^T + b, with `weight` (out, in) and `bias` (out,), both U(-1/sqrt(in), 1/sqrt(in)) at first."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: np.random.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        check_sizes(in_features=in_features, out_features=out_features)
        rng = init.generator(rng)
        bound = 1 / math.sqrt(in_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight = init.uniform(rng, (out_features, in_features), bound, dtype)
        self.bias = init.uniform(rng, (out_features,), bound, dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Rows of `weight` (num_embeddings, embedding_dim) by token number; N(0, 1) at first."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        rng: np.random.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        check_sizes(num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.weight = init.normal(init.generator(rng), (num_embeddings, embedding_dim), 1.0, dtype)

    def forward(self, ids: NDArray) -> Tensor:
        return F.embedding(self.weight, ids)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


class Dropout(Module):
    """Zeroes elements with probability `p` while training; every call is a new draw of `generator`.

    Without a `generator`, each layer gets one of its own from the default randomness (`manual_seed`).
    """

    def __init__(self, p: float = 0.5, generator: Generator | None = None) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"a dropout probability lies in [0, 1), not {p}")
        self.p = p
        self.generator = Generator() if generator is None else generator

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.generator.next_key() if self.training and self.p else None)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class GELU(Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class ReLU(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


class Sigmoid(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid()
