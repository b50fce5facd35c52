"""How a token is chosen: the nucleus, and temperatures and logits at the edge."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from vbw_np.errors import UserError
from vbw_np.models.sampling import Sampling, _likeliest, sample


def test_the_nucleus_holds_the_token_that_crosses_it() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    rng = np.random.default_rng(0)
    assert {sample(logits, rng, top_p=0.5) for _ in range(200)} == {0}
    assert {sample(logits, rng, top_p=0.51) for _ in range(200)} == {0, 1}
    assert {sample(logits, rng, top_p=0.9) for _ in range(400)} == {0, 1, 2}
    assert {sample(logits, rng, top_k=1) for _ in range(50)} == {0}
    assert sample(logits, rng, temperature=0) == 0
    drawn = np.bincount([sample(logits, rng) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(drawn, [0.5, 0.3, 0.15, 0.05], atol=5 * math.sqrt(0.25 / 4000))
    with pytest.raises(ValueError, match="top_p"):
        sample(logits, rng, top_p=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-45, 1e-8])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e30])
def test_as_the_temperature_goes_to_zero_the_likeliest_is_drawn(temperature: float, scale: float, dtype: type) -> None:
    logits = np.array([-3, 2, -np.inf, 1.5], dtype) * dtype(scale)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rng = np.random.default_rng(0)
        assert {sample(logits, rng, temperature, top_p=0.9) for _ in range(50)} == {1}


def test_at_a_high_temperature_all_are_drawn_alike() -> None:
    rng = np.random.default_rng(0)
    drawn = np.bincount([sample(np.arange(4.0), rng, 1e300) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(drawn, 0.25, atol=5 * math.sqrt(0.25 / 4000))


def test_equally_likely_tokens_share_at_any_temperature() -> None:
    rng = np.random.default_rng(0)
    assert {sample(np.array([1.0, 3.0, 3.0]), rng, 1e-310) for _ in range(50)} == {1, 2}


@pytest.mark.parametrize("temperature", [0.0, 1e-310, 1.0])
@pytest.mark.parametrize("logits", [[1, np.nan, 2], [np.nan] * 3, [1, np.inf, 2], [-np.inf] * 3])
def test_logits_that_prefer_nothing_are_refused(logits: list[float], temperature: float) -> None:
    with pytest.raises(UserError, match="no token can be chosen: the logit of token"):
        sample(np.array(logits, np.float32), np.random.default_rng(0), temperature)


@pytest.mark.parametrize("temperature", [math.nan, -1.0, math.inf])
def test_temperatures_that_mean_nothing(temperature: float) -> None:
    with pytest.raises(UserError, match="temperature"):
        Sampling(temperature=temperature)
    with pytest.raises(UserError, match="temperature"):
        sample(np.zeros(3), np.random.default_rng(0), temperature)


def by_sorting_all(logits: np.ndarray, rng: np.random.Generator, top_p: float, top_k: int | None) -> int:
    """As arXiv 1904.09751 says it: all tokens in order, up to the one that crosses."""
    shifted = logits.astype(np.float64) - float(logits.max())
    order = np.argsort(-shifted, kind="stable")[:top_k]
    probabilities = np.exp(shifted[order]) / np.exp(shifted[order]).sum()
    count = int(np.searchsorted(np.cumsum(probabilities), top_p)) + 1
    kept = probabilities[:count] / probabilities[:count].sum()
    return int(order[rng.choice(len(kept), p=kept)])


@pytest.mark.parametrize("top_k", [None, 1, 40, 5000])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999, 1.0])
def test_sorting_a_part_draws_what_sorting_all_draws(top_p: float, top_k: int | None) -> None:
    """Of flat and of steep logits, with many ties, and a nucleus within and beyond those that are sorted first."""
    rng = np.random.default_rng(2)
    for spread in (0.2, 3.0):
        logits = np.round(spread * rng.normal(size=3000), 1).astype(np.float32)
        for seed in range(5):
            ours, theirs = (np.random.default_rng(seed) for _ in range(2))
            drawn = [sample(logits, ours, 1.0, top_p, top_k) for _ in range(4)]
            assert drawn == [by_sorting_all(logits, theirs, top_p, top_k) for _ in range(4)]


@pytest.mark.parametrize("count", [1, 2, 7, 64, 299, 300, 1000])
@pytest.mark.parametrize("levels", [20, 10**9])
def test_the_likeliest_are_those_of_sorting_all_ties_included(count: int, levels: int) -> None:
    logits = np.random.default_rng(0).integers(0, levels, 300).astype(np.float64)  # of 20 levels many are equal
    assert _likeliest(logits, count).tolist() == np.argsort(-logits, kind="stable")[:count].tolist()
