"""Every stored dtype against the libraries: ml_dtypes for small floats, gguf for block types."""

from __future__ import annotations

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.quants import dequantize

from vbw_np.checkpoints import CheckpointError, MappedFile, StoredTensor
from vbw_np.checkpoints.stored import bytes_of
from vbw_np.formats import FormatError
from vbw_np.formats.ggml import BY_NAME, PLAIN_NUMBERS, decode_blocks

DECODED = [name for name, kind in BY_NAME.items() if kind.decode is not None]


def stored(tmp_path, data: np.ndarray, dtype: str, shape: tuple[int, ...]) -> StoredTensor:
    path = tmp_path / "raw"
    path.write_bytes(b"\xff" * 5 + data.tobytes())  # not at the start: offsets count
    return StoredTensor("x", dtype, shape, MappedFile(path), 5, data.nbytes)


def test_types_and_sizes_are_ggmls():
    sizes = {kind.name: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    numbers = {kind.name: int(kind) for kind in gguf.GGMLQuantizationType}
    for name, kind in BY_NAME.items():
        assert (kind.number, (kind.elements, kind.bytes)) == (numbers[name], sizes[name])
    assert {number: name for name, number in numbers.items() if name not in BY_NAME} == PLAIN_NUMBERS


@pytest.mark.parametrize("name", DECODED)
def test_blocks_decode_as_gguf_does(name):
    """Random bytes: every code, and scales that are subnormal, Inf and NaN."""
    rng = np.random.default_rng(7)
    data = rng.integers(0, 256, (3000, BY_NAME[name].bytes), np.uint8)
    with np.errstate(all="ignore"):
        wanted = dequantize(data, gguf.GGMLQuantizationType[name]).reshape(-1)
    got = decode_blocks(data.reshape(-1), name)
    assert got.dtype == np.float32
    both_nan = np.isnan(got) & np.isnan(wanted)
    np.testing.assert_array_equal(
        np.where(both_nan, 0, got.view(np.uint32)), np.where(both_nan, 0, wanted.astype(np.float32).view(np.uint32))
    )


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - set(DECODED)))
def test_block_types_without_a_decoder_are_refused_by_name(tmp_path, name):
    kind = BY_NAME[name]
    data = np.zeros(kind.bytes, np.uint8)
    with pytest.raises(FormatError, match=name):
        decode_blocks(data, name)
    with pytest.raises(CheckpointError, match=name):
        stored(tmp_path, data, name, (kind.elements,)).float32()


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("BF16", 16), ("F16", 16), ("F8_E4M3", 8), ("F8_E5M2", 8), ("F8_E8M0", 8), ("F4", 4), ("F6_E2M3", 6),
        ("F6_E3M2", 6),
    ],
)  # fmt: skip
def test_every_code_of_a_small_float(tmp_path, dtype, bits):
    names = {
        "BF16": "bfloat16", "F16": np.float16, "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
        "F8_E8M0": "float8_e8m0fnu", "F4": "float4_e2m1fn", "F6_E2M3": "float6_e2m3fn", "F6_E3M2": "float6_e3m2fn",
    }  # fmt: skip
    codes = np.arange(1 << bits, dtype=np.uint16 if bits == 16 else np.uint8)
    kind = np.dtype(getattr(ml_dtypes, names[dtype])) if isinstance(names[dtype], str) else np.dtype(names[dtype])
    wanted = codes.view(kind).astype(np.float32)
    packed = codes if bits >= 8 else np.packbits(
        np.unpackbits(codes[:, None], axis=1, bitorder="little", count=bits).reshape(-1), bitorder="little"
    )  # fmt: skip
    tensor = stored(tmp_path, packed, dtype, (2, len(codes) // 2))
    np.testing.assert_array_equal(tensor.float32().reshape(-1), wanted)
    assert tensor.nbytes == bytes_of(tensor.shape, dtype)


def test_what_has_no_values_says_so(tmp_path):
    data = np.arange(8, dtype=np.int32)
    tensor = stored(tmp_path, data, "I32", (2, 4))
    np.testing.assert_array_equal(tensor.array(), data.reshape(2, 4))
    with pytest.raises(CheckpointError, match="integers mean nothing without their scales"):
        tensor.float32()
    with pytest.raises(CheckpointError, match=r"\.bytes"):
        stored(tmp_path, data, "F4", (64,)).array()


def test_nothing_outside_the_file_is_ever_seen(tmp_path):
    path = tmp_path / "raw"
    path.write_bytes(bytes(10))
    file = MappedFile(path)
    for offset, nbytes in [(0, 11), (11, 0), (-1, 2), (5, -1)]:
        with pytest.raises(CheckpointError, match="not there"):
            file.view(offset, nbytes)
    with pytest.raises(ValueError, match="read-only"):
        file.view(0, 10)[0] = 1
