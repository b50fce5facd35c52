"""Record one training step: run it on a real device, tell it by the definitions, and let nothing pass that differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..device import Device, Recipe, Schedule, get_recipe, place
from ..engine import autograd, optim
from ..errors import UserError
from ..formats.errors import NonFiniteError
from .cards import CardStory
from .small_model import LETTERS, WIDTH, SmallModel, batch, softmax_parts
from .steps import CARDS, TrainingSteps
from .story import Story
from .values import ONE, Value, along
from .witness import Visit, Witness

KNOWN_FIELDS = {
    "name", "weight", "summary", "fine", "error_budget", "activation", "gradient", "weight_gradient", "keep",
    "gradient_rule", "accumulate", "promote", "schedule",
}  # fmt: skip
KNOWN_OPERAND = {"format", "stochastic", "hadamard", "right", "signs", "eden", "split_mean"}

TOKEN, INPUT, UNIT, LETTER = map(along, ("token", "input", "unit", "letter"))


def check_known(recipe: Recipe) -> None:
    """Raise if a recipe asks for something that a recorded step does not show.

    Raises
    ------
    ValueError
        Names the field.
    """
    parts = [("", recipe, KNOWN_FIELDS)]
    parts += [
        (f"{slot}.", getattr(recipe, slot), KNOWN_OPERAND)
        for slot in ("activation", "gradient", "weight_gradient")
        if getattr(recipe, slot) is not None
    ]
    for prefix, record, known in parts:
        for field in dataclasses.fields(record):
            if field.name not in known and getattr(record, field.name) != field.default:
                raise ValueError(
                    f"recipe {recipe.name}: a recorded step does not show {prefix}{field.name}="
                    f"{getattr(record, field.name)!r}; take a recipe without it: nvfp4-train, mxfp4-train"
                )
    if recipe.schedule is not None and recipe.schedule.last == 1:
        raise ValueError(f"recipe {recipe.name} computes in float32 from the first step on: record fp32 instead")


def step(
    recipe: str | Recipe = "nvfp4-train",
    *,
    seed: int = 0,
    weights: Mapping[str, ArrayLike] | None = None,
    lr: float = 0.5,
    **options: Any,
) -> TrainingSteps:
    """Record one training step of a small model, with every number in it, to walk through.

    Two layers of 16 x 16 on cards, 32 letters of a sentence, plain gradient descent. The step runs on a real device;
    its events are computed apart from it, by the definitions, and every product, gradient and new weight must be the
    device's to the last bit.

    Parameters
    ----------
    recipe : str or Recipe
    seed : int
        Of the weights and of stochastic rounding.
    weights : dict, optional
        Of `first` and `second`, float32 (16, 16); what is missing is drawn.
    lr : float
        Learning rate.
    options
        For the `Device`: `accumulate`, `promote`, `boh`, `error_budget`, `refresh_interval`, `compute`.

    Returns
    -------
    TrainingSteps

    Raises
    ------
    ValueError
        A recipe that a recorded step does not show; weights of another shape or kind; weights or an `lr` under which
        something overflows.
    RecordingError
        The definitions and the device disagree: a defect.

    Examples
    --------
    >>> steps = step("nvfp4-train", seed=1)   # doctest: +SKIP
    >>> print(steps.next())                   # doctest: +SKIP
    """
    recipe = get_recipe(recipe)
    model = SmallModel(seed)
    for name, array in checked_weights(weights or {}).items():
        getattr(model, name).weight.assign(array)
    device = place(model, recipe, seed=seed, **options)
    _check_cards(device)
    with autograd.use_twins(False):  # kernels give the same bits, and take a minute to compile
        run = _finite_run(device, model, optim.SGD(model.parameters(), lr=lr))
    with np.errstate(over="ignore", under="ignore"):
        story = _tell(run)
    about = {
        "recipe": _plain_recipe(device.recipe), "seed": seed, "lr": lr, "options": dict(options),
        "text": "".join(LETTERS[i] for i in run.ids), "letters": LETTERS, "own_weights": sorted(weights or {}),
        "loss": float(run.loss), "loss_after": float(run.loss_after),
    }  # fmt: skip
    return TrainingSteps(story.events, about, _first_place(story))


def _check_cards(device: Device) -> None:
    """Raise if the step of a device's cards is none that can be shown."""
    check_known(device.recipe)
    if set(device.cards) != set(CARDS):
        raise UserError("a recorded step shows the cards first and second, so both are placed: leave `select` out")


