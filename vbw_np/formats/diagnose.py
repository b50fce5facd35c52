"""Why do two packed tensors of one matrix differ? `diagnose(a, b)` names the mismatch.

It tries the mistakes that people make between producers: swapped nibbles, split halves read as pairs (or the other
way), a reciprocal or amax read as a multiplier, swizzled scales read as plain ones; and the honest differences:
scale rule, tie rule, sign of zero. With the source matrix it also finds the profiles that write exactly a and b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .codec import FittedScales, quantize, quotients
from .elements import ElementFormat, as_float32
from .errors import FormatError, ShapeError
from .measure import relative_mse
from .other_parts import Finding, decoding, other_parts
from .packed import PackedTensor, from_blocks, in_second_grid, layout_shape, to_blocks
from .packing import pack_nibbles, swizzle_scales, unpack_nibbles
from .profiles import PROFILES


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Parameters
    ----------
    findings : tuple of Finding
        Empty when the tensors are equal.
    codes_differ, scales_differ : int
        How many codes and block scales differ as stored.
    relative_mse : float
        Of b's decoded values against a's.
    """

    findings: tuple[Finding, ...]
    codes_differ: int
    scales_differ: int
    relative_mse: float

    @property
    def names(self) -> tuple[str, ...]:
        """The findings' names."""
        return tuple(f.name for f in self.findings)

    def __str__(self) -> str:
        if not self.findings:
            return "the two tensors are equal, byte for byte"
        head = (
            f"{self.codes_differ:,} codes and {self.scales_differ:,} scales differ; "
            f"relative squared difference of the decoded values {self.relative_mse:.3g}"
        )
        lines = [f"- {f.name}: {f.what}. {f.fix}" for f in self.findings]
        return "\n".join([head, *lines])

    __repr__ = __str__


def diagnose(a: PackedTensor, b: PackedTensor, x: np.ndarray | None = None) -> Diagnosis:
    """Name the reasons for which two packed tensors of one matrix differ.

    Parameters
    ----------
    a, b : PackedTensor of the same shape; `a` is taken to be right
    x : float array, optional
        The matrix itself: quotients then tell ties from other differences, and profiles can be recognised.
    """
    if a.shape != b.shape:
        raise ShapeError(f"the tensors have shapes {a.shape} and {b.shape}; only tensors of one matrix can be compared")
    if x is not None and np.shape(x) != a.shape:
        raise ShapeError(f"the source has shape {np.shape(x)}, the packed tensors {a.shape}; they must be equal")
    findings: list[Finding] = []
    shared = [t.format.block_length(layout_shape(t.shape, t.format)[-1]) for t in (a, b)]
    if shared[0] != shared[1]:
        findings.append(
            Finding(
                "block size",
                f"{shared[0]} elements share a scale in one, {shared[1]} in the other",
                "Compare tensors of one format.",
            )
        )
    elif not _same_element(a, b):
        kinds = [getattr(t.format.element, "name", "quantiles") for t in (a, b)]
        findings.append(Finding("elements", f"codes are {kinds[0]} and {kinds[1]}", "Compare tensors of one format."))
    else:
        layout = _nibble_layout(a, b)
        findings += [*_tensor_level(a, b), *_scales(a, b), *([layout] if layout else _codes(a, b, x))]
        findings += other_parts(a, b)
        findings = findings or decoding(a, b)
    if x is not None and findings:
        findings += _producers(a, b, as_float32(x))
    codes = int((a.unpacked_codes() != b.unpacked_codes()).sum())
    scales = int((~_same_scales(a, b)).sum()) if a.scales.size == b.scales.size else max(a.scales.size, b.scales.size)
    with np.errstate(all="ignore"):
        mse = relative_mse(a.dequantize(), b.dequantize())
    return Diagnosis(tuple(findings), codes, scales, mse)


def _same_element(a: PackedTensor, b: PackedTensor) -> bool:
    one, two = a.format.element, b.format.element
    if one is None or two is None:
        return one is two
    return np.array_equal(one.table, two.table, equal_nan=True)


