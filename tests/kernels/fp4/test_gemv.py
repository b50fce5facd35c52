"""Few-row products: every instruction set against the sequential definition, int8 activations against NumPy."""

from __future__ import annotations

import ctypes

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from llvmlite import ir

from vbw_np.definitions.panels import BY_ROWS, DOUBLED
from vbw_np.kernels.fp4.gemv import matvec, quantize_left_int8
from vbw_np.kernels.fp4.intrinsics_tile import emit_decode
from vbw_np.kernels.fp4.tensor_core import matmul, matmul_reference, quantize_left, quantize_right, right_from_packed
from vbw_np.simd import cpu
from vbw_np.simd.intrinsics import I64, Emitter


def data(shape: tuple[int, int], seed: int) -> np.ndarray:
    """float32 with outliers and a zero block."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    x.ravel()[::97] *= 30
    x[0, :32] = 0
    return x


@pytest.mark.parametrize("fmt", ["mxfp4", "nvfp4"])
@pytest.mark.parametrize("isa", cpu.available())
def test_every_instruction_set_gives_the_bits_of_the_reference(isa: str, fmt: str) -> None:
    right = quantize_right(data((70, 160), 1), fmt)
    for rows in (1, 3, 9):
        x = data((rows, 160), rows)
        for activations in ("int8", "fp4"):
            left = quantize_left_int8(x, fmt) if activations == "int8" else quantize_left(x, BY_ROWS[fmt])
            expected = matmul_reference(left, right)
            assert np.array_equal(matvec(x, right, activations=activations, isa=isa), expected)
            assert np.array_equal(matmul(left, right, isa=isa), expected)


def test_any_number_of_threads_multiplies_all_of_it() -> None:
    """Fewer passes than threads, as many, and a number that does not divide by them."""
    before = numba.get_num_threads()
    try:
        for columns in (5, 128, 150, 1000):
            x, right = data((2, 96), 2), quantize_right(data((columns, 96), 1), "nvfp4")
            for rows in (1, 2):
                expected = matmul_reference(quantize_left_int8(x[:rows], "nvfp4"), right)
                for threads in range(1, before + 1):
                    numba.set_num_threads(threads)
                    out = np.full((rows, columns), np.nan, np.float32)
                    assert np.array_equal(matvec(x[:rows], right, out), expected)
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("fmt", ["mxfp4", "nvfp4"])
@pytest.mark.parametrize("isa", cpu.available())
def test_the_largest_sums_fit(isa: str, fmt: str) -> None:
    """127 times 6 in every place: 16-bit accumulators must not overflow."""
    x, w = np.full((2, 64), 127, np.float32), np.full((16, 64), 6, np.float32)
    x[1] *= -1
    right = quantize_right(w, fmt)
    y = matvec(x, right, isa=isa)
    assert np.allclose(y, x @ w.T, rtol=1e-6)
    assert np.array_equal(y, matmul_reference(quantize_left_int8(x, fmt), right))


@pytest.mark.parametrize("fmt", ["mxfp4", "nvfp4"])
@pytest.mark.parametrize("isa", cpu.available())
@pytest.mark.parametrize(("length", "place"), [(64, -1), (224, 0), (224, 5), (224, -1)])
def test_every_scale_byte_gives_the_bits_of_the_reference(isa: str, fmt: str, length: int, place: int) -> None:
    """Zeros, subnormals, the largest, NaN and, for E4M3, negative ones: packed bytes may hold any."""
    block, x = (32, 16)[fmt == "nvfp4"], data((2, length), 3)
    codes = np.random.default_rng(4).integers(0, 256, (256, length // 2), dtype=np.uint8)
    scales = np.full((256, length // block), 127 if fmt == "mxfp4" else 56, np.uint8)
    scales[:, place] = np.arange(256)
    right = right_from_packed(codes, scales, fmt)
    for rows in (1, 2):
        y = matvec(x[:rows], right, isa=isa)
        expected = matmul_reference(quantize_left_int8(x[:rows], fmt), right)
        assert np.array_equal(y, expected, equal_nan=True)
        assert np.isnan(y).sum() == rows * (1 if fmt == "mxfp4" else 2)


@pytest.mark.parametrize("fmt", ["mxfp4", "nvfp4"])
@pytest.mark.parametrize("isa", cpu.available())
@pytest.mark.parametrize("magnitude", [2.0**-120, 2.0**17, 2.0**100, np.nan])
def test_every_magnitude_of_activations(isa: str, fmt: str, magnitude: float) -> None:
    """One row's scales times a constant must neither overflow nor be rounded, where the sums do not."""
    x = data((1, 160), 3)
    x[0, 40:] *= np.float32(magnitude)
    right = quantize_right(data((70, 160), 1), fmt)
    y = matvec(x, right, isa=isa)
    assert np.array_equal(y, matmul_reference(quantize_left_int8(x, fmt), right), equal_nan=True)
    assert np.isnan(y).all() == np.isnan(magnitude)


