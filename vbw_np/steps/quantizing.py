"""How one operand becomes codes, as events: by the definitions of `vbw_np.formats`, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats import BlockFormat, Codebook, FittedScales, PackedTensor, quantize
from ..formats.codec import block_amax, quotients, tensor_amax
from ..formats.explain import all_bits
from ..formats.packed import FLAG, in_second_grid, nested_edges
from ..formats.random_bits import random_bits, uniform24
from ..formats.scales import FLOAT32_MAX, te_encode_scale
from . import choosing
from .matrix import Matrix, described, elements
from .story import Story
from .values import LISTED, ONE, Axis, Value, along

ONES = np.float32(1)


def operand(
    story: Story,
    matrix: Matrix,
    fmt: BlockFormat,
    *,
    key: tuple[int, int] | None = None,
    reuse: FittedScales | None = None,
    planes: int | None = None,
    mend: Callable[[PackedTensor], PackedTensor] | None = None,
) -> PackedTensor:
    """Tell how a matrix is quantized.

    Parameters
    ----------
    story : Story
    matrix : Matrix
    fmt : BlockFormat
    key : (seed, stream), optional
        Round stochastically by these random bits.
    reuse : FittedScales, optional
        Scales that are kept.
    planes : int, optional
        Bit planes of the fine tier that are asked for; 0: the coarse tier alone.
    mend : callable, optional
        Tells what becomes of the scales once the codes are known.
    """
    options = {"ties": "stochastic", "seed": key[0], "stream": key[1]} if key is not None else {}
    packed = quantize(matrix.data, fmt, reuse=reuse, measure=False, **options)
    if fmt.fine is not None and planes is not None and planes != packed.planes:
        packed = packed.with_planes(planes) if planes else packed.coarse()
    _scales(story, matrix, packed, kept=reuse is not None)
    _codes(story, matrix, packed, key)
    if packed.planes:
        _fine_tier(story, matrix, packed)
    if mend is not None:
        packed = mend(packed)
    _bytes(story, matrix, packed)
    return packed


# ---- scales


def _scales(story: Story, matrix: Matrix, packed: PackedTensor, kept: bool) -> None:
    fmt = packed.format
    if fmt.quantile_codebook:
        _codebook(story, matrix, packed, kept)
    elif kept:
        _kept_scales(story, matrix, packed)
    else:
        level = _level(story, matrix, packed)
        _block_scales(story, matrix, packed, level)


def _kept_scales(story: Story, matrix: Matrix, packed: PackedTensor) -> None:
    values = {"scale": Value.of(packed.decoded_scales(), *matrix.scale_axes(packed.format))}
    story.add(
        "scales kept",
        "The scale cache still holds the scales of before, and they are used again: this block's is {scale}. Amax "
        "is not measured; a weight that has grown past it saturates.",
        values | _multiplier(matrix, packed),
        described(packed.format),
        ("scale",),
    )


def _level_axes(matrix: Matrix, array: Any) -> tuple[Axis, ...]:
    return () if np.ndim(array) == 0 else (along(matrix.rows), ONE)


def _multiplier(matrix: Matrix, packed: PackedTensor) -> dict[str, Value]:
    level = packed.tensor_scale
    return {} if level is None else {"multiplier": Value.of(level, *_level_axes(matrix, level))}


def _level(story: Story, matrix: Matrix, packed: PackedTensor) -> dict[str, Value]:
    """The second level: one float32 for the tensor, or for each row."""
    fmt = packed.format
    amax = tensor_amax(matrix.data, fmt)
    if amax is None:
        return {}
    axes = _level_axes(matrix, amax)
    values = {"amax": Value.of(amax, *axes), **_multiplier(matrix, packed)}
    span = matrix.name if fmt.tensor_level == "tensor" else f"this {matrix.rows}'s row of {matrix.name}"
    numbers = fmt.rule.told or fmt.rule.numbers
    if numbers is None:
        story.add(
            "tensor scale",
            f"The largest magnitude of {span} is {{amax}}; decoding multiplies with {{multiplier}}.",
            values, described(fmt), ("amax",),
        )  # fmt: skip
        return values
    top = f"{numbers.largest:g} x {numbers.cap:g} = {float(numbers.range):g}"
    values["encode"] = Value.of(te_encode_scale(amax, numbers.cap, numbers.largest), *axes)
    story.add(
        "tensor scale",
        f"First the second level. The largest magnitude of {span} is {{amax}}. The largest code times the largest "
        f"block scale is {top}; so all is multiplied with {{encode}} on the way in, and with {{multiplier}} = amax / "
        f"{float(numbers.range):g} on the way out.",
        values,
        described(fmt),
        ("amax",),
    )
    return values


def _block_scales(story: Story, matrix: Matrix, packed: PackedTensor, level: dict[str, Value]) -> None:
    fmt = packed.format
    axes = matrix.scale_axes(fmt)
    if fmt.rule.affine is None:
        span = _span(fmt, matrix)
        story.add(
            "block amax",
            f"Its scale is shared by {span}; the largest magnitude among them is {{amax}}.",
            {"amax": Value.of(block_amax(matrix.data, fmt), *axes), "x": matrix.value()},
            described(fmt),
            ("amax", "x"),
        )
    if fmt.four_over_six != "off":
        choosing.two_scales(story, matrix, packed)
    values = {"scale": Value.of(packed.decoded_scales(), *axes)}
    facts = described(fmt)
    element = fmt.rule.scale_element
    if element is not None:
        values["code"] = Value.of(packed.scales if fmt.second is None else packed.scales & ~FLAG, *axes)
        facts["code_bits"] = list(all_bits(element))
    if packed.offsets is not None:
        values["offset"] = Value.of(packed.offsets, *axes)
    wanted = _wanted(matrix, packed, level)
    if wanted is not None:
        values["wanted"] = Value.of(wanted, *axes)
    story.add("scale", _scale_sentence(packed, wanted is not None), values, facts, ("scale",))
    if fmt.second is not None:
        choosing.two_grids(story, matrix, packed)


def _span(fmt: BlockFormat, matrix: Matrix) -> str:
    if fmt.block is None:
        return "the whole matrix" if fmt.flat else f"the whole row of this {matrix.rows}"
    length = min(fmt.block, matrix.data.shape[1])
    short = f" (a block of {fmt.block} that the row does not fill)" if length < fmt.block else ""
    if fmt.block_rows > 1:
        return f"a tile of {min(fmt.block_rows, matrix.data.shape[0])} x {length} elements{short}"
    return f"{length} elements in a row{short}"


def _wanted(matrix: Matrix, packed: PackedTensor, level: dict[str, Value]) -> NDArray | None:
    """The scale before it is rounded to its format, where the rule is numbers."""
    fmt = packed.format
    numbers = fmt.rule.told or fmt.rule.numbers
    if numbers is None or fmt.four_over_six != "off":
        return None
    amax = block_amax(matrix.data, fmt)
    if numbers.family == "te":
        encode = level["encode"].data if "encode" in level else ONES
        with np.errstate(over="ignore"):
            wanted = np.minimum(amax * (encode * numbers.inverse), FLOAT32_MAX)
        return np.minimum(wanted, np.float32(fmt.rule.scale_element.max))
    return amax / np.float32(numbers.largest)


def _scale_sentence(packed: PackedTensor, knows_wanted: bool) -> str:
    fmt = packed.format
    numbers, element = fmt.rule.told or fmt.rule.numbers, fmt.rule.scale_element
    if element is None:
        divided = f"amax / {numbers.largest:g} = " if numbers is not None else "by its rule "
        return f"Its scale is {divided}{{scale}}, kept as a float32 of four bytes."
    code = f"code {{code:x}}, bits {{code@code_bits}} of {element.name}"
    if fmt.four_over_six != "off":
        return f"So its scale is {{scale}}, {code}."
    if not knows_wanted:
        return f"By the rule {fmt.rule.name} ({fmt.rule.summary}) its scale is {{scale}}, {code}."
    if numbers is not None and numbers.family == "mx":
        how = {
            "floor": "the power of two of amax's own exponent, less 2",
            "even": "the same, of amax rounded to one bit of mantissa",
            "ceil": "the exponent of amax rounded up, less 2",
            "rceil": "the least power of two that is not below that",
        }[numbers.exponent]
        return f"Amax / 6 is {{wanted}}. A scale here is a power of two: {how}, {{scale}}, {code}."
    head = ""
    if numbers.headroom < 1:
        head = " (with a sixteenth of room, so that no rounding can push it over the top)"
    elif numbers.headroom > 1:
        head = f" (here a little beyond it, to {numbers.largest * numbers.headroom:.4g}, as its publication chose)"
    return (
        f"To bring that amax to the largest code{head} it takes a scale of {{wanted}}. A scale is one byte here, and "
        f"the nearest that {element.name} has is {{scale}}, {code}."
    )


def _codebook(story: Story, matrix: Matrix, packed: PackedTensor, kept: bool) -> None:
    story.add(
        "codebook",
        ("The scale cache still holds the codebook of before: " if kept else "There is no scale: the levels are 16 "
         "quantiles of all magnitudes, ")
        + "{codebook}. The residual, what they leave, has one scale a row, {scale}.",
        {
            "scale": Value.of(packed.scales, along(matrix.rows), ONE),
            "codebook": Value.of(packed.codebook, LISTED),
            "x": matrix.value(),
        },
        described(packed.format) | {"kept": kept},
        ("scale", "x"),
    )  # fmt: skip


# ---- codes


def _codes(story: Story, matrix: Matrix, packed: PackedTensor, key: tuple[int, int] | None) -> None:
    fmt = packed.format
    codes = packed.unpacked_codes()
    facts = described(fmt)
    values = {"code": matrix.value(codes), "x": matrix.value()}
    if fmt.quantile_codebook:
        values |= {"element": matrix.value(packed.dequantize(0))}
        values |= {"sign": matrix.value((matrix.data < 0).astype(np.uint8))}
        sentence = (
            "{x}: the last level that is not above its magnitude is number {code}; with the sign {sign?+|-} it is "
            "{element}."
        )
        story.add("codes", sentence, values, facts, ("code", "x"))
        return
    facts["code_bits"] = list(all_bits(fmt.element))
    values["element"] = matrix.value(elements(packed))
    if fmt.rule.affine is not None:
        sentence = "{x} becomes code {code}, bits {code@code_bits}, by the rule of its format."
        story.add("codes", sentence, values, facts, ("code", "x"))
        return
    q = quotients(matrix.data, fmt, FittedScales.of(packed))
    arrays, size, own = _neighbors(fmt, q), np.abs(q), np.abs(values["element"].data)
    if fmt.second is not None:
        facts |= {"grids": list(choosing.GRIDS), "code_bits": [f"{code:04b}" for code in range(16)]}
        arrays["second"] = in_second_grid(packed.scales, packed.shape, fmt).astype(np.uint8)
        arrays |= choosing.neighbors(fmt, q, arrays)
        size, own = (np.where(arrays["second"], *both) for both in ((q, size), (values["element"].data, own)))
    arrays["up"] = (own > arrays["low"]).astype(np.uint8)
    if key is not None:
        _random(story, matrix, key)
        arrays |= {"draw": uniform24(random_bits(matrix.data.shape, *key)), "share": _share(size, arrays)}
    values |= {name: matrix.value(array) for name, array in ({"quotient": q} | arrays).items()}
    story.add("codes", _code_sentence(fmt, key is not None), values, facts, ("code", "x"))


def _code_sentence(fmt: BlockFormat, by_chance: bool) -> str:
    name = fmt.element.name.upper() if fmt.second is None else "{second@grids}"
    how = (
        "that is {share} of the way from one to the other. The draw is {draw}; it goes up where the draw is less, "
        "so here"
        if by_chance
        else "the nearer one is taken, and of two as near the one whose last bit is 0: so"
    )
    whole = "magnitude, or none above it" if fmt.second is None else "number, or none beyond it"
    return (
        f"In units of its scale {{x}} is {{quotient}}. {{between?{name} has that {whole}, and "
        f"takes|{name} has {{low}} and {{high}} on either side; {how} it goes {{up?down|up}}, to}} {{element}}: code "
        "{code}, bits {code@code_bits}."
    )


def _neighbors(fmt: BlockFormat, q: NDArray) -> dict[str, NDArray]:
    """The magnitudes on either side of a quotient's: equal where there is nothing above."""
    if isinstance(fmt.element, Codebook):
        levels = np.unique(np.abs(fmt.element.table))
    else:
        levels = np.asarray(fmt.element.magnitudes, np.float32)
    low, high, between = choosing.between_levels(np.abs(q), levels)
    return {"low": low, "high": high, "between": between.astype(np.uint8)}


