"""Compilation: none at import, none where there is no folder for it to be kept, none when numba is switched off."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from vbw_np.kernels import telling
from vbw_np.kernels.twins import elementwise
from vbw_np.simd import jit

ROOT = Path(__file__).resolve().parents[2]

STEP = """
import numpy as np
from vbw_np.engine import autograd, nn, F, Tensor
import vbw_np.kernels
from vbw_np.simd import jit

x = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
t = Tensor(x, requires_grad=True)
F.gelu(t).sum().backward()
assert np.isfinite(t.grad).all()
"""


def python(code: str, root: Path = ROOT, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA")} | variables
    environment |= {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_compiles_nothing():
    code = """
from numba.core import event
recorder = event.RecordingListener()
event.register("numba:compile", recorder)
import vbw_np.kernels
from vbw_np import warmup
from vbw_np.kernels.fp4 import dequantize, quantize
from vbw_np.simd import jit
from vbw_np.engine import autograd
assert autograd.functional.gelu.twin is not None
print(jit.compiled_count(), len(recorder.buffer))
"""
    assert python(code).split() == ["0", "0"]


def test_threads_are_calmed_unless_told_otherwise():
    code = "import os, vbw_np.kernels; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    quiet = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.stdout.split() == ["None", "6000"]
    assert python(code, OMP_WAIT_POLICY="active").split()[0] == "active"


@pytest.mark.skipif(os.name != "posix", reason="needs folders that cannot be written")
def test_read_only_package_without_a_cache_folder(tmp_path):
    """The package on a read-only disk, and a home that cannot be written: compiled in memory, and it says why."""
    for package in ("vbw_np", "autograd"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    # Even root cannot make a folder below a file, whatever the permissions.
    for folder in {file.parent for file in (tmp_path / "vbw_np").rglob("*.py")}:
        (folder / "__pycache__").write_text("in the way")
    blocked = tmp_path / "file"
    blocked.write_text("")
    code = STEP + "print(jit.cache_problem() is not None, jit.compiled_count() > 0)"
    home = str(blocked / "home")
    out = python(code, tmp_path, HOME=home, XDG_CACHE_HOME=home, PYTHONDONTWRITEBYTECODE="1")
    assert out.split() == ["True", "True"]


def test_with_numba_switched_off():
    """The definitions do the work; a kernel that is called all the same is one clear error."""
    code = STEP + """
from vbw_np.kernels.fp4 import quantize
from vbw_np.kernels.twins import elementwise
assert autograd.functional.gelu.twin is None and jit.compiled_count() == 0 and not jit.enabled()
for call in (elementwise.gelu, quantize.quantize):
    try:
        call(x)
    except ValueError as error:
        print(error)
"""
    expected = "this needs compiled kernels: unset NUMBA_DISABLE_JIT\n" * 2
    assert python("import warnings; warnings.simplefilter('ignore')\n" + code, NUMBA_DISABLE_JIT="1") == expected


@pytest.mark.skipif(not jit.enabled(), reason="numba is switched off")
def test_compile_time_is_counted_once():
    @jit.jit
    def inner(a):
        return a + 1

    @jit.jit
    def outer(a):
        return inner(a) * 2

    import time

    before, start = jit.compile_seconds(), time.perf_counter()
    assert outer(np.float64(3)) == 8
    counted, took = jit.compile_seconds() - before, time.perf_counter() - start
    assert 0 < counted <= took
    again = jit.compile_seconds()
    outer(np.float64(4))
    assert jit.compile_seconds() == again


def test_stale_code_is_not_loaded_when_a_used_file_changes():
    """The stamp of a cached kernel covers the files that it takes functions, numbers and code generators from."""
    import vbw_np.kernels.fp4.relayout  # noqa: F401

    stamp = jit.source_stamp(elementwise.gelu)
    for name in ("kernels.twins.elementwise", "simd.lanes", "simd.jit", "simd.cpu"):
        assert f"vbw_np.{name} " in stamp
    behind = jit.modules_behind("vbw_np.kernels.fp4.strips") | jit.modules_behind("vbw_np.kernels.fp4.relayout")
    assert {"vbw_np.kernels.fp4.intrinsics_relayout", "vbw_np.definitions.kernel_numbers"} <= behind
    assert "vbw_np.kernels.fp4" not in stamp


@pytest.mark.skipif(not jit.enabled(), reason="numba is switched off")
def test_the_kernels_of_a_room_are_asked_for(monkeypatch):
    asked = set()
    monkeypatch.setattr(jit.KernelCache, "any", lambda self: asked.add(self._impl.filename_base))
    monkeypatch.setattr(jit, "cache_problem", lambda: None)
    for room in ("fp4", "twins"):
        asked.clear()
        assert jit.kept(room) is False
        files = {path.stem for path in (ROOT / "vbw_np" / "kernels" / room).glob("*.py")}
        assert asked and {base.split(".")[0] for base in asked} <= files
    assert jit.kept("no such room") is None


@pytest.mark.skipif(not jit.enabled(), reason="numba is switched off")
def test_the_doctor_looks_wherever_kernels_are_kept(monkeypatch):
    import vbw_np.bench.peaks  # noqa: F401
    from vbw_np import doctor

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    sources = {Path(kernel.py_func.__code__.co_filename) for kernel in jit.KERNELS}
    sources |= {Path(sys.modules[kernel.__module__].__file__) for kernel in jit.KERNELS}
    ours = {file.parent / "__pycache__" for file in sources if ROOT / "vbw_np" in file.parents}
    assert len(ours) > 4 and ours <= set(doctor._numba_cache_folders())


def test_arguments_are_made_uniform():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.shares_memory(jit.row(x), x) and jit.row(x).shape == (12,)
    for odd in (x.T, np.broadcast_to(x[:1], (3, 4)), x[:, ::2]):
        made = jit.rows(odd)
        assert made.flags.c_contiguous and made.flags.writeable
        np.testing.assert_array_equal(made, odd)


def test_the_folders_import_one_way():
    """FP4 and float32 do not know each other."""
    below = {"fp32": set(), "fp4": set(), "fp8": set(), "twins": {"fp32"}, "token": {"fp4", "twins"}}
    for folder, allowed in below.items():
        for file in (ROOT / "vbw_np" / "kernels" / folder).glob("*.py"):
            found = set(re.findall(r"^\s*from \.\.(\w+)", file.read_text(), re.MULTILINE))
            assert found <= allowed, f"{folder}/{file.name} imports {sorted(found - allowed)}"


@pytest.mark.skipif(not jit.enabled(), reason="numba is switched off")
def test_a_notebook_hears_once_that_a_cell_waits_for_kernels(monkeypatch, capsys) -> None:
    monkeypatch.setattr(telling, "told", [])
    numba.njit(lambda x: x + 1)(1)
    assert capsys.readouterr().out == ""  # no notebook
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    numba.njit(lambda x: x + 2)(1)
    assert capsys.readouterr().out == telling.WORDS + "\n"
    numba.njit(lambda x: x + 3)(1)
    assert capsys.readouterr().out == ""
