"""The Llama family against transformers (tools/oracles/llama.py), trained, read token by token, and on cards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vbw_np.device import place
from vbw_np.engine import no_grad, optim
from vbw_np.layers.rotary import to_halves, to_interleaved
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.models.llama_files import config_from_json

GOLDEN = np.load(Path(__file__).parents[1] / "oracles" / "llama.npz")
NAMES = sorted({key.split("/")[0] for key in GOLDEN if key.endswith("/config")})


def parameters(name: str) -> dict[str, np.ndarray]:
    prefix = f"{name}/param/"
    return {key[len(prefix) :]: GOLDEN[key].astype(np.float64) for key in GOLDEN if key.startswith(prefix)}


def golden_model(name: str, dtype: type = np.float64) -> Llama:
    model = Llama(config_from_json(json.loads(str(GOLDEN[f"{name}/config"]))), dtype=dtype)
    model.load_state_dict(parameters(name))
    return model


def with_their_tables(model: Llama, name: str) -> Llama:
    """The rotary tables as transformers made them, in float32, so that all the rest can be compared in float64."""
    cos, sin = GOLDEN[f"{name}/cos"], GOLDEN[f"{name}/sin"]
    half = cos.shape[1] // 2
    model.model.tables = lambda start, length: tuple(t[start : start + length, :half] for t in (cos, sin))
    return model


def close(ours: np.ndarray, golden: np.ndarray, rtol: float = 1e-12) -> None:
    assert np.shape(ours) == golden.shape
    assert np.abs(ours - golden).max() <= rtol * np.abs(golden).max()


@pytest.mark.parametrize("name", NAMES)
def test_logits_loss_and_gradients_are_transformers(name: str) -> None:
    model, ids = with_their_tables(golden_model(name), name), GOLDEN[f"{name}/ids"]
    assert set(model.state_dict()) == set(parameters(name))
    close(model(ids).data, GOLDEN[f"{name}/logits"])
    loss = model.loss(ids)
    close(loss.data, GOLDEN[f"{name}/loss"])
    loss.backward()
    expected = {key.split("/grad/")[1] for key in GOLDEN if key.startswith(f"{name}/grad/")}
    assert {key for key, _ in model.named_parameters()} == expected
    for key, parameter in model.named_parameters():
        close(parameter.grad, GOLDEN[f"{name}/grad/{key}"], rtol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_rotary_tables_are_transformers_within_float32(name: str) -> None:
    """Their angles are rounded to float32 twice, up to position 63: 64 * 2 ** -23 at most."""
    model = golden_model(name)
    cos, sin = model.model.tables(0, 64)
    half = cos.shape[1]
    for ours, theirs in ((cos, GOLDEN[f"{name}/cos"]), (sin, GOLDEN[f"{name}/sin"])):
        assert np.array_equal(theirs[:, :half], theirs[:, half:])
        assert np.abs(ours - theirs[:, :half]).max() < 64 * 2**-23


@pytest.mark.parametrize("name", NAMES)
def test_read_token_by_token_it_is_the_same(name: str) -> None:
    model, ids = golden_model(name), GOLDEN[f"{name}/ids"]
    with no_grad():
        whole = model(ids).data
        cache = model.cache(len(ids), ids.shape[1])
        pieces = [model(ids[:, start:stop], cache).data for start, stop in ((0, 5), (5, 6), (6, 9), (9, 13))]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=1e-11, atol=1e-12)
    with pytest.raises(ValueError, match="13 tokens were read and 1 follow"):
        model(ids[:, :1], cache)


def test_the_layouts_are_one_model_with_rows_in_another_order() -> None:
    model, ids = golden_model("grouped"), GOLDEN["grouped/ids"]
    state = dict(model.state_dict())
    config = model.config
    other = Llama(LlamaConfig(**{**vars(config), "interleaved": True}), dtype=np.float64)
    other.load_state_dict(state)
    assert np.abs(other(ids).data - model(ids).data).max() > 0.1  # the wrong layout is another model
    for key, rows in state.items():
        for part, heads in ((".q_proj.", config.num_attention_heads), (".k_proj.", config.num_key_value_heads)):
            if part in key:
                state[key] = to_interleaved(rows, heads)
                assert np.array_equal(to_halves(state[key], heads), rows)
    other.load_state_dict(state)
    np.testing.assert_allclose(other(ids).data, model(ids).data, rtol=1e-12, atol=1e-13)


def test_nothing_looks_ahead() -> None:
    model, ids = golden_model("one_group"), GOLDEN["one_group/ids"].copy()
    before = model(ids).data
    ids[:, 7:] = (ids[:, 7:] + 1) % 61
    after = model(ids).data
    assert np.array_equal(after[:, :7], before[:, :7]) and (after[:, 7:] != before[:, 7:]).any()


def test_a_tied_head_is_one_parameter_and_gets_both_gradients() -> None:
    tied = Llama(LlamaConfig(vocab_size=19, hidden_size=8, intermediate_size=8, num_hidden_layers=1))
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert "lm_head.weight" in tied.state_dict()
    assert "lm_head.weight" not in dict(tied.named_parameters())
    own = Llama(LlamaConfig(**{**vars(tied.config), "tie_word_embeddings": False}))
    own.load_state_dict(tied.state_dict())
    ids = np.array([[1, 2, 3, 4, 5]])
    for model in (tied, own):
        model.loss(ids).backward()
    both = own.model.embed_tokens.weight.grad + own.lm_head.weight.grad
    np.testing.assert_allclose(tied.lm_head.weight.grad, both, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("recipe", [None, "fp32", "nvfp4-train"])
def test_it_learns(recipe: str | None) -> None:
    """Sequences that count upwards: the next token is certain, so the loss goes from ln 32 towards 0."""
    config = LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    model = Llama(config)
    ids = (np.arange(16) + np.arange(32)[:, None]) % 32
    # Weights grow tenfold here; scales that are kept for 100 uses would saturate.
    device = place(model, recipe, refresh_interval=1) if recipe else None
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model.loss(ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(32), abs=0.1) and losses[-1] < 0.3
    if device is not None:
        device.release()


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"hidden_size": 0}, "hidden_size must be a positive integer"),
        ({"num_attention_heads": 3}, "3 heads do not divide a width of 64"),
        ({"num_key_value_heads": 3}, "cannot share 3 heads"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"rope_factors": (1.0,)}, "1 rope_factors for 8"),
        ({"rms_norm_eps": 0.0}, "must be positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        LlamaConfig(**wrong)


def test_too_long_and_empty_sequences_are_refused() -> None:
    model = Llama(LlamaConfig(max_position_embeddings=8))
    with pytest.raises(ValueError, match="9 tokens are more than the 8"):
        model(np.zeros((1, 9), int))
    for shape in ((3,), (1, 0)):
        with pytest.raises(ValueError, match="at least 1 token"):
            model(np.zeros(shape, int))
