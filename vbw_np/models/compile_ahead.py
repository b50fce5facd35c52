"""A recipe's products compiled in a process of their own, beside all other kernels of a training step in this one.

Whoever trains for the first time waits for the compiler. A step's kernels fall into two halves of about the same size:
the products of cards, with their quantizers, and everything else. Two processes that fill one cache need half the time.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import machine
from ..definitions import support
from ..device import Device, Recipe, get_recipe
from ..engine import Tensor, nn, optim
from ..formats import get_format
from ..kernels import kept
from ..layers import ShortestPathReflection, linear_cross_entropy
from .claude4 import Claude4, Claude4Config

_WORK = f"import pickle, sys; from {__name__} import products; products(*pickle.load(sys.stdin.buffer))"


def products(
    recipe: str | Recipe, options: Mapping[str, Any], width: int = 32, rows: tuple[int, int] = (8, 72)
) -> None:
    """Two steps of a layer and a head on cards: all of a recipe's products, and the loss on its logits.

    Parameters
    ----------
    recipe : Recipe, or the name of one
    options : mapping
        Of the `Device`.
    width : int
        Of the layer's input, the hidden states.
    rows : (int, int)
        Texts and tokens.
    """
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 1024, bias=False))
    device = Device(recipe, **options)
    device.place(model)
    layer, head = model
    optimizer = optim.Adam(model.parameters())
    for _ in range(2):
        x = Tensor(rng.normal(size=(*rows, width)).astype(np.float32), requires_grad=True)
        x.data[0, 0] = 0  # a token without features: the scale of nothing is beyond those that products take unseen
        ids = rng.integers(0, 1024, rows)
        optim.mean_gradients(optimizer, lambda ids, x=x: linear_cross_entropy(layer(x), head.weight, ids), [ids])
        optimizer.step()


def small(config: Claude4Config) -> Claude4Config:
    """The smallest model that runs all kernels of one: one layer, few words, a width that its heads divide."""
    width = math.lcm(config.heads, ShortestPathReflection.HEADS, 32)
    return dataclasses.replace(config, vocab_size=1024, d_model=width, hidden=128, layers=1)


def steps(model: Claude4, count: int = 2) -> None:
    """Training steps on random tokens: arrays large enough for the kernels of large ones."""
    optimizer = optim.Adam(model.parameters())
    rng = np.random.default_rng(0)
    for _ in range(count):
        optim.mean_gradients(optimizer, model.loss, [rng.integers(0, model.config.vocab_size, (8, 72))])
        optimizer.step()


def ahead(recipe: str | Recipe, config: Claude4Config, **options: Any) -> bool:
    """Compile the kernels of a model's training step in two processes, if that gains anything.

    It gains where there is a second processor, kernels are kept on disk, and those of products are not there yet (of
    recipes whose products have none: all others). What becomes of the other process is no matter: a kernel that it does
    not leave on the disk is compiled where it is used.

    Parameters
    ----------
    recipe : Recipe, or the name of one
    config : Claude4Config
        Of the model that is to be trained.
    **options
        Of the `Device` that it is to be placed on.

    Returns
    -------
    bool
        Whether it did.
    """
    weight = get_recipe(recipe).weight
    if machine.cpu_count() < 2 or weight is None or kept(_room(weight)) is not False:
        return False
    print("compiling kernels, once on this machine ...", file=sys.stderr, flush=True)
    other = _start(recipe, options)
    steps(Claude4(small(config)))
    other.wait()
    return True


def _room(weight: str) -> str:
    """The kernels that tell whether a step was compiled: those of products, or, where there are none, all others."""
    return "fp4" if support.strips(get_format(weight), "even").kernel is not None else "twins"


def _start(recipe: str | Recipe, options: Mapping[str, Any]) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", _WORK], env=machine.environment_of_another(),
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process.stdin.write(pickle.dumps((recipe, options)))
        process.stdin.close()
    except OSError:  # it is gone already
        pass
    return process