def checked_weights(weights: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float32]]:
    """Weights of one's own as float32 (16, 16) matrices by card.

    Raises
    ------
    UserError
        No such card, another shape, or numbers that are not finite.
    """
    checked = {}
    for name, array in weights.items():
        if name not in CARDS:
            raise UserError(f"there is no card {name!r} in the small model; its cards are {' and '.join(CARDS)}")
        array = np.asarray(array)
        if array.dtype.kind != "f" or array.shape != (WIDTH, WIDTH):
            raise UserError(
                f"the weight of card {name} is {array.dtype} {array.shape}; give floating point numbers of shape "
                f"({WIDTH}, {WIDTH})"
            )
        with np.errstate(over="ignore"):
            checked[name] = array.astype(np.float32)
        if not np.isfinite(checked[name]).all():
            raise UserError(f"the weight of card {name} has a NaN or an infinity (in float32); give finite numbers")
    return checked


def _plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, formats by name."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and hasattr(value, "rule"):
            return value.name
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return list(value) if isinstance(value, tuple) else value

    return plain(recipe)


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """What really happened."""

    device: Device
    ids: NDArray
    targets: NDArray
    before: dict[str, NDArray]
    after: dict[str, NDArray]
    gradients: dict[str, NDArray]
    first: Witness
    second: Witness
    lr: float
    loss: NDArray
    loss_after: NDArray


def _run(device: Device, model: SmallModel, optimizer: optim.SGD) -> _Run:
    """One step as any training loop does it, and the next forward computation."""
    ids, targets = batch()
    first, second = Witness(device), Witness(device)
    before = {name: np.array(p.data) for name, p in model.named_parameters()}
    with first.watching():
        loss = model.loss(ids, targets)
        loss.backward()
    optimizer.step()
    after = {name: np.array(p.data) for name, p in model.named_parameters()}
    gradients = {name: np.array(p.grad) for name, p in model.named_parameters()}
    with second.watching():
        loss_after = model.loss(ids, targets)
    losses = np.array(loss.data), np.array(loss_after.data)
    return _Run(device, ids, targets, before, after, gradients, first, second, optimizer.lr, *losses)


def _finite_run(device: Device, model: SmallModel, optimizer: optim.SGD) -> _Run:
    """`_run`, or a refusal where numbers overflow: there is nothing to learn from infinities."""
    why = "the loss before or after it is not a finite number"
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            run = _run(device, model, optimizer)
        except NonFiniteError as error:
            why, run = str(error).partition(";")[0], None
    if run is None or not np.isfinite([run.loss, run.loss_after]).all():
        raise UserError(
            f"this step overflows float32 ({why}), so it cannot be shown: take smaller weights, or a smaller learning "
            f"rate than {optimizer.lr:g}"
        )
    return run


def _tell(run: _Run) -> Story:
    story = Story()
    recipe = run.device.recipe
    cards = {
        name: CardStory(story, run.device.cards[name], recipe, outputs=labels[0], inputs=labels[1])
        for name, labels in CARDS.items()
    }
    if recipe.schedule is not None:
        _schedule(story, recipe.schedule)
    parts = _forward(story, cards, run, "forward")
    story.agree("the loss", _loss(story.at("loss"), parts, run.targets), run.loss)
    _backward(story, cards, run, parts)
    _update(story, run)
    parts = _forward(story, cards, run, "repack")
    story.agree("the loss after the step", _loss(story.at("repack"), parts, run.targets), run.loss_after)
    _counts(story, run)
    return story


def _schedule(story: Story, schedule: Schedule) -> None:
    """What will change as training goes on; a recorded step is the first one."""
    will = []
    if schedule.oscillation != "off":
        does = "counts" if schedule.oscillation == "count" else "resets"
        will.append(
            f"at the end of every {schedule.window} steps it {does} the weights whose code moved {schedule.ratio:g} "
            "times as far as they did"
        )
    if schedule.last:
        will.append(f"in the last {100 * schedule.last:g}% of the steps all products are float32")
    if schedule.stop_below:
        will.append(
            f"every {schedule.every} steps the gradient is held against its error from quantization, and once it is "
            f"shorter than {schedule.stop_below:.4g} times that, all products are float32"
        )
    what = "; ".join(will) or "nothing"
    story.at("forward", "model").add(
        "schedule",
        f"What this recipe changes as training goes on: {what}. This is the first step, before all that.",
        {},
        dataclasses.asdict(schedule),
    )


