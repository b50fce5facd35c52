"""The virtual tensor core: every instruction set against the sequential definition, quantizers against the formats."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, replace

import numba
import numpy as np
import pytest

from vbw_np import formats
from vbw_np.definitions.aligned import aligned_empty
from vbw_np.definitions.panels import BY_ROWS, DOUBLED, LeftOperand, RightOperand
from vbw_np.formats.hadamard import hadamard_rotate
from vbw_np.kernels.fp4 import blackwell, tensor_core
from vbw_np.kernels.fp4.gemv import matvec
from vbw_np.kernels.fp4.scale_words import half_scales
from vbw_np.kernels.fp4.tensor_core import (
    left_from_packed,
    matmul,
    matmul_reference,
    quantize_left,
    quantize_right,
    right_from_packed,
    transformer_engine_alpha,
)
from vbw_np.simd import cpu, jit

FORMATS = ("mxfp4", "nvfp4")
SHAPES = [(1, 1, 16), (5, 3, 40), (48, 130, 96), (100, 257, 160), (390, 48, 1056), (13, 40, 2080)]


def data(shape: tuple[int, int], seed: int) -> np.ndarray:
    """float32 with outliers, a zero block and exact ties."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    x.ravel()[:: max(1, x.size // 7)] *= 50
    x[0, : min(32, shape[1])] = 0
    x[-1] = np.round(x[-1] * 4) / 4
    return x


def scalar_product(left: LeftOperand, right: RightOperand, m: int, n: int) -> np.float32:
    """One element, written without any array operation: the definition of the definition."""
    values, scales = right.values()[n], right.half_scales()[n]
    total = np.float32(0)
    for b in range(left.scales.shape[1]):
        dot = sum(int(left.values[m, k]) * int(values[k]) for k in range(b * left.block, (b + 1) * left.block))
        total = np.float32(total + np.float32(np.float32(left.scales[m, b] * scales[b]) * np.float32(dot)))
    return np.float32(total * np.float32(left.factors[m] * right.factor))


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_reference_is_the_scalar_definition(fmt: str) -> None:
    left, right = quantize_left(data((4, 100), 1), BY_ROWS[fmt]), quantize_right(data((5, 100), 2), fmt)
    expected = [[scalar_product(left, right, m, n) for n in range(5)] for m in range(4)]
    assert np.array_equal(matmul_reference(left, right), np.array(expected, np.float32))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("isa", cpu.available())
def test_every_instruction_set_gives_the_bits_of_the_reference(isa: str, fmt: str) -> None:
    for i, (m, n, k) in enumerate(SHAPES):
        left, right = quantize_left(data((m, k), i), BY_ROWS[fmt]), quantize_right(data((n, k), 99 + i), fmt)
        out = np.full((m, n), np.nan, np.float32)
        assert matmul(left, right, out, isa=isa) is out
        assert np.array_equal(out, matmul_reference(left, right)), (isa, m, n, k)


@pytest.mark.parametrize("isa", cpu.available())
def test_transformer_engines_order_of_alpha(isa: str) -> None:
    """(ax * aw) / (36 * 448**2), one float32 number after the other; ours is (ax / 2688) * (aw / 2688)."""
    f = np.float32
    x, w = data((48, 96), 1), data((130, 96), 2)
    left, right = quantize_left(x, "nvfp4-row-scaled"), quantize_right(w, "nvfp4")
    rows, amax_w = np.abs(x).max(axis=1), np.abs(w).max()
    sums = matmul(left, right, isa=isa, alpha=1)
    assert np.array_equal(sums * (left.factors[:48] * right.factor)[:, None], matmul(left, right, isa=isa))
    for reciprocal in (False, True):
        alpha = transformer_engine_alpha(rows, amax_w, reciprocal=reciprocal)
        wanted = [f(f(a * amax_w) * f(1 / 7225344)) if reciprocal else f(f(a * amax_w) / f(7225344)) for a in rows]
        assert alpha.dtype == np.float32 and alpha.tolist() == wanted
        got = matmul(left, right, isa=isa, alpha=alpha)
        assert np.array_equal(got, sums * np.array(wanted)[:, None])
        assert np.array_equal(got, matmul_reference(left, right, alpha))
        assert 0.3 < (got != matmul(left, right, isa=isa)).mean() < 0.9
        assert np.allclose(got, matmul(left, right, isa=isa), rtol=3e-7, atol=0)
    with pytest.raises(ValueError, match=r"alpha has shape \(130,\); it is one number, or one a row.*\(48,\)"):
        matmul(left, right, alpha=np.ones(130, f))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("isa", cpu.available())
