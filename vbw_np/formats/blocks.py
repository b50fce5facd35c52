"""Block formats as data: one frozen record a format, and the registry of their names.

A `BlockFormat` says what an element is, how elements share scales, by which rule a scale is formed, and how ties,
zeros and NaN are treated. One encoder and one decoder (`codec.py`) read the record; a new format is a new record.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .affine import OFFSET_8, Q4_0, Q4_1, Q8_0, ZERO_POINT
from .codebooks import BNB_FP4, IQ4_NL, NF4
from .elements import (
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    E8M0,
    FLAGGED_E4M3,
    INT4,
    INT4_OFFSET,
    INT4_TO_6,
    INT8,
    UE5M3,
    UINT4,
    Codebook,
    ElementFormat,
    FlaggedFormat,
)
from .errors import FormatError, unknown_name
from .ggml_search import IQ4_NL_RULE, Q4_K
from .scales import (
    MX_CEIL,
    MX_EVEN,
    MX_FLOOR,
    MX_RCEIL,
    TE,
    TE_ONE_LEVEL,
    ScaleRule,
    absmax_rule,
    e8m0_floor,
    e8m0_rceil,
    mx_rule,
    te_rule,
)


@dataclass(frozen=True)
class FineTier:
    """The second tier: four more bits an element.

    Parameters
    ----------
    kind : {"nested", "tied", "own", "row"}
        `nested`: the index of one of 16 equal cells inside the rounding interval of the element's own coarse
        code; no further scale, and the top k bits are a k-bit refinement. `tied`: INT4 residual whose step is
        the coarse scale / `divisor`. `own`: INT4 residual with its own scale a block (`scale` says which kind).
        `row`: INT4 residual with one float32 scale a row, row's max |residual| / 7.5 (seed-v6).
    top : float
        `nested` only: the upper edge of the largest code's interval, in units of the block scale.
    divisor : int
        `tied` only.
    scale : {"float32", "e4m3"}
        `own` only.
    """

    kind: str
    top: float = 6.375
    divisor: int = 8
    scale: str = "float32"


@dataclass(frozen=True)
class BlockFormat:
    """Everything that encoding and decoding need to know.

    Parameters
    ----------
    name, summary, source : str
    element : ElementFormat, Codebook or None
        None for `seed-v6`, whose codebook is made from the data.
    rule : ScaleRule
    block : int or None
        Elements along the last axis that share a scale; None: the whole row.
    block_rows : int
        Rows that share it too (16 for two-dimensional weight scales). Scales are stored replicated to 1 x block
        all the same, as TransformerEngine stores them, so that a decoder need not know.
    tensor_level : {"none", "tensor", "row"}
        What a second-level scale spans. `row`: one for each row of the last axis (activations: one per tensor
        would let a later token change an earlier one).
    ties, signed_zero : str
        Rounding and zero rule of the elements.
    nan_code : int
        The element code under NaN, where the non-finite policy lets it through.
    four_over_six : {"off", "mse", "mae"}
        Try each block with amax mapped to 6 and to 4 (scale times 1.5) and keep the smaller error; a tie keeps 6.
    nibble_order : {"low_first", "high_first", "split_half"}
        The producer's container; inside this package codes are always low nibble first.
    nibble_group : int
        Block length of split halves.
    flat : bool
        Blocks run over the flattened array, across row ends (bitsandbytes).
    fine : FineTier or None
    quantile_codebook : bool
        Levels are 16 quantiles of |w|, a sign bit beside them (`seed-v6`).
    decode_order : {"multiply", "scale-first", "amax-first", "divide", "halves"}
        `multiply`: (element * s) * t. `scale-first`: element * (s * t). `amax-first`: element * ((s * amax) * (1 / R)),
        with the rule's range R. `divide`: element * (s / g), with the stored reciprocal g. `halves`: (2 * element) *
        (s / 2), as ggml does with integers; every scale byte is a number there.
    positive_zero : bool
        Codes of -0 decode to +0.
    offset : {"none", "zero", "minimum"}
        `zero`: a zero point a block, (element - z) * s. `minimum`: element * s + m.
    second : Codebook, optional
        A second grid for the elements of a block, taken where its squared error is the smaller one; the highest bit of
        the block's scale says so (IF4).
    stored_bits : float, optional
        Bits a value of the container, where scales are kept wider in memory than in it.
    """

    name: str
    summary: str
    element: ElementFormat | Codebook | None
    rule: ScaleRule
    block: int | None = 16
    block_rows: int = 1
    tensor_level: str = "none"
    ties: str = "even"
    signed_zero: str = "keep"
    nan_code: int = 0
    four_over_six: str = "off"
    nibble_order: str = "low_first"
    nibble_group: int = 32
    flat: bool = False
    fine: FineTier | None = None
    quantile_codebook: bool = False
    decode_order: str = "multiply"
    positive_zero: bool = False
    source: str = ""
    offset: str = "none"
    stored_bits: float | None = None
    second: Codebook | None = None

    def __post_init__(self) -> None:
        why = _contradiction(self)
        if why:
            raise FormatError(f"format {self.name} contradicts itself: {why}")

    def block_length(self, length: int) -> int:
        """Elements a scale along a last axis of that length."""
        return length if self.block is None else self.block

    def blocks(self, length: int) -> int:
        """Blocks along a last axis of that length, the last one maybe ragged."""
        return -(-length // self.block_length(length))

    @property
    def code_bits(self) -> int:
        """Bits of a code."""
        return self.element.bits if self.element is not None else 4

    @property
    def bits(self) -> float | None:
        """Bits a value: element, fine tier and block scales, without what is counted per row or per tensor."""
        if self.stored_bits is not None:
            return self.stored_bits
        element = 5.0 if self.quantile_codebook else float(self.element.bits if self.element else 4)
        if self.block is not None:
            element += (8 if self.rule.scale_element else 32) / self.block
        if self.fine is not None:
            element += 4.0
            if self.fine.kind == "own":
                element += (32 if self.fine.scale == "float32" else 8) / (self.block or 1)
        return element

    def __reduce__(self) -> tuple:
        """Pickle a known record by its name (its rule holds functions, which do not travel)."""
        if any(table.get(self.name) is self for table in (FORMATS, PRODUCERS_OWN)):
            return known_format, (self.name,)
        raise FormatError(f"format {self.name} is not in a registry, so it cannot be pickled; send its parts instead")

    def __deepcopy__(self, memo: dict) -> BlockFormat:
        return self  # frozen

    def __repr__(self) -> str:
        return f"<format {self.name}: {self.bits:g} bits a value; {self.summary}>"


def _contradiction(fmt: BlockFormat) -> str:
    """What no encoder could do of what a record asks, in words; empty if there is nothing."""
    scale, fine = fmt.rule.scale_element, fmt.fine.kind if fmt.fine is not None else ""
    if fmt.quantile_codebook != (fmt.element is None):
        return "levels are either its element's or quantiles (quantile_codebook=True, element=None)"
    plain = fmt.block is None and fmt.block_rows == 1 and not scale and fmt.tensor_level == "none" and not fmt.flat
    if fmt.quantile_codebook and (not plain or fine != "row"):
        return "quantiles have one float32 scale a row for their residual (block=None, fine='row') and nothing else"
    if fine == "row" and not fmt.quantile_codebook:
        return "the fine tier 'row' refines quantiles; take 'own' or 'tied'"
    if fine == "nested" and fmt.element != E2M1:
        return "the fine tier 'nested' divides the rounding intervals of E2M1"
    if fmt.rule.affine is not None and (fine or fmt.tensor_level != "none" or fmt.four_over_six != "off" or fmt.second):
        return f"rule {fmt.rule.name} makes scales and codes itself, so there is no other tier, level or choice"
    if fmt.tensor_level != "none" and not fmt.rule.two_level:
        return f"rule {fmt.rule.name} has one level, and the format asks for two"
    if fmt.tensor_level == "none" and fmt.rule.two_level and fmt.rule.numbers is None:
        return f"rule {fmt.rule.name} has two levels, and the format asks for one"
    if fmt.second is not None and (not isinstance(scale, FlaggedFormat) or fmt.code_bits != 4):
        return "a second grid of 4-bit elements needs block scales with a bit that says which it is (FLAGGED_E4M3)"
    if fmt.block_rows > 1 and fmt.flat:
        return "blocks that run across row ends cannot span rows as well"
    if fmt.decode_order == "halves" and scale not in (E8M0, E4M3):
        return "half a scale is decoded from a byte of E8M0 or E4M3"
    return ""


_MX = dict(element=E2M1, block=32, source="OCP Microscaling Formats (MX) v1.0, section 6.3")
_NV = dict(element=E2M1, block=16, signed_zero="drop", source="arXiv:2509.25149 appendix B; TransformerEngine")

_GGML = dict(block=32, nibble_order="split_half", source="ggml: ggml-quants.c")


def mx_floor(emax: int) -> ScaleRule:
    """The OCP rule for elements whose largest power of two is 2**emax."""
    return mx_rule(f"mx-floor-{emax}", lambda amax: e8m0_floor(amax, emax), "exponent of amax (OCP MX v1.0)")


def _fp8(name: str, element: ElementFormat) -> tuple[BlockFormat, ...]:
    """FP8 with plain float32 scales: one a tensor, a row, per 1 x 128, per 128 x 128."""
    rule, kind = absmax_rule(element.max), f"{element.name.upper()}, one fp32 scale"
    by = f"(amax / {element.max:g})"
    tiles = {"block": 128, "source": "DeepSeek-V3, arXiv:2412.19437 section 3.3"}
    square = {"block_rows": 128, "stored_bits": 8 + 32 / 128**2, **tiles}
    return (
        BlockFormat(f"{name}-tensor", f"{kind} a tensor {by}", element, rule, None, flat=True),
        BlockFormat(f"{name}-row", f"{kind} a row {by}", element, rule, block=None),
        BlockFormat(f"{name}-1x128", f"{kind} per 128 {by}", element, rule, **tiles),
        BlockFormat(f"{name}-128x128", f"{kind} per 128 x 128 tile {by}", element, rule, **square),
    )


_MIXED = (
    BlockFormat("mxfp8-e4m3", "E4M3, E8M0 scale per 32, floor rule", rule=mx_floor(8), **{**_MX, "element": E4M3}),
    BlockFormat("mxfp8-e5m2", "E5M2, E8M0 scale per 32, floor rule", rule=mx_floor(15), **{**_MX, "element": E5M2}),
    BlockFormat("mxfp6-e2m3", "E2M3, E8M0 scale per 32, floor rule", rule=mx_floor(2), **{**_MX, "element": E2M3}),
    BlockFormat("mxfp6-e3m2", "E3M2, E8M0 scale per 32, floor rule", rule=mx_floor(4), **{**_MX, "element": E3M2}),
    *_fp8("fp8", E4M3),
    *_fp8("fp8-e5m2", E5M2),
    BlockFormat("int8-tensor", "INT8 in -127..127, one fp32 scale a tensor", INT8, absmax_rule(127), None, flat=True),
    BlockFormat("int8-row", "INT8 in -127..127, one fp32 scale a row (amax / 127)", INT8, absmax_rule(127), block=None),
    *(
        BlockFormat(
            f"int4-zero-g{block}",
            f"UINT4 less a zero point, fp32 scale per {block}: ((max - min) / 15)",
            UINT4,
            ZERO_POINT,
            block=block,
            offset="zero",
            stored_bits=4 + 20 / block,
            source="compressed-tensors, AWQ, GPTQ",
        )
        for block in (32, 64, 128)
    ),
    *(
        BlockFormat(
            f"int4-offset8-g{block}",
            f"INT4 in -8..7 stored + 8, fp32 scale per {block} (amax / 7.5)",
            INT4_OFFSET,
            OFFSET_8,
            block=block,
            stored_bits=4 + 16 / block,
            source="compressed-tensors pack-quantized",
        )
        for block in (32, 64, 128)
    ),
    BlockFormat("q4_0", "INT4 in -8..7, signed fp16 scale per 32", INT4_OFFSET, Q4_0, stored_bits=4.5, **_GGML),
    BlockFormat(
        "q4_1", "UINT4, fp16 scale and minimum per 32", UINT4, Q4_1, offset="minimum", stored_bits=5.0, **_GGML
    ),
    BlockFormat("q8_0", "INT8 in -127..127, fp16 scale per 32", INT8, Q8_0, stored_bits=8.5, **_GGML),
    BlockFormat(
        "q4_k",
        "UINT4, scale and minimum per 32, in 6 bits under two fp16 per 256",
        UINT4,
        Q4_K,
        offset="minimum",
        stored_bits=4.5,
        **_GGML | {"nibble_group": 64},
    ),
    BlockFormat("iq4_nl", "16 uneven levels, fp16 scale per 32", IQ4_NL, IQ4_NL_RULE, stored_bits=4.5, **_GGML),
)


def _four_over_six(name: str, kind: str, caps: tuple[int, ...] = (256,), **fields: object) -> tuple[BlockFormat, ...]:
    """Each block mapped to 6 or to 4: by squared or absolute error, under scales up to 256 or 448."""
    return tuple(
        BlockFormat(
            f"{name}-4over6" + ("-mae" if error == "mae" else "") + ("-448" if cap == 448 else ""),
            f"{kind}, each mapped to 6 or 4 by {word} error, scales up to {cap}",
            rule=te_rule(f"te-cap-{cap}", cap=cap),
            four_over_six=error,
            **{**_NV, "source": "arXiv:2512.02010; TransformerEngine #2972"},
            **fields,
        )
        for cap in caps
        for error, word in (("mse", "squared"), ("mae", "absolute"))
    )


def _ue5m3(name: str, words: str, headroom: float = 1.0, **fields: object) -> BlockFormat:
    """E2M1 under UE5M3 scales, whose range makes a tensor scale needless."""
    rule = te_rule(f"te-{name}", headroom=headroom, two_level=False, element=UE5M3)
    return BlockFormat(name, f"E2M1, UE5M3 scale {words}", rule=rule, **{**_NV, "source": "arXiv:2509.17791"}, **fields)


def _if4(name: str, words: str, **fields: object) -> BlockFormat:
    """E2M1 or INT4, whichever errs less in a block, told by the scale's sign bit."""
    rule, source = te_rule("te-if4", element=FLAGGED_E4M3), "arXiv:2603.28765; mit-han-lab/fouroversix dadfad6"
    kind = f"IF4: E2M1 or INT4, whichever errs less, {words}"
    return BlockFormat(name, kind, rule=rule, second=INT4_TO_6, **{**_NV, "source": source}, **fields)


