"""A causal Claude4, read token by token: each new token at the price of one row.

In a causal model nothing at a position depends on a later one, so what was computed for the tokens so far stays true:
`Reader` keeps it and computes only the new rows. What each layer has to keep:

    attention       the low-rank keys and values zk, zv: 2 r numbers a head and token
    token shift     the row before
    connectivity    which tokens each token reaches
    shortest paths  each token's distances to earlier tokens, and its row of the stream
    path attention  keys and values of the path features
    mirrors         the projections of the first token
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..engine import F, Tensor, autograd
from ..errors import UserError
from ..layers import Reflection, ShortestPathReflection, graph
from ..layers.attention import MultiheadAttention, merge_heads, split_heads
from .claude4 import Block, Claude4
from .evaluating import evaluating

ops = autograd.ops
NEAREST = ShortestPathReflection.NEAREST


class Rows:
    """An array that grows along one axis, with room made in advance: (..., length so far, ...)."""

    def __init__(self, shape: tuple[int, ...], axis: int, dtype: np.dtype) -> None:
        self._array = np.zeros(shape, dtype)
        self._axis = axis
        self.length = 0

    def append(self, rows: NDArray) -> NDArray:
        """Add rows along the axis; everything so far, as a view."""
        before, self.length = self.length, self.length + rows.shape[self._axis]
        self._array[self._up_to(before, self.length)] = rows
        return self.all

    @property
    def all(self) -> NDArray:
        return self._array[self._up_to(0, self.length)]

    def _up_to(self, start: int, stop: int) -> tuple[slice, ...]:
        return (slice(None),) * self._axis + (slice(start, stop),)


def causal_rows(start: int, count: int) -> NDArray[np.bool_]:
    """(count, start + count): whether new position start + i may look at position j, that is j <= start + i."""
    return np.tri(count, start + count, start, dtype=bool)


def attention_rows(query: Tensor, keys: NDArray, start: int) -> Tensor:
    """The new rows of softmax(q k^T / sqrt(d)), masked: query (B, H, n, d), keys (B, H, T, d), to (B, H, n, T)"""
    scores = (query @ Tensor(np.swapaxes(keys, -1, -2))) * (1 / math.sqrt(query.shape[-1]))
    mask = np.broadcast_to(causal_rows(start, query.shape[-2]), scores.shape)
    return F.softmax(ops.where(scores, np.array(-np.inf, scores.dtype), condition=mask), axis=-1)


class ReachRows:
    """Which tokens each token reaches along strong attention to earlier ones: `graph.past_reach`, row by row."""

    def __init__(self, batch: int, heads: int, capacity: int) -> None:
        self._reach = np.zeros((batch, heads, capacity, capacity), bool)
        self._length = 0

    def extend(self, attention: NDArray, threshold: float) -> NDArray:
        """attention (B, H, n, T), to the number of tokens that each new one reaches, itself included: (B, H, n)"""
        counts = []
        for row in np.moveaxis(attention, 2, 0):  # (B, H, T)
            t = self._length
            reached = (row[..., :t, None] > threshold) & self._reach[..., :t, :t]  # (B, H, t, t)
            self._reach[..., t, :t] = reached.any(axis=-2)
            self._reach[..., t, t] = True
            self._length += 1
            counts.append(self._reach[..., t, : t + 1].sum(axis=-1))
        return np.stack(counts, axis=-1).astype(attention.dtype)


class PathRows:
    """Shortest paths to earlier tokens: `graph.shortest_paths` of a causal graph, row by row and bit for bit.

    All edges lead from later to earlier tokens or to the token itself. So the stages k of Floyd and Warshall change
    row t only for k <= t, and find in it, as the length from t to k, still the edge itself:

        before[t] = min(edge[t], min over k < t of edge[t, k] + before[k])      stages 0 ... t - 1
        row[t]    = min(before[t], edge[t, t] + before[t])                      stage t
    """

    def __init__(self, batch: int, heads: int, capacity: int, dtype: np.dtype) -> None:
        self._before = np.full((batch, heads, capacity, capacity), np.inf, dtype)
        self._length = 0

    def extend(self, edges: NDArray) -> NDArray:
        """Lengths of the new tokens' edges (B, H, n, T), inf to later ones, to their shortest paths (B, H, n, T)"""
        paths = np.full_like(edges, np.inf)
        for i in range(edges.shape[2]):
            t = self._length
            edge = edges[:, :, i, : t + 1]  # (B, H, t + 1)
            row = edge.copy()
            if t:
                through = (edge[..., :t, None] + self._before[..., :t, : t + 1]).min(axis=-2)
                np.minimum(row, through, out=row)
            self._before[..., t, : t + 1] = row
            paths[:, :, i, : t + 1] = np.minimum(row, edge[..., t:] + row)
            self._length += 1
        return paths


