"""Every profile's quantizer conforms to itself, libraries' answers are the vectors', and planted faults are named."""

from __future__ import annotations

import importlib.util
import json
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vbw_np.cli import main
from vbw_np.conformance import conform, inputs, vectors
from vbw_np.conformance.vectors import pack
from vbw_np.errors import UserError
from vbw_np.formats import E4M3, FORMATS, PROFILES, PackedTensor, pack_nibbles, quantize, swizzle_scales
from vbw_np.formats.ggml_blocks import to_blocks_of
from vbw_np.formats.scales import MX_FLOOR, te_rule

ORACLES = Path(__file__).parents[1] / "oracles"
_SPEC = importlib.util.spec_from_file_location("conform_cases", ORACLES / "cases.py")
cases = importlib.util.module_from_spec(_SPEC)
sys.modules["conform_cases"] = cases
_SPEC.loader.exec_module(cases)

Quantizer = Callable[[np.ndarray], dict[str, np.ndarray]]


def answer(packed: PackedTensor) -> dict[str, np.ndarray]:
    found = {"codes": pack(packed), "scales": packed.scales, "decoded": packed.dequantize()}
    return found | {"tensor_scale": packed.stored_scale, "offsets": packed.offsets}


def ours(profile: str, **fields: object) -> Quantizer:
    fmt = replace(PROFILES[profile].format, **fields)
    return lambda x: answer(quantize(x, fmt, nonfinite="producer", measure=False))


@pytest.mark.parametrize("profile", PROFILES)
def test_our_own_quantizer_conforms(profile):
    verdict = conform(ours(profile), profile)
    assert verdict.conforms and verdict.right == verdict.cases >= 30, verdict


@pytest.mark.parametrize("profile", sorted(json.loads((ORACLES / "vectors.json").read_text())))
def test_vectors_equal_what_the_library_gives(profile):
    kept = json.loads((ORACLES / "vectors.json").read_text())[profile]
    document = vectors(profile)
    assert [v.case.name for v in document.vectors] == list(kept)
    for vector in document.vectors:
        e = vector.expected
        digest = cases.answer_digest(e.codes, e.scales, e.tensor_scale, e.offsets, e.decoded)
        assert kept[vector.case.name] == ("refused" if kept[vector.case.name] == "refused" else digest), vector.case
        assert vector.case.optional or kept[vector.case.name] != "refused"


def test_every_profile_that_a_library_can_check_is_checked():
    checked = {p.name for p in PROFILES.values() if p.checked != "source"}
    assert set(json.loads((ORACLES / "vectors.json").read_text())) == checked


