"""The float32 matrix product: a twin of `autograd.ops.matmul_arrays` for large matrices.

    y[m, n] = sum over k of x[m, k] * z[k, n]

A sum is cut into pieces of `K_CHUNK` terms. A piece is one chain of fused multiply-adds in the order of k, and the
pieces are added in order: `multiply_reference` is this in NumPy. Neither threads nor the instruction sets that have
these loops (not `portable`, which leaves the product to NumPy's BLAS) change a bit, while those of BLAS depend on the
number of threads on many CPUs, and on the CPU; and the output head, which works in several
chunks of its rows, loses less than with BLAS, which packs the whole weight for each.

As in the virtual tensor core, every thread takes the next (group of panels, chunk of rows); for each piece of the sum
it packs the group's part of the right operand, and then computes tile after tile (Goto and van de Geijn, "Anatomy of
high-performance matrix multiplication", 2008).
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray

from ...definitions.aligned import kept
from ...engine import autograd
from ...machine import blas_info
from ...simd import cpu
from ...simd.intrinsics import fence, fetch_add
from ...simd.jit import block, jit, pjit, share
from ...simd.variant import Variant
from .intrinsics_fp32 import (
    ADD,
    STORE,
    STREAM,
    TILES,
    WIDEST,
    FloatTile,
    pack_panels,
    pack_tiles,
    pack_transposed,
    tile,
    tile_packed,
    tile_panels,
    tile_rows,
)

K_CHUNK = 256
"""Terms of a piece of a sum: a tile's operands stay in the first-level cache."""

GROUP = 16
"""Most panels (of 16 columns) that a task packs at once."""

ROWS, PACKED_ROWS = 2048, 384
"""Most rows of a task: of a left operand that is read where it lies, and of one that is packed."""

AHEAD = 8
"""Rows between the one that is packed and the one that is fetched meanwhile."""

TASKS = 8
"""Tasks a thread from which on it does not matter whether all have equally many."""

SMALLEST = 1 << 21
"""Multiply-adds from which on a product is worth several threads and packing."""

NARROWEST = 32
"""Least rows, columns and terms of such a product: fewer leave a tile, or its loop, half empty."""

STREAM_FROM = 48 << 20
"""Bytes of a result from which on it is written past the caches."""

PAD = 16
"""Floats between packed panels and tiles: at a distance of whole pages all would compete for the same cache lines."""

_RIGHT = GROUP * (16 * K_CHUNK + PAD)  # floats: packed panels
_LEFT = PACKED_ROWS * K_CHUNK + PACKED_ROWS // min(shape.rows for shape in TILES.values()) * PAD  # floats: packed tiles
_EDGE = WIDEST[0] * WIDEST[1]  # floats: a tile that reaches beyond the result
SCRATCH = _RIGHT + _LEFT + _EDGE
"""Floats of scratch a thread."""


@jit
def _copy_part(source, start, along, across, count, have, target, first, width, step):  # type: ignore[no-untyped-def]
    """`count` times `have` floats of a flat matrix into rows of `width` floats, `step` apart, filled up with zeros."""
    for i in range(count):
        for c in range(width):
            target[first + i * step + c] = source[start + i * along + c * across] if c < have else np.float32(0.0)


