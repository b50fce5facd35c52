"""Writing on from a prompt, and comparing what two ways of computing wrote."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from vbw_np.device import place, release
from vbw_np.engine import Tensor, no_grad, optim
from vbw_np.errors import UserError
from vbw_np.models.claude4 import Claude4, Claude4Config
from vbw_np.models.generation import Generation, generate, parting
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.models.llama_files import config_from_json

CONFIG = Claude4Config(vocab_size=61, d_model=32, heads=4, hidden=48, layers=3, rank=4, experts=2, causal=True)
LENGTH = 23
GOLDEN = np.load(Path(__file__).parents[1] / "oracles" / "llama.npz")


def build(dtype: type = np.float64, **changes: object) -> Claude4:
    """A causal model whose attention is far from uniform, so that edges and paths matter."""
    model = Claude4(dataclasses.replace(CONFIG, **changes), seed=3, dtype=dtype)
    for name, parameter in model.named_parameters():
        if name.endswith(("W_q.weight", "W_k.weight")):
            parameter.assign(8 * parameter.data)
    return model


def ids_of(length: int = LENGTH, batch: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (batch, length))


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
        expected = trained.output_head(Tensor(trained.hidden_states(prompt)[0].data[:, -1])).data
    np.testing.assert_allclose(step.logits[:, 0], expected, rtol=0, atol=2e-5)


# -- Llamas


def llama(name: str) -> tuple[Llama, np.ndarray]:
    model = Llama(config_from_json(json.loads(str(GOLDEN[f"{name}/config"]))), dtype=np.float64)
    prefix = f"{name}/param/"
    model.load_state_dict({key[len(prefix) :]: GOLDEN[key] for key in GOLDEN if key.startswith(prefix)})
    return model, GOLDEN[f"{name}/greedy"]


@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize("name", ["grouped", "own_head", "one_group", "linear"])
def test_a_llama_writes_greedily_what_transformers_does(name: str, incremental: bool) -> None:
    model, golden = llama(name)
    written = generate(model, golden[:, :5], 12, temperature=0, incremental=incremental)
    np.testing.assert_array_equal(written.tokens, golden[:, 5:])


def test_a_llama_writes_on_packed_weights() -> None:
    """Where a token's activations are rounded to eight bits: half a step is 1 / 254 of the largest."""
    model = Llama(LlamaConfig(vocab_size=61, hidden_size=32, intermediate_size=64, tie_word_embeddings=False))
    results = {}
    for compute in ("dequant", "packed"):
        device = place(model, "nvfp4", mode="inference", compute=compute)
        results[compute] = generate(model, ids_of(6), 8, temperature=0, keep_logits=True)
        device.release()
    packed, decoded = results["packed"].logits[:, 0], results["dequant"].logits[:, 0]
    assert 0 < np.abs(packed - decoded).max() < 0.05 * np.abs(decoded).max()


def test_more_than_a_llama_was_made_for_is_refused_before_it_reads() -> None:
    model = Llama(LlamaConfig(max_position_embeddings=16))
    with pytest.raises(UserError, match="20 tokens, prompt and answer together, are more than the 16"):
        generate(model, np.zeros((1, 10), int), 10)
