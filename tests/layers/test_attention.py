"""Multi-head attention and who computes with its weights."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.engine import F, Tensor
from vbw_np.layers import MultiheadAttention


def test_a_joined_weight_can_have_a_host_and_gives_the_same() -> None:
    class Echo:
        def linear(self, x, weight, bias):
            return F.dense_linear(x, weight, bias)

    attention = MultiheadAttention(16, 8, rng=0, dtype=np.float64)
    x = Tensor(np.random.default_rng(0).normal(size=(2, 5, 16)))
    plain = attention(x, x).data
    attention.in_proj_weight.host = Echo()
    np.testing.assert_allclose(attention(x, x).data, plain, rtol=1e-12)


def test_out_proj_asks_its_host_only_when_told_to() -> None:
    class Deaf:
        def has_only_copy(self):
            return False

        def linear(self, x, weight, bias):
            raise AssertionError("asked")

    x = Tensor(np.zeros((1, 3, 16), np.float32))
    for through_host in (False, True):
        attention = MultiheadAttention(16, 8, through_host=through_host)
        attention.out_proj.weight.host = Deaf()
        if through_host:
            with pytest.raises(AssertionError, match="asked"):
                attention(x, x)
        else:
            attention(x, x)


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match="4 heads do not divide a width of 10"):
        MultiheadAttention(10, 4)
