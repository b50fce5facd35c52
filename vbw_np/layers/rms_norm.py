"""Root-mean-square normalization."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine import Tensor, autograd, nn


@autograd.primitive(samples=lambda rng: [((rng.normal(size=(2, 3, 4)), rng.normal(size=4)), {"eps": 1e-5})])
def rms_norm(x, weight, *, eps=1e-6):
    """x / sqrt(mean of x * x over the last axis + eps), times weight (arXiv 1910.07467)"""
    scale = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + x.dtype.type(eps))
    normal = x * scale  # (..., D), of mean square 1

    def vjp_x(g: NDArray) -> NDArray:
        g = g * weight  # moving x along itself changes nothing: take this direction out
        return (g - normal * (g * normal).mean(axis=-1, keepdims=True)) * scale

    return normal * weight, (vjp_x, lambda g: (g * normal).reshape(-1, x.shape[-1]).sum(axis=0))


class RMSNorm(nn.Module):
    """x over its root mean square along the last axis, times `weight` (1 at first); no mean is taken away."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6, *, dtype: DTypeLike = np.float32) -> None:
        nn.linear.check_sizes(normalized_shape=normalized_shape)
        self.eps = eps
        self.weight = nn.init.constant((normalized_shape,), 1, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
