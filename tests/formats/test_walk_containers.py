"""Every container with every format: an independent reader gets our values, or the pair is refused by name.

The readers are written from the producers' documented layouts with ml_dtypes and gguf; they share no code with ours.
"""

from __future__ import annotations

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

from vbw_np.formats import FORMATS, PROFILES, FormatError, PackedTensor, ScaleError, ShapeError, quantize
from vbw_np.formats.containers import (
    CONTAINERS,
    from_container,
    level_convention,
    level_name,
    load_packed,
    save_packed,
    to_container,
    why_not,
)
from vbw_np.formats.fusing import merge_fused, merge_parts
from vbw_np.formats.random_bits import standard_normal

ALL = {**FORMATS, **{p.name: p.format for p in PROFILES.values()}}
SHAPE = (32, 256)
GGML_BLOCKS = ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "IQ4_NL")
NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32,
)  # fmt: skip
_BNB = np.array([0, 0.0625 / 12, 8 / 12, 1, 4 / 12, 6 / 12, 2 / 12, 3 / 12])
BNB_FP4 = np.concatenate([_BNB, -_BNB]).astype(np.float32)
DTYPES = {"e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2", "e2m3": "float6_e2m3fn", "e3m2": "float6_e3m2fn"}


def e2m1(packed: np.ndarray) -> np.ndarray:
    """Two E2M1 codes a byte, low nibble first."""
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
    return codes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)


def per_block(scales: np.ndarray, block: int) -> np.ndarray:
    return np.repeat(scales, block, axis=-1)


def read(arrays: dict[str, np.ndarray], container: str, fmt) -> np.ndarray:
    """What the producer's own reader makes of its arrays, in its order of float32 operations."""
    if container == "gguf":
        kind = fmt.name.removeprefix("ggml-").upper()
        kind = kind if kind in GGML_BLOCKS else "MXFP4" if fmt.block == 32 else "NVFP4"
        values = gguf.dequantize(arrays["blocks"].reshape(SHAPE[0], -1), GGMLQuantizationType[kind])
        return values * arrays["scale"][0] if "scale" in arrays else values
    if container == "bitsandbytes":
        packed = arrays["weight"].reshape(-1)
        codes = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)
        table = NF4 if "nf4" in fmt.name else BNB_FP4
        return (table[codes] * per_block(arrays["absmax"], 64)).reshape(SHAPE)
    names = {
        "te": ("rowwise_data", "rowwise_scale_inv", "amax_rowwise"),
        "torchao": ("qdata", "scale", "per_tensor_scale"),
        "modelopt": ("weight", "weight_scale", "weight_scale_2"),
        "compressed-tensors": ("weight_packed", "weight_scale", "weight_global_scale"),
    }[container]
    codes, scales = arrays[names[0]], arrays[names[1]]
    if fmt.block == 32:
        element = DTYPES.get(fmt.element.name)
        values = e2m1(codes) if element is None else codes.view(getattr(ml_dtypes, element)).astype(np.float32)
        return values * per_block(scales.view(ml_dtypes.float8_e8m0fnu).astype(np.float32), 32)
    scales = scales.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    if names[2] in arrays:
        level = arrays[names[2]][0]
        if container == "te":  # cap 256 is a flag of its quantizer
            cap = np.float32(1536 if fmt.rule.range == 1536 else 2688)
            scales = (scales * level) * (np.float32(1) / cap)
        else:
            scales = scales / level if container == "compressed-tensors" else scales * level
    return e2m1(codes) * per_block(scales, 16)


def source() -> np.ndarray:
    x = standard_normal(SHAPE, seed=7) * np.float32(0.02)
    x[3, 16:64] = 0
    x[5, :40] *= 300
    return x


