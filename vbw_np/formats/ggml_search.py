"""ggml's encoders that search: Q4_K and IQ4_NL, operation by operation as `ggml-quants.c` has them, in float32.

Both try several scales a block and keep the one with the least weighted squared error. Sums run from the first element
to the last, no product and sum are fused: that is what the C code gives on x86-64, where ggml compiles these functions
for the plain instruction set. Blocks of 32 are columns here, so that each step of a sum is one operation of NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .affine import Fitted, affine_rule, to_float16
from .codebooks import IQ4_NL

GROUP = 8
"""Blocks of Q4_K under the same two float16 numbers."""
CHUNK = 1 << 12
"""Blocks that are searched at a time."""
STEPS_Q4_K = 21
TRIES_IQ4_NL = 7
LEAST_AMAX = np.float32(1e-15)
"""`GROUP_MAX_EPS`: below it a block of IQ4_NL is zero."""
_LEVELS = IQ4_NL.table
_CODES = np.searchsorted(_LEVELS[1:] + _LEVELS[:-1], np.arange(-256, 256), side="right").astype(np.uint8)
"""The code for every `floor(2 x)` from -256 on: middles between levels are halves of whole numbers."""


def nearest_int(x: np.ndarray) -> np.ndarray:
    """ggml's rounding to int32, halves to even: the low bits of `x + 1.5 * 2**23`, whatever x is."""
    bits = (x + np.float32(12582912)).view(np.int32)
    return (bits & np.int32(0x007FFFFF)) - np.int32(0x00400000)


def in_order(terms: np.ndarray) -> np.ndarray:
    """The sum over the first axis, from its first row to its last, float32."""
    total = np.zeros(terms.shape[1:], np.float32)
    for row in terms:
        total += row
    return total


def to_codes(steps: np.ndarray) -> np.ndarray:
    """Rounded and kept in 0 to 15, as float32."""
    return np.clip(nearest_int(steps), 0, 15).astype(np.float32)


# ---- Q4_K


@dataclass
class _Found:
    """The best fit so far of each column: codes, scale, minimum and weighted squared error."""

    codes: np.ndarray
    scale: np.ndarray
    minimum: np.ndarray
    error: np.ndarray

    def take(self, better: np.ndarray, codes: np.ndarray, *numbers: np.ndarray) -> None:
        """Keep what is better."""
        self.codes[:, better] = codes[:, better]
        self.scale, self.minimum, self.error = (
            np.where(better, new, old)
            for new, old in zip(numbers, (self.scale, self.minimum, self.error), strict=True)
        )


def _error(x: np.ndarray, weights: np.ndarray, codes: np.ndarray, scale: np.ndarray, low: np.ndarray) -> np.ndarray:
    difference = scale * codes + low - x
    return in_order(weights * (difference * difference))


