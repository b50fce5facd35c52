"""Kernels on disk: whole files or none, shared by processes, no error when unreadable or not to be written."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from vbw_np.simd import cache, jit

pytestmark = pytest.mark.skipif(not jit.enabled(), reason="numba is switched off")
ROOT = Path(__file__).resolve().parents[2]
KERNEL = """
    from vbw_np.simd.jit import jit

    @jit
    def double(x):
        return x + x
    """


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A file with one kernel, imported anew by each call."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(jit.config, "CACHE_DIR", "")  # which numba has read from it
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "one_kernel.py").write_text(textwrap.dedent(KERNEL))

    def load():
        sys.modules.pop("one_kernel", None)
        return importlib.import_module("one_kernel").double

    yield load
    sys.modules.pop("one_kernel", None)


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "__pycache__").glob("*.nbc"))


def test_a_second_process_loads_what_the_first_one_compiled(module, tmp_path):
    assert module()(2.0) == 4.0 and len(kept(tmp_path)) == 1
    again = module()
    assert again(2.0) == 4.0 and sum(again.stats.cache_hits.values()) == 1 and not again.stats.cache_misses


def test_what_cannot_be_read_is_compiled_anew(module, tmp_path):
    module()(2.0)
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no pickle", b"cvbw_np.simd.gone\nKernelPathType\n."):
        path.write_bytes(damaged)
        again = module()
        assert again(2.0) == 4.0 and sum(again.stats.cache_misses.values()) == 1
        assert len(path.read_bytes()) > len(whole) // 2


def test_a_changed_source_replaces_the_file(module, tmp_path):
    module()(2.0)
    (old,) = kept(tmp_path)
    (tmp_path / "one_kernel.py").write_text(textwrap.dedent(KERNEL).replace("x + x", "3 * x"))
    importlib.invalidate_caches()
    assert module()(2.0) == 6.0
    (new,) = kept(tmp_path)
    assert new != old


def test_processes_that_compile_side_by_side_lose_nothing(tmp_path):
    """numba's own index would keep the entries of whoever comes last, under numbers that several have used."""
    (tmp_path / "one_kernel.py").write_text(textwrap.dedent(KERNEL))
    code = "import sys, numpy as np, one_kernel; one_kernel.double(np.zeros(3, sys.argv[1]))"
    names = ("f4", "f8", "i4", "u1")
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment |= {"PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))}
    running = [subprocess.Popen([sys.executable, "-c", code, name], env=environment) for name in names]
    assert [process.wait() for process in running] == [0] * len(names)
    assert len(kept(tmp_path)) == len(names) and not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_is_full_is_no_error(module, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_problem", None)
    monkeypatch.setattr(cache.os, "replace", full)
    assert np.array_equal(module()(np.ones(3)), [2, 2, 2])
    assert not list((tmp_path / "__pycache__").glob("*.nbc*")) and "No space left" in jit.cache_problem()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners and modes here")
@pytest.mark.parametrize("harm", ["group can write", "all can write", "another owner"])
def test_what_others_could_have_written_is_not_read(module, tmp_path, monkeypatch, harm):
    """Reading a pickle is running it: this one would make a folder."""
    monkeypatch.setattr(cache, "_problem", None)
    module()(1.0)
    (file,) = tmp_path.rglob("*.nbc")
    assert not file.stat().st_mode & 0o022
    file.write_bytes(f"cos\nmkdir\n(S'{tmp_path}/ran'\ntR.".encode())
    if harm == "another owner":
        other = os.getuid() + 1 or 1
        monkeypatch.setattr(os, "fstat", lambda fd: os.stat_result((0o100644, 0, 0, 1, other, 0, 0, 0, 0, 0)))
    else:
        file.chmod(0o664 if harm == "group can write" else 0o646)
    assert module()(2.0) == 4.0
    assert not (tmp_path / "ran").exists()
    assert "can be written by others" in cache.problem()


def test_a_shared_umask_leaves_files_that_are_read(module, tmp_path):
    before = os.umask(0o002)
    try:
        module()(1.0)
    finally:
        os.umask(before)
    again = module()
    again(1.0)
    assert sum(again.stats.cache_hits.values()) == 1


def test_whether_something_is_kept_is_told_of_todays_sources_alone(tmp_path):
    before, now = (cache._Files(str(tmp_path), "mine.f", lambda text=text: text) for text in ("before", "now"))
    assert not before.any() and not now.any()
    before.save(("a key",), "a kernel")
    assert before.any() and not now.any()
    now.save(("another",), "a kernel")  # and what older sources left goes
    assert now.any() and not before.any()