# Refused, and why; every other pair must come out right.
ROW_SCALED = {n for n, f in ALL.items() if f.tensor_level == "row"}
NVFP4_KINDS = {n for n in ALL if "nvfp4" in n} - ROW_SCALED
MXFP4_KINDS = {n for n, f in ALL.items() if f.block == 32 and f.element is FORMATS["mxfp4"].element}
MXFP8_KINDS = {n for n in ALL if "mxfp8" in n}
MXFP6_KINDS = {n for n in ALL if "mxfp6" in n}
HELD = {
    "te": NVFP4_KINDS,
    "torchao": NVFP4_KINDS | MXFP4_KINDS | MXFP8_KINDS | MXFP6_KINDS,
    "modelopt": NVFP4_KINDS | MXFP4_KINDS | MXFP8_KINDS,
    "compressed-tensors": NVFP4_KINDS | MXFP4_KINDS,
    "gguf": NVFP4_KINDS | MXFP4_KINDS | {n for n in ALL if n.removeprefix("ggml-").upper() in GGML_BLOCKS},
    "bitsandbytes": {"nf4", "bnb-fp4", "bitsandbytes-nf4", "bitsandbytes-fp4"},
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ALL)
def test_an_independent_reader_gets_our_values_or_it_is_refused(name, container):
    fmt = ALL[name]
    packed = quantize(source(), fmt, measure=False)
    if name not in HELD[container]:
        with pytest.raises(FormatError, match=f"{container} container cannot hold {name}: .{{20}}"):
            to_container(packed, container)
        return
    if fmt.fine is not None:
        with pytest.raises(FormatError, match=f"fine tier of {name}; take packed.coarse"):
            to_container(packed, container)
        packed = packed.coarse()
    arrays = to_container(packed, container)
    assert fmt.rule.two_level or fmt.block == 16 or level_name(container) not in arrays, "MX has no such number"
    theirs, ours = read(arrays, container, fmt), packed.dequantize()
    # Exact where our order of multiplication is the reader's; else each of the two orders rounds twice, and a level
    # that is stored in another convention once more: 3 units in the last place between them at most.
    back = from_container(arrays, container, SHAPE, fmt)
    same_order = fmt.tensor_level == "none" or fmt.decode_order == {
        "te": "amax-first", "torchao": "scale-first", "modelopt": "scale-first", "compressed-tensors": "divide",
        "gguf": "multiply",
    }[container]  # fmt: skip
    if same_order:
        np.testing.assert_array_equal(theirs, back.dequantize())
    if same_order and (fmt.tensor_level == "none" or back.stored_scale == packed.stored_scale):
        np.testing.assert_array_equal(theirs, ours)
    assert np.abs(theirs - ours).max() == 0 or (np.abs(theirs - ours)[ours != 0] / np.abs(ours[ours != 0])).max() < 4e-7
    for part in ("codes", "scales"):
        np.testing.assert_array_equal(getattr(back, part), getattr(packed, part))
    if fmt.tensor_level != "none":
        assert abs(float(back.tensor_scale) / float(packed.tensor_scale) - 1) < 2.5e-7


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ALL)
def test_reading_refuses_what_writing_refuses(name, container):
    if why_not(ALL[name], container):
        with pytest.raises(FormatError, match=f"cannot hold {name}"):
            from_container({}, container, SHAPE, ALL[name])


# ---- what was wrong


def test_gguf_keeps_the_tensor_scale():
    packed = quantize(source(), "nvfp4")
    assert to_container(packed, "gguf")["scale"] == packed.tensor_scale


def test_scales_up_to_256_come_through_every_reader():
    packed = quantize(source(), "nvfp4-4over6")
    for container in ("torchao", "modelopt", "compressed-tensors", "gguf", "te"):
        theirs = read(to_container(packed, container), container, packed.format)
        np.testing.assert_allclose(theirs, packed.dequantize(), rtol=4e-7)


# ---- tensor-level numbers

LEVELS = {"te": "te-nvfp4", "torchao": "torchao-0.18-nvfp4", "modelopt": "modelopt-nvfp4",
          "compressed-tensors": "compressed-tensors-0.20-nvfp4", "gguf": "nvfp4"}  # fmt: skip
