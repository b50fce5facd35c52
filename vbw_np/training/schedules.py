"""Learning-rate schedules: factors of the rate by step, and PyTorch's `LambdaLR`."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..engine import optim


def warmup_cosine(warmup: int, total: int, floor: float = 0.1) -> Callable[[int], float]:
    """Factor of the learning rate: linear from 0 to 1 over `warmup` steps, then half a cosine down to `floor`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(total - warmup, 1), 1.0)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def warmup_linear(warmup: int, total: int, floor: float = 0.0) -> Callable[[int], float]:
    """Factor of the learning rate: linear up over `warmup` steps, then linear down to `floor`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return floor + (1 - floor) * max(1 - (step - warmup) / max(total - warmup, 1), 0.0)

    return factor


class LambdaLR:
    """Sets the optimizer's learning rate to its first value times ``factor(step)``, counting steps from 0."""

    def __init__(self, optimizer: optim.Optimizer, factor: Callable[[int], float]) -> None:
        self.optimizer, self.factor, self.base_lr, self.last_step = optimizer, factor, optimizer.lr, 0
        optimizer.lr = self.base_lr * factor(0)

    def step(self) -> None:
        """Call after `optimizer.step()`."""
        self.last_step += 1
        self.optimizer.lr = self.base_lr * self.factor(self.last_step)

    def state_dict(self) -> dict[str, float]:
        return {"base_lr": self.base_lr, "last_step": self.last_step}

    def load_state_dict(self, saved: dict[str, float]) -> None:
        self.base_lr, self.last_step = float(saved["base_lr"]), int(saved["last_step"])
        self.optimizer.lr = self.base_lr * self.factor(self.last_step)
