"""What a card does in a step, as events: the weight made ready, the product, both gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..device import Card, Operands, Recipe
from ..device.pairs import quantizes_anew
from ..device.slots import activation_of
from ..device.ways import FP4, ways_of
from ..formats import BlockFormat, FittedScales, PackedTensor, get_format
from ..formats.packing import pack_codes
from . import products, together
from .matrix import Matrix, described, elements
from .quantizing import decoded, operand
from .story import RecordingError, Story
from .values import Value
from .witness import Key, Span, Visit, Witness

Prepare = Callable[[Matrix], Matrix]
"""What is done to an operand before it is rounded."""

_STANDS_FOR = "What is multiplied from here on is the code; it stands for"


@dataclasses.dataclass(eq=False)
class CardStory:
    """Tells one card's part of a step, and remembers what its backward pass needs.

    Parameters
    ----------
    story : Story
    card : Card
    recipe : Recipe
    inputs, outputs : str
        Labels of the weight's columns and rows.
    """

    story: Story
    card: Card
    recipe: Recipe
    inputs: str
    outputs: str
    packed: PackedTensor | None = None
    weight: Matrix | None = None
    master: Matrix | None = None
    x: Matrix | None = None
    witness: Witness | None = None

    @property
    def _quantizes(self) -> bool:
        """Whether products are made of quantized operands: as the recipe says, or as the device was told."""
        return FP4 in ways_of(self.recipe, self.card.unit.policy.compute)

    # -- the weight

    def forward(self, phase: str, x: NDArray[np.float32], weight: NDArray[np.float32], witness: Witness) -> NDArray:
        """Tell the product x W^T; returns it (tokens, outputs)."""
        name, self.witness = self.card.name, witness
        self.x = Matrix("the activation", x, "token", self.inputs)
        self.weight = self.master = Matrix("the weight", weight, self.outputs, self.inputs)
        story = self.story.at(phase, name, "weight")
        spans = [span for span in witness.spans if span.card == name]
        story.add(
            "master",
            "{name}'s weight as the optimizer keeps it, in float32: {x}.",
            {"x": self.weight.value()},
            {"name": name},
            ("x",),
        )
        if self.recipe.weight is None or self.recipe.keeps(name):
            self.packed = None
            return self._checked(self._numbers(phase, weight, "Nothing is rounded."), spans)
        self._ready(spans)
        self._moved(spans)
        if not self._quantizes:
            story.at(phase, name, "weight")
            numbers = decoded(story, self.weight, self.packed)
            return self._checked(self._numbers(phase, numbers, "The decoded weight is multiplied."), spans)
        return self._checked(self._fp4_forward(phase, spans), spans)

    def _ready(self, spans: list[Span]) -> None:
        """The weight as codes: under fresh scales, under those that are kept, or as it was."""
        separate, pack = _only(spans, "separate"), _only(spans, "pack")
        hit = _only(spans, "hit")
        self._cache_says("scales", "hit" if hit else "miss", hit or separate)
        seen = (separate or pack)
        if seen is None:
            return
        reuse = None if separate else FittedScales.of(self.packed)
        packed: PackedTensor = seen.values["packed"]
        before = self.packed
        fmt = get_format(self.recipe.weight)
        if not packed.planes and fmt.fine is not None and fmt.fine.kind in ("nested", "tied"):
            fmt = dataclasses.replace(fmt, fine=None)
        self.packed = operand(self.story, self.weight, fmt, reuse=reuse, planes=packed.planes)
        for what in ("codes", "scales", "fine", "signs", "codebook", "tensor_scale"):
            told, seen_part = getattr(self.packed, what), getattr(packed, what)
            if told is not None or seen_part is not None:
                self.story.agree(f"the weight's {what}", np.asarray(told), np.asarray(seen_part))
        if before is not None and pack:
            self._changed(before)
        if separate:
            self._errors(separate)

    def _changed(self, before: PackedTensor) -> None:
        old, new = before.unpacked_codes(), self.packed.unpacked_codes()
        values = {
            "changed": self.weight.value((old != new).astype(np.uint8)),
            "before": self.weight.value(old),
            "after": self.weight.value(new),
        }
        self.story.add(
            "codes that changed",
            "The update moved every weight a little; {count} of {size} have another code now. This one "
            "{changed?kept its code {before}|went from code {before} to {after}}.",
            values,
            {"count": int((old != new).sum()), "size": old.size},
            ("changed", "before", "after"),
        )

    def _errors(self, separate: Span) -> None:
        """Which tiers were agreed on, and why."""
        coarse, error = separate.values["coarse_error"], separate.values["error"]
        planes = separate.values["planes"]
        policy = self.card.unit.policy
        fine = self.recipe.fine if policy.boh else "not offered"
        fine = "precision" if fine != "not offered" and self.card.unit.mode == "precision" else fine
        decide = {
            "not offered": "The device was told not to offer fine tiers.",
            "precision": "In the mode `precision` all of the fine tier is asked for.",
            "never": "The recipe never asks for a fine tier.",
            "always": "The recipe always asks for the fine tier.",
            "budget": f"An error of {policy.error_budget:g} is allowed.",
        }[fine]
        self.story.add(
            "error",
            f"Over the whole weight, the coarse tier's relative error is {{coarse_error}}. {decide}"
            + (f" With {planes} bit plane{'s' * (planes > 1)} of it the error is {{error}}." if planes else ""),
            {
                "coarse_error": Value.of(np.float64(coarse)),
                "error": Value.of(np.float64(error)),
                "weight": self.weight.value(),
                "decoded": self.weight.value(self.packed.dequantize()),
                "coarse": self.weight.value(self.packed.coarse().dequantize()),
            },
            {"planes": planes, "budget": policy.error_budget, "fine": fine},
            ("decoded", "weight"),
        )

    def _moved(self, spans: list[Span]) -> None:
        """Handshake, tiers over the link, and what the decode cache did."""
        hand = _only(spans, "handshake")
        if hand is not None:
            facts = {key: hand.values[key] for key in ("coarse_bytes", "fine_bytes", "planes", "offered")}
            coarse = self.packed.coarse().nbytes
            if (facts["coarse_bytes"], facts["fine_bytes"]) != (coarse, self.packed.nbytes - coarse):
                raise RecordingError(f"{self.card.name}: the handshake counts other bytes than the packed weight has")
            fine = (
                "There is no fine tier."
                if not facts["offered"]
                else "{planes} of {offered} bit planes of the fine tier follow, {fine_bytes} bytes."
            )
            self.story.add(
                "handshake",
                "Card and compute unit agree on what travels: first the coarse tier, {coarse_bytes} bytes. " + fine,
                {},
                facts,
            )
        sent = _only(spans, "coarse")
        if hand is None and sent is not None:
            self.story.add(
                "transfer",
                "Without a handshake the coarse tier travels over the link: {coarse_bytes} bytes.",
                {},
                {"coarse_bytes": sent.values["bytes"], "fine_bytes": 0},
            )
        decode = _only(spans, "decode")
        self._cache_says("decoded weight", "miss" if decode else "hit", decode)

    def _shared(self, side: str) -> None:
        """What the cache of shared operands was asked for this side of a product, if it was."""
        for asked in self.witness.shared:
            if (asked.card, asked.side) == (self.card.name, side):
                self._cache_says("shared operand", "hit" if asked.hit else "miss", None)

    def _cache_says(self, cache: str, did: str, span: Span | None) -> None:
        words = {
            ("scales", "miss"): "The scale cache has no scales of this weight: they are computed afresh.",
            ("scales", "hit"): "The scale cache has this weight's scales already (use {use} of them): a hit.",
            ("decoded weight", "miss"): (
                "The decode cache has no weight of this version: a miss. It is laid out for the product and kept."
            ),
            ("decoded weight", "hit"): "The decode cache has this very version of the weight: a hit.",
            ("shared operand", "miss"): (
                "No layer has read this very array before, so the cache of shared operands has nothing of it: a miss. "
                "The operand is made, and kept for the next layer that reads the array, as key does after query."
            ),
            ("shared operand", "hit"): (
                "Another layer has read this very array, and its operand is used again: the cache of shared operands "
                "has a hit."
            ),
        }
        use = span.values.get("use", 0) if span is not None else 0
        self.story.add("cache", words[cache, did], {}, {"cache": cache, "did": did, "use": use})

    # -- forward

    def _numbers(self, phase: str, weight: NDArray, why: str) -> NDArray[np.float32]:
        self.weight = dataclasses.replace(self.weight, data=weight)
        story = self.story.at(phase, self.card.name, "product")
        return products.of_numbers(story, "the output", self.x, self.weight, why=why)

    def _fp4_forward(self, phase: str, spans: list[Span]) -> NDArray[np.float32]:
        how = activation_of(self.recipe)
        decoded(self.story, self.weight, self.packed, _STANDS_FOR)
        key = None
        if how.stochastic:
            (key,) = _only(spans, "matmul").keys
        story = self.story.at(phase, self.card.name, "activation")
        self._shared("left")
        left, packed = self._operand(self.x, get_format(how.format), key)
        story.at(phase, self.card.name, "product")
        return self._product("the output", "activation", left, packed, self.weight, self.packed)

    def _operand(
        self, matrix: Matrix, fmt: BlockFormat, key: Key | None = None, prepare: Prepare | None = None,
        eden: bool = False,
    ) -> tuple[Matrix, PackedTensor]:  # fmt: skip
        """The matrix as it is multiplied (rotated, without its mean), and its codes."""
        story = self.story
        story.add(
            "operand",
            f"{matrix.name[0].upper() + matrix.name[1:]} is to be multiplied, as {fmt.name}. Here it is {{x}}.",
            {"x": matrix.value()},
            described(fmt),
            ("x",),
        )
        return self._codes_of(matrix if prepare is None else prepare(matrix), fmt, key, eden)

    def _codes_of(
        self, matrix: Matrix, fmt: BlockFormat, key: Key | None, eden: bool = False
    ) -> tuple[Matrix, PackedTensor]:
        """The matrix and its codes, by chance under a key; under MS-EDEN the key is of the scales' rounding."""
        mend = (lambda packed: together.mended(self.story, matrix, packed, key)) if eden else None
        packed = operand(self.story, matrix, fmt, key=None if eden else key, mend=mend)
        decoded(self.story, matrix, packed, _STANDS_FOR)
        return matrix, packed

    def _product(
        self, name: str, slot: str, left: Matrix, left_packed: PackedTensor, right: Matrix, right_packed: PackedTensor
    ) -> NDArray[np.float32]:
        """On the virtual tensor core, or of decoded operands: whichever way the card went."""
        if self.card.ways[slot] == "tensor core":
            sums = self.recipe.accumulate, self.recipe.promote
            return products.of_codes(self.story, name, left, left_packed, right, right_packed, *sums)
        why = "No tensor core multiplies these two formats, so both are decoded."
        left = dataclasses.replace(left, data=left_packed.dequantize())
        right = dataclasses.replace(right, data=right_packed.dequantize())
        return products.of_numbers(self.story, name, left, right, why=why, rounded=True)

    def _checked(self, product: NDArray, spans: list[Span]) -> NDArray:
        seen = _only(spans, "matmul").values
        self.story.agree("its input", self.x.data, seen["x"])
        self.story.agree("the output", product, seen["product"])
        return product

    # -- backward

    def backward(self, g: NDArray[np.float32], visit: Visit, keys: list[list[Key]]) -> tuple[NDArray, NDArray]:
        """Tell both gradient products for the gradient g (tokens, outputs); returns those of x and of the weight."""
        self.story.agree("the gradient that arrives", g, visit.arrived)
        to_x = self._to_x(g, keys[0])
        self.story.agree("the gradient of its input", to_x, visit.handed_on[0])
        to_weight = self._to_weight(g, keys[1])
        if self.packed is not None and self.recipe.gradient_rule == "row-max":
            to_weight = self._row_max(to_weight)
        self.story.agree("the gradient of its weight", to_weight, visit.handed_on[1])
        return to_x, to_weight

    def _to_x(self, g: NDArray, keys: list[Key]) -> NDArray[np.float32]:
        name = "the input's gradient"
        gradient = Matrix("the gradient", g, "token", self.outputs)
        how = self.recipe.gradient if self.packed is not None else None
        story = self.story.at("backward", self.card.name, "gradient" if how else "gradient of the input")
        if how is None:
            rounded = self.packed is not None and self._quantizes
            data = self.packed.dequantize() if rounded else self.weight.data
            turned = Matrix("the weight", np.ascontiguousarray(data.T), self.inputs, self.outputs)
            why = "The gradient goes back through the same weight that computed."
            return products.of_numbers(story, name, gradient, turned, turned=(False, False), why=why)
        if quantizes_anew(how):
            data = np.ascontiguousarray(self.packed.dequantize().T)
            turned = Matrix("the weight, transposed,", data, self.inputs, self.outputs)
            parts = ("gradient", "weight, transposed", "gradient of the input")
            return self._pair(name, "gradient", how, (gradient, turned), parts, keys)
        _, left = self._operand(gradient, get_format(how.format), keys[0] if how.stochastic else None)
        turned = Matrix("the weight, transposed,", np.ascontiguousarray(self.weight.data.T), self.inputs, self.outputs)
        right = self._turned_codes(turned)
        story.part = "gradient of the input"
        return self._product(name, "gradient", gradient, left, turned, right)

    def _pair(
        self, name: str, slot: str, how: Operands, sides: tuple[Matrix, Matrix], parts: tuple[str, str, str],
        keys: list[Key],
    ) -> NDArray[np.float32]:  # fmt: skip
        """A product of operands that are made alike (`device.pairs`); `parts`: of both operands and of the product."""
        story, keys, means = self.story, list(keys), []
        turn = together.Turn.of(how, keys)

        def prepared(matrix: Matrix) -> Matrix:
            if how.split_mean:
                matrix, mean = together.without_mean(story, matrix)
                means.append(mean)
            if turn is None:
                return matrix
            if story.part == parts[0]:
                turn.draw(story, matrix)
            return turn.turned(story, matrix)

        made = []
        for matrix, part, fmt in zip(sides, parts, (how.format, how.right or how.format)):
            story.part = part
            by_chance = how.eden or (how.stochastic and not made)
            key = keys.pop(0) if by_chance else None
            if part == "weight, transposed":
                self._anew(matrix)
            if part == "input, transposed":
                self._shared("right")
            made += self._operand(matrix, get_format(fmt), key, prepared, how.eden)
        story.part = parts[2]
        if not how.split_mean:
            return self._product(name, slot, *made)
        part = together.product_of_means(story, name, *sides, means)
        rest = self._product("the codes' part of it", slot, *made)
        return together.both_parts(story, name, *sides, part, rest)

    def _anew(self, turned: Matrix) -> None:
        self.story.add(
            "quantized anew",
            "Both operands of this product are changed alike before they are rounded, and the weight's codes are those "
            "of the unchanged one. So what they stand for, {x}, is quantized once more.",
            {"x": turned.value()},
            {},
            ("x",),
        )

    def _turned_codes(self, turned: Matrix) -> PackedTensor:
        """The weight for the product that sums over its rows: its own codes where tiles are square, else new ones."""
        packed, story = self.packed, self.story
        story.part = "weight, transposed"
        if packed.format.block_rows == packed.format.block and not packed.planes:
            right = _transposed(packed)
            story.add(
                "same codes",
                "This product sums over the weight's rows. Its tiles are square, so turned around it has the same "
                "codes and the same scales: this one is {element} x {scale} here too.",
                {
                    "code": turned.value(right.unpacked_codes()),
                    "element": turned.value(elements(right)),
                    "scale": Value.of(right.decoded_scales(), *turned.scale_axes(right.format)),
                },
                described(packed.format),
                ("code",),
            )
            return right
        story.add(
            "second time",
            "This product sums over the weight's rows, and the blocks lie along them the other way: so the master "
            "weight is quantized a second time. The two roundings of {x} may differ.",
            {"x": turned.value()},
            described(packed.format),
            ("x",),
        )
        fmt, whole = packed.format, packed.planes or packed.format.quantile_codebook
        fmt = fmt if whole else dataclasses.replace(fmt, fine=None)
        right = operand(story, turned, fmt, planes=packed.planes)
        decoded(story, turned, right, _STANDS_FOR)
        return right

    def _to_weight(self, g: NDArray, keys: list[Key]) -> NDArray[np.float32]:
        name = "the weight's gradient"
        left = Matrix("the gradient, transposed,", np.ascontiguousarray(g.T), self.outputs, "token")
        right = Matrix("the input, transposed,", np.ascontiguousarray(self.x.data.T), self.inputs, "token")
        story = self.story.at("backward", self.card.name, "gradient of the weight")
        how = self.recipe.weight_gradient if self.packed is not None else None
        if how is None:
            why = "Every token sends its share to the weight."
            return products.of_numbers(story, name, left, right, turned=(True, False), why=why)
        parts = ("gradient, transposed", "input, transposed", "gradient of the weight")
        return self._pair(name, "weight_gradient", how, (left, right), parts, keys)

    def _row_max(self, gradient: NDArray) -> NDArray[np.float32]:
        residual = np.abs(self.master.data - self.packed.coarse().dequantize())
        kept = np.arange(residual.shape[1]) == residual.argmax(axis=1)[:, None]
        out = gradient * kept
        weight = self.weight
        self.story.add(
            "row-max",
            "By this recipe's rule only the weight that sets its row's scale gets its gradient: {kept?not this one, "
            "so 0|this one, so} {result}.",
            {
                "result": weight.value(out),
                "kept": weight.value(kept.astype(np.uint8)),
                "before": weight.value(gradient),
            },
            {},
            ("result", "kept", "before"),
        )
        return out


def _only(spans: list[Span], kind: str) -> Span | None:
    found = [span for span in spans if span.kind == kind]
    if len(found) > 1:
        raise RecordingError(f"{found[0].card}: {len(found)} spans {kind!r} in one product")
    return found[0] if found else None


def _transposed(packed: PackedTensor) -> PackedTensor:
    """The transpose of a matrix with square tiles, of the same codes."""
    fmt = packed.format
    scales = np.repeat(packed.scales[:: fmt.block].T, fmt.block, axis=0)[: packed.shape[1]]
    codes = pack_codes(np.ascontiguousarray(packed.unpacked_codes().T), fmt.code_bits)
    return dataclasses.replace(
        packed, codes=codes, scales=np.ascontiguousarray(scales), shape=packed.shape[::-1], sqnr_db=None
    )