@jit
def _pack_right(z, transposed, column, columns, k, count, target):  # type: ignore[no-untyped-def]
    """Terms k .. k + count of a group's columns into panels [panel][count][16]; what is missing is zero."""
    whole, panel, line = columns // 16, count * 16 + PAD, z.shape[1]
    flat = z.reshape(-1)
    along, across, start = (1, line, column * line + k) if transposed else (line, 1, k * line + column)
    if transposed:
        done = count // 16 * 16
        for p in range(whole):
            first = z.ctypes.data + (start + p * 16 * line) * 4
            pack_transposed(first, line * 64, line * 4, count // 16, target.ctypes.data + p * panel * 4)
            if done < count:
                at = start + p * 16 * line + done
                _copy_part(flat, at, along, across, count - done, 16, target, p * panel + done * 16, 16, 16)
    else:
        for i in range(count):
            source = z.ctypes.data + (start + i * line) * 4
            pack_panels(source, line * (4 * AHEAD), whole, target.ctypes.data + i * 64, panel * 4)
    if whole * 16 < columns:
        at, have = start + whole * 16 * across, columns - whole * 16
        _copy_part(flat, at, along, across, count, have, target, whole * panel, 16, 16)


@jit
def _pack_left(variant, x, transposed, row, rows, k, count, target):  # type: ignore[no-untyped-def]
    """Terms k .. k + count of some rows of a transposed operand into tiles [tile][count][rows of a tile].

    Of one that is not transposed, the rows beyond the last whole tile: [rows of a tile][count].
    """
    step, line = tile_rows(variant), x.shape[1]
    whole, size = rows // step, count * step + PAD
    have = rows - whole * step
    if transposed:
        for i in range(count):
            source = x.ctypes.data + ((k + i) * line + row) * 4
            pack_tiles(variant, source, line * (4 * AHEAD), whole, target.ctypes.data + i * step * 4, size * 4)
    if have > 0:
        at, along, times, first, width = (row + whole * step) * line + k, line, have, 0, count
        if transposed:
            at, along, times, first, width = k * line + row + whole * step, line, count, whole * size, step
        else:
            have = count
        _copy_part(x.reshape(-1), at, along, 1, times, have, target, first, width, width)


@jit
def _store_edge(edge, width, finish, out):  # type: ignore[no-untyped-def]
    """The part of a tile that lies within the result."""
    for m in range(out.shape[0]):
        for n in range(out.shape[1]):
            value = edge[m * width + n]
            out[m, n] = out[m, n] + value if finish == ADD else value


@jit
def _one_task(variant, x, z, out, x_transposed, z_transposed, length, row, rows, column, columns, first, scratch):  # type: ignore[no-untyped-def]
    """Rows row .. row + rows, columns column .. column + columns, all of the sum."""
    step, width = tile_rows(variant), tile_panels(variant) * 16
    right, left, edge = scratch[:_RIGHT], scratch[_RIGHT : _RIGHT + _LEFT], scratch[_RIGHT + _LEFT :]
    whole = rows // step * step
    left[: step * K_CHUNK] = 0  # what rows beyond the last hold changes nothing, but might be slow to multiply
    for k in range(0, length, K_CHUNK):
        count = min(K_CHUNK, length - k)
        _pack_right(z, z_transposed, column, columns, k, count, right)
        _pack_left(variant, x, x_transposed, row, rows, k, count, left)
        finish, panel, size = ADD if k > 0 else first, count * 16 + PAD, count * step + PAD
        for n in range(0, columns, width):
            b = right.ctypes.data + n // 16 * panel * 4
            for m in range(0, rows, step):
                inside = m + step <= rows and n + width <= columns
                target, stride, how = edge.ctypes.data, width * 4, STORE
                if inside:
                    target, stride = out.ctypes.data + ((row + m) * out.shape[1] + column + n) * 4, out.shape[1] * 4
                    how = finish
                if x_transposed:
                    a = left.ctypes.data + m // step * size * 4
                    tile_packed(variant, a, 0, b, panel * 4, count, target, stride, how)
                else:
                    a, a_stride = left.ctypes.data, count * 4
                    if m < whole:
                        a, a_stride = x.ctypes.data + ((row + m) * x.shape[1] + k) * 4, x.shape[1] * 4
                    tile(variant, a, a_stride, b, panel * 4, count, target, stride, how)
                if not inside:
                    rest = out[row + m : row + min(m + step, rows), column + n : column + min(n + width, columns)]
                    _store_edge(edge, width, finish, rest)


@pjit
def _product(team, variant, x, z, out, x_transposed, z_transposed, rows, group, first, scratch, ticket):  # type: ignore[no-untyped-def]
    """Every thread takes the next (group of panels, chunk of rows) until none is left."""
    length = x.shape[0] if x_transposed else x.shape[1]
    chunks, groups = -(-out.shape[0] // rows), -(-out.shape[1] // (16 * group))
    for thread in share(team, scratch.shape[0]):
        task = fetch_add(ticket.ctypes.data)
        while task < chunks * groups:
            row, column = (task % chunks) * rows, (task // chunks) * 16 * group
            count, columns = min(rows, out.shape[0] - row), min(16 * group, out.shape[1] - column)
            _one_task(variant, x, z, out, x_transposed, z_transposed, length, row, count, column, columns, first, scratch[thread])  # noqa: E501
            task = fetch_add(ticket.ctypes.data)
        fence()


def _cut(m: int, n: int, length: int, transposed: bool, shape: FloatTile, threads: int) -> tuple[int, int]:
    """Rows and panels of a task. Each packs for itself, so there are few, of equal size, the same number a thread.

    Splitting the columns costs nothing where the left operand is small enough to be read again and again (short sums);
    elsewhere a task takes all columns, up to `GROUP` panels.
    """
    tiles, panels = -(-m // shape.rows), -(-n // (16 * shape.panels)) * shape.panels
    group = min(GROUP, panels)
    if length <= K_CHUNK and not transposed:
        parts = -(-m // ROWS)
        while parts * -(-panels // group) < TASKS * threads and group > shape.panels:
            group = -(-group // (2 * shape.panels)) * shape.panels
    else:
        parts = -(-m // PACKED_ROWS)
    groups = -(-panels // group)
    if parts * groups < TASKS * threads:
        parts = -(-parts * groups // threads) * threads // groups
    return -(-tiles // max(parts, 1)) * shape.rows, group


def _stored(matrix: NDArray) -> tuple[NDArray, bool] | None:
    """The matrix as it lies in memory, row by row, and whether that is its transpose; None if it is neither."""
    if matrix.flags.c_contiguous:
        return block(matrix), False
    return (block(matrix.T), True) if matrix.flags.f_contiguous else None


def multiply_reference(x: NDArray, y: NDArray) -> NDArray:
    """The product by its definition, in NumPy: float32 x (M, K), y (K, N); every addition rounds once.

    A product of two float32 numbers is exact in float64; so is nearly every sum with a third that matters here.
    """
    total = np.zeros((x.shape[0], y.shape[1]), np.float32)
    for start in range(0, x.shape[1], K_CHUNK):
        piece = np.zeros_like(total)
        for k in range(start, min(start + K_CHUNK, x.shape[1])):
            term = np.multiply.outer(x[:, k].astype(np.float64), y[k].astype(np.float64))
            piece = (piece + term).astype(np.float32)
        total += piece
    return total


def multiply(
    x: NDArray, y: NDArray, out: NDArray | None = None, *, accumulate: bool = False, isa: str | None = None
) -> NDArray:
    """x @ y of two large float32 matrices.

    Parameters
    ----------
    x, y : float32 (M, K), (K, N)
        Each contiguous, or the transpose of a contiguous matrix.
    out : float32 (M, N), C-contiguous, optional
    accumulate : bool
        Add to `out`, piece by piece of the sum, instead of overwriting it.
    isa : str, optional
        An instruction set; AMX has none for this and takes `avx512vnni`.

    Raises
    ------
    ValueError
        `out` shares memory with x or y: it would be overwritten while it is read.

    Returns
    -------
    float32 (M, N): `out`, or a pooled array. NotImplemented for matrices that are small or of another kind, and for
    `portable`, which may be without fused multiply-adds.
    """
    if not (x.ndim == y.ndim == 2) or not (x.dtype == y.dtype == np.float32):
        return NotImplemented
    (m, length), n = x.shape, y.shape[1]
    if m * n * length < SMALLEST or min(m, n, length) < NARROWEST or y.shape[0] != length:
        return NotImplemented
    if out is not None and not (out.shape == (m, n) and out.dtype == np.float32 and out.flags.carray):
        return NotImplemented
    if out is not None and (np.may_share_memory(out, x) or np.may_share_memory(out, y)):
        raise ValueError("out shares memory with an operand, which would be overwritten while it is read: copy it")
    left, right, isa = _stored(x), _stored(y), cpu.choose_vector(isa)
    if left is None or right is None or isa not in TILES:
        return NotImplemented
    if out is None:
        out = autograd.memory.empty((m, n))
    threads, shape, short = numba.get_num_threads(), TILES[isa], length <= K_CHUNK
    rows, group = _cut(m, n, length, left[1], shape, threads)
    first = ADD if accumulate else STORE
    if short and not accumulate and out.nbytes >= STREAM_FROM and (out.ctypes.data | out.strides[0]) % 64 == 0:
        first = STREAM
    scratch = kept("fp32", threads * SCRATCH, np.float32).reshape(threads, SCRATCH)
    arrays = left[0], right[0], out, left[1], right[1]
    _product(Variant(isa, 0), *arrays, rows, group, first, scratch, np.zeros(1, np.int64))
    return out


@cache
def _blas_is_faster() -> bool:
    """Whether NumPy's BLAS has instructions that no other program can use: Apple's, on its matrix units."""
    return "accelerate" in blas_info()["library"].lower()


def matmul_arrays(x: NDArray, y: NDArray, out: NDArray | None = None) -> NDArray:
    """Twin of `autograd.ops.matmul_arrays` for large float32 matrices; leaves stacks and small ones to it."""
    return NotImplemented if _blas_is_faster() else multiply(x, y, out)


def add_product(x: NDArray, y: NDArray, total: NDArray) -> None:
    """total += x @ y"""
    if _blas_is_faster() or multiply(x, y, total, accumulate=True) is NotImplemented:
        total += autograd.ops.matmul_arrays(x, y)
