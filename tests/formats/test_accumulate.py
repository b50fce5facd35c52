"""The sums of tensor cores against MMA-Sim's outputs, and against the same rule in exact fractions."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import math
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbw_np.formats import E2M1, E4M3, DtypeError, FormatError, ShapeError, UnknownNameError
from vbw_np.formats.accumulate import ACCUMULATORS, Accumulator, dot, get_accumulator, matmul
from vbw_np.formats.accumulate.decoding import FP16, FP32, OPERANDS, SCALES
from vbw_np.formats.accumulate.explain import explain_sum
from vbw_np.formats.elements import ElementFormat

ORACLES = Path(__file__).parents[1] / "oracles"


def _load_cases():
    spec = importlib.util.spec_from_file_location("sum_cases", ORACLES / "sum_cases.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["sum_cases"] = module
    spec.loader.exec_module(module)
    return module


sum_cases = _load_cases()
KINDS = {kind.name: kind for kind in sum_cases.kinds()}


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(ORACLES / "mma_sim.npz") as file:
        return dict(file)


def options_of(kind, inputs: dict[str, np.ndarray]) -> dict[str, object]:
    options = {"a_format": kind.a, "b_format": kind.b}
    if kind.scale:
        options |= {"scale_format": kind.scale, "scale_block": kind.block}
        options |= {name: inputs[name] for name in ("scale_a", "scale_b")}
    return options


# ---- what MMA-Sim gave


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_the_bits_of_mma_sim(name: str) -> None:
    kind = KINDS[name]
    for case in sum_cases.CASES:
        inputs = sum_cases.case_input(kind, case, sum_cases.SMALL_ROWS)
        got = dot(kind.unit, inputs["a"], inputs["b"], inputs["c"], **options_of(kind, inputs))
        wanted = golden()[f"{name}/{case}"]
        assert got.dtype == wanted.dtype
        bits = f"u{got.itemsize}"
        np.testing.assert_array_equal(got.view(bits), wanted.view(bits), err_msg=f"{name}/{case}")


def test_the_golden_arrays_hold_every_kind_and_are_of_the_pinned_release() -> None:
    about = json.loads(str(golden()["about"]))
    assert about["versions"]["mmasim"] == "2.1.1"
    assert set(golden()) == {"about"} | {f"{name}/{case}" for name in KINDS for case in sum_cases.CASES}


def test_the_golden_cases_reach_what_they_are_named_after() -> None:
    """Zeros, subnormal results, NaN and Inf really come out, for fp32 and for fp16."""
    for dtype in ("float32", "float16"):
        found = np.concatenate([v for k, v in golden().items() if k != "about" and v.dtype == dtype])
        assert np.isnan(found).any() and np.isposinf(found).any() and np.isneginf(found).any()
        finite = np.abs(found[np.isfinite(found)].astype(np.float64))
        assert (finite == 0).any() and ((finite > 0) & (finite < np.finfo(dtype).tiny)).any()
        assert not (np.signbit(found) & (found == 0)).any()  # no sum is -0


def _neighbours(unit: Accumulator) -> dict[str, Accumulator]:
    """The record with one number changed by one, a step of another length, or another rounding."""
    found = {}
    for by in (-1, 1):
        found[f"fraction_bits {by:+}"] = dataclasses.replace(unit, fraction_bits=unit.fraction_bits + by)
        found[f"zero_exponent {by:+}"] = dataclasses.replace(unit, zero_exponent=unit.zero_exponent + by)
        for field in ("fraction_bits", "smallest_exponent"):
            output = dataclasses.replace(unit.output, **{field: getattr(unit.output, field) + by})
            found[f"output.{field} {by:+}"] = dataclasses.replace(unit, output=output)
    other = dataclasses.replace(unit.output, nearest=not unit.output.nearest)
    found["output.nearest"] = dataclasses.replace(unit, output=other)
    if not unit.scales:
        found["half the terms"] = dataclasses.replace(unit, terms=unit.terms // 2)
        found["twice the terms"] = dataclasses.replace(unit, terms=2 * unit.terms)
    return found


def _cannot_be_told(unit: Accumulator, changed: str) -> bool:
    """Numbers that no sum depends on: what lies below anything that the operands and c can be, or can leave behind.

    A zero counts for less than c's smallest exponent, -126, so with operands whose products do not reach below the
    grid that it spans nothing is cut off. A result finer than float32's smallest number takes operands of 8 exponent
    bits, or scales.
    """
    wide = unit.operands[0] in ("bf16", "tf32") or unit.scales
    if changed.startswith("zero_exponent"):
        return not wide and not (unit.operands == ("fp16",) and unit.output.dtype == "float16")
    return changed == "output.smallest_exponent -1" and unit.output.dtype == "float32" and (
        not wide or unit.group > 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, unit in ACCUMULATORS.items() if not unit.separate])
def test_the_golden_cases_tell_every_number_of_a_record_from_its_neighbours(name: str) -> None:
    unit, kinds = ACCUMULATORS[name], [kind for kind in KINDS.values() if kind.unit == name]

    def differs(changed: Accumulator) -> bool:
        for kind in kinds:
            for case in reversed(sum_cases.CASES):
                inputs = sum_cases.case_input(kind, case, sum_cases.SMALL_ROWS)
                got = dot(changed, inputs["a"], inputs["b"], inputs["c"], **options_of(kind, inputs))
                if got.tobytes() != golden()[f"{kind.name}/{case}"].tobytes():
                    return True
        return False

    for what, changed in _neighbours(unit).items():
        assert differs(changed) != _cannot_be_told(unit, what), what


# ---- the same rule in exact fractions, from the values of the operands


def value_of(code: int, element: ElementFormat) -> float:
    """A code's value, decoded by Python or by the element's table."""
    if element.name == "fp16":
        return struct.unpack("<e", struct.pack("<H", code))[0]
    if element.name == "bf16":
        return struct.unpack("<f", struct.pack("<I", code << 16))[0]
    if element.name == "tf32":
        return struct.unpack("<f", struct.pack("<I", code & 0xFFFFE000))[0]
    if element.name == "fp32":
        return struct.unpack("<f", struct.pack("<I", code))[0]
    return float(element.table[code])


def exponent_of(value: Fraction, smallest: int) -> int:
    """floor(log2 |value|), or the smallest exponent of the format where that is larger."""
    if value == 0:
        return smallest
    exponent = math.frexp(float(value))[1] - 1  # a value of few bits: exact in float64
    return max(exponent, smallest)


def smallest_exponent(element: ElementFormat) -> int:
    return -127 if element.name == "e8m0" else 1 - element.bias


def toward_zero(value: Fraction, unit: Fraction) -> Fraction:
    return int(value / unit) * unit


def exact_step(unit: Accumulator, terms: list[tuple[Fraction, int | None]], c: Fraction, c_smallest: int) -> Fraction:
    """Terms are (value, exponent), the exponent None for a zero."""
    zero = unit.zero_exponent
    terms = [*terms, (c, exponent_of(c, c_smallest) if c else None)]
    largest = max(zero if exponent is None else exponent for _, exponent in terms)
    grid = Fraction(2) ** (largest - unit.fraction_bits)
    return sum((toward_zero(value, grid) for value, _ in terms), Fraction(0))


def exact_output(total: Fraction, unit: Accumulator) -> float:
    output = unit.output
    place = Fraction(2) ** (exponent_of(total, output.smallest_exponent) - output.fraction_bits)
    kept = round(total / place) * place if output.nearest else toward_zero(total, place)
    largest = float(np.finfo(output.dtype).max)
    return float(kept) if abs(kept) <= Fraction(largest) else math.copysign(math.inf, kept)


def exact_terms(kind, a, b, scale_a, scale_b) -> list[tuple[Fraction, int | None]]:
    """The terms of one step from codes; scales are one a product (group 1) or one a group."""
    elements = OPERANDS[kind.a], OPERANDS[kind.b]
    unit, found = ACCUMULATORS[kind.unit], []
    values = [[Fraction(value_of(int(code), e)) for code in side] for side, e in zip((a, b), elements, strict=True)]
    scaled, scale_exponents = [Fraction(1)] * len(a), [0] * len(a)
    if kind.scale:
        scale = SCALES[kind.scale]
        for k in range(len(a)):
            both = [Fraction(value_of(int(s[k // kind.block]), scale)) for s in (scale_a, scale_b)]
            scaled[k] = both[0] * both[1]
            scale_exponents[k] = sum(exponent_of(value, smallest_exponent(scale)) for value in both)
    if unit.group == 1:
        for k, (x, y) in enumerate(zip(*values, strict=True)):
            product = x * y * scaled[k]
            exponent = sum(exponent_of(v, smallest_exponent(e)) for v, e in zip((x, y), elements, strict=True))
            found.append((product, exponent + scale_exponents[k] if product else None))
        return found
    for at in range(0, len(a), unit.group):
        group = [x * y * scaled[at] for x, y in zip(*(v[at : at + unit.group] for v in values), strict=True)]
        found.append((sum(group, Fraction(0)), scale_exponents[at] if any(group) else None))
    return found


def exact_dot(kind, inputs: dict[str, np.ndarray]) -> float:
    """One row by the exact rule."""
    unit = ACCUMULATORS[kind.unit]
    element = FP16 if unit.output.dtype == "float16" else FP32
    c = float(inputs["c"])
    for at in range(0, len(inputs["a"]), unit.terms):
        part = slice(at, at + unit.terms)
        scales = [None, None]
        if kind.scale:
            blocks = slice(at // kind.block, (at + unit.terms) // kind.block)
            scales = [inputs["scale_a"][blocks], inputs["scale_b"][blocks]]
        terms = exact_terms(kind, inputs["a"][part], inputs["b"][part], *scales)
        c = exact_output(exact_step(unit, terms, Fraction(c), smallest_exponent(element)), unit)
        if math.isinf(c):
            break
    return c


FINITE = [case for case in sum_cases.CASES if case != "special"]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(KINDS)), st.sampled_from(FINITE), st.integers(1, 10**6))
def test_the_model_is_the_rule_in_exact_fractions(name: str, case: str, draw: int) -> None:
    kind = KINDS[name]
    inputs = sum_cases.case_input(kind, case, 2, draw)
    got = dot(kind.unit, inputs["a"], inputs["b"], inputs["c"], **options_of(kind, inputs))
    for row in range(2):
        wanted = exact_dot(kind, {key: array[row] for key, array in inputs.items()})
        if math.isinf(wanted) and np.isnan(got[row]):
            continue  # Inf in a later step meets its opposite
        assert float(got[row]) == wanted, (name, case, draw, row)


# ---- examples that one can check by hand


def codes(*values: float, length: int = 32) -> np.ndarray:
    row = np.zeros(length, np.float32)
    row[: len(values)] = values
    return E4M3.encode(row)


def test_hopper_fp8_loses_what_blackwell_keeps() -> None:
    """1 and 2**-14: fourteen places apart, one more than Hopper keeps."""
    a, b = codes(1, 2**-7), codes(1, 2**-7)
    assert float(dot("hopper-fp8", a, b)) == 1.0
    assert float(dot("blackwell-f8f6f4", a, b)) == 1 + 2**-14


def test_small_products_are_lost_one_by_one_and_not_as_a_sum() -> None:
    """31 products of 2**-14 make more than 2**-10 together, and nothing beside 1."""
    a, b = codes(1, *[2**-7] * 31), codes(1, *[2**-7] * 31)
    assert float(dot("hopper-fp8", a, b)) == 1.0
    assert float(dot("blackwell-f8f6f4", a, b)) == 1 + 31 * 2**-14


def test_promotion_saves_a_long_sum() -> None:
    """From 2**14 on, Hopper's 13 fraction bits no longer take a one; partial sums of 128 in float32 do."""
    ones = E4M3.encode(np.ones(1 << 15, np.float32))
    assert float(dot("hopper-fp8", ones, ones)) == 1 << 14
    assert float(dot("hopper-fp8", ones, ones, promote=128)) == 1 << 15
    assert float(dot("blackwell-f8f6f4", ones, ones)) == 1 << 15


