"""A child that is forked after kernels ran computes the same bits by the definitions, and says so; it neither dies nor
waits for ever, as GNU OpenMP would have it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing, sys
import numpy as np
from vbw_np import definitions as d, kernels
import numba

def codes(seed):
    x = np.random.default_rng(seed).standard_normal((64, 256)).astype(np.float32)
    return d.quantize(x, "nvfp4").codes.tobytes()

if __name__ == "__main__":
    here = codes(1)
    print(numba.threading_layer(), flush=True)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map_async(codes, [1]).get(timeout=60)[0] == here
    print("same", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_computes_by_the_definitions(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NUMBA_THREADING_LAYER": "omp"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "script.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0 and ran.stdout.split()[-1] == "same", ran.stderr
    if ran.stdout.split()[0] == "omp":
        assert ran.stderr.count("vbw: this process was forked after kernels ran") == 1
        assert "spawn" in ran.stderr
