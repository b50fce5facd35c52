"""What people know from PyTorch works the same, or ends in one clear error."""

from __future__ import annotations

import copy
import math
import pickle
import threading
import time

import numpy as np
import pytest

from autograd import REGISTRY, Parameter, Tensor, manual_seed, nn, no_grad
from autograd import functional as F
from autograd.primitive import Primitive
from vbw_np import optim
from vbw_np.layers import GRU, MultiheadAttention, linear_cross_entropy


def leaf(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(0).normal(size=shape), requires_grad=True)


# ------------------------------------------------------------------------------------- gradients that are nobody else's


def test_scaling_one_gradient_leaves_the_other() -> None:
    a, b = leaf(3), leaf(3)
    ((a + b) ** 2).sum().backward()
    right = b.grad.copy()
    a.grad *= 0.5
    assert (b.grad == right).all() and (a.grad == right / 2).all()


def test_no_two_of_a_models_gradients_share_memory() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.LayerNorm(8))
    x = Tensor(np.ones((4, 8), np.float32), requires_grad=True)
    ((model(x) + x) + (model(x) - x)).sum().backward()
    gradients = [p.grad for p in model.parameters()] + [x.grad]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(gradients) for b in gradients[:i])


# ------------------------------------------------------------------------- values that changed before the backward pass


def assign(parameter: Parameter) -> None:
    parameter.assign(parameter.data + 1)


def one_step(parameter: Parameter) -> None:
    parameter.grad = np.ones_like(parameter.data)
    optim.SGD([parameter], lr=0.1).step()


CHANGES = {"assign": assign, "optimizer": one_step}
USES = {
    "linear": lambda x, w: F.linear(x, w),
    "matmul": lambda x, w: x @ w,
    "product of a view": lambda x, w: x @ w[:, :2],
    "transposed": lambda x, w: x @ w.T,
    "mul": lambda x, w: x * w,
    "div": lambda x, w: x / w,
    "power": lambda x, w: x * w**3,
    "fused loss": lambda x, w: linear_cross_entropy(x, w * 1, np.zeros(len(x), int)) + (w * w).sum(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("use", USES)
def test_a_parameter_changed_before_backward_is_named(use: str, change: str) -> None:
    layer = nn.Linear(4, 4, bias=False, rng=0)
    x = Tensor(np.ones((4, 4), np.float32), requires_grad=True)
    y = USES[use](x, layer.weight).sum()
    CHANGES[change](layer.weight)
    with pytest.raises(RuntimeError, match=r"Linear\.weight \(4, 4\), was changed after the forward.*optimizer\.step"):
        y.backward()


def test_a_frozen_parameter_counts_too() -> None:
    layer = nn.Linear(4, 4, rng=0)
    layer.weight.requires_grad = False
    y = layer(Tensor(np.ones((2, 4), np.float32), requires_grad=True)).sum()
    assign(layer.weight)
    with pytest.raises(RuntimeError, match=r"Linear\.weight"):
        y.backward()


def test_a_change_that_no_gradient_reads_is_allowed() -> None:
    """As in PyTorch: sums, lookups and biases do not need the old values."""
    layer, table = nn.Linear(4, 4, rng=0), nn.Embedding(5, 4, rng=1)
    ids = np.array([1, 3])
    out = (table(ids) + layer.bias).sum()
    assign(table.weight), assign(layer.bias)
    out.backward()
    assert layer.bias.grad.tolist() == [2, 2, 2, 2] and table.weight.grad.sum() == 8
    x = Tensor(np.ones((2, 4), np.float32))  # needs no gradient, so the weight's values are not asked for
    out = layer(x).sum()
    assign(layer.weight)
    out.backward()
    assert (layer.weight.grad == 2).all()


def test_a_parameter_that_threads_write_is_never_silently_stale() -> None:
    """Either the gradient is that of the forward pass's values, or the change is named."""
    layer = nn.Linear(64, 64, bias=False, rng=0)
    done = threading.Event()

    def write() -> None:
        value = 0
        while not done.is_set():
            value += 1
            layer.weight.assign(np.full((64, 64), value % 1000, np.float32))
            time.sleep(1e-5)

    layer.weight.assign(np.zeros((64, 64)))
    writer = threading.Thread(target=write)
    writer.start()
    named = 0
    try:
        for number in range(100):
            x = Tensor(np.ones((1, 64), np.float32), requires_grad=True)
            with layer.weight.lock:
                y, value = layer(x), layer.weight.data[0, 0]
            if number % 2:
                time.sleep(1e-4)  # lets the writer in
            try:
                y.sum().backward()
            except RuntimeError:
                named += 1
            else:
                assert (x.grad == 64 * value).all()
    finally:
        done.set()
        writer.join()
    assert named


def test_a_parameter_that_changes_while_its_gradient_is_computed_is_named() -> None:
    """The moment that a thread hits by chance only: after the check before the vjp, before the vjp's end."""
    weight = Parameter(np.ones(3))
    operation = Primitive(
        lambda x, w: (x * w, (lambda g: (weight.assign(np.zeros(3)), g * w)[1], lambda g: g * x)), None, name="slow"
    )
    try:
        y = operation(leaf(3), weight).sum()
        with pytest.raises(RuntimeError, match=r"backward through slow: its input 1, .*was changed after"):
            y.backward()
    finally:
        del REGISTRY["slow"]


# --------------------------------------------------------------------------------------------- randomness without a rng


def layers_without_rng() -> dict[str, nn.Module]:
    return {
        "Linear": nn.Linear(4, 4),
        "Embedding": nn.Embedding(4, 4),
        "GRU": GRU(4, 4),
        "MultiheadAttention": MultiheadAttention(4, 2),
    }


def test_layers_without_rng_differ_and_repeat() -> None:
    manual_seed(3)
    first, second = layers_without_rng(), layers_without_rng()
    manual_seed(3)
    again = layers_without_rng()
    manual_seed(4)
    other = layers_without_rng()
    for name, layer in first.items():
        one = next(layer.parameters()).data
        assert (one != next(second[name].parameters()).data).any(), name
        assert (one == next(again[name].parameters()).data).all(), name
        assert (one != next(other[name].parameters()).data).any(), name
    manual_seed(0)


def test_dropouts_without_a_generator_differ_and_repeat() -> None:
    x = Tensor(np.ones(64))
    manual_seed(5)
    masks = [nn.Dropout(0.5)(x).data for _ in range(3)]
    manual_seed(5)
    assert (nn.Dropout(0.5)(x).data == masks[0]).all()
    assert (masks[0] != masks[1]).any() and (masks[1] != masks[2]).any()
    manual_seed(0)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None, True])
