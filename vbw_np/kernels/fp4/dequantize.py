"""Decode packed rows to float32: the twin of `PackedTensor.dequantize`.

An element is looked up in a table of sixteen, multiplied with its block's scale and then with the tensor's, each
product rounded once, as in `formats.packed`. A nested fine tier adds index * step, which is exact. Large results go
past the caches: they would only push out what is there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import formats
from ...definitions import support
from ...engine import autograd
from ...formats.packed import nested_table
from ...simd.intrinsics import fence
from ...simd.jit import jit, leaf, pjit, share
from ...simd.jit import row as jit_row
from ...simd.lanes import PIECE, bits, floats, select, splat, to_float, usplat
from ...simd.lanes_memory import (
    at,
    keep,
    load_bits,
    load_nibbles,
    lookup_nibbles,
    nibble_table,
    pointer,
    put,
    store,
    stream,
)
from ...simd.wide import WIDTH

empty = autograd.memory.empty

STREAM_FROM = 1 << 24
"""Bytes of a result from which on it is written past the caches."""

_INT4 = np.array([*range(8), *range(-8, 0)], np.float32)


class Source(NamedTuple):
    """What is decoded: arrays, inside a kernel pointers to them; those that a format does not have are empty."""

    codes: NDArray  # uint8
    fine: NDArray  # uint8
    scales: NDArray  # uint8
    wide: NDArray  # float32: scales that are not coded
    values: NDArray  # float32: what each scale code means
    table: NDArray  # float32, a `nibble_table`: what each element code means
    step: NDArray  # float32, a `nibble_table`: what one step of the fine tier adds to each of them
    coded: int  # whether scales are codes
    planes: int  # bit planes of the fine tier that are used
    block: int
    per_scale: int  # blocks that one scale spans less one: 0, or all of a row


@leaf
def _element(source, c, planes):
    """Sixteen elements in units of their scale."""
    value = lookup_nibbles(source.table, source.codes, c)
    if planes > 0:
        index = to_float(load_nibbles(source.fine, c) >> (4 - planes))
        value = value + index * lookup_nibbles(source.step, source.codes, c)
    return value


@leaf
def _decode_blocks(source, c, s, factor, out, i, count, past, block, planes, coded, per_scale):
    """`count` blocks: from byte c and scale s on, to out[i ...]. What a source is comes apart: often it is constant."""
    for b in range(count):
        place = s if per_scale else s + b
        scale = splat(at(source.values, at(source.scales, place)) if coded else at(source.wide, place))
        for j in range(b * block, (b + 1) * block, WIDTH):
            v = _element(source, c + j // 2, planes) * scale * factor
            if past:
                stream(out, i + j, v)
            else:
                store(out, i + j, v)


@jit
def _decode_row(source, factor, out, row, length, count, past, own, own_out):
    """`count` elements of a row, rows `length` apart: whole blocks, then what is left by way of a block of its own."""
    block, planes, coded, per_scale = source.block, source.planes, source.coded, source.per_scale
    c, s, i = row * ((length + 1) // 2), row * (1 if per_scale else (length + block - 1) // block), row * length
    level, whole = splat(factor), count // block
    if planes or per_scale or not coded:
        _decode_blocks(source, c, s, level, out, i, whole, past, block, planes, coded, per_scale)
    elif block == 32:  # the common cases, without a branch
        _decode_blocks(source, c, s, level, out, i, whole, past, 32, 0, True, False)
    else:
        _decode_blocks(source, c, s, level, out, i, whole, past, 16, 0, True, False)
    rest, done = count - whole * block, whole * block
    if rest:
        for k in range((rest + 1) // 2):
            put(own.codes, k, at(source.codes, c + done // 2 + k))
            if planes:
                put(own.fine, k, at(source.fine, c + done // 2 + k))
        last = s if per_scale else s + whole
        _decode_blocks(own, 0, last, level, own_out, 0, 1, False, block, planes, coded, per_scale)
        for k in range(rest):
            put(out, i + done + k, at(own_out, k))


@pjit
def _decode(
    team, codes, fine, scales, wide, values, table, step, coded, planes, block, per_scale, factors, out, length, past
):  # fmt: skip
    """Rows of `length` elements, the last maybe shorter; `factors` holds the second level's scale, one or one a row."""
    for index in share(team, (len(out) + length - 1) // length):
        row = np.int64(index)
        source = Source(
            pointer(codes), pointer(fine), pointer(scales), pointer(wide), pointer(values), pointer(table),
            pointer(step), coded, planes, block, per_scale,
        )  # fmt: skip
        octets, numbers = np.zeros((2, 32), np.uint8), np.empty(32, np.float32)
        own_codes, own_fine = octets[0], octets[1]
        own = Source(
            pointer(own_codes), pointer(own_fine), pointer(scales), pointer(wide), pointer(values), pointer(table),
            pointer(step), coded, planes, block, per_scale,
        )  # fmt: skip
        count = min(length, len(out) - row * length)
        factor = factors[row if len(factors) > 1 else 0]
        _decode_row(source, factor, pointer(out), row, length, count, past, own, pointer(numbers))
        keep(octets)
        keep(numbers)
        if past:
            fence()


# ------------------------------------------------------------------------------------------------------- two tiers


@leaf
def _quantile_lanes(fine, signs, codes, c, codebook, scale, fine_on, int4):
    """Sixteen elements of `seed-v6`: a level with a sign, and the residual on top."""
    level = lookup_nibbles(codebook, codes, c)
    value = floats(bits(level) ^ select(load_bits(signs, c // 4), usplat(0x80000000), 0))
    if fine_on:
        value = value + lookup_nibbles(int4, fine, c) * scale
    return value


@pjit
def _decode_quantiles(team, codes, signs, fine, row_scales, codebook, int4, fine_on, out, length):
    """Rows of `length` elements, a multiple of 16."""
    for index in share(team, len(out) // length):
        row = np.int64(index)
        scale = splat(row_scales[row])
        for j in range(0, length, WIDTH):
            i = row * length + j
            store(out, i, _quantile_lanes(fine, signs, codes, i // 2, codebook, scale, fine_on, int4))


# ------------------------------------------------------------------------------------------------------- from Python

_NO_FLOATS, _NO_BYTES = np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.uint8)


def dequantize(
    packed: formats.PackedTensor,
    planes: int | None = None,
    *,
    out: NDArray | None = None,
) -> NDArray:
    """Twin of `PackedTensor.dequantize`.

    Parameters
    ----------
    packed : PackedTensor
    planes : int, optional
        Bit planes of a nested fine tier to use; all that are present by default.
    out : float32 array of the tensor's shape, C-contiguous, optional
        Written to and returned. Otherwise an array from the pool.

    Raises
    ------
    FormatError, ShapeError, DtypeError
        More planes than there are; an `out` of another shape or type.
    """
    out = _checked_out(packed, out)
    planes = packed.planes if planes is None else planes
    fmt = packed.format
    if not 0 <= planes <= packed.planes:
        raise formats.FormatError(f"{planes} bit planes asked for; this tensor has {packed.planes}")
    if fmt.quantile_codebook and planes in (0, 4) and packed.shape[-1] % WIDTH == 0:
        _run_quantiles(packed, planes, out)
    elif support.decoding(fmt, planes).kernel:
        _run(packed, planes, out)
    else:
        out[...] = packed.dequantize(planes)
    return out


def _checked_out(packed: formats.PackedTensor, out: NDArray | None) -> NDArray:
    if out is None:
        out = empty(packed.shape)
    if out.dtype != np.float32:
        raise formats.DtypeError(f"out is {out.dtype.name}; decoding gives float32")
    if out.shape != packed.shape or not out.flags.carray:
        raise formats.ShapeError(f"out must be writable, C-contiguous and of shape {packed.shape}; it has {out.shape}")
    return out


def _run(packed: formats.PackedTensor, planes: int, out: NDArray) -> None:
    fmt, length = packed.format, packed.shape[-1]
    scale_element = fmt.rule.scale_element
    block = fmt.block or WIDTH
    level = np.float32(1) if packed.tensor_scale is None else packed.tensor_scale
    factors = jit_row(np.asarray(level, np.float32).reshape(-1))
    table, step = fmt.element.table, None
    if planes:
        cells = nested_table(fmt.fine.top, planes)
        table, step = cells[:, 0], cells[:, 1] - cells[:, 0]
    scales = jit_row(packed.scales)
    if len(factors) == 1 and fmt.block is not None and length % block == 0:
        length = PIECE
    flat = out.reshape(-1)
    past = out.nbytes >= STREAM_FROM and flat.ctypes.data % 64 == 0 and length % WIDTH == 0
    _decode(
        jit_row(packed.codes), jit_row(packed.fine) if planes else _NO_BYTES, scales if scale_element else _NO_BYTES,
        _NO_FLOATS if scale_element else scales, jit_row(scale_element.table) if scale_element else _NO_FLOATS,
        jit_row(nibble_table(table)), jit_row(nibble_table(step)) if planes else _NO_FLOATS,
        int(scale_element is not None), planes, block, int(fmt.block is None), factors, flat, length, int(past),
    )  # fmt: skip


def _run_quantiles(packed: formats.PackedTensor, planes: int, out: NDArray) -> None:
    fine = jit_row(packed.fine) if planes else _NO_BYTES
    codebook, int4 = jit_row(nibble_table(packed.codebook)), nibble_table(_INT4)
    _decode_quantiles(
        jit_row(packed.codes), jit_row(packed.signs), fine, jit_row(packed.scales), codebook, int4, int(planes > 0),
        out.reshape(-1), out.shape[-1],
    )  # fmt: skip
