"""The inputs of the vectors: what each rule of a quantizer is seen by, made from a format's record.

They come from the counter-based generator and from arithmetic that is exact, so every machine makes the same ones.
The order matters: the first case that fails names the rule, so plain things come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..formats import BlockFormat
from ..formats.elements import E4M3, E8M0
from ..formats.ggml import BY_NAME
from ..formats.ggml_blocks import block_type_of
from ..formats.random_bits import hash_bits

SEED = 20261
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Case:
    """One input.

    Parameters
    ----------
    name : str
    rule : str
        What a difference in its codes shows.
    x : float32 array (rows, columns)
    decides : bool
        Whether `rule` also names differences in the scales (else that is the rule of the block scale).
    optional : bool
        Whether a quantizer may refuse the input.
    """

    name: str
    rule: str
    x: np.ndarray
    decides: bool = False
    optional: bool = False


@dataclass(frozen=True)
class _Sizes:
    """What an input of a format looks like: rows, columns, elements a scale."""

    rows: int
    columns: int
    block: int


def sizes(fmt: BlockFormat) -> tuple[int, int, int]:
    """Rows, columns, and elements a scale, of the vectors of a format.

    Two blocks or more a row, whole blocks of GGUF's (NVFP4: 64 elements, Q4_K: 256); a whole tile of rows, up to 16.
    """
    block, kind = fmt.block or 64, block_type_of(fmt)
    rows = 16 if fmt.offset == "zero" else max(4, min(fmt.block_rows, 16))  # whole words of packed zero points
    return rows, max(64, 2 * block, BY_NAME[kind].elements if kind else 0), block


def cases(fmt: BlockFormat) -> Iterator[Case]:
    """Every case of a format, in the order in which they are judged."""
    size = _Sizes(*sizes(fmt))
    yield Case("levels", "codes", levels(fmt, size))
    if fmt.tensor_level != "none":
        for amax in (1.0, 3.0001, 0.0217, 447.3, 1.7e-3):
            yield Case(f"tensor maximum {amax:g}", "tensor scale", nearly_normal(size, 3) / np.float32(8) * _f(amax))
    yield from (Case(f"block maxima {i}", "block scale", x) for i, x in enumerate(block_maxima(fmt, size)))
    yield Case("ties", "ties", ties(fmt, size, 0))
    yield Case("beside ties", "rounding", ties(fmt, size, 1))
    yield from (
        Case(f"normal {i}", "order of operations", nearly_normal(size, 8 + 4 * i, rows=16) * _f(sigma))
        for i, sigma in enumerate((1.0, 0.02, 37.0))
    )
    yield from _of_zeros(size)
    yield from _of_one_side(size)
    yield from _of_range(size)
    yield from _of_nonfinite(size)
    yield from _ragged(fmt, size)


def _f(value: float) -> np.float32:
    return np.float32(value)


def bits(shape: tuple[int, ...], stream: int) -> np.ndarray:
    """uint32 random integers of a stream."""
    return hash_bits(SEED, stream, np.arange(int(np.prod(shape)))).reshape(shape)


def nearly_normal(size: _Sizes, stream: int, rows: int = 0) -> np.ndarray:
    """Sums of twelve bytes and a fraction, centred, divided by 256: near N(0, 1), exact in integers."""
    shape = (rows or size.rows, size.columns)
    total = (bits(shape, stream) >> np.uint32(8)).astype(np.float64) * 2.0**-24 - 1530.5
    for word in range(1, 4):
        total += bits(shape, stream + word).view(np.uint8).reshape(*shape, 4).sum(axis=-1, dtype=np.int64)
    return (total / 256.0).astype(np.float32)


def element_levels(fmt: BlockFormat) -> np.ndarray:
    """The finite values of a format's element, ascending, each once; zero is the positive one."""
    table = fmt.element.table
    return np.unique(table[np.isfinite(table)] + _f(0))  # of two zeros each CPU's sort would keep another one


def _scales_of(fmt: BlockFormat, shape: tuple[int, ...], stream: int) -> np.ndarray:
    """Block scales that come out exact, as float32: E4M3's normal numbers, or powers of two."""
    random = bits(shape, stream)
    if fmt.rule.scale_element is E4M3:
        return E4M3.magnitudes[8:][random % np.uint32(len(E4M3.magnitudes) - 8)]
    return (2.0 ** ((random % np.uint32(12)).astype(np.float64) - 8)).astype(np.float32)


