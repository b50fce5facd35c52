"""The incremental reader against the whole computation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.device import RECIPES, place
from vbw_np.engine import no_grad
from vbw_np.layers import graph
from vbw_np.models.claude4 import Claude4, Claude4Config
from vbw_np.models.claude4_reader import PathRows, ReachRows, Reader

CONFIG = Claude4Config(vocab_size=61, d_model=32, heads=4, hidden=48, layers=3, rank=4, experts=2, causal=True)
LENGTH = 23


def build(dtype: type = np.float64, **changes: object) -> Claude4:
    """A causal model whose attention is far from uniform, so that edges and paths matter."""
    model = Claude4(dataclasses.replace(CONFIG, **changes), seed=3, dtype=dtype)
    for name, parameter in model.named_parameters():
        if name.endswith(("W_q.weight", "W_k.weight")):
            parameter.assign(8 * parameter.data)
    return model


def ids_of(length: int = LENGTH, batch: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (batch, length))


def whole(model: Claude4, ids: np.ndarray) -> np.ndarray:
    with no_grad(), model.evaluating():
        return model.hidden_states(ids)[0].data


def in_pieces(model: Claude4, ids: np.ndarray, sizes: list[int]) -> np.ndarray:
    reader = Reader(model, len(ids), ids.shape[1])
    pieces = np.split(ids, np.cumsum(sizes)[:-1], axis=1)
    return np.concatenate([reader.extend(piece) for piece in pieces], axis=1)


# -- the reader is the model


@pytest.mark.parametrize("token_shift", [False, True])
@pytest.mark.parametrize("sizes", [[LENGTH], [1] * LENGTH, [1, 2, 3, 4, 13], [7, 1, 1, 14]])
def test_reading_in_pieces_is_reading_the_whole(sizes: list[int], token_shift: bool) -> None:
    model, ids = build(token_shift=token_shift), ids_of()
    np.testing.assert_allclose(in_pieces(model, ids, sizes), whole(model, ids), rtol=1e-10, atol=1e-12)


def test_the_comparison_would_see_a_wrong_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention is strong enough for graph and paths to matter: without them the result is another one."""
    model, ids = build(), ids_of()
    right = whole(model, ids)
    for target, name in ((ReachRows, "extend"), (PathRows, "extend")):
        original = getattr(target, name)
        with monkeypatch.context() as patch:
            wrong = lambda self, rows, *rest, original=original: original(self, np.roll(rows, 1, axis=-1), *rest)  # noqa: E731
            patch.setattr(target, name, wrong)
            assert np.abs(in_pieces(model, ids, [LENGTH]) - right).max() > 1e-3


def test_in_float32_only_rounding_differs() -> None:
    model, ids = build(np.float32), ids_of()
    np.testing.assert_allclose(in_pieces(model, ids, [1] * LENGTH), whole(model, ids), rtol=0, atol=2e-5)


@pytest.mark.parametrize("recipe", ["nvfp4", "nvfp4-boh", "nvfp4-train"])
def test_on_cards(recipe: str) -> None:
    model, ids = build(np.float32, route_out_proj=True), ids_of()
    place(model, recipe, mode="inference")
    exact = whole(model, ids)
    # FP4 activations turn a last-bit difference into a whole step of E2M1 now and then, in recipes that have them.
    atol = 2e-5 if RECIPES[recipe].activation is None else 0.3
    np.testing.assert_allclose(in_pieces(model, ids, [5] + [1] * (LENGTH - 5)), exact, rtol=0, atol=atol)


def test_with_packed_weights_and_dropped_masters() -> None:
    model, ids = build(np.float32), ids_of()
    device = place(model, "nvfp4", mode="inference", select="all")
    device.drop_masters()
    np.testing.assert_allclose(in_pieces(model, ids, [1] * LENGTH), whole(model, ids), rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shortest_paths_row_by_row_are_those_of_the_whole_bit_for_bit(dtype: type) -> None:
    rng = np.random.default_rng(2)
    distances = rng.exponential(size=(2, 3, 19, 19)).astype(dtype)
    distances = np.where(np.tri(19, dtype=bool), distances, dtype(np.inf))
    expected = graph.shortest_paths(distances)
    rows = PathRows(2, 3, 19, np.dtype(dtype))
    pieces = [rows.extend(distances[:, :, a:b, :b]) for a, b in ((0, 1), (1, 2), (2, 9), (9, 19))]
    for piece, (a, b) in zip(pieces, ((0, 1), (1, 2), (2, 9), (9, 19))):
        np.testing.assert_array_equal(piece, expected[:, :, a:b, :b])


def test_reach_row_by_row_is_that_of_the_whole() -> None:
    rng = np.random.default_rng(2)
    attention = np.tril(rng.random((2, 3, 17, 17)) * (rng.random((2, 3, 17, 17)) < 0.3))
    expected = graph.past_reach(attention, 0.1)
    reach = ReachRows(2, 3, 17)
    found = [reach.extend(attention[:, :, a:b, :b], 0.1) for a, b in ((0, 3), (3, 4), (4, 17))]
    np.testing.assert_array_equal(np.concatenate(found, axis=-1), expected)


def test_each_new_token_costs_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(np.float32)
    device = place(model, "nvfp4", mode="inference")
    reader = Reader(model, 1, 12)
    reader.extend(ids_of(8, batch=1))
    for _ in range(3):
        steps = device.step(reader.extend, ids_of(1, batch=1))
        rows = {event.values["rows"] for event in steps if event.kind == "matmul"}
        assert rows == {1}


def test_reading_leaves_the_model_as_it_was() -> None:
    model = build(np.float32)
    model.train()
    reader = Reader(model, 2, LENGTH)
    reader.extend(ids_of())
    assert model.training and model.blocks[0].ffn.dropout.training
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="23 tokens were read and 1 follow: more than 23"):
        reader.extend(ids_of(1))


def test_a_model_that_looks_ahead_cannot_be_read_in_pieces() -> None:
    with pytest.raises(ValueError, match="only a causal model"):
        Reader(build(causal=False), 1, 8)