def _search_scale_and_minimum(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`make_qkx2_quants` of columns (32, n): codes (32, n), scales and minimums (taken away) (n,)."""
    weights = np.sqrt(in_order(x * x) / np.float32(len(x))) + np.abs(x)
    low, high = x[0].copy(), x[0].copy()
    for row in x[1:]:  # comparisons as in C: NaN never is the lower or the higher
        low, high = np.where(row < low, row, low), np.where(row > high, row, high)
    low = np.where(low > 0, np.float32(0), low)
    flat, sum_w, sum_x = high == low, in_order(weights), in_order(weights * x)
    inverse = np.float32(15) / (high - low)
    scale, codes = np.float32(1) / inverse, to_codes(inverse * (x - low))
    found = _Found(codes, scale, low.copy(), _error(x, weights, codes, scale, low))
    for step in range(STEPS_Q4_K):
        top = np.float32(-1) + np.float32(0.1) * np.float32(step) + np.float32(15)
        codes = to_codes((top / (high - found.minimum)) * (x - found.minimum))
        weighted = weights * codes
        sum_l, sum_l2, sum_xl = in_order(weighted), in_order(weighted * codes), in_order(weighted * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        positive = minimum > 0
        scale = np.where(positive, sum_xl / sum_l2, scale)
        minimum = np.where(positive, np.float32(0), minimum)
        error = _error(x, weights, codes, scale, minimum)
        found.take((determinant > 0) & (error < found.error), codes, scale, minimum, error)
    found.codes[:, flat] = 0
    return found.codes, np.where(flat, np.float32(0), found.scale), -np.where(flat, low, found.minimum)


def _searched(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The search of blocks (n, 32), in chunks: codes (n, 32), scales (n,), minimums (n,)."""
    codes, scales, minimums = np.empty_like(blocks), *np.empty((2, len(blocks)), np.float32)
    for start in range(0, len(blocks), CHUNK):
        part = slice(start, start + CHUNK)
        with np.errstate(all="ignore"):
            found, scales[part], minimums[part] = _search_scale_and_minimum(np.ascontiguousarray(blocks[part].T))
        codes[part] = found.T
    return codes, scales, minimums


def _six_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups of eight numbers (n, 8) as float16 (kept as float32) times 0 to 63: (n, 1) and uint8 (n, 8)."""
    largest = np.zeros(len(values), np.float32)
    for column in values.T:
        largest = np.where(column > largest, column, largest)
    with np.errstate(all="ignore"):
        inverse = np.where(largest > 0, np.float32(63) / largest, np.float32(0))[:, None]
        steps = nearest_int(inverse * values).astype(np.uint8)  # wraps, as the cast in C does
        return to_float16(largest / np.float32(63))[:, None], np.minimum(steps, np.uint8(63))


def six_bit_bytes(scales: np.ndarray, minimums: np.ndarray) -> np.ndarray:
    """The 12 bytes of eight 6-bit scales and minimums; the inverse of `ggml.six_bit_scales`."""
    low, four, upper = scales[:, :4], np.uint8(4), np.uint8(48)
    high = scales[:, 4:] & np.uint8(15) | (minimums[:, 4:] & np.uint8(15)) << four
    first = low | (scales[:, 4:] & upper) << np.uint8(2)
    second = minimums[:, :4] | (minimums[:, 4:] & upper) << np.uint8(2)
    return np.concatenate([first, second, high], axis=1)


def fit_q4_k(blocks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Scales, minimums (to be added) and the 16 bytes that hold them, of blocks (..., count, 32).

    A last group of fewer than eight blocks is filled up with zeros.
    """
    *rows, count, length = blocks.shape
    groups = -(-count // GROUP)
    whole = np.zeros((*rows, groups * GROUP, length), np.float32)
    whole[..., :count, :] = blocks
    _, scales, minimums = _searched(whole.reshape(-1, length))
    d, s = _six_bits(scales.reshape(-1, GROUP))
    dmin, m = _six_bits(minimums.reshape(-1, GROUP))
    halves = np.concatenate([d, dmin], axis=1).astype("<f2").view(np.uint8)
    headers = np.concatenate([halves, six_bit_bytes(s, m)], axis=1).reshape(*rows, groups, 16)
    with np.errstate(invalid="ignore"):
        scales, offsets = d * s.astype(np.float32), -(dmin * m.astype(np.float32))
    scales, offsets = (a.reshape(*rows, -1)[..., :count].copy() for a in (scales, offsets))
    return scales, offsets, scales, offsets, headers


def encode_q4_k(blocks: np.ndarray, scales: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`(x + minimum) / scale`, rounded; a block whose scale is 0 keeps the codes of the search."""
    with np.errstate(all="ignore"):
        codes = to_codes((blocks - offsets[..., None]) / scales[..., None])
    zero = scales == 0
    if zero.any():
        codes[zero] = _searched(blocks[zero])[0]
    return codes.astype(np.uint8)


# ---- IQ4_NL


def nearest_level(x: np.ndarray) -> np.ndarray:
    """The code of the nearest of the 16 levels, the upper one at a tie; NaN gives the last."""
    halves = np.maximum(np.fmin(np.floor(x + x), np.float32(255)), np.float32(-256))
    return _CODES[halves.astype(np.int32) + 256]


def _sums(x: np.ndarray, weights: np.ndarray, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weighted sums of level times x and of the levels' squares, at x times `inverse`."""
    levels = _LEVELS[nearest_level(inverse * x)]
    weighted = weights * levels
    return in_order(weighted * x), in_order(weighted * levels)


def _search_scale(x: np.ndarray) -> np.ndarray:
    """The scale that `quantize_row_iq4_nl_impl` finds for columns (32, n) with 7 tries: float32 (n,)."""
    magnitude = np.where(np.isnan(x), np.float32(-1), np.abs(x))
    place = magnitude.argmax(axis=0)[None]
    amax, largest = (np.take_along_axis(a, place, axis=0)[0] for a in (magnitude, x))
    weights = x * x
    of_x, of_levels = _sums(x, weights, np.float32(1) / (-largest / _LEVELS[0]))
    scale = np.where(of_levels > 0, of_x / of_levels, np.float32(0))
    best = scale * of_x
    for step in range(-TRIES_IQ4_NL, TRIES_IQ4_NL + 1):
        of_x, of_levels = _sums(x, weights, (np.float32(step) + _LEVELS[0]) / largest)
        better = (of_levels > 0) & (of_x * of_x > best * of_levels)
        scale = np.where(better, of_x / of_levels, scale)
        best = np.where(better, scale * of_x, best)
    return np.where(amax < LEAST_AMAX, np.float32(0), scale)


def fit_iq4_nl(blocks: np.ndarray) -> Fitted:
    """The scale of each block, stored as float16."""
    flat = blocks.reshape(-1, blocks.shape[-1])
    scales = np.empty(len(flat), np.float32)
    for start in range(0, len(flat), CHUNK):
        part = slice(start, start + CHUNK)
        with np.errstate(all="ignore"):
            scales[part] = _search_scale(np.ascontiguousarray(flat[part].T))
    scales = scales.reshape(blocks.shape[:-1])
    return to_float16(scales), None, scales, None


def encode_iq4_nl(blocks: np.ndarray, scales: np.ndarray, offsets: None) -> np.ndarray:
    """The nearest level to `x * (1 / scale)`; to 0 where the scale is 0."""
    with np.errstate(all="ignore"):
        inverse = np.where(scales == 0, np.float32(0), np.float32(1) / scales)
        return nearest_level(blocks * inverse[..., None])


Q4_K = affine_rule("ggml-q4_k", "a search of 21 steps; 6 bits under two float16 per 256", fit_q4_k, encode_q4_k, GROUP)
IQ4_NL_RULE = affine_rule("ggml-iq4_nl", "a search of 16 steps; float16", fit_iq4_nl, encode_iq4_nl)
