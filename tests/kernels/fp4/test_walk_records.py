"""Records of one's own: computed as they say, or refused in words; and what a caller may give along with an array."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vbw_np.definitions import support
from vbw_np.formats import FORMATS, INT4, PROFILES, TIES, FineTier, FormatError, PackedTensor, ScaleError, quantize
from vbw_np.formats.blocks import mx_floor
from vbw_np.formats.containers import load_packed, save_packed
from vbw_np.formats.elements import E2M3, INT4_TO_6, UE5M3
from vbw_np.formats.random_bits import standard_normal
from vbw_np.formats.scales import MX_FLOOR, MX_RCEIL, TE, TE_ONE_LEVEL, absmax_rule, te_rule
from vbw_np.kernels.fp4.dequantize import dequantize as fast_dequantize
from vbw_np.kernels.fp4.quantize import quantize as fast_quantize

ALL = {**FORMATS, **{p.name: p.format for p in PROFILES.values()}}
X = standard_normal((32, 256), seed=31)
QUANTIZERS = {"formats": quantize, "kernels": fast_quantize}

CONTRADICTIONS = {
    "one level, and the format asks for two": ("nvfp4-1level", dict(tensor_level="row")),
    "two levels, and the format asks for one": ("modelopt-nvfp4", dict(tensor_level="none")),
    "cannot span rows as well": ("fp8-tensor", dict(block_rows=16)),
    "'row' refines quantiles": ("nvfp4", dict(fine=FineTier("row"))),
    "intervals of E2M1": ("int4-g16", dict(fine=FineTier("nested"))),
    "makes scales and codes itself": ("q4_0", dict(fine=FineTier("tied"))),
    "makes scales and codes itself,": ("q4_k", dict(tensor_level="tensor")),
    "one float32 scale a row": ("seed-v6", dict(block=24)),
    "and nothing else": ("seed-v6", dict(rule=MX_FLOOR)),
    "(block=None, fine='row')": ("seed-v6", dict(flat=True)),
    "either its element's or quantiles": ("seed-v6", dict(element=INT4)),
    "says which it is": ("nvfp4", dict(second=INT4_TO_6)),
    "a byte of E8M0 or E4M3": ("fp4-g16", dict(decode_order="halves")),
}


@pytest.mark.parametrize("words", CONTRADICTIONS)
def test_a_record_that_contradicts_itself_is_refused(words):
    name, changes = CONTRADICTIONS[words]
    with pytest.raises(FormatError, match=f"format {name} contradicts itself: ") as refused:
        replace(ALL[name], **changes)
    assert words in str(refused.value)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", ALL)
def test_a_rounding_is_done_or_refused_and_never_ignored(name, quantizer):
    """Stochastic rounding gives other codes than none, and other ones with another seed, or an error with the name."""
    plain = QUANTIZERS[quantizer](X, ALL[name])
    for ties in TIES:
        if ties == ALL[name].ties:
            continue
        try:
            first, second = (QUANTIZERS[quantizer](X, ALL[name], ties=ties, seed=seed) for seed in (1, 2))
        except FormatError as refused:
            assert name in str(refused) or "8-random-bit rounding is defined for floats" in str(refused)
            continue
        assert ALL[name].rule.affine is None, "its own rounding is the only one"
        if ties.startswith("stochastic"):
            assert not np.array_equal(first.codes, plain.codes) and not np.array_equal(first.codes, second.codes)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", [name for name, fmt in ALL.items() if fmt.tensor_level != "none"])
def test_scales_of_a_tensor_made_by_hand_serve_again(name, quantizer):
    """It knows what it multiplies with, and not what its producer stores: amax, a multiplier or a reciprocal."""
    packed = quantize(X, ALL[name])
    by_hand = replace(packed, stored_scale=None)
    again = QUANTIZERS[quantizer](X, ALL[name], reuse=by_hand)
    assert (again.unpacked_codes() != packed.unpacked_codes()).mean() < 1e-3  # a last bit of amax, beside a tie
    np.testing.assert_array_equal(again.tensor_scale, packed.tensor_scale)
    explained = by_hand.explain(3, 5, x=X)
    assert explained.data["quotient"] == pytest.approx(packed.explain(3, 5, x=X).data["quotient"], rel=1e-6)


BAD_AMAX = {
    "nan": np.nan, "inf": np.inf, "negative": -1.0, "beyond float32": 1e300, "a word": "4", "two": np.ones(2),
    "a boolean": True,
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_AMAX)
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_given_amax_is_checked(bad, quantizer):
    for name, fmt in FORMATS.items():
        if fmt.tensor_level == "none":
            continue
        amax = BAD_AMAX[bad]
        if fmt.tensor_level == "row" and bad != "two":
            amax = np.full((32, 1), amax)
        with pytest.raises(FormatError, match=f"{name}: amax"):
            QUANTIZERS[quantizer](X, name, amax=amax)


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt.tensor_level != "none"])
def test_a_given_amax_is_the_measured_one_in_any_shape_that_fits(name):
    wanted = quantize(X, name)
    rows = np.abs(X).max(axis=1, keepdims=True)
    given = [rows, rows[:, 0], rows.astype(np.float64)]
    if FORMATS[name].tensor_level == "tensor":
        given = [rows.max(), float(rows.max()), rows.max().reshape(1), rows.max().reshape(1, 1)]
    for amax in given:
        for quantizer in QUANTIZERS.values():
            found = quantizer(X, name, amax=amax)
            np.testing.assert_array_equal(found.codes, wanted.codes)
            np.testing.assert_array_equal(found.dequantize(), wanted.dequantize())
            assert np.shape(found.tensor_scale) == np.shape(wanted.tensor_scale)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, np.ones(3, np.float32), np.ones((32, 2), np.float32), "1"])
@pytest.mark.parametrize("part", ["tensor_scale", "stored_scale"])
def test_a_tensors_own_level_is_checked(part, value):
    for name in ("nvfp4", "nvfp4-row-scaled", "compressed-tensors-0.20-nvfp4"):
        with pytest.raises(FormatError, match=f"{name}: {part}"):
            whole = np.full((32, 1), value) if np.ndim(value) == 0 and name == "nvfp4-row-scaled" else value
            replace(quantize(X, ALL[name]), **{part: whole})
    with pytest.raises(ScaleError, match="mxfp4 has no tensor-level scale"):
        replace(quantize(X, "mxfp4"), **{part: np.float32(1)})


def test_a_level_that_is_no_number_is_refused_in_a_file(tmp_path):
    packed = quantize(X, "nvfp4")
    for value in (np.nan, np.inf, -1):
        bad = replace(packed, tensor_scale=np.float32(value), allow_nan=True)
        save_packed(bad, tmp_path / "bad.npz")
        with np.load(tmp_path / "bad.npz") as file:
            parts = {**file, "allow_nan": np.array(False)}
        np.savez(tmp_path / "bad.npz", **parts)
        with pytest.raises(ScaleError, match="nvfp4: tensor_scale is"):
            load_packed(tmp_path / "bad.npz")


def test_parts_that_decoding_needs_are_there():
    packed = quantize(X, "seed-v6")
    for part in ("signs", "codebook"):
        with pytest.raises(FormatError, match=part):
            replace(packed, **{part: None})
    with pytest.raises(FormatError, match="fine_scales"):
        replace(quantize(X, "nvfp4-own"), fine_scales=None)
    with pytest.raises(FormatError, match="no fine tier"):
        replace(quantize(X, "nvfp4"), fine=packed.fine, planes=4)
    with pytest.raises(FormatError, match="whole numbers"):
        PackedTensor(np.zeros((1, 8), np.uint8), np.zeros((1, 1), np.uint8), (1.5, 16), FORMATS["nvfp4-1level"])


def test_rows_that_share_the_scale_of_a_whole_row_share_it():
    fmt = replace(FORMATS["fp4-row"], name="tiles", block_rows=16)
    for quantizer in QUANTIZERS.values():
        packed = quantizer(X, fmt)
        tops = np.abs(X).reshape(2, -1).max(axis=1) / np.float32(6)
        np.testing.assert_array_equal(packed.scales[:, 0], np.repeat(tops, 16))
    assert absmax_rule(6).numbers is not None


def assert_same(ours: PackedTensor, theirs: PackedTensor) -> None:
    for part in ("codes", "scales", "tensor_scale", "stored_scale", "fine", "fine_scales", "planes"):
        one, two = getattr(ours, part), getattr(theirs, part)
        assert (one is None) == (two is None) and np.asarray(one).dtype == np.asarray(two).dtype, part
        if one is not None:
            np.testing.assert_array_equal(one, two, err_msg=part)


SHAPES = [(33, 48), (16, 160), (3, 7), (2, 3, 64), (1, 16)]
FIELDS = {
    "rule": [MX_FLOOR, MX_RCEIL, TE, TE_ONE_LEVEL, absmax_rule(6), absmax_rule(5.9), mx_floor(3), te_rule(cap=500.0),
             te_rule(cap=3, headroom=1.2, least=0), te_rule(largest=4), te_rule(two_level=False, element=UE5M3)],
    "block": [None, 8, 16, 24, 32, 64], "block_rows": [1, 4, 16, 32], "tensor_level": ["none", "tensor", "row"],
    "ties": TIES, "signed_zero": ["keep", "drop", "never", "negative"], "flat": [True],
    "fine": [None, FineTier("nested"), FineTier("nested", top=7.0), FineTier("tied"), FineTier("own")],
    "decode_order": ["scale-first", "amax-first", "divide"], "positive_zero": [True], "four_over_six": ["mse"],
    "element": [INT4, E2M3],
}  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_records_of_ones_own_are_the_definitions(seed):
    """One to three fields of a format that has a kernel are changed: the same bytes and values, or the same error."""
    rng = np.random.default_rng(seed)
    known = [fmt for fmt in FORMATS.values() if support.strips(fmt, fmt.ties).kernel is not None]
    fast = 0
    for _ in range(100):
        base = known[rng.integers(len(known))]
        changed = rng.choice(list(FIELDS), size=rng.integers(1, 4), replace=False)
        try:
            fmt = replace(base, **{field: FIELDS[field][rng.integers(len(FIELDS[field]))] for field in changed})
        except FormatError:
            continue
        x = standard_normal(SHAPES[rng.integers(len(SHAPES))], seed=seed)
        x = (np.round(x * 4) / 4 * np.float32(10.0) ** rng.integers(-38, 37)).astype(np.float32)
        try:
            wanted = quantize(x, fmt, seed=seed, measure=False)
        except FormatError:
            with pytest.raises(FormatError):
                fast_quantize(x, fmt, seed=seed)
            continue
        found = fast_quantize(x, fmt, seed=seed)
        fast += support.strips(fmt, fmt.ties).kernel is not None
        assert_same(found, wanted)
        for planes in {0, wanted.planes}:
            ours, theirs = fast_dequantize(wanted, planes), wanted.dequantize(planes)
            np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32), err_msg=str(changed))
    assert fast > 5


@pytest.mark.parametrize("name", [name for name, fmt in ALL.items() if fmt.tensor_level == "tensor"])
def test_scales_of_another_rule_are_used_as_they_say_or_refused(name):
    """nvfp4 with the scales of nvfp4-4over6 decoded 1.75 times too large: its range is 1536, not 2688."""
    packed = quantize(X, ALL[name])
    for other in ("nvfp4", "nvfp4-4over6", "int4-e4m3", "torchao-0.18-nvfp4", "compressed-tensors-0.20-nvfp4"):
        for quantizer in QUANTIZERS.values():
            try:
                again = quantizer(X, ALL[other], reuse=packed)
            except FormatError:
                continue
            assert again.measure(X).sqnr_db > 10, other


def test_a_tensor_to_be_overwritten_is_of_the_same_record():
    """Whatever its rounding was; a record of one's own under the same name has arrays of other shapes."""
    out = fast_quantize(X, "nvfp4")
    again = fast_quantize(X, "nvfp4", ties="stochastic", seed=1, out=out)
    assert again.codes is out.codes and (again.codes == quantize(X, "nvfp4", ties="stochastic", seed=1).codes).all()
    mine = replace(FORMATS["fp4-g16"], block=32)
    with pytest.raises(FormatError, match="out is a fp4-g16 tensor"):
        fast_quantize(X, mine, out=fast_quantize(X, "fp4-g16"))
