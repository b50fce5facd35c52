"""What the kernels can do with a format, a rounding and a place in a product: answered here alone, from the record.

Nothing is known by its name or by the size of its block alone. A rule counts by its numbers (`ScaleRule.numbers`), so a
producer's own arithmetic, which has none, is never mistaken for another; what a kernel does not know, NumPy computes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..formats import E2M1, E4M3, E8M0, BlockFormat, PackedTensor
from .kernel_numbers import ABSMAX, CEIL, DROP, EVEN, FLOOR, KEEP, NEAREST, NEVER, RCEIL, STOCHASTIC, STOCHASTIC_8, TE

ROUNDINGS = {"even": NEAREST, "stochastic": STOCHASTIC, "stochastic-8": STOCHASTIC_8}
"""Roundings of the kernels that quantize rows, by the formats' names."""

SIGNS = {"keep": KEEP, "drop": DROP, "never": NEVER}
"""What they do with a zero's sign."""

_EXPONENTS = {"floor": FLOOR, "even": EVEN, "ceil": CEIL, "rceil": RCEIL}
_FUSED = {"floor": "mx-floor", "rceil": "mx-rceil"}


class Answer(NamedTuple):
    """The kernel's number or name, or None and why there is none."""

    kernel: Any
    why: str = ""


def rule(fmt: BlockFormat) -> Answer:
    """The number of the kernels' scale rule."""
    numbers = fmt.rule.numbers
    if numbers is None:
        return Answer(None, f"the scale rule {fmt.rule.name} is arithmetic of its own")
    if numbers.largest != 6:
        return Answer(None, f"its scales map amax to {numbers.largest:g}, not to 6")
    if numbers.family == "mx" and fmt.block == 32:
        return Answer(_EXPONENTS[numbers.exponent])
    if numbers.family == "te" and fmt.block == 16:
        return Answer(TE)
    if numbers.family == "absmax" and fmt.block in (None, 16, 32):
        return Answer(ABSMAX)
    return Answer(None, f"its blocks have {fmt.block} elements")


def strips(fmt: BlockFormat, ties: str) -> Answer:
    """The kernel that quantizes rows to packed bytes: the number of its scale rule."""
    found = rule(fmt)
    if fmt.element is not E2M1:
        return Answer(None, "its elements are not E2M1")
    if found.kernel is None:
        return found
    if fmt.four_over_six != "off":
        return Answer(None, "each block is tried under two scales")
    if fmt.flat:
        return Answer(None, "its blocks run across row ends")
    if fmt.signed_zero not in SIGNS or ties not in ROUNDINGS:
        return Answer(None, f"rounding {ties!r} with zero rule {fmt.signed_zero!r} has no kernel")
    if fmt.fine is not None and (fmt.fine.kind != "nested" or ties != "even" or fmt.signed_zero != "never"):
        return Answer(None, f"its fine tier is {fmt.fine.kind!r}, rounded {ties!r}, zeros {fmt.signed_zero!r}")
    if fmt.block_rows > 1 and (fmt.tensor_level == "row" or fmt.block is None):
        return Answer(None, "its tiles span rows that have a scale each")
    return found


def decoding(fmt: BlockFormat, planes: int) -> Answer:
    """The kernel that decodes packed rows, with so many bit planes of the fine tier."""
    if fmt.element is None or len(fmt.element.table) != 16:
        return Answer(None, "its elements are not four bits")
    if fmt.offset != "none" or fmt.second is not None or fmt.decode_order != "multiply" or fmt.positive_zero:
        return Answer(None, "its values are not (element * scale) * scale of the second level")
    if fmt.flat or fmt.block not in (None, 16, 32):
        return Answer(None, f"its blocks have {fmt.block} elements, or run across row ends")
    if planes and fmt.fine.kind != "nested":
        return Answer(None, f"its fine tier is {fmt.fine.kind!r}")
    return Answer("rows")


