"""GPTQ against its definition, against brute force, and code for code as llm-compressor (tools/oracles/gptq.py)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vbw_np.errors import UserError
from vbw_np.formats import E4M3, FORMATS, FittedScales, encode, get_format, quantize
from vbw_np.ptq.errors import CalibrationError
from vbw_np.ptq.fitting import Fitter, check_columns, fits_by_block, written_codes
from vbw_np.ptq.gptq import carry_factor, gptq, gptq_in_order

GOLDEN = np.load(Path(__file__).parents[1] / "oracles" / "gptq.npz")


def moments(width: int, tokens: int = 400, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, width)) @ rng.standard_normal((width, width))
    return (x.T @ x / tokens).astype(np.float32)


def weights(rows: int, width: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def loss(error: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Of each row."""
    return np.einsum("ri,ij,rj->r", error.astype(np.float64), hessian.astype(np.float64), error.astype(np.float64))


def damped(hessian: np.ndarray, damping: float) -> np.ndarray:
    exact = hessian.astype(np.float64)
    return exact + damping * np.trace(exact) / len(exact) * np.eye(len(exact))


@pytest.mark.parametrize("name", ["nvfp4", "int4-row", "nf4"])
def test_every_column_is_rounded_from_where_the_best_completion_has_it(name: str) -> None:
    """What defines GPTQ, by least squares: given the columns before it, a column starts from the best real values."""
    weight, hessian, fmt = weights(6, 8), moments(8), get_format(name)
    fitter = Fitter.of(weight, fmt)
    scales = fitter(weight)
    values = gptq_in_order(weight, hessian, fmt, scales, np.arange(8), damping=0.01)
    exact = damped(hessian, 0.01)
    for j in range(8):
        # minimize over the columns from j on:  (w - q) H (w - q)^T  with those before j as they were rounded
        fixed = weight[:, :j].astype(np.float64) - values[:, :j]
        best = weight[:, j:] + fixed @ exact[:j, j:] @ np.linalg.inv(exact[j:, j:])
        trial = np.zeros_like(weight)
        trial[:, j] = best[:, 0]
        expected = encode(trial, fmt, scales).dequantize()[:, j]
        np.testing.assert_array_equal(values[:, j], expected)


def test_on_a_layer_of_4_by_4_it_is_held_against_all_that_could_be_chosen() -> None:
    fmt, ratios = replace(get_format("nvfp4-1level"), block=4), []
    for seed in range(20):
        weight, hessian = weights(4, 4, seed), moments(4, 30, seed + 100)
        scales = Fitter.of(weight, fmt)(weight)
        rounded = gptq_in_order(weight, hessian, fmt, scales, np.arange(4), damping=1e-6)
        nearest = encode(weight, fmt, scales).dequantize()
        least = []
        for row in range(4):
            levels = np.unique(fmt.element.table) * E4M3.table[scales.block[row, 0]]
            every = np.array(list(itertools.product(levels, repeat=4)), np.float32)
            least.append(loss(every - weight[row], hessian).min())
        ours, by_nearest = loss(rounded - weight, hessian), loss(nearest - weight, hessian)
        assert (ours >= np.array(least) * (1 - 1e-4)).all()
        ratios.append((ours.sum() / sum(least), by_nearest.sum() / sum(least)))
    ours, by_nearest = np.exp(np.log(ratios).mean(axis=0))
    assert ours < 0.8 * by_nearest  # both in units of the least loss that there is; geometric means


@pytest.mark.parametrize("name", ["nvfp4", "int4", "int4-by-activation"])
def test_code_for_code_as_llm_compressor(name: str) -> None:
    weight, hessian = GOLDEN["weight"], GOLDEN["hessian"]
    scale, theirs = GOLDEN[f"{name}/scale"], GOLDEN[f"{name}/rounded"]
    if name == "nvfp4":
        # its global scale divides: s / g is the step; the same bytes and multiplier here
        fmt, multiplier = get_format("nvfp4"), np.float32(1) / GOLDEN["nvfp4/level"].reshape(())
        level = np.float32(multiplier * 2688)
        scales = FittedScales(E4M3.encode(scale, "even"), level, np.float32(multiplier))
        step = scale * multiplier
    else:
        fmt, step = get_format("int4-offset8-g32"), scale
        scales = FittedScales(scale, inner=(scale, None))
    order = np.arange(weight.shape[1])
    if name == "int4-by-activation":
        order = np.argsort(-np.diag(hessian), kind="stable")
    ours = gptq_in_order(weight, hessian, fmt, scales, order, damping=0.01)
    steps = np.repeat(step, fmt.block, axis=1)
    differ = np.abs(ours / steps - theirs / steps) > 1e-3
    assert differ.mean() <= 1e-3
    if differ.any():  # the rest: a sum that lay on the edge of two codes was rounded apart, and the row went on from it
        rows = differ.any(axis=1)
        first = differ[rows].argmax(axis=1)
        place = np.flatnonzero(rows)
        gap = np.abs(ours - theirs)[place, first] / steps[place, first]
        assert gap.max() <= 2
        np.testing.assert_allclose(loss(ours - weight, hessian)[place], loss(theirs - weight, hessian)[place], rtol=0.2)


