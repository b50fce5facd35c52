"""Every format, in every slot of a recipe, is computed as it is named, or refused by name before anything is placed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.definitions import support
from vbw_np.device import RECIPES, Device, Operands, Recipe, operands, place
from vbw_np.engine import Tensor, autograd, nn
from vbw_np.formats import E2M1, E4M3, E8M0, FORMATS, PROFILES, BlockFormat, get_format, quantize
from vbw_np.formats.hadamard import hadamard_rotate
from vbw_np.formats.scales import te_rule

matmul_arrays = autograd.ops.matmul_arrays
ROWS, IN, OUT = 48, 96, 64
EPS = float(np.finfo(np.float32).eps)
SLOTS = ("weight", "activation", "gradient", "weight_gradient", "weight_gradient.right")


def definition(x: np.ndarray, fmt: str | BlockFormat, key: tuple[int, int] | None = None) -> np.ndarray:
    """An operand by the readable definition alone, decoded to float32."""
    options = {} if key is None else {"ties": "stochastic", "seed": key[0], "stream": key[1]}
    return quantize(np.ascontiguousarray(x), fmt, measure=False, **options).dequantize()


def products(recipe: Recipe, seed: int = 5) -> tuple[nn.Linear, dict[str, np.ndarray], dict[str, str], list[tuple]]:
    """A layer's output and gradients under a recipe, how each was computed, and the keys of the random draws."""
    rng = np.random.default_rng(3)
    layer = nn.Linear(IN, OUT, bias=False, rng=1)
    x = rng.standard_normal((ROWS, IN)).astype(np.float32) * np.exp(rng.normal(size=(ROWS, 1))).astype(np.float32)
    g = rng.standard_normal((ROWS, OUT)).astype(np.float32)
    device = Device(recipe, seed=seed)
    keys: list[tuple[int, int]] = []
    drawn = device.unit.next_key
    device.unit.next_key = lambda: keys.append(drawn()) or keys[-1]
    device.place(layer)
    leaf = Tensor(x, requires_grad=True)
    y = layer(leaf)
    y.backward(g)
    card = next(iter(device.cards.values()))
    ways = dict(card.ways)
    assert device.report().data["cards"][0]["ways"] == ways
    device.release()
    arrays = {"x": x, "g": g, "y": y.data, "to_x": leaf.grad, "to_weight": layer.weight.grad}
    return layer, arrays, ways, keys


