"""Scales of a block chosen by what they lose, and rounding one column of it at a time."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..formats import BlockFormat, FittedScales, PackedTensor, encode, fit_scales
from ..formats.codec import tensor_amax
from ..formats.packing import pack_codes

BY_BLOCK = ("block", "offsets", "fine")
"""The parts of `FittedScales` that have one number a block."""


def check_columns(fmt: BlockFormat) -> None:
    """Refuse formats that cannot be rounded column by column, into codes that the encoder finds again.

    Raises
    ------
    UserError
        Blocks run across row ends, or a value has several pairs of a coarse and a fine code.
    """
    if fmt.fine is not None and fmt.fine.kind in ("tied", "own"):
        raise UserError(
            f"{fmt.name} has several codes for one value (its fine steps reach into the next coarse code's), so "
            "values that gptq chose would be encoded as others; use nvfp4-nested, or round to nearest"
        )
    if fmt.flat and fmt.block is not None:
        raise UserError(
            f"blocks of {fmt.name} run across the rows of a weight, so its columns cannot be rounded one by one; "
            "use a format with blocks along rows"
        )


def fits_by_block(fmt: BlockFormat) -> bool:
    """Whether a block's scales need nothing of the other blocks but the largest magnitude of all."""
    return not (fmt.quantile_codebook or fmt.flat or blocks_together(fmt) > 1)


def blocks_together(fmt: BlockFormat) -> int:
    """How many blocks of a row share numbers, so that their scales are found together."""
    return fmt.rule.affine.group if fmt.rule.affine is not None else 1


def check_choices(fmt: BlockFormat) -> None:
    """Refuse formats whose scales cannot be chosen block by block.

    Raises
    ------
    UserError
    """
    if blocks_together(fmt) > 1:
        raise UserError(
            f"{blocks_together(fmt)} blocks of {fmt.name} share two numbers, so scales of single blocks cannot be "
            "chosen by what they lose; leave the clipping out, or use q4_1"
        )


def take_scales(scales: FittedScales, index: int, fmt: BlockFormat) -> FittedScales:
    """The scales of block number `index` of each row."""
    if fmt.flat:
        return scales
    take = np.s_[:, index : index + 1]
    parts = {name: None if getattr(scales, name) is None else getattr(scales, name)[take] for name in BY_BLOCK}
    inner = scales.inner and tuple(None if part is None else part[take] for part in scales.inner)
    return dataclasses.replace(scales, **parts, inner=inner, headers=None)


def join_scales(parts: list[FittedScales]) -> FittedScales:
    """Scales of blocks that follow each other, under one tensor-level number."""
    if len(parts) == 1:
        return parts[0]

    def joined(arrays: list[NDArray | None]) -> NDArray | None:
        return None if arrays[0] is None else np.concatenate(arrays, axis=1)

    found = {name: joined([getattr(part, name) for part in parts]) for name in BY_BLOCK}
    inner = parts[0].inner and tuple(joined([part.inner[i] for part in parts]) for i in range(2))
    return dataclasses.replace(parts[0], **found, inner=inner)


# ---- choosing


@dataclasses.dataclass(frozen=True)
class Fitter:
    """How scales of a weight's blocks are found: from each block's amax, or by what several choices lose.

    Attributes
    ----------
    fmt : BlockFormat
    level : float32, (out, 1), or None
        The second level's amax, of the whole weight: a block that is fitted by itself lives under it.
    factors : tuple of float
        By which a block's amax is multiplied, in turn; (1,) for the format's own choice.
    importance : float32 (in,), optional
        Weights of the squared errors.
    """

    fmt: BlockFormat
    level: NDArray | np.float32 | None
    factors: tuple[float, ...] = (1.0,)
    importance: NDArray | None = None

    @classmethod
    def of(
        cls, weight: NDArray, fmt: BlockFormat, factors: tuple[float, ...] = (1.0,), importance: NDArray | None = None
    ) -> Fitter:
        """For this weight (out, in)."""
        return cls(fmt, tensor_amax(weight, fmt), factors, importance)

    def __call__(self, columns: NDArray, which: slice = slice(None)) -> FittedScales:
        """Scales of some columns (out, n) of the weight; `which` of them says where they stand."""
        choices = [fit_scales(columns * np.float32(f), self.fmt, amax=self.level) for f in self.factors]
        if len(choices) == 1:
            return choices[0]
        errors = np.stack([self._errors(columns, which, scales) for scales in choices])
        return choose(choices, errors.argmin(axis=0))

    def _errors(self, columns: NDArray, which: slice, scales: FittedScales) -> NDArray:
        """What each block (each tile of rows) loses, of the shape of `scales.block`; float32."""
        error = encode(columns, self.fmt, scales, measure=False).dequantize() - columns
        error *= error
        if self.importance is not None:
            error *= self.importance[which]
        if self.fmt.flat:
            return error.sum(keepdims=True).reshape(-1)
        starts = np.arange(0, columns.shape[1], self.fmt.block_length(columns.shape[1]))
        lost = np.add.reduceat(error, starts, axis=1)
        if self.fmt.block_rows > 1:
            tiles = np.arange(0, len(lost), self.fmt.block_rows)
            lost = np.repeat(np.add.reduceat(lost, tiles, axis=0), self.fmt.block_rows, axis=0)[: len(lost)]
        return lost


