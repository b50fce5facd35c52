"""docs/device.md names everything that the device has: counts, modes, recipes, events, ways to compute."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from vbw_np.device import MODES, RECIPES, Statistics, place
from vbw_np.device.trace import KINDS
from vbw_np.device.ways import COMPUTES
from vbw_np.engine import nn

DOC = (Path(__file__).parents[2] / "docs" / "device.md").read_text("utf-8")
CALLERS_OWN = {"batch", "forward", "backward pass", "optimizer"}  # spans of the training loop, not of the device
WORDS = [
    *(field.name for field in dataclasses.fields(Statistics)),
    *MODES,
    *COMPUTES,
    *RECIPES,
    *(kind for kind in KINDS if kind not in CALLERS_OWN),
]


@pytest.mark.parametrize("word", WORDS)
def test_it_is_named(word: str) -> None:
    assert f"`{word}`" in DOC


def test_its_recipe_of_ones_own_runs() -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", DOC, re.DOTALL) if "mine =" in block)
    layers = nn.Sequential(nn.Linear(32, 32, rng=0), nn.Linear(32, 4, rng=0))
    scope = {"model": layers}
    exec(code, scope)
    assert scope["device"].recipe.name == "mine"
    scope["device"].release()
    place(layers, "nvfp4")
