"""The judge: answers against vectors, in order; the first difference names the rule that is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import BlockFormat, Profile
from ..formats.elements import first_index
from ..formats.packed import to_blocks
from .answers import Malformed, read_answer
from .variants import explained_level, explained_order, explanation
from .vectors import Answer, Vector, Vectors

ORDER = ("tensor_scale", "scales", "offsets", "codes", "decoded")
"""Parts in the order in which they are compared: what a later one is made of comes first."""


@dataclass(frozen=True)
class Break:
    """A rule that is broken.

    Parameters
    ----------
    rule : str
        `answer`, `nibble order`, `tensor scale`, `block scale`, `ties`, `rounding`, `order of operations`,
        `signed zero`, `zero block`, `one-sided block`, `small scale`, `large scale`, `NaN`, `Inf`, `ragged end`,
        `offsets`, `decoding`, `same input, same bytes`, `runs`.
    case : str
        The vector.
    what : str
        Where, what was given and what is right.
    why : str
        The variant that explains all of this vector, where there is one.
    """

    rule: str
    case: str
    what: str
    why: str = ""

    def __str__(self) -> str:
        why = f". {self.why[:1].upper()}{self.why[1:]}" if self.why else ""
        return f"{self.rule}: in {self.case!r} {self.what}{why}"


@dataclass(frozen=True)
class Verdict:
    """What came of a quantizer under a profile.

    Parameters
    ----------
    profile : str
    cases, right : int
        Vectors, and those that were right before the first that was not.
    broken : Break or None
    refused : tuple of str
        Optional vectors that the quantizer refuses.
    printed : str
        What it printed, where it ran in a process of its own.
    """

    profile: str
    cases: int
    right: int
    broken: Break | None = None
    refused: tuple[str, ...] = ()
    printed: str = ""

    @property
    def conforms(self) -> bool:
        """Whether every vector came out right in every bit."""
        return self.broken is None

    __bool__ = conforms.fget  # type: ignore[assignment]

    def __str__(self) -> str:
        if self.broken is not None:
            return f"breaks {self.profile}: {self.broken}\n{self.right} of {self.cases} vectors were right before it"
        refused = f", {len(self.refused)} refused ({', '.join(self.refused)})" if self.refused else ""
        return f"conforms to {self.profile}: {self.right} of {self.cases} vectors are equal in every bit{refused}"

    __repr__ = __str__

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        broken = None if self.broken is None else vars(self.broken)
        return {
            "profile": self.profile, "conforms": self.conforms, "vectors": self.cases, "right": self.right,
            "broken": broken, "refused": list(self.refused),
        }  # fmt: skip


Outcome = dict[str, np.ndarray] | BaseException | str
"""An answer's parts; what it raised; or, in words, why there is none."""


def judge(document: Vectors, outcomes: Sequence[Outcome]) -> Verdict:
    """The verdict on answers to the vectors, in their order.

    Parameters
    ----------
    document : Vectors
    outcomes : sequence of Outcome
        One more than there are vectors: the last is the answer to the first vector once more.
    """
    count, right, refused = len(document.vectors), 0, []
    profile = document.profile
    for vector, outcome in zip(document.vectors, outcomes, strict=False):
        broken = _judged(vector, outcome, profile)
        if broken is not None and broken.rule == "refused":
            refused.append(vector.case.name)
            continue
        if broken is not None:
            return Verdict(profile.name, count, right, broken, tuple(refused))
        right += 1
    if len(outcomes) > count and not _equal(outcomes[0], outcomes[-1]):
        name = document.vectors[0].case.name
        what = "the same input gave other bytes the second time"
        return Verdict(profile.name, count, right, Break("same input, same bytes", name, what), tuple(refused))
    return Verdict(profile.name, count, right, None, tuple(refused))


def _equal(a: Outcome, b: Outcome) -> bool:
    if not isinstance(a, dict) or not isinstance(b, dict) or set(a) != set(b):
        return False
    return all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


