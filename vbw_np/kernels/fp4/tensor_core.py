"""The virtual tensor core: matrix products with both operands in FP4, faster than the float32 product.

    y[m, n] = (sum over blocks b, in order, of  (sx[m, b] * sw[n, b]) * dot_b(m, n))  *  (factor_x[m] * factor_w)

`dot_b` is the exact integer dot product of one block (16 elements for nvfp4, 32 for mxfp4) of E2M1 values; `sx`
and `sw` are the decoded block scales, the factors the second-level scales. The sum over blocks is a float32
accumulator that starts at zero and takes one block after the other; the factor is applied last. It is the product of
the two operands' factors, each rounded once ((amax_x / 2688) * (amax_w / 2688)), kept a row on the left, so that no
token changes another. Libraries form one alpha of both amax, which gives other last bits: `matmul(..., alpha=)` takes
it, and `transformer_engine_alpha` is TransformerEngine's.

`matmul_reference` is this definition in NumPy. Every kernel returns its bits, on every instruction set and with
any number of threads: a scaled dot product has at most 20 significant bits, so the only roundings are the
additions across blocks, which all run in the same order. (Only where a scaled mxfp4 block leaves float32's range
may Inf differ from a fused sum; E4M3 scales cannot get there.)

    >>> left = quantize_left(x, "nvfp4-row-scaled")    # (M, K) float32 -> FP4, a scale a row
    >>> right = quantize_right(w, "nvfp4")             # (N, K) float32 -> FP4 panels, once
    >>> y = matmul(left, right)                        # (M, N) float32

The three products of a linear layer, y = x W^T, dx = g W, dW = g^T x, are::

    matmul(quantize_left(x, rows), quantize_right(w, fmt))
    matmul(quantize_left(g, rows), quantize_right(w, fmt, transpose=True))
    matmul(quantize_left(g, rows, transpose=True), quantize_right(x, fmt, transpose=True))

Operands from packed bytes in plain row layout: `left_from_packed`, `right_from_packed`.
"""

from __future__ import annotations

import numba
import numpy as np

from ...definitions.aligned import kept, result_of
from ...definitions.fp4_products import check_pair, factors_of, matmul_reference, transformer_engine_alpha
from ...definitions.panels import LeftOperand, RightOperand, left_from_packed, right_from_packed
from ...simd import cpu
from ...simd.intrinsics import fence, fetch_add, stream_scaled
from ...simd.jit import jit, pjit, share
from ...simd.variant import Variant
from .intrinsics_amx import (
    BUFFER,
    PHASE,
    PHASE_PANELS,
    configure,
    release,
    scale_left,
    scale_right,
    tile_block,
    tile_phase,
    width,
)
from .intrinsics_tile import (
    ADD,
    STORE,
    STREAM,
    block_length,
    decode,
    fill_left_words,
    fill_right_words,
    tile,
    tile_panels,
    tile_rows,
    tile_rows_of,
    words_of,
)
from .quantize_operands import quantize_left, quantize_right

__all__ = [
    "LeftOperand",
    "RightOperand",
    "left_from_packed",
    "matmul",
    "matmul_reference",
    "quantize_left",
    "quantize_right",
    "right_from_packed",
    "transformer_engine_alpha",
]

GROUP = 8
"""Panels (of 16 columns) that a task decodes at once."""

K_CHUNK = 1024
"""Elements of the reduction between two visits of a tile: its operands stay in the first-level cache."""

ROWS_AT_ONCE = 384
"""Most rows of a task; a multiple of every instruction set's tile."""

STREAM_FROM = 48 << 20
"""Bytes of a result from which on it is written past the caches."""

