"""Every operation, with every layout of its arrays and every spelling of its other arguments, gives the same."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from autograd import REGISTRY, Tensor, gradcheck, ops
from autograd.primitive import Primitive
from autograd.random import random_bits


def spread(x: np.ndarray) -> np.ndarray:
    """Every second element of a larger array along each axis."""
    large = np.full([2 * size for size in x.shape], np.nan, x.dtype)
    view = large[tuple(slice(None, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def reversed_view(x: np.ndarray) -> np.ndarray:
    """Negative strides along every axis."""
    back = tuple(slice(None, None, -1) for _ in x.shape)
    return x[back].copy()[back]


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "Fortran order": lambda x: np.asfortranarray(x) if x.ndim else x,
    "spread": spread,
    "negative strides": reversed_view,
    "read only": read_only,
}


def results(primitive: Primitive, inputs: tuple, static: dict) -> tuple[list[np.ndarray], np.ndarray]:
    tensors = [None if x is None else Tensor(x, requires_grad=True) for x in inputs]
    output = primitive(*tensors, **static)
    output.backward(np.random.default_rng(1).normal(size=output.shape))
    return [t.grad for t in tensors if t is not None], output.data


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", sorted(name for name, declared in REGISTRY.items() if declared.samples))
def test_no_layout_changes_an_operation(name: str, layout: str) -> None:
    """To the order of a BLAS sum: some units in the last place of the largest element."""
    primitive = REGISTRY[name]
    for inputs, static in primitive.samples(np.random.default_rng(0)):
        inputs = tuple(None if x is None else np.asarray(x, np.float64) for x in inputs)
        gradients, output = results(primitive, inputs, static)
        moved = tuple(None if x is None else LAYOUTS[layout](x) for x in inputs)
        before = [None if x is None else x.copy() for x in moved]
        gradients_too, output_too = results(primitive, moved, static)
        for ours, theirs in zip([output_too, *gradients_too], [output, *gradients]):
            np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13 * max(np.abs(theirs).max(initial=0), 1))
            assert ours.flags.writeable or ours is output_too
        for x, copy in zip(moved, before):
            assert x is None or (x == copy).all(), "an input was written to"


def of_one_shape(inputs: tuple) -> list[tuple]:
    """The inputs, and where they broadcast, the same again all of one shape: then nothing has to be summed."""
    arrays = [None if x is None else np.asarray(x, np.float64) for x in inputs]
    try:
        shape = np.broadcast_shapes(*(x.shape for x in arrays if x is not None))
    except ValueError:
        return [tuple(arrays)]
    return [tuple(arrays), tuple(None if x is None else np.array(np.broadcast_to(x, shape)) for x in arrays)]


@pytest.mark.parametrize("name", sorted(name for name, declared in REGISTRY.items() if declared.samples))
def test_no_leaf_shares_its_gradient(name: str) -> None:
    """Neither with another leaf, nor with any value: whoever scales one in place changes nothing else."""
    for inputs, static in REGISTRY[name].samples(np.random.default_rng(0)):
        for arrays in of_one_shape(inputs) if name in BROADCAST else [inputs]:
            tensors = [None if x is None else Tensor(np.asarray(x, np.float64), requires_grad=True) for x in arrays]
            output = REGISTRY[name](*tensors, **static)
            (output * output).sum().backward()
            leaves = [t for t in tensors if t is not None]
            for i, leaf in enumerate(leaves):
                assert leaf.grad.flags.writeable
                others = [other.grad for other in leaves[i + 1 :]] + [other.data for other in leaves] + [output.data]
                assert not any(np.shares_memory(leaf.grad, other) for other in others)


BROADCAST = ("add", "sub", "mul", "div", "maximum", "where")
"""Operations whose inputs are broadcast to each other."""


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(axis, keepdims=True)


def spellings() -> Iterator[tuple[str, str, tuple, dict, Any]]:
    """Operation, what is spelled, inputs, arguments, and a plain NumPy function that gives the right output."""
    x = np.random.default_rng(2).normal(size=(2, 3, 2))
    for axis in (0, 1, 2, -1, -2, -3, np.int64(1), (0,), (0, -1), (-1, 1), (0, 1, 2), None):
        for keepdims in (False, True):
            for name, function in {"sum": np.sum, "mean": np.mean, "max": np.max}.items():
                options = {"axis": axis, "keepdims": keepdims}
                yield (
                    name,
                    f"axis={axis!r}, keepdims={keepdims}",
                    (x,),
                    options,
                    partial(function, **options),
                )
            yield (
                "vector_norm", f"axis={axis!r}, keepdims={keepdims}", (x,), {"axis": axis, "keepdims": keepdims},
                lambda a, axis=axis, keepdims=keepdims: np.sqrt((a * a).sum(axis=axis, keepdims=keepdims)),
            )  # fmt: skip
    for axes in ((2, 0, 1), (-1, 0, 1), (0, -1, 1), (-3, -2, -1), (np.int64(1), -1, 0), [1, 2, 0]):
        yield "permute", f"axes={axes}", (x,), {"axes": axes}, lambda a, axes=axes: a.transpose(axes)
    for axis in (0, 1, -1, -3, (0, -1), None):
        yield "flip", f"axis={axis}", (x,), {"axis": axis}, lambda a, axis=axis: np.flip(a, axis)
    for axis in (0, 1, -1, -3, np.int64(2)):
        yield "concatenate", f"axis={axis}", (x, x + 1), {"axis": axis}, lambda a, b, i=axis: np.concatenate((a, b), i)
    for axis in (0, 3, -1, -4):
        yield "stack", f"axis={axis}", (x, x + 1), {"axis": axis}, lambda a, b, i=axis: np.stack((a, b), i)
    for axis in (0, 1, -1, -3, np.int64(1)):
        yield (
            "softmax",
            f"axis={axis}",
            (x,),
            {"axis": axis},
            partial(softmax, axis=axis),
        )
    for shape in ((3, 4), (-1,), (4, -1), [12], (np.int64(6), 2), ()):
        source = x[:1, :1, :1] if shape == () else x
        yield "reshape", f"shape={shape}", (source,), {"shape": shape}, lambda a, s=shape: a.reshape(s)
    for shape in ((2, 2, 3, 2), (2, 3, 2), [1, 2, 3, 2]):
        yield "broadcast_to", f"shape={shape}", (x,), {"shape": shape}, lambda a, s=shape: np.broadcast_to(a, s)
    for exponent in (2, 3.0, np.float64(3), np.int64(2), np.float32(0.5), -1, 0, 1, True, np.array(2)):
        yield (
            "power", f"exponent={exponent!r}", (np.abs(x) + 0.5,), {"exponent": exponent},
            lambda a, e=exponent: a ** float(e),
        )  # fmt: skip
    mask = x > 0
    for index in (1, -1, np.int64(1), slice(None, None, -1), (slice(None), -1), (..., 0), None, (0, None, 1), True,
                  [0, 0, 1], np.array([1, -1, 1]), ([0, 1, 1], [2, -1, 2]), mask, (mask[:, 0, 0], -1),
                  (slice(0, 0),), (Ellipsis, np.array([[0, 1], [1, 1]]))):  # fmt: skip
        yield "getitem", f"index={index!r}", (x,), {"index": index}, lambda a, i=index: a[i]


def nll(logits: np.ndarray, targets: Any) -> np.ndarray:
    """The mean of -log softmax at the targets."""
    return -np.log(softmax(logits, -1))[np.arange(len(logits)), np.asarray(targets, int)].mean()


def kept_by_key(a: np.ndarray, p: float, key: tuple[int, int]) -> np.ndarray:
    return a * (random_bits(key, a.size).reshape(a.shape) / 2.0**32 >= p) / (1 - p)


def turned(a: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Pairs (j, j + d / 2) turned, as complex numbers."""
    half = a.shape[-1] // 2
    z = (a[..., :half] + 1j * a[..., half:]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], axis=-1)


