"""Explanations: one element from amax to its decoded value, step by step, with every bit in its place."""

from __future__ import annotations

import functools
import html
from dataclasses import dataclass

import numpy as np

from .blocks import BlockFormat, get_format
from .codec import FittedScales, block_amax, quantize, quotients
from .elements import Codebook, ElementFormat, as_float32
from .errors import FormatError, ShapeError
from .packed import FLAG, PackedTensor, explainer, layout_shape, nested_edges, nested_table
from .scalar import Rounding, round_scalar


@dataclass(frozen=True)
class Step:
    """One line of an explanation: what, its value, and where that comes from."""

    name: str
    value: str
    why: str = ""


@dataclass(frozen=True)
class Explanation:
    """A titled list of steps; prints as text, shows as a table in a notebook, and turns into plain data.

    Parameters
    ----------
    title : str
    steps : tuple of Step
    data : dict
        The numbers themselves.
    """

    title: str
    steps: tuple[Step, ...]
    data: dict[str, object]

    def __str__(self) -> str:
        wide = max(len(s.name) for s in self.steps)
        value = max(len(s.value) for s in self.steps)
        lines = [f"  {s.name:<{wide}}  {s.value:<{value}}  {s.why}".rstrip() for s in self.steps]
        return "\n".join([self.title, *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>"
            + "".join(f"<td style='text-align:left'>{html.escape(t)}</td>" for t in (s.name, s.value, s.why))
            + "</tr>"
            for s in self.steps
        )
        return f"<table><caption>{html.escape(self.title)}</caption>{rows}</table>"


def number(x: float) -> str:
    """A float32 in as few digits as say it exactly enough to type it in again."""
    return f"{np.float32(x):.9g}" if np.float32(f"{np.float32(x):.6g}") != np.float32(x) else f"{np.float32(x):.6g}"


def bit_fields(code: int, element: ElementFormat | Codebook) -> str:
    """A code's bits, split into sign, exponent and mantissa where it has them: `0 11 1`."""
    bits = f"{code:0{element.bits}b}"
    if isinstance(element, Codebook):
        return bits
    cuts = [int(element.signed), element.exponent_bits, element.mantissa_bits]
    parts, start = [], 0
    for width in cuts:
        if width:
            parts.append(bits[start : start + width])
        start += width
    return " ".join(parts)


@functools.cache
def all_bits(element: ElementFormat) -> tuple[str, ...]:
    """The `bit_fields` of every code of an element format."""
    return tuple(bit_fields(code, element) for code in range(1 << element.bits))


def explain_code(code: int, element: ElementFormat | Codebook) -> Explanation:
    """What one code of an element format means: its fields, and how they make the value."""
    if not 0 <= code < len(element.table):
        raise FormatError(
            f"{element.name} has the codes 0 to {len(element.table) - 1} (0x{len(element.table) - 1:x}), not {code}"
        )
    value = float(element.table[code])
    steps = [Step("code", f"{code} (0x{code:x})"), Step("bits", bit_fields(code, element))]
    if isinstance(element, Codebook):
        place = int(np.flatnonzero(element.order == code)[0]) if code in element.order else None
        where = f"level {place} of {len(element.order)}, ascending" if place is not None else "never written"
        steps.append(Step("table", f"levels[{code}]", where))
    else:
        steps += _field_steps(code, element)
    steps.append(Step("value", number(value)))
    steps += _neighbor_steps(code, element)
    data = {"format": element.name, "code": code, "bits": bit_fields(code, element), "value": value}
    return Explanation(f"code 0x{code:x} of {element.name}", tuple(steps), data)


def _field_steps(code: int, element: ElementFormat) -> list[Step]:
    magnitude = code & ~element.sign_mask
    exponent, mantissa = magnitude >> element.mantissa_bits, magnitude & ((1 << element.mantissa_bits) - 1)
    steps = []
    if element.signed:
        steps.append(Step("sign", "-" if code & element.sign_mask else "+"))
    if magnitude > element.max_code:
        kind = "Inf" if magnitude == element.inf_code else "NaN"
        return [*steps, Step("special", kind, "reserved code")]
    if exponent == 0 and element.specials != "e8m0":
        power = 1 - element.bias - element.mantissa_bits
        steps.append(Step("subnormal", f"{mantissa} * 2**{power}", f"exponent field 0, bias {element.bias}"))
        return steps
    steps.append(Step("exponent", f"{exponent} - {element.bias} = {exponent - element.bias}", f"bias {element.bias}"))
    if element.mantissa_bits:
        steps.append(Step("mantissa", f"1 + {mantissa}/{1 << element.mantissa_bits}"))
    return steps


def _neighbor_steps(code: int, element: ElementFormat | Codebook) -> list[Step]:
    """The interval of numbers that round to this code (to nearest, ties to even)."""
    if isinstance(element, Codebook) or (code & ~element.sign_mask) > element.max_code:
        return []
    magnitude = code & ~element.sign_mask
    values = element.magnitudes.astype(np.float64)
    low = (values[magnitude - 1] + values[magnitude]) / 2 if magnitude else 0.0
    high = (values[magnitude + 1] + values[magnitude]) / 2 if magnitude < element.max_code else np.inf
    brackets = "[]" if magnitude % 2 == 0 else "()"
    return [
        Step(
            "rounds from",
            f"{brackets[0]}{low:g}, {high:g}{brackets[1] if np.isfinite(high) else ')'}",
            "magnitudes that round to it, ties to even",
        )
    ]


def neighbors(r: Rounding) -> Step:
    """The levels on either side of what was rounded."""
    if r.low == r.high:
        return Step("neighbors", number(r.low), "the last level" if r.saturated else "a level itself")
    return Step("neighbors", f"{number(r.low)} and {number(r.high)}", f"midpoint {number(r.midpoint)}")


def explain_value(x: float, element: ElementFormat | Codebook, ties: str = "even") -> Explanation:
    """How one number becomes a code of an element format, without any scale."""
    r = round_scalar(float(np.float32(x)), element, ties)
    steps = (
        Step("x", number(r.x), "as float32"),
        neighbors(r),
        Step("rounding", ties, r.reason),
        Step("code", f"{r.code} (0x{r.code:x})", f"bits {bit_fields(r.code, element)}"),
        Step("value", number(r.value)),
        Step("error", number(r.value - r.x)),
    )
    data = {
        "x": r.x,
        "format": element.name,
        "ties": ties,
        "code": r.code,
        "value": r.value,
        "low": r.low,
        "high": r.high,
        "midpoint": r.midpoint,
        "is_tie": r.is_tie,
        "reason": r.reason,
    }
    return Explanation(f"{number(r.x)} as {element.name}", steps, data)


def explain_values(x: np.ndarray, format: str | BlockFormat, index: tuple[int, ...] | None = None) -> Explanation:
    """Quantize a small array and explain one of its elements (the first by default)."""
    fmt = get_format(format)
    x = np.atleast_1d(as_float32(x))
    if fmt.block_rows > 1 and x.ndim == 1:
        x = x[None]
    packed = quantize(x, fmt)
    return explain_element(packed, index if index is not None else (0,) * x.ndim, x)


@explainer
def explain_element(packed: PackedTensor, index: tuple[int, ...], x: np.ndarray | None = None) -> Explanation:
    """Where an element lies in the bytes and what it decodes to; with the source `x`, also why.

    Parameters
    ----------
    packed : PackedTensor
    index : tuple of int, of the logical shape
    x : float array of the logical shape, optional
    """
    index = _checked_index(packed, index)
    place = _Place.find(packed, index)
    steps: list[Step] = []
    data: dict[str, object] = {"format": packed.format.name, "index": list(index)}
    if x is not None:
        x = as_float32(x)
        if x.shape != packed.shape:
            raise ShapeError(f"the source has shape {x.shape}, the packed tensor {packed.shape}; they must be equal")
        steps += _encoding_steps(packed, index, place, x, data)
    steps += _storage_steps(packed, index, place, data)
    if x is not None:
        error = float(packed.dequantize()[index]) - float(x[index])
        data |= {"x": float(x[index]), "error": error}
        relative = f"{abs(error / float(x[index])):.3%} of x" if x[index] else ""
        steps.append(Step("error", number(error), relative))
    where = ", ".join(map(str, index))
    return Explanation(f"element [{where}] of {packed.format.name} {packed.shape}", tuple(steps), data)


def _checked_index(packed: PackedTensor, index: tuple[int, ...]) -> tuple[int, ...]:
    if len(index) != len(packed.shape):
        raise ShapeError(f"an element of shape {packed.shape} has {len(packed.shape)} indices, got {index}")
    fixed = []
    for i, n in zip(index, packed.shape, strict=True):
        if not -n <= i < n:
            raise ShapeError(f"index {i} is out of range for an axis of {n} elements (shape {packed.shape})")
        fixed.append(int(i) % n)
    return tuple(fixed)


@dataclass(frozen=True)
class _Place:
    """Where an element lies: its row, position in the row, block, byte, and first bit in it."""

    row: tuple[int, ...]
    position: int
    block: int
    byte: int
    bit: int
    scale: tuple[int, ...]

    @classmethod
    def find(cls, packed: PackedTensor, index: tuple[int, ...]) -> _Place:
        fmt, rows = packed.format, layout_shape(packed.shape, packed.format)
        if fmt.flat:
            index = (int(np.ravel_multi_index(index, packed.shape)),)
        row, position = index[:-1], index[-1]
        block = position // fmt.block_length(rows[-1])
        row_bytes = packed.codes.shape[-1]
        first = int(np.ravel_multi_index(row, rows[:-1])) * row_bytes if row else 0
        bit = position * fmt.code_bits
        return cls(row, position, block, first + bit // 8, bit % 8, (*row, block))


def _encoding_steps(
    packed: PackedTensor, index: tuple[int, ...], place: _Place, x: np.ndarray, data: dict[str, object]
) -> list[Step]:
    """From x to the quotient and its neighbors."""
    fmt, value = packed.format, float(x[index])
    steps = [Step("x", number(value), "as float32")]
    if fmt.quantile_codebook:
        magnitude = abs(value)
        level = int(packed.unpacked_codes()[index])
        return [*steps, Step("codebook", f"level {level}", f"the last of 16 not above |x| = {number(magnitude)}")]
    if fmt.rule.affine is not None:
        data["scale_rule"] = fmt.rule.name
        return [*steps, Step("scale rule", fmt.rule.name, fmt.rule.summary)]
    amax_b = block_amax(x, fmt)[place.scale]
    data["block_amax"] = float(amax_b)
    span = f"{fmt.block_rows} x {fmt.block}" if fmt.block_rows > 1 else f"{fmt.block or packed.shape[-1]}"
    steps.append(Step("block amax", number(amax_b), f"largest |x| of its block of {span}"))
    if packed.stored_scale is not None:
        g = np.asarray(packed.stored_scale).reshape(-1)
        level = g[0] if g.size == 1 else packed.stored_scale[(*place.row, 0)]
        steps.append(Step("tensor level", number(level), f"what rule {fmt.rule.name} stores beside the blocks"))
        data["stored_scale"] = float(level)
    steps.append(Step("scale rule", fmt.rule.name, fmt.rule.summary))
    q = float(quotients(x, fmt, FittedScales.of(packed))[index])
    data["quotient"] = q
    steps.append(Step("quotient", number(q), "x in units of its scale, float32"))
    grid = _grid(packed, place)
    if fmt.second is not None:
        data["grid"] = grid.name
        steps.append(Step("grid", grid.name, f"{fmt.element.name} or {fmt.second.name}, by squared error of the block"))
    if np.isfinite(q) and not fmt.ties.startswith("stochastic") and not getattr(grid, "write_order", ()):
        r = round_scalar(q, grid, fmt.ties, signed_zero=fmt.signed_zero)
        steps.append(neighbors(r))
        steps.append(Step("rounding", fmt.ties, r.reason))
        data |= {"low": r.low, "high": r.high, "midpoint": r.midpoint, "is_tie": r.is_tie, "reason": r.reason}
    return steps


def _grid(packed: PackedTensor, place: _Place) -> ElementFormat | Codebook | None:
    """What the element is a code of: the format's element, or its second grid where the block's scale says so."""
    fmt = packed.format
    return fmt.second if fmt.second is not None and packed.scales[place.scale] & FLAG else fmt.element


def _storage_steps(packed: PackedTensor, index: tuple[int, ...], place: _Place, data: dict[str, object]) -> list[Step]:
    """From the bytes to the decoded value."""
    fmt, grid = packed.format, _grid(packed, place)
    code = int(packed.unpacked_codes()[index])
    byte = int(packed.codes.reshape(-1)[place.byte])
    part = f"bits from {place.bit} on are this element's"
    if fmt.code_bits == 4:
        part = f"the {'high' if place.bit else 'low'} nibble is this element's"
    elif fmt.code_bits == 8:
        part = "the element's own"
    steps = [
        Step("byte", f"codes[{place.byte}] = 0x{byte:02x}", f"flat byte address; {part}"),
        Step("code", f"{code} (0x{code:x})", f"bits {bit_fields(code, grid)}" if grid else "codebook index"),
    ]
    data |= {"code": code, "byte_address": place.byte, "byte": byte, "bit": place.bit, "bits": fmt.code_bits}
    if fmt.code_bits == 4:
        data["nibble"] = "high" if place.bit else "low"
    if fmt.quantile_codebook:
        sign = "-" if np.signbit(packed.dequantize(0)[index]) else "+"
        steps += [Step("sign bit", sign), Step("level", number(packed.codebook[code]), f"codebook[{code}]")]
    else:
        element = float(grid.table[code])
        drops_sign = fmt.positive_zero and element == 0 and np.signbit(element)
        element = 0.0 if drops_sign else element
        steps.append(Step("element", number(element), "-0 counts as +0 there" if drops_sign else ""))
        steps.append(_scale_step(packed, place))
        data |= {"element": element, "scale": float(packed.decoded_scales()[place.scale])}
        if packed.offsets is not None:
            data["offset"] = float(packed.offsets[place.scale])
            steps.append(Step(fmt.offset, number(data["offset"]), "of its block"))
        steps += _level_steps(packed, place, data)
    if packed.planes:
        steps += _fine_steps(packed, index, code, data)
    decoded = float(packed.dequantize()[index])
    data["decoded"] = decoded
    formula = decode_formula(packed)
    data["formula"] = formula
    steps.append(Step("decoded", number(decoded), formula if not packed.planes else "with the fine tier"))
    return steps


def decode_formula(packed: PackedTensor) -> str:
    """What `dequantize` computes of an element, in float32 and in that order: the producer's, where it is a profile's.

    `tensor scale` and `tensor level` are the numbers that the steps before it name.
    """
    fmt = packed.format
    if fmt.quantile_codebook:
        return "sign * level"
    if fmt.offset != "none":
        return {"zero": "(element - zero) * scale", "minimum": "element * scale + minimum"}[fmt.offset]
    if fmt.decode_order == "halves":
        return "(2 * element) * (scale / 2)"
    if packed.tensor_scale is None:
        return "element * scale"
    if fmt.decode_order == "scale-first":
        return "element * (scale * tensor scale)"
    if packed.stored_scale is not None and fmt.decode_order == "divide":
        return "element * (scale / tensor level)"
    if packed.stored_scale is not None and fmt.decode_order == "amax-first":
        return f"element * ((scale * tensor level) * (1 / {fmt.rule.range:g}))"
    return "(element * scale) * tensor scale"


def _level_steps(packed: PackedTensor, place: _Place, data: dict[str, object]) -> list[Step]:
    """The tensor-level numbers that the decoder reads."""

    def of_row(level: np.ndarray | np.float32) -> float:
        level = np.asarray(level)
        return float(level.reshape(-1)[0] if level.size == 1 else level[(*place.row, 0)])

    steps = []
    if packed.stored_scale is not None and packed.format.decode_order in ("divide", "amax-first"):
        stored = of_row(packed.stored_scale)
        told = f"what rule {packed.format.rule.name} stores beside the blocks, float32"
        steps.append(Step("tensor level", number(stored), told))
        data["stored_scale"] = stored
    elif packed.tensor_scale is not None:
        steps.append(Step("tensor scale", number(of_row(packed.tensor_scale)), "multiplier, float32"))
    if packed.tensor_scale is not None:
        data["tensor_scale"] = of_row(packed.tensor_scale)
    return steps


def _scale_step(packed: PackedTensor, place: _Place) -> Step:
    stored, element = packed.scales[place.scale], packed.format.rule.scale_element
    flat = int(np.ravel_multi_index(place.scale, packed.scales.shape))
    value = number(packed.decoded_scales()[place.scale])
    if element is None:
        return Step("scale", value, f"scales[{flat}], float32")
    return Step(
        "scale", value, f"scales[{flat}] = 0x{int(stored):02x}, {element.name} bits {bit_fields(int(stored), element)}"
    )


def _fine_steps(packed: PackedTensor, index: tuple[int, ...], code: int, data: dict[str, object]) -> list[Step]:
    fine, kind = int(packed.unpacked_fine()[index]), packed.format.fine
    data["fine"] = fine
    if kind.kind != "nested":
        signed = fine - 16 if fine > 7 else fine
        return [Step("fine code", str(signed), f"INT4 residual, {kind.kind} scale")]
    low, width = nested_edges(kind.top)
    magnitude = code & 7
    start, end = float(low[magnitude]), float(low[magnitude] + width[magnitude])
    cell = fine >> (4 - packed.planes)
    inside = nested_table(kind.top, packed.planes)[code, cell]
    return [
        Step("interval", f"{start:g} to {end:g}", "quotients (magnitudes) that round to this code"),
        Step("fine cell", f"{cell} of {1 << packed.planes}", f"{packed.planes} bit planes; centre {number(inside)}"),
    ]
