"""What a device does with packed numbers: quantizing, decoding, operands, and their products."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import formats
from ..formats import BlockFormat, FittedScales, PackedTensor
from ..formats.hadamard import hadamard_rotate
from . import support
from .byte_rows import ByteRows, byte_rows, matvec_reference
from .definition import Definition
from .fp4_products import blackwell_reference, matmul_reference, quantize_left_int8
from .panels import LeftOperand, RightOperand, left_from_packed, right_from_packed


@Definition
def quantize(
    x: NDArray,
    fmt: BlockFormat,
    *,
    ties: str | None = None,
    seed: int | None = None,
    stream: int = 0,
    reuse: PackedTensor | FittedScales | None = None,
) -> PackedTensor:
    """`formats.quantize`, without measuring the error."""
    return formats.quantize(x, fmt, ties=ties, seed=seed, stream=stream, reuse=reuse, measure=False)


@Definition
def dequantize(packed: PackedTensor) -> NDArray:
    """`packed.dequantize()`"""
    return packed.dequantize()


@Definition
def relative_error(exact: NDArray, approximate: NDArray) -> float:
    """|exact - approximate| / |exact|, root mean squares in float64; 0 where both are zero, inf where only exact is."""
    return float(np.sqrt(formats.relative_mse(exact, approximate)))


def packed_operand(
    x: NDArray, fmt: BlockFormat, transpose: bool, hadamard: bool, seed: tuple[int, int] | None
) -> PackedTensor:
    """What `quantize_left` lays out, still in packed rows."""
    x = np.ascontiguousarray(x.T if transpose else x)
    x = hadamard_rotate(x) if hadamard else x
    options = {} if seed is None else {"ties": "stochastic", "seed": seed[0], "stream": seed[1]}
    try:
        return quantize(x, fmt, **options)
    except formats.NonFiniteError:  # its block becomes NaN, and so does what is multiplied with it
        return formats.quantize(x, fmt, nonfinite="propagate", measure=False, **options)


@Definition
def quantize_left(
    x: NDArray,
    fmt: BlockFormat,
    *,
    transpose: bool = False,
    hadamard: bool = False,
    seed: tuple[int, int] | None = None,
) -> LeftOperand:
    """The rows of x, or its columns, as a left operand of the tensor core. A block with NaN or Inf gets a NaN scale.

    Parameters
    ----------
    x : float32 (M, K); (K, M) with `transpose`
    fmt : BlockFormat
        One that `support.family` knows.
    transpose, hadamard : bool
        The operand is x^T; it is rotated along K first (`formats.hadamard`).
    seed : (seed, stream), optional
        Round stochastically by the bits that `formats.random_bits` has for this key and the operand's shape.
    """
    packed = packed_operand(x, fmt, transpose, hadamard, seed)
    factor = 1.0 if packed.tensor_scale is None else packed.tensor_scale
    family = support.family(fmt).kernel
    return left_from_packed(packed.codes, packed.scales, family, factor, length=packed.shape[1])


@Definition
def quantize_right(
    x: NDArray, fmt: BlockFormat, *, transpose: bool = False, hadamard: bool = False
) -> RightOperand:
    """As `quantize_left`, on the right, with at most one second-level scale; rounded as the format says."""
    return right_operand(packed_operand(x, fmt, transpose, hadamard, None))


def tensor_factor(packed: PackedTensor) -> np.float32:
    """The second-level scale of a packed tensor, as right operands carry it."""
    return np.float32(1 if packed.tensor_scale is None else packed.tensor_scale)


@Definition
def right_operand(packed: PackedTensor) -> RightOperand:
    """A packed matrix (N, K) in panels, for products that sum over K."""
    kind = support.family_of(packed)
    return right_from_packed(packed.codes, packed.scales, kind, tensor_factor(packed), length=packed.shape[1])


@Definition
def transposed_right_operand(packed: PackedTensor) -> RightOperand:
    """The transpose (K, N) of a packed matrix (N, K) with square tiles in panels, for products that sum over N."""
    kind, codes = support.family_of(packed), packed.unpacked_codes()
    codes = formats.pack_nibbles(np.ascontiguousarray(codes.T))
    scales = support.transposed_scales(packed)
    return right_from_packed(codes, scales, kind, tensor_factor(packed), length=packed.shape[0])


@Definition
def matmul(left: LeftOperand, right: RightOperand, out: NDArray, *, accumulate: bool = False) -> NDArray:
    """left right^T into `out` (M, N), or added to it."""
    return _into(out, matmul_reference(left, right), accumulate)


@Definition
def matmul_blackwell(left: LeftOperand, right: RightOperand, out: NDArray, *, accumulate: bool = False) -> NDArray:
    """As `matmul`, summed as Blackwell's tensor cores sum."""
    return _into(out, blackwell_reference(left, right), accumulate)


def _into(out: NDArray, product: NDArray, accumulate: bool) -> NDArray:
    np.add(out, product, out=out) if accumulate else np.copyto(out, product)
    return out


def int8_operand(packed: PackedTensor) -> RightOperand | ByteRows:
    """A packed matrix (N, K) that `support.int8_products` knows, as `matvec` takes it."""
    return byte_rows(packed) if support.bytes_a_row(packed.format).kernel else right_operand(packed)


@Definition
def matvec(x: NDArray, right: RightOperand | ByteRows, out: NDArray) -> NDArray:
    """x W^T of rows x (R, K), rounded to 8-bit integers a block, and a packed weight, into `out` (R, N)."""
    if isinstance(right, ByteRows):
        out[...] = matvec_reference(x, right)
    else:
        out[...] = matmul_reference(quantize_left_int8(x, right.family), right)
    return out
