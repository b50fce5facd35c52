"""FP8 products summed as Hopper and Blackwell sum: the kernel against its definition, bit for bit."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from vbw_np.definitions.fp8 import UNITS, matmul_fp8
from vbw_np.definitions.fp8_operands import ELEMENTS, Fp8Operand, from_packed, transposed_from_packed
from vbw_np.formats import get_format, quantize
from vbw_np.formats.accumulate import ACCUMULATORS, dot
from vbw_np.kernels.fp8 import sums

SHAPES = ((1, 1, 7), (5, 33, 96), (67, 18, 160), (6, 20, 1000))
CASES = ("any", "one sign", "zeros", "subnormal", "cancel", "large first", "small first", "full")
PAIRS = (("e4m3", "e4m3"), ("e5m2", "e4m3"), ("e5m2", "e5m2"))


def codes(rng: np.random.Generator, element: str, shape: tuple[int, int], case: str) -> np.ndarray:
    """Finite codes; every exponent is as likely as any other but where the case says so."""
    record = ELEMENTS[element]
    found = rng.integers(0, record.max_code + 1, shape).astype(np.uint8)
    if case != "one sign":
        found |= rng.integers(0, 2, shape).astype(np.uint8) << 7
    if case == "zeros":
        found[rng.random(shape) < 0.7] &= 0x80
        found[:, : shape[1] // 2] &= 0x80
    elif case == "subnormal":
        found &= np.uint8(0x80 | (1 << record.mantissa_bits) - 1)
    elif case == "large first":
        found[:, :3] = found[:, :3] & 0x80 | np.uint8(record.max_code)
    elif case == "full":  # the largest significand of one exponent, one sign a row: sums as large as they get
        found[:] = record.max_code - (1 << record.mantissa_bits) | (1 << record.mantissa_bits) - 1
        found[::2] |= 0x80
    elif case == "small first":
        found[:, : shape[1] // 2] &= 0x87
    return found


def operands(pair: tuple[str, str], shape: tuple[int, int, int], case: str, blocked: bool = False) -> list[Fp8Operand]:
    m, n, k = shape
    rng = np.random.default_rng([m, k, len(case), *map(ord, case[:2])])
    left, right = codes(rng, pair[0], (m, k), case), codes(rng, pair[1], (n, k), case)
    if case == "cancel":  # what an odd element adds, the even one before it took away, but for the last
        for side, flip in ((left, 0x80), (right, 0)):
            side[:, 1::2] = side[:, : k // 2 * 2 : 2] ^ flip
    blocks = -(-k // 128) if blocked else 1
    scales = [np.exp(rng.standard_normal((rows, blocks))).astype(np.float32) for rows in (m, n)]
    return [
        Fp8Operand(np.ascontiguousarray(c), s, e, blocked) for c, s, e in zip((left, right), scales, pair, strict=True)
    ]


def both(left: Fp8Operand, right: Fp8Operand, **options: object) -> tuple[np.ndarray, np.ndarray]:
    shape = left.shape[0], right.shape[0]
    made = sums.matmul_fp8(left, right, np.full(shape, np.nan, np.float32), **options)
    return made, matmul_fp8.reference(left, right, np.empty(shape, np.float32), **options)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", UNITS)
def test_the_kernel_gives_the_definitions_bits(kind: str, case: str) -> None:
    for pair in PAIRS:
        for shape in SHAPES:
            for promote in (0, 32, 128):
                left, right = operands(pair, shape, case)
                got, wanted = both(left, right, sums=kind, promote=promote)
                np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32), err_msg=f"{pair} {shape}")


@pytest.mark.parametrize("kind", UNITS)
def test_blocks_are_scaled_on_the_way(kind: str) -> None:
    for promote in (32, 64, 128):
        for shape in (*SHAPES, (3, 5, 128)):
            (left, right), (whole, _) = (operands(PAIRS[0], shape, "any", blocked) for blocked in (True, False))
            for x, w in ((left, right), (whole, right), (left, whole_right(right))):
                got, wanted = both(x, w, sums=kind, promote=promote)
                np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32), err_msg=f"{shape}")


def whole_right(right: Fp8Operand) -> Fp8Operand:
    return Fp8Operand(right.codes, np.ascontiguousarray(right.scales[:, :1]), right.element)


def test_a_product_is_the_tensor_cores_dot_and_two_scales() -> None:
    """Held to `formats.accumulate.dot`, which hardware's rows are held to, one output at a time."""
    left, right = operands(("e5m2", "e4m3"), (4, 3, 100), "any")
    for kind, unit in UNITS.items():
        assert ACCUMULATORS[unit].terms == sums.STEP
        got, _ = both(left, right, sums=kind)
        for m in range(4):
            for n in range(3):
                total = dot(unit, left.codes[m], right.codes[n], a_format="e5m2", b_format="e4m3")
                assert got[m, n] == left.scales[m, 0] * (right.scales[n, 0] * total)