BAD = {
    "nan": np.array([np.nan], np.float32), "inf": np.array([np.inf], np.float32), "-1": np.array([-1], np.float32),
    "-0": np.array([-0.0], np.float32), "three": np.array([1, 2, 3], np.float32), "none": np.array([], np.float32),
    "whole number": np.array([1]),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("container", LEVELS)
def test_bad_tensor_scales_are_refused_by_name(container, bad):
    arrays = to_container(quantize(source(), ALL[LEVELS[container]]), container)
    level = level_name(container)
    with pytest.raises(FormatError, match=f"^{level} of a {container} container"):
        from_container({**arrays, level: BAD[bad]}, container, SHAPE, LEVELS[container])
    with pytest.raises(FormatError, match=level):
        from_container({k: v for k, v in arrays.items() if k != level}, container, SHAPE, LEVELS[container])
    if bad == "three":
        with pytest.raises(ScaleError, match="merge_fused"):
            from_container({**arrays, level: BAD[bad]}, container, SHAPE, LEVELS[container])


def test_a_level_that_a_format_has_no_place_for_is_refused():
    arrays = to_container(quantize(source(), "nvfp4-1level"), "modelopt")
    assert arrays["weight_scale_2"] == 1
    with pytest.raises(ScaleError, match="no tensor level"):
        from_container({**arrays, "weight_scale_2": np.array([0.5], np.float32)}, "modelopt", SHAPE, "nvfp4-1level")


@pytest.mark.parametrize("container", CONTAINERS)
def test_zero_tensors_go_through(container):
    """Of every format that the container holds, but for two libraries' own arithmetic, which makes NaN of 0 / 0."""
    for name in sorted(HELD[container]):
        nan_of_zeros = name in ("torchao-0.18-nvfp4", "modelopt-nvfp4")
        packed = quantize(np.zeros(SHAPE, np.float32), ALL[name], nonfinite="producer" if nan_of_zeros else "raise")
        if ALL[name].fine is not None:
            packed = packed.coarse()
        if nan_of_zeros and container in ("gguf", "compressed-tensors"):
            with pytest.raises(ScaleError, match="NaN|inf"):
                to_container(packed, container)
            continue
        arrays = to_container(packed, container)
        back = from_container(arrays, container, SHAPE, ALL[name], allow_nan=nan_of_zeros)
        theirs = read(arrays, container, ALL[name])
        for values in (back.dequantize(), theirs):
            assert np.isnan(values).all() if nan_of_zeros else not values.any(), name
        if nan_of_zeros:
            with pytest.raises(ScaleError, match="pass allow_nan=True"):
                from_container(arrays, container, SHAPE, ALL[name])


def test_a_tensor_scale_of_zero_is_kept_where_it_hides_numbers():
    """ModelOpt's codes of float32's least number: 6 under scales of 448, and a tensor scale of 0 that must stay."""
    packed = quantize(np.full(SHAPE, 2.0**-149, np.float32), ALL["modelopt-nvfp4"])
    assert packed.tensor_scale == 0 and packed.codes.all() and not packed.dequantize().any()
    with pytest.raises(ScaleError, match="weight_global_scale"):
        to_container(packed, "compressed-tensors")


@pytest.mark.parametrize("container", LEVELS)
@pytest.mark.parametrize("size", [1e-35, 1e-36, 1e-38, 1e-41, 3.4e38])
def test_the_ends_of_float32_come_through_every_reader(container, size):
    """Below amax 7.9e-36 our own formats decode with another number than amax says: that is what a reader must get."""
    x = np.clip(source() / np.abs(source()).max() * np.float64(size), -3.4e38, 3.4e38).astype(np.float32)
    for name in sorted(HELD[container] & set(FORMATS)):
        if ALL[name].rule.affine is not None:
            continue  # float16 scales end elsewhere
        packed = quantize(x, name).coarse()
        try:
            arrays = to_container(packed, container)
        except ScaleError as refused:  # 2688 / amax, or 448 * amax, is no float32
            assert (container, size < 1) in (("compressed-tensors", True), ("te", False)), refused
            assert "is inf" in str(refused) or "overflows float32" in str(refused)
            continue
        ours = packed.dequantize()
        with np.errstate(over="ignore"):
            theirs = read(arrays, container, packed.format)
        # two products of four roundings each, and a step of float32's subnormal scales, times 6 and 448
        np.testing.assert_allclose(theirs, ours, rtol=4e-7, atol=6 * 448 * 2.0**-149, err_msg=name)
        back = from_container(arrays, container, SHAPE, packed.format).dequantize()
        np.testing.assert_allclose(back, ours, rtol=4e-7, atol=6 * 448 * 2.0**-149, err_msg=name)


BAD_SHAPES = {"no shape": None, "a word": "a", "no axis": (), "no elements": (0, 256), "fractions": (32.5, 256),
              "negative": (-32, 256), "one number": 256}  # fmt: skip


@pytest.mark.parametrize("shape", BAD_SHAPES)
def test_bad_shapes_are_refused(shape):
    for container, names in HELD.items():
        name = sorted(names)[0]
        arrays = to_container(quantize(source(), ALL[name]), container)
        with pytest.raises(FormatError, match="shape"):
            from_container(arrays, container, BAD_SHAPES[shape], name)


@pytest.mark.parametrize("container", CONTAINERS)
def test_damaged_arrays_are_refused_or_decode_to_what_they_hold(container):
    """Too short, too long, of another dtype, turned, no array at all: for every format, one clear error."""
    for name in sorted(HELD[container]):
        packed = quantize(source(), ALL[name]).coarse()
        arrays = to_container(packed, container)
        for part in (key for key in arrays if key != level_name(container)):
            kept = arrays[part]
            damaged = [
                kept.reshape(-1)[:-1], kept.reshape(-1)[:0], np.concatenate([kept.reshape(-1)] * 2), kept.tolist(),
                None, kept.reshape(-1)[0], kept.astype(np.float64), kept.astype(np.int64), kept.astype(bool),
                kept.astype(object), kept.view(np.int8) if kept.dtype == np.uint8 else kept.view(np.int32),
            ]  # fmt: skip
            if kept.ndim == 2 and 1 not in kept.shape:
                damaged.append(kept.T)
            for bad in damaged:
                with pytest.raises(FormatError, match=f"{part}|blocks|codes|scales|bytes"):
                    from_container({**arrays, part: bad}, container, SHAPE, ALL[name])


def test_rows_that_are_no_whole_blocks_are_refused():
    with pytest.raises(ShapeError, match="whole blocks of 16"):
        to_container(quantize(source()[:, :24], "nvfp4"), "torchao")
    with pytest.raises(ShapeError, match="whole blocks of 64"):
        to_container(quantize(source()[:, :32], "nvfp4"), "gguf")


def test_blocks_of_another_dtype_are_refused():
    arrays = to_container(quantize(source(), "mxfp4"), "gguf")
    with pytest.raises(FormatError, match="GGUF blocks must be a uint8 array, got int8"):
        from_container({"blocks": arrays["blocks"].view(np.int8)}, "gguf", SHAPE, "mxfp4")


def test_nan_scales_stay_out_of_gguf():
    x = source()
    x[0, 0] = np.nan
    with pytest.raises(ScaleError, match="no NaN"):
        to_container(quantize(x, "mxfp4", nonfinite="propagate"), "gguf")


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q8_0"])
def test_nan_scales_of_float16_go_into_gguf_as_ggufs_own(name):
    x = source()
    x[0, 5], x[1, 40], x[2, 70] = np.inf, -np.inf, -np.float32(np.nan)
    packed = quantize(x, name, nonfinite="producer")
    assert np.isnan(packed.decoded_scales()).any() or name == "q4_0"
    with np.errstate(invalid="ignore", over="ignore"):
        blocks = gguf.quantize(x, GGMLQuantizationType[name.upper()])
    arrays = to_container(packed, "gguf")
    np.testing.assert_array_equal(arrays["blocks"].reshape(SHAPE[0], -1), blocks)
    back = from_container(arrays, "gguf", SHAPE, name, allow_nan=True)
    np.testing.assert_array_equal(back.dequantize(), packed.dequantize())


# ---- fused layers


def fused(container: str, factors: tuple[float, ...], rows: tuple[int, ...]) -> tuple[dict, list[PackedTensor]]:
    """The arrays of layers that were fused without care: one tensor-level number each."""
    name = LEVELS[container]
    x = standard_normal((sum(rows), 64), seed=11)
    edges = np.cumsum([0, *rows])
    parts = [
        quantize(x[a:b] * np.float32(f), ALL[name]) for a, b, f in zip(edges[:-1], edges[1:], factors, strict=True)
    ]
    each = [to_container(part, container) for part in parts]
    return {key: np.concatenate([arrays[key] for arrays in each]) for key in each[0]}, parts


@pytest.mark.parametrize("container", ["te", "torchao", "modelopt", "compressed-tensors"])
def test_fused_layers_are_merged_on_purpose_and_the_loss_is_told(container):
    rows = (32, 16, 16)
    arrays, parts = fused(container, (1.0, 0.3, 2.7), rows)
    merged, loss = merge_fused(arrays, container, (64, 64), LEVELS[container], rows=rows)
    before = np.concatenate([part.dequantize() for part in parts])
    after = merged.dequantize()
    assert float(merged.tensor_scale) == pytest.approx(max(float(p.tensor_scale) for p in parts), rel=2.5e-7)
    np.testing.assert_array_equal(merged.codes, np.concatenate([p.codes for p in parts]))
    expected = float(((after - before).astype(np.float64) ** 2).sum() / (before.astype(np.float64) ** 2).sum())
    assert loss.relative_mse == pytest.approx(expected, rel=1e-6) and 0 < loss.relative_mse < 2.0**-8
    assert loss.scales_rounded > 0 and loss.parts[2] < 1e-12 < loss.parts[0]
    np.testing.assert_allclose(after, before, rtol=2.0**-4 + 1e-6)  # half a step of E4M3's three bits
    theirs = read({**to_container(merged, container)}, container, merged.format)
    np.testing.assert_allclose(theirs, after, rtol=4e-7)


def test_what_cannot_be_merged_is_refused():
    arrays, _ = fused("modelopt", (1.0, 0.5), (16, 16))
    name, shape = LEVELS["modelopt"], (32, 64)
    level = "weight_scale_2"
    refusals = {
        "container 'onnx'": (arrays, "onnx", shape),
        "no tensor-level numbers to merge": ({k: v for k, v in arrays.items() if k != level}, "modelopt", shape),
        "only matrices": (arrays, "modelopt", (2, 16, 64)),
        "there are no tensor-level numbers": ({**arrays, level: np.array([], np.float32)}, "modelopt", shape),
        "not 3 equal parts": ({**arrays, level: np.ones(3, np.float32)}, "modelopt", shape),
        "nan; it must be a finite": ({**arrays, level: np.array([1, np.nan], np.float32)}, "modelopt", shape),
    }
    for words, (given, container, size) in refusals.items():
        with pytest.raises(FormatError, match=words):
            merge_fused(given, container, size, name)
    with pytest.raises(FormatError, match="only matrices"):
        merge_fused({"blocks": np.zeros(0, np.uint8), "scale": np.ones(2, np.float32)}, "gguf", shape, "nvfp4")
    with pytest.raises(FormatError, match="no tensor-level numbers to merge"):
        merge_fused({"weight": np.zeros(0, np.uint8)}, "bitsandbytes", shape, "nf4")
    with pytest.raises(FormatError, match="no parts to merge"):
        merge_parts([])
    for rows in ((16, 8), (32, 0), (32,)):
        with pytest.raises(ShapeError, match="positive numbers that add up to 32"):
            merge_fused(arrays, "modelopt", shape, name, rows=rows)


@pytest.mark.parametrize("container", ["te", "torchao", "modelopt", "compressed-tensors"])
def test_the_part_with_the_largest_scale_is_not_changed(container):
    """Its own stored number is the common one, so that what is alone comes back bit for bit."""
    for name in (LEVELS[container], "nvfp4", "nvfp4-4over6", "nvfp4-16x16"):
        arrays = to_container(quantize(source(), ALL[name]), container)
        merged, loss = merge_fused(arrays, container, SHAPE, name)
        alone = from_container(arrays, container, SHAPE, name)
        np.testing.assert_array_equal(merged.dequantize(), alone.dequantize())
        assert merged.stored_scale == alone.stored_scale and loss.relative_mse == 0 == loss.scales_rounded


def test_a_part_that_vanishes_is_told():
    tiny, huge = (quantize(source()[:16] * np.float32(size), "nvfp4") for size in (1e-37, 1e36))
    merged, loss = merge_parts([tiny, huge])
    assert not merged.dequantize()[:16].any() and loss.parts == (1, 0)
    assert loss.scales_to_zero == loss.scales_rounded == np.count_nonzero(tiny.scales)
    with pytest.raises(ShapeError, match="whole numbers"):
        merge_fused(fused("modelopt", (1.0, 0.5), (16, 16))[0], "modelopt", (32, 64), "nvfp4", rows=(16.0, 16.0))


def test_parts_of_zeros_merge_to_zeros():
    zeros = quantize(np.zeros((16, 64), np.float32), "nvfp4")
    merged, loss = merge_parts([zeros, zeros])
    assert not merged.dequantize().any() and loss.relative_mse == 0
    ones = quantize(np.ones((16, 64), np.float32), "nvfp4")
    merged, loss = merge_parts([zeros, ones])
    assert not merged.dequantize()[:16].any() and (merged.dequantize()[16:] == ones.dequantize()).all()


def test_powers_of_two_merge_without_loss_and_parts_must_fit():
    arrays, parts = fused("modelopt", (1.0, 1.0), (16, 16))
    arrays["weight_scale_2"] = np.array([0.25, 1], np.float32)
    arrays["weight_scale"] = np.full_like(arrays["weight_scale"], 0x38)
    merged, loss = merge_fused(arrays, "modelopt", (32, 64), "modelopt-nvfp4")
    assert loss.relative_mse == 0 and loss.scales_rounded == 0 and merged.tensor_scale == 1
    with pytest.raises(ShapeError, match="add up to 32"):
        merge_fused(arrays, "modelopt", (32, 64), "modelopt-nvfp4", rows=(16, 15))
    with pytest.raises(FormatError, match="nothing to merge"):
        merge_parts([quantize(source(), "mxfp4")] * 2)
    with pytest.raises(FormatError, match="one format"):
        merge_parts([parts[0], quantize(source()[:, :64], "nvfp4")])
    assert level_convention("gguf") == "multiplier"


def test_an_archive_that_unpacks_to_more_than_itself_is_refused_before_it_is_unpacked(tmp_path) -> None:
    """Nothing that `save_packed` writes is compressed, so whatever claims to grow is not ours."""
    good = tmp_path / "good.npz"
    save_packed(quantize(np.ones((4, 32), np.float32), "nvfp4"), good)
    with np.load(good) as file:
        parts = dict(file)
    bomb = tmp_path / "bomb.npz"
    np.savez_compressed(bomb, **{**parts, "codes": np.zeros((1 << 14, 1 << 12), np.uint8)})
    assert bomb.stat().st_size < 1 << 18
    with pytest.raises(FormatError, match=r"would unpack to 67,\d+,\d+ bytes, from a file of"):
        load_packed(bomb)
    assert load_packed(good).shape == (4, 32)