def _same_scales(a: PackedTensor, b: PackedTensor) -> np.ndarray:
    """Which block scales are equal as stored, of the shape of a's; none where the blocks are not the same ones."""
    alike = a.scales.shape == b.scales.shape or (
        a.scales.size == b.scales.size and a.shape[-1] % a.format.block_length(a.shape[-1]) == 0
    )
    if not alike or a.scales.dtype != b.scales.dtype:
        return np.zeros(a.scales.shape, bool)
    other = b.scales.reshape(a.scales.shape)
    return (a.scales == other) | ((a.scales != a.scales) & (other != other))


def _nibble_layout(a: PackedTensor, b: PackedTensor) -> Finding | None:
    """A whole-tensor permutation of nibbles that makes the codes equal."""
    codes, other = a.unpacked_codes(), b.unpacked_codes()
    if np.array_equal(codes, other) or a.format.code_bits != 4:
        return None
    length = a.shape[-1]
    if length % 2 == 0 and np.array_equal(
        unpack_nibbles(b.codes, b.codes.shape[-1] * 2, "high_first").reshape(-1), codes.reshape(-1)
    ):
        return Finding(
            "nibble order",
            "every byte of one holds its two codes the other way round",
            "Read that file with order='high_first' (bitsandbytes, torchao before PR 3123).",
        )
    for group in (32, 16):
        if length % group:
            continue
        if np.array_equal(pack_nibbles(codes, "split_half", group), b.codes):
            return Finding(
                "split halves",
                f"b's bytes pair element j with j + {group // 2} of each {group} (GGUF)",
                f"Read that file with order='split_half', group={group}.",
            )
        if np.array_equal(pack_nibbles(other, "split_half", group), a.codes):
            return Finding(
                "split halves",
                f"a's bytes pair element j with j + {group // 2} of each {group} (GGUF)",
                f"Read that file with order='split_half', group={group}.",
            )
    return None


def _close(p: float, q: float) -> bool:
    return bool(np.isfinite(p) and np.isfinite(q) and abs(p - q) <= 4e-7 * max(abs(p), abs(q)))


def _tensor_level(a: PackedTensor, b: PackedTensor) -> list[Finding]:
    if (a.tensor_scale is None) != (b.tensor_scale is None):
        return [
            Finding(
                "missing tensor scale",
                "one tensor has a tensor-level scale and the other has none",
                "Multiply by it when decoding, or store it beside the codes.",
            )
        ]
    if a.tensor_scale is None or np.array_equal(a.tensor_scale, b.tensor_scale):
        return []
    if np.size(a.tensor_scale) != 1 or np.size(b.tensor_scale) != 1:
        return [Finding("tensor scale", "the row scales differ", "Compare the amax of each row.", exact=False)]
    p, q = float(np.asarray(a.tensor_scale).reshape(())), float(np.asarray(b.tensor_scale).reshape(()))
    if _close(p * q, 1.0):
        return [
            Finding(
                "reciprocal tensor scale",
                f"{q:.6g} is 1 / {p:.6g}: a divisor read as a multiplier",
                "compressed-tensors stores 2688 / amax; use its reciprocal.",
            )
        ]
    for factor, meaning in ((2688.0, "amax read as amax / 2688"), (1 / 2688.0, "amax / 2688 divided by 2688 again")):
        if _close(q, p * factor):
            return [
                Finding(
                    "amax as tensor scale",
                    f"{q:.6g} is {factor:.6g} times {p:.6g}: {meaning}",
                    "TransformerEngine stores amax itself; divide it by 2688.",
                )
            ]
    if abs(p - q) <= 4e-7 * max(abs(p), abs(q)):
        return [
            Finding(
                "tensor scale rounding",
                f"{p:.9g} and {q:.9g} differ in the last bits",
                "The producers round in another order; codes can differ where a quotient is near a tie.",
            )
        ]
    return [
        Finding(
            "tensor scale",
            f"{p:.6g} and {q:.6g}: the amax they saw differ",
            "Were both made from the same, unsharded matrix?",
            exact=False,
        )
    ]


