"""Mistakes that people make, as variants of a profile's record: an answer that equals one is explained by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..formats import PROFILES, BlockFormat, FormatError, Profile, quantize
from ..formats.elements import E4M3
from ..formats.packing import pack_nibbles, unpack_nibbles
from ..formats.scales import MX_CEIL, MX_EVEN, MX_FLOOR, MX_RCEIL, ScaleRule, te_rule
from .vectors import Answer, Vector, answer_of

TIES = {"even": "to even", "zero": "toward zero", "away": "away from zero", "down": "down"}
ZEROS = {
    "keep": "-0 stays -0", "drop": "-0 becomes +0", "never": "-0 is never written", "negative": "zeros become -0",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Variant:
    """What would be written if one rule were another.

    Parameters
    ----------
    rule : str
    words : str
        What was done, and what the profile does.
    format : BlockFormat
    """

    rule: str
    words: str
    format: BlockFormat


def variants(profile: Profile) -> Iterator[Variant]:
    """Variants of a profile, the likeliest first."""
    fmt = profile.format
    for ties in ("away", "zero", "even"):
        if fmt.rule.affine is None and fmt.fine is None and ties != fmt.ties and fmt.ties in TIES:
            words = f"ties are rounded {TIES[ties]}, and {profile.name} rounds them {TIES[fmt.ties]}"
            yield Variant("ties", words, replace(fmt, ties=ties))
    for zeros, words in ZEROS.items():
        if zeros != fmt.signed_zero and fmt.rule.affine is None:
            words = f"{words}; in {profile.name} {ZEROS[fmt.signed_zero]}"
            yield Variant("signed zero", words, replace(fmt, signed_zero=zeros))
    yield from _scale_rules(profile)
    for other in PROFILES.values():
        if other.family == profile.family and other.name != profile.name:
            yield Variant("block scale", f"that is what {other.name} writes", other.format)


def _scale_rules(profile: Profile) -> Iterator[Variant]:
    fmt = profile.format
    if profile.family == "mxfp4":
        for rule in (MX_FLOOR, MX_EVEN, MX_CEIL, MX_RCEIL):
            words = f"scales are formed by the rule {rule.name}; {profile.name}: {fmt.rule.summary}"
            yield Variant("block scale", words, replace(fmt, rule=rule))
    if fmt.rule.scale_element is E4M3:
        for name, rule in _capped(fmt.rule):
            yield Variant("block scale", name, replace(fmt, rule=rule))


def _capped(rule: ScaleRule) -> Iterator[tuple[str, ScaleRule]]:
    """E4M3 scales rounded another way, or mapped to 256 where 448 is meant (or the reverse)."""
    cap = 448.0 if rule.range == 6 * 256 else 256.0
    if rule.four_over_six_base is not None:
        yield (
            f"block scales reach {cap:g} at most, and {rule.range / 6:g} is meant",
            te_rule("cap", cap=cap, two_level=rule.two_level, least=0),
        )

    def stepped(step: int, words: str) -> tuple[str, ScaleRule]:
        def block(amax: np.ndarray, g: np.ndarray | None) -> np.ndarray:
            right = rule.block(amax, g).astype(int)
            exact = np.asarray(amax, np.float32) / (np.float32(6) * (1 if g is None else rule.multiplier(g)))
            wrong = (E4M3.table[right.astype(np.uint8)] > exact) if step < 0 else E4M3.table[right & 0xFF] < exact
            return np.clip(right + step * wrong, 0, 0x7E).astype(np.uint8)

        return f"block scales are rounded {words}, and nearest is meant", replace(rule, block=block)

    yield stepped(-1, "down")
    yield stepped(1, "up")


def explained_order(answer: Answer, vector: Vector, fmt: BlockFormat) -> str | None:
    """A permutation of nibbles that makes an answer's codes right, in words."""
    if fmt.code_bits != 4:
        return None
    codes, wanted = answer.codes.reshape(1, -1), vector.expected.codes.reshape(1, -1)
    if codes.size % 2:
        return None
    orders = [("low_first", 0), ("high_first", 0), ("split_half", 16), ("split_half", 32)]
    meant = (fmt.nibble_order, fmt.nibble_group if fmt.nibble_order == "split_half" else 0)
    names = {
        ("low_first", 0): "low nibble first", ("high_first", 0): "high nibble first",
        ("split_half", 16): "halves of 16", ("split_half", 32): "halves of 32",
    }  # fmt: skip
    for order in orders:
        if order == meant or (order[1] and codes.size % order[1]) or (meant[1] and codes.size % meant[1]):
            continue
        packed = pack_nibbles(codes, meant[0], meant[1] or 32)
        if np.array_equal(unpack_nibbles(packed, codes.size, order[0], order[1] or 32), wanted):
            return f"codes are packed as {names[order]}, and {names[meant]} is meant"
    return None


def explained_level(got: np.float32, wanted: np.float32) -> str | None:
    """What another convention would make of a tensor scale."""
    with np.errstate(all="ignore"):
        got, wanted = float(got), float(wanted)
    if not got or not wanted or not np.isfinite([got, wanted]).all():
        return None
    if abs(got * wanted - 1) < 1e-6:
        return "it is the reciprocal of the one meant"
    for factor, words in (
        (2688.0, "it is 2688 (6 * 448) times the one meant: amax, where amax / 2688 is stored"),
        (1 / 2688.0, "it is 1/2688 of the one meant"),
        (2688 / 1536, "it is 7/4 of the one meant: block scales up to 256 where 448 is meant"),
        (1536 / 2688, "it is 4/7 of the one meant: block scales up to 448 where 256 is meant, or the reciprocal of it"),
    ):
        if abs(got / (wanted * factor) - 1) < 1e-6:
            return words
    if abs(got / wanted - 1) < 1e-6:
        return "only its last bits differ: another order of multiplication and division"
    if abs(got * wanted / 2688 - 1) < 1e-6 or abs(got * wanted * 2688 - 1) < 1e-6:
        return "amax, and 2688 / amax is meant (or the reverse)"
    return None


def explanation(answer: Answer, vector: Vector, part: str, profile: Profile) -> Variant | None:
    """The first variant under which `part` of the answer is right in every bit."""
    got = getattr(answer, part)
    for variant in variants(profile):
        try:
            packed = quantize(vector.case.x, variant.format, nonfinite="producer", measure=False)
        except FormatError:
            continue
        other = getattr(answer_of(packed), part)
        if other is not None and got.shape == np.shape(other) and same(got, other):
            return variant
    return None


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal in every bit."""
    return np.asarray(a).dtype == np.asarray(b).dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
