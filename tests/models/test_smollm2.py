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
