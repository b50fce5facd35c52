"""A card: keeps one weight in low precision, multiplies with it, caches what is costly and counts everything."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine import F, Parameter, Tensor, autograd
from ..formats import BlockFormat, FittedScales, PackedTensor, get_format
from ..formats.packed import PLANES
from ..layers import fused_loss
from . import codec
from .cache import held_bytes
from .recipe import Recipe
from .statistics import Statistics
from .unit import ComputeUnit
from .ways import DEQUANT, FULL_PRECISION, Way, ways_of


class StaleWeightError(RuntimeError):
    """A parameter's values changed while its version did not: somebody wrote past `Parameter.mutate`."""


class Card:
    """One weight matrix on the device.

    Attributes
    ----------
    name : str
        The layer's name.
    parameter : Parameter, (out, in)
        The master weight; training changes it.
    recipe : Recipe
    unit : ComputeUnit
        What multiplies, and the policy; shared by all cards of a device.
    format : BlockFormat or None
        Of the packed weight; None: float32 (recipe `fp32`, or a layer that the recipe keeps).
    packed : PackedTensor or None
        The weight as the card holds it, once it was used: the coarse tier, and of the fine one what was asked for.
    planes : int
        Bit planes of the fine tier that the compute unit asked for at the last separation.
    coarse_error, error : float or None
        Relative RMS errors at the last separation: of the coarse tier, and of the tiers asked for. Measured where the
        error budget decides or somebody records; else None (`Device.report` measures at any time).
    scales : FittedScales or None
        Scales or codebook of the last separation, under which the weight is packed until the next.
    statistics : Statistics
    ways : dict
        How each product of this card was last computed, by its slot in the recipe.
    """

    def __init__(self, name: str, parameter: Parameter, recipe: Recipe, unit: ComputeUnit) -> None:
        self.name = name
        self.parameter = parameter
        self.recipe = recipe
        self.unit = unit
        self.format: BlockFormat | None = None
        if recipe.weight is not None and not recipe.keeps(name):
            self.format = get_format(recipe.weight)
        self.offered_planes = PLANES if self.format is not None and self.format.fine is not None else 0
        self._coarse_format = self.format
        if self.offered_planes and self.format.fine.kind in ("nested", "tied"):  # these need no scales of their own
            self._coarse_format = dataclasses.replace(self.format, fine=None)
        self.statistics = Statistics()
        self.packed: PackedTensor | None = None
        self.planes = 0
        self.coarse_error: float | None = None
        self.error: float | None = None
        self.dropped = False
        self.ways: dict[str, str] = {}
        self.scales: FittedScales | None = None
        self._uses = 0  # of the present scales
        self._packed_version = -1
        self._scaled_version = -1
        self._agreed_terms: tuple[Any, ...] | None = None  # under which the tiers were negotiated
        self._fingerprint: tuple[int, bytes] | None = None

    def __repr__(self) -> str:
        out, width = self.parameter.shape
        held = self.packed if self.packed is not None else (self.format.name if self.format else "float32")
        return f"Card({self.name}: {width} -> {out}, {held}, {self.statistics.computes} computes)"

    # -- computing: what `functional.linear` calls

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + b on this card: x (..., in), to (..., out)."""
        return card_linear(x, weight, bias, card=self, share=not x.is_leaf)

    def has_only_copy(self) -> bool:
        """Whether the master was dropped."""
        return self.dropped

    def linear_cross_entropy(self, x: Tensor, weight: Tensor, targets: NDArray) -> Tensor:
        """Mean cross-entropy of x W^T against targets on this card: x (N, in), targets (N,)."""
        return card_linear_cross_entropy(x, weight, card=self, targets=targets)

    def run(
        self, dense: autograd.Primitive, x: NDArray, *rest: Any, share: bool = False, **static: Any
    ) -> tuple[NDArray, Any]:
        """Run a dense primitive with the decoded weight in the master's place.

        That alone is the straight-through estimator: the input's gradient sees the decoded weight, and the weight's
        gradient, which does not depend on the weight, goes to the master.
        """
        # A weight in full precision is the master itself: nobody may write it while it is multiplied with.
        held = self.parameter.lock if self.format is None else contextlib.nullcontext()
        rows = x.size // x.shape[-1]
        way = self.way(rows, dense.name)
        with self.unit.span("compute", self.name, way=way.name), held:
            weight = self.use(way)
            with self.unit.span("matmul", self.name, rows=rows, shape=self.parameter.shape) as values:
                output, vjp = way.multiply(self, weight, dense, x, *rest, share=share, **static)
                values.update(x=x, product=output)
        return output, self._gradients(vjp)

    def way(self, rows: int, product: str = "linear") -> Way:
        """How this card does the named product with so many rows now."""
        if self.format is None:
            return FULL_PRECISION
        ways = ways_of(self.recipe, self.unit.policy.compute)
        return next(way for way in ways if way.accepts(product, rows))

    def _gradients(self, vjp: tuple[Callable, ...]) -> tuple[Callable, ...]:
        if not vjp:
            return vjp
        to_x, to_weight, *others = vjp
        if self.format is not None and self.recipe.gradient_rule == "row-max":
            kept = self._row_max_mask()
            straight_through = to_weight
            to_weight = lambda g: straight_through(g) * kept  # noqa: E731
        functions = (to_x, to_weight, *others)
        if self.unit.recorder is None:
            return functions
        of = ("input", "weight", *["bias"] * len(others))
        return tuple(self._traced(function, name) for function, name in zip(functions, of, strict=True))

    def _traced(self, function: Callable, of: str) -> Callable:
        def traced(g: NDArray) -> NDArray:
            with self.unit.span("backward", self.name) as values:
                product = function(g)
                if self.unit.recorder is not None and self.unit.recorder.samples:
                    how = {"input": self.recipe.gradient, "weight": self.recipe.weight_gradient}.get(of)
                    operands = "float32" if how is None or self.format is None else str(how)
                    values.update(of=of, operands=operands, gradient=g, product=product)
                return product

        return traced

    def _row_max_mask(self) -> NDArray[np.bool_]:
        """The one weight of each row that sets the row's scale: the only ones that the original's gradient reaches."""
        residual = np.abs(self.parameter.data - codec.decode(self.packed.coarse()))
        return np.arange(residual.shape[1]) == residual.argmax(axis=1)[:, None]

    # -- the weight, ready for a product

    def use(self, way: Way = DEQUANT) -> Any:
        """Count one use, and return the weight as the compute unit wants it: by default (out, in) float32.

        The result belongs to the version that the parameter has at this moment, and never changes afterwards; a card
        in full precision hands out the master itself.
        """
        with self.parameter.lock:
            self.statistics.computes += 1
            if self.format is None:
                return self.parameter.data
            self._update_packed()
            return self._laid_out(way)

    def _needs_separation(self) -> bool:
        """Whether scales are computed afresh at this use."""
        if self.scales is None or self._agreed_terms != self.unit.policy.terms:
            return True
        if self.unit.mode == "training":
            return self._uses >= self.unit.policy.refresh_interval
        return self._scaled_version != self.parameter.version

    def _update_packed(self) -> None:
        """Bring scales and codes up to date with the parameter, and count how."""
        if self.dropped:
            self._check_usable_without_master()
            self._count_hit()
            return
        version = self.parameter.version
        self._check_fingerprint(version)
        if self._needs_separation():
            self._separate(version)
        else:
            self._count_hit()
        self._uses += 1
        if self._packed_version != version:
            with self.unit.span("pack", self.name, format=self.format.name) as values:
                self.packed = self._encode(self.parameter.data, self.scales, self.planes)
                values.update(bytes=self.packed.nbytes, weight=self.parameter.data, packed=self.packed)
            self._packed_version = version

    def _count_hit(self) -> None:
        self.statistics.hits += 1
        with self.unit.span("hit", self.name, use=self._uses):
            pass

    def _check_usable_without_master(self) -> None:
        if self.unit.mode != "inference" or self._agreed_terms != self.unit.policy.terms:
            raise RuntimeError(
                f"card {self.name}: its master weight was dropped, so it can neither be trained nor packed again "
                f"(mode {self.unit.mode!r}); stay in mode 'inference' with the tiers as they were agreed on, "
                "call device.restore_masters(), or load the weights into a new model"
            )

    def _separate(self, version: int) -> None:
        """Compute scales or codebook afresh, pack with them, and agree anew on the tiers to use."""
        weight = self.parameter.data
        with self.unit.span("separate", self.name, format=self.format.name) as values:
            scales, packed = codec.fit(weight, self._coarse_format)
            coarse = packed.coarse()
            packed, coarse_error, error = self._negotiate(weight, scales, coarse)
            if error is None and self.unit.recorder is not None:
                coarse_error, error = (codec.relative_error(weight, codec.decode(part)) for part in (coarse, packed))
            values.update(coarse_error=coarse_error, error=error, planes=packed.planes)
            values.update(weight=weight, packed=packed)
        self.statistics.separations += 1
        self.statistics.refreshes += self.statistics.separations > 1
        self.packed, self.planes, self.scales = packed, packed.planes, scales
        self.coarse_error, self.error = coarse_error, error
        self._agreed_terms = self.unit.policy.terms
        self._uses = 0
        self._scaled_version = self._packed_version = version

    def _negotiate(
        self, weight: NDArray, scales: FittedScales, coarse: PackedTensor
    ) -> tuple[PackedTensor, float | None, float | None]:
        """Which tiers the compute unit asks for: beside the coarse one, as few planes as meet the error budget.

        Returns
        -------
        packed : PackedTensor
            With the tiers asked for.
        coarse_error, error : float or None
            Relative RMS errors of the coarse tier and of `packed`, if they decided.

        Raises
        ------
        ValueError
            All tiers together do not meet the budget; the card is then as it was before.
        """
        precise = self.unit.mode == "precision"
        if not self.offered_planes or not self.unit.policy.boh or (self.recipe.fine == "never" and not precise):
            return coarse, None, None
        if precise or self.recipe.fine == "always":
            return self._encode(weight, scales, PLANES), None, None
        budget = self.unit.policy.error_budget
        coarse_error = error = codec.relative_error(weight, codec.decode(coarse))
        if coarse_error <= budget:
            return coarse, coarse_error, coarse_error
        whole = self._encode(weight, scales, PLANES)
        few = range(1, PLANES) if self.format.fine.kind == "nested" else ()
        for packed in itertools.chain(map(whole.with_planes, few), [whole]):
            error = codec.relative_error(weight, codec.decode(packed))
            if error <= budget:
                return packed, coarse_error, error
        raise ValueError(
            f"card {self.name}: the error budget {budget:g} is below what {self.format.name} reaches with all its "
            f"tiers ({error:.3g}); raise the budget or choose a finer format"
        )

    def packed_again(self, weight: NDArray) -> PackedTensor:
        """Another matrix packed as this card's weight is, with scales of its own and the same tiers."""
        _, packed = codec.fit(weight, self.format if self.planes else self._coarse_format)
        return self._tiers_of(packed, self.planes)

    def _encode(self, weight: NDArray, scales: FittedScales, planes: int) -> PackedTensor:
        """`weight` packed with `planes` bit planes of the fine tier; tiers that nobody asks for are not made."""
        packed = codec.encode(weight, self.format if planes else self._coarse_format, scales)
        return self._tiers_of(packed, planes)

    def encode(self, planes: int) -> PackedTensor | None:
        """The master weight as it is now, packed under the scales as they are, with so many bit planes.

        None where there is nothing to pack: a card in full precision, an idle one, or one whose master was dropped.
        """
        with self.parameter.lock:
            if self.format is None or self.scales is None or self.dropped:
                return None
            return self._encode(self.parameter.data, self.scales, planes)

    @staticmethod
    def _tiers_of(packed: PackedTensor, planes: int) -> PackedTensor:
        if planes == packed.planes:
            return packed
        return packed.with_planes(planes) if planes else packed.coarse()

    def _laid_out(self, way: Way) -> Any:
        """The packed weight as `way` wants it: from the decode cache, or transferred and laid out."""
        cache = self.unit.decode_cache
        key = (self._packed_version, self.statistics.separations, self.planes)
        kept = cache.get((self, way.name), key)
        if kept is not None:
            self.statistics.decode_hits += 1
            with self.unit.span("decode hit", self.name):
                return kept
        self._transfer(self.packed)
        with self.unit.span("decode", self.name, bytes=self.packed.nbytes, way=way.name) as values:
            weight = way.lay_out(self)
            values.update(packed=self.packed, weight=weight)
        self.statistics.decodes += 1
        cache.put((self, way.name), key, weight, weight.nbytes)
        self.unit.count_bytes()
        return weight

    def _transfer(self, asked_for: PackedTensor) -> None:
        """Move the agreed tiers over the link: by BOH, or the coarse one alone and without a word."""
        link, statistics = self.unit.link, self.statistics
        coarse, fine = asked_for.coarse().nbytes, 0
        if self.unit.policy.boh:
            with self.unit.span("handshake", self.name) as values:
                agreed = link.handshake(self.name, asked_for, self.offered_planes)
                coarse, fine = agreed.coarse_bytes, agreed.fine_bytes
                values.update(coarse_bytes=coarse, fine_bytes=fine, planes=agreed.planes, offered=agreed.offered_planes)
            statistics.handshakes += 1
        with self.unit.span("coarse", self.name, bytes=coarse):
            link.carry(coarse_bytes=coarse)
        statistics.coarse_bytes += coarse
        if fine:
            with self.unit.span("fine", self.name, bytes=fine, planes=asked_for.planes):
                link.carry(fine_bytes=fine)
            statistics.fine_bytes += fine

    # -- trust

    def _check_fingerprint(self, version: int) -> None:
        """In debug mode: values may not change while the version stands still."""
        if not self.unit.policy.verify or self.dropped:
            return
        digest = hashlib.blake2b(np.ascontiguousarray(self.parameter.data)).digest()
        if self._fingerprint is not None and self._fingerprint[0] == version and self._fingerprint[1] != digest:
            raise StaleWeightError(
                f"card {self.name}: the weight's values changed but its version ({version}) did not, so the card "
                "would compute with the old ones; write through `with parameter.mutate() as data:` or `assign`"
            )
        self._fingerprint = (version, digest)

    def leave(self) -> None:
        """Take the parameter off this card: it computes with its master again. The card keeps its counts."""
        if self.parameter.host is self:
            self.parameter.host = None
        self.unit.decode_cache.drop(self)

    def drop_master(self) -> None:
        """Give up the float32 weight; the card then holds the packed one alone."""
        with self.parameter.lock:
            if self.format is None or self.dropped:
                return
            if self._packed_version != self.parameter.version or self._needs_separation():
                self._separate(self.parameter.version)
            shape = self.parameter.shape
            self.parameter.data = np.broadcast_to(self.parameter.dtype.type(np.nan), shape)
            self.parameter.requires_grad = False  # there is nothing left to train
            self.dropped = True

    def restore_master(self) -> None:
        """Make the decoded weight the master of a card that had dropped its own."""
        if self.dropped:
            with self.parameter.lock:
                self.parameter.data = np.array(codec.decode(self.packed), self.parameter.dtype)
                self.parameter.version += 1
                self.parameter.requires_grad = True
                self.dropped = False

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """What this card must remember to go on bit for bit; see `Device.state_dict`."""
        with self.parameter.lock:
            return {
                "shape": list(self.parameter.shape),
                "uses": self._uses,
                "planes": self.planes,
                "scaled_now": self.scales is not None and self._scaled_version == self.parameter.version,
                "coarse_error": self.coarse_error,
                "error": self.error,
                "agreed_terms": None if self._agreed_terms is None else list(self._agreed_terms),
                "statistics": self.statistics.as_dict(),
                "scales": None if self.scales is None else self.scales.as_dict(),
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()` of a card with the same shape. Codes are not part of it: packing gives them."""
        with self.parameter.lock:
            self.statistics = Statistics(**{name: int(value) for name, value in state["statistics"].items()})
            self.planes, self._uses = int(state["planes"]), int(state["uses"])
            self.coarse_error, self.error = state["coarse_error"], state["error"]
            self._agreed_terms = None if state["agreed_terms"] is None else tuple(state["agreed_terms"])
            self.scales = None if state["scales"] is None else FittedScales.from_dict(state["scales"])
            self.packed, self._packed_version, self._fingerprint = None, -1, None
            self._scaled_version = self.parameter.version if state["scaled_now"] else -1
            self.unit.decode_cache.drop(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that the card holds now: the packed weight, or the master where there is none."""
        return self.parameter.data.nbytes if self.packed is None else held_bytes(self.packed)


STRAIGHT_THROUGH = "the gradient is that of the decoded weight, passed to the master as if rounding were the identity"


@autograd.primitive(surrogate=STRAIGHT_THROUGH)
def card_linear(x, weight, bias, *, card, share=False):
    """`linear` on a card: the card's decoded weight computes, the master weight gets the gradient

    share: nobody writes to x, so that what is made of it may serve the next layer that reads it
    """
    F.check_linear(x, weight, bias)
    return card.run(F.dense_linear, x, bias, share=share)


@autograd.primitive(surrogate=STRAIGHT_THROUGH)
def card_linear_cross_entropy(x, weight, *, card, targets):
    """`linear_cross_entropy` on a card: the card's decoded weight computes, the master weight gets the gradient"""
    return card.run(fused_loss.dense_linear_cross_entropy, x, targets=targets)