def close(ours: np.ndarray, left: np.ndarray, right: np.ndarray, what: str) -> None:
    """Equal to the product of the operands, up to the float32 sum over k: at most K + 4 roundings of a partial sum."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    bound = (left.shape[1] + 4) * EPS * (np.abs(left) @ np.abs(right).T)
    assert (np.abs(ours - left @ right.T) <= bound + 1e-45).all(), what


def check(recipe: Recipe) -> dict[str, str]:
    layer, arrays, ways, keys = products(recipe)
    weight, x, g = layer.weight.data, arrays["x"], arrays["g"]
    draws = iter(keys)

    def key(how: Operands) -> tuple[int, int] | None:
        return next(draws) if how.stochastic else None

    activation = x if recipe.activation is None else definition(x, recipe.activation.format, key(recipe.activation))
    close(arrays["y"], activation, decoded_weight(weight, recipe), f"{recipe.name}: y")
    if recipe.gradient is not None:
        gradient = definition(g, recipe.gradient.format, key(recipe.gradient))
        close(arrays["to_x"], gradient, backward_weight(weight, recipe), f"{recipe.name}: to_x")
    if recipe.weight_gradient is not None:
        how = recipe.weight_gradient
        turn = hadamard_rotate if how.hadamard else np.ascontiguousarray
        left = definition(turn(np.ascontiguousarray(g.T)), how.format, key(how))
        right = definition(turn(np.ascontiguousarray(x.T)), how.right or how.format)
        close(arrays["to_weight"], left, right, f"{recipe.name}: to_weight")
    return ways


def decoded_weight(weight: np.ndarray, recipe: Recipe) -> np.ndarray:
    packed = quantize(np.ascontiguousarray(weight), recipe.weight, measure=False)
    return (packed if recipe.fine == "always" else packed.coarse()).dequantize()


def backward_weight(weight: np.ndarray, recipe: Recipe) -> np.ndarray:
    """W^T as the right operand of g W: the same codes where scales are square, else quantized along its other axis."""
    fmt = get_format(recipe.weight)
    if fmt.block_rows == fmt.block:
        return decoded_weight(weight, recipe).T
    return decoded_weight(np.ascontiguousarray(weight.T), recipe)


def recipe_with(slot: str, fmt: str | BlockFormat, stochastic: bool = False, hadamard: int = 0) -> Recipe:
    """All three products quantized, one slot in `fmt`, the others as nvfp4-train has them, rounded to nearest."""
    parts = {
        "weight": "nvfp4-16x16",
        "activation": Operands("nvfp4-row-scaled"),
        "gradient": Operands("nvfp4-row-scaled"),
        "weight_gradient": Operands("nvfp4-row-scaled", right="nvfp4", hadamard=hadamard),
    }
    if slot == "weight":
        parts["weight"] = fmt
    elif slot == "weight_gradient.right":
        parts["weight_gradient"] = dataclasses.replace(parts["weight_gradient"], right=fmt)
    else:
        changed = {"format": fmt, "stochastic": stochastic}
        parts[slot] = dataclasses.replace(parts[slot], **changed)
    fine = "always" if slot == "weight" and get_format(fmt).fine is not None else "never"
    return Recipe(f"{slot}-test", summary="", fine=fine, **parts)


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_in_every_slot(fmt: str, slot: str) -> None:
    ways = check(recipe_with(slot, fmt))
    assert set(ways) == {"activation", "gradient", "weight_gradient"}
    assert set(ways.values()) <= {operands.TENSOR_CORE, operands.DECODED}


@pytest.mark.parametrize("slot", ["weight", "activation", "weight_gradient.right"])
def test_producers_formats_on_the_tensor_core(slot: str) -> None:
    """Bytes that the tensor core multiplies, made by a producer's own arithmetic: never by ours of the same family."""
    for profile in PROFILES.values():
        if support.family(profile.format).kernel:
            check(recipe_with(slot, profile.format))


@pytest.mark.parametrize("slot", ["activation", "gradient", "weight_gradient"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_rounded_stochastically(fmt: str, slot: str) -> None:
    recipe = recipe_with(slot, fmt, stochastic=True)
    try:
        quantize(np.ones((16, 256), np.float32), fmt, ties="stochastic", seed=0)
    except ValueError:
        with pytest.raises(ValueError, match=rf"{slot} in {fmt}, rounded 'stochastic', cannot be computed: .*can: "):
            place(nn.Linear(IN, OUT, rng=1), recipe)
    else:
        check(recipe)


@pytest.mark.parametrize(
    "fmt", ["nvfp4-row-headroom", "nvfp4", "mxfp4-rceil", "mxfp4-even", "int4-g16", "nvfp4-4over6"]
)
def test_rotated_operands(fmt: str) -> None:
    check(recipe_with("weight_gradient", fmt, stochastic=True, hadamard=16))
    check(recipe_with("weight_gradient.right", fmt, hadamard=16))


WALKED = [name for name, recipe in RECIPES.items() if recipe.activation and recipe.accumulate != "hopper"]
"""Sums of 13 bits are beyond the bound of a float32 sum: `test_card_sums` holds those recipes to their definition."""


@pytest.mark.parametrize("name", WALKED)
def test_the_named_recipes(name: str) -> None:
    assert set(check(RECIPES[name]).values()) == {operands.TENSOR_CORE}


@pytest.mark.parametrize("cap", [256.0, 448.0, 300.0])
@pytest.mark.parametrize("headroom", [1.0, 16 / 17, 0.8])
@pytest.mark.parametrize("level", ["none", "row", "tensor"])
def test_a_rule_is_its_numbers_not_its_name(cap: float, headroom: float, level: str) -> None:
    """A rule of one's own that bears the name of another: by the fast ways it is still computed by its numbers."""
    rule = te_rule("te", cap=cap, headroom=headroom, two_level=level != "none")
    fmt = dataclasses.replace(FORMATS["nvfp4"], name="mine", rule=rule, tensor_level=level)
    for slot in SLOTS:
        ways = check(recipe_with(slot, fmt, stochastic=slot == "gradient"))
        if slot in ("activation", "gradient"):
            assert ways[slot] == operands.TENSOR_CORE


def test_a_producers_own_arithmetic_is_not_mistaken_for_another() -> None:
    odd = dataclasses.replace(FORMATS["nvfp4"].rule, quotient=lambda x, s, g: x * 0 + np.float32(2))
    fmt = dataclasses.replace(FORMATS["nvfp4"], name="twos", rule=odd)
    assert odd.numbers is None
    for slot in SLOTS:
        check(recipe_with(slot, fmt))


@pytest.mark.parametrize(("slot", "how"), [
    ("activation", Operands("nvfp4-row-scaled", hadamard=16)),
    ("gradient", Operands("nvfp4-row-scaled", right="nvfp4")),
    ("activation", Operands("nvfp4-row-scaled", right="nvfp4")),
])  # fmt: skip
def test_what_only_one_operand_would_undergo_is_refused(slot: str, how: Operands) -> None:
    recipe = dataclasses.replace(RECIPES["nvfp4-train"], name="half", **{slot: how})
    with pytest.raises(ValueError, match=f"recipe half: .* in {slot}: the right operand there is the weight"):
        place(nn.Linear(IN, OUT, rng=1), recipe)


def multiplied(fmt: BlockFormat) -> bool:
    """Whether the tensor core takes weights of this format: E2M1 in blocks of 16 under E4M3, or of 32 under E8M0."""
    blocks = {(16, E4M3), (32, E8M0)}
    return fmt.element is E2M1 and (fmt.block, fmt.rule.scale_element) in blocks and fmt.tensor_level != "row"


@pytest.mark.parametrize("fmt", FORMATS)
def test_ways_that_cannot_be_are_refused(fmt: str) -> None:
    """`fp4` without activations, and `packed`, for weights that the tensor core has no blocks for.

    Weights of eight bits are no operands of the tensor core, but have a product of packed bytes of their own.
    """
    recipe = Recipe("mine", fmt, "")
    for compute in ("fp4", "packed"):
        if multiplied(get_format(fmt)) or (fmt, compute) == ("q8_0", "packed"):
            place(nn.Linear(IN, OUT, rng=1), recipe, compute=compute).release()
        else:
            with pytest.raises(ValueError, match=f"compute='{compute}'"):
                place(nn.Linear(IN, OUT, rng=1), recipe, compute=compute)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.weight])
