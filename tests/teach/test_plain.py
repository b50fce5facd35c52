"""Values as plain data: what goes out comes back, and nothing of an object's own code runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vbw_np.teach.plain import Given, Opaque, from_plain, numbers, to_plain


def travelled(value):
    return from_plain(json.loads(json.dumps(to_plain(value))))


@pytest.mark.parametrize(
    "value",
    [None, ..., NotImplemented, True, False, 0, -(10**30), 1.5, float("inf"), -0.0, 5e-324, "sixteen", "\ud800x",
     [], (), [1, (2.5, "x")], Given("truncate")],
)  # fmt: skip
def test_values_come_back_as_they_were(value):
    back = travelled(value)
    if value == "\ud800x":  # half of a pair is no text
        assert back == "?x"
        return
    assert type(back) is type(value) and back == value
    if isinstance(value, float):
        assert np.signbit(back) == np.signbit(value)


DTYPES = "bool int8 uint8 int16 int32 uint32 int64 uint64 float16 float32 float64 complex128 >f4 >i2".split()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (4, 1, 2)])
def test_arrays_come_back_with_dtype_and_shape(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    back = travelled(array)
    assert isinstance(back, np.ndarray) and back.shape == shape and back.dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(back, array)
    scalar = np.dtype(dtype).type(1)
    assert travelled(scalar) == scalar and type(travelled(scalar)) is type(scalar)


def test_views_travel_by_their_elements():
    array = np.arange(12).reshape(3, 4)[::-2, ::3]
    assert np.array_equal(travelled(array), array)
    assert np.isnan(travelled(np.float32("nan")))


class Hostile:
    def _stop(self, *args, **kwargs):
        raise SystemExit("a method of the learner's ran")

    __repr__ = __str__ = __eq__ = __len__ = __iter__ = __array__ = __float__ = __index__ = __bool__ = __reduce__ = _stop
    __hash__ = None

    def __getattribute__(self, name):
        raise SystemExit("an attribute was asked for")


@pytest.mark.parametrize("base", [object, int, float, str, list, tuple, np.ndarray])
def test_no_method_of_an_object_runs(base):
    kind = type("Odd", (Hostile, base), {})
    value = np.ndarray.__new__(kind, 3) if base is np.ndarray else base.__new__(kind)
    back = travelled(value)
    assert type(back) is (Opaque if base is object else base)


@pytest.mark.parametrize(
    "value", [{}, set(), object(), dict, len, lambda: 1, b"x", (i for i in ()), 1 << 5000, "x" * 20_000,
              np.array(["a"]), np.array([None]), np.zeros(2, "M8[s]"), np.zeros(1, [("a", "f4")]),
              np.zeros(1 << 24)],
)  # fmt: skip
def test_what_does_not_travel_leaves_its_type(value):
    back = travelled(value)
    assert isinstance(back, Opaque) and back.type == type(value).__name__
    assert numbers(back) is None


def test_a_list_in_itself_ends():
    loop: list = []
    loop.append(loop)
    back = travelled(loop)
    for _ in range(6):
        (back,) = back
    assert isinstance(back, Opaque)


@pytest.mark.parametrize(
    "data", [None, 1, [], {}, {"t": "x"}, {"t": "int"}, {"t": "int", "v": []},
             {"t": "array", "dtype": "zzz", "shape": [], "v": ""},
             {"t": "array", "dtype": "<f8", "shape": [2], "scalar": False, "v": "AAAA"}],
)  # fmt: skip
def test_what_is_no_plain_data_is_refused(data):
    with pytest.raises(ValueError):
        from_plain(data)


def test_numbers():
    assert numbers([[1, 2], [3, 4]]).shape == (2, 2) and numbers([]).shape == (0,)
    assert numbers("1") is None and numbers([1, "1"]) is None and numbers([[1], [1, 2]]) is None
