"""Writing on from a prompt, one token at a time; and comparing what two ways of computing wrote.

A causal model computes only the rows of new tokens; one that is not gets the whole sequence again for every token.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..engine import Tensor, nn
from ..errors import UserError
from .claude4 import Claude4
from .claude4_reader import Reader, hidden_of_whole
from .evaluating import evaluating
from .key_value_cache import Format
from .llama import Llama
from .llama_token import LlamaReader
from .sampling import Sampling, sample


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of writing.

    Attributes
    ----------
    tokens : integer array, (B,)
        Chosen now.
    logits : ndarray, (B, V)
        What they were chosen from.
    """

    tokens: NDArray
    logits: NDArray


class Reads(Protocol):
    """What reads a model's tokens as they come."""

    def logits(self, ids: NDArray) -> NDArray:
        """New tokens (B, n), to the logits of the last of them (B, V)."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a kind of model is read.

    Attributes
    ----------
    reader : callable
        ``(model, batch, capacity, **cache)`` to what reads up to `capacity` tokens, and computes only what is new.
    whole : callable
        ``(model, ids (B, T), **cache)`` to what the output head sees of the last token (B, D).
    head : callable
        ``model`` to its last layer, from (B, D) to logits (B, V).
    is_causal : callable
        Whether a model can be read token by token.
    cache_formats : bool
        Whether `cache` may name formats of keys and values.
    """

    reader: Callable[..., Reads]
    whole: Callable[..., NDArray]
    head: Callable[[Any], nn.Module]
    is_causal: Callable[[Any], bool]
    cache_formats: bool = False


KINDS = {
    Claude4: Kind(Reader, hidden_of_whole, lambda model: model.output_head, lambda model: model.config.causal),
    Llama: Kind(
        LlamaReader,
        lambda model, ids, **cache: LlamaReader(model, *ids.shape, **cache).extend(ids)[:, -1],
        lambda model: model.lm_head,
        lambda model: True,
        cache_formats=True,
    ),
}


def write(
    model: nn.Module,
    prompt: NDArray,
    sampling: Sampling,
    max_new_tokens: int,
    *,
    vocab_size: int | None = None,
    incremental: bool | None = None,
    keys: Format = None,
    values: Format = None,
    stop: Collection[int] = (),
) -> Iterator[Step]:
    """Continue each row of `prompt` (B, T), step by step; each step is given as soon as it is made.

    Parameters
    ----------
    model : Claude4 or Llama
    vocab_size : int, optional
        Only tokens below it are chosen: a model may have room for more than its text has.
    incremental : bool, optional
        Compute only the new rows; by default wherever the model is causal.
    keys, values : str or BlockFormat, optional
        How those of the tokens that were read are kept, of a Llama; see `KeyValueCache`.
    stop : collection of int
        Tokens that end a text: no more follow once every row has chosen one.
    """
    prompt = np.asarray(prompt)
    if prompt.ndim != 2 or prompt.shape[1] < 1 or prompt.dtype.kind not in "iu":
        raise UserError(f"a prompt is integers (batch, at least 1 token), not {prompt.dtype} {prompt.shape}")
    if max_new_tokens < 1:
        raise UserError(f"the number of new tokens is at least 1, not {max_new_tokens}")
    kind = KINDS[type(model)]
    cache = {name: fmt for name, fmt in (("keys", keys), ("values", values)) if fmt is not None}
    if cache and not kind.cache_formats:
        raise UserError(f"{' and '.join(cache)} of a {type(model).__name__} are kept as they are: give no format")
    head, modules = kind.head(model), list(model.modules())
    incremental = kind.is_causal(model) if incremental is None else incremental
    if incremental:
        reader = kind.reader(model, len(prompt), prompt.shape[1] + max_new_tokens, **cache)
    rng = np.random.default_rng(sampling.seed)
    ids = new = prompt
    ended = np.zeros(len(prompt), bool)
    for _ in range(max_new_tokens):
        if incremental:
            logits = reader.logits(new)[:, :vocab_size]
        else:
            hidden = kind.whole(model, ids, **cache)
            with evaluating(modules):
                logits = head(Tensor(np.ascontiguousarray(hidden))).data[:, :vocab_size]
        tokens = np.array(
            [sample(row, rng, sampling.temperature, sampling.top_p, sampling.top_k) for row in logits], np.int64
        )
        yield Step(tokens, logits)
        ended |= np.isin(tokens, list(stop))
        if ended.all():
            return
        new = tokens[:, None]
        ids = np.concatenate([ids, new], axis=1)


