"""Every method with every format on a small Llama; what is watched, folded, kept, run and measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.engine import no_grad
from vbw_np.errors import UserError
from vbw_np.formats import FORMATS, encode, fit_scales, get_format
from vbw_np.models.llama import Llama
from vbw_np.ptq.calibration import KeptMoments, Moments, watch, wrapped
from vbw_np.ptq.channel_scales import awq_factors, normalized, output_error, smoothquant_factors
from vbw_np.ptq.errors import CalibrationError
from vbw_np.ptq.measuring import Reference, measure
from vbw_np.ptq.methods import Method, read_method
from vbw_np.ptq.quantizing import Calibration, Plan, quantize_model
from vbw_np.ptq.sites import SITES, fold_scale, linears_of, shared_channels

from .conftest import CONFIG, small_llama

METHODS = (
    "rtn", "gptq", "gptq:scales=static:order=activation", "gptq:sequential=yes", "awq", "smoothquant", "rotate",
    "rotate:points=8:where=stream", "clip", "awq+rotate:points=8+clip+gptq",
)  # fmt: skip
PLAIN = [name for name, fmt in FORMATS.items() if fmt.fine is None]


def logits(model: Llama, ids: np.ndarray) -> np.ndarray:
    with no_grad():
        return model(ids).data


def plan(fmt: str, method: str = "rtn", **options) -> Plan:
    return Plan(get_format(fmt), read_method(method), **options)


@pytest.fixture(scope="module")
def calibration(windows: np.ndarray) -> Calibration:
    return Calibration(windows)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fmt", ["nvfp4", "mxfp4", "int4-row", "nvfp4-nested", "nvfp4-16x16", "q4_1"])
def test_every_method_with_every_kind_of_format(
    fmt: str, method: str, calibration: Calibration, windows: np.ndarray, llama: Llama
) -> None:
    reference = Reference.of(llama, windows[:2])
    quantized = quantize_model(llama, plan(fmt, method), calibration)
    assert set(quantized.packed) == set(linears_of(llama))
    for name, layer in linears_of(llama).items():
        np.testing.assert_array_equal(quantized.packed[name].dequantize(), layer.weight.data)
    quality = measure(llama, reference, quantized.running())
    assert 0 < quality.kl < 3 and quality.tokens == 64
    assert all(0 < error.output < 0.2 and 0 < error.weight < 0.2 for error in quantized.errors)


@pytest.mark.parametrize("fmt", PLAIN)
def test_every_format_with_everything_at_once(fmt: str, calibration: Calibration, llama: Llama) -> None:
    method = "awq+rotate:points=8+clip:factors=1/0.8+gptq"
    if fmt == "q4_k":  # whose blocks share numbers
        with pytest.raises(UserError, match="8 blocks of q4_k share two numbers.*use q4_1"):
            quantize_model(llama, plan(fmt, method), calibration)
        method = "awq+rotate:points=8+gptq"
    quantized = quantize_model(llama, plan(fmt, method), calibration)
    assert len(quantized.packed) == 14


def test_gptq_loses_less_at_the_outputs_and_more_in_the_weights(calibration: Calibration) -> None:
    nearest = quantize_model(small_llama(), plan("nvfp4"), calibration).errors
    carried = quantize_model(small_llama(), plan("nvfp4", "gptq"), calibration).errors
    for near, far in zip(nearest, carried, strict=True):
        assert near.name == far.name
        assert far.output < near.output and far.weight > near.weight


def test_before_anything_is_rounded_nothing_changes(calibration: Calibration, windows: np.ndarray) -> None:
    """Kept layers are scaled and folded like the others: a method on a model that is kept whole is exact."""
    for method in ("awq", "smoothquant", "rotate:points=8:where=stream", "smoothquant+rotate:points=0:where=stream"):
        model = small_llama()
        before = logits(model, windows[:2])
        quantize_model(model, plan("nvfp4", method, keep=("*",)), calibration)
        after = logits(model, windows[:2])
        assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max(), method


def test_rotated_inputs_and_rotated_weights_cancel(calibration: Calibration, windows: np.ndarray, llama: Llama) -> None:
    """In a format so fine that rounding to it is no more than float32's noise."""
    before = logits(llama, windows[:2])
    quantized = quantize_model(llama, plan("int8-row", "rotate:points=16"), calibration)
    turned = {name: layer.weight.data for name, layer in linears_of(llama).items()}
    for name, layer in linears_of(small_llama()).items():
        rotated = quantized.rotations[name](layer.weight.data)
        assert np.abs(turned[name] - rotated).max() <= np.abs(rotated).max() / 127
        turned[name][...] = rotated
    with quantized.running():
        after = logits(llama, windows[:2])
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()
    assert np.abs(logits(llama, windows[:2]) - before).max() > 0.1 * np.abs(before).max()  # not without the inputs'


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
@pytest.mark.parametrize("bias", [False, True])
def test_scales_are_folded_exactly(site, bias: bool, windows: np.ndarray) -> None:
    config = dataclasses.replace(CONFIG, attention_bias=bias, mlp_bias=bias)
    model = small_llama(np.float64, config)
    before = logits(model, windows[:2])
    block, rng = model.model.layers[0], np.random.default_rng(4)
    width = dict(block.named_modules())[site.name].in_features
    factors = shared_channels(block, site, np.exp(rng.standard_normal(width)), np.max)
    fold_scale(block, site, factors)
    after = logits(model, windows[:2])
    assert np.abs(after - before).max() <= 1e-12 * np.abs(before).max()


