"""Fitted scales: what `fit_scales` finds and `encode` uses, and whether they are a format's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from .blocks import BlockFormat
from .errors import DtypeError, ScaleError, ShapeError
from .packed import FLAG, PackedTensor, scale_shape


@dataclass(frozen=True, eq=False)
class FittedScales:
    """What `fit_scales` finds and `encode` uses.

    Parameters
    ----------
    block : uint8 codes or float32, (..., ceil(K / block))
    stored, tensor : the tensor-level number as stored, and as multiplier; None for one level
    codebook : float32 (16,) for `seed-v6`, else None
    fine, fine_tensor : scales of a fine tier that has its own, else None
    offsets : float32 zero points or minimums of an affine rule, else None
    inner : what an affine rule encodes with (scales, offsets), before they are rounded to what is stored
    headers : uint8, what Q4_K's blocks keep of scales and offsets (`PackedTensor.headers`), else None
    """

    block: np.ndarray
    stored: np.ndarray | np.float32 | None = None
    tensor: np.ndarray | np.float32 | None = None
    codebook: np.ndarray | None = None
    fine: np.ndarray | None = None
    fine_tensor: np.float32 | None = None
    offsets: np.ndarray | None = None
    inner: tuple[np.ndarray, np.ndarray | None] | None = None
    headers: np.ndarray | None = None

    @classmethod
    def of(cls, packed: PackedTensor) -> FittedScales:
        """The scales of a packed tensor, to be used again."""
        stored = packed.stored_scale
        if stored is None and packed.tensor_scale is not None:
            stored = packed.format.rule.stored_of(packed.tensor_scale)
        return cls(
            packed.scales,
            stored,
            packed.tensor_scale,
            packed.codebook,
            packed.fine_scales,
            packed.fine_tensor_scale,
            packed.offsets,
            (packed.scales, packed.offsets) if packed.format.rule.affine is not None else None,
            packed.headers,
        )

    def as_dict(self) -> dict[str, np.ndarray]:
        """Those parts that exist, as arrays: copies, ready to be saved."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.inner is not None:
            parts["inner"] = np.stack([part for part in self.inner if part is not None])
        return {name: np.array(value) for name, value in parts.items() if value is not None}

    @classmethod
    def from_dict(cls, arrays: Mapping[str, np.ndarray]) -> FittedScales:
        """What `as_dict` gave; a level for the whole tensor is one float32 number again, not an array."""
        parts = {name: array if np.ndim(array) else np.asarray(array)[()] for name, array in arrays.items()}
        if "inner" in parts:
            scales, offsets = (*parts["inner"], None)[:2]
            parts["inner"] = scales, offsets
        return cls(**parts)


def check_fitted(scales: FittedScales, shape: tuple[int, ...], fmt: BlockFormat) -> None:
    """Refuse scales that are not those of an array of this shape in this format.

    Raises
    ------
    ShapeError, DtypeError, ScaleError
    """
    expected = (*shape[:-1], 1) if fmt.quantile_codebook else scale_shape(shape, fmt)
    if np.shape(scales.block) != expected:
        raise ShapeError(
            f"the scales have shape {np.shape(scales.block)}; {fmt.name} of an array of shape {shape} needs "
            f"{expected}: scales can only be reused for an array of the shape they were fitted to"
        )
    dtype = np.uint8 if fmt.rule.scale_element else np.float32
    if scales.block.dtype != dtype:
        raise DtypeError(f"the scales have dtype {scales.block.dtype.name}; {fmt.name} needs {np.dtype(dtype).name}")
    if (scales.stored is None) != (fmt.tensor_level == "none"):
        raise ScaleError(f"{fmt.name} and the scales disagree about a tensor-level scale; fit them with this format")
    _check_of_this_rule(scales, fmt)
    if fmt.rule.affine is not None and scales.inner is None:
        raise ScaleError(f"{fmt.name} needs scales that were fitted for it; fit them with this format")
    if fmt.quantile_codebook and scales.codebook is None:
        raise ScaleError(f"{fmt.name} needs a codebook; fit the scales with this format")
    if fmt.fine is not None and fmt.fine.kind == "own" and scales.fine is None:
        raise ScaleError(f"{fmt.name} needs scales for its fine tier; fit them with this format")


def _check_of_this_rule(scales: FittedScales, fmt: BlockFormat) -> None:
    """Refuse scales under which this format's rule would encode with other numbers than it decodes with."""
    why, element = "", fmt.rule.scale_element
    if scales.stored is not None and scales.tensor is not None:
        ours, theirs = fmt.rule.multiplier(scales.stored), np.asarray(scales.tensor)
        if not np.allclose(ours, theirs, rtol=1e-6, atol=0, equal_nan=True):
            why = f"its tensor-level multiplier would be {float(np.ravel(ours)[0]):g}, theirs {float(theirs.flat[0]):g}"
    if element is not None and element.signed and fmt.second is None:
        negative = (scales.block & FLAG).astype(bool) & (scales.block != 255)
        why = why or ("some would be negative" if negative.any() else "")
    if why:
        raise ScaleError(f"the scales are of another rule than {fmt.name}'s: {why}; fit them with this format")