def _judged(vector: Vector, outcome: Outcome, profile: Profile) -> Break | None:
    """What is broken in one vector; the rule `refused` where that is allowed."""
    case = vector.case
    if isinstance(outcome, str):
        return Break("runs", case.name, outcome)
    if isinstance(outcome, BaseException):
        if case.optional:
            return Break("refused", case.name, "")
        rule = case.rule if case.decides else "runs"
        return Break(rule, case.name, f"it raises {type(outcome).__name__}: {str(outcome)[:200]}")
    try:
        answer = read_answer(outcome, vector, profile.format)
    except Malformed as error:
        return Break(error.rule, case.name, str(error))
    for part in ORDER:
        got, wanted = getattr(answer, part), getattr(vector.expected, part)
        if got is None or wanted is None:
            continue
        if np.asarray(got).tobytes() != np.asarray(wanted).tobytes():
            return _named(part, answer, vector, profile)
    return None


def _named(part: str, answer: Answer, vector: Vector, profile: Profile) -> Break:
    case, what = vector.case, _place(part, answer, vector, profile.format)
    if part == "tensor_scale":
        rule = case.rule if case.decides else "tensor scale"
        return Break(rule, case.name, what, explained_level(answer.tensor_scale, vector.expected.tensor_scale) or "")
    if part == "codes":
        order = explained_order(answer, vector, profile.format)
        if order is not None:
            return Break("nibble order", case.name, what, order)
    own = case.rule if case.decides else {"scales": "block scale", "offsets": "offsets"}.get(part, case.rule)
    if part == "decoded":
        return Break("decoding", case.name, what)
    variant = explanation(answer, vector, part, profile)
    if variant is None:
        return Break(own, case.name, what, _direction(part, answer, vector))
    rule = own if case.decides or part == "offsets" else variant.rule
    return Break(rule, case.name, what, variant.words)


def _direction(part: str, answer: Answer, vector: Vector) -> str:
    """Where all stored scales are one code higher or lower than they should be, or all in one direction."""
    if part != "scales" or answer.scales.dtype != np.uint8:
        return ""
    delta = answer.scales.astype(int) - vector.expected.scales.astype(int)
    delta = delta[delta != 0]
    if (delta == delta[0]).all():
        return f"all that differ are {abs(int(delta[0]))} code(s) {'higher' if delta[0] > 0 else 'lower'}"
    return ""


def _shown(value: Any) -> str:
    if isinstance(value, np.floating):
        return f"{value:.9g} ({int(np.float32(value).view(np.uint32)):08x})"
    return f"{int(value):#x}"


def _place(part: str, answer: Answer, vector: Vector, fmt: BlockFormat) -> str:
    """The first place that differs, in words."""
    got, wanted = np.asarray(getattr(answer, part)), np.asarray(getattr(vector.expected, part))
    if part == "tensor_scale":
        return f"the tensor scale is {_shown(got[()])}, not {_shown(wanted[()])}"
    as_bits = got.view(np.uint32) != wanted.view(np.uint32) if got.dtype == np.float32 else got != wanted
    where = first_index(as_bits)
    count = f"{int(as_bits.sum()):,} of {as_bits.size:,} {part.replace('decoded', 'decoded values')} differ"
    first = f"{count}, the first at {list(where)}: {_shown(got[where])}, not {_shown(wanted[where])}"
    x = vector.case.x
    if part in ("codes", "decoded"):
        return f"{first}, for x = {_shown(x[where])} under the scale {_shown(_scale_at(vector, where, fmt))}"
    amax = np.abs(to_blocks(x, fmt)).max(axis=-1).reshape(wanted.shape)[where]
    return f"{first}, for a block whose largest magnitude is {_shown(amax)}"


def _scale_at(vector: Vector, where: tuple[int, ...], fmt: BlockFormat) -> Any:
    scales = vector.expected.scales
    if fmt.flat:
        flat = int(np.ravel_multi_index(where, vector.case.x.shape))
        return scales.reshape(-1)[flat // fmt.block_length(vector.case.x.size)]
    return scales[where[0], where[1] // fmt.block_length(vector.case.x.shape[-1])]