def test_a_group_that_cancels_keeps_its_exponent_and_zeros_do_not() -> None:
    """k64: scales of 2**16 whose group cancels put 2**-20 out of sight, 36 places below; a group of zeros does not."""
    a, b = np.zeros(64, np.float32), np.zeros(64, np.float32)
    a[:2], b[:2] = (1, -1), (1, 1)
    a[16], b[16] = 0.5, 0.5
    scales = E4M3.encode(np.array([256, 2**-9, 1, 1], np.float32))
    found = []
    for first in (1, 0):
        codes_a = E2M1.encode(a * np.where(np.arange(64) < 2, np.float32(first), np.float32(1)))
        found.append(float(dot("blackwell-mxf4nvf4", codes_a, E2M1.encode(b), scale_a=scales, scale_b=scales)))
    assert found == [0.0, 2.0**-20]


def test_an_instruction_that_is_emulated_adds_c_to_nearest() -> None:
    """mma.sync of FP8 on B200: 1 + 2**-24 from a sum of its own rounds to even, where a fused step would cut off."""
    a, b = codes(2**-9, 2**-9), codes(2**-9, 2**-9)  # 2**-17 together
    c = np.float32(2**7 + 2**-16)
    assert float(dot("blackwell-fp8-mma", a, b, c)) == float(np.float32(float(c) + 2**-17))
    assert float(dot("blackwell-f8f6f4", a, b, c)) == float(c)