def test_keep_and_activations(calibration: Calibration, windows: np.ndarray) -> None:
    model = small_llama()
    reference = Reference.of(model, windows[:2])
    exact = model.model.layers[1].mlp.down_proj.weight.data.copy()
    kept = quantize_model(model, plan("mxfp4", keep=("*down_proj", "model.layers.0.*")), calibration)
    assert {name.rsplit(".", 1)[1] for name in kept.packed} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"
    }  # fmt: skip
    np.testing.assert_array_equal(model.model.layers[1].mlp.down_proj.weight.data, exact)
    without = measure(model, reference, kept.running()).kl
    both = dataclasses.replace(kept, plan=dataclasses.replace(kept.plan, activations=get_format("mxfp4")))
    assert measure(model, reference, both.running()).kl > without > 0
    with both.running():
        pass
    assert measure(model, reference).kl == without  # nothing stays wrapped


def test_one_pattern_to_keep_is_one_pattern() -> None:
    plan = Plan(get_format("nvfp4"), Method(), keep="*gate*")
    assert plan.keep == ("*gate*",) and plan.keeps("layers.0.gate") and not plan.keeps("layers.0.up")


def test_activations_are_quantized_row_by_row(calibration: Calibration, windows: np.ndarray, llama: Llama) -> None:
    quantized = quantize_model(llama, plan("nvfp4", activations=get_format("nvfp4-row-scaled")), calibration)
    with quantized.running():
        whole, first = logits(llama, windows[:1]), logits(llama, windows[:1, :10])
    np.testing.assert_allclose(whole[:, :10], first, atol=1e-4 * np.abs(whole).max())  # no token changes an earlier one


