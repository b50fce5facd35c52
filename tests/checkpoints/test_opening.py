"""Opening: against the libraries that write the files, and everything that must be refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import struct

import gguf
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from vbw_np.checkpoints import CheckpointError, open_checkpoint
from vbw_np.checkpoints.safetensors import header_bytes

RNG = np.random.default_rng(3)
ARRAYS = {
    "a.weight": RNG.standard_normal((5, 7)).astype(np.float32),
    "b.half": RNG.standard_normal((3, 2, 4)).astype(np.float16),
    "c.ids": np.arange(6, dtype=np.int64),
    "d.scalar": np.array(2.5, np.float64),
    "e.none": np.zeros((0, 4), np.float32),
    "f.flags": np.array([True, False, True]),
}


def write_safetensors(path, arrays=ARRAYS, metadata=None):
    safetensors.numpy.save_file(arrays, path, metadata)
    return path


def write_gguf(path, quantized=True):
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_float32("llama.epsilon", 1e-5)
    writer.add_bool("flag", True)
    writer.add_string("greeting", "grüß Gott")
    writer.add_array("tokenizer.ggml.tokens", ["a", "Ġb", "c"])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0])
    writer.add_int64("large", -(2**40))
    writer.add_tensor("norm", ARRAYS["a.weight"])
    if quantized:
        for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "BF16"):
            number = gguf.GGMLQuantizationType[kind]
            x = RNG.standard_normal((6, 64)).astype(np.float32)
            writer.add_tensor(f"w.{kind}", gguf.quants.quantize(x, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def message(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_safetensors_file_is_read_as_the_library_reads_it(tmp_path):
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "m.safetensors", metadata={"format": "pt"}))
    loaded = safetensors.numpy.load_file(tmp_path / "m.safetensors")
    assert checkpoint.metadata == {"format": "pt"} and checkpoint.kind == "safetensors"
    assert set(checkpoint) == set(loaded) and len(checkpoint) == len(loaded)
    for name, array in loaded.items():
        np.testing.assert_array_equal(checkpoint[name].array(), array)
        assert checkpoint[name].array().dtype == array.dtype
    assert "the tensors" not in repr(checkpoint) and "nope" not in checkpoint
    with pytest.raises(CheckpointError, match=r"no tensor 'nope'; it has 6: "):
        checkpoint["nope"]


def test_dtypes_that_numpy_lacks_come_as_the_library_wrote_them(tmp_path):
    kinds = {
        "bfloat16": ml_dtypes.bfloat16, "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e5m2": ml_dtypes.float8_e5m2, "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
    }  # fmt: skip
    arrays = {name: np.abs(RNG.standard_normal((4, 6))).astype(kind) for name, kind in kinds.items()}
    specs = {
        name: safetensors.TensorSpec(dtype=name, shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)
        for name, a in arrays.items()
    }
    (tmp_path / "m.safetensors").write_bytes(safetensors.serialize(specs))
    checkpoint = open_checkpoint(tmp_path / "m.safetensors")
    for name, array in arrays.items():
        np.testing.assert_array_equal(checkpoint[name].float32(), array.astype(np.float32))


def test_our_header_is_read_by_the_library(tmp_path):
    entries = {"x": ("F32", (2, 3)), "y": ("U8", (5,)), "é": ("I64", ())}
    data = np.arange(24 + 5 + 8, dtype=np.uint8).tobytes()
    (tmp_path / "m.safetensors").write_bytes(header_bytes(entries, {"a": "b"}) + data)
    loaded = safetensors.numpy.load_file(tmp_path / "m.safetensors")
    assert {name: (a.dtype.name, a.shape) for name, a in loaded.items()} == {
        "x": ("float32", (2, 3)), "y": ("uint8", (5,)), "é": ("int64", ())
    }  # fmt: skip
    assert loaded["x"].tobytes() == data[:24]


def test_a_gguf_file_is_read_as_the_library_reads_it(tmp_path):
    path = write_gguf(tmp_path / "m.gguf")
    checkpoint, reader = open_checkpoint(path), gguf.GGUFReader(path)
    assert [t.name for t in reader.tensors] == list(checkpoint)
    for wanted in reader.tensors:
        tensor = checkpoint[wanted.name]
        assert (tensor.dtype, tensor.offset, tensor.nbytes) == (
            wanted.tensor_type.name, wanted.data_offset, wanted.n_bytes
        )  # fmt: skip
        assert tensor.shape == tuple(int(n) for n in wanted.shape[::-1])
        assert tensor.bytes().tobytes() == np.asarray(wanted.data).tobytes()
        values = gguf.quants.dequantize(wanted.data, wanted.tensor_type)
        np.testing.assert_array_equal(tensor.float32().view(np.uint32), np.ascontiguousarray(values).view(np.uint32))
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    got = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in checkpoint.metadata.items()}
    assert got == fields


def test_version_2_of_gguf_is_the_same(tmp_path):
    path = write_gguf(tmp_path / "m.gguf")
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    path.write_bytes(data)
    assert len(open_checkpoint(path)) == 8


def test_shards_with_their_index_and_without(tmp_path):
    names = list(ARRAYS)
    files = {"model-00001-of-00002.safetensors": names[:2], "model-00002-of-00002.safetensors": names[2:]}
    for file, part in files.items():
        write_safetensors(tmp_path / file, {name: ARRAYS[name] for name in part})
    (tmp_path / "config.json").write_text('{"model_type": "toy"}')
    whole = open_checkpoint(tmp_path)
    assert set(whole) == set(ARRAYS) and whole.config == {"model_type": "toy"}
    index = tmp_path / "model.safetensors.index.json"
    weight_map = {name: file for file, part in files.items() for name in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for path in (tmp_path, index):
        again = open_checkpoint(path)
        assert set(again) == set(ARRAYS) and again.folder == tmp_path
        np.testing.assert_array_equal(again["a.weight"].array(), ARRAYS["a.weight"])
    index.write_text(json.dumps({"weight_map": weight_map | {"a.weight": "model-00002-of-00002.safetensors"}}))
    assert "parts do not match" in message(index)
    index.write_text(json.dumps({"weight_map": {"x": "../elsewhere.safetensors"}}))
    assert "beside their index" in message(index)
    index.write_text(json.dumps({"weight_map": {"x": "model-00003-of-00002.safetensors"}}))
    assert "No such file" in message(index)
    index.write_text("[1, 2]")
    assert "not a dictionary" in message(index)


def test_parts_of_a_split_gguf(tmp_path):
    for number in range(2):
        writer = gguf.GGUFWriter(str(tmp_path / f"m-{number + 1:05}-of-00002.gguf"), "llama")
        writer.add_uint16("split.count", 2)
        writer.add_uint16("split.no", number)
        writer.add_tensor(f"t{number}", ARRAYS["a.weight"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    assert set(open_checkpoint(tmp_path)) == {"t0", "t1"}
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    assert "No such file" in message(tmp_path / "m-00001-of-00002.gguf")


class Poison:
    def __reduce__(self):
        return os.mkdir, (os.environ["POISON"],)


@pytest.mark.parametrize(
    "name", ["model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl", "innocent.safetensors"]
)
def test_pickles_are_never_read(tmp_path, monkeypatch, name):
    monkeypatch.setenv("POISON", str(tmp_path / "poisoned"))
    (tmp_path / name).write_bytes(pickle.dumps(Poison()))
    said = message(tmp_path / name)
    assert "pickle" in said and "weights_only=True" in said and "save_file" in said
    if not name.startswith("innocent"):
        assert "pickle" in message(tmp_path)
    assert not (tmp_path / "poisoned").exists()


def test_numpys_archives_are_no_checkpoints(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.ones(3))
    assert "NumPy's archive of arrays" in message(tmp_path / "weights.npz")


def test_a_zip_of_pickles_is_known_by_its_bytes(tmp_path):
    (tmp_path / "weights").write_bytes(b"PK\x03\x04" + bytes(40))
    assert "zip" in message(tmp_path / "weights")


def test_what_is_no_checkpoint(tmp_path):
    assert "No such file" in message(tmp_path / "nothing.safetensors")
    (tmp_path / "empty.safetensors").touch()
    assert "empty" in message(tmp_path / "empty.safetensors")
    (tmp_path / "text.txt").write_text("hello")
    assert "neither" in message(tmp_path / "text.txt")
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "regular file" in message(tmp_path / "pipe.safetensors")
    (tmp_path / "folder").mkdir()
    assert "no .safetensors" in message(tmp_path / "folder")
    for name in ("x.safetensors", "y.safetensors"):
        write_safetensors(tmp_path / "folder" / name)
    assert "name one of them" in message(tmp_path / "folder")
    write_gguf(tmp_path / "folder" / "z.gguf")
    assert "name one of the files" in message(tmp_path / "folder")
    assert "cannot open" in message("~nobody_by_this_name/model.gguf")
    assert "cannot open" in message("a\0b.safetensors")


HEADERS = {
    "length": (b"\xff" * 8, "limit"),
    "short": (struct.pack("<Q", 100) + b"{}", "header would take"),
    "no json": (struct.pack("<Q", 4) + b"[1] ", "not JSON"),
    "broken json": (struct.pack("<Q", 4) + b'{"a ', "cannot be read"),
    "no utf-8": (struct.pack("<Q", 4) + b'{"\xff"', "cannot be read"),
    "deep": (struct.pack("<Q", 200_006) + b'{"a":' + b"[" * 200_001, "too deep"),
}
ENTRIES = {
    "dtype": ('{"a":{"dtype":"F12","shape":[2],"data_offsets":[0,8]}}', "'F12'"),
    "dtype of a list": ('{"a":{"dtype":["F32"],"shape":[2],"data_offsets":[0,8]}}', "not known"),
    "keys": ('{"a":{"dtype":"F32","shape":[2]}}', "dtype, shape and data_offsets"),
    "entry": ('{"a":5}', "dtype, shape and data_offsets"),
    "shape": ('{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}', "list of counts"),
    "shape of bools": ('{"a":{"dtype":"F32","shape":[true,2],"data_offsets":[0,8]}}', "list of counts"),
    "shape of floats": ('{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', "list of counts"),
    "offsets": ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}', "two counts"),
    "span": ('{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}', "takes 12 bytes"),
    "huge shape": ('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}', "takes"),
    "beyond": ('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', "cut off"),
    "trailing": ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "4 bytes follow"),
    "hole": ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', "hole"),
    "overlap": (
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        "overlaps",
    ),
    "twice": (
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        "twice",
    ),
    "metadata": ('{"__metadata__":{"a":1},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "strings"),
    "half a byte": ('{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,8]}}', "whole number of bytes"),
    "nan": ('{"a":NaN}', "NaN"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_damaged_safetensors_headers(tmp_path, case):
    data, words = HEADERS[case]
    (tmp_path / "m.safetensors").write_bytes(data)
    assert words in message(tmp_path / "m.safetensors")


@pytest.mark.parametrize("case", ENTRIES)
def test_safetensors_entries_that_the_library_refuses_too(tmp_path, case):
    text, words = ENTRIES[case]
    data = struct.pack("<Q", len(text)) + text.encode() + bytes(8)
    (tmp_path / "m.safetensors").write_bytes(data)
    assert words in message(tmp_path / "m.safetensors")
    if case not in ("twice",):  # the library keeps the last of two; we do not guess
        with pytest.raises(Exception):  # noqa: B017  its own SafetensorError
            safetensors.deserialize(data)


def pair(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def gguf_bytes(pairs=(), tensors=(), data=bytes(64), version=3, counts=None, magic=b"GGUF") -> bytes:
    tensor_count, pair_count = counts or (len(tensors), len(pairs))
    head = magic + struct.pack("<IQQ", version, tensor_count, pair_count) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def entry(name="t", dims=(8,), kind=0, offset=0) -> bytes:
    head = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dims))
    return head + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)


GGUFS = {
    "magic": (gguf_bytes(magic=b"GGML"), "does not begin with GGUF"),
    "version 1": (gguf_bytes(version=1), "version 1"),
    "big endian": (gguf_bytes(version=3 << 24), "big endian"),
    "tensors": (gguf_bytes(counts=(2**60, 0)), "more than the rest"),
    "pairs": (gguf_bytes(counts=(0, 2**60)), "more than the rest"),
    "key": (gguf_bytes([struct.pack("<Q", 2**50)]), "would take"),
    "value type": (gguf_bytes([pair("k", 13, bytes(8))]), "unknown type 13"),
    "array type": (gguf_bytes([pair("k", 9, struct.pack("<IQ", 99, 1))]), "unknown type 99"),
    "array length": (gguf_bytes([pair("k", 9, struct.pack("<IQ", 4, 2**61))]), "more than the rest"),
    "array of strings": (gguf_bytes([pair("k", 9, struct.pack("<IQ", 8, 2**40))]), "more than the rest"),
    "nesting": (gguf_bytes([pair("k", 9, struct.pack("<IQ", 9, 1) * 6)]), "nests"),
    "bool": (gguf_bytes([pair("k", 7, b"\x05")]), "bool 5"),
    "key twice": (gguf_bytes([pair("k", 7, b"\x01")] * 2), "twice"),
    "key of bytes": (gguf_bytes([struct.pack("<Q", 1) + b"\xff" + struct.pack("<I", 0) + b"\0"]), "not UTF-8"),
    "alignment 0": (gguf_bytes([pair("general.alignment", 4, bytes(4))]), "alignment"),
    "alignment 3": (gguf_bytes([pair("general.alignment", 4, struct.pack("<I", 3))]), "alignment"),
    "alignment text": (gguf_bytes([pair("general.alignment", 8, struct.pack("<Q", 2) + b"32")]), "alignment"),
    "axes": (gguf_bytes(tensors=[entry(dims=(1,) * 5)]), "5 axes"),
    "type": (gguf_bytes(tensors=[entry(kind=77)]), "type 77"),
    "size": (gguf_bytes(tensors=[entry(dims=(2**40, 2**40))]), "elements"),
    "cut off": (gguf_bytes(tensors=[entry(dims=(17,))]), "cut off"),
    "rows": (gguf_bytes(tensors=[entry(dims=(33,), kind=2)]), "whole blocks"),
    "offset": (gguf_bytes(tensors=[entry(dims=(1,), offset=4)]), "does not divide"),
    "twice": (gguf_bytes(tensors=[entry(), entry()]), "twice"),
    "overlap": (gguf_bytes(tensors=[entry("a"), entry("b")]), "overlap"),
}


@pytest.mark.parametrize("case", GGUFS)
def test_damaged_gguf_headers(tmp_path, case):
    data, words = GGUFS[case]
    (tmp_path / "m.gguf").write_bytes(data)
    assert words in message(tmp_path / "m.gguf")


def test_the_damaged_ones_differ_from_a_good_one_by_their_fault_alone(tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_bytes([pair("k", 7, b"\x01")], [entry(), entry("u", offset=32)]))
    assert set(open_checkpoint(tmp_path / "m.gguf")) == {"t", "u"}


def test_strings_that_are_no_utf8_lose_nothing(tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_bytes([pair("k", 8, struct.pack("<Q", 2) + b"\xf0\x9f")]))
    assert open_checkpoint(tmp_path / "m.gguf").metadata["k"].encode("utf-8", "surrogateescape") == b"\xf0\x9f"
