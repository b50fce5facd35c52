"""A product of two operands, as events: block sums, their scales, the running sum, the second-level factors last."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..device import operands
from ..formats import E2M1, PackedTensor
from ..formats.accumulate.adding import UNIT as FRACTION
from ..formats.accumulate.adding import LongSum, add_terms, align
from .matrix import Matrix
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
    sums: str = "float32", promote: int = 0,
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
    sums, promote : str, int
        As a recipe's `accumulate` and `promote`.
    """
    if left_packed.format.code_bits == 8:
        return _of_fp8(story, name, left, left_packed, right, right_packed, sums, promote)
    a, b = _elements(left_packed), _elements(right_packed)
    dots = np.einsum("mbk,nbk->bmn", a, b)  # quarters up to 576 or 1152: exact in any order
    scales_a, scales_b = left_packed.decoded_scales().T, right_packed.decoded_scales().T
    pairs = scales_a[:, :, None] * scales_b[:, None, :]
    scaled = pairs * dots
    rows, columns = along(left.rows), along(right.rows)
    running = _running(scaled) if sums == "float32" else _as_the_core_adds(
        story, left, right, _fp4_sum(left_packed, right_packed), block=16
    )  # fmt: skip
    total = running[-1]
    factor_a, factor_b = _factor(left_packed), _factor(right_packed)
    by_row = right_packed.format.tensor_level == "row"
    result = (total * factor_a[:, None]) * factor_b if by_row else total * (factor_a * factor_b[0])[:, None]
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
        f"{{dots}}{', one sum a block' if many else ''}. The share of this {right.column} is {{left_element}} x "
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


