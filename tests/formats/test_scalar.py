"""The NumPy tier equals the scalar tier, which works in exact fractions and shares no code with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbw_np.formats import (
    BNB_FP4,
    E2M1,
    ELEMENTS,
    FORMATS,
    INT4,
    FormatError,
    NonFiniteError,
    UnknownNameError,
)
from vbw_np.formats.elements import FlaggedFormat
from vbw_np.formats.profiles import PROFILES
from vbw_np.formats.random_bits import hash_bits
from vbw_np.formats.scalar import round_scalar

PARTS = [part for fmt in FORMATS.values() for part in (fmt.element, fmt.rule.scale_element, fmt.second)]
EVERY = {e.name: e for e in (*ELEMENTS.values(), *PARTS) if e is not None and e.bits <= 8}
ONE_CODE_A_LEVEL = [e for e in EVERY.values() if not (isinstance(e, FlaggedFormat) or getattr(e, "write_order", ()))]
"""Every element that a format is made of, but for what the scalar tier refuses, and a flag that it cannot know."""


def probes(element) -> np.ndarray:
    """Levels, midpoints, the float32 neighbours of both, and what lies beyond."""
    levels = np.unique(element.table[np.isfinite(element.table)]).astype(np.float64)
    middle = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
    points = np.concatenate([levels.astype(np.float32), middle])
    inf = np.float32(np.inf)
    top = np.float32(levels[-1])
    points = np.concatenate([points, np.nextafter(points, -inf), np.nextafter(points, inf), [top * 1.5, inf]])
    if not element.signed:
        points = points[points >= 0]
    return points.astype(np.float32)


CUT = [e for e in ONE_CODE_A_LEVEL if getattr(e, "cuts", ())]  # a producer's cut points, which are no midpoints
PAIRS = [(e, ties) for e in ONE_CODE_A_LEVEL if e not in CUT for ties in ("even", "zero", "away")]
PAIRS += [(e, "down") for e in (*CUT, INT4)]


@pytest.mark.parametrize(("element", "ties"), PAIRS, ids=lambda v: getattr(v, "name", v))
def test_every_turning_point(element, ties):
    x = probes(element)
    got = element.encode(x, ties)
    wanted = [round_scalar(v, element, ties).code for v in x]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("rule", ["keep", "drop", "never", "negative"])
def test_zero_rules(rule):
    x = np.array([0.0, -0.0, 1e-30, -1e-30, 0.25, -0.25], np.float32)
    got = E2M1.encode(x, signed_zero=rule)
    assert got.tolist() == [round_scalar(v, E2M1, signed_zero=rule).code for v in x]


RANDOM = [(e, "stochastic") for e in ONE_CODE_A_LEVEL] + [(E2M1, "stochastic-8")]


@pytest.mark.parametrize(("element", "ties"), RANDOM, ids=lambda v: getattr(v, "name", v))
def test_stochastic_rounding(element, ties):
    x = np.repeat(probes(element), 8)
    x = x[np.isfinite(x)]
    random = hash_bits(1, 2, np.arange(len(x)))
    got = element.encode(x, ties, random=random)
    wanted = [round_scalar(v, element, ties, random=int(r)).code for v, r in zip(x, random, strict=True)]
    np.testing.assert_array_equal(got, wanted)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([e for e in ONE_CODE_A_LEVEL if e.signed and e not in CUT]),
    st.sampled_from(["even", "zero", "away"]),
    st.floats(width=32, allow_nan=False),
)
def test_any_number(element, ties, x):
    assert int(element.encode(np.array([x], np.float32), ties)[0]) == round_scalar(x, element, ties).code


@settings(max_examples=200, deadline=None)
@given(st.floats(-8, 8, width=32), st.integers(0, 255))
def test_any_number_with_8_random_bits(x, r):
    if 0 < abs(x) < 2.0**-100:
        return
    got = E2M1.encode(np.array([x], np.float32), "stochastic-8", random=np.array([r], np.uint32))
    assert int(got[0]) == round_scalar(x, E2M1, "stochastic-8", random=r).code


def test_reasons():
    assert "tie: to the even code 2" in round_scalar(0.75, E2M1).reason
    assert "nearer to 1" in round_scalar(0.76, E2M1).reason
    assert round_scalar(7.0, E2M1).saturated
    assert "level" in round_scalar(3.0, E2M1).reason
    tie = round_scalar(-2.5, E2M1, "away")
    assert (tie.low, tie.high, tie.is_tie, tie.value) == (-3.0, -2.0, True, -3.0)


def test_bad_input():
    with pytest.raises(NonFiniteError):
        round_scalar(float("nan"), E2M1)
    with pytest.raises(UnknownNameError, match="even"):
        round_scalar(1.0, E2M1, "nearest")
    with pytest.raises(FormatError, match="two codes"):
        round_scalar(1.0, PROFILES["bitsandbytes-fp4"].format.element)
    assert BNB_FP4.decode(np.array([3], np.uint8))[0] == 1