def _scales(a: PackedTensor, b: PackedTensor) -> list[Finding]:
    if a.format.flat != b.format.flat and a.scales.dtype == b.scales.dtype and _same_scales(a, b).all():
        return []  # the same blocks, in rows or in one row
    if a.scales.shape != b.scales.shape or a.scales.dtype != b.scales.dtype:
        return [
            Finding(
                "scale shape",
                f"scales are {a.scales.dtype.name}{a.scales.shape} and {b.scales.dtype.name}{b.scales.shape}",
                "Compare tensors of one format.",
                exact=False,
            )
        ]
    differ = (a.scales != b.scales) & ~((a.scales != a.scales) & (b.scales != b.scales))  # NaN equals NaN here
    if not differ.any():
        return []
    if a.scales.dtype != np.uint8:
        close = np.allclose(a.scales, b.scales, rtol=4e-7, atol=0)
        return [
            Finding(
                "scale rounding" if close else "scale values",
                f"{int(differ.sum()):,} float32 scales differ",
                "Compare the two amax / largest rules.",
                exact=bool(close),
            )
        ]
    swizzled = _swizzled(a.scales, b.scales)
    if swizzled:
        return [swizzled]
    zero = differ & ((a.dequantize(0).size > 0) & _zero_blocks(a))
    if zero.any() and not (differ & ~zero).any():
        return [
            Finding(
                "zero-block scale",
                f"only blocks of zeros differ ({int(zero.sum()):,}): "
                f"0x{int(a.scales[zero][0]):02x} and 0x{int(b.scales[zero][0]):02x}",
                "Harmless: producers write another scale for a block of zeros.",
            )
        ]
    delta = b.scales[differ].astype(int) - a.scales[differ].astype(int)
    if set(delta.tolist()) <= {1} or set(delta.tolist()) <= {-1}:
        bigger = "b" if delta[0] > 0 else "a"
        if a.format.block == 32:
            what = f"{int(differ.sum()):,} of {differ.size:,} exponents are one higher in {bigger}"
            return [Finding("scale rule", what, "The rules floor, even, ceil and rceil round amax differently.")]
        what = f"{int(differ.sum()):,} of {differ.size:,} E4M3 scales are one code higher in {bigger}"
        return [Finding("scale rule", what, "Another order of operations, or scales rounded up.")]
    return [
        Finding(
            "scale rule",
            f"{int(differ.sum()):,} of {differ.size:,} scales differ by "
            f"{int(delta.min()):+d} to {int(delta.max()):+d} codes",
            "Compare amax and the rule that makes a scale of it.",
            exact=False,
        )
    ]


def _values(tensor: PackedTensor) -> np.ndarray:
    """Every element's level, in units of its scale; seed-v6: the magnitude."""
    table = tensor.codebook if tensor.format.element is None else tensor.format.element.table
    values, second = table[tensor.unpacked_codes()], tensor.format.second
    if second is None:
        return values
    return np.where(
        in_second_grid(tensor.scales, tensor.shape, tensor.format), second.table[tensor.unpacked_codes()], values
    )