def test_seeds_that_are_none(seed) -> None:
    with pytest.raises(ValueError, match="non-negative integer"):
        manual_seed(seed)


# --------------------------------------------------------------------------------------------------- powers and dtypes


def test_the_slope_of_a_power_at_zero() -> None:
    x = Tensor([0.0, 2.0], requires_grad=True)
    (x**0).sum().backward()
    assert x.grad.tolist() == [0, 0]
    for exponent, slope in ((1, 1.0), (2, 0.0), (3.0, 0.0)):
        x.grad = None
        (x**exponent).sum().backward()
        assert x.grad[0] == slope


@pytest.mark.parametrize("number", [np.float64(3), np.int64(2), np.float32(2), np.array(2.0), 2, 2.5])
def test_numpys_numbers_keep_float32(number) -> None:
    x = Tensor(np.full(3, 2, np.float32), requires_grad=True)
    y = x**number * number + number - number / (x + number)
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize("make", [
    lambda p: optim.SGD(p, lr=np.float64(0.1), momentum=np.float64(0.9), weight_decay=np.float64(0.1)),
    lambda p: optim.SGD(p, lr=np.float64(0.1), momentum=np.float64(0.9), nesterov=True),
    lambda p: optim.Adam(p, np.float64(0.1), (np.float64(0.9), np.float64(0.99)), np.float64(1e-8), np.float64(0.1)),
    lambda p: optim.AdamW(p, np.float64(0.1), weight_decay=np.float64(0.1)),
])  # fmt: skip
def test_optimizers_keep_everything_in_float32(make) -> None:
    parameter = Parameter(np.ones((3, 2), np.float32))
    optimizer = make([parameter])
    for _ in range(3):
        parameter.grad = np.ones((3, 2), np.float32)
        optimizer.step()
    kept = [value for value in optimizer.state[0].values() if isinstance(value, np.ndarray)]
    assert {value.dtype for value in kept} <= {np.dtype(np.float32)} and parameter.dtype == np.float32


