"""Operands that are made together: rotations of any size, random signs, MS-EDEN, means split off."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.device import RECIPES, Operands, Recipe, place
from vbw_np.engine import F, Tensor, nn
from vbw_np.formats import quantize
from vbw_np.formats.eden import quantize_eden
from vbw_np.formats.hadamard import hadamard_rotate, random_signs
from vbw_np.layers import linear_cross_entropy

EDEN = Operands("nvfp4-eden", hadamard=128, signs="random", eden=True)
BASE = RECIPES["nvfp4-train"]
OUT, IN, TOKENS = 48, 64, 160
EPS = float(np.finfo(np.float32).eps)


def recipe(**changes: dict[str, object] | Operands) -> Recipe:
    """nvfp4-train with fields of its operands changed."""
    made = {
        slot: how if isinstance(how, Operands) else dataclasses.replace(getattr(BASE, slot), **how)
        for slot, how in changes.items()
    }
    return dataclasses.replace(BASE, name="changed", **made)


def arrays(offset: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    weight, x, g = (rng.standard_normal(s).astype(np.float32) for s in ((OUT, IN), (TOKENS, IN), (TOKENS, OUT)))
    means = [offset * rng.standard_normal(width).astype(np.float32) for width in (IN, OUT)]
    return weight, x + means[0], g + means[1]


def gradients(used: Recipe, seed: int = 0, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray, list]:
    """Gradients of x and of the weight, and the keys that were drawn, in order."""
    weight, x, g = arrays(offset)
    layer = nn.Linear(IN, OUT, bias=False)
    layer.weight.assign(weight)
    device, keys = place(layer, used, seed=seed), []
    drawn = device.unit.next_key
    device.unit.next_key = lambda: keys.append(drawn()) or keys[-1]
    leaf = Tensor(x, requires_grad=True)
    layer(leaf).backward(g)
    return leaf.grad, layer.weight.grad, keys


def close(ours: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    left, right = left.astype(np.float64), right.astype(np.float64)
    bound = (left.shape[1] + 4) * EPS * (np.abs(left) @ np.abs(right).T)
    assert (np.abs(ours - left @ right.T) <= bound).all()


def stochastic(x: np.ndarray, key: tuple[int, int], fmt: str) -> np.ndarray:
    return quantize(x, fmt, ties="stochastic", seed=key[0], stream=key[1], measure=False).dequantize()


@pytest.mark.parametrize("signs", ["fixed", "random"])
@pytest.mark.parametrize("points", [32, 64, 128])
def test_both_operands_are_rotated_under_the_same_signs(points: int, signs: str) -> None:
    _, x, g = arrays()
    how = {"hadamard": points, "signs": signs}
    _, found, keys = gradients(recipe(weight_gradient=how, gradient={"stochastic": False}))
    wanted = random_signs(points, *keys.pop(0)) if signs == "random" else random_signs(points, 0)
    sides = [hadamard_rotate(np.ascontiguousarray(side.T), wanted) for side in (g, x)]
    left, right = stochastic(sides[0], keys[0], "nvfp4-row-headroom"), quantize(sides[1], "nvfp4").dequantize()
    assert len(keys) == 1
    close(found, left, right)
    assert np.linalg.norm(found - g.T @ x) < 0.3 * np.linalg.norm(g.T @ x)  # the rotation cancels


def test_sixteen_points_under_random_signs_are_drawn_anew() -> None:
    used = recipe(weight_gradient={"signs": "random", "stochastic": False})
    found = [gradients(used, seed)[1] for seed in (0, 1, 0)]
    assert (found[0] != found[1]).any() and (found[0] == found[2]).all()


def test_ms_eden_is_the_formats_and_takes_the_weight_as_the_card_decodes_it() -> None:
    weight, x, g = arrays()
    to_x, to_weight, keys = gradients(recipe(gradient=EDEN, weight_gradient=EDEN))
    assert len(keys) == 6  # signs, left scales, right scales, twice
    decoded = quantize(weight, BASE.weight).dequantize()
    for found, left, right, drawn in ((to_x, g, decoded.T, keys[:3]), (to_weight, g.T, x.T, keys[3:])):
        signs = random_signs(128, *drawn[0])
        sides = [
            quantize_eden(hadamard_rotate(np.ascontiguousarray(side), signs), *key).dequantize()
            for side, key in zip((left, right), drawn[1:], strict=True)
        ]
        close(found, *sides)


def test_ms_eden_is_unbiased() -> None:
    """The error of the mean of 64 draws is an eighth of one draw's, in both gradients; to nearest it stays."""
    weight, x, g = arrays()
    exact = g @ quantize(weight, BASE.weight).dequantize(), g.T @ x

    def errors(used: Recipe) -> list[float]:
        draws = [gradients(used, seed)[:2] for seed in range(64)]
        found = []
        for i in range(2):
            single = np.mean([np.linalg.norm(draw[i] - exact[i]) for draw in draws])
            found.append(float(np.linalg.norm(np.mean([draw[i] for draw in draws], axis=0) - exact[i]) / single))
        return found

    assert all(0.1 < error < 0.16 for error in errors(recipe(gradient=EDEN, weight_gradient=EDEN)))
    plain = {"stochastic": False}
    assert all(error > 0.99 for error in errors(recipe(gradient=plain, weight_gradient=plain)))