def _ranks(levels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The place of each level among all that differ, in ascending order."""
    return np.searchsorted(np.unique(table), levels)


def _zero_blocks(a: PackedTensor) -> np.ndarray:
    return (to_blocks(_values(a), a.format) == 0).all(axis=-1)


def _swizzled(a: np.ndarray, b: np.ndarray) -> Finding | None:
    if a.ndim != 2 or a.shape[0] % 128 or a.shape[1] % 4:
        return None
    for one, two, name in ((a, b, "b"), (b, a, "a")):
        if np.array_equal(swizzle_scales(one), two.reshape(-1)):
            return Finding(
                "swizzled scales",
                f"{name}'s scales lie in the tensor cores' 128 x 4 tiles",
                "Apply unswizzle_scales before decoding.",
            )
    return None


def _codes(a: PackedTensor, b: PackedTensor, x: np.ndarray | None) -> list[Finding]:
    """Element differences under equal nibble layout."""
    one, two = a.unpacked_codes(), b.unpacked_codes()
    differ = one != two
    if not differ.any():
        return []
    findings = []
    left, right = _values(a), _values(b)
    zeros = differ & (left == 0) & (right == 0)
    if zeros.any():
        findings.append(
            Finding(
                "sign of zero",
                f"{int(zeros.sum()):,} zeros are +0 (code 0) in one, -0 (code 8) in the other",
                "Harmless: both decode to 0.",
            )
        )
    rest = differ & ~zeros
    if not rest.any():
        return findings
    same_scale = _per_element(a, _same_scales(a, b))
    table = (
        np.concatenate([left.reshape(-1), right.reshape(-1)]) if a.format.element is None else a.format.element.table
    )
    neighbors = np.abs(_ranks(left, table) - _ranks(right, table)) == 1
    if a.format.second is not None:
        apart = np.abs(_ranks(left, a.format.second.table) - _ranks(right, a.format.second.table))
        neighbors = np.where(in_second_grid(a.scales, a.shape, a.format), apart == 1, neighbors)
    if not (rest & same_scale).any():
        findings.append(
            Finding(
                "codes follow scales",
                f"all {int(rest.sum()):,} other code differences lie in blocks whose scales differ",
                "Settle the scale rule first.",
            )
        )
        return findings
    suspects = rest & same_scale
    if not (suspects & ~neighbors).any():
        findings.append(_tie_finding(a, left, right, suspects, x))
        return findings
    findings.append(
        Finding(
            "other codes",
            f"{int(suspects.sum()):,} codes differ by more than one step under equal scales",
            "Is it the same matrix? Stochastic rounding also does this.",
            exact=False,
        )
    )
    return findings


def _per_element(a: PackedTensor, per_block: np.ndarray) -> np.ndarray:
    block = a.format.block_length(layout_shape(a.shape, a.format)[-1])
    return from_blocks(np.repeat(per_block[..., None], block, axis=-1), a.shape, a.format)


def _all_even(a: PackedTensor, levels: np.ndarray) -> bool:
    """Whether all have codes whose lowest bit is 0, in a format whose bits are ordered (a codebook's are not)."""
    if not isinstance(a.format.element, ElementFormat):
        return False
    return bool(((a.format.element.encode(levels, "even") & 1) == 0).all())


def _tie_finding(
    a: PackedTensor, left: np.ndarray, right: np.ndarray, suspects: np.ndarray, x: np.ndarray | None
) -> Finding:
    count, left, right = int(suspects.sum()), left[suspects], right[suspects]
    down_a, down_b = bool((np.abs(left) <= np.abs(right)).all()), bool((np.abs(right) <= np.abs(left)).all())
    even_a, even_b = _all_even(a, left), _all_even(a, right)

    def rule(even: bool, down: bool, up: bool) -> str:
        if even:
            return "to even"
        return "toward zero" if down else "away from zero" if up else "either way"

    what = (
        f"{count:,} codes differ by one step: a goes {rule(even_a, down_a, down_b)}, b {rule(even_b, down_b, down_a)}"
    )
    if x is None or a.format.rule.affine is not None or a.format.element is None:
        return Finding("tie rule", what, "Pass the source matrix x to see whether these are exact ties.", exact=False)
    q = quotients(as_float32(x), a.format, FittedScales.of(a))[suspects]
    middle = (left + right) * np.float32(0.5)
    exact = int((q == middle).sum())
    if exact == count:
        return Finding("tie rule", what + "; every one is an exact tie", "Choose one tie rule.")
    near = np.abs(q - middle) <= np.float32(4e-7) * np.abs(middle)
    if near.all():
        return Finding(
            "operation order",
            what + f"; {exact:,} are exact ties and the rest within rounding of one",
            "The producers' float32 operations differ in order.",
        )
    return Finding("rounding", what + f"; only {int(near.sum()):,} lie near a tie", "Stochastic rounding?", exact=False)


def _producers(a: PackedTensor, b: PackedTensor, x: np.ndarray) -> list[Finding]:
    """Which profiles write exactly these codes and scales."""
    matches: dict[str, list[str]] = {"a": [], "b": []}
    for profile in PROFILES.values():
        if profile.format.block != a.format.block or profile.format.flat != a.format.flat:
            continue
        try:
            made = quantize(x, profile.format, measure=False)
        except FormatError:
            continue
        for name, tensor in (("a", a), ("b", b)):
            if np.array_equal(made.codes, tensor.codes) and np.array_equal(made.scales, tensor.scales):
                matches[name].append(profile.name)
    if not any(matches.values()):
        return []
    named = "; ".join(
        f"{n} is what {', '.join(found)} write{'s' if len(found) == 1 else ''}" for n, found in matches.items() if found
    )
    return [Finding("producers", named, "Use one profile for both.")]
