"""PackedTensor: the bytes of a quantized array, their meaning, and the decoder.

The decoder reads the format record; there is one for every format::

    value = (element * s) * t

with the element's value, its decoded block scale `s` and the tensor-level multiplier `t` (1 where there is none),
each product rounded once to float32; a producer's record that multiplies in another order says so (`decode_order`).
Two tiers add to the element before the scales are applied (nested, tied) or to the coarse value after it (own, row).
"""

from __future__ import annotations

import html
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from .blocks import BlockFormat, FineTier, get_format
from .elements import E2M1, E4M3, E8M0, INT4, first_index
from .errors import DtypeError, FormatError, ScaleError, ShapeError
from .ggml import half_e8m0, half_ue4m3, scales_and_minimums
from .measure import sqnr_db
from .packing import unpack_bits, unpack_codes, unpack_nibbles

PLANES = 4
"""Bits of a fine tier."""

FLAG = np.uint8(128)
"""The bit of a block scale's code that says that the block is of the format's second grid."""


def layout_shape(shape: tuple[int, ...], fmt: BlockFormat) -> tuple[int, ...]:
    """The shape that blocks and bytes follow: the logical shape, or one long row for a flat format."""
    return (int(np.prod(shape)),) if fmt.flat else tuple(shape)


def scale_shape(shape: tuple[int, ...], fmt: BlockFormat) -> tuple[int, ...]:
    """The shape of the scale array: (..., ceil(K / block))."""
    rows = layout_shape(shape, fmt)
    return (*rows[:-1], fmt.blocks(rows[-1]))


