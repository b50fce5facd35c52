"""The float32 product: every instruction set and any number of threads give the bits of the definition in NumPy."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from vbw_np.engine import autograd
from vbw_np.kernels.fp32 import product
from vbw_np.kernels.fp32.intrinsics_fp32 import TILES
from vbw_np.simd import cpu

INSTRUCTION_SETS = [isa for isa in cpu.available() if isa in TILES]
pytestmark = pytest.mark.skipif(not INSTRUCTION_SETS, reason="needs fused multiply-adds")


def matrix(rows: int, columns: int, transposed: bool, seed: int) -> np.ndarray:
    """Normal numbers of both signs; C-contiguous, or the transpose of such a matrix."""
    made = np.random.default_rng(seed).standard_normal((columns, rows) if transposed else (rows, columns), np.float32)
    return made.T if transposed else made


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize(
    ("m", "length", "n"),
    [
        (96, 256, 256),  # whole tiles, one piece
        (333, 170, 77),  # results that end within tiles, a piece that ends within a vector
        (61, 545, 130),  # three pieces
        (2100, 40, 34),  # several chunks of rows
    ],
)
def test_every_instruction_set_gives_the_bits_of_the_definition(isa: str, m: int, length: int, n: int) -> None:
    for left in (False, True):
        for right in (False, True):
            x, y = matrix(m, length, left, 1), matrix(length, n, right, 2)
            expected = product.multiply_reference(x, y)
            out = np.full((m, n), np.nan, np.float32)
            assert product.multiply(x, y, out, isa=isa) is out
            assert np.array_equal(out, expected), (left, right)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_accumulating_adds_piece_by_piece(isa: str) -> None:
    x, y = matrix(90, 300, True, 1), matrix(300, 100, False, 2)
    out = before = matrix(90, 100, False, 3)
    expected = before + product.multiply_reference(x[:, :256], y[:256])
    expected += product.multiply_reference(x[:, 256:], y[256:])
    product.multiply(x, y, out, accumulate=True, isa=isa)
    assert np.array_equal(out, expected)


def test_bits_do_not_depend_on_threads_or_on_where_rows_begin() -> None:
    """Large enough to be written past the caches, and cut differently for each number of threads."""
    x, y = matrix(1000, 64, False, 1), matrix(64, 13_000, True, 2)
    aligned, odd = autograd.memory.empty((1000, 13_000)), autograd.memory.empty((1000, 13_001))
    product.multiply(x, y, aligned)
    found = [aligned]
    before = numba.get_num_threads()
    try:
        for threads in range(1, before + 1):
            numba.set_num_threads(threads)
            found.append(product.multiply(x, y, odd.reshape(-1)[1 : 1 + aligned.size].reshape(aligned.shape)).copy())
    finally:
        numba.set_num_threads(before)
    assert all(np.array_equal(aligned, other) for other in found)
    assert np.array_equal(aligned[500:520], product.multiply_reference(x[500:520], y))


def test_nan_and_infinity_spread_as_in_numpy() -> None:
    """Also beside the edges, where zeros fill tiles up."""
    x, y = matrix(101, 300, False, 1), matrix(300, 75, False, 2)
    x[100, 299], x[3, 7], y[299, 74] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        expected = x @ y
    found = product.multiply(x, y)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.array_equal(np.isinf(found), np.isinf(expected))


def test_what_it_leaves_to_numpy() -> None:
    x, y = matrix(200, 200, False, 1), matrix(200, 200, False, 2)
    assert product.multiply(x, y) is not NotImplemented
    for left, right in (
        (x.astype(np.float64), y.astype(np.float64)),
        (x[:20], y),  # few rows
        (x[:, :10], y[:10]),  # short sums, and not contiguous
        (x[:, 50:150], y[50:150]),  # rows that do not follow one another
        (x[None], y[None]),
    ):
        assert product.multiply(left, right) is NotImplemented
    assert product.multiply(x, y, np.empty((200, 200), np.float32).T) is NotImplemented
    assert product.multiply(x, y, np.empty((200, 201), np.float32)) is NotImplemented
    assert product.multiply(x, y, isa="portable") is NotImplemented


def test_where_blas_is_faster_it_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's library has matrix units that no compiled kernel can reach."""
    x, y, total = matrix(150, 150, False, 1), matrix(150, 150, True, 2), matrix(150, 150, False, 3)
    monkeypatch.setattr(product, "blas_info", lambda: {"library": "accelerate"})
    product._blas_is_faster.cache_clear()
    try:
        assert product.matmul_arrays(x, y) is NotImplemented
        expected = total + autograd.ops.matmul_arrays(x, y)
        product.add_product(x, y, total)
        assert np.array_equal(total, expected)
    finally:
        product._blas_is_faster.cache_clear()


def test_read_only_operands_need_no_kernel_of_their_own() -> None:
    x, y = matrix(150, 150, False, 1), matrix(150, 150, True, 2)
    expected, kernels = product.multiply(x, y), len(product._product.signatures)
    x.setflags(write=False)
    y.base.setflags(write=False)
    y = y.base.T
    assert not y.flags.writeable
    assert np.array_equal(product.multiply(x, y), expected)
    assert len(product._product.signatures) == kernels
    expected.setflags(write=False)
    assert product.multiply(x, y, expected) is NotImplemented


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("transposed", [False, True])
def test_tasks_fit_the_scratch_and_cover_the_result(threads: int, transposed: bool) -> None:
    for shape in TILES.values():
        for m, n, length in ((32, 32, 2048), (508, 50_000, 256), (50_000, 256, 508), (5120, 768, 256), (33, 9000, 300)):
            rows, group = product._cut(m, n, length, transposed, shape, threads)
            assert rows % shape.rows == 0 and rows > 0
            assert group % shape.panels == 0 and 0 < group <= product.GROUP
            assert group * (16 * product.K_CHUNK + product.PAD) <= product._RIGHT
            if transposed:
                assert rows // shape.rows * (shape.rows * product.K_CHUNK + product.PAD) <= product._LEFT


def test_an_output_that_is_an_operand_is_refused() -> None:
    a = matrix(200, 200, False, 1)
    for x, y, out in ((a, a, a), (a, matrix(200, 200, False, 2), a), (matrix(200, 200, True, 2), a.T, a)):
        with pytest.raises(ValueError, match="shares memory"):
            product.multiply(x, y, out)
