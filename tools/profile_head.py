"""Where the head of the report's model goes under an all-FP4 recipe: milliseconds of each part, on one thread.

    python tools/profile_head.py [mxfp4 | nvfp4]

One piece of the batch as the loss is computed in: 256 tokens, 256 features, 50,000 classes; a step has four. The times
are the processor's, the least of several calls, so that what else runs on the machine counts for little.
"""

from __future__ import annotations

import os
import sys
import time

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import numpy as np

from vbw_np.definitions.panels import BY_ROWS
from vbw_np.engine import autograd
from vbw_np.kernels.fp4 import tensor_core as tc
from vbw_np.layers import fused_loss

ROWS, FEATURES, CLASSES = 256, 256, 50_000


def milliseconds(function, calls: int = 7) -> float:
    function()
    taken = []
    for _ in range(calls):
        start = time.thread_time()
        function()
        taken.append(time.thread_time() - start)
    return 1e3 * min(taken)


def main() -> None:
    fmt = sys.argv[1] if len(sys.argv) > 1 else "mxfp4"
    rowwise, hadamard = BY_ROWS[fmt], fmt == "nvfp4"
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal((n, FEATURES), dtype=np.float32) for n in (ROWS, CLASSES))
    weight /= np.float32(FEATURES**0.5)  # logits of about 1, as a model's: gradients in the range that training has
    targets = rng.integers(0, CLASSES, ROWS)
    empty = autograd.memory.empty
    logits, to_x, to_weight = empty((ROWS, CLASSES)), empty((ROWS, FEATURES)), empty((CLASSES, FEATURES))
    left, right = tc.quantize_left(x, rowwise), tc.quantize_right(weight, fmt)
    down = {"transpose": True, "hadamard": hadamard}
    back, inputs = tc.quantize_right(weight, fmt, transpose=True), tc.quantize_right(x, fmt, **down)
    gradient = tc.matmul(left, right).copy()
    fused_loss.cross_entropy_into_gradient.run(gradient, targets, 1 / ROWS)
    rows = tc.quantize_left(gradient, rowwise, seed=(1, 2))
    columns = tc.quantize_left(gradient, rowwise, seed=(1, 2), **down)
    to_weight[:] = 0
    parts = {
        "logits = x W^T, FP4": lambda: tc.matmul(left, right, logits),
        "loss, and the gradient in the logits' place": lambda: fused_loss.cross_entropy_into_gradient.run(
            logits, targets, 1 / ROWS
        ),
        "gradient rounded along rows, stochastically": lambda: tc.quantize_left(gradient, rowwise, seed=(1, 2)),
        "gradient rounded down columns, stochastically": lambda: tc.quantize_left(
            gradient, rowwise, seed=(1, 2), **down
        ),
        "to x, FP4": lambda: tc.matmul(rows, back, to_x),
        "to W, FP4, added up": lambda: tc.matmul(columns, inputs, to_weight, accumulate=True),
    }
    measured = {name: milliseconds(function) for name, function in parts.items()}
    plain = milliseconds(lambda: np.matmul(x, weight.T, out=logits))
    for name, taken in measured.items():
        print(f"{name:<46} {taken:7.2f} ms")
    total = sum(measured.values())
    print(f"{'together':<46} {total:7.2f} ms, {total / (3 * plain):.2f} of numpy's three products in float32")


if __name__ == "__main__":
    main()
