"""Every profile against its library: codes, scales and decoded values, bit for bit, over 4.2 million values."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from vbw_np.formats import PROFILES, quantize, swizzle_scales, unswizzle_scales
from vbw_np.formats.containers import from_container, to_container
from vbw_np.formats.double_quant import double_quantize, dynamic_map
from vbw_np.formats.mixed import PRODUCERS
from vbw_np.formats.packing import pack_nibbles

HERE = Path(__file__).parent


def _load_cases():
    spec = importlib.util.spec_from_file_location("oracle_cases", HERE / "cases.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["oracle_cases"] = module
    spec.loader.exec_module(module)
    return module


cases = _load_cases()
LIBRARIES = ("torchao", "modelopt", "compressed_tensors", "bitsandbytes", "gguf", "ggml_c", "transformer_engine")


@functools.cache
def golden(library: str) -> dict[str, np.ndarray]:
    with np.load(HERE / f"{library}.npz") as file:
        return dict(file)


@functools.cache
def case_input(case: str) -> np.ndarray:
    return getattr(cases, case)()


def recorded() -> list[tuple[str, str, str]]:
    found = set()
    for library in LIBRARIES:
        with np.load(HERE / f"{library}.npz") as file:
            for key in file.files:
                if key.endswith("/codes-head"):
                    profile, case, _ = key.split("/")
                    found.add((library, profile, case))
    return sorted(found, key=lambda t: (t[2], t[0], t[1]))


Ours = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]


def our_bytes(x: np.ndarray, profile: str) -> Ours:
    """Codes in the producer's nibble order, scales as bytes, the stored number, decoded values; a row a row of x."""
    packed = quantize(x, PROFILES[profile].format, nonfinite="producer", measure=False)
    codes, fmt = packed.codes, packed.format
    if fmt.nibble_order != "low_first":
        codes = pack_nibbles(packed.unpacked_codes(), fmt.nibble_order, fmt.nibble_group)
    scales = np.ascontiguousarray(packed.scales).view(np.uint8)
    return (
        codes.reshape(len(x), -1),
        scales.reshape(len(x), -1),
        packed.stored_scale,
        cases.one_nan(packed.dequantize()),
    )


def assert_same(got: np.ndarray, wanted: np.ndarray, what: str) -> None:
    if not np.array_equal(got, wanted):
        bad = np.argwhere(got != wanted)
        where = tuple(bad[0])
        raise AssertionError(
            f"{what}: {len(bad)} of {got.size} bytes differ, first at {where}: {got[where]:#x}, not {wanted[where]:#x}"
        )


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_inputs_are_those_that_the_library_got(library):
    about = json.loads(str(golden(library)["about"]))
    for case, digest in about["inputs"].items():
        assert cases.digests(case_input(case)).tobytes().hex()[:64] == digest


@pytest.mark.parametrize(("library", "profile", "case"), recorded())
def test_bytes_equal_the_librarys(library, profile, case):
    kept, x = golden(library), cases.for_profile(case_input(case), profile)
    codes, scales, stored, decoded = our_bytes(x, profile)
    key = f"{profile}/{case}"
    assert_same(scales[: cases.HEAD_ROWS], kept[f"{key}/scales-head"], "scales")
    assert_same(codes[: cases.HEAD_ROWS], kept[f"{key}/codes-head"], "codes")
    if f"{key}/stored" in kept:
        assert np.float32(stored) == kept[f"{key}/stored"].reshape(())
    for part, array in (("scales", scales), ("codes", codes), ("decoded", decoded)):
        same = (cases.digests(array) == kept[f"{key}/{part}-sha256"]).all(axis=1)
        rows = [int(i) * cases.CHUNK_ROWS for i in np.flatnonzero(~same)]
        assert not rows, f"{part} of the {cases.CHUNK_ROWS} rows from each of {rows} differ from the library's"


@pytest.mark.parametrize(("library", "profile"), sorted({t[:2] for t in recorded()}))
def test_edge_tensors_equal_the_librarys(library, profile):
    kept = golden(library)
    for i, row in enumerate(cases.for_profile(cases.edges(), profile)):
        codes, scales, stored, decoded = our_bytes(row[None], profile)
        what = f"edge {i}, x = {row[:4]}..."
        assert_same(scales[0], kept[f"{profile}/edges/scales"][i], f"{what} scales")
        assert_same(codes[0], kept[f"{profile}/edges/codes"][i], f"{what} codes")
        wanted = kept[f"{profile}/edges/decoded"][i]
        np.testing.assert_array_equal(cases.digests(decoded)[0], wanted, f"{what} decoded: {decoded[0, :4]}...")
        if f"{profile}/edges/stored" in kept:
            np.testing.assert_array_equal(np.float32(stored), kept[f"{profile}/edges/stored"][i][0], what)


def ggml_index(x: np.float32, scale: np.float32) -> int:
    """ggml's search (`best_index_mxfp4`): the first of gguf's 16 values with the least float32 error."""
    best, least = 0, np.abs(scale * np.float32(0) - x)
    for index, value in enumerate(gguf.quants.NVFP4.kvalues):
        error = np.abs(scale * np.float32(value) - x)
        if error < least:
            best, least = index, error
    return best


