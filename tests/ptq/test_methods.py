"""Methods are records: they add up, are written and read, and refuse what makes no sense by name."""

from __future__ import annotations

import dataclasses

import pytest

from vbw_np.errors import UserError
from vbw_np.formats import FORMATS, get_format
from vbw_np.ptq.methods import KINDS, Awq, Clip, FourOverSix, Gptq, Method, Rotate, Rtn, read_method


def test_steps_run_in_their_order_however_they_are_written() -> None:
    method = Method("gptq") + Method("clip") + Method("rotate", points=64) + Method("awq")
    assert method.steps == (Awq(), Rotate(points=64), Clip(), Gptq())
    assert method == read_method("rotate:points=64+awq+gptq+clip")
    assert hash(method) == hash(read_method(str(method)))
    assert str(method) == "awq+rotate:points=64+clip+gptq"


def test_rounding_to_nearest_is_what_nothing_says_otherwise() -> None:
    assert Method() == Method("rtn") == read_method("rtn")
    assert Method("rotate") == Method("rotate") + Method("rtn")
    assert str(Method()) == "rtn" and Method().steps == (Rtn(),)
    assert Method("mr-gptq") == Method("rotate") + Method("gptq")


@pytest.mark.parametrize(
    "text",
    [
        "smoothquant:alpha=0.7", "rotate:points=0:where=stream:seed=3", "clip:factors=1/0.5:by=mse:activations=yes",
        "gptq:damping=0.1:order=activation:scales=static:sequential=yes", "awq:alphas=0/0.5+four-over-six", *KINDS,
    ],
)  # fmt: skip
def test_what_is_written_is_read_again(text: str) -> None:
    method = read_method(text)
    assert str(method) == text
    assert read_method(str(method)).steps == method.steps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gtpq", "no method 'gtpq'. Did you mean gptq"),
        ("", "no method ''"),
        ("gptq+", "no method ''"),
        ("gptq+rtn", "want the same place"),
        ("awq+smoothquant", "awq and smoothquant want the same place"),
        ("rotate:points=16+rotate:points=32", "rotate and rotate want the same place"),
        ("rotate:point=16", "no option of rotate 'point'. Did you mean points"),
        ("rtn:x=1", "no option of rtn 'x'"),
        ("rotate:16", "write an option as name=value"),
        ("rotate:points=sixteen", "points is a whole number, not 'sixteen'"),
        ("rotate:points=24", "points is a power of two, or 0 for the whole width, not 24"),
        ("rotate:where=left", "where is inputs or stream"),
        ("gptq:damping=-1", "damping is a positive number"),
        ("gptq:sequential=1", "sequential is yes or no"),
        ("gptq:order=activation", "needs scales=static"),
        ("clip:factors=a", "factors is numbers joined by /"),
        ("clip:factors=0", "factors is one or more positive numbers"),
        ("smoothquant:alpha=2", "alpha is a number from 0 to 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        read_method(text)
    assert "\n" not in str(caught.value)


def test_a_method_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Method().steps = ()


@pytest.mark.parametrize("name", FORMATS)
def test_four_over_six_goes_with_what_can_be_mapped_so(name: str) -> None:
    fmt, method = get_format(name), Method.of(FourOverSix())
    assert Method().format_of(fmt) is fmt
    if name.startswith("nvfp4") and fmt.fine is None:
        assert method.format_of(fmt).four_over_six == ("mse" if fmt.four_over_six == "off" else fmt.four_over_six)
        assert method.format_of(fmt).block_rows == fmt.block_rows
    else:
        with pytest.raises(UserError, match=f"and {name} has other scales"):
            method.format_of(fmt)


def test_four_over_six_of_nvfp4_is_the_format_of_that_name() -> None:
    made = Method("four-over-six").format_of(get_format("nvfp4"))
    known = get_format("nvfp4-4over6")
    assert made.name == known.name and made.rule.numbers == known.rule.numbers