def _share(size: NDArray, arrays: dict[str, NDArray]) -> NDArray:
    """How far a number has come from its lower neighbor to the upper one, in float32."""
    low, high = arrays["low"], arrays["high"]
    step = np.where(high > low, high - low, ONES)
    by_reciprocal = ((size - low) * (ONES / step)).astype(np.float32)
    return np.where(arrays["second"], (size - low) / step, by_reciprocal) if "second" in arrays else by_reciprocal


def _random(story: Story, matrix: Matrix, key: tuple[int, int]) -> None:
    bits = random_bits(matrix.data.shape, *key)
    story.add(
        "random bits",
        "Rounding is by chance here, in proportion to the distance. The chance is a hash of the draw's key "
        f"({key[0]}, {key[1]}) and the element's own number, so anyone can compute it again: {{bits:x}}, of which the "
        "highest 24 bits, as a fraction, are {draw}.",
        {"draw": matrix.value(uniform24(bits)), "bits": matrix.value(bits)},
        {"key": list(key)},
        ("draw",),
    )


# ---- fine tier and bytes


def _fine_tier(story: Story, matrix: Matrix, packed: PackedTensor) -> None:
    """Four more bits an element: of these, the planes that were asked for."""
    fmt = packed.format
    fine = packed.unpacked_fine()
    coarse, whole = packed.dequantize(0), packed.dequantize()
    values = {
        "fine": matrix.value(fine),
        "x": matrix.value(),
        "coarse": matrix.value(coarse),
        "both": matrix.value(whole),
    }
    facts = described(fmt) | {"planes": packed.planes, "fine_bits": [f"{code:04b}" for code in range(16)]}
    if fmt.fine.kind == "nested":
        low, width = nested_edges(fmt.fine.top)
        magnitude = packed.unpacked_codes() & 7
        values |= {"start": matrix.value(low[magnitude]), "width": matrix.value(width[magnitude])}
        sentence = (
            "The code stands for an interval that begins at {start} and is {width} wide. The fine tier cuts it into 16 "
            f"cells; {packed.planes} of the cell's four bits were asked for: {{fine@fine_bits}}. The coarse tier alone "
            "says {coarse}, with them it is {both}."
        )
    else:
        if packed.fine_scales is not None:
            values["fine_scale"] = Value.of(packed.fine_scales, *matrix.scale_axes(fmt))
        if packed.fine_tensor_scale is not None:
            values["fine_multiplier"] = Value.of(packed.fine_tensor_scale)
        sentence = (
            "What the coarse tier leaves of {x}, where it says {coarse}, is rounded to a signed number of four bits: "
            "{fine@fine_bits}. Both together say {both}."
        )
    story.add("fine tier", sentence, values, facts, ("fine", "coarse", "both"))


