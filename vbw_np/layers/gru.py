"""The gated recurrent unit."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine import F, Tensor, autograd, nn

init, ops = nn.init, autograd.ops


@autograd.primitive(
    samples=lambda rng: [((rng.normal(size=(4, 9)), rng.normal(size=(4, 9)), rng.normal(size=(4, 3))), {})]
)
def gru_gates(from_input, from_state, state):
    """The elementwise part of one GRU step (arXiv 1406.1078, in PyTorch's form and gate order r, z, n):

        r = sigmoid(i_r + h_r)    z = sigmoid(i_z + h_z)    n = tanh(i_n + r h_n)    h' = (1 - z) n + z h

    from_input (N, 3D) is W_ih x + b_ih, from_state (N, 3D) is W_hh h + b_hh, state (N, D) is h.
    """
    i_r, i_z, i_n = np.split(from_input, 3, axis=-1)
    h_r, h_z, h_n = np.split(from_state, 3, axis=-1)
    r, _ = ops.sigmoid.reference(i_r + h_r)
    z, _ = ops.sigmoid.reference(i_z + h_z)
    n = np.tanh(i_n + r * h_n)

    def vjp(g: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        to_n = g * (1 - z) * (1 - n * n)
        to_r = to_n * h_n * r * (1 - r)
        to_z = g * (state - n) * z * (1 - z)
        return (
            np.concatenate((to_r, to_z, to_n), axis=-1),
            np.concatenate((to_r, to_z, to_n * r), axis=-1),
            g * z,
        )

    return (1 - z) * n + z * state, vjp


class GRU(nn.Module):
    """A one-layer GRU with PyTorch's parameters: `weight_ih_l0` (3D, in), `weight_hh_l0` (3D, D), biases (3D,)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rng: np.random.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        nn.check_sizes(input_size=input_size, hidden_size=hidden_size)
        rng = init.generator(rng)
        bound = 1 / math.sqrt(hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih_l0 = init.uniform(rng, (3 * hidden_size, input_size), bound, dtype)
        self.weight_hh_l0 = init.uniform(rng, (3 * hidden_size, hidden_size), bound, dtype)
        self.bias_ih_l0 = init.uniform(rng, (3 * hidden_size,), bound, dtype)
        self.bias_hh_l0 = init.uniform(rng, (3 * hidden_size,), bound, dtype)

    def forward(self, rows: Tensor, order: NDArray) -> Tensor:
        """Run over sequences of rows of a matrix, and return the last state.

        A row that stands in several sequences is multiplied with W_ih once, not once a sequence: projecting and then
        gathering gives the same numbers as gathering and then projecting.

        Parameters
        ----------
        rows : Tensor, (M, in)
        order : integer array, (N, L)
            Sequence n is ``rows[order[n, 0]], ..., rows[order[n, L - 1]]``.

        Returns
        -------
        Tensor, (N, D)
        """
        projected = F.linear(rows, self.weight_ih_l0, self.bias_ih_l0)  # (M, 3D)
        state = Tensor(np.zeros((len(order), self.hidden_size), rows.dtype))
        for step in range(order.shape[1]):
            from_input = ops.take_rows(projected, rows=np.ascontiguousarray(order[:, step]))  # (N, 3D)
            from_state = F.linear(state, self.weight_hh_l0, self.bias_hh_l0)  # (N, 3D)
            state = gru_gates(from_input, from_state, state)
        return state

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"
