"""A language model that somebody trained, against the programs that people run it with. VBW_TEST_MODELS names a folder
with the files (`make model` gets the one)."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from vbw_np.engine import no_grad
from vbw_np.models.llama import Llama
from vbw_np.models.llama_files import load_llama
from vbw_np.models.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
ORACLES = Path(__file__).parents[1] / "oracles"


@pytest.fixture(scope="module")
def file() -> Path:
    folders = [os.environ.get("VBW_TEST_MODELS"), Path(__file__).parents[2] / "models"]
    found = next((path for folder in folders if folder for path in Path(folder).rglob(NAME)), None)
    return found or pytest.skip(f"no {NAME}: make model, or name a folder that holds it in VBW_TEST_MODELS")


def test_token_ids_are_llama_cpps(file: Path) -> None:
    pytest.importorskip("tokenizers")
    golden = np.load(ORACLES / "llama_tokens.npz")
    tokenizer = load_tokenizer(file)
    text = golden["text"].tobytes().decode()
    ids = tokenizer.encode(text, special=False)
    assert len(ids) >= 20_000 and np.array_equal(ids, golden["ids"])
    assert tokenizer.decode(ids) == text


def test_logits_are_transformers(file: Path) -> None:
    golden = np.load(ORACLES / "smollm2_logits.npz")
    ids = np.load(ORACLES / "llama_tokens.npz")["ids"][:512].astype(np.int64)
    model = load_llama(file)
    with no_grad():
        logits = model(ids[None]).data[0]
    difference = np.take_along_axis(logits, golden["tokens"].astype(np.int64), axis=1) - golden["logits"]
    assert np.abs(difference).max() <= 5e-4 and np.sqrt(np.square(difference).mean()) <= 5e-5
    assert np.array_equal(logits.argmax(axis=1), golden["tokens"][:, 0])
    exact = logits.astype(np.float64)
    largest = exact.max(axis=1)
    sums = largest + np.log(np.exp(exact - largest[:, None]).sum(axis=1))  # of every logit
    assert np.abs(sums - golden["log_sums"]).max() <= 5e-4
    wrong = Llama(dataclasses.replace(model.config, interleaved=True), seed=None)  # the file's rows as they are not
    wrong.load_state_dict(model.state_dict())
    with no_grad():
        turned = wrong(ids[None, :64]).data[0]
    assert np.abs(turned - logits[:64]).max() > 1


def test_logits_are_llama_cpps_up_to_its_rounding(file: Path) -> None:
    """llama.cpp rounds activations to eight bits; on a text that both are given, not on what each would write.

    All tokens but the 96 likeliest count as one here, so the divergence is at least this; over all of them
    tools/oracles/llama_cpp_logits.py prints it.
    """
    golden = np.load(ORACLES / "llama_cpp_logits.npz")
    tokens, theirs = golden["tokens"].astype(np.int64), golden["log_probabilities"].astype(np.float64)
    ids = np.load(ORACLES / "llama_tokens.npz")["ids"][: len(tokens)].astype(np.int64)
    with no_grad():
        exact = load_llama(file)(ids[None]).data[0].astype(np.float64)
    sums = np.log(np.exp(exact - exact.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
    ours = np.take_along_axis(exact, tokens, axis=1) - exact.max(axis=1, keepdims=True) - sums
    rest = [np.log1p(-np.exp(kept).sum(axis=1)) for kept in (theirs, ours)]
    divergence = (np.exp(theirs) * (theirs - ours)).sum(axis=1) + np.exp(rest[0]) * (rest[0] - rest[1])
    assert divergence.min() >= 0 and divergence.mean() <= 0.005
    assert (exact.argmax(axis=1) == tokens[:, 0]).mean() >= 0.94
