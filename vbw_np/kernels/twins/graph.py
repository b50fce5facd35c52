"""Graph twins: components and reach on bit sets, the min-plus closure, the nearest nodes. One graph a thread.

All of them give the same bits as the readable definitions in `vbw_np.layers.graph`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine import autograd
from ...simd.jit import block, jit, leaf, pjit, share
from ...simd.lanes import select, splat
from ...simd.lanes_memory import load, load_part, store, store_part
from ...simd.wide import WIDTH

WORD = 64
_ONE = np.uint64(1)


@jit
def _edges(weights, threshold, edges):
    """Bit j of row i of `edges` (T, ceil(T / 64)): weights[i, j] > threshold."""
    size = len(weights)
    for i in range(size):
        for word in range(edges.shape[1]):
            found = np.uint64(0)
            for j in range(word * WORD, min((word + 1) * WORD, size)):
                if weights[i, j] > threshold:
                    found |= _ONE << np.uint64(j - word * WORD)
            edges[i, word] = found


@jit
def _search(edges, start, visited, component, stack):
    """Everything reached from `start` over nodes not visited before, into `component`; how many."""
    words = edges.shape[1]
    component[:] = 0
    component[start // WORD] |= _ONE << np.uint64(start % WORD)
    stack[0] = start
    waiting, count = 1, 0
    while waiting:
        waiting -= 1
        node = stack[waiting]
        count += 1
        for word in range(words):
            fresh = edges[node, word] & ~visited[word] & ~component[word]
            component[word] |= fresh
            while fresh:
                lowest = fresh & (~fresh + _ONE)
                fresh ^= lowest
                bit = 0
                while lowest > _ONE:
                    lowest >>= _ONE
                    bit += 1
                stack[waiting] = word * WORD + bit
                waiting += 1
    return count


@pjit
def _component_sizes(team, attention, threshold, sizes):
    size = attention.shape[1]
    words = (size + WORD - 1) // WORD
    for graph in share(team, len(attention)):
        edges = np.empty((size, words), np.uint64)
        _edges(attention[graph], threshold, edges)
        visited, component = np.zeros(words, np.uint64), np.zeros(words, np.uint64)
        stack = np.empty(size, np.int64)
        for start in range(size):
            if not (visited[start // WORD] >> np.uint64(start % WORD)) & _ONE:
                count = _search(edges, start, visited, component, stack)
                for word in range(words):
                    visited[word] |= component[word]
                    found = component[word]
                    for bit in range(min(WORD, size - word * WORD)):
                        if (found >> np.uint64(bit)) & _ONE:
                            sizes[graph, word * WORD + bit] = count


@pjit
def _past_reach(team, attention, threshold, counts):
    size = attention.shape[1]
    words = (size + WORD - 1) // WORD
    for graph in share(team, len(attention)):
        reach = np.zeros((size, words), np.uint64)
        for node in range(size):
            reach[node, node // WORD] |= _ONE << np.uint64(node % WORD)
            for earlier in range(node):
                if attention[graph, node, earlier] > threshold:
                    for word in range(words):
                        reach[node, word] |= reach[earlier, word]
            count = 0
            for word in range(words):
                rest = reach[node, word]
                while rest:
                    rest &= rest - _ONE
                    count += 1
            counts[graph, node] = count


@leaf
def _smaller_or_nan(old, new):
    """As np.minimum: NaN stays."""
    return select((old <= new) | (old != old), old, new)


@jit
def _relax(paths, size, column, pivot):
    """paths[i, j] = min(paths[i, j], column[i] + pivot[j]) of a flat matrix."""
    whole = size - size % WIDTH
    for i in range(size):
        to_pivot, row = splat(column[i]), i * size
        for j in range(0, whole, WIDTH):
            store(paths, row + j, _smaller_or_nan(load(paths, row + j), load(pivot, j) + to_pivot))
        if whole < size:
            n = size - whole
            new = load_part(pivot, whole, n, 0.0) + to_pivot
            store_part(paths, row + whole, n, _smaller_or_nan(load_part(paths, row + whole, n, 0.0), new))


@pjit
def _close(team, paths):
    """Floyd and Warshall. Row k and column k are copied first: the definition adds them before it changes them."""
    size = paths.shape[1]
    for graph in share(team, len(paths)):
        column, pivot = np.empty(size, np.float32), np.empty(size, np.float32)
        flat = paths[graph].reshape(-1)
        for k in range(size):
            for j in range(size):  # slices would take numba half a second to compile
                column[j], pivot[j] = paths[graph, j, k], paths[graph, k, j]
            _relax(flat, size, column, pivot)


@jit
def _comes_before(a, b):
    """Sort order with NaN last."""
    return a < b or (b != b and a == a)


@pjit
def _nearest(team, distances, count, nearest):
    for row in share(team, len(distances)):
        line, best = distances[row], nearest[row]
        kept = 0
        for node in range(len(line)):
            if kept == count and not _comes_before(line[node], line[best[count - 1]]):
                continue
            place = kept if kept < count else count - 1
            while place > 0 and _comes_before(line[node], line[best[place - 1]]):
                best[place] = best[place - 1]
                place -= 1
            best[place] = node
            kept = min(kept + 1, count)
        reached = 0
        for place in range(count):
            reached += np.isfinite(line[best[place]])
        for place in range(max(reached, 1), count):
            best[place] = best[max(reached - 1, 0)]


def _graphs(array: NDArray) -> NDArray:
    return block(array).reshape(-1, *array.shape[-2:])


def component_sizes(attention: NDArray, threshold: float) -> Any:
    """Twin of `vbw_np.layers.graph.component_sizes`."""
    if attention.dtype != np.float32 or attention.ndim < 2 or attention.size == 0:
        return NotImplemented
    graphs = _graphs(attention)
    sizes = np.empty(graphs.shape[:2], np.float32)
    _component_sizes(graphs, np.float32(threshold), sizes)
    return sizes.reshape(attention.shape[:-1])


def past_reach(attention: NDArray, threshold: float) -> Any:
    """Twin of `vbw_np.layers.graph.past_reach`."""
    if attention.dtype != np.float32 or attention.ndim < 2 or attention.size == 0:
        return NotImplemented
    graphs = _graphs(attention)
    counts = np.empty(graphs.shape[:2], np.float32)
    _past_reach(graphs, np.float32(threshold), counts)
    return counts.reshape(attention.shape[:-1])


def shortest_paths(distances: NDArray) -> Any:
    """Twin of `vbw_np.layers.graph.shortest_paths`."""
    if distances.dtype != np.float32 or distances.ndim < 2 or distances.size == 0:
        return NotImplemented
    paths = autograd.memory.copied(distances)
    _close(paths.reshape(-1, *distances.shape[-2:]))
    return paths


def nearest_nodes(distances: NDArray, count: int) -> Any:
    """Twin of `vbw_np.layers.graph.nearest_nodes`."""
    if distances.dtype != np.float32 or distances.size == 0 or not 1 <= count <= distances.shape[-1]:
        return NotImplemented
    lines = block(distances).reshape(-1, distances.shape[-1])
    nearest = np.empty((len(lines), count), np.int64)
    _nearest(lines, count, nearest)
    return nearest.reshape(*distances.shape[:-1], count)