_BUFFER = -(-BUFFER // 4096) * 4096  # bytes: AMX tiles
_DECODED = GROUP * 16 * K_CHUNK * 2  # bytes: decoded panels, up to two bytes an element
_SCALES = GROUP * 16 * (K_CHUNK // 16) * 4  # bytes: scales as the tile loop wants them
_SUMS = ROWS_AT_ONCE * GROUP * 16 * 4  # bytes: accumulators
SCRATCH = _BUFFER + _DECODED + _SCALES + _SUMS
"""Bytes of scratch a thread."""


def matmul(
    left: LeftOperand,
    right: RightOperand,
    out: np.ndarray | None = None,
    *,
    accumulate: bool = False,
    isa: str | None = None,
    alpha: np.ndarray | float | None = None,
) -> np.ndarray:
    """The product `left @ right.T` of two FP4 operands.

    Parameters
    ----------
    left : LeftOperand (M, K)
    right : RightOperand (N, K), of the same format
    out : float32 (M, N), C-contiguous, optional
        Preallocate it: fresh pages cost more than the arithmetic. Large results are written fastest where rows start at
        multiples of 64 bytes (`definitions.aligned.aligned_empty`).
    accumulate : bool
        Add to `out` (one float32 addition an element) instead of overwriting it.
    isa : str, optional
        One of `cpu.INSTRUCTION_SETS`; default `VBW_KERNELS`, else the fastest here.
    alpha : float32, one number or (M,), optional
        What the sums are multiplied with, in place of the product of both operands' factors.

    Returns
    -------
    float32 (M, N): `out`, or a new array.
    """
    check_pair(left, right)
    shape = (left.shape[0], right.shape[0])
    out = result_of(out, shape, accumulate)
    isa = cpu.choose(isa)
    if _needs_fit(isa, left.block) and not (fits(left) and fits(right)):
        isa = next(name for name in cpu.available() if not _needs_fit(name, left.block))
    chunks = -(-shape[0] // ROWS_AT_ONCE)
    rows = -(-shape[0] // (chunks * 48)) * 48  # rows of a task
    variant = Variant(isa, left.block)
    factors = factors_of(left, right, alpha)
    operands = factors, right.codes, right.scales
    aligned = (out.ctypes.data | out.strides[0]) % 64 == 0
    finish = ADD if accumulate else STREAM if aligned and out.nbytes >= STREAM_FROM else STORE
    where = out, finish, rows, _scratch(numba.get_num_threads()), np.zeros(1, np.int64)
    if isa == "amx":
        scaled = kept("scaled", left.values.size, np.uint16)
        _scale_rows(variant, left.values, left.scales, -(-shape[0] // 16), scaled)
        _product_amx(variant, scaled, left.values.shape[1], *operands, *where)
    else:
        _product(variant, left.values, _left_words(left, variant, factors), *operands, *where)
    return out


def _scratch(threads: int) -> np.ndarray:
    """Scratch of the numba threads, (threads, SCRATCH) bytes."""
    return kept("scratch", threads * SCRATCH, np.uint8).reshape(threads, SCRATCH)


def _left_words(left: LeftOperand, variant: Variant, factors: np.ndarray) -> np.ndarray:
    """What the tile loop wants beside the left values, int32 (tiles, blocks, 2, rows of a tile).

    A NaN scale makes its whole row NaN; so it does not have to be kept in the words: the row's factor becomes NaN.
    """
    words = kept("words", 2 * left.scales.size, np.int32).reshape(-1, left.scales.shape[1], 2, tile_rows_of(variant))
    _fill_left_words(variant, left.sums, left.scales, factors, words)
    return words


def _needs_fit(isa: str, block: int) -> bool:
    """Whether an instruction set multiplies these formats only within `fits`."""
    return isa == "amx" or words_of(Variant(isa, block)) != "numbers"


def fits(operand: LeftOperand | RightOperand) -> bool:
    """Whether scaled values and their products stay clear of float32's subnormals and of overflow.

    E4M3 scales do, but on the right they must not be NaN. E8M0 scales must lie within 2**-60 .. 2**60, except on blocks
    that are all zero.
    """
    if operand.family == "nvfp4":
        return isinstance(operand, LeftOperand) or not _any_nan(operand.scales.reshape(-1))
    if isinstance(operand, LeftOperand):
        rows = operand.shape[0]
        odd = _odd_scales(operand.scales[:rows].reshape(-1).view(np.int32), 66 << 23, 186 << 23)
        return odd == 0 or bool(_left_fits(operand.values[:rows], operand.scales[:rows], operand.block))
    if _odd_scales(operand.scales.reshape(-1), 67, 187) == 0:
        return True
    panel, block, column = np.nonzero((operand.scales < 67) | (operand.scales > 187))
    groups = operand.block // 8
    codes = operand.codes.reshape(operand.codes.shape[0], -1, groups, 16, 4)
    return not (codes[panel, block, :, column] & 0x77).any()


@jit
def _any_nan(codes):  # type: ignore[no-untyped-def]
    """Whether an E4M3 code among them is NaN."""
    count = 0
    for i in range(codes.size):
        count += (codes[i] & 0x7F) == 0x7F
    return count > 0


@jit
def _odd_scales(words, low, high):  # type: ignore[no-untyped-def]
    """How many of them lie outside low .. high."""
    odd = 0
    for i in range(words.size):
        odd += words[i] < low or words[i] > high
    return odd


@jit
def _left_fits(values: np.ndarray, scales: np.ndarray, block: int) -> bool:
    for m in range(scales.shape[0]):
        for b in range(scales.shape[1]):
            scale = scales[m, b]
            if not (np.float32(2.0**-61) <= scale <= np.float32(2.0**59)):
                if scale != scale:
                    return False
                for k in range(b * block, b * block + block):
                    if values[m, k] != 0:
                        return False
    return True


@pjit
def _fill_left_words(team, variant, sums, scales, factors, words):  # type: ignore[no-untyped-def]
    rows, blocks = tile_rows(variant), scales.shape[1]
    for m in share(team, scales.shape[0]):
        at = words.ctypes.data + (m // rows * rows * blocks * 2 + m % rows) * 4
        sums_at, scales_at = sums.ctypes.data + m * blocks * 2, scales.ctypes.data + m * blocks * 4
        if fill_left_words(variant, sums_at, scales_at, blocks, at) != 0:
            factors[m] = np.float32(np.nan)


@jit
def _finish(sums, factors, finish, out, width):  # type: ignore[no-untyped-def]
    """out = sums * factors, or the same added to out; row by row, so that it vectorizes.

    With `STREAM` whole vectors go straight to memory: where the caches could not hold the result, reading each line
    before it is overwritten would double the traffic. `width`: bytes from one row of the result to the next.
    """
    whole = out.shape[1] // 16 if finish == STREAM else 0
    for m in range(out.shape[0]):
        if whole > 0:
            target = out.ctypes.data + m * width
            stream_scaled(sums[m].ctypes.data, factors.ctypes.data + m * 4, target, whole)
        if whole * 16 < out.shape[1]:
            _finish_row(sums[m, whole * 16 :], factors[m], finish, out[m, whole * 16 :])


@jit
def _finish_row(sums, factor, finish, out):  # type: ignore[no-untyped-def]
    if finish == ADD:
        for n in range(out.shape[0]):
            out[n] = out[n] + sums[n] * factor
    else:
        for n in range(out.shape[0]):
            out[n] = sums[n] * factor


@jit
def _next_task(ticket, rows, out):  # type: ignore[no-untyped-def]
    """The next (group of panels, chunk of rows): first row, how many, first panel; beyond the last if none is left."""
    task, chunks = fetch_add(ticket.ctypes.data), -(-out.shape[0] // rows)
    row = task % chunks * rows
    return row, min(rows, out.shape[0] - row), task // chunks * GROUP


@jit
def _room(scratch):  # type: ignore[no-untyped-def]
    """In a thread's scratch: the addresses of decoded panels and of scales; the accumulators."""
    decoded = scratch.ctypes.data + _BUFFER
    sums = scratch[_BUFFER + _DECODED + _SCALES :].view(np.float32).reshape(ROWS_AT_ONCE, GROUP * 16)
    return decoded, decoded + _DECODED, sums


@jit
def _one_task(variant, values, words, factors, codes, scale_bytes, out, finish, row, rows, panel, scratch):  # type: ignore[no-untyped-def]
    """Rows row .. row + rows, panels panel .. panel + GROUP, all of the reduction."""
    block, step_rows, step_panels = block_length(variant), tile_rows(variant), tile_panels(variant)
    length, blocks = values.shape[1], words.shape[1]
    panels = min(GROUP, codes.shape[0] - panel)
    decoded, decoded_scales, sums = _room(scratch)
    sums_at = sums.ctypes.data
    width = out.shape[1] * 4
    for k in range(0, length, K_CHUNK):
        chunk = min(K_CHUNK, length - k)
        first, count = k // block, chunk // block
        last = k + chunk == length
        for p in range(panels):
            source = codes.ctypes.data + ((panel + p) * length + k) * 8
            decode(variant, source, decoded + p * chunk * 16, chunk // 8)
            stored = scale_bytes.ctypes.data + ((panel + p) * blocks + first) * 16
            fill_right_words(variant, stored, count, decoded_scales + p * count * 64)
        for p in range(0, panels, step_panels):
            columns = (panel + p) * 16
            for i in range(0, rows, step_rows):
                inside = i + step_rows <= rows and columns + step_panels * 16 <= out.shape[1]
                tile(
                    variant, values.ctypes.data + (row + i) * length + k, length,
                    words.ctypes.data + ((row + i) * blocks + first * step_rows) * 8, decoded + p * chunk * 16,
                    chunk * 16, decoded_scales + p * count * 64, count * 64, count, sums_at + (i * GROUP + p) * 64,
                    GROUP * 64, 1 if k == 0 else 0, finish if last and inside else 0,
                    factors.ctypes.data + (row + i) * 4, out.ctypes.data + (row + i) * width + columns * 4, width,
                )  # fmt: skip
                if last and not inside:
                    bottom, right = min(i + step_rows, rows), min(columns + step_panels * 16, out.shape[1])
                    part = sums[i:bottom, p * 16 : p * 16 + right - columns]
                    rest = out[row + i : row + bottom, columns:right]
                    _finish(part, factors[row + i : row + bottom], finish, rest, width)


@pjit
def _product(team, variant, values, words, factors, codes, scale_bytes, out, finish, rows, scratch, ticket):  # type: ignore[no-untyped-def]
    """Every thread takes the next task until none is left."""
    for thread in share(team, scratch.shape[0]):
        while True:
            row, count, panel = _next_task(ticket, rows, out)
            if panel >= codes.shape[0]:
                break
            _one_task(variant, values, words, factors, codes, scale_bytes, out, finish, row, count, panel, scratch[thread])  # noqa: E501
        fence()


# ---- the same on AMX: operands scaled to bfloat16 first ------------------------------------------------------


@pjit
def _scale_rows(team, variant, values, scales, tiles, scaled):  # type: ignore[no-untyped-def]
    """int8 values to scaled bfloat16 in row tiles [M/16][blocks][16][block]."""
    length, blocks = values.shape[1], scales.shape[1]
    for t in share(team, tiles):
        scale_left(
            variant, values.ctypes.data + t * 16 * length, length, scales.ctypes.data + t * 64 * blocks, blocks * 4,
            blocks, scaled.ctypes.data + t * 32 * length,
        )  # fmt: skip


@jit
def _one_task_amx(variant, scaled, length, factors, codes, scale_bytes, out, finish, row, rows, panel, scratch):  # type: ignore[no-untyped-def]
    block, step = block_length(variant), width(variant)
    blocks = length // block
    panels = min(GROUP, codes.shape[0] - panel)
    decoded, decoded_scales, sums = _room(scratch)
    buffer, sums_at = scratch.ctypes.data, sums.ctypes.data
    left_at = scaled.ctypes.data + row * length * 2
    for k in range(0, length, K_CHUNK):
        chunk = min(K_CHUNK, length - k)
        first, count = k // block, chunk // block
        for p in range(panels):
            stored = scale_bytes.ctypes.data + ((panel + p) * blocks + first) * 16
            fill_right_words(variant, stored, count, decoded_scales + p * count * 64)
            source = codes.ctypes.data + ((panel + p) * length + k) * 8
            scale_right(variant, source, decoded_scales + p * count * 64, count, decoded + p * chunk * 32)
        for h in range(0, chunk, PHASE):
            whole = h + PHASE <= chunk
            for quarter in range(0, panels, PHASE_PANELS):
                for i in range(0, rows, 16):
                    for p in range(quarter, min(quarter + PHASE_PANELS, panels), step):
                        a = left_at + (i * length + (k + h) * 16) * 2
                        b = decoded + p * chunk * 32 + h * 32
                        c = sums_at + (i * GROUP + p) * 64
                        if whole:
                            tile_phase(variant, a, b, chunk * 32, c, GROUP * 64, 1 if k + h == 0 else 0, buffer)
                        else:
                            for j in range(0, chunk - h, block):
                                fresh = 1 if k + h + j == 0 else 0
                                tile_block(variant, a + j * 32, b + j * 32, chunk * 32, c, GROUP * 64, fresh, buffer)
    right = min(out.shape[1], (panel + panels) * 16)
    part = out[row : row + rows, panel * 16 : right]
    _finish(sums, factors[row : row + rows], finish, part, out.shape[1] * 4)


@pjit
def _product_amx(team, variant, scaled, length, factors, codes, scale_bytes, out, finish, rows, scratch, ticket):  # type: ignore[no-untyped-def]
    for thread in share(team, scratch.shape[0]):
        configure(variant, scratch[thread].ctypes.data)
        while True:
            row, count, panel = _next_task(ticket, rows, out)
            if panel >= codes.shape[0]:
                break
            _one_task_amx(variant, scaled, length, factors, codes, scale_bytes, out, finish, row, count, panel, scratch[thread])  # noqa: E501
        release()
        fence()
