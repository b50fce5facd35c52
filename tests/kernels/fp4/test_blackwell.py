"""Products summed as Blackwell sums: the kernel against its definition, bit for bit."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from vbw_np.definitions.fp4_products import UNIT, blackwell_reference
from vbw_np.definitions.panels import BY_ROWS
from vbw_np.formats.accumulate import get_accumulator
from vbw_np.kernels.fp4 import blackwell
from vbw_np.kernels.fp4 import tensor_core as tc

FMTS = ("nvfp4", "mxfp4")
SHAPES = ((1, 1, 32), (5, 7, 96), (34, 50, 224), (17, 33, 1024))
CASES = ("gaussian", "whole range", "cancel", "sparse", "subnormal scales", "large first", "small first")


def operands(fmt: str, shape: tuple[int, int, int], case: str):
    m, n, k = shape
    rng = np.random.default_rng([len(case), len(fmt), k, *fmt.encode()])
    block = {"nvfp4": 16, "mxfp4": 32}[fmt]
    middle, spread = (56, 24) if fmt == "nvfp4" else (127, 6)
    sides = []
    for rows in (m, n):
        codes = rng.integers(0, 256, (rows, k // 2)).astype(np.uint8)
        scales = rng.integers(middle - spread, middle + spread, (rows, k // block)).astype(np.uint8)
        if case == "whole range":
            scales = rng.integers(0, 127 if fmt == "nvfp4" else 255, scales.shape).astype(np.uint8)
        elif case == "sparse":
            codes[rng.random(codes.shape) < 0.9] = 0
            scales[rng.random(scales.shape) < 0.3] = 0
        elif case == "subnormal scales":
            scales = rng.integers(0, 10 if fmt == "nvfp4" else 70, scales.shape).astype(np.uint8)
        elif case == "large first":
            scales[:, 0] = 126 if fmt == "nvfp4" else 127 + 20
        elif case == "small first":  # and with many bits, which a later step's exponents push out
            half = scales.shape[1] // 2
            scales[:, :half] = (
                rng.integers(1, 24, (rows, half)) if fmt == "nvfp4" else rng.integers(104, 115, (rows, half))
            )
            scales[:, half:] = 120 if fmt == "nvfp4" else 127
        sides.append((codes, scales))
    if case == "cancel":  # the second half of a row of x takes back what the first gave
        (x, xs), (w, ws) = sides
        half = k // (2 * block)
        x[:, half * block // 2 : half * block] = x[:, : half * block // 2] ^ 0x88
        w[:, half * block // 2 : half * block] = w[:, : half * block // 2]
        for s in (xs, ws):
            s[:, half : 2 * half] = s[:, :half]
    elif case == "small first":  # the large exponents come from groups that cancel, and nothing hides what is cut off
        for (codes, scales), flip in zip(sides, (0x88, 0), strict=True):
            at = scales.shape[1] // 2 * block // 2
            low = codes[:, at:] & 15
            codes[:, at:] = low | low << 4 ^ (flip & 0x80)
    (x, xs), (w, ws) = sides
    return tc.left_from_packed(x, xs, fmt, rng.random(m) + 0.5), tc.right_from_packed(w, ws, fmt, 0.7)


def bits(x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), np.float32(np.nan), x).view(np.uint32)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fmt", FMTS)
def test_the_kernel_gives_the_definitions_bits(fmt: str, case: str) -> None:
    for shape in SHAPES:
        left, right = operands(fmt, shape, case)
        got, wanted = blackwell.matmul(left, right), blackwell_reference(left, right)
        np.testing.assert_array_equal(bits(got), bits(wanted), err_msg=f"{shape}")


@pytest.mark.parametrize("fmt", FMTS)
def test_the_slow_way_gives_the_same_bits(fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CASES:
        left, right = operands(fmt, (5, 18, 160), case)
        fast = blackwell.matmul(left, right)
        with monkeypatch.context() as patch:
            patch.setattr(blackwell, "fast_isa", lambda: None)
            np.testing.assert_array_equal(bits(blackwell.matmul(left, right)), bits(fast), err_msg=case)


def test_the_slow_way_names_no_instruction_of_avx2() -> None:
    """Machines without AVX2 compile it: a branch that is never taken there would still have to be compiled."""
    names, new = set(), {"_plain_product"}
    while new:
        names |= new
        kernels = [getattr(blackwell, name, None) for name in new]
        functions = [getattr(kernel, "function", getattr(kernel, "py_func", None)) for kernel in kernels]
        new = {name for f in functions if f is not None for name in f.__code__.co_names} - names
    assert "_exact_step" in names
    assert not names & {"step_tile", "decode"}


def test_scales_over_the_whole_range_make_most_outputs_differ_from_todays() -> None:
    left, right = operands("nvfp4", (34, 50, 1024), "whole range")
    assert (blackwell.matmul(left, right) != tc.matmul(left, right)).mean() > 0.85


def test_gaussian_data_give_todays_bits() -> None:
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal((40, 1024)).astype(np.float32) for _ in range(2))
    x *= np.exp(rng.standard_normal(1024)).astype(np.float32)
    for fmt in FMTS:
        left, right = tc.quantize_left(x, BY_ROWS[fmt]), tc.quantize_right(w, fmt)
        np.testing.assert_array_equal(blackwell.matmul(left, right), tc.matmul(left, right))


@pytest.mark.parametrize("fmt", FMTS)
def test_a_nan_scale_makes_its_row_or_column_nan(fmt: str) -> None:
    left, right = operands(fmt, (6, 20, 96), "gaussian")
    left.scales[2, 1] = np.nan
    right.scales[1, 0, 3] = 0x7F if fmt == "nvfp4" else 0xFF
    got = blackwell.matmul(left, right)
    wanted = np.zeros((6, 20), bool)
    wanted[2], wanted[:, 19] = True, True
    np.testing.assert_array_equal(np.isnan(got), wanted)


def test_accumulate_adds_and_threads_change_nothing() -> None:
    left, right = operands("nvfp4", (300, 40, 128), "whole range")
    base = np.random.default_rng(0).standard_normal((300, 40)).astype(np.float32)
    product = blackwell.matmul(left, right)
    added = base.copy()
    assert blackwell.matmul(left, right, added, accumulate=True) is added
    np.testing.assert_array_equal(added, base + product)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(blackwell.matmul(left, right), product)
    finally:
        numba.set_num_threads(before)


def test_bad_operands_are_refused() -> None:
    left, right = operands("nvfp4", (4, 4, 64), "gaussian")
    other = operands("mxfp4", (4, 4, 64), "gaussian")[1]
    for call in (
        lambda: blackwell.matmul(left, other),
        lambda: blackwell.matmul(left, operands("nvfp4", (4, 4, 96), "gaussian")[1]),
        lambda: blackwell.matmul(left, right, np.empty((4, 5), np.float32)),
        lambda: blackwell.matmul(left, right, accumulate=True),
    ):
        with pytest.raises(ValueError):
            call()


def test_the_kernels_numbers_are_the_records() -> None:
    unit = get_accumulator(UNIT)
    assert (unit.terms, unit.group) == (blackwell.STEP, blackwell.GROUP)
    assert (unit.fraction_bits, unit.zero_exponent) == (blackwell.FRACTION_BITS, blackwell.ZERO_EXPONENT)
