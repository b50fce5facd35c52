"""What three trained models wrote: the first thing that the first notebook shows."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def first_texts() -> dict[str, dict[str, Any]]:
    """Text, recipe and validation loss of the byte model trained in float32, in NVFP4, and by a broken recipe.

    Kept by ``python tools/notebooks/first_texts.py``, which trains all three: seed 0, 1,000 steps, preset `bytes`.

    Returns
    -------
    dict
        By title, in this order: ``{"recipe": str, "loss": float (nats a byte), "text": str}``.
    """
    return json.loads(files(__package__).joinpath("first_texts.json").read_text("utf-8"))["texts"]
