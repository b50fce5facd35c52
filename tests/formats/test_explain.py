"""Explanations, diagnoses, claims and their commands."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from vbw_np.errors import UserError
from vbw_np.formats import (
    E2M1,
    E4M3,
    FORMATS,
    PROFILES,
    FormatError,
    ShapeError,
    UnknownNameError,
    elements,
    pack_nibbles,
    quantize,
    swizzle_scales,
)
from vbw_np.formats.claims import Claim, Verdict, all_claims, check_claims
from vbw_np.formats.commands import add_commands, claims_table
from vbw_np.formats.diagnose import diagnose
from vbw_np.formats.explain import all_bits, explain_code, explain_values
from vbw_np.formats.measure import drawn_mse
from vbw_np.formats.random_bits import standard_normal


def bfloat16_normal(*shape: int) -> np.ndarray:
    return (standard_normal(shape, seed=21).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


# ---- explain


@pytest.mark.parametrize("name", ["E2M1", "E4M3", "E8M0"])
def test_the_bits_of_all_codes_stand_in_the_order_of_the_codes(name: str) -> None:
    element = getattr(elements, name)
    digits = [re.sub("[^01]", "", text) for text in all_bits(element)]
    assert [int(text, 2) for text in digits] == list(range(1 << element.bits))


@pytest.mark.parametrize("fmt", [*FORMATS.values(), *(p.format for p in PROFILES.values())], ids=lambda f: f.name)
def test_explanations_say_what_the_bytes_say(fmt):
    x = standard_normal((20, 70), seed=3)
    packed = quantize(x, fmt)
    decoded, codes = packed.dequantize(), packed.unpacked_codes()
    for index in ((0, 0), (7, 33), (19, 69), (-1, -2)):
        e = packed.explain(*index, x=x)
        assert e.data["code"] == codes[index] and np.float32(e.data["decoded"]) == decoded[index]
        byte = packed.codes.reshape(-1)[e.data["byte_address"]]
        assert e.data["byte"] == byte
        if fmt.code_bits == 4:
            assert (byte >> 4 if e.data["nibble"] == "high" else byte & 15) == codes[index]
        kept = codes[index] & ((1 << min(8 - e.data["bit"], fmt.code_bits)) - 1)  # the part of the code in that byte
        assert byte >> e.data["bit"] & ((1 << fmt.code_bits) - 1) == kept
        assert e.data["error"] == pytest.approx(float(decoded[index]) - float(x[index]), abs=1e-12)
        if "low" in e.data:
            assert e.data["low"] <= e.data["quotient"] <= e.data["high"] or "saturates" in e.data["reason"]
            assert e.data["element"] in (e.data["low"], e.data["high"])
        assert "decoded" in str(e) and "<table>" in e._repr_html_()
        assert packed.explain(*index).data["decoded"] == e.data["decoded"]


ORDERS = {
    "torchao-0.18-nvfp4": "element * (scale * tensor scale)",
    "modelopt-nvfp4": "element * (scale * tensor scale)",
    "te-nvfp4": "element * ((scale * tensor level) * (1 / 2688))",
    "te-nvfp4-4over6-mse": "element * ((scale * tensor level) * (1 / 1536))",
    "compressed-tensors-0.20-nvfp4": "element * (scale / tensor level)",
    "ggml-nvfp4": "(2 * element) * (scale / 2)",
    "nvfp4": "(element * scale) * tensor scale",
    "ocp-mxfp4": "element * scale",
    "compressed-tensors-0.20-int4-zero-g128": "(element - zero) * scale",
}


@pytest.mark.parametrize("fmt", [*FORMATS.values(), *(p.format for p in PROFILES.values())], ids=lambda f: f.name)
def test_the_formula_is_what_the_decoder_computes(fmt):
    """Its numbers and its order: evaluated in float32 as it stands there, it gives the decoded bits."""
    packed = quantize(standard_normal((16, 128), seed=5) * np.float32(0.02), fmt).coarse()
    assert ORDERS.get(fmt.name, packed.explain(0, 0).data["formula"]) == packed.explain(0, 0).data["formula"]
    if fmt.quantile_codebook:
        return
    for index in ((0, 0), (3, 17), (7, 99), *((row, 5 * row) for row in range(16))):
        e = packed.explain(*index)
        names = {"element": "element", "scale": "scale", "tensor_scale": "tensor scale",
                 "stored_scale": "tensor level", "offset": packed.format.offset}  # fmt: skip
        known = {text.replace(" ", "_"): np.float32(e.data[key]) for key, text in names.items() if key in e.data}
        formula = e.data["formula"].replace("tensor scale", "tensor_scale").replace("tensor level", "tensor_level")
        formula = re.sub(r"\b\d+\b", lambda digits: f"f32({digits[0]})", formula)
        value = eval(formula, {"f32": np.float32, **known})
        assert type(value) is np.float32 and value == packed.dequantize()[index], e
        shown = {step.name for step in e.steps}
        assert {name for name in names.values() if name in e.data["formula"]} <= shown, e


def test_a_zero_that_loses_its_sign_is_told():
    x = np.array([[-1e-9, 1.0] + [0.5] * 62], np.float32)
    told = str(quantize(x, "nvfp4", profile="modelopt-nvfp4").explain(0, 0))
    assert "-0 counts as +0 there" in told and "-0 counts" not in str(quantize(x, "nvfp4").explain(0, 0))


def test_a_tie_is_called_a_tie():
    e = explain_values(np.array([6.0, 0.75, 5.0], np.float32), "mxfp4", (1,))
    assert e.data["is_tie"] and "even code 2" in e.data["reason"] and e.data["decoded"] == 1.0


def test_codes_are_taken_apart():
    e = explain_code(5, E2M1)
    assert e.data == {"format": "e2m1", "code": 5, "bits": "0 10 1", "value": 3.0}
    assert "(2.5, 3.5)" in str(e) and "[1.75, 2.5]" in str(explain_code(4, E2M1))
    assert "NaN" in str(explain_code(0x7F, E4M3)) and "subnormal" in str(explain_code(1, E2M1))
    with pytest.raises(FormatError, match="0 to 15"):
        explain_code(16, E2M1)


def test_explain_refuses_bad_indices():
    packed = quantize(np.ones((4, 32), np.float32), "nvfp4")
    with pytest.raises(ShapeError, match="2 indices"):
        packed.explain(3)
    with pytest.raises(ShapeError, match="out of range"):
        packed.explain(4, 0)
    with pytest.raises(ShapeError, match="source has shape"):
        packed.explain(0, 0, x=np.ones((4, 31), np.float32))


# ---- diagnose


@pytest.fixture
def matrix():
    return standard_normal((128, 128), seed=4)


def test_equal_tensors_have_no_findings(matrix):
    a = quantize(matrix, "nvfp4")
    assert diagnose(a, quantize(matrix, "nvfp4")).findings == ()
    assert "equal" in str(diagnose(a, a))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("nibble order", lambda p: dict(codes=(p.codes >> 4) | (p.codes << 4))),
        ("split halves", lambda p: dict(codes=pack_nibbles(p.unpacked_codes(), "split_half", 16))),
        ("split halves", lambda p: dict(codes=pack_nibbles(p.unpacked_codes(), "split_half", 32))),
        ("reciprocal tensor scale", lambda p: dict(tensor_scale=np.float32(1) / p.tensor_scale)),
        ("amax as tensor scale", lambda p: dict(tensor_scale=p.stored_scale)),
        ("swizzled scales", lambda p: dict(scales=swizzle_scales(p.scales).reshape(128, 8))),
    ],
)
def test_mistakes_between_producers_are_named(matrix, name, change):
    a = quantize(matrix, "nvfp4")
    for found in (diagnose(a, replace(a, **change(a))), diagnose(replace(a, **change(a)), a)):
        if name == "amax as tensor scale" and not found.findings[0].name.startswith(name):
            continue
        assert found.names == (name,) and found.findings[0].exact


def test_two_mistakes_at_once(matrix):
    a = quantize(matrix, "nvfp4")
    b = replace(a, codes=(a.codes >> 4) | (a.codes << 4), tensor_scale=np.float32(1) / a.tensor_scale)
    assert set(diagnose(a, b).names) == {"nibble order", "reciprocal tensor scale"}


def test_rules_are_told_apart():
    x = bfloat16_normal(128, 128)
    a = quantize(x, "mxfp4")
    scale = diagnose(a, quantize(x, "mxfp4-even"), x)
    assert scale.names[:2] == ("scale rule", "codes follow scales") and "one higher in b" in str(scale)
    ties = diagnose(a, quantize(x, "mxfp4", ties="zero"), x)
    assert ties.names == ("tie rule", "producers") and "every one is an exact tie" in str(ties)
    assert diagnose(a, quantize(x, "mxfp4", ties="zero")).names == ("tie rule",)
    producers = diagnose(a, quantize(x, "mxfp4", profile="modelopt-mxfp4"), x)
    assert "b is what modelopt-mxfp4 writes" in str(producers)
    nv = diagnose(quantize(x, "nvfp4"), quantize(x, "nvfp4", profile="torchao-0.18-nvfp4"), x)
    assert "operation order" in nv.names or "scale rule" in nv.names
    random = diagnose(quantize(x, "nvfp4"), quantize(x, "nvfp4", ties="stochastic", seed=1), x)
    assert random.names[0] in ("rounding", "other codes")


def test_zero_blocks_and_signs_of_zero():
    x = bfloat16_normal(16, 64)
    x[3, 16:32] = 0
    a, b = quantize(x, "nvfp4"), quantize(x, "nvfp4", profile="modelopt-nvfp4")
    assert "zero-block scale" in diagnose(a, b).names
    x[5, 7] = -0.0
    assert (
        diagnose(quantize(x, "nvfp4"), quantize(x, "nvfp4", profile="torchao-0.18-nvfp4")).names[-1] == "sign of zero"
    )
    assert diagnose(quantize(x, "nvfp4"), quantize(x, "mxfp4")).names == ("block size",)
    with pytest.raises(ShapeError, match="one matrix"):
        diagnose(a, quantize(x[:8], "nvfp4"))


# ---- claims


def test_every_published_figure_is_reproduced():
    verdicts = list(check_claims())
    assert len(verdicts) == len(all_claims()) >= 30
    failed = [(v.claim.name, v.claim.published, v.ours) for v in verdicts if not v.passed]
    assert not failed


def test_what_was_found_to_be_reproducible_is_among_them():
    """Quartet's factor for E2M1 and uniform levels, Quartet II's errors and misalignment; own figures are marked."""
    published = {claim.published for claim in all_claims()}
    assert {"0.487079", "3.495211e-3", "1.040048e-3", "9.0", "23.5", "9.8", "0.00792", "0.00056", "5.170"} <= published
    text = claims_table([Verdict(claim, 0.0, 0.0) for claim in all_claims()])
    marked = {line.split("  ")[0].strip() for line in text.splitlines() if "(own)" in line}
    assert {"two tiers, 0 bit planes (4.5 bits)", "seed-v6, both tiers (9 bits and scales)", "13 bits"} <= marked
    others = {claim.name for claim in all_claims() if claim.source.startswith(("Quartet", "QLoRA", "MR-GPTQ", "Max"))}
    assert others and not marked & others


def test_a_tolerance_is_what_was_printed_and_drawn_and_no_more():
    claim = Claim("c", "s", "-", "9.0", lambda: 9.05)
    assert claim.half_unit == 0.05
    assert Claim("c", "s", "-", "3.495211e-3", float).half_unit == pytest.approx(5e-10)
    assert Verdict(claim, 9.05, 0.0).passed and not Verdict(claim, 9.06, 0.0).passed
    assert Verdict(claim, 9.06, 0.0, error=0.003).passed and not Verdict(claim, 9.07, 0.0, error=0.003).passed
    assert not Verdict(Claim("c", "s", "-", "1", float, exact=True), 1.0000001, 0.0).passed
    with pytest.raises(ValueError, match="reason"):
        Claim("c", "s", "-", "1", float, slack=0.1)


def test_a_standard_error_is_how_far_samples_differ():
    x = standard_normal((64, 1024), seed=11)
    samples = [x[i : i + 8] for i in range(0, 64, 8)]
    figures = [drawn_mse(sample, sample * np.float32(0.5) + np.float32(0.1), float, 8) for sample in samples]
    spread = np.std([f.value for f in figures], ddof=1)
    assert np.mean([f.error for f in figures]) == pytest.approx(spread, rel=0.75)


# ---- commands


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser("vbw")
    add_commands(parser.add_subparsers(required=True))
    args = parser.parse_args(argv)
    return args.run(args)


def test_formats_table_names_everything(capsys):
    assert run("formats") == 0
    text = capsys.readouterr().out
    for name in (*FORMATS, *PROFILES, "e8m0"):
        assert name in text
    assert run("formats", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert [f["name"] for f in data["formats"]] == list(FORMATS)


def test_bits(capsys):
    assert run("bits", "0x5", "--format", "e2m1") == 0
    assert "0 10 1" in capsys.readouterr().out
    assert run("bits", "--format", "e4m3", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data) == 256 and data[0x7E]["value"] == 448.0 and data[0x7F]["value"] == "nan"
    assert run("bits", "3", "0b100", "--json") == 0
    assert [d["value"] for d in json.loads(capsys.readouterr().out)] == [1.5, 2.0]
    for bad in (["bits", "five"], ["bits", "99"], ["bits", "1", "--format", "fp8"]):
        with pytest.raises(FormatError):
            run(*bad)


def test_explain_command(capsys):
    assert run("explain", "0.7", "--format", "nvfp4") == 0
    assert "quotient" in capsys.readouterr().out
    for name in ("nvfp4-16x16", "seed-v6", "modelopt-mxfp4", "e2m1", "int4-row", "nvfp4-nested"):
        assert run("explain", "0.7", "-1.25", "3", "--index", "1", "--format", name, "--json") == 0
        assert json.loads(capsys.readouterr().out)["x"] == -1.25
    for bad in (
        ["explain", "1", "--index", "1"],
        ["explain", "1", "--format", "x"],
        ["explain", "-1", "--format", "e8m0"],
    ):
        with pytest.raises(FormatError):
            run(*bad)


def test_quantize_command(tmp_path, capsys):
    x = standard_normal((32, 64), seed=1)
    path, out = tmp_path / "w.npy", tmp_path / "w.npz"
    np.save(path, x)
    assert run("quantize", str(path), "--format", "nvfp4", "--report", "--out", str(out)) == 0
    assert "codes of nvfp4" in capsys.readouterr().out
    with np.load(out) as file:
        np.testing.assert_array_equal(file["codes"], quantize(x, "nvfp4").codes)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []
    assert run("quantize", str(path), "--profile", "bitsandbytes-nf4", "--json", "--report") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["format"] == "bitsandbytes-nf4" and sum(data["code_histogram"]) == x.size
    x[0, 0] = np.nan
    np.save(path, x)
    assert run("quantize", str(path), "--nonfinite", "propagate", "--report", "--json") == 0
    assert json.loads(capsys.readouterr().out)["nan_blocks"] == 1
    for bad in (
        ["quantize", str(path)],
        ["quantize", str(tmp_path / "none.npy")],
        ["quantize", str(path), "--format", "fp8"],
        ["quantize", str(path), "--format", "mxfp4", "--profile", "te-nvfp4"],
        ["quantize", str(path), "--nonfinite", "producer", "--out", str(tmp_path / "w.bin")],
        ["quantize", str(path), "--nonfinite", "producer", "--out", str(tmp_path / "no" / "w.npz")],
        ["quantize", str(out)],
    ):
        with pytest.raises(UserError):
            run(*bad)
    too_large = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    for damaged in (b"not an array", b"", b"PK\x03\x04 half a zip", b"\x93NUMPY\x01\x00\x76\x00" + too_large):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match="numpy.save"):
            run("quantize", str(path))


def test_claims_command(capsys, monkeypatch):
    assert run("claims", "--only", "Max, Quantizing", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["passed"] is True
    with pytest.raises(FormatError, match="no claim"):
        run("claims", "--only", "nothing of the kind")
    wrong = Verdict(Claim("wrong", "nowhere", "never", "1.0", lambda: 2.0), 2.0, 0.0)
    monkeypatch.setattr("vbw_np.formats.commands.check_claims", lambda only: [wrong])
    assert run("claims") == 1
    assert "FAIL" in capsys.readouterr().out


def test_unknown_profile():
    with pytest.raises(UnknownNameError):
        quantize(np.ones(16, np.float32), "nvfp4", profile="nobody")
