"""The attention graph, by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.layers import graph


def test_components_by_hand() -> None:
    # 0 -> 1 -> 2, 3 -> 2: from 0 all of 0, 1, 2; then 3 finds itself alone, since 2 is taken.
    attention = np.zeros((4, 4))
    attention[0, 1] = attention[1, 2] = attention[3, 2] = 0.5
    assert graph.component_sizes(attention, 0.1).tolist() == [3, 3, 3, 1]
    attention[2, 2] = 0.1  # not above the threshold, and a loop anyway
    assert graph.component_sizes(attention[None], 0.1).tolist() == [[3, 3, 3, 1]]


def test_past_reach_by_hand() -> None:
    attention = np.zeros((4, 4))
    attention[1, 0] = attention[3, 1] = 0.5
    attention[0, 3] = attention[2, 3] = 0.9  # to later nodes: not seen
    assert graph.past_reach(attention, 0.1).tolist() == [1, 2, 1, 3]


def test_shortest_paths_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    distances = rng.exponential(size=(6, 6))
    ours = graph.shortest_paths(distances)
    best = distances.copy()
    for _ in range(6):  # one edge more each time: Bellman and Ford's way, not Floyd and Warshall's
        best = np.minimum(best, (best[:, :, None] + distances[None]).min(axis=1))
    np.testing.assert_allclose(ours, best, rtol=1e-14)


def test_nearest_nodes_repeat_the_farthest_reached() -> None:
    distances = np.where(np.tri(4, dtype=bool), [[1, 0, 0, 0], [2, 1, 0, 0], [3, 1, 2, 0], [1, 1, 0.5, 9]], np.inf)
    assert graph.nearest_nodes(distances, 3).tolist() == [[0, 0, 0], [1, 0, 0], [1, 2, 0], [2, 0, 1]]
    with pytest.raises(ValueError, match="5 nearest of 4"):
        graph.nearest_nodes(distances, 5)