def test_ggml_nvfp4_follows_ggmls_search():
    """gguf writes no NVFP4, but has the conversion of scales and the values: ggml's loop over them, element by element.

    From amax about 3e10 up all errors of a search in float32 are alike, so its codes are no roundings; a NaN takes no
    part in amax, and neither NaN nor Inf is nearer to any value than to the first.
    """
    library = gguf.quants.NVFP4
    rows = np.concatenate([cases.edges(), case_input("gaussian")[:16, :64], case_input("midpoints")[:16, :64]])
    for number, row in enumerate(rows):
        codes, scales, _, decoded = our_bytes(row[None], "ggml-nvfp4")
        blocks = row.reshape(4, 16)
        with np.errstate(all="ignore"):
            amax = np.fmax.reduce(np.abs(blocks), axis=1, initial=np.float32(0))
            bytes_ = library.fp32_to_ue4m3(amax / np.float32(6))
            halves = library.ue4m3_to_fp32(bytes_).astype(np.float32)
            wanted = [[ggml_index(x, half) for x in block] for block, half in zip(blocks, halves, strict=True)]
            values = halves[:, None] * np.array(library.kvalues, np.float32)[np.array(wanted)]
        np.testing.assert_array_equal(scales[0], bytes_, f"row {number}: scales")
        packed = pack_nibbles(np.array(wanted, np.uint8).reshape(1, 64), "split_half", 16)
        np.testing.assert_array_equal(codes, packed, f"row {number}, x = {row[:4]}...: codes")
        np.testing.assert_array_equal(decoded.reshape(4, 16), values, f"row {number}: decoded")


def test_every_executable_profile_has_its_oracle():
    checked = {profile for _, profile, _ in recorded()} | {fmt.name for _, fmt, _, _ in PRODUCERS}  # test_mixed.py
    assert {p.name for p in PROFILES.values() if p.checked != "source"} == checked


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_ragged_row(kind):
    kept, x = golden("bitsandbytes"), case_input("gaussian")[:1, :1001]
    packed = quantize(x, PROFILES[f"bitsandbytes-{kind}"].format)
    arrays = to_container(packed, "bitsandbytes")
    assert_same(arrays["absmax"].view(np.uint8), kept[f"ragged/{kind}/absmax"].reshape(-1).view(np.uint8), "absmax")
    assert_same(arrays["weight"].reshape(-1), kept[f"ragged/{kind}/codes"].reshape(-1), "codes, the padding's too")
    back = from_container(arrays, "bitsandbytes", x.shape, packed.format)
    np.testing.assert_array_equal(back.dequantize(), packed.dequantize())


def test_double_quantization_equals_bitsandbytes():
    kept = golden("bitsandbytes")
    np.testing.assert_array_equal(dynamic_map(), kept["double/map"])
    x = np.concatenate([case_input("gaussian"), case_input("gaussian_bfloat16")[:512]])
    packed = quantize(x, PROFILES["bitsandbytes-nf4"].format, measure=False)
    ours = double_quantize(packed.scales, kept["double/offset"])
    np.testing.assert_array_equal(ours.absmax, kept["double/absmax"])
    np.testing.assert_array_equal(ours.codes.reshape(-1), kept["double/codes"].reshape(-1))
    # torch's float32 mean depends on its order of additions: ours is the exact mean, rounded once.
    assert abs(double_quantize(packed.scales).offset / kept["double/offset"] - 1) < 2**-20


@pytest.mark.parametrize("shape", [(128, 4), (130, 7), (300, 64), (1, 1)])
def test_scale_swizzle_equals_torchaos(shape):
    kept = golden("torchao")[f"swizzle/{shape[0]}x{shape[1]}"]
    scales = (cases.bits(shape, 70) & np.uint32(0xFF)).astype(np.uint8)
    np.testing.assert_array_equal(swizzle_scales(scales), kept)
    np.testing.assert_array_equal(unswizzle_scales(kept, shape), scales)


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7FE00000, 0xFFFFFFFF, 0x7FA00000, 0xFF800001, 0x7FD00000])
@pytest.mark.parametrize("mode", ["floor", "even", "ceil", "rceil"])
def test_a_nan_of_any_bits_under_torchao(mode, bits):
    """The codes that torchao 0.18.0's `to_mx` wrote for these bits, alone in a block and beside Inf of both signs.

    x86 makes 0xFFC00000 of 0 / 0, NumPy's nan is 0x7FC00000.
    """
    written = {0x7FC00000: 3, 0xFFC00000: 11, 0x7FE00000: 4, 0xFFFFFFFF: 12, 0x7FA00000: 4, 0xFF800001: 11,
               0x7FD00000: 3}  # fmt: skip
    for beside in ((), (np.inf, -np.inf)):
        x = np.ones((1, 32), np.float32)
        x.view(np.uint32)[0, 5] = bits
        x[0, 7 : 7 + len(beside)] = beside
        packed = quantize(x, PROFILES[f"torchao-0.18-{mode}"].format, nonfinite="producer", measure=False)
        assert packed.scales[0, 0] == 255
        assert packed.unpacked_codes()[0, 5] == (3 if mode == "rceil" else written[bits])