def more_spellings() -> Iterator[tuple[str, str, tuple, dict, Any]]:
    """As `spellings`: integers of every kind, conditions, targets, probabilities, tables."""
    rng = np.random.default_rng(7)
    x, other = rng.normal(size=(2, 3, 2)), rng.normal(size=(3, 2))
    mask = x > 0
    for what, condition in {"array": mask, "list": mask.tolist(), "one row": mask[0, 0], "True": True,
                            "np.False_": np.False_, "integers": mask.astype(np.int8),
                            "Fortran order": np.asfortranarray(mask)}.items():  # fmt: skip
        yield (
            "where", f"condition {what}", (x, other), {"condition": condition},
            lambda a, b, c=condition: np.where(np.asarray(c, bool), a, b),
        )  # fmt: skip
    for kind in (np.int8, np.uint8, np.int32, np.uint16, np.int64, np.uint64, ">i4"):
        rows = np.array([[0, 2], [2, 1]]).astype(kind)
        yield "take_rows", f"rows {np.dtype(kind)}", (other,), {"rows": rows}, lambda a, r=rows: a[r.astype(int)]
        targets = np.array([1, 0, 1]).astype(kind)
        yield (
            "cross_entropy", f"targets {np.dtype(kind)}", (other,), {"targets": targets},
            partial(nll, targets=targets),
        )  # fmt: skip
        yield "token_loss", f"targets {np.dtype(kind)}", (other,), {"targets": targets}, partial(nll, targets=targets)
        yield (
            "linear_cross_entropy", f"targets {np.dtype(kind)}", (other, x[0]), {"targets": targets},
            lambda a, w, t=targets: nll(a @ w.T, t),
        )  # fmt: skip
    for what, rows in {"negative": np.array([-1, 0, -3]), "none": np.zeros((0, 2), int), "one": np.array(1),
                       "strided": np.arange(6).reshape(3, 2)[:, 0] // 2, "transposed": np.array([[0, 1], [2, 2]]).T,
                       "read only": read_only(np.array([2, 2]))}.items():  # fmt: skip
        yield "take_rows", f"rows {what}", (other,), {"rows": rows}, lambda a, r=rows: a[r]
    for p in (0, 0.25, np.float64(0.25), np.float32(0.25), np.array(0.25)):
        for key in ((3, 4), (np.int64(3), np.uint32(4))):
            yield (
                "dropout_by_key", f"p={p!r}, key={key!r}", (x,), {"p": p, "key": key},
                partial(kept_by_key, p=float(p), key=(3, 4)),
            )  # fmt: skip
    for eps in (1e-5, 1, np.float64(1e-5), np.float32(0.5), np.array(0.5)):
        yield (
            "layer_norm", f"eps={eps!r}", (x, other[0], other[1]), {"eps": eps},
            lambda a, w, b, e=float(eps): w * (a.T - a.mean(-1).T).T / np.sqrt(a.var(-1, keepdims=True) + e) + b,
        )  # fmt: skip
        yield (
            "rms_norm", f"eps={eps!r}", (x, other[0]), {"eps": eps},
            lambda a, w, e=float(eps): a / np.sqrt((a * a).mean(-1, keepdims=True) + e) * w,
        )  # fmt: skip
    angle, wide = rng.normal(size=(3, 2)), rng.normal(size=(2, 3, 4))
    pairs = [0, 2, 1, 3]  # an interleaved axis, by halves
    for layout, change in {"plain": lambda t: t, **LAYOUTS}.items():
        tables = {"cos": change(np.cos(angle)), "sin": change(np.sin(angle))}
        yield "rotate", f"tables {layout}", (wide,), tables, lambda a: turned(a, angle)
        yield (
            "rotate", f"interleaved, tables {layout}", (wide,), {**tables, "interleaved": True},
            lambda a: turned(a[..., pairs], angle)[..., pairs],
        )  # fmt: skip


