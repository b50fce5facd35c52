"""Nibbles, planes, bits, swizzles and containers: everything that is packed unpacks."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from vbw_np.formats import (
    FORMATS,
    PROFILES,
    FormatError,
    ShapeError,
    UnknownNameError,
    join_planes,
    load_packed,
    pack_nibbles,
    quantize,
    save_packed,
    split_planes,
    swizzle_scales,
    unpack_nibbles,
    unswizzle_scales,
)
from vbw_np.formats.containers import CONTAINERS, convert_level, from_container, to_container
from vbw_np.formats.packing import NIBBLE_ORDERS, pack_bits, unpack_bits
from vbw_np.formats.profiles import ggml_ue4m3
from vbw_np.formats.random_bits import hash_bits, standard_normal


@pytest.mark.parametrize("order", NIBBLE_ORDERS)
def test_all_65536_byte_pairs_survive(order):
    pairs = np.arange(65536, dtype=np.uint16).view(np.uint8).reshape(65536, 2)
    codes = unpack_nibbles(pairs, 4, order, group=4)
    np.testing.assert_array_equal(pack_nibbles(codes, order, group=4), pairs)
    assert codes.max() == 15


def test_nibble_orders_by_hand():
    codes = np.array([1, 2, 3, 4], np.uint8)
    assert pack_nibbles(codes).tolist() == [0x21, 0x43]
    assert pack_nibbles(codes, "high_first").tolist() == [0x12, 0x34]
    assert pack_nibbles(codes, "split_half", group=4).tolist() == [0x31, 0x42]
    assert pack_nibbles(codes[:3]).tolist() == [0x21, 0x03]


shapes = st.lists(st.integers(1, 6), max_size=2).flatmap(
    lambda lead: st.integers(1, 70).map(lambda last: (*lead, last))
)


@settings(max_examples=80, deadline=None)
@given(shapes, st.integers(0, 2**32), st.sampled_from(["low_first", "high_first"]), st.integers(1, 4))
def test_random_shapes_survive(shape, seed, order, planes):
    codes = (hash_bits(seed, 0, np.arange(int(np.prod(shape)))).reshape(shape) & np.uint32(15)).astype(np.uint8)
    packed = pack_nibbles(codes, order)
    assert packed.shape == (*shape[:-1], -(-shape[-1] // 2))
    np.testing.assert_array_equal(unpack_nibbles(packed, shape[-1], order), codes)
    mask = (0xF0 >> planes) & 0xF
    np.testing.assert_array_equal(join_planes(split_planes(codes, planes), shape[-1]), codes & mask)
    bits = codes & 1
    np.testing.assert_array_equal(unpack_bits(pack_bits(bits), shape[-1]), bits.astype(bool))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 2**32))
def test_swizzle_survives(rows, columns, seed):
    scales = (hash_bits(seed, 1, np.arange(rows * columns)) & np.uint32(255)).astype(np.uint8).reshape(rows, columns)
    flat = swizzle_scales(scales)
    np.testing.assert_array_equal(unswizzle_scales(flat, (rows, columns)), scales)
    r, c = rows - 1, columns - 1
    tile = (r // 128) * -(-columns // 4) + c // 4
    assert flat[tile * 512 + (r % 32) * 16 + (r % 128 // 32) * 4 + c % 4] == scales[r, c]


def test_bad_buffers():
    with pytest.raises(ShapeError, match="too short"):
        unpack_nibbles(np.zeros((2, 3), np.uint8), 8)
    with pytest.raises(ShapeError, match="too long"):
        unpack_nibbles(np.zeros((2, 5), np.uint8), 8)
    with pytest.raises(ShapeError, match="does not fit 4 bits"):
        pack_nibbles(np.array([3, 16], np.uint8))
    with pytest.raises(ShapeError, match="whole groups"):
        pack_nibbles(np.zeros(30, np.uint8), "split_half", 32)
    with pytest.raises(UnknownNameError, match="split_half"):
        pack_nibbles(np.zeros(4, np.uint8), "big_endian")
    with pytest.raises(FormatError, match="uint8"):
        pack_nibbles(np.zeros(4, np.int64))
    with pytest.raises(ShapeError, match="matrix"):
        swizzle_scales(np.zeros(4, np.uint8))
    with pytest.raises(ShapeError, match="128 x 4"):
        unswizzle_scales(np.zeros(100, np.uint8), (4, 4))


# ---- against gguf, live


@pytest.mark.parametrize("scale", [1.0, 0.02, 1e-30, 3e5])
def test_gguf_mxfp4_bytes_and_values(scale):
    x = standard_normal((64, 256), seed=5) * np.float32(scale)
    blocks = gguf.quantize(x, GGMLQuantizationType.MXFP4)
    ours = quantize(x, "mxfp4", profile="ggml-mxfp4")
    np.testing.assert_array_equal(to_container(ours, "gguf")["blocks"].reshape(64, -1), blocks)
    np.testing.assert_array_equal(gguf.dequantize(blocks, GGMLQuantizationType.MXFP4), ours.dequantize())
    back = from_container({"blocks": blocks}, "gguf", (64, 256), "ggml-mxfp4")
    np.testing.assert_array_equal(back.codes, ours.codes)


def test_gguf_nvfp4_decodes_our_bytes_and_converts_scales_alike():
    x = standard_normal((32, 256), seed=6)
    ours = quantize(x, "nvfp4-1level", profile="ggml-nvfp4")
    blocks = to_container(ours, "gguf")["blocks"]
    assert blocks.shape == (128, 36)
    decoded = gguf.dequantize(blocks, GGMLQuantizationType.NVFP4).reshape(x.shape)
    np.testing.assert_array_equal(decoded, ours.dequantize())
    scales = np.concatenate([np.arange(0, 2**32, 65537, dtype=np.uint64).astype(np.uint32).view(np.float32), x.ravel()])
    scales = scales[np.isfinite(scales)]
    np.testing.assert_array_equal(ggml_ue4m3(scales), gguf.quants.NVFP4.fp32_to_ue4m3(scales))


# ---- containers


@pytest.mark.parametrize(
    ("container", "profile"),
    [
        ("te", "te-nvfp4"),
        ("torchao", "torchao-0.18-nvfp4"),
        ("modelopt", "modelopt-nvfp4"),
        ("compressed-tensors", "compressed-tensors-0.20-nvfp4"),
        ("compressed-tensors", "compressed-tensors-0.20-mxfp4"),
        ("torchao", "torchao-0.18-rceil"),
        ("gguf", "ggml-mxfp4"),
        ("gguf", "ggml-nvfp4"),
        ("bitsandbytes", "bitsandbytes-nf4"),
        ("bitsandbytes", "bitsandbytes-fp4"),
    ],
)
def test_containers_lose_nothing(container, profile):
    x = standard_normal((16, 128), seed=7)
    packed = quantize(x, PROFILES[profile].format)
    arrays = to_container(packed, container)
    back = from_container(arrays, container, x.shape, profile)
    for name in ("codes", "scales"):
        np.testing.assert_array_equal(getattr(back, name), getattr(packed, name))
    assert back.stored_scale == packed.stored_scale
    np.testing.assert_array_equal(back.dequantize(), packed.dequantize())


def test_one_tensor_in_every_nvfp4_container_decodes_alike():
    packed = quantize(standard_normal((16, 128), seed=8), "nvfp4")
    levels = {name: to_container(packed, name) for name in ("te", "torchao", "modelopt", "compressed-tensors")}
    amax = packed.stored_scale
    assert levels["te"]["amax_rowwise"][0] == amax
    assert levels["torchao"]["per_tensor_scale"][0] == amax / np.float32(2688)
    assert levels["compressed-tensors"]["weight_global_scale"][0] == np.float32(2688) / amax
    for name, arrays in levels.items():
        back = from_container(arrays, name, (16, 128), "nvfp4").dequantize()
        np.testing.assert_allclose(back, packed.dequantize(), rtol=3e-7)  # at most two roundings of the level


def test_level_conventions():
    assert convert_level(np.float32(2688), "amax", "multiplier") == 1
    assert convert_level(np.float32(0.5), "multiplier", "reciprocal") == 2
    with pytest.raises(UnknownNameError, match="reciprocal"):
        convert_level(np.float32(1), "amax", "divisor")


def test_containers_refuse_what_they_cannot_hold():
    x = standard_normal((16, 128), seed=9)
    with pytest.raises(FormatError, match="coarse"):
        to_container(quantize(x, "nvfp4-nested"), "te")
    with pytest.raises(UnknownNameError, match="gguf"):
        to_container(quantize(x, "nvfp4"), "onnx")
    with pytest.raises(FormatError, match="cannot hold fp4-row"):
        to_container(quantize(x, "fp4-row"), "gguf")
    with pytest.raises(ShapeError, match="multiple"):
        to_container(quantize(x[:, :48], PROFILES["ggml-mxfp4"].format), "gguf")
    with pytest.raises(ShapeError, match="bytes"):
        from_container({"blocks": np.zeros((3, 17), np.uint8)}, "gguf", (2, 64), "ggml-mxfp4")
    with pytest.raises(FormatError, match="needs"):
        from_container({"qdata": np.zeros((2, 8), np.uint8)}, "torchao", (2, 16), "nvfp4")
    assert len(CONTAINERS) == 6


# ---- files, pickles, copies


@pytest.mark.parametrize("fmt", [*FORMATS.values(), *(p.format for p in PROFILES.values())], ids=lambda f: f.name)
def test_files_pickles_and_copies_bring_back_the_same_tensor(fmt, tmp_path):
    packed = quantize(standard_normal((32, 64), seed=14), fmt)
    save_packed(packed, tmp_path / "w.npz")
    for back in (load_packed(tmp_path / "w.npz"), pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed)):
        assert back.format is packed.format and back.nbytes == packed.nbytes and back.planes == packed.planes
        np.testing.assert_array_equal(back.dequantize(), packed.dequantize())
        np.testing.assert_array_equal(quantize(back.dequantize(), fmt, reuse=back).scales, packed.scales)


def test_files_that_are_not_packed_tensors(tmp_path):
    mine = replace(FORMATS["nvfp4"], name="mine")
    with pytest.raises(FormatError, match="not in a registry"):
        save_packed(quantize(np.ones(16, np.float32), mine), tmp_path / "w.npz")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.npz").write_bytes(b"PK not really")
    np.savez(tmp_path / "b.npz", codes=np.zeros(3))
    np.save(tmp_path / "c.npy", np.zeros(3))
    for name in ("a.npz", "b.npz", "c.npy"):
        with pytest.raises(FormatError, match="not a packed tensor"):
            load_packed(tmp_path / name)
    good = quantize(np.ones((2, 16), np.float32), "nvfp4")
    save_packed(good, tmp_path / "d.npz")
    with np.load(tmp_path / "d.npz") as file:
        parts = dict(file)
    parts["codes"] = parts["codes"][:, :-1]
    np.savez(tmp_path / "d.npz", **parts)
    with pytest.raises(ShapeError, match="codes have shape"):
        load_packed(tmp_path / "d.npz")


@pytest.mark.parametrize("fmt", sorted(FORMATS))
def test_a_part_that_is_missing_or_broken_is_an_error_in_words(fmt, tmp_path):
    """Every part that a file of a format has: left out, of another dtype, of another shape, empty."""
    save_packed(quantize(standard_normal((16, 64), seed=8), fmt), tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz") as file:
        parts = dict(file)
    harmless = set()  # what a file may do without
    for name, array in parts.items():
        flat = array.reshape(-1)
        strange = array.astype(complex) if array.dtype.kind in "fiub" else np.array(b"?")
        changes = {"missing": None, "empty": flat[:0], "strange": strange, "longer": np.concatenate([flat, flat, flat])}
        for what, other in changes.items():
            changed = {key: value for key, value in (parts | {name: other}).items() if value is not None}
            np.savez(tmp_path / "b.npz", **changed)
            try:
                load_packed(tmp_path / "b.npz").dequantize()
            except FormatError:
                continue
            harmless.add((name, what))
    # without its fine tier a tensor is a coarse one; a stored number follows from the tensor scale; headers say no more
    optional = {"stored_scale", "allow_nan", "fine", "planes", "fine_scales", "fine_tensor_scale", "headers"}
    assert {name for name, what in harmless if what == "missing"} <= optional, harmless
    assert {what for _, what in harmless} <= {"missing"}, harmless