def _fp4_sum(left: PackedTensor, right: PackedTensor) -> LongSum:
    """All sums of Blackwell's FP4 products, (rows of left, rows of right); rows are filled up to whole steps."""
    block = left.format.block

    def padded(packed: PackedTensor) -> tuple[NDArray, NDArray]:
        rows, length = packed.shape
        whole = -(-length // STEP) * STEP
        codes, scales = np.zeros((rows, whole), np.uint8), np.zeros((rows, whole // block), np.uint8)
        codes[:, :length] = packed.unpacked_codes()
        scales[:, : packed.scales.shape[1]] = packed.scales
        return codes, scales

    (a, scale_a), (b, scale_b) = padded(left), padded(right)
    options = {"scale_format": "ue4m3" if block == 16 else "e8m0", "scale_block": block}
    return LongSum(UNIT, a[:, None], b[None], scale_a=scale_a[:, None], scale_b=scale_b[None], **options)


def _inside(total: LongSum, promote: int) -> dict[str, list[NDArray]]:
    """All steps of the sums: terms, what is kept of them, largest exponents, what is lost, and the partial sums."""
    found: dict[str, list[NDArray]] = {"term": [], "held": [], "largest": [], "lost": [], "sum": []}
    part = promote or total.length
    for start in range(0, total.length, part):
        value = np.zeros(total.shape, np.float32)
        for first, last in total.steps(start, min(start + part, total.length)):
            terms = total.with_c(total.terms(first, last), value)
            kept, largest = align(terms, total.unit.fraction_bits)
            exact = np.ldexp(terms.significand.astype(np.float64), terms.exponent - FRACTION)
            held = np.ldexp(kept.astype(np.float64), largest - total.unit.fraction_bits)
            found["term"].append(exact[..., :-1])  # without the accumulator
            found["held"].append(held[..., :-1])
            found["largest"].append(largest[..., 0])
            found["lost"].append((exact - held).sum(axis=-1))
            value = add_terms(terms, total.unit)
        found["sum"].append(value)
    return found


def _as_the_core_adds(
    story: Story, left: Matrix, right: Matrix, total: LongSum, *, block: int = 1, promote: int = 0
) -> NDArray[np.float32]:
    """Tell sums inside a tensor core: exponents, what is cut off, what is left.

    `block`: elements of one term. Returns the partial sums that leave the core, (parts, M, N), one if `promote` is 0.
    """
    unit, found = total.unit, _inside(total, promote)
    rows, columns = along(left.rows), along(right.rows)
    used = -(-left.data.shape[1] // block)  # terms that only fill up are left out
    terms = {name: np.moveaxis(np.concatenate(found[name], axis=-1), -1, 0)[:used] for name in ("term", "held")}
    values = {name: Value.of(term.astype(np.float32), along(left.columns, block), rows, columns)
              for name, term in terms.items()}  # fmt: skip
    values |= {name: Value.of(np.stack(found[name]), LISTED, rows, columns) for name in ("lost", "sum")}
    values["largest"] = Value.of(np.stack(found["largest"]).astype(np.int16), LISTED, rows, columns)
    facts = {"unit": unit.name, "fraction_bits": unit.fraction_bits, "terms": unit.terms, "block": block,
             "output_bits": unit.output.fraction_bits, "promote": promote}  # fmt: skip
    what = "products" if block == 1 else f"sums of {block} products"
    promoted = f" Every {promote} products a sum leaves the core." if promote else ""
    story.add(
        "sum in the core",
        f"The core ({unit.name}) takes {{terms}} products a step. The largest exponent among its {what} is "
        "{largest}; all are cut off toward zero {fraction_bits} bits below that. This "
        f"{left.column}'s is {{term}}, and {{held}} of it is kept. Cut off in all: {{lost}}. The sum, cut off to "
        f"{{output_bits}} bits, is {{sum}}.{promoted}",
        values,
        facts,
        ("sum", "term", "held"),
    )
    return np.stack(found["sum"])


def _of_fp8(
    story: Story, name: str, left: Matrix, left_packed: PackedTensor, right: Matrix, right_packed: PackedTensor,
    sums: str, promote: int,
) -> NDArray[np.float32]:  # fmt: skip
    """Tell a product of FP8 operands, whose scales are applied outside the core."""
    x, w = (operands.fp8_operands.from_packed(side) for side in (left_packed, right_packed))
    total = LongSum(operands.fp8.UNITS[sums], x.codes[:, None], w.codes[None], a_format=x.element, b_format=w.element)
    parts = _as_the_core_adds(story, left, right, total, promote=promote)
    rows, columns = along(left.rows), along(right.rows)
    added = np.zeros(parts.shape[1:], np.float32)
    for number, part in enumerate(parts):
        block = number * promote // 128
        pair = [side.scales[:, block if side.blocked else 0] for side in (x, w)]
        added = added + (np.multiply.outer(*pair) * part if x.blocked or w.blocked else part)
    result = added if x.blocked or w.blocked else x.scales * (w.scales[:, 0] * added)
    values = {
        "result": Value.of(result, rows, columns),
        "added": Value.of(added, rows, columns),
        "left_scale": Value.of(x.scales, rows, LISTED),
        "right_scale": Value.of(w.scales, columns, LISTED),
    }
    facts = {"name": name, "way": "tensor core", "sums": sums, "blocked": x.blocked or w.blocked, "promote": promote}
    story.add(
        "product",
        "Outside the core, in float32, the sum is {added}"
        + (", each part times both scales of its block" if facts["blocked"] else "")
        + ". The scales are {left_scale} and {right_scale}, and " + f"{name} is {{result}}.",
        values,
        facts,
        ("result",),
    )
    return result


def of_numbers(
    story: Story, name: str, left: Matrix, right: Matrix, *, turned: tuple[bool, bool] = (False, True), why: str,
    rounded: bool = False,
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
    rounded : bool
        Whether they are decoded codes.
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
    facts: dict[str, Any] = {"name": name, "way": "float32", "turned": list(turned), "terms": left.data.shape[1],
                             "rounded": rounded}  # fmt: skip
    story.add(
        "product",
        f"{why} {left.data.shape[1]} products are added up in float32. The share of this {left.column} is {{left}} x "
        f"{{right}} = {{left*right}}; all together {name} is {{result}} (in double precision it would be {{exact}}).",
        values,
        facts,
        ("result", "left", "right"),
    )
    return result
