"""One token through a Llama in one call: the definition, its twin, and the model's own layers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.definitions import token as definition
from vbw_np.definitions.prompt import CHUNK
from vbw_np.definitions.token import STRETCH
from vbw_np.engine import autograd, no_grad
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.models.llama_cards import place_llama
from vbw_np.models.llama_token import LlamaReader
from vbw_np.simd import cpu

CONFIG = LlamaConfig(
    vocab_size=150, hidden_size=72, intermediate_size=88, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, head_dim=32,
)  # fmt: skip


def placed(recipe: str = "nvfp4", head: str | None = "q8_0", **changes: object) -> Llama:
    """A model whose sizes are no multiples of a block or a panel, far from its first, flat weights."""
    model = Llama(dataclasses.replace(CONFIG, **changes), seed=3)
    rng = np.random.default_rng(1)
    for name, parameter in model.named_parameters():
        factor = 1 + 0.3 * rng.normal(size=parameter.shape) if parameter.ndim == 1 else 12.0
        parameter.assign((parameter.data * factor).astype(np.float32))
        assert name
    place_llama(model, recipe, head=head)
    return model


def read(model: Llama, ids: np.ndarray, prompt: int, **formats: str) -> tuple[list[np.ndarray], LlamaReader]:
    """Logits after a prompt and after every token that follows, and the reader."""
    reader = LlamaReader(model, 1, ids.size, **formats)
    parts = [ids[None, :prompt], *(ids[None, i : i + 1] for i in range(prompt, ids.size))]
    return [reader.logits(part) for part in parts], reader


def ids_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, CONFIG.vocab_size, count)


CASES = {
    "nvfp4": ({}, {}),
    "mxfp4": ({"recipe": "mxfp4"}, {}),
    "a head in four bits, channels in pairs": ({"head": "nvfp4", "interleaved": True}, {}),
    "a head in float32, of its own": ({"head": None, "tie_word_embeddings": False}, {}),
    "keys rounded": ({}, {"keys": "nvfp4"}),
    "both rounded, each its own way": ({}, {"keys": "mxfp4", "values": "int4-row"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_has_the_bits_of_the_definition(name: str) -> None:
    """Over several stretches of attention; the prompt is read by the same layers both times."""
    (settings, formats), ids = CASES[name], ids_of(2 * STRETCH + 5)
    model = placed(**settings)
    ours, reader = read(model, ids, 2 * STRETCH - 3, **formats)
    assert reader.in_one_call, reader.why_not
    twin = definition.step.twin
    try:
        definition.step.twin = None
        theirs, other = read(model, ids, 2 * STRETCH - 3, **formats)
    finally:
        definition.step.twin = twin
    np.testing.assert_array_equal(ours, theirs)
    for a, b in zip(reader.cache.arrays, other.cache.arrays):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", CASES)
def test_a_prompt_has_the_bits_of_its_definition(name: str) -> None:
    """Read in three pieces: longer than a chunk of queries, few tokens, and many again behind those."""
    (settings, formats), ids = CASES[name], ids_of(CHUNK + 90)
    model, found = placed(**settings), []
    for twins in (True, False):
        with autograd.use_twins(twins):
            reader = LlamaReader(model, 1, ids.size, **formats)
            parts = np.split(ids[None], [CHUNK + 40, CHUNK + 47], axis=1)
            found.append([reader.extend(parts[0]), reader.extend(parts[1]), reader.logits(parts[2])])
            assert reader.in_one_call, reader.why_not
            found[-1] += list(reader.cache.arrays)
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_last_token_alone_is_that_of_all() -> None:
    model, ids = placed(), ids_of(30)
    whole, last = LlamaReader(model, 1, 30), LlamaReader(model, 1, 30)
    with autograd.use_twins(False):
        hidden = whole.extend(ids[None])[:, -1]
        np.testing.assert_allclose(last._hidden(ids[None], last=True)[:, -1], hidden, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(whole.cache.arrays, last.cache.arrays):
        np.testing.assert_array_equal(ours, theirs)


def test_threads_change_nothing() -> None:
    import numba

    model, ids = placed(), ids_of(STRETCH + 9)
    several, _ = read(model, ids, STRETCH - 2)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        one, _ = read(model, ids, STRETCH - 2)
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(several, one)


@pytest.mark.parametrize("isa", [isa for isa in cpu.available() if isa != "amx"])
def test_instruction_sets_change_nothing(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only the definition is there, of a prompt and of single tokens."""
    ids = ids_of(30)
    fastest, _ = read(placed(), ids, 24)
    monkeypatch.setenv("VBW_KERNELS", isa)
    np.testing.assert_array_equal(read(placed(), ids, 24)[0], fastest)


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_the_layers_compute(name: str) -> None:
    """Up to float32 sums in another order, and what a rounding makes of them: one code here and there."""
    (settings, formats), ids = CASES[name], ids_of(STRETCH + 12)
    model = placed(**settings)
    with autograd.use_twins(False):
        ours, reader = read(model, ids, STRETCH, **formats)
    assert reader.in_one_call
    whole = model.cache(1, ids.size, **formats)
    with no_grad():
        layers = [model(ids[None, :STRETCH], whole).data[:, -1]]
        layers += [model(ids[None, i : i + 1], whole).data[:, -1] for i in range(STRETCH, ids.size)]
    difference, spread = np.array(ours) - layers, np.std(layers)
    assert np.sqrt(np.square(difference).mean()) < 0.02 * spread


def test_cards_count_every_token() -> None:
    model = placed()
    _, reader = read(model, ids_of(5), 1)
    assert reader.in_one_call
    counts = {p.host.statistics.computes for name, p in model.named_parameters() if p.host is not None}
    assert len(counts) == 1 and counts.pop() >= 5


REFUSED = {
    "float32": ({"recipe": "fp32"}, "model.layers.0.self_attn.q_proj is in full precision"),
    "quantized activations": ({"recipe": "nvfp4-train"}, "multiplied as"),
    "rows of bytes": ({"recipe": "q8_0"}, "packed in rows of bytes"),
    "a head of 24": ({"head_dim": 24}, "a head has 24 numbers, no multiple of 16"),
    "a bias": ({"attention_bias": True}, "model.layers.0.self_attn.q_proj has a bias"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named_and_read_by_the_layers(name: str) -> None:
    settings, why = REFUSED[name]
    model, ids = placed(**settings), ids_of(9)
    logits, reader = read(model, ids, 7)
    assert not reader.in_one_call and why in reader.why_not
    cache = model.cache(1, 9)
    with no_grad():
        theirs = model(ids[None, :7], cache).data[:, -1]
    assert np.abs(logits[0] - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_several_texts_are_read_by_the_layers() -> None:
    reader = LlamaReader(placed(), 2, 4)
    assert reader.logits(np.zeros((2, 1), np.int64)).shape == (2, CONFIG.vocab_size)
    assert not reader.in_one_call and reader.why_not == "2 texts are written at once"
