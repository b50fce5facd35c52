"""A language model that somebody trained, against the programs that people run it with. VBW_TEST_MODELS names a folder
with the files (`make model` gets the one)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

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