# --------------------------------------------------------------------------------------------------------- empty things


EMPTY = {
    "linear of no rows": ((0, 4), lambda x: nn.Linear(4, 3, rng=0)(x)),
    "linear of no batch": ((2, 0, 4), lambda x: nn.Linear(4, 3, rng=0)(x)),
    "matmul over nothing": ((3, 0), lambda x: x @ x.T),
    "stacked matmul over nothing": ((2, 3, 0), lambda x: x @ x.transpose(-1, -2)),
    "softmax over nothing": ((3, 0), lambda x: F.softmax(x)),
    "softmax of no rows": ((0, 4), lambda x: F.softmax(x)),
    "layer norm of no rows": ((0, 4), lambda x: nn.LayerNorm(4)(x)),
    "gelu": ((0, 4), lambda x: F.gelu(x)),
    "attention": ((0, 3, 4), lambda x: MultiheadAttention(4, 2, rng=0)(x, x)),
    "dropout": ((0, 4), lambda x: nn.Dropout(0.5)(x)),
    "sum": ((0, 4), lambda x: x.sum(axis=0)),
    "rows": ((0, 4), lambda x: x[np.zeros(0, int)]),
    "concatenation": ((0, 4), lambda x: nn.Linear(4, 4, rng=0)(x).reshape(-1, 2)),
}  # fmt: skip


@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("name", EMPTY)
def test_empty_things_go_through_and_back(name: str, twins: bool) -> None:
    if twins:
        from vbw_np import kernels

        kernels.install()
    shape, function = EMPTY[name]
    x = Tensor(np.zeros(shape, np.float32), requires_grad=True)
    y = function(x)
    y.backward(np.ones(y.shape, np.float32))
    assert x.grad.shape == shape and np.isfinite(y.data).all()
    with no_grad():
        assert function(Tensor(np.zeros(shape, np.float32))).shape == y.shape


def test_the_mean_of_nothing_is_nan() -> None:
    x = leaf(0, 3)
    y = x.mean()
    y.backward()
    assert math.isnan(y.item()) and x.grad.shape == (0, 3)


# ---------------------------------------------------------------------------------------- tensors among Python's things


def test_iterating() -> None:
    with pytest.raises(TypeError, match="without axes cannot be iterated"):
        list(Tensor(3.0))
    x = leaf(3, 2)
    rows = list(x)
    assert len(rows) == 3 and all(row.shape == (2,) for row in rows)
    (rows[0] * 2 + rows[2]).sum().backward()
    assert x.grad.tolist() == [[2, 2], [0, 0], [1, 1]]
    first, second = Tensor([1.0, 2.0])
    assert (first.item(), second.item()) == (1, 2)


def test_comparing_is_by_element() -> None:
    a, b = Tensor([1.0, 2.0, 3.0]), Tensor([1.0, 5.0, 2.0])
    assert (a == b).tolist() == [True, False, False] and (a != b).tolist() == [False, True, True]
    assert (a < b).tolist() == [False, True, False] and (a >= 2).tolist() == [False, True, True]
    assert (np.array([1.0, 2.0, 4.0]) == a).tolist() == [True, True, False]
    assert (a == None) is False and (a != "a") is True  # noqa: E711
    assert len({a, b, a}) == 2


def test_numpys_functions_are_recorded_or_refused() -> None:
    x = leaf(3)
    for function in (np.exp, np.tanh, np.negative, np.absolute):
        x.grad = None
        y = function(x)
        assert isinstance(y, Tensor) and (y.data == function(x.data)).all()
        y.sum().backward()
        assert x.grad is not None
    for call in (lambda: np.sin(x), lambda: np.add(x, 1, out=np.zeros(3)), lambda: np.add.reduce(x),
                 lambda: np.mean(x), lambda: np.concatenate([x, x]), lambda: np.where(x.data > 0, x, 0)):  # fmt: skip
        with pytest.raises(TypeError, match=r"no operation on tensors.*x\.numpy\(\)"):
            call()
    assert np.asarray(x) is x.data and np.shape(x) == (3,) and np.array(x).dtype == np.float64


