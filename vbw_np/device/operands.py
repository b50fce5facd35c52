"""The operands of a product and the product itself, for any two formats: as each is named, by the fastest way there is.

    y[m, n] = sum over k of  left[m, k] * right[n, k]

Both operands are quantized along k by `vbw_np.formats`, or by kernels that are its twins. If both are of one family of
the tensor core (E2M1 under E4M3 scales per 16, or under E8M0 scales per 32), they are multiplied in its order:
block by block, exact dots, float32 sums, second-level scales last (`definitions.matmul`); where the right
operand has a second-level scale a row, the sum is multiplied with the left one's first, then with the right one's.
Two FP8 operands under float32 scales are multiplied on the tensor core where a recipe says whose sums are meant
(`definitions.matmul_fp8`). Any other pair is decoded and multiplied in float32.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .. import definitions
from .. import kernels as _twins  # noqa: F401  of the definitions
from ..definitions import fp8, fp8_operands, quantize, support
from ..definitions.fp8_operands import Fp8Operand
from ..definitions.panels import FORMATS as FP4_FAMILIES
from ..definitions.panels import LeftOperand, RightOperand, left_from_packed, right_from_packed
from ..engine import autograd
from ..formats import BlockFormat, PackedTensor
from ..formats.hadamard import hadamard_rotate
from . import codec

matmul_arrays = autograd.ops.matmul_arrays

FP8 = "fp8"
"""The family of FP8 operands."""

TENSOR_CORE, DECODED = "tensor core", "decoded operands"
"""The two ways to multiply, as reports name them."""


@dataclasses.dataclass(frozen=True, eq=False)
class RowScaled:
    """A right operand of the tensor core with a second-level scale a row.

    Attributes
    ----------
    right : RightOperand, (N, K)
        With factor 1.
    factors : float32 (N,)
    """

    right: RightOperand
    factors: NDArray

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)"""
        return self.right.shape

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.right.nbytes + self.factors.nbytes


Left = LeftOperand | Fp8Operand | NDArray
Right = RightOperand | RowScaled | Fp8Operand | NDArray


def family(left: BlockFormat, right: BlockFormat, sums: str = "float32") -> str | None:
    """The tensor core's family that both formats belong to, or None: their product is that of the decoded operands.

    FP8 has one where `sums`, one of `recipe.SUMS`, says how an instruction adds; Hopper has none for FP4.
    """
    if sums in fp8.UNITS and not fp8_operands.why_not(left) and not fp8_operands.why_not(right):
        return FP8
    kind = support.family(left).kernel if sums != "hopper" else None
    return kind if left.fine is None and right.fine is None and support.family(right).kernel == kind else None


def way(left: BlockFormat, right: BlockFormat, sums: str = "float32") -> str:
    """How a product of these two formats is computed: `TENSOR_CORE` or `DECODED`."""
    return TENSOR_CORE if family(left, right, sums) else DECODED


def left_operand(
    x: NDArray,
    fmt: BlockFormat,
    kind: str | None,
    key: tuple[int, int] | None = None,
    *,
    transpose: bool = False,
    hadamard: bool = False,
) -> Left:
    """The rows of x, or its columns, as a left operand.

    Parameters
    ----------
    x : float32 (M, K); (K, M) with `transpose`
    fmt : BlockFormat
    kind : str or None
        The tensor core's family; None: the operand is decoded.
    key : (seed, stream), optional
        Round stochastically by the bits `formats.random_bits` has for this key and the operand's shape.
    transpose : bool
        The operand is x^T.
    hadamard : bool
        Rotate the operand along k first (`formats.hadamard`).
    """
    if kind in FP4_FAMILIES:
        return definitions.quantize_left(x, fmt, transpose=transpose, hadamard=hadamard, seed=key)
    packed = _packed(x, fmt, key, transpose, hadamard)
    return fp8_operands.from_packed(packed) if kind == FP8 else codec.decode(packed)


def left_laid_out(packed: PackedTensor, kind: str | None) -> Left:
    """A packed matrix (M, K) as a left operand of the family `kind`, or decoded."""
    if kind == FP8:
        return fp8_operands.from_packed(packed)
    if not kind:
        return codec.decode(packed)
    factor = 1.0 if packed.tensor_scale is None else packed.tensor_scale
    return left_from_packed(packed.codes, packed.scales, kind, factor, length=packed.shape[1])


def right_operand(
    x: NDArray, fmt: BlockFormat, kind: str | None, *, transpose: bool = False, hadamard: bool = False
) -> Right:
    """As `left_operand`, on the right and rounded as the format says."""
    if kind in FP4_FAMILIES and fmt.tensor_level != "row":
        return definitions.quantize_right(x, fmt, transpose=transpose, hadamard=hadamard)
    return laid_out(_packed(x, fmt, None, transpose, hadamard), kind)


def _packed(x: NDArray, fmt: BlockFormat, key: tuple[int, int] | None, transpose: bool, hadamard: bool) -> PackedTensor:
    x = np.ascontiguousarray(x.T if transpose else x)
    x = hadamard_rotate(x) if hadamard else x
    if key is None:
        return quantize(x, fmt)
    return quantize(x, fmt, ties="stochastic", seed=key[0], stream=key[1])


def laid_out(packed: PackedTensor, kind: str | None) -> Right:
    """A packed matrix (N, K) as a right operand of the family `kind`, or decoded."""
    if kind == FP8:
        return fp8_operands.from_packed(packed)
    if not kind:
        return codec.decode(packed)
    if np.ndim(packed.tensor_scale) == 0:
        return definitions.right_operand(packed)
    right = right_from_packed(packed.codes, packed.scales, kind, length=packed.shape[1])
    return RowScaled(right, np.asarray(packed.tensor_scale, np.float32).reshape(-1))


def transposed(packed: PackedTensor, kind: str | None) -> Right:
    """The transpose (K, N) of a packed matrix with square tiles, of the same codes, as a right operand."""
    if kind == FP8:
        return fp8_operands.transposed_from_packed(packed)
    if not kind:
        return np.ascontiguousarray(codec.decode(packed).T)
    return definitions.transposed_right_operand(packed)


_MATMULS = {"float32": definitions.matmul, "blackwell": definitions.matmul_blackwell}


def multiply(
    left: Left, right: Right, out: NDArray, *, accumulate: bool = False, sums: str = "float32", promote: int = 0
) -> NDArray:
    """left right^T into `out` (M, N), or added to it; both operands of one kind.

    `sums`: one of `recipe.SUMS`; `promote`: of FP8 operands, products whose sum is added in float32.
    """
    if isinstance(left, np.ndarray):
        if not accumulate:
            return matmul_arrays(left, right.T, out)
        return np.add(out, matmul_arrays(left, right.T), out=out)
    if isinstance(left, Fp8Operand):
        return fp8.matmul_fp8(left, right, out, sums=sums, promote=promote, accumulate=accumulate)
    if not isinstance(right, RowScaled):
        return _MATMULS[sums](left, right, out, accumulate=accumulate)
    product = _MATMULS[sums](left, right.right, np.empty(out.shape, np.float32))
    product *= right.factors
    if accumulate:
        return np.add(out, product, out=out)
    np.copyto(out, product)
    return out
