"""A recipe's products compiled beside the rest: what they leave on the disk is what a training step then needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vbw_np import machine
from vbw_np.device import RECIPES
from vbw_np.models import compile_ahead
from vbw_np.models.claude4 import Claude4Config
from vbw_np.simd import jit

ROOT = Path(__file__).parents[2]

STEPS = """
import sys
from pathlib import Path
from vbw_np.device import Device
from vbw_np.kernels import kept
from vbw_np.models import compile_ahead
from vbw_np.models.claude4 import Claude4, Claude4Config

cache, recipe = sys.argv[1:]
config = Claude4Config(vocab_size=5000, d_model=64, heads=4)
assert kept("fp4") is False and kept("no such room") is None
assert compile_ahead.ahead(recipe, config) is True
assert compile_ahead.ahead(recipe, config) is False
before = {path.name for path in Path(cache).rglob("*.nbc")}
model = Claude4(compile_ahead.small(config))
Device(recipe).place(model)
compile_ahead.steps(model)
print(len(before), {path.name for path in Path(cache).rglob("*.nbc")} - before)
"""


@pytest.fixture
def cold(monkeypatch):
    """As where two processors find nothing compiled; what is compiled here is nothing."""
    monkeypatch.setattr(compile_ahead, "kept", lambda room: False)
    monkeypatch.setattr(machine, "cpu_count", lambda: 2)
    monkeypatch.setattr(compile_ahead, "steps", lambda model: None)


def test_nothing_is_done_where_nothing_would_be_gained(monkeypatch, cold):
    config = Claude4Config()
    assert not compile_ahead.ahead("fp32", config)
    monkeypatch.setattr(machine, "cpu_count", lambda: 1)
    assert not compile_ahead.ahead("nvfp4-train", config)
    monkeypatch.setattr(machine, "cpu_count", lambda: 2)
    monkeypatch.setattr(compile_ahead, "kept", lambda room: None)
    assert not compile_ahead.ahead("nvfp4-train", config)


@pytest.mark.parametrize("recipe", [name for name, recipe in RECIPES.items() if recipe.weight])
def test_what_was_compiled_is_not_compiled_ahead_again(monkeypatch, cold, recipe):
    """Whatever kernels a recipe has: those of a step are there afterwards, in the room that is asked for."""
    rooms = {"twins"} if recipe.startswith("fp8") else {"twins", "fp4"}
    asked = []
    monkeypatch.setattr(compile_ahead, "kept", lambda room: asked.append(room) or room in rooms)
    assert not compile_ahead.ahead(recipe, Claude4Config()) and asked


def test_a_process_that_ends_at_once_is_no_error(monkeypatch, cold, capfd):
    monkeypatch.setattr(compile_ahead, "_WORK", "raise SystemExit(7)")
    assert compile_ahead.ahead("nvfp4-train", Claude4Config())
    assert capfd.readouterr().err == "compiling kernels, once on this machine ...\n"


@pytest.mark.slow
@pytest.mark.skipif(not jit.enabled() or machine.cpu_count() < 2, reason="nothing is compiled, or on one processor")
@pytest.mark.parametrize("recipe", [name for name, recipe in RECIPES.items() if recipe.weight])
def test_nothing_is_left_to_compile_for_a_training_step(tmp_path, recipe):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STEPS, str(tmp_path), recipe]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, new = done.stdout.split(maxsplit=1)
    assert int(count) > 10 and new.strip() == "set()"
