"""A small Llama with outliers, as trained ones have them, and a text for it."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.models.llama import Llama, LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=61, hidden_size=48, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16
)


def small_llama(dtype: type = np.float32, config: LlamaConfig = CONFIG) -> Llama:
    """Random, with norms that are not ones and a few loud channels."""
    model = Llama(config, seed=3, dtype=dtype)
    rng = np.random.default_rng(5)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.assign(np.exp(0.5 * rng.standard_normal(parameter.shape)))
        else:
            parameter.assign(parameter.data * (30 if "embed" in name else 6))
    model.model.embed_tokens.weight.assign(model.model.embed_tokens.weight.data * np.where(np.arange(48) == 7, 20, 1))
    return model


@pytest.fixture
def llama() -> Llama:
    return small_llama()


@pytest.fixture(scope="session")
def windows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, CONFIG.vocab_size, (12, 32))