class ReflectionReader:
    """What `Reflection` computes, for new rows only."""

    def __init__(self, reflection: Reflection, batch: int, heads: int, capacity: int, dtype: np.dtype) -> None:
        self._layer = reflection
        attention = reflection.shortest_path_reflection.path_attn
        width, path_heads = attention.embed_dim, attention.num_heads
        self._reach = ReachRows(batch, heads, capacity)
        self._paths = PathRows(batch, heads, capacity, dtype)
        self._stream = Rows((batch, capacity, width), 1, dtype)
        self._keys = Rows((batch, path_heads, capacity, width // path_heads), 2, dtype)
        self._values = Rows((batch, path_heads, capacity, width // path_heads), 2, dtype)
        self._first: list[Tensor] | None = None  # the mirrors' projections of the first token, (B, 1, D) each

    def extend(self, x: Tensor, attention: NDArray) -> Tensor:
        """x (B, n, D), new rows of the attention (B, H, n, T), to (B, n, D)"""
        start = self._stream.length
        self._stream.append(x.data)
        readings = (
            x * self._connectivity(attention, start),
            self._path_feature(x, attention, start),
            x * self._complexity(x),
        )
        fused = self._layer.fusion(ops.concatenate(*readings, axis=-1))
        return x + self._layer.feedback_gate(fused) * fused

    def _connectivity(self, attention: NDArray, start: int) -> NDArray:
        """(B, n, 1)"""
        reached = self._reach.extend(attention, self._layer.connectivity_analyzer.THRESHOLD)  # (B, H, n)
        so_far = np.arange(start + 1, start + reached.shape[-1] + 1, dtype=attention.dtype)
        return (reached / so_far).mean(axis=1)[..., None]

    def _path_feature(self, x: Tensor, attention: NDArray, start: int) -> Tensor:
        """(B, n, D)"""
        layer, (batch, count, width) = self._layer.shortest_path_reflection, x.shape
        inf = attention.dtype.type(np.inf)
        edges = -np.log(attention + attention.dtype.type(1e-10))
        edges = np.where(causal_rows(start, count), edges, inf)
        distances = self._paths.extend(edges).mean(axis=1)  # (B, n, T)
        if distances.shape[-1] < NEAREST:  # tokens that are not there yet are out of reach
            missing = np.full((batch, count, NEAREST - distances.shape[-1]), inf)
            distances = np.concatenate([distances, missing], axis=-1)
        nearest = graph.nearest_nodes(distances, NEAREST)  # (B, n, 5)
        rows = np.take_along_axis(self._stream.all, nearest.reshape(batch, -1, 1), axis=1)  # (B, 5 n, D)
        order = np.arange(batch * count * NEAREST).reshape(batch * count, NEAREST)
        features = layer.path_encoder(Tensor(rows.reshape(-1, width)), order)  # (B n, D)
        return self._path_attention(layer.path_attn, x, features.reshape(batch, count, width), start)

    def _path_attention(self, layer: MultiheadAttention, x: Tensor, features: Tensor, start: int) -> Tensor:
        q, k, v = layer.project(x, features)
        keys, values = self._keys.append(k.data), self._values.append(v.data)
        return layer.output(attention_rows(q, keys, start) @ Tensor(values))

    def _complexity(self, x: Tensor) -> Tensor:
        """(B, n, 1)"""
        layer = self._layer.mirror_complexity
        projected = [proj(x) for proj in layer.mirror_projs]
        if self._first is None:
            self._first = [p[:, :1] for p in projected]
        mirrors = [(p + first) * 0.5 for p, first in zip(projected, self._first)]
        return layer.complexity_scorer(ops.concatenate(*mirrors, axis=-1))


class BlockReader:
    """What a block of a causal Claude4 computes, for new rows only."""

    def __init__(self, block: Block, batch: int, capacity: int, dtype: np.dtype) -> None:
        self._block = block
        attention = block.attn
        low_rank = (batch, attention.heads, capacity, attention.subspace.V.shape[1])
        self._zk, self._zv = Rows(low_rank, 2, dtype), Rows(low_rank, 2, dtype)
        self._last: dict[str, Tensor] = {}  # by layer, the normalized row before, for the token shift
        self._reflection = None
        if block.reflection is not None:
            self._reflection = ReflectionReader(block.reflection, batch, attention.heads, capacity, dtype)

    def extend(self, x: Tensor) -> Tensor:
        """(B, n, D), to the same"""
        block = self._block
        attended, weights = self._attention(self._mixed("attn", block.norm1(x)))
        x = x + attended
        x = x + block.ffn(self._mixed("ffn", block.norm2(x)))
        if self._reflection is None:
            return x
        return x + block.norm_reflect(self._reflection.extend(x, weights.data))

    def _attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        layer, start = self._block.attn, self._zk.length
        q, k, v = (split_heads(part(x), layer.heads) for part in (layer.W_q, layer.W_k, layer.W_v))  # (B, H, n, hd)
        zq, zk, zv = (layer.subspace.project(part) for part in (q, k, v))  # (B, H, n, r)
        weights = attention_rows(zq, self._zk.append(zk.data), start)
        y = layer.subspace.reconstruct(weights @ Tensor(self._zv.append(zv.data)))
        return layer.W_o(merge_heads(y)), weights

    def _mixed(self, name: str, x: Tensor) -> Tensor:
        """`claude4.shift_tokens` with the row before at hand."""
        if not self._block.token_shift:
            return x
        half = x.shape[-1] // 2
        before = self._last.get(name)
        if before is None:
            before = Tensor(np.zeros((x.shape[0], 1, half), x.dtype))
        self._last[name] = x[:, -1:, :half]
        earlier = ops.concatenate(before, x[:, :-1, :half], axis=1)
        return ops.concatenate(earlier, x[..., half:], axis=-1)


class Reader:
    """Reads token after token with a causal Claude4, and computes for each piece only its own rows.

    Parameters
    ----------
    model : Claude4
        Causal; in evaluation mode while it reads.
    batch : int
    capacity : int
        Tokens that will be read at most; room is made for them at once.

    Examples
    --------
    >>> reader = Reader(model, batch=1, capacity=32)   # doctest: +SKIP
    >>> hidden = reader.extend(prompt)                 # (1, T, D)
    >>> hidden = reader.extend(next_token)             # (1, 1, D): one row
    """

    def __init__(self, model: Claude4, batch: int, capacity: int) -> None:
        if not model.config.causal:
            raise ValueError("only a causal model can be read token by token: in this one, earlier rows change")
        self._model = model
        self._modules = list(model.modules())
        self._capacity = capacity
        self._length = 0
        dtype = model.norm.weight.dtype
        self._blocks = [BlockReader(block, batch, capacity, dtype) for block in model.blocks]

    def extend(self, ids: NDArray) -> NDArray:
        """New tokens (B, n), to what the output head sees of them (B, n, D)."""
        ids = np.asarray(ids)
        if self._length + ids.shape[1] > self._capacity:
            raise ValueError(f"{self._length} tokens were read and {ids.shape[1]} follow: more than {self._capacity}")
        with evaluating(self._modules):
            x = self._model.encoder(ids)
            for block in self._blocks:
                x = block.extend(x)
            self._length += ids.shape[1]
            return self._model.norm(x).data

    def logits(self, ids: NDArray) -> NDArray:
        """New tokens (B, n), to the logits of the last of them (B, V)."""
        hidden = np.ascontiguousarray(self.extend(ids)[:, -1])
        with evaluating(self._modules):
            return self._model.output_head(Tensor(hidden)).data


def hidden_of_whole(model: Claude4, ids: NDArray) -> NDArray:
    """What the output head sees of the last token (B, D), by reading the whole sequence.

    A reflection needs five tokens. Before a causal model's answer, whatever follows is of no account: a shorter prompt
    is filled up.
    """
    length = ids.shape[1]
    if length < NEAREST:
        if not model.config.causal:
            raise UserError(
                f"the prompt has {length} tokens, and this model's reflection needs {NEAREST}; write a longer prompt"
            )
        ids = np.pad(ids, ((0, 0), (0, NEAREST - length)))
    with evaluating(list(model.modules())):
        return model.hidden_states(ids)[0].data[:, length - 1]
