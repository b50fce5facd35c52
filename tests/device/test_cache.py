"""The decode cache by itself and under the cards; the debug mode that finds stray writes."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.device import DecodeCache, StaleWeightError, place
from vbw_np.engine import Tensor, nn, no_grad


def ones(width: int) -> Tensor:
    return Tensor(np.ones((1, width), np.float32))


def test_an_entry_is_good_for_one_version_only() -> None:
    cache = DecodeCache(100)
    cache.put("a", 1, "value", 10)
    assert cache.get("a", 1) == "value"
    assert cache.get("a", 2) is None
    assert cache.get("a", 0) is None
    cache.put("a", 2, "newer", 30)
    assert (cache.get("a", 1), cache.get("a", 2), cache.bytes, len(cache)) == (None, "newer", 30, 1)


def test_the_least_recently_used_goes_first() -> None:
    cache = DecodeCache(100)
    for key in "abc":
        cache.put(key, 0, key, 30)
    cache.get("a", 0)
    cache.put("d", 0, "d", 30)
    assert [cache.get(key, 0) for key in "abcd"] == ["a", None, "c", "d"]
    assert (cache.bytes, cache.evictions) == (90, 1)


def test_an_entry_beyond_the_bound_is_not_kept_and_evicts_nobody() -> None:
    cache = DecodeCache(100)
    cache.put("a", 0, "a", 60)
    cache.put("b", 0, "b", 101)
    assert (cache.get("a", 0), cache.get("b", 0), cache.bytes, cache.evictions) == ("a", None, 60, 0)
    cache.put("a", 1, "a", 101)
    assert (cache.get("a", 0), cache.bytes) == (None, 0), "what it replaces is old, and goes all the same"


def test_drop_forgets_all_layouts_of_one_card() -> None:
    cache = DecodeCache(100)
    cache.put(("a", "dequant"), 0, 1, 10)
    cache.put(("a", "fp4"), 0, 2, 10)
    cache.put(("b", "fp4"), 0, 3, 10)
    cache.drop("a")
    assert (len(cache), cache.bytes, cache.get(("b", "fp4"), 0)) == (1, 10, 3)


def test_the_bound_is_a_number_of_bytes() -> None:
    with pytest.raises(ValueError, match="number of bytes, not -1"):
        DecodeCache(-1)


def test_cards_share_the_bound_and_evict_each_other() -> None:
    layers = nn.Sequential(*(nn.Linear(32, 32, rng=seed) for seed in range(3)))
    device = place(layers, "nvfp4", mode="inference", cache_bytes=2 * 4 * 32 * 32)
    with no_grad():
        for index in (0, 1, 0, 2, 0, 1):  # the second use of 1 comes after 2 has pushed it out
            layers[index](ones(32))
    decodes = [card.statistics.decodes for card in device.cards.values()]
    hits = [card.statistics.decode_hits for card in device.cards.values()]
    assert (decodes, hits) == ([1, 2, 1], [2, 0, 0])
    assert device.decode_cache.evictions == 2
    assert device.decode_cache.bytes == 2 * 4 * 32 * 32


def test_without_room_every_use_decodes() -> None:
    layer = nn.Linear(32, 32, rng=0)
    device = place(layer, "nvfp4", mode="inference", cache_bytes=0)
    for _ in range(3):
        layer(ones(32))
    assert (device.statistics.decodes, device.statistics.decode_hits, device.decode_cache.bytes) == (3, 0, 0)


@pytest.mark.parametrize("mode", ["training", "inference", "precision"])
def test_a_new_version_is_never_answered_from_a_cache(mode: str, layer: nn.Linear) -> None:
    place(layer, "nvfp4-boh", mode=mode, refresh_interval=100)
    before = layer(ones(64)).data.copy()
    layer.weight.assign(-layer.weight.data)
    after = layer(ones(64)).data
    np.testing.assert_allclose(after - layer.bias.data, -(before - layer.bias.data), atol=1e-5)


def test_verify_reports_a_write_past_the_version(layer: nn.Linear) -> None:
    place(layer, "nvfp4", verify=True)
    layer(ones(64))
    with layer.weight.mutate() as data:
        data *= 2
    layer(ones(64))  # written as it should be
    layer.weight.data[3, 5] += 1
    with pytest.raises(StaleWeightError, match="card linear: .* its version \\(1\\) did not.*mutate"):
        layer(ones(64))


def test_without_verify_a_write_past_the_version_goes_unseen(layer: nn.Linear) -> None:
    """Why the debug mode exists: hashing every weight at every use is too dear for always."""
    place(layer, "nvfp4")
    before = layer(ones(64)).data.copy()
    layer.weight.data *= 2
    np.testing.assert_array_equal(layer(ones(64)).data, before)


def test_a_result_handed_out_is_never_overwritten(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4")
    (card,) = device.cards.values()
    old = card.use()
    kept = old.copy()
    layer.weight.assign(layer.weight.data * -3)
    card.use()
    np.testing.assert_array_equal(old, kept)