def test_extreme_codes_and_scales(isa: str, fmt: str) -> None:
    """All-largest codes (the largest block sums) and every finite scale byte, of negative scales too."""
    rng = np.random.default_rng(5)
    k = 256
    codes = rng.choice(np.array([0x77, 0xFF, 0x7F, 0xF7, 0x80, 0x00], np.uint8), (40, k // 2))
    codes[:2], codes[2] = 0x77, 0xFF
    low, high = (80, 176) if fmt == "mxfp4" else (0, 256)
    scales = rng.integers(low, high, (40, k // (32 if fmt == "mxfp4" else 16)), dtype=np.uint8)
    if fmt == "nvfp4":
        scales[scales & 0x7F == 0x7F] = 0
    left = left_from_packed(codes, scales, fmt, rng.random(40).astype(np.float32))
    right = right_from_packed(codes[::-1].copy(), scales[::-1].copy(), fmt, 0.3)
    assert np.array_equal(matmul(left, right, isa=isa), matmul_reference(left, right))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("isa", cpu.available())
def test_a_nan_scale_spoils_its_row_or_column_alone(isa: str, fmt: str) -> None:
    x, w = data((20, 64), 3), data((18, 64), 4)
    x[7, 5] = np.nan
    left, right = quantize_left(x, BY_ROWS[fmt]), quantize_right(w, fmt)
    right.scales[0, 1, 3] = 0xFF
    y = matmul(left, right, isa=isa)
    bad = np.isnan(y)
    assert bad[7].all() and bad[:, 3].all() and bad.sum() == 18 + 20 - 1
    assert np.array_equal(y, matmul_reference(left, right), equal_nan=True)


@pytest.mark.parametrize("fmt", FORMATS)
def test_threads_do_not_change_bits(fmt: str) -> None:
    left, right = quantize_left(data((800, 1100), 8), BY_ROWS[fmt]), quantize_right(data((300, 1100), 9), fmt)
    results, before = [], numba.get_num_threads()
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            results.append(matmul(left, right))
    finally:
        numba.set_num_threads(before)
    for result in results:
        assert np.array_equal(result, matmul_reference(left, right))


@pytest.mark.parametrize("start", [0, 4, 1])
def test_streamed_results_are_the_same(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large results bypass the caches: here a small one is treated so, at three alignments."""
    monkeypatch.setattr(tensor_core, "STREAM_FROM", 0)
    left, right = quantize_left(data((50, 64), 1), "nvfp4-row-scaled"), quantize_right(data((160, 64), 2), "nvfp4")
    buffer = aligned_empty((50 * 160 + 16,), np.float32)
    out = buffer[start : start + 50 * 160].reshape(50, 160)
    for isa in {cpu.available()[0], "portable"}:
        out[...] = np.nan
        assert np.array_equal(matmul(left, right, out, isa=isa), matmul_reference(left, right))


@pytest.mark.parametrize("fmt", FORMATS)
def test_accumulate_adds_once(fmt: str) -> None:
    left, right = quantize_left(data((30, 64), 1), BY_ROWS[fmt]), quantize_right(data((20, 64), 2), fmt)
    out = data((30, 20), 3)
    expected = out + matmul_reference(left, right)
    assert np.array_equal(matmul(left, right, out, accumulate=True), expected)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("fmt", ["mxfp4", "mxfp4-rceil", "nvfp4"])
def test_quantizers_equal_the_formats(fmt: str, transpose: bool) -> None:
    """Codes, scale bytes and factors against `formats.quantize` (bf16-valued data, which forces ties, included)."""
    for k in (96, 70):
        x = data((37, k), 11)
        x[5] = (x[5].view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        x[6], x[8, 16:32] = 0, 1e-7
        rows = "nvfp4-row-scaled" if fmt == "nvfp4" else fmt
        source = np.ascontiguousarray(x.T) if transpose else x
        right = quantize_right(source, fmt, transpose=transpose)
        packed = formats.quantize(x, fmt)
        nibbles = formats.unpack_nibbles(packed.codes, k)
        assert np.array_equal(right.values()[:, :k], DOUBLED[nibbles])
        stored = right.scales.transpose(0, 2, 1).reshape(-1, right.scales.shape[1])[:37]
        assert np.array_equal(stored, packed.scales)
        assert np.array_equal(right.dequantize(), packed.dequantize())
        if fmt == "nvfp4":
            assert right.factor == packed.tensor_scale
            packed = formats.quantize(x, rows)
            nibbles = formats.unpack_nibbles(packed.codes, k)
        left = quantize_left(source, rows, transpose=transpose)
        assert np.array_equal(left.values[:37, :k], DOUBLED[nibbles])
        assert not left.values[:37, k:].any()
        assert np.array_equal(left.scales[:37], half_scales(fmt.partition("-")[0])[packed.scales])
        assert np.array_equal(left.dequantize(), packed.dequantize())


def definition(x: np.ndarray, fmt: str, seed: tuple[int, int] | None) -> formats.PackedTensor:
    """What `formats` makes of it."""
    if seed is None:
        return formats.quantize(x, fmt)
    return formats.quantize(x, fmt, ties="stochastic", seed=seed[0], stream=seed[1])


@pytest.mark.parametrize("hadamard", [False, True])
@pytest.mark.parametrize("seed", [None, (7, 3)])
@pytest.mark.parametrize("fmt", ["mxfp4-rceil", "nvfp4", pytest.param("mxfp4", marks=pytest.mark.variants)])
def test_training_options_equal_the_formats(fmt: str, seed: tuple[int, int] | None, hadamard: bool) -> None:
    """Stochastic rounding and the Hadamard rotation, of the transpose, ragged and whole."""
    options = {"hadamard": hadamard, "seed": seed}
    for k in (64, 45):
        x = data((37, k), 21)
        source = np.ascontiguousarray(x.T)
        rotated = hadamard_rotate(x) if hadamard else x
        for level in ("nvfp4-row-scaled", "nvfp4") if fmt == "nvfp4" else (fmt,):
            packed = definition(rotated, level, seed)
            left = quantize_left(source, level, transpose=True, **options)
            assert left.shape == rotated.shape
            assert np.array_equal(left.dequantize(), packed.dequantize())
        right = quantize_right(source, fmt, transpose=True, **options)
        assert np.array_equal(right.dequantize(), packed.dequantize())
        if not hadamard:
            assert np.array_equal(quantize_left(x, fmt, **options).dequantize(), packed.dequantize())
            assert np.array_equal(quantize_right(x, fmt, **options).dequantize(), packed.dequantize())


@pytest.mark.parametrize("fmt", FORMATS)
def test_packed_rows_are_read_as_the_formats_write_them(fmt: str) -> None:
    x, w = formats.quantize(data((9, 96), 1), fmt), formats.quantize(data((21, 96), 2), fmt)
    fx, fw = (p.tensor_scale if p.tensor_scale is not None else 1.0 for p in (x, w))
    left, right = left_from_packed(x.codes, x.scales, fmt, fx), right_from_packed(w.codes, w.scales, fmt, fw)
    assert np.array_equal(left.dequantize(), x.dequantize())
    assert np.array_equal(right.dequantize(), w.dequantize())
    y = matmul(left, right)
    exact = x.dequantize().astype(np.float64) @ w.dequantize().astype(np.float64).T
    bound = np.abs(x.dequantize()).astype(np.float64) @ np.abs(w.dequantize()).astype(np.float64).T
    assert np.all(np.abs(y - exact) <= bound * 2.0**-24 * (96 // 16 + 4))  # one rounding a block, a few at the end


def test_out_operands_are_reused() -> None:
    x, w = data((50, 80), 1), data((40, 80), 2)
    left, right = quantize_left(x, "nvfp4-row-scaled"), quantize_right(w, "nvfp4")
    again_left = quantize_left(2 * x, "nvfp4-row-scaled", out=left)
    again_right = quantize_right(2 * w, "nvfp4", out=right)
    assert again_left.values is left.values and again_right.codes is right.codes
    assert np.array_equal(again_left.dequantize(), quantize_left(2 * x, "nvfp4-row-scaled").dequantize())


def test_bad_input_gets_one_clear_error() -> None:
    x = data((8, 32), 1)
    left, right = quantize_left(x, "nvfp4-row-scaled"), quantize_right(x, "nvfp4")
    sealed = np.empty((8, 8), np.float32)
    sealed.setflags(write=False)
    for call, words in (
        (lambda: quantize_left(x.astype(np.float64), "nvfp4"), "float32"),
        (lambda: quantize_left(x.T, "nvfp4"), "C-contiguous"),
        (lambda: quantize_left(x, "fp8"), "fp8"),
        (lambda: quantize_left(x, "nvfp4-16x16"), "no kernel quantizes nvfp4-16x16 straight into a left operand"),
        (lambda: matmul(left, quantize_right(x, "mxfp4")), "one format"),
        (lambda: matmul(left, quantize_right(data((8, 48), 1), "nvfp4")), "reduction"),
        (lambda: matmul(left, right, np.empty((8, 9), np.float32)), "out must be"),
        (lambda: matmul(left, right, sealed), "out must be writable"),
        (lambda: blackwell.matmul(left, right, sealed), "out must be writable"),
        (lambda: matvec(x, right, sealed), "out must be writable"),
        (lambda: matmul(left, right, accumulate=True), "accumulate"),
        (lambda: matmul(left, right, isa="sse9"), "unknown instruction set"),
        (lambda: matmul(left, right, isa="neon" if "neon" not in cpu.available() else "amx"), "cannot run"),
        (lambda: quantize_left(x, "nvfp4", out=quantize_left(x, "mxfp4")), "mxfp4 operand"),
        (lambda: right_from_packed(np.zeros((4, 16), np.uint8), np.zeros((4, 3), np.uint8), "nvfp4"), "scales"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_source_that_must_not_be_written_to_compiles_nothing_anew() -> None:
    x = data((32, 64), 1)
    locked = x.copy()
    locked.flags.writeable = False
    for options in ({}, {"transpose": True}):
        made = quantize_left(x, "nvfp4", **options), quantize_right(x, "nvfp4", **options)
        before = jit.compiled_count()
        again = quantize_left(locked, "nvfp4", **options), quantize_right(locked, "nvfp4", **options)
        assert jit.compiled_count() == before
        for one, other in zip(made, again, strict=True):
            assert np.array_equal(one.dequantize(), other.dequantize())


SCRIPT = """
import numpy as np
import vbw_np.kernels
from vbw_np.definitions import matmul, quantize_left, quantize_right
from vbw_np.formats import get_format
rng = np.random.default_rng(0)
x, w = rng.standard_normal((3, 40), np.float32), rng.standard_normal((17, 40), np.float32)
for fmt in map(get_format, ("mxfp4", "nvfp4")):
    print(matmul(quantize_left(x, fmt), quantize_right(w, fmt), np.empty((3, 17), np.float32)).tobytes().hex())
    left = quantize_left(x, fmt, transpose=True, hadamard=True, seed=(1, 2))
    right = quantize_right(x, fmt, transpose=True)
    print(left.dequantize().tobytes().hex(), (right.dequantize() + 0.0).tobytes().hex())
"""


def run_script(**environment: str) -> str:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True).stdout


def test_without_compilation_and_with_a_forced_instruction_set_the_bits_are_the_same() -> None:
    """NUMBA_DISABLE_JIT=1 runs the definitions; VBW_KERNELS picks an instruction set."""
    interpreted = run_script(NUMBA_DISABLE_JIT="1")
    assert interpreted and interpreted == run_script(VBW_KERNELS="portable")


@pytest.mark.parametrize(("rows", "columns"), [(5008, 256), (5008, 40)])
def test_long_ragged_columns(rows: int, columns: int) -> None:
    """Columns that are no whole number of blocks are copied first; the copy must live as long as it is read."""
    w = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
    expected = formats.quantize(np.ascontiguousarray(w.T), "mxfp4-rceil").dequantize()
    for _ in range(3):
        right = tensor_core.quantize_right(w, "mxfp4-rceil", transpose=True)
        left = tensor_core.quantize_left(w, "mxfp4-rceil", transpose=True)
        assert (right.dequantize() == expected).all()
        assert (left.dequantize() == expected).all()


@pytest.mark.parametrize("fmt", ["nvfp4", "mxfp4"])
def test_operands_whose_arrays_do_not_fit_their_shape_are_refused(fmt: str) -> None:
    """Kernels read by the shape alone, so a hand-made operand that promises more would be read beyond its end."""
    x = np.ones((20, 64), np.float32)
    left, right = quantize_left(x, BY_ROWS[fmt]), quantize_right(x, fmt)
    for operand in (left, right):
        for shape in ((4000, 64), (20, 4096), (20, 65), (-1, 64)):
            with pytest.raises(ValueError, match="operand"):
                replace(operand, shape=shape)
        arrays = [field.name for field in fields(operand) if isinstance(getattr(operand, field.name), np.ndarray)]
        for name in arrays:
            array = getattr(operand, name)
            for broken in (array[:1], array.astype(np.float64), array[..., ::2], array.tolist()):
                with pytest.raises(ValueError, match=f"{name} of an operand must be"):
                    replace(operand, **{name: broken})
    with pytest.raises(ValueError, match="one number"):
        replace(right, factor=np.ones(20, np.float32))