def test_hopper_stops_counting_where_promotion_goes_on() -> None:
    ones = Fp8Operand(np.full((1, 1 << 15), 0x38, np.uint8), np.ones((1, 1), np.float32), "e4m3")
    found = [float(both(ones, ones, promote=promote)[0][0, 0]) for promote in (0, 128)]
    assert found == [1 << 14, 1 << 15]
    assert float(both(ones, ones, sums="blackwell")[0][0, 0]) == 1 << 15


def test_accumulate_adds_and_threads_change_nothing() -> None:
    left, right = operands(PAIRS[0], (130, 40, 96), "any")
    base = np.random.default_rng(0).standard_normal((130, 40)).astype(np.float32)
    product = sums.matmul_fp8(left, right, np.empty_like(base))
    added = base.copy()
    assert sums.matmul_fp8(left, right, added, accumulate=True) is added
    np.testing.assert_array_equal(added, base + product)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(sums.matmul_fp8(left, right, np.empty_like(base)), product)
    finally:
        numba.set_num_threads(before)


def test_nan_and_inf_are_left_to_the_definition() -> None:
    left, right = operands(("e5m2", "e4m3"), (3, 4, 64), "any")
    left.codes[1, 5], left.codes[2, 7] = 0x7C, 0x7F  # Inf, NaN
    out = np.empty((3, 4), np.float32)
    assert sums.matmul_fp8(left, right, out) is NotImplemented
    matmul_fp8(left, right, out)
    assert np.isfinite(out[0]).all() and np.isnan(out[2]).all() and not np.isfinite(out[1]).any()


@pytest.mark.parametrize("name", ["tensor", "row", "1x128", "128x128"])
@pytest.mark.parametrize("family", ["fp8", "fp8-e5m2"])
def test_packed_matrices_become_operands_of_the_same_numbers(family: str, name: str) -> None:
    x = np.random.default_rng(3).standard_normal((150, 200)).astype(np.float32)
    packed = quantize(x, f"{family}-{name}", measure=False)
    operand = from_packed(packed)
    np.testing.assert_array_equal(operand.dequantize(), packed.dequantize())
    assert operand.blocked == ("128" in name) and operand.nbytes == operand.codes.nbytes + operand.scales.nbytes
    if name == "128x128":
        np.testing.assert_array_equal(transposed_from_packed(packed).dequantize(), packed.dequantize().T)
    else:
        with pytest.raises(ValueError, match="quantize the transpose"):
            transposed_from_packed(packed)


def test_what_does_not_belong_is_refused() -> None:
    left, right = operands(PAIRS[0], (3, 4, 256), "any")
    blocked = operands(PAIRS[0], (3, 4, 256), "any", blocked=True)[0]
    out = np.empty((3, 4), np.float32)
    short = operands(PAIRS[0], (3, 4, 96), "any")[1]
    for call, match in (
        (lambda: matmul_fp8(left, right, out, sums="ada"), "hopper or blackwell"),
        (lambda: matmul_fp8(left, short, out), "last axis"),
        (lambda: matmul_fp8(left, right, out, promote=48), "whole steps"),
        (lambda: matmul_fp8(blocked, right, out), "outside the core"),
        (lambda: matmul_fp8(blocked, right, out, promote=256), "outside the core"),
        (lambda: sums.matmul_fp8(left, right, out.T), "C-contiguous"),
        (lambda: from_packed(quantize(np.ones((4, 32), np.float32), get_format("mxfp8-e4m3"))), "plain float32 scales"),
        (lambda: from_packed(quantize(np.ones((4, 32), np.float32), get_format("int8-row"))), "E4M3|e4m3"),
        (lambda: Fp8Operand(left.codes, left.scales, "e2m1"), "e4m3 or e5m2"),
        (lambda: Fp8Operand(left.codes, left.scales, "e4m3", True), "need scales"),
        (lambda: Fp8Operand(left.codes.T, left.scales, "e4m3"), "contiguous"),
        (lambda: Fp8Operand(left.scales, left.scales, "e4m3"), "uint8"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
