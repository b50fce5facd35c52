"""Kill -9 at random moments, in writing too: the run goes on from the last whole checkpoint, to the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vbw_np.training import checkpoint
from vbw_np.training.config import TrainConfig
from vbw_np.training.loop import Trainer

Make = Callable[..., TrainConfig]

_PROGRAM = """
import json, sys
from vbw_np.training.config import TrainConfig
from vbw_np.training.loop import Trainer
trainer = Trainer.start_or_resume(TrainConfig.from_dict(json.loads(sys.argv[2])), sys.argv[1])
print("ready", flush=True)
trainer.run()
print("done", flush=True)
"""


def start(settings: TrainConfig, folder: Path) -> subprocess.Popen:
    """A run in a process of its own, with its first step before it."""
    arguments = [sys.executable, "-c", _PROGRAM, str(folder), json.dumps(settings.as_dict())]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.0005)


def kill_again_and_again(settings: TrainConfig, folder: Path, kills: int) -> tuple[int, int]:
    """Start and kill until it was killed so often, then let it end; kills in all, and those in the midst of writing."""
    draw = random.Random(0)
    done = in_writing = 0
    while done < kills:
        process = start(settings, folder)
        if done % 2:  # wait until a checkpoint is being written; else any moment
            wait_for(lambda: any(folder.glob(".last*.part")), process)
        else:
            time.sleep(draw.uniform(0, 0.3))
        if process.poll() is not None:
            raise AssertionError(f"the run ended after {done} kills: it is too short for this test")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        done += 1
        in_writing += any(folder.glob(".last*.part"))
        if (folder / "last.vbw").exists():
            checkpoint.load(folder / "last.vbw")  # whole, whenever it was
    process = start(settings, folder)
    assert process.stdout.read() == "done\n" and process.wait() == 0
    process.stdout.close()
    return done, in_writing


def check(settings: TrainConfig, tmp_path: Path, kills: int, ending: Callable) -> None:
    trainer = Trainer(settings, tmp_path / "whole")
    trainer.run()
    trainer.close()
    done, in_writing = kill_again_and_again(settings, tmp_path / "killed", kills)
    assert done == kills and in_writing >= kills // 4
    assert ending(tmp_path / "whole") == ending(tmp_path / "killed")
    assert not list((tmp_path / "killed").glob(".*.part"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_three_kills(config: Make, tmp_path: Path, ending: Callable) -> None:
    check(config(steps=150, save_every=2, eval_every=50), tmp_path, kills=3, ending=ending)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_twenty_kills(config: Make, tmp_path: Path, ending: Callable) -> None:
    check(config("nvfp4-train", steps=300, save_every=2, eval_every=50), tmp_path, kills=20, ending=ending)
