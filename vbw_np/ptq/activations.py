"""Which activations of a language model are massive, and what the block of one loses in a format.

A trained Llama has a few numbers, at one token and one channel, that are thousands of times what is usual there
("Massive Activations in Large Language Models", arXiv 2402.17762). A place is the input of layers, called by the first
of them (q, k and v share one), or the residual stream behind a block, called by the block.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..engine import Tensor, no_grad
from ..formats import BlockFormat, get_format
from ..formats.explain import Explanation, Step, number
from ..formats.explain_block import explain_in_block
from ..models.llama import Llama
from .calibration import wrapped
from .errors import CalibrationError
from .sites import SITES, blocks_of, part


@dataclasses.dataclass(frozen=True)
class Activation:
    """The largest number of a place.

    Attributes
    ----------
    place : str
    token, channel : int
    value : float
    usual : float
        The median over tokens of the largest magnitude of each.
    """

    place: str
    token: int
    channel: int
    value: float
    usual: float

    @property
    def times(self) -> float:
        """How many times what is usual."""
        return abs(self.value) / self.usual if self.usual else np.inf


def places_of(model: Llama) -> list[str]:
    """All places, in the order in which a token passes them."""
    return [place for name, _ in blocks_of(model) for place in (*(f"{name}.{site.name}" for site in SITES), name)]


@contextlib.contextmanager
def _seen(model: Llama, see: Callable[[str, NDArray], NDArray]) -> Iterator[None]:
    """While inside, ``see(place, x)`` is told of what is there, (tokens, width), and gives what goes on.

    Of an input of several layers it is told once for each.
    """
    blocks, layers, places = dict(blocks_of(model)), {}, {}
    for name, block in blocks.items():
        for site in SITES:
            layers |= {f"{name}.{layer}": part(block, layer) for layer in site.layers}
            places |= {f"{name}.{layer}": f"{name}.{site.name}" for layer in site.layers}

    def change(place: str, x: Tensor) -> Tensor:
        return Tensor(see(place, x.data[0])[None])

    def behind(name: str, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: change(name, forward(*args))

    before = {name: block.__dict__.get("forward") for name, block in blocks.items()}
    with wrapped(layers, lambda name, x: change(places[name], x)):
        for name, block in blocks.items():
            block.forward = behind(name, block.forward)
        try:
            yield
        finally:
            for name, block in blocks.items():
                del block.forward
                if before[name] is not None:
                    block.forward = before[name]


def _read(model: Llama, ids: NDArray) -> NDArray:
    with model.evaluating(), no_grad():
        return model(np.asarray(ids)[None]).data[0]


def massive(model: Llama, ids: NDArray) -> list[Activation]:
    """The largest number of every place while the model reads token ids (T,), the most unusual first."""
    found = {}

    def see(place: str, x: NDArray) -> NDArray:
        magnitudes = np.abs(x)
        token, channel = np.unravel_index(int(magnitudes.argmax()), x.shape)
        usual = float(np.median(magnitudes.max(axis=1)))
        found[place] = Activation(place, int(token), int(channel), float(x[token, channel]), usual)
        return x

    with _seen(model, see):
        _read(model, ids)
    return sorted(found.values(), key=lambda activation: -activation.times)


def activations_at(model: Llama, ids: NDArray, place: str) -> NDArray:
    """What is at a place while the model reads token ids (T,): (T, width).

    Raises
    ------
    CalibrationError
        No such place.
    """
    if place not in places_of(model):
        known = ", ".join(places_of(model)[:5])
        raise CalibrationError(f"the model has no place {place!r}; it has {known} and so on for every block")
    kept = []

    def see(name: str, x: NDArray) -> NDArray:
        if name == place:
            kept.append(x.copy())
        return x

    with _seen(model, see):
        _read(model, ids)
    return kept[0]


@contextlib.contextmanager
def silenced(model: Llama, activation: Activation) -> Iterator[None]:
    """While inside, this one number is zero: at its place, token and channel, in the first text of a batch."""

    def see(place: str, x: NDArray) -> NDArray:
        if place == activation.place and len(x) > activation.token:
            x = x.copy()
            x[activation.token, activation.channel] = 0
        return x

    with _seen(model, see):
        yield


def explain_activation(x: NDArray, activation: Activation, fmt: str | BlockFormat) -> Explanation:
    """One number of a place, (T, width) of what is there, from its bits to what its block lost.

    Parameters
    ----------
    x : float32 (T, width)
    activation : Activation
        Its token and channel are looked at.
    fmt : str or BlockFormat
    """
    told = explain_in_block(x, (activation.token, activation.channel), fmt)
    steps = (
        Step("place", f"token {activation.token}, channel {activation.channel}", activation.place),
        Step("usual", number(activation.usual), f"median token's largest; this is {activation.times:,.0f} times that"),
        *told.steps,
    )
    data = told.data | dataclasses.asdict(activation)
    return Explanation(f"an activation in {get_format(fmt).name}", steps, data)


@dataclasses.dataclass(frozen=True)
class Deleted:
    """What a text costs with and without one number: perplexities, and the divergence between both in nats a token."""

    perplexity: float
    without: float
    kl: float


def without(model: Llama, ids: NDArray, activation: Activation) -> Deleted:
    """Read token ids (T,) with and without one number."""
    logs = []
    for context in (contextlib.nullcontext(), silenced(model, activation)):
        with context:
            logits = _read(model, ids).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logs.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    following = np.asarray(ids)[1:]
    perplexities = [float(np.exp(-each[np.arange(len(following)), following].mean())) for each in logs]
    return Deleted(*perplexities, float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean()))
