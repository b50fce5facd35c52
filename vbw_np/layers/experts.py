"""A dense mixture of experts: all experts run, a softmax gate weighs them."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine import F, Tensor, autograd, nn


@autograd.primitive(
    samples=lambda rng: [(tuple(rng.normal(size=s) for s in ((2, 4, 3), (2, 4, 5), (2, 4, 5), (2, 4, 5))), {})]
)
def mix_experts(gates, *outputs):
    """sum_j gates[..., j] * outputs[j]: gates (..., E), each output (..., D)"""
    mixed = outputs[0] * gates[..., :1]
    for j, output in enumerate(outputs[1:], 1):
        mixed += output * gates[..., j : j + 1]

    def vjp_gates(g: NDArray) -> NDArray:
        return np.stack([(g * output).sum(axis=-1) for output in outputs], axis=-1)

    return mixed, (vjp_gates, *((lambda g, j=j: g * gates[..., j : j + 1]) for j in range(len(outputs))))


class MixtureOfExperts(nn.Module):
    """sum_j softmax(gate(x))_j * expert_j(x), then dropout; an expert is Linear, exact GELU, Linear."""

    def __init__(
        self,
        d_model: int,
        hidden: int,
        experts: int = 4,
        dropout: float = 0.1,
        *,
        generator: autograd.Generator | None = None,
        rng: np.random.autograd.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        nn.linear.check_sizes(d_model=d_model, hidden=hidden, experts=experts)
        rng = nn.init.generator(rng)
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(d_model, hidden, rng=rng, dtype=dtype),
                nn.GELU(),
                nn.Linear(hidden, d_model, rng=rng, dtype=dtype),
            )
            for _ in range(experts)
        )
        self.gate = nn.Linear(d_model, experts, bias=False, rng=rng, dtype=dtype)
        self.dropout = nn.Dropout(dropout, generator)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)"""
        gates = F.softmax(self.gate(x), axis=-1)  # (..., E)
        return self.dropout(mix_experts(gates, *(expert(x) for expert in self.experts)))