_RECORDS = (
    BlockFormat("mxfp4", "E2M1, E8M0 scale per 32, floor rule", rule=MX_FLOOR, **_MX),
    BlockFormat("mxfp4-even", "MXFP4 with the even scale rule", rule=MX_EVEN, **_MX),
    BlockFormat("mxfp4-ceil", "MXFP4 with the ceil scale rule", rule=MX_CEIL, **_MX),
    BlockFormat("mxfp4-rceil", "MXFP4 with the rceil scale rule", rule=MX_RCEIL, **_MX),
    BlockFormat("nvfp4", "E2M1, E4M3 scale per 16, fp32 scale a tensor", rule=TE, tensor_level="tensor", **_NV),
    BlockFormat("nvfp4-1level", "NVFP4 without the tensor scale", rule=TE_ONE_LEVEL, **_NV),
    BlockFormat("nvfp4-row-scaled", "NVFP4 with one fp32 scale a row", rule=TE, tensor_level="row", **_NV),
    BlockFormat(
        "nvfp4-16x16", "NVFP4 with one scale per 16 x 16 tile", rule=TE, tensor_level="tensor", block_rows=16, **_NV
    ),
    BlockFormat("nvfp4-16x16-1level", "16 x 16 tiles, no tensor scale", rule=TE_ONE_LEVEL, block_rows=16, **_NV),
    *_four_over_six("nvfp4", "NVFP4", tensor_level="tensor"),
    *_four_over_six("nvfp4-16x16", "NVFP4 16 x 16 tiles", tensor_level="tensor", block_rows=16),
    *_four_over_six("nvfp4-row", "NVFP4 with one fp32 scale a row", (256, 448), tensor_level="row"),
    BlockFormat(
        "nvfp4-headroom",
        "NVFP4 with 16/17 headroom, for unbiased stochastic rounding",
        rule=te_rule("te-headroom", headroom=16 / 17),
        tensor_level="tensor",
        **{**_NV, "source": "arXiv:2601.22813"},
    ),
    BlockFormat(
        "nvfp4-row-headroom",
        "NVFP4 with 16/17 headroom and one fp32 scale a row, for unbiased stochastic rounding",
        rule=te_rule("te-headroom", headroom=16 / 17),
        tensor_level="row",
        **{**_NV, "source": "arXiv:2601.22813"},
    ),
    BlockFormat(
        "nvfp4-eden",
        "NVFP4 with room for MS-EDEN's correction: scales up to 256, amax at 6 * 16/17 / 0.93",
        rule=te_rule("te-eden", cap=256, headroom=16 / 17 / 0.93),
        tensor_level="tensor",
        **{**_NV, "source": "arXiv:2601.22813"},
    ),
    _ue5m3("fp4-ue5m3", "per 16, no tensor scale"),
    _ue5m3("fp4-ue5m3-16x16", "per 16 x 16 tile, no tensor scale", block_rows=16),
    _ue5m3("fp4-ue5m3-headroom", "per 16, no tensor scale, 16/17 headroom for stochastic rounding", 16 / 17),
    _if4("if4", "E4M3 scale per 16, fp32 scale a tensor", tensor_level="tensor"),
    _if4("if4-16x16", "E4M3 scale per 16 x 16 tile, fp32 scale a tensor", tensor_level="tensor", block_rows=16),
    _if4("if4-row", "E4M3 scale per 16, fp32 scale a row", tensor_level="row"),
    BlockFormat(
        "nvfp4-nested",
        "NVFP4 and 4 bits more inside each code's interval",
        rule=TE,
        tensor_level="tensor",
        fine=FineTier("nested", top=6.375),
        **{**_NV, "signed_zero": "never", "source": "this project"},
    ),
    BlockFormat(
        "nvfp4-tied7",
        "NVFP4 and an INT4 residual, step = scale / 7",
        rule=TE,
        tensor_level="tensor",
        fine=FineTier("tied", divisor=7),
        **{**_NV, "source": "this project"},
    ),
    BlockFormat(
        "nvfp4-tied8",
        "NVFP4 and an INT4 residual, step = scale / 8",
        rule=TE,
        tensor_level="tensor",
        fine=FineTier("tied", divisor=8),
        **{**_NV, "source": "this project"},
    ),
    BlockFormat(
        "nvfp4-own",
        "NVFP4 and an INT4 residual with its own fp32 scale per 16",
        rule=TE,
        tensor_level="tensor",
        fine=FineTier("own"),
        **{**_NV, "source": "this project"},
    ),
    BlockFormat(
        "nvfp4-own-e4m3",
        "NVFP4 and an INT4 residual with its own E4M3 scale per 16",
        rule=TE,
        tensor_level="tensor",
        fine=FineTier("own", scale="e4m3"),
        **{**_NV, "source": "this project"},
    ),
    BlockFormat(
        "mxfp4-nested",
        "MXFP4 and 4 bits more inside each code's interval",
        rule=MX_FLOOR,
        fine=FineTier("nested", top=8.0),
        **{**_MX, "source": "this project"},
        signed_zero="never",
    ),
    BlockFormat("fp4-row", "E2M1, one fp32 scale a row (amax / 6)", E2M1, absmax_rule(6), block=None),
    BlockFormat("fp4-g16", "E2M1, one fp32 scale per 16", E2M1, absmax_rule(6), block=16),
    BlockFormat(
        "nf4",
        "NormalFloat4, fp32 absmax per 64",
        NF4,
        absmax_rule(1),
        block=64,
        ties="down",
        source="arXiv:2305.14314 appendix E",
    ),
    BlockFormat(
        "bnb-fp4",
        "bitsandbytes' FP4, fp32 absmax per 64",
        BNB_FP4,
        absmax_rule(1),
        block=64,
        ties="down",
        source="bitsandbytes",
    ),
    BlockFormat("int4-row", "INT4 in -7..7, fp32 scale a row (amax / 7)", INT4, absmax_rule(7), block=None),
    BlockFormat("int4-g16", "INT4 in -7..7, fp32 scale per 16", INT4, absmax_rule(7), block=16),
    BlockFormat("int4-g32", "INT4 in -7..7, fp32 scale per 32", INT4, absmax_rule(7), block=32),
    BlockFormat("int4-g128", "INT4 in -7..7, fp32 scale per 128", INT4, absmax_rule(7), block=128),
    BlockFormat(
        "int4-e4m3",
        "INT4, E4M3 scale per 16, fp32 scale a tensor (NVINT4)",
        INT4,
        te_rule("te-int4", largest=7),
        block=16,
        tensor_level="tensor",
        source="arXiv:2510.25602",
    ),
    BlockFormat(
        "mxint4",
        "INT4, E8M0 scale per 32, not below amax / 7",
        INT4,
        mx_rule("mx-rceil-7", lambda amax: e8m0_rceil(amax, 7.0), "power of two not below amax / 7", 7.0),
        block=32,
        source="arXiv:2510.25602",
    ),
    BlockFormat(
        "seed-v6",
        "16 quantiles of |w| and a sign; INT4 residual with a scale a row",
        None,
        absmax_rule(7.5),
        block=None,
        fine=FineTier("row"),
        quantile_codebook=True,
        source="this project's seed report",
    ),
)