def byte_shape(shape: tuple[int, ...], fmt: BlockFormat, bits: int = 4) -> tuple[int, ...]:
    """The shape of an array that holds `bits` bits an element, padded to whole bytes along the last axis."""
    rows = layout_shape(shape, fmt)
    return (*rows[:-1], -(-rows[-1] * bits // 8))


def check_shape(shape: tuple[int, ...], fmt: BlockFormat) -> None:
    """Refuse shapes that packing cannot represent."""
    if len(shape) == 0:
        raise ShapeError(f"{fmt.name} packs along the last axis, so a scalar has no place: use x.reshape(1)")
    if 0 in shape:
        raise ShapeError(f"an array of shape {tuple(shape)} has no elements, hence no amax and no scale")
    if fmt.block_rows > 1 and len(shape) < 2:
        raise ShapeError(
            f"{fmt.name} shares a scale over {fmt.block_rows} rows, so it needs a matrix (or more axes); "
            f"got shape {tuple(shape)}"
        )


def as_shape(shape: Any) -> tuple[int, ...]:
    """A shape as whole numbers.

    Raises
    ------
    ShapeError
        It is not a tuple (or list) of them.
    """
    try:
        return tuple(operator.index(n) for n in shape)
    except TypeError as error:
        raise ShapeError(f"a shape is a tuple of whole numbers, not {shape!r}") from error


def checked_level(
    level: Any, name: str, shape: tuple[int, ...], fmt: BlockFormat, allow_nan: bool = False
) -> np.ndarray | np.float32:
    """A tensor-level number of a format, checked: np.float32 for a tensor, float32 (..., 1) for rows.

    Raises
    ------
    DtypeError, ShapeError, ScaleError
        It is no number, not one a tensor (a row), or, without `allow_nan`, not finite or negative.
    """
    expected = (*shape[:-1], 1) if fmt.tensor_level == "row" else ()
    values = np.asarray(level)
    if values.dtype.kind not in "fiu":
        raise DtypeError(f"{fmt.name}: {name} has dtype {values.dtype.name}; it is float32")
    if values.size != math.prod(expected):
        raise ShapeError(f"{fmt.name}: {name} has shape {values.shape}; an array of shape {shape} needs {expected}")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False).reshape(expected)
    bad = ~np.isfinite(values) | (values < 0)
    if not allow_nan and bad.any():
        found = float(values[first_index(bad)])
        raise ScaleError(f"{fmt.name}: {name} is {found}; a tensor-level number is finite and not negative")
    return values if expected else np.float32(values)


@lru_cache(maxsize=64)
def nested_edges(top: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower edge and width of the rounding interval of each E2M1 magnitude code, in units of the block scale.

    The edges are the round-to-nearest midpoints 0.25, 0.75, ..., 5. Code 0 owns both sides of zero, -0.25 to
    0.25; the last interval ends at `top`. float32 (8,) each, exact.
    """
    midpoints = (E2M1.magnitudes[:-1] + E2M1.magnitudes[1:]) * np.float32(0.5)
    low = np.concatenate([[-midpoints[0]], midpoints]).astype(np.float32)
    high = np.append(midpoints, top).astype(np.float32)
    return low, high - low


@lru_cache(maxsize=64)
def nested_table(top: float, planes: int) -> np.ndarray:
    """Decoded value of (E2M1 code, top `planes` bits of the cell): the centre of that cell; float32, exact.

    Shape (16, 2**planes): `low + (index + 0.5) * width / 2**planes`, with the code's sign. Code 0's interval is
    signed already, and code 8 is never written.
    """
    low, width = nested_edges(top)
    index = np.arange(1 << planes, dtype=np.float32)
    positive = low[:, None] + (index + np.float32(0.5)) * (width / np.float32(1 << planes))[:, None]
    negative = -positive
    negative[0] = positive[0]
    table = np.concatenate([positive, negative]).astype(np.float32)
    table.setflags(write=False)
    return table


@dataclass(frozen=True, eq=False, repr=False)
class PackedTensor:
    """A quantized array.

    Parameters
    ----------
    codes : uint8 array (..., ceil(K * bits / 8))
        Two 4-bit codes a byte, low nibble first along the last axis; 8-bit codes as they are; 6-bit codes without
        gaps, lowest bits first. (Flat formats: one row of all elements.)
    scales : uint8 array of E4M3 or E8M0 codes, or float32 array; (..., ceil(K / block))
    shape : tuple of int
        The logical shape (..., K).
    format : BlockFormat or str
    tensor_scale : np.float32, float32 array (..., 1), or None
        Multiplier of the second level: decoded value = element * scale * tensor_scale.
    stored_scale : as tensor_scale, or None
        The number the producer writes into its container: amax (TransformerEngine), the multiplier (torchao,
        ModelOpt) or its reciprocal (compressed-tensors).
    fine : uint8 array (..., ceil(K / 2)) or None
        4-bit codes of the fine tier, packed like `codes`. With fewer `planes` the low bits are zero.
    fine_scales, fine_tensor_scale :
        Scales of a fine tier of kind `own`. (`seed-v6` keeps its residual's row scales in `scales`; its coarse tier
        has none.)
    planes : int
        Bit planes of the fine tier that are present, 0 to 4.
    signs : uint8 array (..., ceil(K / 8)) or None
        Sign bits of `seed-v6`, first element in bit 0, set for negative.
    codebook : float32 array (16,) or None
        Levels of `seed-v6`.
    counts : dict
        What the quantizer counted (blocks that took map-to-4, blocks made orthogonal, ...).
    sqnr_db : float or None
        Signal to quantization noise against the source, where it was measured.
    allow_nan : bool
        Whether NaN scales are accepted (arrays quantized under a non-finite policy other than `raise`).
    offsets : float32 array of the scales' shape, or None
        Zero points or minimums, where the format has them (`BlockFormat.offset`).
    headers : uint8 array (..., ceil(blocks / 8), 16) or None
        Q4_K only: the bytes that its blocks keep of `scales` and `offsets` (two float16, eight pairs of 6 bits), from
        which those are products. Without them a tensor decodes, and is not written as Q4_K again.
    """

    codes: np.ndarray
    scales: np.ndarray
    shape: tuple[int, ...]
    format: BlockFormat
    tensor_scale: np.ndarray | np.float32 | None = None
    stored_scale: np.ndarray | np.float32 | None = None
    fine: np.ndarray | None = None
    fine_scales: np.ndarray | None = None
    fine_tensor_scale: np.float32 | None = None
    planes: int = 0
    signs: np.ndarray | None = None
    codebook: np.ndarray | None = None
    counts: dict[str, int] | None = None
    sqnr_db: float | None = None
    allow_nan: bool = False
    offsets: np.ndarray | None = None
    headers: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", get_format(self.format))
        object.__setattr__(self, "shape", as_shape(self.shape))
        check_shape(self.shape, self.format)
        self._check_array("codes", self.codes, byte_shape(self.shape, self.format, self.format.code_bits), np.uint8)
        scale_dtype = np.uint8 if self.format.rule.scale_element else np.float32
        self._check_array("scales", self.scales, scale_shape(self.shape, self.format), scale_dtype)
        self._check_scale_values()
        self._check_tensor_level()
        if (self.offsets is None) != (self.format.offset == "none"):
            raise ScaleError(f"{self.format.name} and the tensor disagree about zero points or minimums (offsets=)")
        if self.offsets is not None:
            self._check_array("offsets", self.offsets, scale_shape(self.shape, self.format), np.float32)
        if self.headers is not None:
            self._check_headers()
        if self.fine is not None:
            self._check_fine(self.format.fine)
        if self.format.quantile_codebook:
            self._check_array("signs", self.signs, byte_shape(self.shape, self.format, bits=1), np.uint8)
            self._check_array("codebook", self.codebook, (16,), np.float32)

    def _check_tensor_level(self) -> None:
        """The tensor-level numbers: one, or one a row, as the format says; each a number that is not negative."""
        fmt = self.format
        if fmt.tensor_level == "none":
            if self.tensor_scale is not None or self.stored_scale is not None:
                raise ScaleError(f"{fmt.name} has no tensor-level scale, and the tensor has one: take a format with it")
            return
        if self.tensor_scale is None:
            raise ScaleError(f"{fmt.name} has a tensor-level scale: pass tensor_scale= (a float32 multiplier)")
        for name in ("tensor_scale", "stored_scale"):
            if getattr(self, name) is not None:
                level = checked_level(getattr(self, name), name, self.shape, fmt, self.allow_nan)
                object.__setattr__(self, name, level)

    def _check_fine(self, fine: FineTier | None) -> None:
        """The fine tier's codes, planes and scales."""
        self._check_array("fine", self.fine, byte_shape(self.shape, self.format), np.uint8)
        if not 1 <= self.planes <= PLANES:
            raise FormatError(f"planes is {self.planes}; a fine tier has 1 to {PLANES} bit planes present")
        if fine is None:
            raise FormatError(f"{self.format.name} has no fine tier, and the tensor has one")
        if fine.kind == "own":
            dtype = np.float32 if fine.scale == "float32" else np.uint8
            self._check_array("fine_scales", self.fine_scales, scale_shape(self.shape, self.format), dtype)

    def _check_array(self, name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            found = getattr(array, "dtype", type(array).__name__)
            raise DtypeError(f"{name} of {self.format.name} must be a {np.dtype(dtype).name} array, got {found}")
        if array.shape != shape:
            raise ShapeError(
                f"{name} have shape {array.shape}; a {self.format.name} tensor of shape {self.shape} needs {shape}"
            )

    def _check_headers(self) -> None:
        """Q4_K's 16 bytes per 256 elements must be those of the scales and minimums."""
        *rows, blocks = scale_shape(self.shape, self.format)
        self._check_array("headers", self.headers, (*rows, -(-blocks // 8), 16), np.uint8)
        found = scales_and_minimums(self.headers.reshape(-1, 16))
        scales, minimums = (part.reshape(*rows, -1)[..., :blocks] for part in found)
        if not (
            np.array_equal(scales, self.scales, equal_nan=True)
            and np.array_equal(-minimums, self.offsets, equal_nan=True)
        ):
            raise ScaleError(f"headers of {self.format.name} are not those of its scales and offsets; pass none")

    def _check_scale_values(self) -> None:
        if self.allow_nan:
            return
        element = self.format.rule.scale_element
        values = self.scales if element is None else element.table[self.scales]
        if self.format.decode_order == "halves":  # ggml makes a number of every byte
            return
        bad = np.isnan(values) if self.format.rule.affine is not None else np.isnan(values) | np.signbit(values)
        if bad.any():
            where = first_index(bad)
            raise ScaleError(
                f"scales{list(where)} is {float(values[where])!r} (stored {self.scales[where]}); a block scale must "
                "be a number that is not negative. If the NaN is meant, pass allow_nan=True"
            )

    # ---- sizes

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is needed to decode: codes, scales, tensor scale, planes, signs, codebook.

        Of a fine tier only the planes that are present count (as bit planes, whole bytes a row).
        """
        if self.format.stored_bits is not None:
            return -(-int(self.size * self.format.stored_bits) // 8)
        total = self.codes.nbytes
        if self.fine is not None or not self.format.quantile_codebook:  # seed-v6: only its fine tier has scales
            total += self.scales.nbytes
        if self.tensor_scale is not None:
            total += 4 * int(np.size(self.tensor_scale))
        for array in (self.signs, self.codebook, self.fine_scales):
            total += array.nbytes if array is not None else 0
        if self.fine is not None:
            total += self.fine.nbytes if self.planes == PLANES else self.planes * self._plane_bytes()
        return total + (4 if self.fine_tensor_scale is not None else 0)

    def _plane_bytes(self) -> int:
        return int(np.prod(byte_shape(self.shape, self.format, bits=1)))

    @property
    def bits_per_value(self) -> float:
        """`8 * nbytes / size`, everything counted."""
        return 8.0 * self.nbytes / self.size

    # ---- decoding

    def unpacked_codes(self) -> np.ndarray:
        """One code a byte: uint8 of the logical shape."""
        rows = layout_shape(self.shape, self.format)
        return unpack_codes(self.codes, rows[-1], self.format.code_bits).reshape(self.shape)

    def unpacked_fine(self) -> np.ndarray:
        """One fine code a byte: uint8 of the logical shape (16 cells, or a two's complement nibble)."""
        if self.fine is None:
            raise FormatError(f"this {self.format.name} tensor has no fine tier")
        rows = layout_shape(self.shape, self.format)
        return unpack_nibbles(self.fine, rows[-1]).reshape(self.shape)

    def decoded_scales(self) -> np.ndarray:
        """Block scales as float32, (..., ceil(K / block))."""
        element = self.format.rule.scale_element
        return self.scales if element is None else element.table[self.scales]

    def dequantize(self, planes: int | None = None) -> np.ndarray:
        """The decoded values, float32, of the logical shape.

        Parameters
        ----------
        planes : int, optional
            Bit planes of a nested fine tier to use, 0 (coarse only) up to those present. Other kinds of fine tier
            know 0 and 4. Default: all that are present.
        """
        planes = self.planes if planes is None else planes
        if not 0 <= planes <= self.planes:
            raise FormatError(f"{planes} bit planes asked for; this tensor has {self.planes}")
        fine = self.format.fine
        if fine is not None and fine.kind != "nested" and planes not in (0, PLANES):
            raise FormatError(f"the {fine.kind} fine tier of {self.format.name} is not progressive: planes is 0 or 4")
        values = self._element_values(planes)
        values = self._apply_scales(values)
        if planes and fine is not None and fine.kind in ("own", "row"):
            values = values + self._residual(fine)
        return values

    def _element_values(self, planes: int) -> np.ndarray:
        """Elements in units of their scale, fine tiers that live in those units included."""
        codes, fine = self.unpacked_codes(), self.format.fine
        if self.format.quantile_codebook:
            sign = unpack_bits(self.signs, layout_shape(self.shape, self.format)[-1])
            magnitude = self.codebook[codes]
            return np.where(sign, -magnitude, magnitude)
        if planes and fine is not None and fine.kind == "nested":
            return nested_table(fine.top, planes)[codes, self.unpacked_fine() >> np.uint8(PLANES - planes)]
        values = self.format.element.table[codes]
        if self.format.second is not None:
            second = in_second_grid(self.scales, self.shape, self.format)
            values = np.where(second, self.format.second.table[codes], values)
        if self.format.positive_zero:
            values = values + np.float32(0)
        if planes and fine is not None and fine.kind == "tied":
            values = values + INT4.table[self.unpacked_fine()] * (np.float32(1) / np.float32(fine.divisor))
        return values

    def _apply_scales(self, values: np.ndarray) -> np.ndarray:
        if self.format.quantile_codebook:
            return values
        blocks = to_blocks(values, self.format)
        scales = self.decoded_scales()[..., None]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.format.offset == "zero":
                blocks = (blocks - self.offsets[..., None]) * scales
            elif self.format.offset == "minimum":
                blocks = blocks * scales + self.offsets[..., None]
            elif self.format.decode_order == "halves":
                half = half_e8m0 if self.format.rule.scale_element is E8M0 else half_ue4m3
                blocks = (blocks * np.float32(2)) * half(self.scales)[..., None]
            elif self.tensor_scale is None:
                blocks = blocks * scales
            else:
                blocks = self._apply_both(blocks, scales)
        return from_blocks(blocks, self.shape, self.format)

    def _apply_both(self, blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Block scale and tensor-level number, in the format's order of multiplication."""
        order, level = self.format.decode_order, _block_level(self.tensor_scale)
        if order == "scale-first":
            return blocks * (scales * level)
        if self.stored_scale is not None:
            stored = _block_level(self.stored_scale)
            if order == "divide":
                return blocks * (scales / stored)
            if order == "amax-first":
                return blocks * ((scales * stored) * (np.float32(1) / np.float32(self.format.rule.range)))
        return (blocks * scales) * level

    def _residual(self, fine: FineTier) -> np.ndarray:
        blocks = to_blocks(INT4.table[self.unpacked_fine()], self.format)
        scales = self.scales if fine.kind == "row" else self.fine_scales
        scales = scales if fine.scale == "float32" else E4M3.table[scales]
        blocks = blocks * scales[..., None]
        if self.fine_tensor_scale is not None:
            blocks = blocks * self.fine_tensor_scale
        return from_blocks(blocks, self.shape, self.format)

    # ---- tiers

    def coarse(self) -> PackedTensor:
        """The same tensor without its fine tier (what a link carries first)."""
        if self.fine is None:
            return self
        return replace(
            self, fine=None, fine_scales=None, fine_tensor_scale=None, planes=0, sqnr_db=None, counts=self.counts
        )

    def with_planes(self, planes: int) -> PackedTensor:
        """The same tensor with only the top `planes` bit planes of its nested fine tier, 0 to those present."""
        if planes == 0:
            return self.coarse()
        if self.format.fine is None or self.format.fine.kind != "nested":
            raise FormatError(f"{self.format.name} has no bit-plane progressive (nested) fine tier")
        if not 1 <= planes <= self.planes:
            raise FormatError(f"{planes} bit planes asked for; this tensor has {self.planes}")
        mask = (0xF0 >> planes) & 0xF
        return replace(self, fine=self.fine & np.uint8(mask | mask << 4), planes=planes, sqnr_db=None)

    # ---- showing itself

    def measure(self, x: np.ndarray) -> PackedTensor:
        """The same tensor, knowing its SQNR in dB against its source `x`."""
        return replace(self, sqnr_db=sqnr_db(x, self.dequantize()))

    def explain(self, *index: int, x: np.ndarray | None = None) -> Any:
        """How one element is stored and decoded (`Explanation`); with its source array `x`, also how it was encoded."""
        return _EXPLAINERS[-1](self, index, x)

    def _facts(self) -> list[tuple[str, str]]:
        shape = " x ".join(map(str, self.shape))
        full = 4 * self.size
        facts = [
            ("format", self.format.name),
            ("shape", shape),
            ("bytes", f"{self.nbytes:,} of {full:,} in float32 ({full / self.nbytes:.2f} times less)"),
            ("bits a value", f"{self.bits_per_value:.4g}"),
        ]
        if self.planes:
            facts.append(("fine tier", f"{self.format.fine.kind}, {self.planes} bit planes"))
        if self.tensor_scale is not None and np.size(self.tensor_scale) == 1:
            facts.append(("tensor scale", f"{float(np.asarray(self.tensor_scale).reshape(())):.6g}"))
        if self.sqnr_db is not None:
            facts.append(("SQNR", f"{self.sqnr_db:.2f} dB"))
        return facts

    def __repr__(self) -> str:
        return "PackedTensor(" + ", ".join(f"{name}: {value}" for name, value in self._facts()) + ")"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>"
            f"{html.escape(value)}</td></tr>"
            for name, value in self._facts()
        )
        first = " ".join(f"{b:02x}" for b in self.codes.reshape(-1)[:16])
        more = " ..." if self.codes.size > 16 else ""
        return (
            f"<table><caption>PackedTensor: {html.escape(self.format.summary)}</caption>{rows}"
            f"<tr><th style='text-align:left'>first bytes</th><td><code>{first}{more}</code></td></tr></table>"
        )


_EXPLAINERS: list[Callable] = []


def explainer(function: Callable) -> Callable:
    """Declare ``(packed, index, x) -> Explanation`` as what `PackedTensor.explain` calls (see `explain`)."""
    _EXPLAINERS.append(function)
    return function


def _block_level(scale: Any) -> np.ndarray:
    """A tensor-level scale shaped to multiply blocks (..., blocks, block): a scalar, or (..., 1, 1)."""
    scale = np.asarray(scale, np.float32)
    return scale if scale.ndim == 0 else scale[..., None]


def to_blocks(x: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    """View an array as blocks along its last axis, the ragged last one padded with zeros.

    (..., K) -> (..., ceil(K / block), block); a flat format first becomes one row.
    """
    rows = x.reshape(layout_shape(x.shape, fmt))
    length = rows.shape[-1]
    block, count = fmt.block_length(length), fmt.blocks(length)
    if count * block != length:
        padded = np.zeros((*rows.shape[:-1], count * block), x.dtype)
        padded[..., :length] = rows
        rows = padded
    return rows.reshape(*rows.shape[:-1], count, block)


def in_second_grid(scales: np.ndarray, shape: tuple[int, ...], fmt: BlockFormat) -> np.ndarray:
    """Which elements are of the second grid, as their blocks' scale codes (..., blocks) say: bool of `shape`."""
    flags = (scales & FLAG).astype(bool)[..., None]
    block = fmt.block_length(layout_shape(shape, fmt)[-1])
    return from_blocks(np.broadcast_to(flags, (*flags.shape[:-1], block)), shape, fmt)


def from_blocks(blocks: np.ndarray, shape: tuple[int, ...], fmt: BlockFormat) -> np.ndarray:
    """The inverse of `to_blocks`: drop the padding and restore the shape."""
    rows = layout_shape(shape, fmt)
    flat_rows = blocks.reshape(*blocks.shape[:-2], blocks.shape[-2] * blocks.shape[-1])
    return np.ascontiguousarray(flat_rows[..., : rows[-1]]).reshape(shape)