@pytest.mark.parametrize("rows", [0, 1])
def test_no_rows_and_one_row(name: str, rows: int) -> None:
    layer = nn.Linear(16, 8, rng=1)
    device = place(layer, name)
    x = Tensor(np.zeros((rows, 16), np.float32), requires_grad=True)
    y = layer(x)
    y.backward(np.ones((rows, 8), np.float32))
    assert y.shape == (rows, 8) and x.grad.shape == (rows, 16) and layer.weight.grad.shape == (8, 16)
    assert layer.bias.grad.tolist() == [rows] * 8
    assert not layer.weight.grad.any()  # of no rows, and of a row of zeros
    device.release()


@pytest.mark.parametrize(
    ("name", "slot"),
    [(name, slot) for name, recipe in RECIPES.items() for slot in ("activation", "gradient", "weight_gradient")
     if getattr(recipe, slot) and getattr(recipe, slot).stochastic],
)  # fmt: skip
def test_stochastic_gradients_are_unbiased(name: str, slot: str) -> None:
    """<q, x> / <x, x> is 1 on average: within five standard errors over 64 draws of normal numbers."""
    how = getattr(RECIPES[name], slot)
    x = np.random.default_rng(9).standard_normal((64, 256)).astype(np.float32)
    ratios = []
    for stream in range(64):
        q = quantize(x, how.format, ties="stochastic", seed=1, stream=stream, measure=False).dequantize()
        ratios.append(np.vdot(q.astype(np.float64), x) / np.vdot(x.astype(np.float64), x))
    ratios = np.array(ratios)
    assert abs(ratios.mean() - 1) < 5 * ratios.std() / 8
    # and the same measure finds the saturation of the format without headroom: short by 0.35%
    if name == "nvfp4-train":
        q = quantize(x, "nvfp4-row-scaled", ties="stochastic", seed=1, measure=False).dequantize()
        assert np.vdot(q.astype(np.float64), x) / np.vdot(x.astype(np.float64), x) < 1 - 0.002


