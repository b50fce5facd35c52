"""The fast quantizers and decoders against the readable ones in `vbw_np.formats`: not a bit may differ."""

from __future__ import annotations

import dataclasses

import numba
import numpy as np
import pytest

from vbw_np import formats
from vbw_np.definitions import support
from vbw_np.kernels.fp4.dequantize import dequantize
from vbw_np.kernels.fp4.quantize import fast_quantile_codebook, quantize, row_amax, tensor_amax

FAST = [
    "mxfp4", "mxfp4-even", "mxfp4-ceil", "mxfp4-rceil", "nvfp4", "nvfp4-1level", "nvfp4-row-scaled", "nvfp4-16x16",
    "nvfp4-16x16-1level", "nvfp4-headroom", "nvfp4-row-headroom", "nvfp4-eden", "nvfp4-nested", "mxfp4-nested",
    "fp4-row", "fp4-g16", "seed-v6",
]  # fmt: skip
"""Formats that kernels quantize; all others are left to NumPy."""

SHAPES = [(5, 512), (33, 256), (17, 300), (3, 7), (20, 1001), (2, 3, 64), (1, 1), (1000,), (70, 1024), (2, 2600)]

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


def arrays(shape: tuple[int, ...], seed: int = 0):
    """Numbers of every kind: ordinary, over the whole range of float32, on ties, subnormal, and zeros of both signs."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=shape).astype(np.float32)
    yield normal
    with np.errstate(over="ignore"):
        wide = (np.sign(normal) * np.exp(rng.normal(size=shape) * 30)).astype(np.float32)
    yield np.clip(wide, -3.4e38, 3.4e38)
    ties = (rng.integers(-12, 13, size=shape) * 0.25).astype(np.float32)
    ties[..., 0] = -0.0
    yield ties
    yield (rng.integers(-(2**12), 2**12, size=shape) * 2.0**-149).astype(np.float32)
    yield np.where(normal > 1, normal, np.float32(-0.0))
    yield np.zeros(shape, np.float32)


def assert_same(ours: formats.PackedTensor, theirs: formats.PackedTensor) -> None:
    for field in dataclasses.fields(formats.PackedTensor):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(a, np.ndarray | np.generic) or isinstance(b, np.ndarray | np.generic):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
            assert np.asarray(a).dtype == np.asarray(b).dtype, field.name
        else:
            assert a == b, field.name


def fits(name: str, shape: tuple[int, ...]) -> bool:
    return formats.get_format(name).block_rows == 1 or len(shape) == 2


@pytest.mark.parametrize("name", FAST)
def test_quantize_equals_the_readable_quantizer(name):
    for shape in SHAPES:
        for x in arrays(shape) if fits(name, shape) else ():
            assert_same(quantize(x, name), formats.quantize(x, name, measure=False))


@pytest.mark.parametrize("name", [name for name in FAST if formats.get_format(name).fine is None])
@pytest.mark.parametrize("ties", ["stochastic", "stochastic-8"])
def test_stochastic_rounding_uses_the_same_bits(name, ties):
    for shape in ((7, 96), (18, 300), (3, 7)):
        for x in arrays(shape, seed=1):
            options = {"ties": ties, "seed": 2**40 + 5, "stream": 9}
            assert_same(quantize(x, name, **options), formats.quantize(x, name, measure=False, **options))


STOCHASTIC = [
    name for name, fmt in formats.FORMATS.items()
    if fmt.fine is None and fmt.rule.affine is None and isinstance(fmt.element, formats.ElementFormat)
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_every_format_is_rounded_stochastically_whoever_computes_it(name, dtype):
    """What the kernels leave to NumPy keeps its rounding: other formats, other dtypes."""
    x = next(arrays((32, 192), seed=12)).astype(dtype)
    options = {"ties": "stochastic", "seed": 7}
    packed = quantize(x, name, **options)
    assert_same(packed, formats.quantize(x, name, measure=False, **options))
    assert (packed.codes != quantize(x, name).codes).any()


@pytest.mark.parametrize("name", FAST)
def test_given_scales(name):
    """Old scales, new codes: what lies beyond the largest code saturates."""
    for shape in ((20, 1001), (16, 512)):
        x, moved = (next(arrays(shape, seed)) for seed in (2, 3))
        old = formats.quantize(x, name, measure=False)
        assert_same(quantize(3 * moved, name, reuse=old), formats.quantize(3 * moved, name, reuse=old, measure=False))


def test_quantiles_without_sorting():
    for shape in ((1, 1), (3, 5), (40, 1001), (300, 700)):
        for w in arrays(shape, seed=11):
            np.testing.assert_array_equal(fast_quantile_codebook(w), formats.quantile_codebook(w))


def test_known_amax_is_used():
    x = next(arrays((40, 64)))
    assert tensor_amax(x) == np.abs(x).max()
    np.testing.assert_array_equal(row_amax(x), np.abs(x).max(axis=-1, keepdims=True))
    for name, amax in (("nvfp4", np.abs(x).max()), ("nvfp4-row-scaled", np.abs(x).max(axis=-1, keepdims=True))):
        assert_same(quantize(x, name, amax=amax), formats.quantize(x, name, measure=False))
    larger = quantize(x, "nvfp4", amax=2 * np.abs(x).max())
    assert larger.tensor_scale == np.float32(2) * formats.quantize(x, "nvfp4").tensor_scale


def test_every_other_format_is_left_to_numpy():
    x = next(arrays((32, 128)))
    for name, fmt in formats.FORMATS.items():
        fast = fmt.quantile_codebook or support.strips(fmt, fmt.ties).kernel is not None
        assert (name in FAST) == fast, f"{name}: FAST and definitions/support.py say different things"
        assert_same(quantize(x, name), formats.quantize(x, name, measure=False))


def test_out_is_overwritten():
    x, y = (next(arrays((64, 128), seed)) for seed in (5, 6))
    for name in ("nvfp4", "mxfp4-nested", "fp4-row", "seed-v6"):
        first = quantize(x, name)
        second = quantize(y, name, out=first)
        assert second.codes is first.codes
        assert_same(second, formats.quantize(y, name, measure=False))
    with pytest.raises(formats.ShapeError, match="out is a"):
        quantize(x[:3], "nvfp4", out=quantize(x, "nvfp4"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", FAST)
def test_refuses_what_is_not_finite(name, bad):
    x = np.ones((4, 96), np.float32)
    x[2, 77] = bad
    with pytest.raises(formats.NonFiniteError, match=r"\[2, 77\]"):
        quantize(x, name)


def test_bad_calls():
    with pytest.raises(formats.DtypeError):
        quantize(np.ones((2, 16), np.int64), "nvfp4")
    with pytest.raises(formats.ShapeError, match="amax has shape"):
        quantize(np.ones((2, 16), np.float32), "nvfp4-4over6", amax=np.ones((2, 1), np.float32))
    with pytest.raises(formats.ShapeError):
        quantize(np.ones((2, 32), np.float32), "nvfp4", reuse=quantize(np.ones((2, 16), np.float32), "nvfp4"))
    packed = quantize(np.ones((2, 16), np.float32), "nvfp4")
    with pytest.raises(formats.ShapeError, match="out must be"):
        dequantize(packed, out=np.empty((16, 2), np.float32))
    with pytest.raises(formats.DtypeError, match="decoding gives float32"):
        dequantize(packed, out=np.empty((2, 16), np.float64))
    with pytest.raises(formats.FormatError, match="planes"):
        dequantize(packed, planes=1)


@pytest.mark.parametrize("name", sorted(formats.FORMATS))
def test_dequantize_equals_the_readable_decoder(name):
    fmt = formats.get_format(name)
    for shape in SHAPES[:7] if fmt.block_rows == 1 else [s for s in SHAPES if len(s) == 2]:
        for x in (next(arrays(shape, seed=7)), list(arrays(shape, seed=8))[1]):
            policy = "raise" if fmt.rule.affine is None else "producer"  # ggml's searches make NaN of huge numbers
            packed = formats.quantize(x, fmt, measure=False, nonfinite=policy)
            nested = fmt.fine is not None and fmt.fine.kind == "nested"
            for planes in range(packed.planes + 1) if nested else {0, packed.planes}:
                expected = packed.dequantize(planes)
                np.testing.assert_array_equal(dequantize(packed, planes), expected)


def test_dequantize_past_the_caches(monkeypatch):
    from vbw_np.kernels.fp4 import dequantize as module

    monkeypatch.setattr(module, "STREAM_FROM", 0)
    for name in ("nvfp4", "mxfp4-nested", "fp4-row"):
        packed = formats.quantize(next(arrays((64, 1024))), name, measure=False)
        out = module.empty((64, 1024))  # large enough for the pool, so aligned
        assert dequantize(packed, out=out) is out
        np.testing.assert_array_equal(out, packed.dequantize())


@pytest.mark.skipif(numba.get_num_threads() < 2, reason="one thread only")
def test_bits_do_not_depend_on_the_number_of_threads():
    x = next(arrays((300, 416), seed=9))
    before = numba.get_num_threads()
    for options in ({"format": "nvfp4"}, {"format": "mxfp4", "ties": "stochastic", "seed": 1}, {"format": "seed-v6"}):
        many = quantize(x, **options)
        try:
            numba.set_num_threads(1)
            one = quantize(x, **options)
        finally:
            numba.set_num_threads(before)
        assert_same(many, one)
