"""Runs by name: `report` is the report's model made causal, `bytes` learns to write Python in minutes."""

from __future__ import annotations

import dataclasses

from ..errors import UserError
from ..models.claude4 import Claude4Config
from .config import TrainConfig

PRESETS: dict[str, TrainConfig] = {
    # The report's model, batch and learning rate; causal, so that it cannot see the answer.
    "report": TrainConfig(
        model=Claude4Config(causal=True),
        steps=1000,
        eval_every=100,
    ),
    # The attention's subspace is the whole head here (rank = head width), and each token sees the one before it
    # (token_shift): the attention knows no positions otherwise.
    "bytes": TrainConfig(
        model=Claude4Config(
            vocab_size=256, d_model=128, heads=4, hidden=256, layers=2, rank=32, experts=2,
            dropout=0.0, causal=True, token_shift=True,
        ),
        tokenizer="byte",
        steps=1000,
        batch_size=16,
        seq_len=64,
        lr=6e-3,
        betas=(0.9, 0.99),
        warmup=50,
        floor=0.05,
        eval_every=100,
        eval_batches=16,
    ),
    # Seconds a run: to try a command out, and for tests.
    "tiny": TrainConfig(
        model=Claude4Config(
            vocab_size=256, d_model=32, heads=2, hidden=64, layers=2, rank=16, experts=2, causal=True, token_shift=True,
        ),
        tokenizer="byte",
        steps=60,
        batch_size=8,
        seq_len=32,
        lr=1e-2,
        warmup=10,
        eval_every=20,
        eval_batches=2,
    ),
}  # fmt: skip


def get_preset(name: str) -> TrainConfig:
    """A preset by name.

    Raises
    ------
    UserError
        No such preset; lists the names.
    """
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}; the presets are: {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name])
