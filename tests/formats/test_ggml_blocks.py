"""GGUF's blocks as packed tensors: values, codes and bytes against gguf-py."""

from __future__ import annotations

from dataclasses import replace

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.quants import dequantize
from gguf.quants import quantize as gguf_quantize

from vbw_np.formats import ELEMENTS, FormatError, ScaleError, ShapeError, quantize
from vbw_np.formats.ggml import BY_NAME
from vbw_np.formats.ggml_blocks import FORMAT_OF, from_blocks_of, to_blocks_of
from vbw_np.formats.packing import pack_codes, unpack_codes


def sound_blocks(name: str, count: int) -> np.ndarray:
    """Random blocks whose scales are numbers."""
    rng = np.random.default_rng(5)
    blocks = rng.integers(0, 256, (count, BY_NAME[name].bytes), np.uint8)
    half = rng.standard_normal((count, 2)).astype("<f2").view(np.uint8)
    if name == "NVFP4":
        blocks[:, :4] %= 0x7F
    elif name != "MXFP4":
        blocks[:, :4] = half if name in ("Q4_1", "Q4_K") else np.concatenate([half[:, :2], blocks[:, 2:4]], axis=1)
    else:
        blocks[:, 0] %= 0xFF
    return blocks


@pytest.mark.parametrize("name", FORMAT_OF)
def test_packed_tensors_of_blocks_decode_to_gguf_s_values(name):
    kind = BY_NAME[name]
    blocks = sound_blocks(name, 24)
    shape = (3, 8 * kind.elements)
    packed = from_blocks_of(blocks.reshape(-1), name, shape)
    wanted = dequantize(blocks.reshape(3, -1), gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(packed.dequantize(), wanted)  # but for the sign of zero, which ggml drops
    assert packed.nbytes == blocks.nbytes
    again, data = to_blocks_of(packed)
    assert again == name and np.array_equal(data, blocks.reshape(-1))


def test_headers_of_q4_k_belong_to_its_scales():
    packed = quantize(np.random.default_rng(7).standard_normal((3, 512)).astype(np.float32), "q4_k")
    with pytest.raises(FormatError, match="no headers="):
        to_blocks_of(replace(packed, headers=None))
    with pytest.raises(ScaleError, match="not those of its scales"):
        replace(packed, headers=packed.headers[::-1].copy())
    with pytest.raises(ShapeError, match=r"headers have shape \(3, 1, 16\)"):
        replace(packed, headers=packed.headers[:, :1])


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q8_0"])
def test_what_we_quantize_is_what_gguf_writes(name):
    x = np.random.default_rng(6).standard_normal((4, 96)).astype(np.float32)
    kind, data = to_blocks_of(quantize(x, name.lower()))
    assert kind == name
    np.testing.assert_array_equal(data, gguf_quantize(x, gguf.GGMLQuantizationType[name]).reshape(-1))


def test_what_blocks_cannot_hold_is_refused():
    with pytest.raises(FormatError, match="no GGUF block type holds nf4"):
        to_blocks_of(quantize(np.ones((2, 64), np.float32), "nf4"))
    with pytest.raises(ShapeError, match="no multiple"):
        to_blocks_of(quantize(np.ones((2, 40), np.float32), "q8_0"))
    with pytest.raises(FormatError, match="no format record"):
        from_blocks_of(np.zeros(84, np.uint8), "Q2_K", (256,))
    with pytest.raises(ShapeError, match="are not Q4_0"):
        from_blocks_of(np.zeros(17, np.uint8), "Q4_0", (32,))


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_any_width_pack_without_gaps(bits):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, 13), np.uint8)
    packed = pack_codes(codes, bits)
    assert packed.shape == (3, -(-13 * bits // 8))
    np.testing.assert_array_equal(unpack_codes(packed, 13, bits), codes)
    row = sum(int(code) << (bits * i) for i, code in enumerate(codes[0]))
    assert int.from_bytes(packed[0].tobytes(), "little") == row
    with pytest.raises(ShapeError):
        unpack_codes(packed, 40, bits)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", ml_dtypes.bfloat16), ("fp16", np.float16)])
def test_sixteen_bit_floats_are_elements(name, dtype):
    element = ELEMENTS[name]
    codes = np.arange(1 << 16, dtype=np.uint16)
    np.testing.assert_array_equal(element.table, codes.view(dtype).astype(np.float32))
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(100_000) * np.exp(rng.uniform(-20, 10, 100_000))).astype(np.float32)
    ties = (element.magnitudes[:-1] + (element.magnitudes[1:] - element.magnitudes[:-1]) / 2)[:-1]
    for values in (x, -x, ties):
        with np.errstate(over="ignore"):
            wanted = values.astype(dtype).view(np.uint16)
        np.testing.assert_array_equal(element.encode(values, saturate=False), wanted)
