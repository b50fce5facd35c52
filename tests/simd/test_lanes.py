"""Sixteen 4-bit codes are looked up alike, whether the CPU can permute or not."""

from __future__ import annotations

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from numba import config

from vbw_np.simd import cpu, lanes_memory

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="lanes are compiled code")


@pytest.mark.parametrize("can", [True, False])
def test_nibbles_are_looked_up_with_and_without_permutations(can: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if can and not lanes_memory.permutes():
        pytest.skip("this CPU does not permute")
    monkeypatch.setattr(lanes_memory, "permutes", lambda: can)

    @numba.njit
    def run(table, codes, out):  # type: ignore[no-untyped-def]
        for i in range(0, out.size, 16):
            lanes_memory.store(out, i, lanes_memory.lookup_nibbles(table, codes, i // 2))

    numbers = np.random.default_rng(3).normal(size=16).astype(np.float32)
    numbers[[3, 8]] = np.nan, -0.0
    codes = np.arange(256, dtype=np.uint8)
    table, out = lanes_memory.nibble_table(numbers), np.empty(512, np.float32)
    assert table.size == (16 if can else 512)
    run(table, codes, out)
    expected = numbers[np.stack([codes & 15, codes >> 4], axis=1)].reshape(-1)
    assert np.array_equal(out.view(np.uint32), expected.view(np.uint32))


def test_the_name_of_a_cpu_alone_takes_no_features_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba compiles with the features of this machine unless `NUMBA_CPU_FEATURES` says which."""
    host = {name for name, on in llvm.get_host_cpu_features().items() if on}
    for given, features in ((None, host), ("+sse4.2,-avx", {"sse4.2"}), ("", set())):
        monkeypatch.setattr(config, "CPU_NAME", "x86-64")
        monkeypatch.setattr(config, "CPU_FEATURES", given)
        assert cpu.features.__wrapped__() == features