def family(fmt: BlockFormat) -> Answer:
    """Which products of the tensor core take packed matrices of this format: "nvfp4" or "mxfp4"."""
    scale = fmt.rule.scale_element
    if fmt.element is not E2M1 or scale is None or fmt.rule.affine is not None or fmt.flat:
        return Answer(None, f"the tensor core multiplies E2M1 with coded block scales, not {fmt.name}")
    if scale == E4M3 and fmt.block == 16:
        return Answer("nvfp4")
    if scale == E8M0 and fmt.block == 32:
        return Answer("mxfp4")
    return Answer(None, f"the tensor core has no blocks of {fmt.block} under {scale.name} scales")


def family_of(packed: PackedTensor) -> str:
    """The tensor core's name for the packed matrix's kind: "nvfp4" or "mxfp4".

    Raises
    ------
    ValueError
        Its blocks are not those of the tensor core, or it has a fine tier.
    """
    if packed.planes:
        raise ValueError(f"the tensor core multiplies one tier: pass the coarse one, packed.coarse(), of {packed!r}")
    kind, why = weights(packed.format)
    if kind is None or len(packed.shape) != 2:
        raise ValueError(why or f"the tensor core multiplies matrices, not arrays of shape {packed.shape}")
    return kind


def transposed_scales(packed: PackedTensor) -> NDArray[np.uint8]:
    """The scales (K, N / tile) of the transpose of a packed matrix (N, K) with square tiles.

    Raises
    ------
    ValueError
        Its tiles are not square.
    """
    fmt = packed.format
    if fmt.block_rows != fmt.block:
        raise ValueError(
            f"{fmt.name} has a scale per {fmt.block_rows} x {fmt.block}: its transpose is not in the same format; "
            "quantize the transpose from the float32 weight, or use square tiles"
        )
    tiles = np.ascontiguousarray(packed.scales[:: fmt.block].T)  # (K / tile, N / tile)
    return np.repeat(tiles, fmt.block, axis=0)[: packed.shape[1]]


def weights(fmt: BlockFormat) -> Answer:
    """As `family`, for the right operand: one second-level scale a tensor, or none."""
    found = family(fmt)
    if found.kernel and fmt.tensor_level == "row":
        return Answer(None, f"{fmt.name} has a second-level scale a row; the tensor core's right operand takes one")
    return found


def bytes_a_row(fmt: BlockFormat) -> Answer:
    """The products of few rows with 8-bit weights: "bytes"."""
    table = np.asarray(getattr(fmt.element, "table", [np.nan]), np.float64)
    if len(table) != 256 or not np.array_equal(table, np.arange(256, dtype=np.uint8).view(np.int8)):
        return Answer(None, f"8-bit weights are signed integers, which {fmt.name} is not made of")
    if fmt.block != 32 or fmt.block_rows != 1 or fmt.flat:
        return Answer(None, f"8-bit weights have blocks of 32 within a row; {fmt.name} has others")
    if fmt.tensor_level != "none" or fmt.fine is not None:
        return Answer(None, f"8-bit weights have one scale a block and nothing else; {fmt.name} has more")
    return Answer("bytes")


def int8_products(fmt: BlockFormat) -> Answer:
    """What multiplies rows of 8-bit integers with a weight's packed bytes: a family of the tensor core, or "bytes"."""
    found, eight = weights(fmt), bytes_a_row(fmt)
    return eight if eight.kernel else found


def fused(fmt: BlockFormat, ties: str, side: str) -> Answer:
    """The quantizer that goes straight from float32 to an operand (`side` "left" or "right"): the name of its rule."""
    found, numbers = family(fmt), fmt.rule.numbers
    if found.kernel is None:
        return found
    if numbers is None or numbers.largest != 6 or numbers.family not in ("mx", "te"):
        return Answer(None, f"the scale rule {fmt.rule.name} has no fused quantizer")
    if fmt.block_rows > 1 or fmt.fine is not None or fmt.four_over_six != "off":
        return Answer(None, f"tiles, fine tiers and the choice between two scales are not fused: {fmt.name}")
    if ties not in ("even", "stochastic"):
        return Answer(None, f"rounding {ties!r} is not fused")
    if side == "right" and fmt.tensor_level == "row":
        return Answer(None, "the right operand takes one second-level scale")
    name = "te" if numbers.family == "te" else _FUSED.get(numbers.exponent)
    return Answer(name, "" if name else f"the scale rule {fmt.rule.name} has no fused quantizer")