def test_a_matrix_product_is_its_dots() -> None:
    kind = KINDS["blackwell-mxf4nvf4/e2m1-e2m1/ue4m3-16"]
    inputs = sum_cases.case_input(kind, "any", 6)
    a, b, sa, sb = (inputs[n] for n in ("a", "b", "scale_a", "scale_b"))
    got = matmul(kind.unit, a[:4], b, scale_a=sa[:4], scale_b=sb)
    assert got.shape == (4, 6)
    for m in range(4):
        for n in range(6):
            wanted = dot(kind.unit, a[m], b[n], scale_a=sa[m], scale_b=sb[n])
            assert got[m, n].view(np.uint32) == wanted.view(np.uint32)


def test_the_sign_of_an_e4m3_scale_is_ignored() -> None:
    kind = KINDS["blackwell-mxf4nvf4/e2m1-e2m1/ue4m3-16"]
    inputs = sum_cases.case_input(kind, "narrow", 8)
    options = options_of(kind, inputs)
    plain = dot(kind.unit, inputs["a"], inputs["b"], **options)
    signed = dot(kind.unit, inputs["a"], inputs["b"], **{**options, "scale_a": options["scale_a"] | np.uint8(0x80)})
    np.testing.assert_array_equal(plain, signed)


# ---- what is refused