def test_the_file_holds_the_bits(tmp_path, capsys):
    out = tmp_path / "v.json"
    assert main(["vectors", "torchao-0.18-nvfp4", "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["format"]["block"] == 16 and document["format"]["scale"] == "e4m3"
    for kept, vector in zip(document["cases"], vectors("torchao-0.18-nvfp4").vectors, strict=True):
        x = np.array([[int(w, 16) for w in row.split()] for row in kept["x"]], np.uint32).view(np.float32)
        np.testing.assert_array_equal(x.view(np.uint32), vector.case.x.view(np.uint32))
        packed = quantize(x, "nvfp4", profile="torchao-0.18-nvfp4", nonfinite="producer", measure=False)
        rows = [bytes.fromhex(row) for row in kept["packed"]]
        assert b"".join(rows) == packed.codes.tobytes()
        assert int(kept["tensor_scale"], 16) == int(packed.stored_scale.view(np.uint32)) or np.isnan(x).any()
    assert main(["vectors", "nvfp5"]) == 2 and "unknown profile" in capsys.readouterr().err


# ---- planted faults


def after(quantizer: Quantizer, **changes: Callable) -> Quantizer:
    """A quantizer with parts of its answer changed."""

    def run(x: np.ndarray) -> dict[str, np.ndarray]:
        found = quantizer(x)
        return found | {part: change(found[part]) for part, change in changes.items()}

    return run


def before(quantizer: Quantizer, change: Callable[[np.ndarray], np.ndarray]) -> Quantizer:
    return lambda x: quantizer(change(x))


def flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 2.0**-126, x * np.float32(0), x)


def without_tail(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[:, x.shape[1] // 64 * 64 :] = 0
    return x


def rounded_down(rule):
    def block(amax, g):
        right = rule.block(amax, g).astype(int)
        exact = amax / (np.float32(6) * rule.multiplier(g))
        return np.clip(right - (E4M3.table[right] > exact), 0, 126).astype(np.uint8)

    return replace(rule, block=block)


AO, MO, CT, TE = "torchao-0.18-nvfp4", "modelopt-nvfp4", "compressed-tensors-0.20-nvfp4", "te-nvfp4"
RULE = {name: PROFILES[name].format.rule for name in (AO, MO, CT, TE)}
FAULTS: dict[str, tuple[str, Quantizer, str, str]] = {
    # fault: (profile, quantizer, rule, a word of why)
    "ties away from zero": (AO, ours(AO, ties="away"), "ties", "away from zero"),
    "ties toward zero": (TE, ours(TE, ties="zero"), "ties", "toward zero"),
    "ties to even in GGUF": ("ggml-mxfp4", ours("ggml-mxfp4", ties="even", rule=replace(
        PROFILES["ggml-mxfp4"].format.rule, quotient=lambda x, s, g=None: np.where(s == 0, 0, x / s))), "ties", "even"),
    "floor scale": ("torchao-0.18-rceil", ours("torchao-0.18-rceil", rule=MX_FLOOR), "block scale", "mx-floor"),
    "another mode": ("torchao-0.18-even", ours("torchao-0.18-ceil"), "block scale", "ceil"),
    "high nibble first": (MO, after(ours(MO), codes=lambda c: c >> 4 | c << 4), "nibble order", "high nibble first"),
    "split halves": (CT, lambda x: after(ours(CT), codes=lambda c: pack_nibbles(
        quantize(x, PROFILES[CT].format, nonfinite="producer", measure=False).unpacked_codes(), "split_half", 16)
    )(x), "nibble order", "halves of 16"),
    "low first in bitsandbytes": ("bitsandbytes-nf4", after(ours("bitsandbytes-nf4"), codes=lambda c: c >> 4 | c << 4),
                                  "nibble order", "low nibble first"),
    "no NaN rule": (AO, before(ours(AO), lambda x: np.nan_to_num(x, posinf=np.inf, neginf=-np.inf)), "NaN", ""),
    "infinity clipped": (CT, before(ours(CT), lambda x: np.where(np.isinf(x), np.sign(x) * 3e38, x).astype("f4")),
                         "Inf", ""),
    "cap 256": (TE, ours(TE, rule=te_rule("cap", cap=256, least=0)), "block scale", "256"),
    "cap 256 in the tensor scale": (AO, after(ours(AO), tensor_scale=lambda s: s * np.float32(1.75)),
                                    "tensor scale", "7/4"),
    "reciprocal": (CT, after(ours(CT), tensor_scale=lambda s: 1 / s), "tensor scale", "reciprocal"),
    "amax for multiplier": (MO, after(ours(MO), tensor_scale=lambda s: s * np.float32(2688)), "tensor scale", "amax"),
    "no tensor scale": (MO, after(ours(MO), tensor_scale=lambda s: None), "tensor scale", ""),
    "scales rounded down": (AO, ours(AO, rule=rounded_down(RULE[AO])), "block scale", "down"),
    "scales swizzled": (AO, after(ours(AO), scales=swizzle_scales), "scale layout", ""),
    "zero blocks keep scale 0": (MO, after(ours(MO), scales=lambda s: np.where(s == 0x38, 0, s).astype("u1")),
                                 "", ""),
    "-0 is dropped": (AO, ours(AO, signed_zero="never"), "signed zero", "-0 is never written"),
    "subnormals flushed": ("ocp-mxfp4", before(ours("ocp-mxfp4"), flushed), "small scale", ""),
    "huge numbers clipped": ("torchao-0.18-floor", before(ours("torchao-0.18-floor"),
                             lambda x: np.where(np.isfinite(x), np.clip(x, -1e38, 1e38), x)), "large scale", ""),
    "the tail is dropped": ("bitsandbytes-nf4", before(ours("bitsandbytes-nf4"), without_tail), "ragged end", ""),
    "a reciprocal and a product": (MO, ours(MO, rule=replace(RULE[MO], quotient=RULE[AO].quotient)), "", ""),
    "another order when decoding": (TE, after(ours(TE), decoded=lambda d: d * np.float32(1 + 2**-23)), "decoding", ""),
    "zero point off by one": ("compressed-tensors-0.20-int4-zero-g128", after(
        ours("compressed-tensors-0.20-int4-zero-g128"), offsets=lambda z: z - 1), "offsets", ""),
    "another number of scales": (AO, after(ours(AO), scales=lambda s: s[:, :1]), "answer", ""),
    "floats for codes": (AO, after(ours(AO), codes=lambda c: c.astype(np.float32)), "answer", ""),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault):
    profile, quantizer, rule, why = FAULTS[fault]
    with np.errstate(all="ignore"):
        verdict = conform(quantizer, profile)
    assert verdict.broken is not None, f"{fault} is not seen"
    assert not rule or verdict.broken.rule == rule, verdict
    assert why in verdict.broken.why, verdict


def test_ggufs_blocks_are_read():
    def blocks(x: np.ndarray) -> np.ndarray:
        return to_blocks_of(quantize(x, PROFILES["ggml-q4_1"].format, nonfinite="producer", measure=False))[1]

    verdict = conform(blocks, "ggml-q4_1")
    assert verdict.conforms and verdict.refused == ("a ragged last block",)
    broken = conform(lambda x: np.roll(blocks(x), 1), "ggml-q4_1").broken
    assert broken is not None and broken.rule in ("block scale", "offsets")


def test_chance_is_seen():
    state = []

    def moody(x: np.ndarray) -> dict[str, np.ndarray]:
        state.append(1)
        return ours(AO, ties="even" if len(state) <= len(vectors(AO).vectors) else "away")(x) | (
            {} if len(state) <= len(vectors(AO).vectors) else {"tensor_scale": np.float32(3)}
        )

    assert conform(moody, AO).broken.rule == "same input, same bytes"


# ---- in a process of its own

MODULE = """
    import os, sys, time
    import numpy as np
    sys.path.insert(0, {root!r})
    from vbw_np.formats import PROFILES, quantize

    def right(x):
        print("hello")
        p = quantize(x, PROFILES["ocp-mxfp4"].format, nonfinite="producer", measure=False)
        return p.codes, p.scales

    def wrong(x):
        codes, scales = right(x)
        return {{"codes": codes >> 4 | codes << 4, "scales": scales}}

    def raises(x): raise KeyError("lost")
    def leaves(x): os._exit(3)
    def hangs(x):
        while True: time.sleep(1)
    def nothing(x): pass
    def objects(x): return np.array([object()]), np.array([object()])
    number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(MODULE.format(root=str(Path(__file__).parents[2]))))
    monkeypatch.chdir(tmp_path)
    return path


def test_a_module_is_run_apart(module, capsys):
    assert main(["conform", "mine:right", "--profile", "ocp-mxfp4"]) == 0
    out = capsys.readouterr()
    assert out.out.startswith("conforms to ocp-mxfp4: 36 of 36 vectors") and "hello" in out.err
    assert main(["conform", "mine.py:wrong", "--profile", "ocp-mxfp4", "--json"]) == 1
    broken = json.loads(capsys.readouterr().out)["broken"]
    assert broken["rule"] == "nibble order" and "quantizer_under_test" not in sys.modules


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", "it raises KeyError: 'lost'"), ("leaves", "exit code 3"), ("hangs", "did not end within 1 seconds"),
        ("nothing", "it returns None"), ("objects", "cannot be read"),
    ],
)  # fmt: skip
def test_what_has_no_answer_breaks_the_first_vector(module, name, words):
    verdict = conform(f"mine:{name}", "ocp-mxfp4", seconds=1 if name == "hangs" else 60)
    assert verdict.broken.rule == "runs" and words in verdict.broken.what and verdict.right == 0


def test_what_cannot_be_run_is_said_in_one_line(module):
    for name, words in (
        ("mine", "names no function"), ("mine:lost", "cannot load mine:lost: AttributeError"),
        ("lost:f", "ModuleNotFoundError"), ("mine:number", "is a int, not a function"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            conform(name, "ocp-mxfp4")
    with pytest.raises(UserError, match="cannot run"):
        conform("mine:right", "ocp-mxfp4", python="no-such-python")


def test_the_levels_of_a_format_are_the_same_on_every_cpu():
    """Of equal numbers, 0.0 and -0.0 among them, each instruction set's sort keeps another one."""
    for fmt in FORMATS.values():
        if fmt.element is not None and not fmt.flat:
            levels = inputs.element_levels(fmt)
            assert not np.signbit(levels[levels == 0]).any(), fmt.name