def _placed(fmt: BlockFormat, size: _Sizes, elements: np.ndarray, stream: int) -> np.ndarray:
    """Elements times scales: the first of each block is the largest level, so that the scale is the one meant."""
    values = element_levels(fmt)
    top = values[-1] if -values[0] < values[-1] else values[0]  # of integers the lowest
    elements[:, :: size.block] = top
    scales = _scales_of(fmt, (len(elements), size.columns // size.block), stream)
    if fmt.flat or fmt.block is None or fmt.block_rows > 1:
        scales[:] = 1
    x = elements * np.repeat(scales, size.block, axis=1)
    if fmt.tensor_level != "none":
        x[0, 0] = values[-1] * _f(fmt.rule.range / 6)  # so that the tensor scale is 1
    return x.astype(np.float32)


def levels(fmt: BlockFormat, size: _Sizes) -> np.ndarray:
    """Every level of the element under exact scales."""
    values = element_levels(fmt)
    picked = bits((size.rows, size.columns), 20) % np.uint32(len(values))
    picked.reshape(-1)[1 : 1 + len(values)] = np.arange(len(values))[: picked.size - 1]
    return _placed(fmt, size, values[picked], 21)


def ties(fmt: BlockFormat, size: _Sizes, beside: int) -> np.ndarray:
    """Midpoints between neighboring levels under exact scales; or the float32 numbers beside them."""
    values = element_levels(fmt).astype(np.float64)
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    if beside:
        middle = np.concatenate([np.nextafter(middle, _f(-np.inf)), np.nextafter(middle, _f(np.inf))])
    return _placed(fmt, size, middle[bits((size.rows, size.columns), 24) % np.uint32(len(middle))], 25)


def block_maxima(fmt: BlockFormat, size: _Sizes) -> list[np.ndarray]:
    """Blocks whose maxima lie where a scale rule changes its mind, the other elements below."""
    shape = (max(16, size.rows), size.columns // size.block)
    random = bits(shape, 30)
    if fmt.rule.scale_element is E4M3:
        middle = (E4M3.magnitudes[1:].astype(np.float64) + E4M3.magnitudes[:-1]) / 2 * 6
        middle = middle[middle > 2688 / 64].astype(np.float32)
        amax = middle[random % np.uint32(len(middle))].view(np.uint32)
    else:
        mantissa = np.array([0, 0x200000, 0x400000, 0x600000, 0x7FFFFF], np.uint32)[random % np.uint32(5)]
        amax = ((np.uint32(118) + (random >> np.uint32(8)) % np.uint32(16)) << np.uint32(23)) + mantissa
    found = []
    for step in (-1, 0, 1, 41):
        largest = (amax.astype(np.int64) + step).astype(np.uint32).view(np.float32)
        x = nearly_normal(size, 31, rows=shape[0]) / _f(8) * np.repeat(largest, size.block, axis=1)
        x[:, 3 :: size.block] = largest
        x[0, 3] = max(2688.0, x[0, 3]) if fmt.rule.scale_element is not E8M0 else x[0, 3]
        found.append(x.astype(np.float32))
    return found


def _of_zeros(size: _Sizes) -> Iterator[Case]:
    fill = np.array([1.0, -0.0, 0.0, 1e-6, -1e-6, 0.25, -0.25, 0.0, -0.0, 1e-3, -1e-3], np.float32)
    x = np.resize(fill, (size.rows, size.columns))
    yield Case("zeros of both signs beside numbers", "signed zero", x)
    x = nearly_normal(size, 40)
    x[:, : size.block] = 0
    x[1, : size.block] = -0.0
    yield Case("a block of zeros", "zero block", x, decides=True)
    yield Case("all zeros", "zero block", 0 * x, decides=True)
    yield Case("all negative zeros", "zero block", np.full_like(x, -0.0), decides=True)


def _of_one_side(size: _Sizes) -> Iterator[Case]:
    x = np.abs(nearly_normal(size, 44)) + _f(0.5)
    yield Case("positive numbers", "one-sided block", x, decides=True)
    yield Case("negative numbers", "one-sided block", -x, decides=True)
    yield Case("one number everywhere", "one-sided block", np.full_like(x, 5.0), decides=True)


def _of_range(size: _Sizes) -> Iterator[Case]:
    ramp = np.linspace(-1, 1, size.columns)
    rows = np.ones((size.rows, 1))
    for tiny in (1e-3, 1e-7, 1e-20, 1e-40):
        x = np.concatenate([ramp[: size.columns // 2], tiny * ramp[size.columns // 2 :]])
        yield Case(f"{tiny:g} beside 1", "small scale", (rows * x).astype(np.float32), decides=True)
    for tiny in (1e-30, 1e-36, 1.1e-38, 1e-40, 2.0**-147):
        yield Case(f"numbers up to {tiny:.3g}", "small scale", (rows * ramp * tiny).astype(np.float32), decides=True)
    for huge in (1e9, 3e11, 1e15, 3e37, LARGEST):
        yield Case(f"numbers up to {huge:.3g}", "large scale", (rows * ramp * huge).astype(np.float32), decides=True)


def _of_nonfinite(size: _Sizes) -> Iterator[Case]:
    nan, inf = np.nan, np.inf
    for name, rule, fill in (
        ("NaN in one block", "NaN", (nan, 0.5, -0.25)),
        ("negative infinity in one block", "Inf", (0.5, -inf, -0.25)),
        ("infinity in one block", "Inf", (0.5, inf, -0.25)),
        ("NaN and infinity in one block", "NaN", (nan, -inf, 0.5)),
    ):
        x = nearly_normal(size, 48)
        x[0, : len(fill)] = fill
        yield Case(name, rule, x, decides=True)


def _ragged(fmt: BlockFormat, size: _Sizes) -> Iterator[Case]:
    """A last block that is not full. Libraries that take whole blocks only may refuse it."""
    whole = fmt.block is None and not fmt.flat
    columns = size.columns + max(2, size.block // 2)
    x = nearly_normal(_Sizes(1 if fmt.flat else size.rows, columns, size.block), 56)
    x[:, -1] = 4
    yield Case("a ragged last block", "ragged end", x, decides=True, optional=not (fmt.flat or whole))