def _bytes(story: Story, matrix: Matrix, packed: PackedTensor) -> None:
    fmt = packed.format
    bits = fmt.code_bits
    values = {"byte": Value.of(packed.codes, *matrix.byte_axes(fmt, bits))}
    values["code"] = matrix.value(packed.unpacked_codes())
    axes = matrix.scale_axes(fmt)
    facts: dict[str, Any] = {"format": fmt.name, "bits": bits, "nbytes": packed.nbytes, "full": 4 * packed.size}
    facts |= {"bits_per_value": packed.bits_per_value, "planes": packed.planes}
    if packed.scales.ndim == len(axes) and not fmt.quantile_codebook:
        values["scale"] = Value.of(packed.scales, *axes)
    if packed.fine is not None:
        values["fine_byte"] = Value.of(packed.fine, *matrix.byte_axes(fmt, 4))
    if packed.signs is not None:
        values["sign_byte"] = Value.of(packed.signs, *matrix.byte_axes(fmt, 1))
    two = "Two codes share a byte, the first of them in the low half: " if bits == 4 else ""
    story.add(
        "bytes",
        f"{two}this element's byte is {{byte:x}}. Codes, scales and all are {{nbytes}} bytes, {{bits_per_value}} bits "
        "a value; as float32 they would be {full}.",
        values,
        facts,
        ("byte",),
    )


def decoded(
    story: Story, matrix: Matrix, packed: PackedTensor, lead: str = "Back to a number"
) -> NDArray[np.float32]:
    """Tell how the codes become numbers again, or what they stand for; returns those numbers."""
    fmt = packed.format
    out = packed.dequantize()
    values = {"decoded": matrix.value(out), "x": matrix.value(), "error": matrix.value(out - matrix.data)}
    if fmt.quantile_codebook:
        sentence = "Looked up and put together, it is {decoded}: {x} has an error of {error}."
    else:
        values["element"] = matrix.value(elements(packed))
        values["scale"] = Value.of(packed.decoded_scales(), *matrix.scale_axes(fmt))
        values |= _multiplier(matrix, packed)
        formula = "{element} x {scale}" + (" x {multiplier}" if packed.tensor_scale is not None else "")
        formula += ", with the fine tier," if packed.planes else ""
        sentence = f"{lead}: {formula} = {{decoded}}. It was {{x}}, so it is off by {{error}}."
    story.add("decoding", sentence, values, described(fmt), ("decoded", "x", "error"))
    return out
