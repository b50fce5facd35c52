"""The tables and lists of docs/device.md have an entry for all that the device has; its example runs."""

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
ENTRIES = {
    name
    for head in re.findall(r"^(?:\| |- )((?:`[^`]+`(?:, | / )?)+)(?= \||:)", DOC, re.MULTILINE)
    for name in re.findall(r"`([^`]+)`", head)
}  # names in the first cell of a table's row, or at the head of a list's entry
NAMES = [
    *(field.name for field in dataclasses.fields(Statistics)),
    *MODES,
    *COMPUTES,
    *RECIPES,
    *(kind for kind in KINDS if kind not in CALLERS_OWN),
]


@pytest.mark.parametrize("name", NAMES)
def test_it_has_an_entry(name: str) -> None:
    assert name in ENTRIES


def test_its_recipe_of_ones_own_runs() -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", DOC, re.DOTALL) if "mine =" in block)
    layers = nn.Sequential(nn.Linear(32, 32, rng=0), nn.Linear(32, 4, rng=0))
    scope = {"model": layers}
    exec(code, scope)
    assert scope["device"].recipe.name == "mine"
    scope["device"].release()
    place(layers, "nvfp4")
