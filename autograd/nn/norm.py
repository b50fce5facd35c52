"""Layer normalization."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from .. import functional as F
from ..tensor import Tensor
from . import init
from .linear import check_sizes
from .module import Module


class LayerNorm(Module):
    """(x - mean) / sqrt(variance + eps) over the last axis, times `weight`, plus `bias` (1 and 0 at first)."""

    def __init__(self, normalized_shape: int, eps: float = 1e-5, *, dtype: DTypeLike = np.float32) -> None:
        check_sizes(normalized_shape=normalized_shape)
        self.eps = eps
        self.weight = init.constant((normalized_shape,), 1, dtype)
        self.bias = init.constant((normalized_shape,), 0, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
