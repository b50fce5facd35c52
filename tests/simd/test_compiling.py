"""What is compiled, how often, and that threads share loops as they should."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vbw_np.simd import jit

ROOT = Path(__file__).resolve().parents[2]
compiled = pytest.mark.skipif(not jit.enabled(), reason="numba is switched off")


def python(code: str, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA")} | variables
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@compiled
def test_only_kernels_become_machine_code_and_division_is_numpys():
    """A kernel that calls two helpers, one within the other, on threads: machine code once, for the kernel."""
    code = """
import numpy as np
from numba.core.codegen import JITCodeLibrary
from vbw_np.simd import jit

made = []
before = JITCodeLibrary._finalize_specific
JITCodeLibrary._finalize_specific = lambda self: (made.append(self.name), before(self))
deepest = jit.jit(lambda x: x * 3)
deeper = jit.jit(lambda x: deepest(x) + 1)

def fill(team, out):
    for i in jit.share(team, len(out)):
        out[i] = deeper(i) / (i - i)

kernel = jit.pjit(fill)
out = np.zeros(5)
kernel(out)
print(*made, out[0])
assert deeper(1) == 4
print(*made)
"""
    assert python(code, NUMBA_CACHE_DIR=os.devnull).splitlines() == ["nrt fill inf", "nrt fill <lambda>"]


@compiled
def test_every_number_is_some_threads_and_no_two():
    for threads in (1, 2, 3, 7, 64):
        for count in (0, 1, 5, 6, 7, 63, 64, 1000):
            shares = [jit.share.py_func((thread, threads), count) for thread in range(threads)]
            assert [i for share in shares for i in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


TEAM = """
import numpy as np
from vbw_np.simd import jit

def mark(team, out, flags, name):
    '''Marks.'''
    for i in jit.share(team, len(out)):
        out[i] += i + name[1]
    flags[team[0]] = team[1]

kernel = jit.pjit(mark)
out, flags = np.zeros(1001), np.zeros(8, np.int64)
for _ in range(3):
    kernel(out, flags, (2.0, np.float32(0.5)))
assert np.array_equal(out, 3 * (np.arange(1001) + 0.5)), out
import numba
threads = numba.get_num_threads()
assert flags.tolist() == [threads] * threads + [0] * (8 - threads), flags
assert kernel.__doc__ == 'Marks.' and kernel.py_func.__module__ == '__main__'
numba.set_num_threads(1)
flags[:] = 0
kernel(out, flags, (2.0, np.float32(0.5)))
assert flags.tolist() == [1] + [0] * 7
print(numba.threading_layer())
"""


@compiled
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_team_on_every_threading_layer(layer: str):
    try:
        out = python(TEAM, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="4")
    except AssertionError as error:
        if "No threading layer could be loaded" in str(error):
            pytest.skip(f"{layer} is not here")
        raise
    assert out.strip() == layer


@compiled
def test_a_thread_that_fails_is_an_error():
    code = """
import numpy as np
from vbw_np.simd import jit

def fail(team, out):
    for i in jit.share(team, len(out)):
        if i == 1:
            raise ValueError
        out[i] = 1

try:
    jit.pjit(fail)(np.zeros(3))
except MemoryError as error:
    print(error)
"""
    assert python(code) == "a thread of a kernel could not go on\n"


@compiled
def test_a_kernel_from_disk_is_the_one_that_was_compiled(tmp_path: Path):
    code = """
import numpy as np
from vbw_np.kernels.twins import rows
y, vjp = rows.softmax(np.arange(12, dtype=np.float32).reshape(3, 4))
(signature,) = rows._softmax.signatures
print(y.tobytes().hex(), sum(rows._softmax.stats.cache_hits.values()))
"""
    first, second = (python(code, NUMBA_CACHE_DIR=str(tmp_path)).split() for _ in range(2))
    assert first[0] == second[0] and (first[1], second[1]) == ("0", "1")


COUNTED = """
import numpy as np
from vbw_np.simd import cpu, jit
from vbw_np.kernels.twins import rows

x, weight = np.ones((40, 41), np.float32), np.ones(41, np.float32)
for y, vjp in (rows.softmax(x), rows.layer_norm(x, weight, weight), rows.mix_experts(x[:, :2].copy(), x, x)):
    (vjp[0] if isinstance(vjp, tuple) else vjp)(y)
wide = "zmm" if "avx512f" in cpu.features() else "ymm" if "avx2" in cpu.features() else ""
for kernel in jit.KERNELS:
    for signature in getattr(kernel, "signatures", ()):
        text = kernel.inspect_asm(signature)
        loops = text[: text.index("_ZN7cpython")] + text[text.index(".worker:") :].partition("_ZN7cpython")[0]
        print(kernel.__name__, loops.count("NRT_incref"), loops.count("NRT_decref"), wide in loops)
"""


@compiled
def test_threads_count_no_references_of_the_rows_they_name(tmp_path: Path):
    """Counted by two threads, a row's references cost more than the row's work."""
    names = ("_softmax", "_softmax_vjp", "_layer_norm", "_layer_norm_vjp", "_mix_expert", "_mix_expert_vjp")
    seen = [line.split() for line in python(COUNTED, NUMBA_CACHE_DIR=str(tmp_path)).splitlines()]
    assert sorted(seen) == [[name, "0", "0", "True"] for name in sorted(names)]
