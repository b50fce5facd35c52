"""Panels made from packed rows, of a matrix and of its transpose, hold the same numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vbw_np.formats import get_format, quantize
from vbw_np.kernels.fp4.relayout import right_operand, transposed_right_operand

TILED = ("nvfp4-16x16", dataclasses.replace(get_format("mxfp4-rceil"), name="mxfp4-rceil-32x32", block_rows=32))


@pytest.mark.parametrize("shape", [(64, 96), (5, 40), (1, 256), (50, 33), (33, 1), (40, 296)])
@pytest.mark.parametrize("fmt", ["nvfp4", "mxfp4", *TILED], ids=str)
def test_panels_hold_the_packed_numbers(shape: tuple[int, int], fmt) -> None:
    packed = quantize(np.random.default_rng(0).normal(size=shape).astype(np.float32), fmt)
    right = right_operand(packed)
    assert right.shape == shape
    assert (right.dequantize() == packed.dequantize()).all()


@pytest.mark.parametrize("shape", [(64, 96), (5, 40), (1, 256), (50, 33), (33, 1), (40, 296)])
@pytest.mark.parametrize("fmt", TILED, ids=str)
def test_panels_of_the_transpose_hold_the_same_numbers(shape: tuple[int, int], fmt) -> None:
    packed = quantize(np.random.default_rng(0).normal(size=shape).astype(np.float32), fmt)
    right = transposed_right_operand(packed)
    assert right.shape == shape[::-1]
    assert (right.dequantize() == packed.dequantize().T).all()


def test_rows_of_blocks_do_not_transpose() -> None:
    packed = quantize(np.ones((16, 16), np.float32), "nvfp4")
    with pytest.raises(ValueError, match="a scale per 1 x 16"):
        transposed_right_operand(packed)
    with pytest.raises(ValueError, match="not nf4"):
        right_operand(quantize(np.ones((16, 64), np.float32), "nf4"))
