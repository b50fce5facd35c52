"""Every definition over packed numbers against its twin, bit for bit; the whole without twins, and without numba."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import vbw_np.kernels  # noqa: F401  the twins
from vbw_np import definitions, formats
from vbw_np.definitions import fp8_operands, support
from vbw_np.definitions.panels import LeftOperand, RightOperand
from vbw_np.engine import autograd
from vbw_np.formats import FORMATS, get_format
from vbw_np.simd import jit

needs_jit = pytest.mark.skipif(not jit.enabled(), reason="numba is switched off")
WEIGHTS = [name for name, fmt in FORMATS.items() if support.weights(fmt).kernel and fmt.fine is None]
LEFT = [name for name, fmt in FORMATS.items() if support.family(fmt).kernel and fmt.fine is None]


def matrix(rows: int = 40, columns: int = 100, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def arrays_of(made: object) -> list[np.ndarray]:
    """What a result holds: itself, or its arrays, but no rows of an operand that may hold anything.

    Of a right operand the integers that are multiplied: in those a zero has no sign, and fused quantizers write none.
    """
    if isinstance(made, LeftOperand):
        rows = made.shape[0]
        return [made.values[:rows], made.scales[:rows], made.factors[:rows], made.sums[:rows]]
    if isinstance(made, RightOperand):
        return [made.values(), made.scales, np.asarray(made.factor)]
    if isinstance(made, formats.PackedTensor):
        parts = made.codes, made.scales, made.tensor_scale, made.fine
        return [np.asarray(part) for part in parts if part is not None]
    return [np.asarray(made)]


def both(name: str, *args: object, **options: object) -> None:
    function = definitions.DEFINITIONS[name]
    made = []
    for on in (True, False):
        with autograd.use_twins(on):
            copies = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
            made.append(arrays_of(function(*copies, **options)))
    assert function.twin is not None
    for ours, theirs in zip(*made, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=f"{name} {options}")


def quantizing() -> None:
    for fmt in FORMATS.values():
        both("quantize", matrix(48, 256), fmt)
        if fmt.fine is None and isinstance(fmt.element, formats.ElementFormat):
            both("quantize", matrix(48, 256), fmt, ties="stochastic", seed=3, stream=9)
            packed = formats.quantize(matrix(48, 256), fmt, measure=False)
            both("quantize", 1.5 * matrix(48, 256), fmt, reuse=packed)


def decoding() -> None:
    for fmt in FORMATS.values():
        both("dequantize", formats.quantize(matrix(48, 256), fmt, measure=False))


def measuring() -> None:
    x = matrix()
    twin, plain = definitions.relative_error.twin(x, x + 1), definitions.relative_error.reference(x, x + 1)
    assert abs(twin - plain) <= 1e-12 * plain  # sums in float64, in another order
    both("relative_error", x, x)


def operands(name: str, known: list[str]) -> None:
    """Those that are fused are quantized in every way by `test_tensor_core`: here one of each way to get there."""
    for fmt in map(get_format, known):
        ways = [{}, {"hadamard": True}]
        if fmt.name in ("nvfp4", "mxfp4", "nvfp4-row-scaled"):
            ways += [{"transpose": True}]
        for options in ways:
            both(name, matrix(48, 96), fmt, **options)
    if name == "quantize_left":
        both(name, matrix(48, 96), get_format("nvfp4"), seed=(3, 4), hadamard=True)


def laying_out() -> None:
    for fmt in map(get_format, WEIGHTS):
        packed = formats.quantize(matrix(48, 96), fmt, measure=False)
        both("right_operand", packed)
        if fmt.block_rows == fmt.block:
            both("transposed_right_operand", packed)
        else:
            for on in (True, False):
                with autograd.use_twins(on), pytest.raises(ValueError, match="not in the same format"):
                    definitions.transposed_right_operand(packed)


def multiplying() -> None:
    for name in ("nvfp4", "mxfp4"):
        right = definitions.quantize_right(matrix(30, 100, 2), get_format(name))
        left = definitions.quantize_left(matrix(), get_format(name))
        for accumulate in (False, True):
            both("matmul", left, right, matrix(40, 30, 5), accumulate=accumulate)
            both("matmul_blackwell", left, right, matrix(40, 30, 5), accumulate=accumulate)
        both("matvec", matrix(3, 100), right, np.empty((3, 30), np.float32))
        both("matvec", matrix(40, 100), right, np.empty((40, 30), np.float32))
    eight = definitions.int8_operand(formats.quantize(matrix(30, 100, 2), "q8_0"))
    both("matvec", matrix(3, 100), eight, np.empty((3, 30), np.float32))


def multiplying_fp8() -> None:
    for names in (("fp8-row", "fp8-e5m2-tensor"), ("fp8-1x128", "fp8-128x128")):
        sides = (matrix(40, 200), matrix(30, 200, 2))
        left, right = (
            fp8_operands.from_packed(formats.quantize(x, name, measure=False))
            for x, name in zip(sides, names, strict=True)
        )
        for options in ({"sums": "hopper"}, {"sums": "blackwell", "accumulate": True}):
            both("matmul_fp8", left, right, matrix(40, 30, 5), promote=128, **options)


CASES: dict[str, Callable[[], None]] = {
    "quantize": quantizing,
    "dequantize": decoding,
    "relative_error": measuring,
    "quantize_left": lambda: operands("quantize_left", LEFT),
    "quantize_right": lambda: operands("quantize_right", WEIGHTS),
    "right_operand": laying_out,
    "transposed_right_operand": laying_out,
    "matmul": multiplying,
    "matmul_blackwell": multiplying,
    "matvec": multiplying,
    "matmul_fp8": multiplying_fp8,
}


@needs_jit
@pytest.mark.parametrize("name", definitions.DEFINITIONS)
def test_every_twin_gives_the_bits_of_its_definition(name: str) -> None:
    assert name in CASES, f"{name} needs a case in CASES, which calls it as it is used"
    CASES[name]()


LARGEST = np.finfo(np.float32).max
EDGES = {
    "zeros": np.zeros((16, 96), np.float32),
    "negative zeros": -np.zeros((16, 96), np.float32),
    "subnormal": (np.random.default_rng(0).integers(-4000, 4000, (16, 96)) * 2.0**-149).astype(np.float32),
    "the least": np.full((16, 96), 2.0**-149, np.float32),
    "the largest": np.full((16, 96), LARGEST),
    "the largest among ones": np.where(np.arange(1536).reshape(16, 96) == 77, LARGEST, np.float32(1)),
    "zero rows": np.vstack([np.zeros((15, 96)), np.full((17, 96), 3e38)]).astype(np.float32),
    "one column": matrix(33, 1),
    "one element": np.full((1, 1), 0.3, np.float32),
}


@needs_jit
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("fmt", ["nvfp4", "nvfp4-row-scaled", "nvfp4-headroom", "mxfp4", "mxfp4-rceil"])
def test_operands_and_products_at_the_edges(fmt: str) -> None:
    """The twins' bits are the definitions', Inf and NaN of a second level that overflows included."""
    record, right_record = get_format(fmt), get_format(fmt.replace("-row-scaled", ""))
    for x in EDGES.values():
        both("quantize_left", x, record)
        both("quantize_left", x, record, transpose=True)
        both("quantize_right", x, right_record)
        left, right = definitions.quantize_left(x, record), definitions.quantize_right(x, right_record)
        both("matmul", left, right, np.zeros((len(x), len(x)), np.float32))
        if fmt in ("nvfp4", "mxfp4"):
            both("matvec", x[:3], right, np.empty((min(3, len(x)), len(x)), np.float32))


TRAIN = """
import numpy as np
from vbw_np.device import RECIPES, place
from vbw_np.engine import autograd, no_grad, optim
from vbw_np.models.claude4 import Claude4, Claude4Config

