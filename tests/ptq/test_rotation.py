"""Rotations are orthogonal, cancel in a product, and folded into a model leave its outputs as they were."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.engine import no_grad
from vbw_np.errors import UserError
from vbw_np.models.llama import LlamaConfig
from vbw_np.ptq.rotation import Rotation, hadamard
from vbw_np.ptq.sites import fold_stream

from .conftest import CONFIG, small_llama


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 16, 20, 28, 36, 48, 64, 128, 144, 576, 1536])
def test_hadamard_matrices(order: int) -> None:
    matrix = hadamard(order).astype(np.int64)
    assert set(np.unique(matrix)) <= {-1, 1}
    np.testing.assert_array_equal(matrix @ matrix.T, order * np.eye(order, dtype=int))


@pytest.mark.parametrize("order", [3, 6, 92, 1 << 15])
def test_orders_of_which_none_is_known_are_refused(order: int) -> None:
    with pytest.raises(UserError, match=f"order {order}"):
        hadamard(order)


@pytest.mark.parametrize("points", [2, 16, 64, 0])
def test_a_rotation_cancels_in_a_product(points: int) -> None:
    rng, rotation = np.random.default_rng(1), Rotation.random(576 if points == 0 else 192, points, seed=4)
    x, w = rng.standard_normal((5, rotation.width)), rng.standard_normal((7, rotation.width))
    np.testing.assert_allclose(rotation(x) @ rotation(w).T, x @ w.T, rtol=0, atol=1e-11)
    np.testing.assert_allclose(rotation.back(rotation(x)), x, rtol=0, atol=1e-12)
    assert rotation(x.astype(np.float32)).dtype == np.float32
    block = rotation(np.eye(rotation.width))[: rotation.points, : rotation.points]
    np.testing.assert_allclose(np.abs(block), rotation.points**-0.5)  # an outlier reaches all of its block alike


def test_a_width_that_blocks_do_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="blocks of 32 do not fit into a width of 48"):
        Rotation.random(48, 32)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("points", [2, 8, 16, 0])
@pytest.mark.parametrize(("dtype", "close"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_a_rotated_stream_changes_no_output(dtype: type, close: float, points: int, bias: bool) -> None:
    config = dataclasses.replace(CONFIG, attention_bias=bias, mlp_bias=bias)
    model, ids = small_llama(dtype, config), np.random.default_rng(2).integers(0, 61, (2, 20))
    with no_grad():
        before = model(ids).data
        fold_stream(model, points, seed=1)
        after = model(ids).data
    assert np.abs(after - before).max() <= close * np.abs(before).max()
    assert not model.config.tie_word_embeddings and model.lm_head.weight is not model.model.embed_tokens.weight
    assert all((block.input_layernorm.weight.data == 1).all() for block in model.model.layers)


def test_it_spreads_a_loud_channel() -> None:
    model = small_llama(config=LlamaConfig(**dataclasses.asdict(CONFIG) | {"num_hidden_layers": 1}))

    def loudness() -> float:
        stream = model.model.embed_tokens.weight.data
        return float(np.abs(stream).max() / np.sqrt(np.mean(np.square(stream))))

    before = loudness()
    fold_stream(model, 16, seed=0)
    assert loudness() < before / 2
