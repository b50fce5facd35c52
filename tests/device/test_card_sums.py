"""How a card adds up: float32 sums, or Blackwell's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.definitions.fp8 import matmul_fp8
from vbw_np.definitions.fp8_operands import from_packed, transposed_from_packed
from vbw_np.device import RECIPES, Operands, place
from vbw_np.engine import Tensor, nn
from vbw_np.formats import get_format, quantize
from vbw_np.kernels.fp4 import blackwell, tensor_core


def linear(weight: np.ndarray) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.assign(weight)
    return layer


@pytest.mark.parametrize("name", ["nvfp4-train", "mxfp4-train"])
def test_every_product_goes_through_blackwells_sums(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, input's gradient, weight's gradient: three products, each by the kernel that was asked for."""
    from vbw_np.device import operands

    calls = []
    for sums, function in list(operands._MATMULS.items()):

        def counted(*args, sums=sums, function=function, **options):  # type: ignore[no-untyped-def]
            calls.append(sums)
            return function(*args, **options)

        monkeypatch.setitem(operands._MATMULS, sums, counted)
    rng = np.random.default_rng(0)
    weight, x = (rng.standard_normal(s).astype(np.float32) for s in ((48, 64), (32, 64)))
    for sums, options in (
        ("float32", {}),
        ("float32", {"accumulate": "float32"}),
        ("blackwell", {"accumulate": "blackwell"}),
    ):
        calls.clear()
        layer = linear(weight)
        place(layer, name, **options)
        inputs = Tensor(x, requires_grad=True)
        (layer(inputs) ** 2).sum().backward()
        assert calls == [sums] * 3


def test_the_forward_product_has_the_kernels_bits() -> None:
    """Operands whose scales span the whole range, where the two sums differ."""
    rng = np.random.default_rng(1)
    weight, x = (rng.standard_normal(s).astype(np.float32) for s in ((32, 1024), (16, 1024)))
    spread = np.exp2(rng.integers(-14, 1, 64)).astype(np.float32).repeat(16)
    weight, x = weight * spread, x * rng.permutation(spread.reshape(64, 16)).reshape(-1)
    recipe = dataclasses.replace(RECIPES["nvfp4-train"], weight="nvfp4", name="rows")
    found = {}
    for sums in ("float32", "blackwell"):
        layer = linear(weight)
        place(layer, recipe, accumulate=sums)
        found[sums] = layer(Tensor(x)).data
    left = tensor_core.quantize_left(x, "nvfp4-row-scaled")
    right = tensor_core.quantize_right(weight, "nvfp4")
    np.testing.assert_array_equal(found["float32"], tensor_core.matmul(left, right))
    np.testing.assert_array_equal(found["blackwell"], blackwell.matmul(left, right))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nvfp4-train", {"accumulate": "blackwell"}), ("mxfp4-train", {"accumulate": "blackwell"}),
        ("fp8-train", {"promote": 0}), ("fp8-train", {"accumulate": "blackwell", "promote": 0}), ("nvfp4-train", {}),
    ],
)  # fmt: skip
def test_a_walk_through_a_step_tells_one_sum(name: str, options: dict) -> None:
    """The sum of output [0, 0] inside the core; with the scales outside it is the layer's output, to the last bit."""
    rng = np.random.default_rng(6)
    weight, x = (rng.standard_normal(s).astype(np.float32) for s in ((32, 144), (3, 144)))
    layer = linear(weight)
    device = place(layer, name, **options)
    steps = device.step(layer, Tensor(x))
    told = [event for event in steps if event.kind == "sum"]
    if not options:
        assert not told
        return
    (event,) = told
    used = device.recipe
    left, right = quantize(x, used.activation.format, measure=False), quantize(weight, used.weight, measure=False)
    inside = np.float32(event.values["sum"])
    if name == "fp8-train":
        wanted = left.scales[0, 0] * (right.scales[0, 0] * inside)
    else:
        factors = [np.float32(1) if p.tensor_scale is None else np.asarray(p.tensor_scale).reshape(-1)[0]
                   for p in (left, right)]  # fmt: skip
        wanted = inside * (factors[0] * factors[1])
    assert steps.result.data[0, 0] == wanted and "largest exponent" in event.values["steps"]


def test_what_has_no_such_sums_is_refused() -> None:
    layer = linear(np.ones((32, 32), np.float32))
    mixed = dataclasses.replace(RECIPES["nvfp4-train"], name="mixed", activation=Operands("mxfp4"))
    for recipe, match in ((mixed, "multiplies mxfp4"), ("nvfp4", "none is\\s+made here")):
        with pytest.raises(ValueError, match=match):
            place(layer, recipe, accumulate="blackwell")
    for recipe, options, match in (
        ("nvfp4-train", {"accumulate": "ada"}, "float32, blackwell, hopper"),
        ("nvfp4-train", {"accumulate": "hopper"}, "FP8 with FP8"),
        ("nvfp4-train", {"accumulate": "blackwell", "promote": 128}, "FP4's are not promoted"),
        ("fp8-train", {"accumulate": "float32"}, "promote=128 is about a tensor core"),
        ("fp8-train", {"promote": 40}, "whole steps of 32"),
        ("fp8-block-train", {"promote": 0}, "outside the core"),
        ("fp8-block-train", {"promote": 256}, "outside the core"),
        (dataclasses.replace(RECIPES["fp8-train"], gradient=Operands("mxfp8-e5m2")), {}, "multiplies mxfp8-e5m2"),
    ):
        with pytest.raises(ValueError, match=match):
            place(layer, recipe, **options)


FP8 = {
    **{name: (name, {}) for name, recipe in RECIPES.items() if recipe.accumulate == "hopper"},
    "not promoted": ("fp8-train", {"promote": 0}),
    "blackwell": ("fp8-train", {"accumulate": "blackwell", "promote": 0}),
    "E5M2 gradients": (
        dataclasses.replace(RECIPES["fp8-train"], gradient=Operands("fp8-e5m2-row"), weight="fp8-tensor", promote=0),
        {},
    ),
}


@pytest.mark.parametrize("name", FP8)
def test_fp8_products_are_those_of_the_definition(name: str) -> None:
    """Forward, the input's gradient and the weight's, from packed matrices by the readable sums alone."""
    recipe, options = FP8[name]
    rng = np.random.default_rng(2)
    weight, x, g = (rng.standard_normal(s).astype(np.float32) for s in ((40, 160), (150, 160), (150, 40)))
    layer, leaf = linear(weight), Tensor(x, requires_grad=True)
    device = place(layer, recipe, **options)
    y = layer(leaf)
    y.backward(g)
    used = device.recipe
    assert set(device.cards["linear"].ways.values()) == {"tensor core"}
    square = get_format(used.weight).block_rows > 1

    def product(a: np.ndarray, b: np.ndarray, left: str, right: str, transpose: bool = False) -> np.ndarray:
        packed = quantize(b.T if transpose and square else b, right, measure=False)
        right_operand = transposed_from_packed(packed) if transpose and square else from_packed(packed)
        left_operand = from_packed(quantize(a, left, measure=False))
        out = np.empty((len(a), len(b)), np.float32)
        return matmul_fp8.reference(left_operand, right_operand, out, sums=used.accumulate, promote=used.promote)

    both = used.weight_gradient.format
    np.testing.assert_array_equal(y.data, product(x, weight, used.activation.format, used.weight))
    np.testing.assert_array_equal(leaf.grad, product(g, weight.T.copy(), used.gradient.format, used.weight, True))
    np.testing.assert_array_equal(layer.weight.grad, product(g.T.copy(), x.T.copy(), both, both))
