"""Tri-vein attention: the shared threshold, and when the correction is added."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.engine import Tensor, autograd, nn
from vbw_np.layers import Threshold, TriVeinAttention


def test_a_shared_buffer_has_all_its_names_and_one_value() -> None:
    tau = Threshold()
    first = TriVeinAttention(8, 2, 2, tau)
    second = TriVeinAttention(8, 2, 2, tau)
    both = nn.ModuleList([first, second])
    assert [name for name in both.state_dict() if name.endswith(".tau")] == ["0.tau_module.tau", "1.tau_module.tau"]
    tau.tau.data[...] = 0.3
    assert float(both.state_dict()["1.tau_module.tau"]) == pytest.approx(0.3)


def test_tau_follows_the_load_within_its_bounds() -> None:
    tau = Threshold(np.float64)
    assert tau.adapt(1.0) == 0.18
    assert tau.adapt(3.0) == pytest.approx(0.18 * 0.9)
    for _ in range(40):
        tau.adapt(5.0)
    assert float(tau.tau.data) == 0.05
    for _ in range(80):
        tau.adapt(0.0)
    assert float(tau.tau.data) == 0.35


def identity_subspace(heads: int = 2, head_dim: int = 4, **options) -> TriVeinAttention:
    """An attention whose subspace keeps everything, so that every residual is 0."""
    attention = TriVeinAttention(
        heads * head_dim, heads, head_dim, Threshold(np.float64), rng=3, dtype=np.float64, **options
    )
    attention.subspace.U.assign(np.eye(head_dim))
    attention.subspace.V.assign(np.eye(head_dim) * 0.99)  # reconstruct(project(q)) = 0.99 q: a residual of 1%
    return attention


def test_the_correction_starts_at_the_third_steady_call() -> None:
    x = Tensor(np.random.default_rng(0).normal(size=(2, 5, 8)))
    attention = identity_subspace()
    outputs = [attention(x)[0].data for _ in range(4)]
    assert (outputs[0] == outputs[1]).all()
    assert (outputs[2] != outputs[1]).any() and (outputs[2] == outputs[3]).all()
    assert attention.steady_calls == 4

    # By hand: delta (q - k) is added in the full head space, per sample, before W_o.
    def project(layer: nn.Linear) -> np.ndarray:
        return x.data @ layer.weight.data.T + layer.bias.data

    q, k = project(attention.W_q), project(attention.W_k)
    eps = np.linalg.norm((0.01 * q).reshape(2, 5, 2, 4), axis=-1)
    delta = eps.mean(axis=(1, 2)) / 8
    added = (delta[:, None, None] * (q - k)) @ attention.W_o.weight.data.T
    np.testing.assert_allclose(outputs[2] - outputs[1], added, rtol=1e-9, atol=1e-12)


def test_one_restless_call_starts_the_count_again() -> None:
    attention = identity_subspace()
    x = np.random.default_rng(0).normal(size=(1, 5, 8))
    for _ in range(2):
        attention(Tensor(x))
    attention(Tensor(1000 * x))
    assert attention.steady_calls == 0


def test_the_correction_is_differentiated() -> None:
    attention = identity_subspace()

    def corrected(x: Tensor, w_q: Tensor) -> Tensor:
        attention.steady_calls = 5
        attention.W_q.weight = w_q
        return attention(x)[0]

    rng = np.random.default_rng(1)
    autograd.gradcheck(corrected, [rng.normal(size=(2, 4, 8)), rng.normal(size=(8, 8))])


def test_causal_attention_leaves_the_correction_out() -> None:
    attention = identity_subspace(causal=True)
    x = Tensor(np.random.default_rng(0).normal(size=(2, 5, 8)))
    outputs = [attention(x)[0].data for _ in range(4)]
    assert all((output == outputs[0]).all() for output in outputs)
    assert np.triu(attention(x)[1].data, 1).max() == 0
