"""One test walks every registered twin and holds it against its readable definition, forward and backward."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import vbw_np.kernels
from vbw_np.engine import autograd
from vbw_np.kernels.twins import rows

TWINNED = {
    name: function for table in (autograd.REGISTRY, autograd.PROCEDURES) for name, function in table.items()
    if function.twin is not None
}  # fmt: skip

EQUAL = {
    "dropout_by_key", "take_rows", "adam_update", "component_sizes", "past_reach", "shortest_paths", "nearest_nodes",
}  # fmt: skip
"""Twins that do the same operations on each number in the same order: not a bit may differ."""



def copies(args: tuple, dtype: type | None = None) -> list:
    """Fresh arrays, floats converted to `dtype` if given."""
    fresh = [np.array(a) if isinstance(a, np.ndarray) else a for a in args]
    if dtype is None:
        return fresh
    return [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in fresh]


def results(function, run, args: list, static: dict, seed: int = 5) -> list[np.ndarray]:
    """Everything that `run` makes of the arguments: the output, or the arrays changed in place, and the gradients."""
    with np.errstate(all="ignore"):
        made = run(*args, **static)
    if made is NotImplemented:
        return []
    if isinstance(function, autograd.twin.Procedure):
        changed = [a for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
        return ([] if made is None else [np.asarray(made)]) + changed
    output, vjp = made
    g = np.random.default_rng(seed).normal(size=output.shape).astype(output.dtype)
    if not output.shape:
        g = np.ones((), output.dtype)
    gradients = vjp(g) if callable(vjp) else tuple(part(g) for part in vjp)
    return [output, *gradients]


def all_samples(function) -> list[tuple[tuple, dict]]:
    """The twin's own samples, and the definition's as float32."""
    theirs = [(tuple(copies(args, np.float32)), kw) for args, kw in function.samples(np.random.default_rng(0))]
    return function.twin_samples(np.random.default_rng(1)) + theirs


def test_every_twin_that_is_asked_for_is_there():
    assert TWINNED.keys() >= {
        "gelu", "softmax", "layer_norm", "dropout_by_key", "take_rows", "cross_entropy", "linear_cross_entropy",
        "adam_update", "component_sizes", "past_reach", "shortest_paths", "nearest_nodes", "sigmoid", "gru_gates",
        "mix_experts",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(TWINNED))
def test_twin_agrees_with_the_definition(name):
    """Equal where the arithmetic is the same; else the twin is as near to the float64 truth as the definition is.

    Both round every operation to float32, but their sums run in different orders and their exponentials are different
    polynomials, so either may be the nearer one: allowed is twice the definition's own error, and two units in the
    last place of the largest number for the cases in which the definition happens to be exact.
    """
    function = TWINNED[name]
    taken = 0
    for args, static in all_samples(function):
        twin = results(function, function.twin, copies(args), static)
        if not twin:
            continue
        taken += 1
        plain = results(function, function.reference, copies(args), static)
        assert [(a.shape, a.dtype) for a in twin] == [(a.shape, a.dtype) for a in plain]
        if name in EQUAL:
            for ours, theirs in zip(twin, plain):
                np.testing.assert_array_equal(ours, theirs)
            continue
        truth = results(function, function.reference, copies(args, np.float64), static)
        for ours, theirs, true in zip(twin, plain, truth):
            allowed = 2 * np.abs(theirs - true).max() + 2 * np.finfo(np.float32).eps * np.abs(true).max()
            assert np.abs(ours - true).max() <= allowed, static
    assert taken >= len(function.twin_samples(np.random.default_rng(1)))


@pytest.mark.parametrize("name", sorted(TWINNED))
def test_twin_takes_float64_exactly_or_leaves_it(name):
    function = TWINNED[name]
    for args, static in function.samples(np.random.default_rng(0)):
        twin = results(function, function.twin, copies(args), static)
        if twin:
            for ours, theirs in zip(twin, results(function, function.reference, copies(args), static)):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", sorted(TWINNED))
def test_results_do_not_depend_on_the_number_of_threads(name):
    function = TWINNED[name]
    before = numba.get_num_threads()
    if before < 2:
        pytest.skip("one thread only")
    for args, static in function.twin_samples(np.random.default_rng(2)):
        if name == "linear_cross_entropy":
            continue  # its products are BLAS's matter; its kernels are those of cross_entropy
        many = results(function, function.twin, copies(args), static)
        try:
            numba.set_num_threads(1)
            one = results(function, function.twin, copies(args), static)
        finally:
            numba.set_num_threads(before)
        for a, b in zip(many, one):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["gelu", "softmax", "layer_norm", "sigmoid", "dropout_by_key", "take_rows"])
def test_strided_and_read_only_arguments(name):
    """What a permutation or a broadcast hands over gives the same as a plain copy."""
    function = TWINNED[name]
    args, static = function.twin_samples(np.random.default_rng(3))[0]
    plain = results(function, function.twin, copies(args), static)
    for change in (lambda a: np.asfortranarray(a), lambda a: np.broadcast_to(a, a.shape)):
        odd = [change(a) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a for a in copies(args)]
        for ours, theirs in zip(results(function, function.twin, odd, static), plain):
            np.testing.assert_array_equal(ours, theirs)


def test_special_values():
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e-30, 3e38, -3e38, 13.0, -13.0], np.float32)
    gelu = autograd.functional.gelu.twin(x)[0]
    assert np.isnan(gelu[0]) and gelu[1] == np.inf and gelu[7] == np.float32(3e38) and gelu[9] == 13
    np.testing.assert_array_equal(gelu[3:7], x[3:7] * np.float32(0.5))
    assert abs(gelu[10]) < 1e-30 and gelu[8] == 0
    sigmoid = autograd.ops.sigmoid.twin(x)[0]
    np.testing.assert_array_equal(sigmoid[1:9], np.array([1, 0, 0.5, 0.5, 0.5, 0.5, 1, 0], np.float32))
    assert np.isnan(sigmoid[0])
    masked = np.array([[0.0, -np.inf, 1.0], [-np.inf, -np.inf, 5.0]], np.float32)
    y = autograd.functional.softmax.twin(masked, axis=-1)[0]
    assert y[0, 1] == 0 and tuple(y[1]) == (0, 0, 1)


def test_exponential_error_in_units_in_the_last_place():
    """The shared exponential: 1.1 ulp over the range in which softmax and GELU use it."""
    from vbw_np.kernels.twins.rows import exp_row

    x = np.linspace(-87, 0, 400_001, dtype=np.float32)
    y = np.empty_like(x)
    exp_row(x, y, np.float32(0))
    true = np.exp(x.astype(np.float64))
    assert (np.abs(y - true) / np.spacing(true.astype(np.float32))).max() < 1.1


def test_scatter_equals_numpy_for_every_width():
    rng = np.random.default_rng(4)
    for count, width, size in ((1, 1, 5), (17, 3, 100), (70_000, 2, 3000), (5, 20_000, 9)):
        numbers = rng.integers(0, count, size)
        g = rng.normal(size=(size, width)).astype(np.float32)
        expected = np.zeros((count, width), np.float32)
        np.add.at(expected, numbers, g)
        np.testing.assert_array_equal(rows.scatter_rows(g, numbers, count), expected)


def test_a_training_step_with_twins_matches_one_without():
    """The whole small model: the loss and every gradient."""
    from vbw_np.models.claude4 import Claude4, Claude4Config

    ids = np.random.default_rng(6).integers(0, 61, (2, 12))
    gradients = []
    for on in (True, False):
        with autograd.use_twins(on):
            model = Claude4(Claude4Config(vocab_size=61, d_model=32, hidden=48), seed=3)
            model.loss(ids).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, ours in gradients[0].items():
        scale = np.abs(gradients[1][name]).max()
        np.testing.assert_allclose(ours, gradients[1][name], atol=2e-4 * scale + 1e-9, rtol=0, err_msg=name)


def test_importing_twice_registers_the_same_twins():
    before = {name: function.twin for name, function in TWINNED.items()}
    vbw_np.kernels.install()
    assert {name: TWINNED[name].twin for name in TWINNED} == before