REFUSED = {
    "a unit that no source describes": (UnknownNameError, lambda: get_accumulator("sm_103-fp4")),
    "bf16 on Volta": (UnknownNameError, lambda: dot("volta-bf16", codes(1), codes(1))),
    "a format the unit does not take": (FormatError, lambda: dot("hopper-fp8", codes(1), codes(1), a_format="e2m1")),
    "floats where bits belong": (DtypeError, lambda: dot("hopper-fp8", np.ones(32, np.float32), codes(1))),
    "a code too large": (FormatError, lambda: dot("blackwell-mxf4nvf4", codes(1), codes(1))),
    "lengths that differ": (ShapeError, lambda: dot("hopper-fp8", codes(1), codes(1, length=64))),
    "scales where there are none": (
        FormatError,
        lambda: dot("hopper-fp8", codes(1), codes(1), scale_a=codes(1, length=1), scale_b=codes(1, length=1)),
    ),
    "no scales where there must be": (FormatError, lambda: dot("blackwell-mxf8f6f4", codes(1), codes(1))),
    "E4M3 scales for blocks of 32": (
        FormatError,
        lambda: dot("blackwell-mxf4nvf4", codes(0), codes(0), scale_format="ue4m3", scale_block=32),
    ),
    "part of a block": (
        ShapeError,
        lambda: dot("blackwell-mxf8f6f4", codes(1, length=40), codes(1, length=40), scale_a=codes(1), scale_b=codes(1)),
    ),
    "scales of another shape": (
        ShapeError,
        lambda: dot("blackwell-mxf8f6f4", codes(1), codes(1), scale_a=codes(1), scale_b=codes(1)),
    ),
    "promotion within a step": (FormatError, lambda: dot("hopper-fp8", codes(1), codes(1), promote=16)),
    "promotion of fp16": (FormatError, lambda: dot("hopper-fp8-to-fp16", codes(1), codes(1), promote=32)),
    "an explanation of a unit that adds c apart": (
        FormatError,
        lambda: explain_sum("blackwell-fp8-mma", codes(1), codes(1)),
    ),
    "a float64 accumulator": (FormatError, lambda: dot("hopper-fp8", codes(1), codes(1), np.float64(1))),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_known_is_refused(what: str) -> None:
    error, call = REFUSED[what]
    with pytest.raises(error) as caught:
        call()
    assert len(str(caught.value)) > 20


def test_every_record_names_its_source_and_what_it_was_held_to() -> None:
    for name, unit in ACCUMULATORS.items():
        assert unit.name == name and unit.source and unit.checked and unit.gpus and unit.instruction
        assert all(operand in OPERANDS for operand in unit.operands)
        assert ("hardware" in unit.checked) or "MMA-Sim" in unit.checked


# ---- explained


def test_an_explanation_says_what_is_cut_off_and_ends_with_the_models_sum() -> None:
    a, b = codes(1, 2**-7), codes(1, 2**-7)
    explained = explain_sum("hopper-fp8", a, b)
    assert explained.data["result"] == 1.0
    assert explained.data["steps"] == [{"largest_exponent": 0, "cut_terms": 1, "lost": 2**-14, "sum": 1.0}]
    assert "cut off: 6.10352e-05" in str(explained)
    kind = KINDS["blackwell-mxf4nvf4/e2m1-e2m1/ue4m3-16"]
    inputs = sum_cases.case_input(kind, "any", 1)
    options = {n: inputs[n][0] for n in ("scale_a", "scale_b")}
    result = explain_sum(kind.unit, inputs["a"][0], inputs["b"][0], **options).data["result"]
    assert result == float(dot(kind.unit, inputs["a"][0], inputs["b"][0], **options))