@pytest.mark.skipif("avx512vbmi" not in cpu.features(), reason="has one way to decode 64 bytes only")
@pytest.mark.parametrize("without", ["", "avx512vbmi"])
def test_both_ways_to_decode_64_bytes(without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs with byte permutations need no masks; those without are told apart by their features."""
    features = cpu.features() - {without}
    monkeypatch.setattr(cpu, "features", lambda: features)
    module = ir.Module("decode")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 3), "decode")
    builder = ir.IRBuilder(function.append_basic_block())
    emit_decode(16, 12)(Emitter(builder), *function.args)
    builder.ret_void()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    host, cpu_name = llvm.get_host_cpu_features().flatten(), llvm.get_host_cpu_name()
    triple = llvm.Target.from_default_triple()

    def machine() -> llvm.TargetMachine:
        return triple.create_target_machine(cpu=cpu_name, features=host, codemodel="jitdefault", jit=True)

    text = machine().emit_assembly(llvm.parse_assembly(str(module)))
    assert [name in text for name in ("vpermb", "vpshufb")] == [not without, bool(without)]
    with llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine()) as engine:  # owns its machine
        engine.finalize_object()
        decode = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(engine.get_function_address("decode"))
        codes = np.random.default_rng(0).permutation(np.arange(256, dtype=np.uint8))
        values = np.empty((4, 2, 64), np.int8)
        decode(codes.ctypes.data, values.ctypes.data, 4)
    nibbles = np.stack([codes & 15, codes >> 4]).reshape(2, 4, 64).transpose(1, 0, 2)
    assert np.array_equal(values, DOUBLED[nibbles] + 12)


def test_int8_activations_are_within_half_a_step() -> None:
    x = data((4, 64), 5)
    left = quantize_left_int8(x, "nvfp4")
    steps = np.repeat(left.scales[:4], 16, axis=1)
    assert np.all(np.abs(left.values[:4] * steps - x) <= steps / 2)
    mantissa, _ = np.frexp(left.scales[:4])
    assert np.all(mantissa == 0.5)
    amax = np.abs(x).reshape(4, 4, 16).max(axis=2)
    assert np.all(amax <= 127 * left.scales[:4])
    assert np.all(amax[amax > 0] > 63 * left.scales[:4][amax > 0])


def test_vectors_ragged_lengths_and_errors() -> None:
    w, x = data((33, 50), 1), data((1, 50), 2)[0]
    right = quantize_right(w, "nvfp4")
    out = np.empty(33, np.float32)
    assert matvec(x, right, out) is out
    assert np.array_equal(out, matmul_reference(quantize_left_int8(x[None], "nvfp4"), right)[0])
    x[3] = np.nan
    assert np.isnan(matvec(x, right)).all()
    for call, words in (
        (lambda: matvec(x[:40], right), "columns"),
        (lambda: matvec(x, right, activations="int4"), "activations"),
        (lambda: matvec(x.astype(np.float64), right), "float32"),
        (lambda: matvec(x, right, np.empty(32, np.float32)), "out must be"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
