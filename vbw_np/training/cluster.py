"""A comparison on a Dask cluster: each run is a task, and a run whose worker dies goes on elsewhere.

Nothing here starts machines: the cluster exists, and its scheduler has an address. Where the workers share the output
folder (a network file system, or one machine), a run that is given to another worker goes on from its last checkpoint;
where they do not, it begins again. The bits are the same either way, if the workers' libraries and processors are.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .compare import Run, execute
from .config import TrainConfig

RETRIES = 3
_PATIENCE = 120.0  # seconds that a task waits for a folder that a dying worker still holds
_one_at_a_time = threading.Lock()  # a worker with several threads: runs share the process's random states with nobody


def run_task(config: dict[str, Any], folder: str, out: str) -> dict[str, Any]:
    """One run on a worker; what `compare.execute` returns."""
    from .loop import FolderInUse

    run = Run(TrainConfig.from_dict(config), folder)
    with _one_at_a_time:
        Path(out).mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return execute(run, out, progress=False)
            except FolderInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise UserError(
            "--dask needs the package distributed, which is not installed; it is the extra 'cluster': "
            "python -m pip install --editable '.[cluster]'"
        ) from None
    try:
        client = Client(address, timeout="15s", set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"--dask {address}: no scheduler answers there ({error}); start one (dask scheduler) and name its address, "
            "such as tcp://127.0.0.1:8786"
        ) from error
    try:
        yield client
    finally:
        client.close()


def compare_on_cluster(
    runs: Sequence[Run], out: str, address: str, *, tell: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """Do the runs on the cluster whose scheduler is at `address`; the results in the order of the runs.

    Raises
    ------
    UserError
        The extra is missing, nobody answers, there are no workers, or a run failed; names it.
    """
    folder = str(Path(out).absolute())
    results: dict[int, dict[str, Any]] = {}
    with _client(address) as client:
        workers = client.scheduler_info()["workers"]
        if not workers:
            raise UserError(f"--dask {address}: the cluster has no workers; start some (dask worker {address})")
        if tell is not None:
            tell(f"{len(runs)} runs on {len(workers)} workers of {address}")
        from distributed import as_completed

        futures = {
            client.submit(run_task, run.config.as_dict(), run.folder, folder, pure=False, retries=RETRIES): number
            for number, run in enumerate(runs)
        }
        for future in as_completed(list(futures), loop=client.loop):
            number = futures[future]
            run = runs[number]
            label = f"{run.config.recipe.name}, seed {run.config.seed}"
            try:
                results[number] = future.result()
            except Exception as error:  # whatever a worker raised, or that too many workers died
                for other in futures:
                    other.cancel()
                raise UserError(f"--dask {address}: the run {label} failed: {error}") from error
            if tell is not None:
                tell(f"{len(results)}/{len(runs)} done: {label}, on {results[number]['host']}")
    return [results[number] for number in range(len(runs))]
