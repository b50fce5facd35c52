"""A comparison on two Dask workers, one of them killed half-way: the same table as on one machine, nothing lost."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vbw_np.device.changes import get_recipes
from vbw_np.errors import UserError
from vbw_np.training import checkpoint, cluster, compare
from vbw_np.training.config import TrainConfig

Make = Callable[..., TrainConfig]


def without_times(table: list[compare.Row]) -> list[compare.Row]:
    return [dataclasses.replace(row, step_seconds=0.0) for row in table]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_worker_is_killed_half_way(config: Make, tmp_path: Path, ending: Callable) -> None:
    distributed = pytest.importorskip("distributed")
    settings = config(steps=200, save_every=2, eval_every=50)
    runs = compare.plan(settings, get_recipes("fp32,nvfp4"), [0, 1])
    here = compare.compare(runs, tmp_path / "here")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as workers:
        with distributed.Client(workers) as client:
            victim = next(iter(client.run(os.getpid).values()))
        killed = threading.Thread(target=_kill_half_way, args=(tmp_path / "there", victim))
        killed.start()
        lines: list[str] = []
        there = cluster.compare_on_cluster(runs, tmp_path / "there", workers.scheduler_address, tell=lines.append)
        killed.join()
    assert lines[0].startswith("4 runs on 2 workers") and len(lines) == 5
    assert without_times(compare.rows(here)) == without_times(compare.rows(there))
    for run in runs:
        assert ending(tmp_path / "here" / run.folder) == ending(tmp_path / "there" / run.folder)


def _kill_half_way(out: Path, pid: int) -> None:
    """Kill -9 when two runs have a checkpoint with something to lose."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        steps = [checkpoint.load_meta(last)["step"] for last in out.glob("*/last.vbw")]
        if sum(10 <= step < 200 for step in steps) >= 2:
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.01)


def test_without_a_scheduler_or_the_extra(config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name.startswith("distributed"):
            raise ImportError(name)
        return real(name, *rest, **named)

    runs = compare.plan(config(), get_recipes("fp32"), [0])
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"it is the extra 'cluster'"):
        patch.setattr(builtins, "__import__", without)
        cluster.compare_on_cluster(runs, str(tmp_path), "tcp://127.0.0.1:1")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_nobody_answers(config: Make, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    runs = compare.plan(config(), get_recipes("fp32"), [0])
    with pytest.raises(UserError, match="no scheduler answers there"):
        cluster.compare_on_cluster(runs, str(tmp_path), "tcp://127.0.0.1:1")