CASES = [*spellings(), *more_spellings()]


def test_every_operation_with_arguments_has_spellings() -> None:
    spelled = {name for name, *_ in CASES}
    for name, declared in REGISTRY.items():
        if declared.surrogate or declared.reference.__module__.split(".")[0] not in ("autograd", "vbw_np"):
            continue  # a straight-through estimator, or a test's own
        parameters = inspect.signature(declared.reference).parameters.values()
        assert name in spelled or not any(p.kind is p.KEYWORD_ONLY for p in parameters), f"{name} is not spelled"


@pytest.mark.parametrize(("name", "what", "inputs", "static", "right"), CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_every_spelling(name: str, what: str, inputs: tuple, static: dict, right: Any) -> None:
    expected = right(*inputs)
    output = REGISTRY[name](*(Tensor(x) for x in inputs), **static)
    np.testing.assert_allclose(output.data, expected, rtol=1e-14)
    gradcheck(partial(REGISTRY[name], **static), inputs)  # its own eps is the step
    single = REGISTRY[name](*(Tensor(x.astype(np.float32), requires_grad=True) for x in inputs), **static)
    assert single.dtype == np.float32
    single.backward(np.ones(single.shape))


METHODS = {
    "permute(-1, 0, 1)": (lambda t: t.permute(-1, 0, 1), lambda a: a.transpose(-1, 0, 1)),
    "permute((2, 0, 1))": (lambda t: t.permute((2, 0, 1)), lambda a: a.transpose(2, 0, 1)),
    "permute([2, 0, 1])": (lambda t: t.permute([2, 0, 1]), lambda a: a.transpose(2, 0, 1)),
    "transpose(-1, 0)": (lambda t: t.transpose(-1, 0), lambda a: a.swapaxes(-1, 0)),
    "T": (lambda t: t.T, lambda a: a.T),
    "reshape(4, 2)": (lambda t: t.reshape(4, 2), lambda a: a.reshape(4, 2)),
    "reshape((4, 2))": (lambda t: t.reshape((4, 2)), lambda a: a.reshape(4, 2)),
    "reshape([4, -1])": (lambda t: t.reshape([4, -1]), lambda a: a.reshape(4, -1)),
    "reshape(np.int64(8))": (lambda t: t.reshape(np.int64(8)), lambda a: a.reshape(8)),
    "sum()": (lambda t: t.sum(), lambda a: a.sum()),
    "sum(-1)": (lambda t: t.sum(-1), lambda a: a.sum(-1)),
    "sum((0, 2), True)": (lambda t: t.sum((0, 2), True), lambda a: a.sum((0, 2), keepdims=True)),
    "mean(axis=-2)": (lambda t: t.mean(axis=-2), lambda a: a.mean(-2)),
    "max(-1)": (lambda t: t.max(-1), lambda a: a.max(-1)),
    "abs": (abs, np.abs),
    "np.exp": (np.exp, np.exp),
    "np.tanh": (np.tanh, np.tanh),
    "array + t": (lambda t: np.full(2, 3.0) + t, lambda a: 3 + a),
    "array @ t": (lambda t: np.full((2, 2), 3.0) @ t, lambda a: np.full((2, 2), 3.0) @ a),
    "2 - t": (lambda t: 2 - t, lambda a: 2 - a),
    "t ** np.int64(2)": (lambda t: t ** np.int64(2), lambda a: a**2),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_spelling_of_the_methods(name: str) -> None:
    """On a cube of side 2, where a wrong order of the axes has the right shape."""
    ours, right = METHODS[name]
    x = np.random.default_rng(3).normal(size=(2, 2, 2))
    np.testing.assert_array_equal(ours(Tensor(x)).data, right(x))
    gradcheck(ours, [x])


def shapes_that_broadcast() -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for whole in ((), (2,), (3, 2), (2, 3, 2), (1, 2, 1), (0, 3), (2, 0)):
        for kept in range(len(whole) + 1):
            part = whole[len(whole) - kept :]
            for ones in range(1 << kept):
                yield whole, tuple(1 if ones >> i & 1 else size for i, size in enumerate(part))


@pytest.mark.parametrize("name", [name for name in BROADCAST if name != "where"])
def test_broadcasting_is_undone(name: str) -> None:
    rng = np.random.default_rng(4)
    for whole, part in shapes_that_broadcast():
        x, y = rng.normal(size=whole), rng.uniform(0.5, 2, size=part)
        gradcheck(REGISTRY[name], [x, y])
        if name in ("add", "mul", "maximum"):
            gradcheck(REGISTRY[name], [y, x])


@pytest.mark.parametrize(("gradient", "shape"), [((2, 3), (3, 2)), ((4,), (2, 2)), ((6,), (2, 3)), ((3,), (2, 3)),
                                                ((2, 3), (2, 1, 3)), ((), (1,)), ((2, 4), (2,))])  # fmt: skip
def test_what_broadcasting_cannot_produce_is_refused(gradient: tuple, shape: tuple) -> None:
    operation = Primitive(lambda x: (x * 1, (lambda g: np.ones(gradient),)), None, name="crooked")
    try:
        with pytest.raises(ValueError, match="crooked: gradient 0 has shape"):
            operation(Tensor(np.ones(shape), requires_grad=True)).sum().backward()
    finally:
        del REGISTRY["crooked"]


def test_axes_that_do_not_fit_are_named() -> None:
    x = Tensor(np.ones((2, 3, 4)))
    for axes in ((0, 1), (0, 1, 1), (0, 1, 3), (0, -3, 1), (0, 1, 2, 3)):
        with pytest.raises(ValueError, match="does not name each of the 3 axes once"):
            ops.permute(x, axes=axes)
