"""The ways of computing agree: exactly where the arithmetic is exact, within its rounding elsewhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.device import RECIPES, Device, Recipe, operands, place
from vbw_np.device.cache import OperandCache
from vbw_np.engine import F, Tensor, nn, no_grad
from vbw_np.formats import quantize
from vbw_np.formats.hadamard import hadamard_rotate
from vbw_np.layers import fused_loss, linear_cross_entropy

EPS = float(np.finfo(np.float32).eps)
EIGHT_BITS = Recipe("q8_0", "q8_0", "weights in 8 bits")


def layer(width: int = 96, out: int = 40) -> nn.Linear:
    return nn.Linear(width, out, rng=0)


def product(model: nn.Linear, x: np.ndarray, recipe, **options) -> np.ndarray:
    device = place(model, recipe, mode="inference", **options)
    with no_grad():
        y = model(Tensor(x)).data
    device.release()
    return y


def grid(rows: int, width: int) -> np.ndarray:
    """Numbers that MXFP4 holds exactly, as every block of 32 has a 6 and a 0.5."""
    values = np.random.default_rng(1).choice([0, 0.5, -1, 1.5, 2, -3, 4, 6], size=(rows, width))
    values[:, ::32], values[:, 1::32] = 6, 0.5
    return values.astype(np.float32)


def test_fp4_is_exact_where_nothing_rounds() -> None:
    model = layer()
    model.bias.assign(np.zeros(40))
    model.weight.assign(grid(40, 96) / 4)
    x = grid(5, 96)
    exact = x.astype(np.float64) @ model.weight.data.T.astype(np.float64)
    for compute in ("dequant", "fp4", "packed"):
        assert (product(model, x, "mxfp4", compute=compute) == exact).all(), compute


def test_packed_is_exact_on_8_bit_integers() -> None:
    model = layer()
    model.weight.assign(grid(40, 96) / 4)
    x = np.random.default_rng(2).integers(-127, 128, (3, 96)).astype(np.float32)
    x[:, ::32] = 127
    exact = x.astype(np.float64) @ model.weight.data.T.astype(np.float64)
    y = product(model, x, "mxfp4", compute="packed")
    assert (y == exact.astype(np.float32) + model.bias.data).all()


@pytest.mark.parametrize("recipe", ["mxfp4", "nvfp4"])
def test_fp4_is_the_product_of_the_dequantized_operands(recipe: str) -> None:
    model = layer()
    x = np.random.default_rng(3).normal(size=(7, 96)).astype(np.float32)
    rows = quantize(x, "nvfp4-row-scaled" if recipe == "nvfp4" else "mxfp4").dequantize().astype(np.float64)
    weight = quantize(model.weight.data, recipe).dequantize().astype(np.float64)
    y = product(model, x, recipe, compute="fp4")
    # blocks are exact; at most 6 are added, the second level costs two roundings, the bias one, each operand one
    bound = 11 * EPS * (np.abs(rows) @ np.abs(weight).T + np.abs(model.bias.data))
    assert (np.abs(y - (rows @ weight.T + model.bias.data)) <= bound).all()


@pytest.mark.parametrize("recipe", ["nvfp4", "mxfp4", EIGHT_BITS])
def test_packed_differs_from_dequant_by_the_rounding_of_8_bits(recipe: str | Recipe) -> None:
    model = layer()
    x = np.random.default_rng(3).normal(size=(40, 96)).astype(np.float32)
    plain, packed = (product(model, x, recipe, compute=c) for c in ("dequant", "packed"))
    # a power-of-two scale not below amax / 127: steps of at most amax / 63.5, so errors of at most amax / 127
    weight = quantize(model.weight.data, getattr(recipe, "weight", recipe)).dequantize()
    bound = np.abs(x).max() / 127 * np.abs(weight).sum(axis=1)
    assert (plain != packed).any()
    assert (np.abs(plain - packed) <= bound * (1 + 1e-5)).all()
    for rows in (1, 7, 17):  # as many rows as there may be, each is multiplied for itself
        assert np.array_equal(product(model, x[:rows], recipe, compute="packed"), packed[:rows])


def test_packed_leaves_gradients_to_dequant() -> None:
    model = layer()
    x = np.random.default_rng(3).normal(size=(2, 96)).astype(np.float32)
    device = place(model, "nvfp4", compute="packed")
    model(Tensor(x)).sum().backward()
    assert model.weight.grad is not None
    device.release()


def captured_gradients(recipe, x: np.ndarray, g: np.ndarray, seed: int = 0):
    model = layer(x.shape[1], g.shape[1])
    device = place(model, recipe, seed=seed)
    inputs = Tensor(x, requires_grad=True)
    model(inputs).backward(g)
    device.release()
    return inputs.grad, model.weight.grad, model.bias.grad, model.weight.data


@pytest.mark.parametrize("name", ["nvfp4-train", "mxfp4-train"])
def test_all_three_products_are_those_of_quantized_operands(name: str) -> None:
    """With rounding to nearest, the definition is short: quantize both operands along the summed axis, multiply."""
    base = RECIPES[name]
    nearest = dataclasses.replace(
        base,
        gradient=dataclasses.replace(base.gradient, stochastic=False),
        weight_gradient=dataclasses.replace(base.weight_gradient, stochastic=False),
    )
    rng = np.random.default_rng(4)
    x, g = rng.normal(size=(48, 96)).astype(np.float32), rng.normal(size=(48, 64)).astype(np.float32)
    to_x, to_weight, to_bias, w = captured_gradients(nearest, x, g)

    def decoded(array: np.ndarray, fmt: str) -> np.ndarray:
        return quantize(np.ascontiguousarray(array), fmt).dequantize().astype(np.float64)

    def close(ours: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
        bound = 16 * EPS * (np.abs(left) @ np.abs(right).T)
        assert (np.abs(ours - left @ right.T) <= bound).all()

    operand = base.gradient.format
    weight = decoded(w, base.weight) if base.weight == "nvfp4-16x16" else decoded(w.T, base.weight).T
    close(to_x, decoded(g, operand), weight.T)
    tensor_level = "nvfp4" if "nvfp4" in operand else operand
    close(to_weight, decoded(hadamard_rotate(g.T), operand), decoded(hadamard_rotate(x.T), tensor_level))
    np.testing.assert_allclose(to_bias, g.sum(axis=0), rtol=1e-5)


def test_stochastic_rounding_is_drawn_anew_repeats_by_seed_and_has_the_right_mean() -> None:
    rng = np.random.default_rng(5)
    x, g = rng.normal(size=(64, 64)).astype(np.float32), rng.normal(size=(64, 32)).astype(np.float32)
    only = RECIPES["nvfp4-train"]
    first, again, other = (captured_gradients(only, x, g, seed)[0] for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()

    model = layer(64, 32)
    device = place(model, only)
    draws = []
    for _ in range(200):
        inputs = Tensor(x, requires_grad=True)
        model(inputs).backward(g)
        draws.append(inputs.grad)
    draws = np.array(draws, np.float64)
    spread = draws.std(axis=0) / np.sqrt(len(draws))
    weight = quantize(model.weight.data, "nvfp4-16x16").dequantize().astype(np.float64)
    off = (draws.mean(axis=0) - g @ weight) / spread
    # Without headroom a block's largest element may be clipped, which is the only bias: it is small
    assert np.abs(off).mean() < 1.5
    device.release()


@pytest.mark.parametrize("recipe", ["nvfp4-train", "mxfp4-train"])
def test_the_loss_on_the_tensor_core_is_that_of_its_logits(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = nn.Linear(64, 96, bias=False, rng=0)
    rng = np.random.default_rng(6)
    hidden, targets = rng.normal(size=(80, 64)).astype(np.float32), rng.integers(0, 96, 80)
    place(head, recipe)
    with no_grad():
        logits = head(Tensor(hidden))
        expected = F.cross_entropy(logits, targets).item()
        assert linear_cross_entropy(Tensor(hidden), head.weight, targets).item() == pytest.approx(expected, rel=1e-6)
    x = Tensor(hidden, requires_grad=True)
    linear_cross_entropy(x, head.weight, targets).backward()
    whole = x.grad, head.weight.grad
    exact = np.exp(logits.data - logits.data.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    exact[np.arange(80), targets] -= 1
    for ours, true in zip(whole, (exact @ head.weight.data / 80, exact.T @ hidden / 80)):
        # stochastic FP4 gradients: right in direction, noisy in size
        cosine = (ours * true).sum() / np.linalg.norm(ours) / np.linalg.norm(true)
        assert cosine > 0.95
    head.weight.grad = None
    monkeypatch.setattr(fused_loss, "CHUNK_LOGITS", 32 * 96)  # three chunks of whole blocks
    x = Tensor(hidden, requires_grad=True)
    loss = linear_cross_entropy(x, head.weight, targets)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    cosine = (head.weight.grad * whole[1]).sum() / np.linalg.norm(head.weight.grad) / np.linalg.norm(whole[1])
    assert cosine > 0.95


@pytest.mark.parametrize(
    ("recipe", "compute", "complaint"),
    [
        ("seed-v6", "fp4", "the recipe does not say how .*not seed-v6"),
        ("nvfp4-boh", "packed", "with its fine tier"),
        ("fp4-row", "fp4", "not fp4-row"),
        ("nvfp4", "quantum", "no way to compute 'quantum'"),
    ],
)
def test_what_the_tensor_core_cannot_multiply(recipe: str, compute: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Device(recipe, compute=compute)


def test_an_array_that_several_layers_read_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Query, key and value of one activation: one operand forward, one backward, and the same bits as apart."""
    x, weights = np.random.default_rng(6).normal(size=(2, 16, 96)).astype(np.float32), [layer() for _ in range(3)]
    model = nn.Module()
    for number, part in enumerate(weights):
        part.weight.assign(np.random.default_rng(number).normal(size=(40, 96)))
        setattr(model, f"part{number}", part)
    recipe = dataclasses.replace(RECIPES["nvfp4-train"], gradient=None)  # nothing draws: bits can be compared
    recipe = dataclasses.replace(recipe, weight_gradient=dataclasses.replace(recipe.weight_gradient, stochastic=False))
    place(model, recipe)
    made: list[str] = []
    for name in ("left_operand", "right_operand"):
        plain = getattr(operands, name)
        counted = lambda *args, n=name, f=plain, **kw: (made.append(n), f(*args, **kw))[1]  # noqa: E731
        monkeypatch.setattr(operands, name, counted)

    def run(source: Tensor) -> list[np.ndarray]:
        made.clear()
        outputs = [part(source) for part in weights]
        (outputs[0] + outputs[1] + outputs[2]).sum().backward()
        return [y.data for y in outputs] + [part.weight.grad for part in weights]

    apart = run(Tensor(x))
    assert (made.count("left_operand"), made.count("right_operand")) == (6, 3)  # a leaf: anybody may write to it
    for part in weights:
        part.weight.zero_grad()
    together = run(Tensor(x, requires_grad=True) * 1.0)
    assert (made.count("left_operand"), made.count("right_operand")) == (4, 1)
    assert all((a == b).all() for a, b in zip(apart, together, strict=True))


def test_an_array_that_changes_is_rounded_again() -> None:
    model = layer()
    place(model, "nvfp4-train")
    x = np.random.default_rng(7).normal(size=(4, 96)).astype(np.float32)
    first = model(Tensor(x)).data.copy()
    x *= -1
    assert (model(Tensor(x)).data != first).any()


def test_the_operand_cache_keeps_a_few_of_living_arrays() -> None:
    cache = OperandCache(size=2)
    arrays = [np.zeros(3) for _ in range(3)]
    made = [cache.get(x, "left", object) for x in arrays]
    assert cache.get(arrays[2], "left", object) is made[2] and cache.get(arrays[1], "left", object) is made[1]
    assert cache.get(arrays[0], "left", object) is not made[0], "the oldest went first"
    assert cache.get(arrays[1], "right", object) is not made[1]
    stale = cache._entries[id(arrays[1]), "right"][0]
    arrays.clear()
    assert stale() is None, "it keeps no array alive"
