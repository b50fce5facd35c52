"""Inputs for comparing our bytes with other libraries' bytes, and the digests that are kept of the latter.

Inputs come from the counter-based generator `vbw_np.formats.random_bits` by integer arithmetic alone, so every
machine makes the same ones; their digests are in the golden files all the same. Used by `tools/oracles/build.py`,
which runs the libraries, and by `tests/oracles/test_profiles.py`, which runs ours.
"""

from __future__ import annotations

import hashlib

import numpy as np

from vbw_np.formats.codebooks import BNB_FP4, NF4
from vbw_np.formats.elements import E2M1, E4M3
from vbw_np.formats.random_bits import hash_bits

COLUMNS = 1024
CHUNK_ROWS = 64
"""Rows of one digest."""
HEAD_ROWS = 22
"""Rows kept in full: three large cases give 66 x 1024 values."""


def bits(shape: tuple[int, ...], stream: int) -> np.ndarray:
    """uint32 random integers of stream number `stream`."""
    size = int(np.prod(shape))
    return hash_bits(20260, stream, np.arange(size)).reshape(shape)


def nearly_normal(shape: tuple[int, ...], stream: int) -> np.ndarray:
    """Sums of twelve bytes and a 24-bit fraction, centred and divided by 256: near N(0, 1), exact in integers."""
    total = (bits(shape, stream) >> np.uint32(8)).astype(np.float64) * 2.0**-24 - 1530.5
    for word in range(1, 4):
        total += (
            np.ascontiguousarray(bits(shape, stream + word))
            .view(np.uint8)
            .reshape(*shape, 4)
            .sum(axis=-1, dtype=np.int64)
        )
    return (total / 256.0).astype(np.float32)


def to_bfloat16_values(x: np.ndarray) -> np.ndarray:
    """Round float32 numbers to bfloat16 (nearest even), kept as float32. NaN stays NaN."""
    u = np.ascontiguousarray(x).view(np.uint32)
    rounded = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, rounded.view(np.float32))


def for_profile(x: np.ndarray, profile: str) -> np.ndarray:
    """The input as that profile's library gets it: a profile of bfloat16 arithmetic takes bfloat16 values."""
    return to_bfloat16_values(x) if profile.endswith("-bf16") else x


def choose(values: np.ndarray, shape: tuple[int, ...], stream: int) -> np.ndarray:
    """Values picked at random, with random signs."""
    random = bits(shape, stream)
    picked = values[(random >> np.uint32(1)) % np.uint32(len(values))]
    return np.where(random & np.uint32(1), -picked, picked).astype(np.float32)


def ties_and_neighbours(values: np.ndarray) -> np.ndarray:
    """Levels, their midpoints, and the float32 numbers on either side of each midpoint."""
    middle = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    inf = np.float32(np.inf)
    return np.concatenate([values, middle, middle, np.nextafter(middle, -inf), np.nextafter(middle, inf)])


