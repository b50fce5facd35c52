"""How far a quantized model is from the float one: perplexity, KL divergence, agreement on the likeliest token."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..engine import no_grad
from ..models.key_value_cache import Format
from ..models.llama import Llama

ROWS = 64
"""Tokens whose logits are held at a time: three arrays of them, 38 MB for a vocabulary of 49,152."""


@dataclasses.dataclass(frozen=True)
class Quality:
    """Figures over the tokens of some windows.

    Attributes
    ----------
    perplexity : float
        exp of the mean cross-entropy of each next token.
    kl : float
        Mean divergence of the model's distribution from the float model's, KL(float || quantized), in nats a token.
    top1 : float
        Share of tokens at which both hold the same next token for the likeliest.
    tokens : int
    """

    perplexity: float
    kl: float
    top1: float
    tokens: int


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the float model makes of a text: enough to have its logits again, and little to keep.

    Attributes
    ----------
    windows : integers (n, length)
    hidden : list of float32 (length, D)
        What its head sees, window by window.
    head : float32 (V, D)
    """

    windows: NDArray
    hidden: list[NDArray]
    head: NDArray

    @classmethod
    def of(cls, model: Llama, windows: NDArray, done: Callable[[str], None] = lambda name: None) -> Reference:
        """Read the windows (n, length) with the float model."""
        hidden = []
        with model.evaluating(), no_grad():
            for window in windows:
                hidden.append(model.model(window[None]).data[0].copy())
                done("float32")
        return cls(windows, hidden, model.lm_head.weight.data.copy())


def log_softmax(logits: NDArray) -> NDArray:
    """Over the last axis, in the dtype of the logits; in place."""
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


def measure(
    model: Llama,
    reference: Reference,
    running: contextlib.AbstractContextManager[None] | None = None,
    done: Callable[[str], None] = lambda name: None,
    *,
    keys: Format = None,
    values: Format = None,
) -> Quality:
    """Compare a model with the float one on the windows of the reference.

    Parameters
    ----------
    model : Llama
    reference : Reference
    running : context manager, optional
        Inside which the model is as it would be run, such as ``quantized.running()``.
    done : callable
        Told of every window.
    keys, values : str or BlockFormat, optional
        In which the model keeps those of the tokens that it has read; see `KeyValueCache`.
    """
    entropy = divergence = agree = 0.0
    count = 0
    with running or contextlib.nullcontext(), model.evaluating(), no_grad():
        for window, exact in zip(reference.windows, reference.hidden, strict=True):
            cache = model.cache(1, len(window), keys=keys, values=values) if keys or values else None
            hidden = model.model(window[None], cache).data[0]
            for start in range(0, len(window), ROWS):
                rows = slice(start, start + ROWS)
                p = log_softmax(exact[rows] @ reference.head.T)
                q = log_softmax(hidden[rows] @ model.lm_head.weight.data.T)
                agree += float((p.argmax(axis=-1) == q.argmax(axis=-1)).sum())
                following = window[start + 1 : start + ROWS + 1]
                entropy -= float(q[np.arange(len(following)), following].sum(dtype=np.float64))
                np.subtract(p, q, out=q)
                divergence += float(np.vdot(np.exp(p, out=p), q))
            count += len(window)
            done("")
    return Quality(float(np.exp(entropy / (count - len(reference.windows)))), divergence / count, agree / count, count)