def test_a_mean_is_split_off_and_multiplied_in_float32() -> None:
    """Columns with large means over the tokens: without them the quantized parts are small, and so is the error."""
    _, x, g = arrays(offset=30.0)
    exact, plain = g.T.astype(np.float64) @ x, {"stochastic": False, "hadamard": 0}
    error = {
        split: np.abs(gradients(recipe(weight_gradient={**plain, "split_mean": split}), offset=30.0)[1] - exact).max()
        for split in (False, True)
    }
    assert error[True] < error[False] / 20
    a, b = (side.mean(axis=0, dtype=np.float64).astype(np.float32) for side in (g, x))
    left, right = quantize((g - a).T.copy(), "nvfp4-row-headroom"), quantize((x - b).T.copy(), "nvfp4")
    found = gradients(recipe(weight_gradient={**plain, "split_mean": True}), offset=30.0)[1]
    wanted = left.dequantize() @ right.dequantize().T + np.multiply.outer(a * np.float32(TOKENS), b)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOKENS * EPS * np.abs(wanted).max())


def test_a_mean_split_off_comes_through_a_loss_that_is_computed_in_chunks() -> None:
    """The fused loss gives the product an array to write to: it is the gradient of the two operations one by one."""
    weight, x, _ = arrays(offset=3.0)
    plain = {"stochastic": False, "split_mean": True}
    used = recipe(gradient={**plain, "right": "nvfp4"}, weight_gradient=plain)
    found = []
    for fused in (True, False):
        layer = nn.Linear(IN, OUT, bias=False)
        layer.weight.assign(weight)
        place(layer, used)
        leaf, targets = Tensor(x, requires_grad=True), np.arange(TOKENS) % OUT
        loss = linear_cross_entropy(leaf, layer.weight, targets) if fused else F.cross_entropy(layer(leaf), targets)
        loss.backward()
        found.append((leaf.grad, layer.weight.grad))
    for one, other in zip(*found, strict=True):
        assert np.abs(one - other).max() < 0.05 * np.abs(other).max()  # a code or two on the other side of a tie


REFUSED = {
    "a rotation of 24": (lambda: Operands("nvfp4", hadamard=24), "16, 32, 64, 128"),
    "signs of no rotation": (lambda: Operands("nvfp4", signs="random"), "none"),
    "other signs": (lambda: Operands("nvfp4", hadamard=16, signs="fair"), "fixed, random"),
    "EDEN of another format": (lambda: Operands("nvfp4", hadamard=128, signs="random", eden=True), "nvfp4-eden"),
    "EDEN of 16 points": (lambda: Operands("nvfp4-eden", hadamard=16, signs="random", eden=True), "128 points"),
    "EDEN and stochastic": (lambda: dataclasses.replace(EDEN, stochastic=True), "to nearest"),
    "a mean over tokens, forward": (lambda: gradients(recipe(activation={"split_mean": True})), "later token"),
    "a rotation in the forward product": (lambda: gradients(recipe(activation={"hadamard": 32})), "activation"),
    "a right format without a rotation": (lambda: gradients(recipe(gradient={"right": "nvfp4"})), "in gradient"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_by_name(what: str) -> None:
    call, match = REFUSED[what]
    with pytest.raises(ValueError, match=match):
        call()