FORMATS: dict[str, BlockFormat] = {record.name: record for record in (*_RECORDS, *_MIXED)}
PRODUCERS_OWN: dict[str, BlockFormat] = {}
"""The records of the profiles, by the profile's name (`profiles` fills it)."""


def get_format(name: str | BlockFormat) -> BlockFormat:
    """A block format by name, or the record itself.

    Raises
    ------
    UnknownNameError
        Lists the names that exist.
    """
    if isinstance(name, BlockFormat):
        return name
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    return FORMATS[name]


def known_format(name: str) -> BlockFormat:
    """A format by its own name or a profile's."""
    if name in PRODUCERS_OWN and name not in FORMATS:
        return PRODUCERS_OWN[name]
    if name in FORMATS:
        return get_format(name)
    raise unknown_name("format or profile", name, [*FORMATS, *PRODUCERS_OWN])


def codebook_format(name: str, levels: Sequence[float], block: int | None = 64) -> BlockFormat:
    """A format of your own: up to 16 levels (Lloyd-Max, quantiles, ...) and one float32 absmax a block.

    Parameters
    ----------
    name : str
    levels : 2 to 16 finite numbers, ascending, for values divided by their block's absmax (so within -1 to 1)
    block : int or None
        Elements a scale; None for the whole row.
    """
    levels = tuple(float(v) for v in levels)
    if not 2 <= len(levels) <= 16:
        raise FormatError(f"codebook {name} has {len(levels)} levels; a 4-bit code has room for 2 to 16")
    if not all(a < b for a, b in itertools.pairwise(levels)) or not all(map(math.isfinite, levels)):
        raise FormatError(f"the levels of codebook {name} must be finite and ascend: sort them, drop repeated ones")
    element = Codebook(name, levels, ties="down")
    return BlockFormat(
        name, f"{len(levels)} levels, fp32 absmax per {block or 'row'}", element, absmax_rule(1), block, ties="down"
    )


def apply_options(fmt: BlockFormat, ties: str | None = None) -> BlockFormat:
    """The format with another rounding rule."""
    if ties is None or ties == fmt.ties:
        return fmt
    if fmt.rule.affine is not None:
        raise FormatError(
            f"{fmt.name} rounds as its producer does, and knows no other way: ties={ties!r} would be ignored; use a "
            "format whose levels are rounded to by a tie rule, such as int4-g32"
        )
    if fmt.fine is not None:
        raise FormatError(
            f"{fmt.name} has a fine tier that refines round-to-nearest-even intervals: ties={ties!r} does not fit; "
            "use a format of one tier"
        )
    return replace(fmt, ties=ties)