def test_the_carry_factor_is_that_of_the_damped_moments() -> None:
    hessian = moments(12)
    factor = carry_factor(hessian, 0.02).astype(np.float64)
    np.testing.assert_array_equal(np.tril(factor, -1), 0)
    np.testing.assert_array_equal(np.diag(factor), 1)
    inverse = np.linalg.inv(factor)
    diagonal = inverse @ damped(hessian, 0.02) @ inverse.T
    assert np.abs(diagonal - np.diag(np.diag(diagonal))).max() < 1e-5 * np.abs(diagonal).max()
    for bad in (np.zeros((3, 3)), np.full((3, 3), np.nan)):
        with pytest.raises(CalibrationError, match="mean square"):
            carry_factor(bad, 0.01)
    with pytest.raises(CalibrationError, match="positive definite"):
        carry_factor(np.array([[1.0, 5], [5, 1]]), 0.01)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str) -> None:
    """The encoder finds the chosen values again, and a layer's output loses less than by rounding to nearest."""
    fmt, weight, hessian = get_format(name), weights(32, 64), moments(64)
    if fmt.fine is not None and fmt.fine.kind in ("tied", "own"):
        with pytest.raises(UserError, match=f"{name} has several codes for one value"):
            check_columns(fmt)
        return
    check_columns(fmt)
    fitter = Fitter.of(weight, fmt)
    if fits_by_block(fmt):
        values, scales = gptq(weight, hessian, fmt, fitter)
        again = gptq_in_order(weight, hessian, fmt, scales, np.arange(64))
        assert (again != values).mean() < 0.001  # other orders of the same sums
    else:
        scales = fitter(weight)
        values = gptq_in_order(weight, hessian, fmt, scales, np.arange(64))
    packed = encode(values, fmt, scales)
    np.testing.assert_array_equal(packed.dequantize(), values)
    nearest = quantize(weight, fmt).dequantize()
    assert loss(values - weight, hessian).sum() < 0.7 * loss(nearest - weight, hessian).sum()


@pytest.mark.parametrize("width", [40, 72])
@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "int4-row", "q4_1"])
def test_a_ragged_last_block(name: str, width: int) -> None:
    fmt, weight, hessian = get_format(name), weights(5, width), moments(width)
    values, scales = gptq(weight, hessian, fmt, Fitter.of(weight, fmt))
    np.testing.assert_array_equal(encode(values, fmt, scales).dequantize(), values)


def test_codes_that_no_encoder_writes_are_not_chosen() -> None:
    assert len(written_codes(get_format("mxint4"))) == 15  # its -8 has no opposite
    assert len(written_codes(get_format("mxfp8-e4m3"))) == 254  # less the two NaN
    assert written_codes(get_format("nvfp4-nested")) is None


def test_blocks_across_rows_are_refused() -> None:
    with pytest.raises(UserError, match="across the rows"):
        check_columns(replace(get_format("nf4"), flat=True))


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "nvfp4-16x16", "q4_0", "int4-zero-g32", "fp8-tensor"])
def test_clipping_picks_block_by_block_what_loses_least(name: str) -> None:
    fmt, weight = get_format(name), np.random.default_rng(3).standard_normal((32, 64)).astype(np.float32)
    factors = (1.0, 0.9, 0.7, 1.5)
    scales = Fitter.of(weight, fmt, factors)(weight)
    clipped = float(np.square(encode(weight, fmt, scales).dequantize() - weight).sum())
    single = [Fitter.of(weight, fmt, (factor,)) for factor in factors]
    each = [float(np.square(encode(weight, fmt, fit(weight)).dequantize() - weight).sum()) for fit in single]
    assert clipped <= min(each) * (1 + 1e-6)
    assert clipped < min(each) or fmt.flat


def test_importance_moves_the_choice() -> None:
    weight = np.zeros((1, 16), np.float32)
    weight[0, :2] = 6, 0.26
    fmt, importance = replace(get_format("nvfp4-1level")), np.ones(16, np.float32)
    plain = Fitter.of(weight, fmt, (1.0, 0.5))(weight)
    importance[1] = 1000
    weighted = Fitter.of(weight, fmt, (1.0, 0.5), importance)(weight)
    assert E4M3.table[plain.block[0, 0]] == 1 and E4M3.table[weighted.block[0, 0]] == 0.5