def test_what_looks_like_pytorch_and_is_not_is_one_clear_error() -> None:
    x = Tensor(np.arange(6.0, dtype=np.float32).reshape(2, 3), requires_grad=True)
    for name in ("sum", "mean", "max"):
        for word in ("dim", "keepdim"):
            with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument '{word}'"):
                getattr(x, name)(**{word: 1})
    for index in (Tensor([0.0]), (0, Tensor([1.0]))):
        with pytest.raises(TypeError, match="integer or boolean array"):
            x[index]
    assert int(Tensor([3.7])) == 3 and float(Tensor([3.5])) == 3.5
    with pytest.raises(ValueError, match="one element"):
        int(x)


@pytest.mark.parametrize("through", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copying(through) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ModuleList([GRU(2, 2)]))
    model[0].weight.grad = np.ones((4, 3), np.float32)
    twin = through(model)
    assert [name for name, _ in twin.named_parameters()] == [name for name, _ in model.named_parameters()]
    for ours, theirs in zip(twin.parameters(), model.parameters()):
        assert (ours.data == theirs.data).all() and not np.shares_memory(ours.data, theirs.data)
        assert type(ours) is Parameter and ours.requires_grad
    assert (twin[0].weight.grad == 1).all()
    twin[0].weight.assign(np.zeros((4, 3)))
    assert model[0].weight.data.any() and twin[0].weight.name == model[0].weight.name == "Linear.weight"
    shared = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    shared[1].weight = shared[0].weight
    assert len(list(through(shared).parameters())) == 3
    with pytest.raises(RuntimeError, match="made by mul.*detach"):
        through(leaf(2) * 2)


@pytest.mark.parametrize(
    "container", [list, tuple, frozenset, lambda layers: {"a": layers[0]}, lambda layers: [[layers[0]]]]
)
@pytest.mark.parametrize("held", [lambda: nn.Linear(2, 2), lambda: Parameter(np.zeros(2))])
def test_layers_in_a_plain_container_are_named(container, held) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            self.layers = container([held(), held()])

    for walk in (lambda m: list(m.parameters()), lambda m: m.state_dict(), lambda m: m.eval(),
                 lambda m: m.load_state_dict({})):  # fmt: skip
        with pytest.raises(TypeError, match=r"Model\.layers is a plain \w+ that holds a \w+.*nn\.ModuleList"):
            walk(Model())


# ----------------------------------------------------------------------------------------------- masks of the attention


def test_pytorchs_boolean_mask_of_multihead_attention_says_what_is_hidden() -> None:
    attention = MultiheadAttention(8, 2, rng=0, dtype=np.float64)
    x = Tensor(np.random.default_rng(0).normal(size=(2, 5, 8)))
    hidden = ~np.tri(5, dtype=bool)
    added = np.where(hidden, -np.inf, 0.0)
    causal = MultiheadAttention(8, 2, causal=True, rng=0, dtype=np.float64)(x, x).data
    for mask in (hidden, added, np.broadcast_to(hidden, (4, 5, 5))):
        np.testing.assert_array_equal(attention(x, x, attn_mask=mask).data, causal)
    with pytest.raises(ValueError, match="without any key"):
        attention(x, x, attn_mask=np.ones((5, 5), bool))
    with pytest.raises(ValueError, match="does not broadcast"):
        attention(x, x, attn_mask=np.zeros((3, 5), bool))
    with pytest.raises(TypeError, match="boolean or of floats"):
        attention(x, x, attn_mask=np.zeros((5, 5), int))


def test_targets_that_are_all_ignored() -> None:
    for loss in (lambda t: F.cross_entropy(leaf(2, 4), t), lambda t: linear_cross_entropy(leaf(2, 3), leaf(4, 3), t)):
        with pytest.raises(ValueError, match="no targets .but 2 to ignore"):
            loss(np.array([-100, -100]))
        with pytest.raises(IndexError, match="id -1 is outside"):
            loss(np.array([-1, 0]))