@dataclasses.dataclass(frozen=True)
class Generation:
    """What was written.

    Attributes
    ----------
    tokens : integer array, (B, new tokens)
    logits : ndarray (B, new tokens, V), or None if they were not kept
    prompt_seconds : float
        Until the first token: reading the prompt.
    seconds : float
        For all tokens after the first.
    """

    tokens: NDArray
    logits: NDArray | None
    prompt_seconds: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """After the first token; one row counts once, however large the batch is. NaN if there is only one."""
        count = self.tokens.shape[1] - 1
        return count / self.seconds if count and self.seconds else math.nan


def generate(
    model: nn.Module,
    prompt: NDArray,
    max_new_tokens: int = 32,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 0.9,
    seed: int = 0,
    vocab_size: int | None = None,
    incremental: bool | None = None,
    keys: Format = None,
    values: Format = None,
    stop: Collection[int] = (),
    keep_logits: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> Generation:
    """Continue each row of `prompt` (B, T) by up to `max_new_tokens` tokens, and time it.

    Parameters
    ----------
    model : Claude4 or Llama
        On cards or not; its mode and dropout are left as they are.
    prompt : integer array, (B, T)
    max_new_tokens : int
    temperature, top_k, top_p, seed
        See `Sampling`.
    vocab_size : int, optional
        Only tokens below it are chosen: a model may have room for more than its text has.
    incremental : bool, optional
        Compute only the new rows; by default wherever the model is causal. The tokens are the same either way, up to
        float rounding.
    keys, values : str or BlockFormat, optional
        How those of the tokens that were read are kept, of a Llama; see `KeyValueCache`.
    stop : collection of int
        Tokens that end a text: no more follow once every row has chosen one.
    keep_logits : bool
        Whether to keep the logits of every step.
    on_step : callable, optional
        Given every step as soon as it is made.

    Raises
    ------
    UserError
        A setting or the prompt makes no sense.
    """
    sampling = Sampling(temperature, top_k, top_p, seed)
    tokens, logits, began, first = [], [], time.perf_counter(), None
    options = {"vocab_size": vocab_size, "incremental": incremental, "keys": keys, "values": values, "stop": stop}
    for step in write(model, prompt, sampling, max_new_tokens, **options):
        first = first or time.perf_counter()
        tokens.append(step.tokens)
        if keep_logits:
            logits.append(step.logits)
        if on_step is not None:
            on_step(step)
    ended = time.perf_counter()
    return Generation(
        np.stack(tokens, axis=1), np.stack(logits, axis=1) if keep_logits else None, first - began, ended - first
    )


@dataclasses.dataclass(frozen=True)
class Parting:
    """Where two generations from one prompt part.

    Attributes
    ----------
    index : int or None
        The first new token in which they differ; None if they are the same.
    tokens : (int, int) or None
        What each of them chose there.
    margins : (float, float) or None
        By how much each preferred its own token to the other's, in logits. Small ones say that it was a close call.
    largest_difference : float
        Between their logits, over the steps in which both had read the same tokens.
    """

    index: int | None
    tokens: tuple[int, int] | None
    margins: tuple[float, float] | None
    largest_difference: float

    def __str__(self) -> str:
        same = f"logits differ by at most {self.largest_difference:.3g} while the text is the same"
        if self.index is None:
            return f"same text; {same}"
        (a, b), (first, second) = self.tokens, self.margins
        return (
            f"they part at new token {self.index}: token {a} (ahead by {first:.3g}) against {b} (ahead by "
            f"{second:.3g}); {same}"
        )


def parting(a: Generation, b: Generation, row: int = 0) -> Parting:
    """Compare row `row` of two greedy generations from the same prompt; both must have kept their logits."""
    if a.logits is None or b.logits is None:
        raise ValueError("comparing generations needs their logits: generate(..., keep_logits=True)")
    length = min(a.tokens.shape[1], b.tokens.shape[1])
    different = np.flatnonzero(a.tokens[row, :length] != b.tokens[row, :length])
    index = int(different[0]) if different.size else None
    comparable = length if index is None else index + 1
    largest = float(np.abs(a.logits[row, :comparable] - b.logits[row, :comparable]).max())
    if index is None:
        return Parting(None, None, None, largest)
    first, second = int(a.tokens[row, index]), int(b.tokens[row, index])
    margins = (
        float(a.logits[row, index, first] - a.logits[row, index, second]),
        float(b.logits[row, index, second] - b.logits[row, index, first]),
    )
    return Parting(index, (first, second), margins, largest)