def run(recipe, **options):
    model = Claude4(Claude4Config(vocab_size=61, d_model=32, hidden=48), seed=3)
    device = place(model, recipe, mode="auto", **options)
    adam = optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in range(3):
        loss = model.loss(np.random.default_rng(step).integers(0, 61, (2, 12)))
        loss.backward()
        adam.step()
        adam.zero_grad()
        losses.append(float(loss.data))
    model.eval()
    with no_grad():
        model.loss(np.zeros((1, 9), int))
    device.report()
    return losses

def everything():
    return {name: run(name) for name in RECIPES} | {"packed": run("nvfp4", compute="packed")}
"""

UNTWINNED = """
with autograd.use_twins(False):
    losses = everything()
from vbw_np.simd import jit
assert jit.compiled_count() == 0, jit.compiled_count()
print(losses)
"""

BLOCKED = """
import sys
sys.modules["numba"] = sys.modules["llvmlite"] = None
"""


def output_of(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | environment, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_without_twins_nothing_compiled_is_called_and_without_numba_everything_trains() -> None:
    """Three steps and an evaluation under every recipe: the same losses with twins off, and with no numba at all."""
    without_twins = output_of(TRAIN + UNTWINNED)
    assert "nvfp4-train" in without_twins
    assert output_of(BLOCKED + TRAIN + "print(everything())") == without_twins
