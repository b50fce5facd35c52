"""A product of two operands, as events: block sums, their scales, the running sum, the second-level factors last."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats import E2M1, PackedTensor
from ..formats.accumulate import matmul as add_as_hardware
from .quantizing import Matrix
from .story import Story
from .values import LISTED, Value, along

UNIT = "blackwell-mxf4nvf4"
STEP = 64  # elements that Blackwell adds at once


def _elements(packed: PackedTensor) -> NDArray[np.float32]:
    """Elements in units of their scales, their rows padded to whole blocks, (rows, blocks, block)."""
    rows, length = packed.shape
    block = packed.format.block
    blocks = -(-length // block)
    padded = np.zeros((rows, blocks * block), np.float32)
    padded[:, :length] = E2M1.table[packed.unpacked_codes()]
    return padded.reshape(rows, blocks, block)


def _factor(packed: PackedTensor) -> NDArray[np.float32]:
    """The second level, (rows,)."""
    level = np.float32(1) if packed.tensor_scale is None else np.asarray(packed.tensor_scale, np.float32).reshape(-1)
    return np.broadcast_to(level, packed.shape[0]).astype(np.float32)


def _running(scaled: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of the first 1, 2, ... blocks (blocks, M, N), one after the other in float32."""
    running = np.zeros_like(scaled)
    total = np.zeros(scaled.shape[1:], np.float32)
    for block in range(len(scaled)):
        total = total + scaled[block]
        running[block] = total
    return running


def of_codes(
    story: Story, name: str, left: Matrix, left_packed: PackedTensor, right: Matrix, right_packed: PackedTensor,
    sums: str = "float32",
) -> NDArray[np.float32]:  # fmt: skip
    """Tell a product on the virtual tensor core, left right^T (rows of left, rows of right); returns it.

    Parameters
    ----------
    story : Story
    name : str
        Of the result.
    left, right : Matrix
    left_packed, right_packed : PackedTensor
        The two, quantized.
    sums : {"float32", "blackwell"}
        As `device.SUMS`.
    """
    a, b = _elements(left_packed), _elements(right_packed)
    dots = np.einsum("mbk,nbk->bmn", a, b)  # quarters up to 576 or 1152: exact in any order
    scales_a, scales_b = left_packed.decoded_scales().T, right_packed.decoded_scales().T
    pairs = scales_a[:, :, None] * scales_b[:, None, :]
    scaled = pairs * dots
    rows, columns = along(left.rows), along(right.rows)
    running = _running(scaled) if sums == "float32" else _hardware_sums(left_packed, right_packed)[None]
    total = running[-1]
    factor_a, factor_b = _factor(left_packed), _factor(right_packed)
    if right_packed.format.tensor_level == "row":
        result = (total * factor_a[:, None]) * factor_b
    else:
        result = total * (factor_a * factor_b[0])[:, None]
    values = {
        "result": Value.of(result, rows, columns),
        "dots": Value.of(dots, LISTED, rows, columns),
        "scaled": Value.of(scaled, LISTED, rows, columns),
        "running": Value.of(running, LISTED, rows, columns),
        "left_factor": Value.of(factor_a, rows),
        "right_factor": Value.of(factor_b, columns),
        "left_element": left.value(a.reshape(len(a), -1)[:, : left.data.shape[1]]),
        "right_element": right.value(b.reshape(len(b), -1)[:, : right.data.shape[1]]),
    }
    facts = {
        "name": name, "way": "tensor core", "sums": sums, "block": left_packed.format.block,
        "right_level": right_packed.format.tensor_level, "blocks": len(dots),
    }  # fmt: skip
    many = len(dots) > 1
    story.add(
        "product",
        f"The codes are multiplied and added up, {left_packed.format.block} at a time, exactly: "
        f"{{dots}}{', one sum a block' if many else ''}. This {right.columns}'s share is {{left_element}} x "
        "{right_element} = {left_element*right_element}. Times both block scales that is {scaled}; added up"
        f"{', block after block,' if many else ''} {_order(sums)} {{running}}. Last come the second-level factors, "
        f"{{left_factor}} x {{right_factor}}, and {name} is {{result}}.",
        values,
        facts,
        ("result",),
    )
    return result


def _order(sums: str) -> str:
    return "in float32" if sums == "float32" else "as Blackwell's tensor core adds, cut to its few bits,"


def _hardware_sums(left: PackedTensor, right: PackedTensor) -> NDArray[np.float32]:
    block = left.format.block

    def padded(packed: PackedTensor) -> tuple[NDArray, NDArray]:
        rows, length = packed.shape
        whole = -(-length // STEP) * STEP
        codes, scales = np.zeros((rows, whole), np.uint8), np.zeros((rows, whole // block), np.uint8)
        codes[:, :length] = packed.unpacked_codes()
        scales[:, : packed.scales.shape[1]] = packed.scales
        return codes, scales

    (a, scale_a), (b, scale_b) = padded(left), padded(right)
    kind = "ue4m3" if block == 16 else "e8m0"
    return add_as_hardware(UNIT, a, b, scale_a=scale_a, scale_b=scale_b, scale_format=kind, scale_block=block)


def of_numbers(
    story: Story, name: str, left: Matrix, right: Matrix, *, turned: tuple[bool, bool] = (False, True), why: str
) -> NDArray[np.float32]:
    """Tell a product in float32, left right^T (rows of left, rows of right); returns it.

    Parameters
    ----------
    story : Story
    name : str
        Of the result.
    left, right : Matrix
        Both with the summed index last.
    turned : (bool, bool)
        Whether the left operand, and the right one as it is multiplied, is the transpose of what lies in memory: the
        library that adds may add in another order then.
    why : str
        What the operands are.
    """
    a = np.ascontiguousarray(left.data.T).T if turned[0] else np.ascontiguousarray(left.data)
    b = np.ascontiguousarray(right.data).T if turned[1] else np.ascontiguousarray(right.data.T)
    result = np.matmul(a, b)
    exact = np.add.accumulate(left.data.astype(np.float64)[:, None, :] * right.data.astype(np.float64)[None], axis=2)
    rows, columns = along(left.rows), along(right.rows)
    values = {
        "result": Value.of(result, rows, columns),
        "exact": Value.of(exact[:, :, -1], rows, columns),
        "left": left.value(),
        "right": right.value(),
    }
    facts: dict[str, Any] = {"name": name, "way": "float32", "turned": list(turned), "terms": left.data.shape[1]}
    story.add(
        "product",
        f"{why} {left.data.shape[1]} products are added up in float32. This {left.columns}'s share is {{left}} x "
        f"{{right}} = {{left*right}}; all together {name} is {{result}} (in double precision it would be {{exact}}).",
        values,
        facts,
        ("result", "left", "right"),
    )
    return result