def _forward(story: Story, cards: dict[str, CardStory], run: _Run, phase: str) -> dict[str, NDArray]:
    witness, weights = (run.first, run.before) if phase == "forward" else (run.second, run.after)
    table = weights["embedding"]
    x = table[run.ids]
    story.at(phase).add(
        "tokens",
        "Token {token} is the letter {letter@names}, number {letter}; its row of the embedding table goes in: {x} at "
        "this input. What the model should say is the letter after it, {target@names}.",
        {
            "x": Value.of(x, TOKEN, INPUT),
            "token": Value.of(np.arange(len(run.ids)), TOKEN),
            "letter": Value.of(run.ids, TOKEN),
            "target": Value.of(run.targets, TOKEN),
            "table": Value.of(table, LETTER, INPUT),
        },
        {"names": [repr(letter) for letter in LETTERS]},
        ("x",),
    )
    y = cards["first"].forward(phase, x, weights["first.weight"], witness)
    hidden = np.maximum(y, 0)
    story.at(phase).add(
        "ReLU",
        "Between the layers: what is negative becomes 0. {y} becomes {hidden}.",
        {"hidden": Value.of(hidden, TOKEN, UNIT), "y": Value.of(y, TOKEN, UNIT)},
        {},
        ("hidden", "y"),
    )
    logits = cards["second"].forward(phase, hidden, weights["second.weight"], witness)
    return {"x": x, "y": y, "hidden": hidden, "logits": logits}


def _loss(story: Story, made: dict[str, NDArray], targets: NDArray) -> NDArray:
    """From logits to the loss; adds what the backward pass needs to `made`."""
    logits = made["logits"]
    parts = softmax_parts(logits)
    made["probability"] = parts["probability"]
    rows = np.arange(len(targets))
    losses = np.log(parts["total"][:, 0]) - parts["shifted"][rows, targets]
    made["losses"] = losses
    story.add(
        "probabilities",
        "From scores to probabilities, in double precision: this letter's score is {logits}, the token's largest "
        "{top}. e to the difference is {power}, over their sum {total}: a probability of {probability}.",
        {
            "probability": Value.of(parts["probability"], TOKEN, LETTER),
            "logits": Value.of(logits, TOKEN, LETTER),
            "top": Value.of(parts["top"], TOKEN, ONE),
            "shifted": Value.of(parts["shifted"], TOKEN, LETTER),
            "power": Value.of(parts["power"], TOKEN, LETTER),
            "total": Value.of(parts["total"], TOKEN, ONE),
        },
        {},
        ("probability", "logits"),
    )
    mean = np.asarray(np.add.accumulate(losses)[-1] / len(targets), np.float32)
    story.add(
        "loss",
        "The token's right letter is {target@names}; minus the logarithm of its probability is {losses}: the smaller, "
        "the better. The mean over all tokens is the loss: {loss}.",
        {
            "losses": Value.of(losses, TOKEN),
            "loss": Value.of(mean),
            "target": Value.of(targets, TOKEN),
            "total": Value.of(parts["total"], TOKEN, ONE),
            "shifted": Value.of(parts["shifted"], TOKEN, LETTER),
        },
        {"names": [repr(letter) for letter in LETTERS]},
        ("losses",),
    )
    return mean


def _backward(story: Story, cards: dict[str, CardStory], run: _Run, made: dict[str, NDArray]) -> None:
    witness = run.first
    products = witness.visits_of("card_linear")  # the youngest first
    wrong = made["probability"].copy()
    wrong[np.arange(len(run.targets)), run.targets] -= 1
    g = (wrong / len(run.targets)).astype(np.float32)
    story.at("backward").add(
        "gradient of the scores",
        "How much does the loss move with this score? Its probability {probability}, less 1 if it is the right letter "
        "(which is {target@names}), over the number of tokens: {gradient}.",
        {
            "gradient": Value.of(g, TOKEN, LETTER),
            "probability": Value.of(made["probability"], TOKEN, LETTER),
            "target": Value.of(run.targets, TOKEN),
        },
        {"names": [repr(letter) for letter in LETTERS], "tokens": len(run.targets)},
        ("gradient", "probability"),
    )
    made["first"], made["second"] = _layers(story, cards, run, made, g, products)