def test_what_a_method_learns_from_is_what_flows_in(windows: np.ndarray, llama: Llama) -> None:
    layers = {"a": llama.model.layers[0].mlp.down_proj}
    seen: list[np.ndarray] = []

    def look(name, x):
        seen.append(x.data.reshape(-1, 64))
        return x

    with wrapped(layers, look):
        moments = watch(layers, lambda: [logits(llama, windows[:5]), logits(llama, windows[5:])])["a"]
    assert "forward" not in layers["a"].__dict__
    x = np.concatenate(seen)
    np.testing.assert_allclose(moments.hessian, x.T @ x / len(x), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(moments.largest, np.abs(x).max(axis=0))
    assert moments.tokens == len(x) == windows.size
    factors = np.linspace(0.5, 2, 64).astype(np.float32)
    scaled = Moments.empty(64)
    scaled.add(x * factors)
    np.testing.assert_allclose(moments.scaled(factors).hessian, scaled.hessian, rtol=1e-3, atol=1e-6)


def test_a_sequential_calibration_sees_what_quantized_layers_make(windows: np.ndarray) -> None:
    calibration = Calibration(windows)
    once = quantize_model(small_llama(), plan("mxfp4", "gptq"), calibration)
    after = quantize_model(small_llama(), plan("mxfp4", "gptq:sequential=yes"), calibration)
    first, last = "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"
    np.testing.assert_array_equal(once.packed[first].codes, after.packed[first].codes)
    assert (once.packed[last].codes != after.packed[last].codes).any()


def test_a_kept_calibration_is_the_same_as_a_new_one(windows: np.ndarray) -> None:
    shared = Calibration(windows)
    quantize_model(small_llama(), plan("nvfp4", "awq"), shared)  # changes its model, not the moments
    kept = quantize_model(small_llama(), plan("nvfp4", "gptq"), shared)
    new = quantize_model(small_llama(), plan("nvfp4", "gptq"), Calibration(windows))
    for name, packed in new.packed.items():
        np.testing.assert_array_equal(packed.codes, kept.packed[name].codes)


def test_scale_searches() -> None:
    rng = np.random.default_rng(0)
    loud = np.where(np.arange(64) % 16 == 0, 30.0, 1.0)
    moments = Moments.empty(64)
    moments.add((rng.standard_normal((500, 64)) * loud).astype(np.float32))
    weight, fmt = rng.standard_normal((24, 64)).astype(np.float32), get_format("nvfp4")

    def rounded(w: np.ndarray) -> np.ndarray:
        return encode(w, fmt, fit_scales(w, fmt)).dequantize()

    factors = awq_factors([weight], moments, (0, 0.5), rounded, lambda v: v)
    assert factors[::16].min() > 3 * factors[1:16].max()
    plain = output_error(rounded(weight) - weight, moments.hessian)
    scaled = output_error(rounded(weight * factors) / factors - weight, moments.hessian)
    assert scaled < 0.5 * plain
    assert (awq_factors([weight], moments, (0,), rounded, lambda v: v) == 1).all()
    smooth = smoothquant_factors([weight], moments, 0.5)
    expected = np.sqrt(moments.largest / np.abs(weight).max(axis=0))
    np.testing.assert_allclose(smooth, expected / np.exp(np.log(expected).mean()), rtol=1e-5)
    np.testing.assert_array_equal(normalized(np.array([0, np.inf, 4.0, 1.0])), [1, 1, 2, 0.5])


def test_bad_calibrations_are_refused_before_any_work(llama: Llama) -> None:
    with pytest.raises(CalibrationError, match="has 10 tokens, and a method needs at least 256"):
        Calibration(np.zeros((1, 10), np.int64))
    for method in ("gptq", "awq", "smoothquant", "clip"):
        with pytest.raises(CalibrationError, match="learns from what flows into the layers"):
            quantize_model(llama, plan("nvfp4", method))
    with pytest.raises(UserError, match="blocks of 32 do not fit into a width of 48"):
        quantize_model(llama, plan("nvfp4", "rotate:points=32"))


def test_measuring_against_definitions(windows: np.ndarray, llama: Llama) -> None:
    reference = Reference.of(llama, windows[:3])
    same = measure(llama, reference)
    assert same.kl == pytest.approx(0, abs=1e-9) and same.top1 == 1
    with no_grad():
        assert np.log(same.perplexity) == pytest.approx(float(llama.loss(windows[:3]).data), rel=1e-5)
    before = logits(llama, windows[:3]).astype(np.float64)
    quantized = quantize_model(llama, Plan(get_format("mxfp4"), Method()))
    after = logits(llama, windows[:3]).astype(np.float64)

    def log_probabilities(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)

    p, q = log_probabilities(before), log_probabilities(after)
    quality = measure(llama, reference, quantized.running())
    assert quality.kl == pytest.approx((np.exp(p) * (p - q)).sum(-1).mean(), rel=1e-4)
    assert quality.top1 == pytest.approx((before.argmax(-1) == after.argmax(-1)).mean())
    assert all(error.output is None for error in quantized.errors)


def test_moments_that_were_put_away_come_back_bit_for_bit() -> None:
    moments = Moments.empty(37)
    moments.add(np.random.default_rng(0).normal(size=(4, 50, 37)).astype(np.float32))
    kept = KeptMoments.of(moments)
    again = kept.moments()
    assert np.array_equal(again.hessian, moments.hessian) and np.array_equal(again.largest, moments.largest)
    assert kept.triangle.nbytes == 37 * 38 // 2 * 4 and again.tokens == 200
