"""The twin of `definitions.token.step`: one token through all layers in one call.

The stages of a layer are its four kinds of products and attention between them; threads go through them together
(`sharing`). What is small every thread does for itself: norms, rounding of activations, the gate. Products and
attention are cut into tasks; each writes a place of its own, and no place is written twice in a call, so that a thread
that was held up finds everything as it was.

With keys or values to be rounded, the kernel is called once a layer, and what is kept is made between the calls.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ...definitions.byte_rows import BLOCK as BYTES
from ...definitions.byte_rows import LEFT, ByteRows
from ...definitions.panels import RightOperand
from ...definitions.token import STRETCH, Rounding, Token, turn
from ...simd import cpu
from ...simd.jit import block, jit, leaf, pjit
from ...simd.lanes import splat, sum_lanes
from ...simd.lanes_memory import load, load_part, store, store_part
from ...simd.wide import WIDTH
from ..fp4.gemv import few_rows_mode, quantized_rows, quantizer_of
from ..fp4.gemv_bytes import TASK, byte_rows_mode, byte_rows_task
from ..fp4.intrinsics_matvec import matvec_panels, pass_panels
from ..fp4.intrinsics_tile import ISAS
from ..twins.elementwise import sigmoid_lanes
from ..twins.rows import exp_row, row_max
from .sharing import LINE, done, finish, take, wait

PIECE = 6
"""Numbers that say where a packed weight lies."""
CODES, SCALES, BLOCKS, PANELS, ROWS, TARGET = range(PIECE)
STAGES = 5
"""Of a layer: q, k, v; attention; output; gate, up; down."""
PRODUCTS = ((0, 3), (3, 3), (3, 4), (4, 6), (6, 7))
"""Which of a layer's seven weights are multiplied in a stage."""


class Sizes(NamedTuple):
    """Sizes of a model, and what of it one call does."""

    layers: int
    width: int
    hidden: int
    heads: int
    groups: int
    head_dim: int
    eps: np.float32
    scale: np.float32
    interleaved: int
    block: int  # of the packed weights
    offset: int  # of the weights' codes, on this instruction set
    first: int  # the first stage, and the one after the last
    stop: int
    append: int  # whether keys and values are kept as they are


# ------------------------------------------------------------------------------------------------------ small, by all


@leaf
def rms_norm(x, weight, eps, out):
    n, total = len(x), splat(0.0)
    for i in range(0, n, WIDTH):
        part = load_part(x, i, min(WIDTH, n - i), 0.0)
        total = total + part * part
    scale = np.float32(1) / np.sqrt(sum_lanes(total) / np.float32(n) + eps)
    for i in range(0, n, WIDTH):
        count = min(WIDTH, n - i)
        store_part(out, i, count, load_part(x, i, count, 0.0) * scale * load_part(weight, i, count, 0.0))


@leaf
def _add(x, outs, at):
    n = len(x)
    for i in range(0, n, WIDTH):
        count = min(WIDTH, n - i)
        store_part(x, i, count, load_part(x, i, count, 0.0) + load_part(outs, at + i, count, 0.0))


@leaf
def swiglu_row(gate, up, out):
    for i in range(0, len(gate), WIDTH):
        count = min(WIDTH, len(gate) - i)
        x, y = load_part(gate, i, count, 0.0), load_part(up, i, count, 0.0)
        store_part(out, i, count, x * sigmoid_lanes(x) * y)


@leaf
def turn_heads(source, at, count, head_dim, cos, sin, interleaved, target, to, stride):
    """`count` vectors, one behind the other, to places `stride` apart."""
    half = head_dim // 2
    for n in range(count):
        for i in range(half):
            first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
            a, b = source[at + n * head_dim + first], source[at + n * head_dim + second]
            target[to + n * stride + first] = a * cos[i] - b * sin[i]
            target[to + n * stride + second] = b * cos[i] + a * sin[i]


# --------------------------------------------------------------------------------------------------------- products


@leaf
def _place_of(pieces, first, task, at_once):
    """The weight that a task of a stage belongs to, and its first panel."""
    piece = first
    while True:
        passes = (pieces[piece, PANELS] + at_once - 1) // at_once
        if task < passes:
            return piece, task * at_once
        task -= passes
        piece += 1


