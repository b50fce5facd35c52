"""Attention read as a graph: which tokens hang together, and how far apart they are.

Two procedures over stacks of square matrices, outside the tape: what they find are counts and choices, which have no
gradient.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..engine import autograd

procedure = autograd.procedure


def _attention_samples(rng: np.random.Generator) -> list[tuple[tuple, dict]]:
    logits = 2 * rng.normal(size=(2, 3, 9, 9))
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return [((weights, 0.1), {}), ((np.eye(5), 0.5), {}), ((np.zeros((4, 4)), 0.1), {})]


@procedure(samples=_attention_samples)
def component_sizes(attention: NDArray, threshold: float) -> NDArray:
    """How many nodes were found together with each node, by breadth-first search along strong attention.

    There is an edge from i to j where attention[i, j] > `threshold`. From the nodes in order, those not yet visited:
    search along outgoing edges over nodes not yet visited; every node found gets the number of nodes in that search.
    (Edges have a direction, so what is found together depends on the order; these are not weak components.)

    Parameters
    ----------
    attention : (..., T, T)
    threshold : float

    Returns
    -------
    ndarray, (..., T), dtype of `attention`
    """
    size = attention.shape[-1]
    edges = (attention > threshold).reshape(-1, size, size)
    sizes = np.zeros((len(edges), size), attention.dtype)
    for graph, found in zip(edges, sizes):
        visited = np.zeros(size, bool)
        for start in range(size):
            if visited[start]:
                continue
            component = np.zeros(size, bool)
            frontier = component.copy()
            frontier[start] = True
            while frontier.any():
                component |= frontier
                frontier = graph[frontier].any(axis=0) & ~visited & ~component
            visited |= component
            found[component] = component.sum()
    return sizes.reshape(attention.shape[:-1])


@procedure(samples=_attention_samples)
def past_reach(attention: NDArray, threshold: float) -> NDArray:
    """How many nodes up to itself each node reaches along strong attention to earlier nodes, itself included.

    The causal counterpart of `component_sizes`: row t of the answer depends on rows up to t alone, and on their
    columns up to t.

    Parameters
    ----------
    attention : (..., T, T)
    threshold : float

    Returns
    -------
    ndarray, (..., T), dtype of `attention`
    """
    size = attention.shape[-1]
    edges = (attention > threshold).reshape(-1, size, size)
    counts = np.zeros((len(edges), size), attention.dtype)
    for graph, count in zip(edges, counts):
        reach = np.eye(size, dtype=bool)
        for node in range(size):
            earlier = np.flatnonzero(graph[node, :node])
            reach[node] |= reach[earlier].any(axis=0)
        count[:] = reach.sum(axis=1)
    return counts.reshape(attention.shape[:-1])


@procedure(samples=lambda rng: [((rng.exponential(size=(2, 3, 9, 9)),), {}), ((np.full((3, 3), np.inf),), {})])
def shortest_paths(distances: NDArray) -> NDArray:
    """All-pairs shortest paths: the min-plus closure, by Floyd and Warshall.

        d[i, j] = min(d[i, j], d[i, k] + d[k, j])    for k = 0 ... T - 1

    The diagonal starts at its own value, not at 0, so it becomes the length of the shortest cycle.

    Parameters
    ----------
    distances : (..., T, T)
        Length of the edge from i to j; inf where there is none.

    Returns
    -------
    ndarray, (..., T, T)
    """
    paths = distances.copy()
    for k in range(paths.shape[-1]):
        np.minimum(paths, paths[..., :, k, None] + paths[..., None, k, :], out=paths)
    return paths


@procedure(samples=lambda rng: [((rng.random((2, 7, 7)), 5), {}), ((np.triu(np.full((4, 4), np.inf), 1), 3), {})])
def nearest_nodes(distances: NDArray, count: int) -> NDArray:
    """The `count` nearest nodes of each node, nearest first; equal ones by number.

    Where fewer can be reached (the others are at distance inf), the farthest one reached is repeated.

    Parameters
    ----------
    distances : (..., T, T)
    count : int

    Returns
    -------
    ndarray of int64, (..., T, count)

    Raises
    ------
    ValueError
        `count` exceeds the number of nodes.
    """
    size = distances.shape[-1]
    if not 1 <= count <= size:
        raise ValueError(f"the {count} nearest of {size} nodes: ask for 1 to {size}, or give a longer sequence")
    order = np.argsort(distances, axis=-1, kind="stable")[..., :count]
    reached = np.isfinite(np.take_along_axis(distances, order, axis=-1)).sum(axis=-1, keepdims=True)
    place = np.minimum(np.arange(count), np.maximum(reached - 1, 0))
    return np.take_along_axis(order, place, axis=-1)
