"""The pool: what makes large arrays in every step makes them there, and leaves no page to be mapped anew."""

from __future__ import annotations

import numpy as np
import pytest

import autograd
from autograd import Tensor, memory

SIDE = 192  # so that a matrix is larger than memory.SMALLEST


def large(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(0).normal(size=shape).astype(np.float32), requires_grad=True)


RESULTS = {
    "sum of two": lambda: large(SIDE, SIDE) + large(SIDE, SIDE),
    "product of two": lambda: large(SIDE, SIDE) * 2.0,
    "relu": lambda: autograd.ops.relu(large(SIDE, SIDE)),
    "matrices": lambda: large(SIDE, SIDE) @ large(SIDE, SIDE),
    "stacks of matrices": lambda: large(2, 3, SIDE, 8) @ large(2, 3, 8, SIDE),
    "a stack, spread": lambda: large(2, 1, SIDE, 8) @ large(3, 8, SIDE),
    "a stack times a matrix": lambda: large(2, SIDE, SIDE) @ large(SIDE, SIDE),
    "reshape that copies": lambda: large(2, SIDE, 4, SIDE).permute(0, 2, 1, 3).reshape(8 * SIDE, SIDE),
    "concatenate": lambda: autograd.ops.concatenate(large(SIDE, SIDE), large(SIDE, SIDE), axis=0),
}


def pooled(array: np.ndarray) -> bool:
    """Whether the array, or what it looks into, is from the pool."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, memory._Lease)


@pytest.mark.parametrize("name", RESULTS)
def test_a_large_result_is_from_the_pool(name: str) -> None:
    assert pooled(RESULTS[name]().data)


def test_gradients_that_add_up_are_from_the_pool() -> None:
    x = large(SIDE, SIDE)
    (x * 2.0 + x[::-1] * 3.0 + x).sum().backward()  # three gradients meet at the leaf, on the way a slice's
    assert pooled(x.grad) and np.array_equal(x.grad, np.full((SIDE, SIDE), 6, np.float32))
    first = x.grad
    (x * 1.0).sum().backward()
    assert pooled(x.grad) and x.grad is not first and np.array_equal(x.grad, np.full((SIDE, SIDE), 7, np.float32))


def test_a_reshape_that_can_be_a_view_is_one() -> None:
    x = np.zeros((128, 3 * SIDE), np.float32)[:, :SIDE]  # not contiguous, but its rows can be cut
    assert x.nbytes > memory.SMALLEST and not x.flags.c_contiguous
    assert np.shares_memory(memory.reshaped(x, (128, 4, SIDE // 4)), x)
    copy = memory.reshaped(np.zeros((SIDE, 64, 4), np.float32).transpose(1, 0, 2), (64, -1))
    assert pooled(copy) and copy.shape == (64, 4 * SIDE)


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (300, 7), (SIDE, SIDE)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_from_the_pool_or_not_the_values_are_numpys(shape: tuple[int, ...], dtype: type) -> None:
    x = np.random.default_rng(1).integers(0, 9, shape).astype(dtype)
    for view in (x, x.T, x[::-1] if shape else x):
        copy = memory.copied(view)
        assert copy.flags.c_contiguous and copy.dtype == dtype and np.array_equal(copy, view)
        assert not np.shares_memory(copy, x)
        total = memory.pooled(np.add, view, view)
        assert isinstance(total, np.ndarray) and total.dtype == dtype and np.array_equal(total, view + view)
        assert np.array_equal(memory.reshaped(view, (-1,)), view.reshape(-1))
    with pytest.raises(ValueError, match="cannot reshape"):
        memory.reshaped(x, (x.size + 1,))


def test_a_buffer_comes_back_when_its_last_array_is_gone() -> None:
    first = memory.empty((SIDE, SIDE))
    place, view = first.ctypes.data, first[3:]
    del first
    assert memory.empty((SIDE, SIDE)).ctypes.data != place  # a view still looks into it
    del view
    assert memory.empty((SIDE, SIDE)).ctypes.data == place