def choose(choices: list[FittedScales], winner: NDArray) -> FittedScales:
    """Block by block the scales of the choice that won; `winner` has the shape of the block scales."""

    def picked(arrays: list[NDArray | None]) -> NDArray | None:
        return None if arrays[0] is None else np.take_along_axis(np.stack(arrays), winner[None], axis=0)[0]

    found = {name: picked([getattr(choice, name) for choice in choices]) for name in BY_BLOCK}
    inner = choices[0].inner and tuple(picked([choice.inner[i] for choice in choices]) for i in range(2))
    return dataclasses.replace(choices[0], **found, inner=inner)


# ---- rounding a column


def _row_format(fmt: BlockFormat, length: int) -> BlockFormat:
    """The same format with so many elements under a scale."""
    return fmt if fmt.block is None else dataclasses.replace(fmt, block=length)


@functools.lru_cache(maxsize=64)
def written_codes(fmt: BlockFormat) -> NDArray[np.uint8] | None:
    """The codes that the encoder writes and that decode to numbers; None where a value is more than a code and a scale.

    INT4 has a code for -8, for instance, and its encoder stops at -7.
    """
    if fmt.fine is not None or fmt.quantile_codebook or fmt.flat:
        return None
    codes = np.arange(1 << fmt.code_bits, dtype=np.uint8)
    row = _row_format(fmt, len(codes))
    scales = fit_scales(np.linspace(-1, 1, len(codes), dtype=np.float32)[None].repeat(fmt.block_rows, 0), row)
    values = _decoded(codes, fmt, scales, fmt.block_rows)
    known = np.isfinite(values[0])
    values[:, ~known] = 0
    return codes[known & (encode(values, row, scales, measure=False).dequantize() == values)[0]]


def _decoded(codes: NDArray[np.uint8], fmt: BlockFormat, scales: FittedScales, rows: int) -> NDArray[np.float32]:
    """What every code means in a block of each row: (rows, codes)."""
    packed = pack_codes(np.tile(codes, (rows, 1)), fmt.code_bits)
    fmt = _row_format(fmt, len(codes))
    return PackedTensor(
        packed,
        scales.block,
        (rows, len(codes)),
        fmt,
        tensor_scale=scales.tensor,
        stored_scale=scales.stored,
        offsets=scales.offsets,
    ).dequantize()


class Rounder:
    """Rounds columns of one block of each row to values that its codes can mean.

    Where a value is a code under a scale, all of them are laid out once, and a column takes the nearest; else the
    encoder and decoder run on the column. Either way `formats.encode` finds codes of the values again.

    Parameters
    ----------
    fmt : BlockFormat
    scales : FittedScales
        Of one block a row.
    rows : int
    """

    def __init__(self, fmt: BlockFormat, scales: FittedScales, rows: int) -> None:
        self._fmt, self._scales, self._lanes = _row_format(fmt, 1), scales, np.arange(rows)
        codes = written_codes(fmt)
        self._values = None
        if codes is not None:
            self._values = np.sort(np.ascontiguousarray(_decoded(codes, fmt, scales, rows).T), axis=0)
            self._edges = (self._values[1:] + self._values[:-1]) * np.float32(0.5)

    def __call__(self, column: NDArray[np.float32]) -> NDArray[np.float32]:
        """A column (out,), rounded."""
        if self._values is None:
            values = column[:, None]
            for _ in range(2):  # a residual may move the coarse code: once more, and the encoder finds both again
                values = encode(values, self._fmt, self._scales, measure=False).dequantize()
            return values[:, 0]
        place = (column > self._edges).view(np.uint8).sum(axis=0, dtype=np.uint8)
        return self._values[place, self._lanes]
