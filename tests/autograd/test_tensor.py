"""The tape and the backward pass."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

from autograd import Parameter, Tensor, detect_anomaly, gradcheck, no_grad, ops
from autograd import functional as F
from autograd.gradcheck import GradcheckError
from autograd.primitive import REGISTRY, Primitive
from vbw_np.layers import linear_cross_entropy


def leaf(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(0).normal(size=shape), requires_grad=True)


def test_a_value_used_twice_gets_both_gradients() -> None:
    x = Tensor([3.0], requires_grad=True)
    y = x * x
    (y * y + y).backward()  # x^4 + x^2
    assert x.grad.tolist() == [4 * 27 + 6]


def test_gradients_add_up_over_calls_and_are_forgotten_on_request() -> None:
    x = Tensor([3.0], requires_grad=True)
    (x * 2).backward()
    (x * 5).backward()
    assert x.grad.tolist() == [7.0]
    x.zero_grad()
    assert x.grad is None


def test_a_deep_chain_needs_no_recursion() -> None:
    x = Tensor([1.0], requires_grad=True)
    y = x
    for _ in range(20_000):
        y = y + x
    y.backward()
    assert x.grad.tolist() == [20_001.0]


def test_stored_gradients_do_not_share_memory() -> None:
    x, y = leaf(3), leaf(3)
    (x + y).backward(np.ones(3))
    assert not np.shares_memory(x.grad, y.grad)
    x.grad += 1
    assert y.grad.tolist() == [1, 1, 1]


def test_a_second_backward_raises_and_says_what_to_do() -> None:
    x = leaf(3)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time.*Run the forward computation again"):
        y.backward()


def test_a_second_backward_through_a_shared_part_raises() -> None:
    x = leaf(3)
    shared = x * x
    shared.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        (shared * 2).sum().backward()


def test_the_graph_and_what_it_saved_are_freed_by_backward() -> None:
    x = leaf(500, 500)
    inner = (x * x).exp()
    saved = weakref.ref(inner.data)
    loss = inner.sum()
    del inner
    gc.disable()  # reference counts alone must do it: a cycle would wait for the collector
    try:
        assert saved() is not None, "exp's vjp keeps its output"
        loss.backward()
        assert saved() is None
    finally:
        gc.enable()


def test_memory_does_not_grow_over_steps() -> None:
    x = leaf(200, 200)

    def step() -> None:
        x.zero_grad()
        ((x * 2).tanh() @ x).sum().backward()

    step()
    tracemalloc.start()
    step()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20):
        step()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < x.data.nbytes


def test_no_grad_records_nothing() -> None:
    x = leaf(3)
    with no_grad():
        y = x * 2
    assert y.is_leaf and not y.requires_grad
    with pytest.raises(RuntimeError, match="nothing that made this tensor"):
        y.sum().backward()


def test_only_what_is_needed_runs() -> None:
    ran = []

    def forward(x, y):
        return x + y, (lambda g: ran.append("x") or g, lambda g: ran.append("y") or g)

    operation = Primitive(forward, None, name="test_only_what_is_needed_runs")
    try:
        operation(leaf(2), Tensor([1.0, 2.0], dtype=np.float64)).sum().backward()
    finally:
        del REGISTRY["test_only_what_is_needed_runs"]
    assert ran == ["x"]


@pytest.mark.parametrize(
    ("vjp", "complaint"),
    [
        (lambda g: (g.astype(np.float32),), "float32, not float64"),
        (lambda g: (g[:2],), r"shape \(2,\), its input \(3,\)"),
        (lambda g: (None,), "no gradient for input 0"),
        (lambda g: g, "must return a tuple"),
    ],
)
def test_a_wrong_vjp_is_named(vjp, complaint: str) -> None:
    operation = Primitive(lambda x: (x * 1, vjp), None, name="wrong")
    try:
        with pytest.raises((TypeError, ValueError), match=f"wrong.*{complaint}"):
            operation(leaf(3)).sum().backward()
    finally:
        del REGISTRY["wrong"]


def test_gradcheck_names_the_worst_entry() -> None:
    def forward(x):
        slope = np.full(x.shape, 2.0)
        slope[1, 2] = 3.0
        return x * 2, (lambda g: g * slope,)

    operation = Primitive(forward, None, name="crooked")
    try:
        with pytest.raises(GradcheckError, match=r"crooked in input 0 .*Worst entry \(1, 2\)"):
            gradcheck(operation, [np.ones((2, 3))])
    finally:
        del REGISTRY["crooked"]


def test_dtypes_do_not_mix_and_numbers_adapt() -> None:
    single, double = Tensor(np.ones(2, np.float32)), Tensor(np.ones(2, np.float64))
    with pytest.raises(TypeError, match="float32 and float64"):
        single + double
    assert (double * 2).dtype == np.float64
    assert (1 / single).dtype == np.float32
    assert (np.ones(2) - single).dtype == np.float32
    assert Tensor([1, 2]).dtype == np.float32


@pytest.mark.parametrize("data", [np.ones(2, complex), ["a"], np.array([object()])])
def test_what_a_tensor_cannot_hold(data) -> None:
    with pytest.raises((TypeError, ValueError)):
        Tensor(data)


def test_backward_wants_a_gradient_of_the_right_shape() -> None:
    y = leaf(3) * 2
    with pytest.raises(ValueError, match="needs a gradient"):
        y.backward()
    with pytest.raises(ValueError, match=r"\(2,\), the tensor \(3,\)"):
        y.backward(np.ones(2))


def test_anomaly_detection_names_the_operation() -> None:
    x = Tensor([-1.0, 1.0], requires_grad=True)
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="output of log in layer 3"):
        with detect_anomaly(lambda: "layer 3"):
            x.log()
    with np.errstate(divide="ignore", invalid="ignore"), pytest.raises(FloatingPointError, match="input 0 of sqrt"):
        with detect_anomaly():
            (Tensor([0.0], requires_grad=True).sqrt() * 1).sum().backward()


def test_a_parameters_version_moves_when_its_values_do() -> None:
    parameter = Parameter(np.zeros(3, np.float32))
    assert parameter.version == 0
    with parameter.mutate() as data:
        data += 1
    parameter.assign(np.full(3, 5.0))
    assert parameter.version == 2 and parameter.data.tolist() == [5, 5, 5]
    parameter.sum().backward()
    parameter.zero_grad()
    assert parameter.version == 2
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        parameter.assign(np.zeros(2))
    assert parameter.version == 2


def test_matmul_and_linear_say_which_shapes_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) times \(4, 5\)"):
        leaf(2, 3) @ leaf(4, 5)
    with pytest.raises(ValueError, match=r"input has shape \(2, 3\), the weight \(5, 4\)"):
        F.linear(leaf(2, 3), leaf(5, 4))
    with pytest.raises(ValueError, match=r"bias \(4,\) does not fit"):
        F.linear(leaf(2, 3), leaf(5, 3), leaf(4))


def test_ids_are_checked() -> None:
    with pytest.raises(IndexError, match="id 7 is outside 0 ... 4"):
        F.embedding(leaf(5, 2), np.array([1, 7]))
    with pytest.raises(TypeError, match="integers, not float64"):
        F.embedding(leaf(5, 2), np.array([1.0]))
    with pytest.raises(ValueError, match="no targets"):
        F.cross_entropy(leaf(0, 4), np.zeros(0, int))


def test_losses_agree_and_survive_large_logits() -> None:
    x, weight = leaf(6, 4), leaf(9, 4)
    targets = np.array([0, 8, 3, 3, 1, 2])
    whole = F.cross_entropy(F.linear(x * 1000, weight), targets)
    fused = linear_cross_entropy(x * 1000, weight, targets)
    assert np.isfinite(whole.item()) and fused.item() == pytest.approx(whole.item(), rel=1e-14)
    with no_grad():
        assert linear_cross_entropy(x * 1000, weight, targets).item() == fused.item()


def test_linear_cross_entropy_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = leaf(7, 4), leaf(9, 4)
    targets = np.arange(7)
    linear_cross_entropy(x, weight, targets).backward()
    whole = (x.grad, weight.grad)
    x.grad = weight.grad = None
    monkeypatch.setattr("vbw_np.layers.fused_loss.CHUNK_LOGITS", 20)  # 3 rows a chunk at most
    (linear_cross_entropy(x, weight, targets) * 2).backward()
    np.testing.assert_allclose(x.grad, 2 * whole[0], rtol=1e-12)
    np.testing.assert_allclose(weight.grad, 2 * whole[1], rtol=1e-12, atol=1e-15)


def test_tensors_show_what_made_them() -> None:
    x = leaf(2, 2)
    assert "made by mul" in repr(x * x) and "shape=(2, 2)" in repr(x * x)
    assert "requires_grad=True" in repr(x)
    assert repr(Parameter(np.zeros(1))).startswith("Parameter(")


def test_dropout_keeps_the_expectation_and_repeats_by_key() -> None:
    x = Tensor(np.ones(100_000))
    kept = F.dropout(x, 0.1, (1, 2)).data
    assert set(np.unique(kept)) == {0.0, 1 / 0.9}
    # 100,000 draws: the share of zeros is within 5 standard deviations of 0.1
    assert abs((kept == 0).mean() - 0.1) < 5 * np.sqrt(0.1 * 0.9 / 100_000)
    assert (kept == F.dropout(x, 0.1, (1, 2)).data).all()
    assert (kept != F.dropout(x, 0.1, (1, 3)).data).any()
    assert F.dropout(x, 0.1, None) is x
    with pytest.raises(ValueError, match="not 1"):
        F.dropout(x, 1, (0, 0))


def test_arrays_of_one_slab_are_apart_and_start_where_a_cache_line_does() -> None:
    from autograd import memory

    sizes = [(1 << 16) + 4 * i for i in range(0, 4000, 97)] + [memory._SLAB // 4, memory._SLAB // 8 * 4]
    arrays = [memory.empty((size,), np.uint8) for size in sizes]
    for i, array in enumerate(arrays):
        assert array.ctypes.data % 64 == 0 and array.nbytes == sizes[i]
        array.fill(i)
    assert all((array == i).all() for i, array in enumerate(arrays))


def test_pooled_memory_is_handed_out_again_and_never_twice() -> None:
    from autograd import memory

    memory.clear()
    first = memory.empty((600, 600))
    address, view = first.ctypes.data, first[5:7]
    del first
    second = memory.empty((600, 600))
    assert second.ctypes.data != address, "a view still looks into the first buffer"
    del view
    third = memory.empty((600, 600))
    assert third.ctypes.data == address
    assert third.ctypes.data % 64 == 0 and third.flags.writeable and third.flags.c_contiguous
    memory.clear()


def test_ops_refuse_what_they_cannot_do() -> None:
    with pytest.raises(TypeError, match="to a number only"):
        leaf(2) ** leaf(2)
    with pytest.raises(ValueError, match="matrices"):
        ops.matmul(leaf(3), leaf(3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("uses", range(1, 6))
def test_what_is_used_often_gets_the_sum_of_what_all_uses_send_back(dtype, shape, uses):
    """A single number's third use was once lost: NumPy's sum of two is a number, and no array to add to."""
    x = Tensor(np.ones(shape, dtype), requires_grad=True)
    for y in (x, x * dtype(1)):  # a leaf, and what an operation made
        x.grad = None
        total = y * dtype(1)
        for n in range(1, uses):
            total = total + y * dtype(10**n)
        total.sum().backward()
        assert x.grad.dtype == dtype and x.grad.shape == shape
        assert (x.grad == int("1" * uses)).all()
