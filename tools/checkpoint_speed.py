"""How fast checkpoints are inspected, decoded and quantized here, beside the containers' own libraries.

    python -m pip install --editable ".[checkpoints]"
    python tools/checkpoint_speed.py FILE.gguf|FILE.safetensors [--runs 3]

Prints the least wall time and processor time of several runs, each in a process of its own where it starts Python.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from vbw_np.checkpoints import find_weights, open_checkpoint  # noqa: E402

try:
    import gguf
    import safetensors.numpy
except ImportError as error:
    sys.exit(f'{error.name} is missing: python -m pip install --editable ".[checkpoints]"')


def least(work: Callable[[], object], runs: int) -> tuple[float, float]:
    """The least wall time and processor time (children included) of several runs, in seconds."""
    walls, processors = [], []
    for _ in range(runs):
        wall, used = time.perf_counter(), processor()
        work()
        walls.append(time.perf_counter() - wall)
        processors.append(processor() - used)
    return min(walls), min(processors)


def processor() -> float:
    """Seconds of processor time of this process and of those that it waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def command(*words: str) -> None:
    """`vbw`, in a process of its own."""
    argv = [sys.executable, "-m", "vbw_np", *words]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)


def private_memory(*words: str) -> tuple[float, float]:
    """The most memory that `vbw` and Python alone have of their own, in MB: what is not a mapped file. Linux only."""
    peaks = []
    for argv in ([sys.executable, "-m", "vbw_np", *words], [sys.executable, "-c", "import numpy"]):
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL) as running:
            peak = 0
            while running.poll() is None:
                lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
                peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
                time.sleep(0.002)
        peaks.append(peak * 1024 / 1e6)
    return peaks[0], peaks[1]


def quantized(path: Path) -> None:
    """`vbw quantize` into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        command("quantize", str(path), "--out", f"{scratch}/out")


def requantized(path: Path) -> None:
    """`vbw convert --lossy` into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        command("convert", str(path), f"{scratch}/out", "--to", "modelopt", "--lossy", "nvfp4")


def decoded(path: Path) -> None:
    """Every weight as float32, here."""
    for weight in find_weights(open_checkpoint(path)).values():
        if not weight.is_plain or weight.is_float:
            weight.float32()


def decoded_by_gguf(path: Path) -> None:
    """Every tensor as float32, by the library."""
    for tensor in gguf.GGUFReader(path).tensors:
        gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    path = args.file.resolve()
    work: dict[str, Callable[[], object]] = {
        "vbw inspect (the whole command)": lambda: command("inspect", str(path)),
        "open, names and metadata": lambda: find_weights(open_checkpoint(path)),
        "every tensor as float32": lambda: decoded(path),
    }
    if path.suffix == ".gguf":
        work["vbw convert to ModelOpt's NVFP4 (the whole command)"] = lambda: requantized(path)
        work["gguf: open, names and metadata"] = lambda: gguf.GGUFReader(path)
        work["gguf: every tensor as float32, opening included"] = lambda: decoded_by_gguf(path)
    else:
        work["safetensors: every tensor read"] = lambda: safetensors.numpy.load_file(path)
        work["vbw quantize to NVFP4 (the whole command)"] = lambda: quantized(path)
    print(f"{path.name}, {path.stat().st_size:,} bytes; least of {args.runs} runs")
    print(f"{'':50} {'wall s':>8} {'cpu s':>8}")
    for name, run in work.items():
        wall, used = least(run, args.runs)
        print(f"{name:50} {wall:8.2f} {used:8.2f}", flush=True)
    if path.suffix != ".gguf" and Path("/proc/self/status").exists():
        largest = max(tensor.nbytes for tensor in open_checkpoint(path).tensors.values()) / 1e6
        with tempfile.TemporaryDirectory() as scratch:
            most, alone = private_memory("quantize", str(path), "--out", f"{scratch}/out")
        print(f"vbw quantize: {most:.0f} MB of its own at most (Python with NumPy: {alone:.0f}); "
              f"the largest tensor has {largest:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
