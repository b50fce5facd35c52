"""`vbw warmup`: all kernels, in this process or in several that fill one cache."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vbw_np import warmup
from vbw_np.errors import UserError
from vbw_np.simd import jit

ROOT = Path(__file__).parents[1]
compiled = pytest.mark.skipif(not jit.enabled(), reason="numba is switched off")


def arguments(only: str, processes: int | None = None) -> argparse.Namespace:
    return argparse.Namespace(only=only, processes=processes)


def test_it_names_what_it_runs(capsys):
    done = warmup.warmup(only="gelu")
    assert [entry.name for entry in done] == (["twin of gelu"] if jit.enabled() else [])
    assert all(isinstance(entry, warmup.Warmed) and entry.seconds >= 0 for entry in done)
    assert warmup.run(arguments("gelu")) == 0
    assert "gelu" in capsys.readouterr().out or not jit.enabled()


@compiled
def test_several_processes_fill_one_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert warmup.run(arguments("twin of s", processes=2)) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [name for name in warmup.work() if "twin of s" in name]
    assert sorted(line.split(" s  ")[1] for line in lines[:-1]) == sorted(expected) and len(expected) > 3
    assert re.search(r"in all, in 2 processes, which spent [\d.]+ s compiling", lines[-1])
    kept = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert any("softmax" in name for name in kept), kept


@compiled
def test_every_piece_of_work_is_done_once_and_told_of():
    names, told = [name for name in warmup.work() if "twin of s" in name], []
    done = warmup.side_by_side(names, 3, told.append)
    assert told == done and sorted(entry.name for entry in done) == sorted(names)


@compiled
def test_a_process_that_ends_early_is_one_error():
    with pytest.raises(UserError, match="compiling stopped at 'no such work': KeyError: 'no such work'"):
        warmup.side_by_side(["no such work", "twin of gelu"], 1)


def test_after_an_error_nothing_more_is_begun(monkeypatch):
    asked, busy = [], threading.Event()

    def ask(process: object, name: str) -> str:
        asked.append(name)
        if name == "bad":
            assert busy.wait(30)
        else:
            busy.set()
            time.sleep(0.5)  # it is at work when the other one fails
        return "" if name == "bad" else json.dumps([name, 0.5, 0.5, 1])

    start = [sys.executable, "-c", "pass"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    monkeypatch.setattr(warmup, "_start", lambda: subprocess.Popen(start, **pipes))
    monkeypatch.setattr(warmup, "_ask", ask)
    with pytest.raises(UserError, match="compiling stopped at 'bad': its process ended"):
        warmup.side_by_side(["bad", "busy", "never"], 2)
    assert sorted(asked) == ["bad", "busy"]


@compiled
def test_without_a_cache_one_process_compiles(monkeypatch, capsys):
    monkeypatch.setattr(jit, "cache_problem", lambda: "no folder can be written")
    monkeypatch.setattr(warmup, "side_by_side", lambda *_: pytest.fail("kernels of other processes are lost"))
    assert warmup.run(arguments("twin of s", processes=2)) == 0  # several pieces of work
    out, err = capsys.readouterr()
    assert "in 1 process," in out and "no folder can be written" in err


def test_without_compiled_code_there_is_nothing_to_do():
    code = "import sys; from vbw_np.cli import main; sys.exit(main(['warmup']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={"NUMBA_DISABLE_JIT": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0 and "there is nothing to compile" in done.stdout, done.stderr


COLD = """
from vbw_np import warmup
from vbw_np.simd import jit
names = {entry.name for entry in warmup.warmup()}
assert {"twin of gelu", "quantize to nvfp4", "dequantize seed-v6", "product of mxfp4 operands"} <= names
for kernel in jit.KERNELS:
    if not (kernel.signatures or kernel.part.signatures):
        print(kernel.py_func.__module__.removeprefix("vbw_np.kernels."), kernel.py_func.__qualname__)
"""


@pytest.mark.slow
@compiled
def test_it_compiles_every_kernel(tmp_path, monkeypatch):
    """But for the token's, which take a model, AMX's, and what only scales out of the usual range need."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))  # what comes from the disk brings no helpers along
    done = subprocess.run([sys.executable, "-c", COLD], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    left = [line for line in done.stdout.splitlines() if not line.startswith("token.") and "amx" not in line]
    rare = ["_decode_plain", "_plain_product", "_left_fits", "_scale_rows"]
    assert [line for line in left if line.split()[1] not in rare] == []
