"""The smallest model that does everything a large one does: tokens, two layers, a loss.

Both layers are 16 x 16, since a block has 16 elements: one picture shows a whole weight with all of its blocks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..engine import F, Parameter, Tensor, autograd, nn
from ..formats.random_bits import standard_normal

WIDTH = 16
TOKENS = 32
"""Two blocks of NVFP4, one of MXFP4: over these the weights' gradients are summed."""

LETTERS = " aehlnorstcdimuy"
"""The vocabulary: a token is a letter's place in it."""

TEXT = "she sells sea shells on the sand "
"""What the model is to learn: each letter's next one."""


class SmallModel(nn.Module):
    """Letters to 16 numbers each, two linear layers with a ReLU between them, scores for the next letter.

    Parameters
    ----------
    seed : int
        Of the weights.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.embedding = Parameter(standard_normal((len(LETTERS), WIDTH), seed, stream=1))
        self.first, self.second = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, len(LETTERS), bias=False)
        quarter = np.float32(WIDTH**-0.5)
        self.first.weight.assign(standard_normal((WIDTH, WIDTH), seed, stream=2) * quarter)
        self.second.weight.assign(standard_normal((len(LETTERS), WIDTH), seed, stream=3) * quarter)

    def forward(self, ids: NDArray) -> Tensor:
        """Logits (tokens, letters) for ids (tokens,)."""
        return self.second(self.first(F.embedding(self.embedding, ids)).relu())

    def loss(self, ids: NDArray, targets: NDArray) -> Tensor:
        """The mean over tokens of -log softmax(logits)[target], in nats."""
        return token_loss(self(ids), targets=targets)


def batch() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens and the tokens that follow them, (32,) each."""
    letters = np.array([LETTERS.index(letter) for letter in TEXT[: TOKENS + 1]])
    return letters[:-1], letters[1:]


def softmax_parts(logits: NDArray[np.float32]) -> dict[str, NDArray]:
    """What the loss is made of, in the order in which it is made.

    In float64, sums from the first class to the last: so the last bits are the same wherever exp and log are, and a
    page can check them.
    """
    top = logits.max(axis=1, keepdims=True)
    shifted = logits.astype(np.float64) - top
    power = np.exp(shifted)
    total = np.add.accumulate(power, axis=1)[:, -1:]
    return {"top": top, "shifted": shifted, "power": power, "total": total, "probability": power / total}


@autograd.primitive(
    name="token_loss",
    samples=lambda rng: [((rng.normal(size=(5, 7)),), {"targets": np.array([0, 6, 3, 3, 1])})],
)
def token_loss(logits, *, targets):
    """Mean over tokens of -log softmax(logits)[target], rounded once; logits (tokens, classes)"""
    parts = softmax_parts(logits)
    rows = np.arange(len(targets))
    losses = np.log(parts["total"][:, 0]) - parts["shifted"][rows, targets]
    wrong = parts["probability"].copy()
    wrong[rows, targets] -= 1
    mean = np.add.accumulate(losses)[-1] / len(targets)
    return np.asarray(mean, logits.dtype), (lambda g: (wrong / len(targets) * g).astype(logits.dtype),)