def gradients_of(recipe: str, compute: str, write: bool) -> list[np.ndarray]:
    """A layer's gradients under a recipe; with `write`, its weight is another one before the backward pass."""
    rng = np.random.default_rng(4)
    layer = nn.Linear(32, 16, rng=1)
    device = place(layer, recipe, compute=compute, seed=2)
    x = Tensor(rng.standard_normal((16, 32)).astype(np.float32), requires_grad=True)
    y = layer(x)
    if write:
        layer.weight.assign(layer.weight.data * 2 + 1)
    try:
        y.backward(rng.standard_normal((16, 16)).astype(np.float32))
    finally:
        device.release()
    return [x.grad, layer.weight.grad, layer.bias.grad]


@pytest.mark.parametrize("compute", ["auto", "fp4"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_weight_written_before_backward_is_never_silently_stale(name: str, compute: str) -> None:
    """A card that keeps what it multiplied with gives the gradients of then; where it kept nothing, the error says so.

    With recipe fp32 it multiplies with the parameter itself, and the gradient was silently that of the new values.
    """
    recipe = RECIPES[name]
    if compute == "fp4" and not recipe.activation and not (recipe.weight and multiplied(get_format(recipe.weight))):
        return  # refused, or nothing is quantized: see `test_ways_that_cannot_be_are_refused`
    right = gradients_of(name, compute, write=False)
    try:
        found = gradients_of(name, compute, write=True)
    except RuntimeError as error:
        assert "was changed after" in str(error) and "Linear.weight (16, 32)" in str(error)
        assert name == "fp32", "the others keep what they multiplied with"
    else:
        assert name != "fp32"
        for ours, theirs in zip(found, right, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("where", ["x", "g"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.gradient])
def test_what_is_not_finite_goes_the_same_way_with_and_without_kernels(name: str, value: float, where: str) -> None:
    """The same numbers are NaN in the products of the definition and of the kernels, or both raise the same error."""
    found = []
    for twins in (True, False):
        layer = nn.Linear(32, 16, rng=1)
        device = place(layer, name, seed=2)
        rng = np.random.default_rng(6)
        arrays = {"x": rng.standard_normal((40, 32)), "g": rng.standard_normal((40, 16))}
        arrays[where][21, 3] = value
        x = Tensor(arrays["x"].astype(np.float32), requires_grad=True)
        try:
            with autograd.use_twins(twins), np.errstate(invalid="ignore", over="ignore"):
                layer(x).backward(arrays["g"].astype(np.float32))
            found.append([x.grad, layer.weight.grad])
        except ValueError as error:
            found.append(str(error))
        finally:
            device.release()
    with_kernels, without = found
    if isinstance(with_kernels, str):
        assert with_kernels == without and f"{where if where == 'x' else 'x'}[21, 3]" in without
        return
    for ours, theirs in zip(with_kernels, without, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.isnan(with_kernels[1]).any() and np.isfinite(with_kernels[1]).any()


@pytest.mark.parametrize("slot", ["activation", "gradient", "weight_gradient"])
def test_a_slot_that_is_no_operands_is_refused(slot: str) -> None:
    with pytest.raises(ValueError, match=rf"recipe mine: {slot} is Operands\(format, ...\) or None, not 'nvfp4'"):
        Recipe("mine", "nvfp4", "", **{slot: "nvfp4"})


@pytest.mark.parametrize("slot", SLOTS)
def test_what_the_definition_refuses_is_refused_before_anything_is_placed(slot: str) -> None:
    """A record whose rule has no second candidate for the choice between 6 and 4."""
    mine = dataclasses.replace(FORMATS["mxfp4"], name="mine", four_over_six="mse")
    layer = nn.Linear(IN, OUT, rng=1)
    with pytest.raises(ValueError, match=rf"{slot.split('.')[0]} in mine, cannot be computed: .*can: mxfp4, "):
        place(layer, recipe_with(slot, mine))
    assert layer.weight.host is None


def test_one_pattern_to_keep_is_one_pattern() -> None:
    """A string was one pattern a letter, so that the star in "*gate*" kept every layer in float32."""
    recipe = Recipe("mine", "nvfp4", "", keep="*gate*")
    assert recipe.keeps("block.gate") and not recipe.keeps("block.up") and recipe.keep == ("*gate*",)
    with pytest.raises(ValueError, match=r"recipe mine: schedule is a Schedule\(...\) or None, not 'off'"):
        Recipe("mine", "nvfp4", "", schedule="off")
