"""Writing on from a prompt: the incremental reader against the whole computation, sampling, and comparing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.device import RECIPES, place, release
from vbw_np.engine import Tensor, no_grad, optim
from vbw_np.errors import UserError
from vbw_np.layers import graph
from vbw_np.models.claude4 import Claude4, Claude4Config
from vbw_np.models.generation import Generation, PathRows, ReachRows, Reader, generate, parting

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


# -- writing


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"seed": 4}, {"top_k": 3, "seed": 1}])
@pytest.mark.parametrize("length", [1, 3, 9])
def test_incremental_writing_gives_the_same_tokens_as_the_whole(length: int, settings: dict) -> None:
    """Also from prompts shorter than the five tokens that a reflection needs."""
    model, prompt = build(), ids_of(length)
    fast = generate(model, prompt, 14, incremental=True, keep_logits=True, **settings)
    slow = generate(model, prompt, 14, incremental=False, keep_logits=True, **settings)
    np.testing.assert_array_equal(fast.tokens, slow.tokens)
    np.testing.assert_allclose(fast.logits, slow.logits, rtol=1e-10, atol=1e-12)
    assert fast.tokens.shape == (2, 14)


def test_a_model_that_looks_ahead_writes_by_reading_the_whole() -> None:
    model, prompt = build(causal=False), ids_of(6)
    assert generate(model, prompt, 4, temperature=0).tokens.shape == (2, 4)
    with pytest.raises(UserError, match="the prompt has 4 tokens, and this model's reflection needs 5"):
        generate(model, ids_of(4), 1)


def test_the_same_seed_writes_the_same() -> None:
    model, prompt = build(np.float32), ids_of(6)
    first = generate(model, prompt, 12, seed=5).tokens
    np.testing.assert_array_equal(generate(model, prompt, 12, seed=5).tokens, first)
    assert (generate(model, prompt, 12, seed=6).tokens != first).any()


def test_greedy_takes_the_likeliest_and_top_k_of_one_is_greedy() -> None:
    model, prompt = build(np.float32), ids_of(6)
    greedy = generate(model, prompt, 8, temperature=0, keep_logits=True)
    np.testing.assert_array_equal(greedy.tokens, greedy.logits.argmax(axis=-1))
    np.testing.assert_array_equal(generate(model, prompt, 8, top_k=1, seed=3).tokens, greedy.tokens)


def test_only_tokens_of_the_text_are_chosen() -> None:
    result = generate(build(np.float32), ids_of(6), 30, temperature=5.0, top_p=1.0, vocab_size=3, keep_logits=True)
    assert set(np.unique(result.tokens)) == {0, 1, 2} and result.logits.shape == (2, 30, 3)


def test_every_step_is_told_as_it_is_made() -> None:
    told: list[np.ndarray] = []
    result = generate(build(np.float32), ids_of(6), 5, on_step=lambda step: told.append(step.tokens))
    np.testing.assert_array_equal(np.stack(told, axis=1), result.tokens)
    assert result.logits is None and result.tokens_per_second > 0 and result.prompt_seconds > 0
    assert np.isnan(generate(build(np.float32), ids_of(6), 1).tokens_per_second)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature is a number that is not negative, not -1.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top-p is a probability"),
        ({"top_k": 0}, "top-k is a number of tokens, at least 1"),
        ({"seed": -1}, "seed is not negative"),
        ({"max_new_tokens": 0}, "number of new tokens is at least 1"),
        ({"prompt": np.zeros((1, 0), int)}, "a prompt is integers"),
        ({"prompt": np.zeros((1, 3))}, "a prompt is integers"),
    ],
)
def test_settings_that_mean_nothing(settings: dict, message: str) -> None:
    options = {"prompt": ids_of(6), **settings}
    with pytest.raises(UserError, match=message):
        generate(build(np.float32), **options)


# -- comparing


def test_where_two_texts_part_and_by_what_margin() -> None:
    logits = np.zeros((1, 3, 4))
    logits[0, :, 1] = 1.0
    other = logits.copy()
    other[0, 1, 2] = 1.25
    a = Generation(logits.argmax(-1), logits, 0, 0)
    b = Generation(other.argmax(-1), other, 0, 0)
    found = parting(a, b)
    assert (found.index, found.tokens, found.margins, found.largest_difference) == (1, (1, 2), (1.0, 0.25), 1.25)
    assert "part at new token 1: token 1 (ahead by 1) against 2 (ahead by 0.25)" in str(found)
    same = parting(a, a)
    assert (same.index, same.largest_difference) == (None, 0.0) and "same text" in str(same)
    with pytest.raises(ValueError, match="keep_logits"):
        parting(a, dataclasses.replace(b, logits=None))


@pytest.fixture(scope="module")
def trained() -> Claude4:
    """A small causal model that has learned to count: after n comes n + 1."""
    model = build(np.float32, token_shift=True)
    optimizer = optim.AdamW(model.parameters(), lr=5e-3)
    rng = np.random.default_rng(0)
    for _ in range(60):
        ids = (rng.integers(0, 61, (8, 1)) + np.arange(16)) % 61
        optimizer.zero_grad()
        model.loss(ids).backward()
        optimizer.step()
    return model


def test_a_trained_model_writes_the_same_in_all_ways_to_compute(trained: Claude4) -> None:
    prompt = (np.array([[7], [40]]) + np.arange(8)) % 61
    written = {}
    for compute in ("dequant", "packed"):
        device = place(trained, "nvfp4", mode="inference", compute=compute)
        written[compute] = generate(trained, prompt, 24, temperature=0, keep_logits=True)
        release(trained)
        assert device.cards == {}
    for row in range(2):
        found = parting(written["dequant"], written["packed"], row)
        assert found.index is None, str(found)
        # `packed` rounds activations to 8-bit integers: errors of about half a percent a product
        assert 0 < found.largest_difference < 0.03 * np.abs(written["dequant"].logits).max()
    expected = (prompt[:, -1:] + np.arange(1, 25)) % 61
    assert (written["dequant"].tokens == expected).mean() > 0.9, "it did learn to count"


def test_the_head_sees_what_the_reader_gives(trained: Claude4) -> None:
    """`generate` is the model's own distribution: its logits are those of a plain forward computation."""
    prompt = ids_of(9)
    step = generate(trained, prompt, 1, temperature=0, keep_logits=True)
    with no_grad(), trained.evaluating():
        expected = trained.output_head(Tensor(whole(trained, prompt)[:, -1])).data
    np.testing.assert_allclose(step.logits[:, 0], expected, rtol=0, atol=2e-5)