@jit
def _multiply(mode, left, pieces, factors, first, task, totals, outs):
    """One pass over some panels of a stage's weights."""
    values, scales, starts, left_factors = left
    at_once = pass_panels(mode)
    piece, panel = _place_of(pieces, first, task, at_once)
    blocks, panels, rows = pieces[piece, BLOCKS], pieces[piece, PANELS], pieces[piece, ROWS]
    padded = values.shape[1]
    matvec_panels(
        mode, values.ctypes.data, padded, starts.ctypes.data, scales.ctypes.data, blocks * 4,
        pieces[piece, CODES] + panel * padded * 8, pieces[piece, SCALES] + panel * blocks * 16,
        blocks, panels - panel, totals.ctypes.data, at_once * 64,
    )  # fmt: skip
    factor, target = left_factors[0] * factors[piece], pieces[piece, TARGET] + panel * 16
    for c in range(min(at_once * 16, rows - panel * 16)):
        outs[target + c] = totals[c] * factor


@jit
def _products(team, mode, quantizer, x, pieces, factors, first, last, sizes, tickets, counter, totals, outs):
    """The tasks of a stage of products: x (1, K) times each of the weights first ... last - 1."""
    at_once, tasks = pass_panels(mode), 0
    for piece in range(first, last):
        tasks += (pieces[piece, PANELS] + at_once - 1) // at_once
    if done(counter) < tasks:  # else this thread comes late, and there is nothing left
        blocks = pieces[first, BLOCKS]
        left = quantized_rows(mode, quantizer, False, x, blocks, sizes.block, np.float32(1), sizes.offset)
        task, step = take(tickets, tasks, team, 0)
        finished = 0
        while task >= 0:
            _multiply(mode, left, pieces, factors, first, task, totals, outs)
            finished += 1
            task, step = take(tickets, tasks, team, step)
        if finished:
            finish(counter, finished)
        wait(counter, tasks)


@jit
def _bytes_head(team, one, mode, quantizer, x, codes, scales, tickets, counter, logits):
    """As `_products`, of a head of eight bits."""
    tasks = (codes.shape[0] + TASK - 1) // TASK
    if done(counter) < tasks:
        blocks = scales.shape[1]
        left = quantized_rows(one, quantizer, False, x, blocks, BYTES, np.float32(1), 0)
        task, step = take(tickets, tasks, team, 0)
        finished = 0
        while task >= 0:
            byte_rows_task(mode, left[0], left[1], 1, codes, scales, task, logits)
            finished += 1
            task, step = take(tickets, tasks, team, step)
        if finished:
            finish(counter, finished)
        wait(counter, tasks)


# -------------------------------------------------------------------------------------------------------- attention


