"""Where a training step of the report's model goes: seconds in each primitive and procedure, forward and backward.

    python tools/profile_step.py [RECIPE]
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")  # as the command vbw does, before NumPy is loaded

import numpy as np

from vbw_np.device import place
from vbw_np.engine import autograd, optim
from vbw_np.models.claude4 import Claude4

STEPS = 4  # measured, after one that is not
seconds: Counter[str] = Counter()
calls: Counter[str] = Counter()
depth = 0


def timed(label: str, function):
    def run(*args, **kwargs):
        global depth
        depth += 1
        start = time.perf_counter()
        result = function(*args, **kwargs)
        depth -= 1
        if depth == 0:  # what runs inside another operation counts for that one
            seconds[label] += time.perf_counter() - start
            calls[label] += 1
        return result

    return run


def main() -> None:
    recipe = sys.argv[1] if len(sys.argv) > 1 else "fp32"
    plain = autograd.twin.Twinned.run

    def run(self, *args, **kwargs):
        result = timed(f"forward  {self.name}", lambda: plain(self, *args, **kwargs))()
        if not isinstance(self, autograd.Primitive) or depth:
            return result
        output, vjp = result
        label = f"backward {self.name}"
        return output, timed(label, vjp) if callable(vjp) else tuple(timed(label, f) for f in vjp)

    autograd.twin.Twinned.run = run
    model = Claude4()
    place(model, recipe)
    optimizer = optim.Adam(model.parameters())
    rng = np.random.default_rng(0)
    for step in range(STEPS + 1):
        if step == 1:
            seconds.clear()
            calls.clear()
            start = time.perf_counter()
        optimizer.zero_grad()
        model.loss(rng.integers(0, model.config.vocab_size, (8, 128))).backward()
        optimizer.step()
    whole = (time.perf_counter() - start) / STEPS
    print(f"{recipe}: {whole:.3f} s a step, {sum(seconds.values()) / STEPS:.3f} s of it in these operations")
    for label, total in seconds.most_common(24):
        print(f"{label:<36} {1e3 * total / STEPS:8.1f} ms {calls[label] // STEPS:5d} calls")


if __name__ == "__main__":
    main()