def midpoints() -> np.ndarray:
    """E2M1 ties times scales that come out exact: rows 0 to 511 in NVFP4 blocks, the rest in MXFP4 blocks."""
    rows = 1024
    elements = choose(ties_and_neighbours(E2M1.magnitudes), (rows, COLUMNS), 40)
    elements[:, ::16] = np.where(elements[:, ::16] < 0, -6, 6)  # the block's amax: its scale is the one meant
    e4m3 = E4M3.magnitudes[8:]
    nv = e4m3[bits((rows // 2, COLUMNS // 16), 41) % np.uint32(len(e4m3))]
    mx = (2.0 ** (bits((rows // 2, COLUMNS // 32), 42) % np.uint32(16)).astype(np.float64)).astype(np.float32)
    scales = np.concatenate([np.repeat(nv, 16, axis=1), np.repeat(mx / 1024, 32, axis=1)])
    x = elements * scales
    x[0, 0] = 2688.0  # amax of the tensor: the tensor scale is exactly 1, then 2**-3
    return (x * np.float32(0.125)).astype(np.float32)


def codebook_ties() -> np.ndarray:
    """Ties of NF4 (rows 0 to 127) and of bitsandbytes' FP4 (the rest), times powers of two."""

    def part(table: np.ndarray, stream: int) -> np.ndarray:
        x = choose(ties_and_neighbours(np.unique(table)), (128, COLUMNS), stream)
        x[:, ::64] = 1.0
        scale = 2.0 ** (bits((128, COLUMNS // 64), stream + 1) % np.uint32(9)).astype(np.float64)
        return x * np.repeat(scale / 16, 64, axis=1).astype(np.float32)

    return np.concatenate([part(NF4.table, 50), part(BNB_FP4.table, 52)]).astype(np.float32)


def scale_boundaries() -> np.ndarray:
    """Block maxima beside every place where some E8M0 rule changes its mind; one block of 32 a row."""
    exponents = np.arange(1, 254, dtype=np.int64)[:, None]
    near = np.array([[-2], [-1], [0], [1], [2], [40]])
    mantissas = np.array([0, 0x200000, 0x400000, 0x600000, 0x7FFFFF])[None] + near
    u = (exponents << 23) + mantissas.reshape(1, -1)
    u = np.unique(u[(u > 0x800000) & (u < 0x7F800000)]).astype(np.uint32)
    amax = u.view(np.float32)
    x = nearly_normal((len(amax), 32), 60)
    x = (x / np.float32(6.0)) * amax[:, None]
    x[:, 5] = amax
    return x.astype(np.float32)


def gaussian() -> np.ndarray:
    """1.5 million float32 numbers, near N(0, 1)."""
    return nearly_normal((1536, COLUMNS), 1)


def gaussian_bfloat16() -> np.ndarray:
    """1.5 million numbers that bfloat16 holds, standard deviation 0.02: exact ties are frequent."""
    return to_bfloat16_values(nearly_normal((1536, COLUMNS), 20) * np.float32(0.02))


LARGE = {"gaussian": gaussian, "gaussian_bfloat16": gaussian_bfloat16, "midpoints": midpoints}
AMAX = (
    2.0**-149, 2.0**-127, 2.0**-126, 1.5 * 2.0**-126, 1.0, 1.4, 1.5, 1.75, 1.9, 2.9, 3.0, 3.0001, 3.5, 4.0, 5.9, 6.0,
    6.0001, 7.0, 7.99, 448.0, 2688.0, 3.4e38, np.inf, -np.inf, np.nan,
)  # fmt: skip


def edges() -> np.ndarray:
    """Small tensors of shape (1, 64), one a row of the result: each is quantized for itself."""
    rows = []

    def add(*fill: float) -> None:
        row = np.zeros(64, np.float32)
        row[: len(fill)] = np.array(fill, np.float64).astype(np.float32)
        rows.append(row)

    for amax in AMAX:  # alone, and beside a block of ordinary numbers
        add(amax)
        add(amax, *([0.0] * 31), 1.0, -0.7, 0.3, -0.0, 0.001)
    for fill in ((np.inf, np.nan), (np.nan, np.inf), (-np.inf, np.nan, 1.0), (np.nan, -2.0, np.inf), (np.inf, -np.inf)):
        add(*fill, 0.5, -0.25)  # both in one block
        add(*fill, *([0.0] * 34), 1.0, -0.7, 0.3)
    add(3.4028234663852886e38, 1.0)
    add(-3.4028234663852886e38, 1.7e38, 8.5e37, *([0.0] * 32), 2.0**-126 * 1.5, 2.0**-127)
    for amax in (1e9, 3e10, 3e11, 1e15):  # far above the largest product of a one-level scale
        add(*(amax * np.linspace(-1, 1, 64)))
    add()  # all zero
    add(*([-0.0] * 64))
    add(*([1.0, -0.0, 0.0, 1e-6, -1e-6, 0.25, -0.25] * 9))
    for tiny in (1e-3, 1e-5, 1e-7, 1e-20, 1e-40):  # tiny beside large
        add(*np.linspace(-1, 1, 32), *(tiny * np.linspace(-1, 1, 32)))
    add(*np.linspace(1e-40, 2e-39, 64))  # all subnormal
    add(*np.linspace(-1e-36, 1e-36, 64))
    add(*np.linspace(-3e38, 3e38, 64))
    add(*([5.0] * 64))
    add(*([0.0] * 16), *np.linspace(-2, 2, 48))  # a zero block inside an ordinary tensor
    return np.stack(rows)


def mixed_edges() -> np.ndarray:
    """Finite rows of 128, each a tensor for itself: zeros, ties, one number, subnormal, huge, one-sided."""
    ramp = np.linspace(-1, 1, COLUMNS // 8)
    rows = [
        0 * ramp, ramp, np.abs(ramp) + 0.5, -np.abs(ramp) - 0.5, ramp * 1e-40, ramp * 3e37, ramp * 1e-30,
        np.round(ramp * 15) / 2, np.round(ramp * 127) + 0.5, np.where(ramp == ramp[5], 1.0, 0.0),
        np.where(ramp > 0.9, 448.0, ramp), np.where(ramp < -0.9, -0.0, np.maximum(ramp, 0)), ramp * 464, ramp * 57344,
    ]  # fmt: skip
    return np.stack(rows).astype(np.float32)


def mixed_nonfinite() -> np.ndarray:
    """Pairs of rows of 128 with NaN (of both signs) and Inf: (cases, 2, 128), each pair a tensor for itself."""
    nan, inf = float("nan"), float("inf")
    ramp = np.linspace(-1, 1, COLUMNS // 8)
    fills = ((nan, 0.5, -0.25), (inf, 0.5), (-inf, 0.5), (nan, -inf, 0.5), (inf, nan), (-inf, inf, nan), (3e38, inf),
             (inf, 3e38), [nan] * 128, [inf] * 128, [-inf] * 128, (-nan, 0.5), (-nan, -inf))  # fmt: skip
    tensors = np.tile(ramp, (len(fills), 2, 1))
    for tensor, fill in zip(tensors, fills, strict=True):
        tensor[0, : len(fill)] = fill
    return tensors.astype(np.float32)


def for_blocks(x: np.ndarray, profile: str) -> np.ndarray:
    """The input as that profile's library gets it: Q4_K takes 256 elements a block, so rows of 128 come twice."""
    return np.tile(x, (1, 2)) if profile == "ggml-q4_k" and x.shape[-1] == 128 else x


def answer_digest(*parts: np.ndarray | None) -> str:
    """16 hexadecimal digits for codes, scales, tensor scale, offsets and decoded values of one vector."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


def minus_zero(codes: np.ndarray, decoded: np.ndarray) -> None:
    """bitsandbytes' FP4 code 8 as its CUDA kernel and its plain C code decode it, -0; with AVX-512 it gives +0.

    `codes` are bytes of two codes, the first one high, in the order of `decoded`, which is changed in place.
    """
    in_order = np.stack([codes >> 4, codes & 15], axis=-1).reshape(decoded.shape)
    decoded[(in_order == 8) & (decoded == 0)] = -0.0


def one_nan(values: np.ndarray) -> np.ndarray:
    """The same numbers, every NaN with the same bits."""
    return np.where(np.isnan(values), np.float32(np.nan), values)


def digests(array: np.ndarray) -> np.ndarray:
    """The first 8 bytes of SHA-256 of every `CHUNK_ROWS` rows: uint8 (chunks, 8)."""
    array = np.ascontiguousarray(array).view(np.uint8)
    hashes = [
        hashlib.sha256(array[i : i + CHUNK_ROWS].tobytes()).digest()[:8] for i in range(0, len(array), CHUNK_ROWS)
    ]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 8)
