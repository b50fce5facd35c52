"""How a card adds up: float32 sums, or Blackwell's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.device import RECIPES, Operands, place
from vbw_np.engine import Tensor, nn
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
    left = tensor_core.quantize_left(x, "nvfp4")
    right = tensor_core.quantize_right(weight, "nvfp4")
    np.testing.assert_array_equal(found["float32"], tensor_core.matmul(left, right))
    np.testing.assert_array_equal(found["blackwell"], blackwell.matmul(left, right))


def test_what_has_no_such_sums_is_refused() -> None:
    layer = linear(np.ones((32, 32), np.float32))
    mixed = dataclasses.replace(RECIPES["nvfp4-train"], name="mixed", activation=Operands("mxfp4"))
    for recipe, match in ((mixed, "multiplies mxfp4"), ("nvfp4", "none is made here")):
        with pytest.raises(ValueError, match=match):
            place(layer, recipe, accumulate="blackwell")
    with pytest.raises(ValueError, match="float32, blackwell"):
        place(layer, "nvfp4-train", accumulate="hopper")