def _layers(
    story: Story, cards: dict[str, CardStory], run: _Run, made: dict[str, NDArray], g: NDArray, products: list[Visit]
) -> tuple[NDArray, NDArray]:
    """Back through both layers and the ReLU to the embedding; the gradients of both weights."""
    to_hidden, to_second = cards["second"].backward(g, products[0], _keys(run.first, "second"))
    passed = made["y"] > 0
    to_y = to_hidden * passed
    story.at("backward").add(
        "ReLU",
        "The ReLU lets the gradient through where it let the number through: {y} was {passed?not positive, so 0 goes "
        "on|positive, so {arrived} goes on}.",
        {
            "handed_on": Value.of(to_y, TOKEN, UNIT),
            "arrived": Value.of(to_hidden, TOKEN, UNIT),
            "y": Value.of(made["y"], TOKEN, UNIT),
            "passed": Value.of(passed.astype(np.uint8), TOKEN, UNIT),
        },
        {},
        ("handed_on", "arrived"),
    )
    to_x, to_first = cards["first"].backward(to_y, products[1], _keys(run.first, "first"))
    table = np.zeros_like(run.before["embedding"])
    np.add.at(table, run.ids, to_x)
    story.at("backward").add(
        "gradient of the embedding",
        "Every token that is the letter {letter@names} adds its gradient to that letter's row; this token's is "
        "{arrived}.",
        {
            "gradient": Value.of(table, LETTER, INPUT),
            "arrived": Value.of(to_x, TOKEN, INPUT),
            "letter": Value.of(run.ids, TOKEN),
        },
        {"names": [repr(letter) for letter in LETTERS]},
        ("arrived", "gradient"),
    )
    for name, gradient in (("embedding", table), ("first.weight", to_first), ("second.weight", to_second)):
        story.agree(f"the gradient of {name}", gradient, run.gradients[name])
    return to_first, to_second


def _keys(witness: Witness, card: str) -> list[list[tuple[int, int]]]:
    """Of the random draws for the gradient of the input, and of the weight."""
    return [span.keys for span in witness.of(card, "backward")]


def _update(story: Story, run: _Run) -> None:
    labels = {"embedding": (LETTER, INPUT), "first.weight": (UNIT, INPUT), "second.weight": (LETTER, UNIT)}
    for name, axes in labels.items():
        card = name.removesuffix(".weight")
        step = np.float32(run.lr) * run.gradients[name]
        after = run.before[name] - step
        story.at("update", card if card in CARDS else "model", name).add(
            "update",
            "The master weight, in float32, moves against its gradient: {before} - {lr} x {gradient} = {after}.",
            {
                "after": Value.of(after, *axes),
                "before": Value.of(run.before[name], *axes),
                "gradient": Value.of(run.gradients[name], *axes),
                "step": Value.of(step, *axes),
                "lr": Value.of(np.float32(run.lr)),
            },
            {"name": name},
            ("after", "before", "gradient"),
        )
        story.agree(f"the new {name}", after, run.after[name])


def _counts(story: Story, run: _Run) -> None:
    for name in CARDS:
        counts = run.device.cards[name].statistics.as_dict()
        story.at("repack", name, "").add(
            "counts",
            "In both computations this card made {computes} products: its scales were computed {separations} times "
            "and found in the cache {hits} times, its weight was decoded {decodes} times, and {coarse_bytes} bytes of "
            "coarse and {fine_bytes} of fine tier went over the link.",
            {},
            counts,
        )


def _first_place(story: Story) -> dict[str, int]:
    """Of the token whose loss is largest; of the weight of `first` that sends most there, and to which letter."""
    found = {(event.phase, event.card, event.kind): event for event in story.events}
    token = int(found["loss", "model", "loss"].values["losses"].data.argmax())
    x = found["forward", "model", "tokens"].values["x"].data[token]
    hidden = found["forward", "model", "ReLU"].values["hidden"].data[token]
    weights = {name: found["forward", name, "master"].values["x"].data for name in CARDS}
    unit = int((hidden * np.abs(weights["second"]).max(axis=0)).argmax())
    return {
        "token": token,
        "input": int(np.abs(weights["first"][unit] * x).argmax()),
        "unit": unit,
        "letter": int(np.abs(weights["second"][:, unit]).argmax()),
    }


