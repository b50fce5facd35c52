"""The gated feed-forward layer of the Llama family."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine import Tensor, autograd, nn


@autograd.primitive(samples=lambda rng: [((rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))), {})])
def swiglu(gate, up):
    """gate * sigmoid(gate) * up (arXiv 2002.05202)

    The sigmoid is written with tanh, so that it cannot overflow.
    """
    half = gate.dtype.type(0.5)
    open_share = half * np.tanh(half * gate) + half
    opened = gate * open_share

    def vjp_gate(g: NDArray) -> NDArray:
        return g * up * (open_share + opened * (1 - open_share))

    return opened * up, (vjp_gate, lambda g: g * opened)


class SwiGLU(nn.Module):
    """down_proj(swiglu(gate_proj(x), up_proj(x))), with the names of transformers' LlamaMLP."""

    def __init__(
        self,
        width: int,
        hidden: int,
        bias: bool = False,
        *,
        rng: np.random.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        rng = nn.init.generator(rng)
        self.gate_proj = nn.Linear(width, hidden, bias, rng=rng, dtype=dtype)
        self.up_proj = nn.Linear(width, hidden, bias, rng=rng, dtype=dtype)
        self.down_proj = nn.Linear(hidden, width, bias, rng=rng, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)"""
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
