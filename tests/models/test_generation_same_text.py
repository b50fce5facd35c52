"""The same text for the same seed: on every instruction set, on one thread and two, and greedily without numba."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vbw_np.simd import cpu, jit

PROGRAM = """
import numpy as np
from vbw_np.models.generation import generate
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.models.llama_cards import place_llama

model = Llama(LlamaConfig(vocab_size=150, hidden_size=64, intermediate_size=96, head_dim=16), seed=3)
for parameter in model.parameters():
    if parameter.ndim == 2:
        parameter.assign(parameter.data * 12)
place_llama(model, "nvfp4")
prompt = np.arange(40)[None] % 150
for settings in ({"temperature": 0}, {"seed": 5}):
    print(*generate(model, prompt, 24, **settings).tokens[0])
"""


def texts(**environment: str) -> list[str]:
    """The greedy text and the drawn one, by a process of its own."""
    made = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | environment, capture_output=True, text=True, timeout=1800
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not jit.enabled(), reason="numba is switched off")
def test_the_same_seed_writes_the_same_text_everywhere() -> None:
    first = texts(NUMBA_NUM_THREADS="1")
    assert len(first) == 2 and len(set(first[1].split())) > 5
    for isa in (isa for isa in cpu.available() if isa != "amx"):
        assert texts(VBW_KERNELS=isa) == first, isa
    assert texts(NUMBA_DISABLE_JIT="1")[0] == first[0]
