"""A model from a checkpoint, without the run that it came from: what is in the file is checked before it is built."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import TokenStream
from ..device import Recipe
from ..errors import UserError
from ..models.claude4 import Claude4, Claude4Config
from ..models.claude4_shapes import state_shapes
from . import checkpoint
from .config import TrainConfig
from .folder import BEST, LAST, run_id


def config_of(path: Path, meta: dict[str, Any]) -> TrainConfig:
    """The configuration in a checkpoint's meta.

    Raises
    ------
    CheckpointError
        It is not of a training run, or its settings are none that this version knows; names them.
    """
    run_id(meta, path)
    config = meta.get("config")
    parts = {"config": (config, TrainConfig)}
    if isinstance(config, dict):
        parts |= {"config.model": (config.get("model"), Claude4Config), "config.recipe": (config.get("recipe"), Recipe)}
    for name, (part, kind) in parts.items():
        fields = {field.name for field in dataclasses.fields(kind)}
        unknown = sorted(map(str, set(part) - fields)) if isinstance(part, dict) else [f"no object, {part!r:.40}"]
        if unknown:
            raise checkpoint.CheckpointError(
                f"checkpoint: {path} has in its {name} what this vbw-np does not know: {', '.join(unknown)}. "
                f"vbw-np {meta.get('vbw_np')} wrote it; read it with that version or a newer one."
            )
    with checkpoint.understood(path):
        try:
            return TrainConfig.from_dict(config)
        except UserError as error:
            raise ValueError(str(error)) from error


def check_shapes(path: Path, config: Claude4Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Whether the arrays of these shapes are those of a Claude4 of this configuration, before one is built.

    So no model is built that is larger than its file, and none that the file does not fill.

    Raises
    ------
    CheckpointError
        Names the first array that is missing, of another shape, or one too many.
    """
    expected = set()
    for name, shape in state_shapes(config):
        if shapes.get(name) != shape:
            found = f"has {name} of shape {shapes[name]}" if name in shapes else f"has no {name}"
            raise checkpoint.CheckpointError(
                f"checkpoint: {path} {found}, and its configuration asks for {shape}: the two are not of one model"
            )
        expected.add(name)
    extra = next((name for name in shapes if name not in expected), None)
    if extra is not None:
        raise checkpoint.CheckpointError(
            f"checkpoint: {path} has {extra!r:.80}, which a model of its configuration has not: the two are not of "
            "one model"
        )


def vocabulary_array(stream: TokenStream) -> dict[str, NDArray]:
    """A word-level vocabulary as the bytes of a JSON list; byte level and random ids need none."""
    if stream.tokenizer != "word":
        return {}
    return {"vocabulary": np.frombuffer(json.dumps(stream.vocab).encode(), np.uint8)}


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model from a checkpoint, ready to use.

    Attributes
    ----------
    model : Claude4
        In evaluation mode, in float32, on no card.
    config : TrainConfig
        With the recipe that it was trained under.
    text : TokenStream
        Empty of ids; `encode` and `decode` work as in training.
    step : int
    """

    model: Claude4
    config: TrainConfig
    text: TokenStream
    step: int


def _text_of(path: Path, data: dict[str, Any]) -> TokenStream:
    """The encoder and decoder that the model was trained with, without any text."""
    vocab: tuple = tuple(bytes([code]) for code in range(256)) if data["tokenizer"] == "byte" else ()
    if data["tokenizer"] == "word":
        vocab = tuple(json.loads(checkpoint.load(path, "vocabulary").arrays["vocabulary"].tobytes()))
        if len(vocab) != data["vocab_size"] or not all(isinstance(word, str) for word in vocab):
            raise ValueError(f"a vocabulary of {len(vocab)} words for {data['vocab_size']} ids")
    return TokenStream(
        ids=np.empty(0, np.uint16), vocab=vocab, vocab_size=data["vocab_size"], starts=np.zeros(1, np.int64), files=(),
        name=data["name"], tokenizer=data["tokenizer"], sha256=data["sha256"], n_bytes=0, unk_share=0.0,
    )  # fmt: skip


def load_model(path: str | os.PathLike[str]) -> TrainedModel:
    """The model of a checkpoint, without the optimizer; `path` may be the run's folder (then its best one).

    Raises
    ------
    CheckpointError
    """
    path = Path(path)
    if path.is_dir():
        path = path / (BEST if (path / BEST).exists() else LAST)
    config = config_of(path, checkpoint.load_meta(path))
    check_shapes(path, config.model, checkpoint.load_shapes(path, "model/"))
    weights = checkpoint.load(path, "model/")
    with checkpoint.understood(path):
        text = _text_of(path, weights.meta["data"])
        step = weights.meta["step"]
        model = Claude4(config.model, seed=config.seed)
        model.load_state_dict(weights.below("model/"))
    model.eval()
    return TrainedModel(model, config, text, step)
