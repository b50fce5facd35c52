"""The compute unit: what all cards of a device share, and the policy under which they work."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from typing import Any

from ..engine import autograd, nn
from .cache import DecodeCache, OperandCache
from .link import Link
from .trace import Recorder

MODES = ("training", "inference", "auto", "precision")


@dataclasses.dataclass(frozen=True)
class Policy:
    """How cards behave. It never changes: a device whose mode is set gives its compute unit another one.

    The fields are those options of `Device` that have nothing to do with one card; `error_budget` is a number here.
    """

    mode: str = "training"
    refresh_interval: int = 100
    boh: bool = True
    error_budget: float = 0.1
    verify: bool = False
    compute: str = "auto"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"there is no mode {self.mode!r}; the modes are: {', '.join(MODES)}")
        interval = self.refresh_interval
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise ValueError(f"the refresh interval is a number of uses, at least 1, not {interval!r}")
        if not self.error_budget > 0:
            raise ValueError(f"the error budget is a positive number, not {self.error_budget!r}")

    @property
    def terms(self) -> tuple[bool, float, bool]:
        """What decides, beside the weight, which tiers are used."""
        return self.boh, self.error_budget, self.mode == "precision"


class _Forgetful(dict):
    """What a span yields while nobody records: values are accepted and forgotten."""

    def update(self, *args: Any, **values: Any) -> None:
        pass


_UNRECORDED = contextlib.nullcontext(_Forgetful())


class ComputeUnit:
    """Multiplies with what cards send it.

    Attributes
    ----------
    policy : Policy
    link : Link
        What weights travel over.
    decode_cache : DecodeCache
        Weights laid out for computing.
    operands : OperandCache
        Activations rounded for several layers.
    generator : autograd.Generator
        For stochastic rounding.
    recorder : Recorder or None
        Where spans go while somebody records.
    model : Module or None
        Whose `training` the mode "auto" follows.
    """

    def __init__(self, policy: Policy, *, cache_bytes: int = 1 << 30, seed: int = 0) -> None:
        self.policy = policy
        self.link = Link()
        self.decode_cache = DecodeCache(cache_bytes)
        self.operands = OperandCache()
        self.generator = autograd.Generator(seed)
        self.recorder: Recorder | None = None
        self.model: nn.Module | None = None
        self._keys = threading.Lock()

    @property
    def mode(self) -> str:
        """The mode in force: "auto" follows the model."""
        if self.policy.mode != "auto":
            return self.policy.mode
        return "training" if self.model is None or self.model.training else "inference"

    def next_key(self) -> tuple[int, int]:
        """The key of the next random draw; see `autograd.random`."""
        with self._keys:
            return self.generator.next_key()

    def span(self, kind: str, card: str, **values: Any) -> contextlib.AbstractContextManager[dict[str, Any]]:
        """Record what happens inside the context, if anybody records."""
        recorder = self.recorder
        return _UNRECORDED if recorder is None else recorder.span(kind, card, **values)

    def count_bytes(self) -> None:
        """Record the state of the cache and the link, if anybody records."""
        if self.recorder is not None:
            self.recorder.count("decode cache", bytes=self.decode_cache.bytes)
            self.recorder.count("link", coarse=self.link.coarse_bytes, fine=self.link.fine_bytes)