@jit
def _attend(q, keys, values, group, start, stop, sizes, scores, weights, partials, at):
    """The heads of a group over the tokens start ... stop - 1: of each head the largest score, the sum of weights, and
    the weighted sum of values, d + 2 numbers from `at` on."""
    head_dim, count = sizes.head_dim, stop - start
    for h in range(sizes.heads // sizes.groups):
        head = group * (sizes.heads // sizes.groups) + h
        for j in range(count):
            total = splat(0.0)
            for i in range(0, head_dim, WIDTH):
                total = total + load(q, head * head_dim + i) * load(keys, (start + j) * head_dim + i)
            scores[j] = sum_lanes(total) * sizes.scale
        top = row_max(scores[:count])
        place = at + head * (head_dim + 2)
        partials[place], partials[place + 1] = top, exp_row(scores[:count], weights[:count], top)
        for i in range(0, head_dim, WIDTH):
            total = splat(0.0)
            for j in range(count):
                total = total + load(values, (start + j) * head_dim + i) * weights[j]
            store(partials, place + 2 + i, total)


@jit
def _attention(team, layer, qkv, cos, sin, keys, values, position, sizes, tickets, counter, q, scratch, partials, outs):
    """The tasks of a layer's attention, a group and a stretch each; the last stretch keeps the new key and value."""
    stretches = (position + STRETCH) // STRETCH
    tasks, head_dim, groups = sizes.groups * stretches, sizes.head_dim, sizes.groups
    if done(counter) < tasks:
        turn_heads(outs, qkv, sizes.heads, head_dim, cos, sin, sizes.interleaved, q, 0, head_dim)
        finished = 0
        task, step = take(tickets, tasks, team, 0)
        while task >= 0:
            stretch, group = task // groups, task % groups
            k, v = keys[layer, group].reshape(-1), values[layer, group].reshape(-1)
            if stretch == stretches - 1 and sizes.append:
                own = qkv + (sizes.heads + group) * head_dim
                turn_heads(outs, own, 1, head_dim, cos, sin, sizes.interleaved, k, position * head_dim, 0)
                for i in range(head_dim):
                    v[position * head_dim + i] = outs[own + groups * head_dim + i]
            stop = min((stretch + 1) * STRETCH, position + 1)
            at = (layer * stretches + stretch) * sizes.heads * (head_dim + 2)
            _attend(q, k, v, group, stretch * STRETCH, stop, sizes, scratch[0], scratch[1], partials, at)
            finished += 1
            task, step = take(tickets, tasks, team, step)
        if finished:
            finish(counter, finished)
        wait(counter, tasks)


@leaf
def _merge(partials, layer, stretches, sizes, out, shares):
    """The stretches of a layer put together."""
    head_dim = sizes.head_dim
    stride, first = sizes.heads * (head_dim + 2), layer * stretches * sizes.heads * (head_dim + 2)
    for h in range(sizes.heads):
        at, top = first + h * (head_dim + 2), np.float32(-np.inf)
        for s in range(stretches):
            shares[s] = partials[at + s * stride]
            top = max(top, shares[s])
        exp_row(shares[:stretches], shares[:stretches], top)
        total = np.float32(0)
        for s in range(stretches):
            total = total + shares[s] * partials[at + s * stride + 1]
        for i in range(0, head_dim, WIDTH):
            mixed = splat(0.0)
            for s in range(stretches):
                mixed = mixed + load(partials, at + s * stride + 2 + i) * shares[s]
            store(out, h * head_dim + i, mixed / total)


# ------------------------------------------------------------------------------------------------------- the kernel


@pjit
def _step(
    team, mode, bytes_mode, quantizer, bytes_quantizer, sizes, pieces, factors, norms, x0, cos, sin, keys, values,
    position, tickets, counters, outs, partials, head_codes, head_scales, hidden, logits,
):  # fmt: skip
    """Stages `sizes.first` ... `sizes.stop` - 1; of those before only what they added to the residual stream."""
    q_rows, kv_rows = sizes.heads * sizes.head_dim, sizes.groups * sizes.head_dim
    widest = max(max(sizes.width, q_rows), sizes.hidden)
    x, wide, q = np.empty(sizes.width, np.float32), np.empty(widest, np.float32), np.empty(q_rows, np.float32)
    totals, scratch = np.empty(pass_panels(mode) * 16, np.float32), np.empty((2, STRETCH), np.float32)
    stretches = (position + STRETCH) // STRETCH
    shares = np.empty(stretches, np.float32)
    qkv_rows, threads = q_rows + 2 * kv_rows, team[1]
    x[:] = x0
    for layer in range(sizes.layers):
        qkv = layer * (qkv_rows + 2 * sizes.width + 2 * sizes.hidden)
        output, gate = qkv + qkv_rows, qkv + qkv_rows + sizes.width
        for kind in range(STAGES):
            stage = layer * STAGES + kind
            at, counter = tickets.ctypes.data + stage * threads * LINE, counters.ctypes.data + stage * LINE
            if sizes.first <= stage < sizes.stop:
                if kind == 1:
                    _attention(team, layer, qkv, cos, sin, keys, values, position, sizes, at, counter, q, scratch, partials, outs)  # noqa: E501
                else:
                    length = sizes.width
                    if kind == 0:
                        rms_norm(x, norms[2 * layer], sizes.eps, wide)
                    elif kind == 2:
                        _merge(partials, layer, stretches, sizes, wide, shares)
                        length = q_rows
                    elif kind == 3:
                        rms_norm(x, norms[2 * layer + 1], sizes.eps, wide)
                    else:
                        up = gate + sizes.hidden
                        swiglu_row(outs[gate:up], outs[up : up + sizes.hidden], wide)
                        length = sizes.hidden
                    first, last = layer * 7 + _FIRST[kind], layer * 7 + _LAST[kind]
                    _products(team, mode, quantizer, wide[:length].reshape(1, length), pieces, factors, first, last, sizes, at, counter, totals, outs)  # noqa: E501
            if kind == 2 and stage < sizes.stop:
                _add(x, outs, output)
            elif kind == 4 and stage < sizes.stop:
                _add(x, outs, gate + 2 * sizes.hidden)
    stage = sizes.layers * STAGES
    if stage < sizes.stop:
        rms_norm(x, norms[2 * sizes.layers], sizes.eps, wide)
        last = wide[: sizes.width].reshape(1, sizes.width)
        if team[0] == 0:
            hidden[:] = last[0]
        at, counter = tickets.ctypes.data + stage * threads * LINE, counters.ctypes.data + stage * LINE
        if len(head_codes):
            _bytes_head(team, mode, bytes_mode, bytes_quantizer, last, head_codes, head_scales, at, counter, logits)
        elif len(pieces) > 7 * sizes.layers:
            piece = 7 * sizes.layers
            _products(team, mode, quantizer, last, pieces, factors, piece, piece + 1, sizes, at, counter, totals, logits.reshape(-1))  # noqa: E501


_FIRST, _LAST = (tuple(ends) for ends in zip(*PRODUCTS))


# ------------------------------------------------------------------------------------------------------- from Python


class Tables:
    """Where a model's operands lie, and buffers for its calls."""

    def __init__(self, token: Token) -> None:
        self.layers = token.layers  # keeps alive what the addresses point to
        first, rows = token.layers[0], 0
        self.weights, self.targets = [], []
        for layer in token.layers:
            for weight in layer.products:
                self.weights.append(weight)
                self.targets.append(rows)
                rows += weight.shape[0]
        head = token.head
        if isinstance(head, RightOperand):
            self.weights.append(head)
            self.targets.append(0)
        self.pieces = np.array(
            [
                (w.codes.ctypes.data, w.scales.ctypes.data, w.scales.shape[1], len(w.scales), w.shape[0], at)
                for w, at in zip(self.weights, self.targets)
            ],
            np.int64,
        )
        self.factors = np.array([w.factor for w in self.weights], np.float32)
        self.norms = np.array([n for y in token.layers for n in (y.input_norm, y.post_norm)] + [token.norm], np.float32)
        self.outs = np.zeros(rows, np.float32)
        self.partials = np.zeros(0, np.float32)
        self.vocabulary = head.shape[0] if head is not None else 0
        self.bytes = (head.codes, head.scales) if isinstance(head, ByteRows) else (_NO_CODES, _NO_SCALES)
        self.format, self.hidden = first.down.family, first.down.shape[1]

    def room(self, position: int, heads: int, head_dim: int) -> NDArray:
        """For what the stretches of attention leave, in all layers."""
        needed = len(self.layers) * ((position + STRETCH) // STRETCH) * heads * (head_dim + 2)
        if self.partials.size < needed:
            self.partials = np.zeros(2 * needed, np.float32)
        return self.partials


_NO_CODES, _NO_SCALES = np.zeros((0, BYTES), np.int8), np.zeros((0, 1), np.float32)
_TABLES: weakref.WeakKeyDictionary[Token, Tables] = weakref.WeakKeyDictionary()


def _tables(token: Token) -> Tables:
    if token not in _TABLES:
        _TABLES[token] = Tables(token)
    return _TABLES[token]


def step(
    token: Token,
    x: NDArray,
    turns: tuple[NDArray, NDArray],
    keys: NDArray,
    values: NDArray,
    position: int,
    rounding: tuple[Rounding, Rounding] = (None, None),
) -> Any:
    """Twin of `definitions.token.step`."""
    isa = cpu.choose_vector()
    if isa not in ISAS:
        return NotImplemented
    tables, threads = _tables(token), numba.get_num_threads()
    count, stages = len(token.layers), len(token.layers) * STAGES + 1
    hidden, logits = np.empty(len(x), np.float32), np.empty((1, tables.vocabulary), np.float32)
    appends = rounding == (None, None)
    modes = few_rows_mode(isa, tables.format, 1), byte_rows_mode(isa)
    quantizers = quantizer_of("int8", tables.format)[0], quantizer_of("int8", LEFT)[0]
    tickets, counters = np.zeros((stages, threads, LINE // 8), np.int64), np.zeros((stages, LINE // 8), np.int64)
    partials, (cos, sin) = tables.room(position, token.heads, token.head_dim), (block(part) for part in turns)

    def run(first: int, stop: int) -> None:
        sizes = Sizes(
            count, len(x), tables.hidden, token.heads, token.groups, token.head_dim, np.float32(token.eps),
            np.float32(1 / np.sqrt(token.head_dim)), int(token.interleaved), tables.weights[0].block,
            ISAS[isa].offset, first, stop, int(appends),
        )  # fmt: skip
        _step(
            *modes, *quantizers, sizes, tables.pieces, tables.factors, tables.norms, block(x), cos, sin, keys, values,
            position, tickets, counters, tables.outs, partials, *tables.bytes, hidden, logits,
        )  # fmt: skip

    if appends:
        run(0, stages)
    else:
        run(0, 1)
        for layer in range(count):
            at, caches = tables.targets[7 * layer + 1], (keys[layer], values[layer])
            _keep(token, tables.outs, at, turns, caches, position, rounding)
            run(layer * STAGES + 1, stages if layer == count - 1 else (layer + 1) * STAGES + 1)
    return hidden, (logits[0] if token.head is not None else None)


def _keep(token, outs, at, turns, caches, position, rounding):  # type: ignore[no-untyped-def]
    """A layer's new keys and values, as they come and rounded, into its cache."""
    size = token.groups * token.head_dim
    k, v = (outs[at + i * size : at + (i + 1) * size].reshape(token.groups, -1) for i in range(2))
    for held, new, rounded in zip(caches, (turn(k, *turns, token.interleaved), v), rounding):
        held[:, position] = new if rounded is None else rounded(new)
