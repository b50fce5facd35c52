"""`vbw bench kernels` of this checkout and of another one, in turns: is any kernel slower than before?

    git worktree add ../before v1.0 && python tools/compare_kernels.py ../before

Two processes hold the two versions and make each case together; one measures while the other waits. A line a case: the
times of before divided by those of now (above 1: faster now), once by the clock and once by the CPU time of all
threads, which a busy machine disturbs less. Each is the ratio of the smallest of some rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

WORKER = """
import sys, time
from vbw_np.bench import kernels
quick, only = sys.argv[1] == "1", sys.argv[2]
out, sys.stdout = sys.stdout, sys.stderr
for case in kernels.cases(quick):
    if only not in case.group and only not in case.name:
        continue
    for _ in range(3):
        case.ours()
    begin = time.perf_counter()
    case.ours()
    repeat = max(1, round(0.02 / (time.perf_counter() - begin)))
    print(f"{case.group}: {case.name}", file=out, flush=True)
    for line in sys.stdin:
        if line == "next\\n":
            break
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeat):
            case.ours()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(wall / repeat, cpu / repeat, file=out, flush=True)
print(file=out, flush=True)
"""


def start(root: Path, python: str, arguments: argparse.Namespace) -> subprocess.Popen:
    """A process that measures one checkout."""
    away = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    environment = {k: v for k, v in os.environ.items() if k not in away} | {"PYTHONPATH": str(root)}
    return subprocess.Popen(
        [python, "-c", WORKER, str(int(arguments.quick)), arguments.only],
        cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def ask(process: subprocess.Popen, line: str | None = None) -> str:
    """One answer, after a question if there is one."""
    if line is not None:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--python", default=sys.executable, help="that runs both (this one)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="the cases whose group or name contains this")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    arguments = parser.parse_args()
    both = [start(root.resolve(), arguments.python, arguments) for root in (arguments.before, ROOT)]
    ratios = []
    print("  clock    CPU")
    while names := {ask(process) for process in both} - {""}:
        assert len(names) == 1, names
        samples = [[tuple(map(float, ask(p, "go").split())) for p in both] for _ in range(arguments.rounds)]
        before, now = (tuple(map(min, zip(*side, strict=True))) for side in zip(*samples, strict=True))
        ratios.append([b / n for b, n in zip(before, now, strict=True)])
        print("{:7.3f} {:6.3f}".format(*ratios[-1]), names.pop(), flush=True)
        for process in both:
            process.stdin.write("next\n")
            process.stdin.flush()
    print("{:7.3f} {:6.3f}".format(*map(statistics.geometric_mean, zip(*ratios, strict=True))), "geometric mean")
    return 0


if __name__ == "__main__":
    sys.exit(main())
