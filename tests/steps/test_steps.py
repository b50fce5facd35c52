"""The recorded step: every number from its events alone, and the same step as an ordinary training loop makes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import vbw_np as vbw
from tests.steps.recompute import Recomputer
from vbw_np import cli
from vbw_np.device import RECIPES, Recipe, Schedule, get_recipe
from vbw_np.device.changes import CHANGES
from vbw_np.engine import autograd
from vbw_np.errors import UserError
from vbw_np.steps import Event, SmallModel, TrainingSteps, batch
from vbw_np.steps.page import page
from vbw_np.steps.saying import fill
from vbw_np.steps.values import LISTED, Value, along, number


def recorded(recipe: str | Recipe, seed: int = 0, **options: object) -> dict:
    """The step's JSON, as somebody else would read it."""
    return json.loads(json.dumps(vbw.step(recipe, seed=seed, **options).as_json(), allow_nan=False))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_number_comes_out_of_the_events_alone(recipe: str, seed: int) -> None:
    assert Recomputer(recorded(recipe, seed)).run() > 5_000


ALONE = [f"{recipe}:{change}" for recipe in RECIPES for change in CHANGES]
FIRST_OF_TWO = [f"{recipe}:{change}" for recipe in ("nvfp4-train", "fp8-train") for change in CHANGES]
FEW_PAIRS = (
    "nvfp4-train:ms-eden+split-mean", "nvfp4-train:split-mean+hadamard-64", "nvfp4-train:hadamard-16+no-sr",
    "nvfp4-train:ms-eden+blackwell-sums", "nvfp4-train:if4+hadamard-128", "nvfp4-train:ue5m3+split-mean",
    "nvfp4-train:four-over-six+four-over-six-activations", "nvfp4-train:sr-everywhere+if4",
    "mxfp4-train:hadamard-32+no-sr",
    "fp8-train:no-promotion+blackwell-sums", "fp8-train:hadamard-64+split-mean", "nvfp4-train:1d-scales+ms-eden",
    "nvfp4-train:ms-eden+ste=off", "nvfp4-train:hadamard-32+no-hadamard",
)  # fmt: skip


def recorded_or_refused(name: str) -> None:
    """Every number of the step comes out of its events; or the recipe is refused, in words that name it."""
    try:
        steps = vbw.step(name)
    except ValueError as error:
        recipe, changes = name.split(":")
        assert f"recipe {recipe}" in str(error) and any(change in str(error) for change in changes.split("+"))
        return
    assert Recomputer(json.loads(json.dumps(steps.as_json(), allow_nan=False))).run() > 5_000


@pytest.mark.parametrize("name", [*ALONE, *FEW_PAIRS, "nvfp4-train:ms-eden+sr-everywhere"])
def test_every_change_of_every_recipe_is_recorded_or_refused(name: str) -> None:
    recorded_or_refused(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST_OF_TWO)
def test_every_two_changes_are_recorded_or_refused(name: str) -> None:
    for change in CHANGES:
        recorded_or_refused(f"{name}+{change}")


OF_OTHERS = {"no-promotion": "fp8-train", "fine-always": "nvfp4-boh"}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_recorded_as_the_ordinary_step_that_it_is(change: str) -> None:
    """Schedules too: a recorded step is the first one, in which nothing of them is due."""
    name = f"{OF_OTHERS.get(change, 'nvfp4-train')}:{change}"
    steps = vbw.step(name)
    told = [event.facts for event in steps if event.kind == "schedule"]
    schedule = get_recipe(name).schedule
    assert told == ([] if schedule is None else [dataclasses.asdict(schedule)])
    with autograd.use_twins(False):
        compared(name, seed=0)


def test_what_a_recorded_step_does_not_show_is_refused_by_name() -> None:
    always = dataclasses.replace(get_recipe("nvfp4-train"), name="always", schedule=Schedule(last=1))
    with pytest.raises(ValueError, match="computes in float32 from the first step on"):
        vbw.step(always)


@pytest.mark.parametrize(
    ("recipe", "sums"),
    [("nvfp4-train", "blackwell"), ("mxfp4-train", "blackwell"), ("fp8-train", "blackwell"), ("fp8-train", "hopper")],
)
def test_sums_inside_the_core_come_out_term_by_term(recipe: str, sums: str) -> None:
    """Exponents, what is kept of every term, what is cut off, the sum; on Hopper something is cut off."""
    data = recorded(recipe, accumulate=sums)
    assert Recomputer(data).run() > 5_000
    cores = [event for event in data["events"] if event["kind"] == "sum in the core"]
    assert len(cores) == 8  # two forward, two of inputs, two of weights, and the next forward's two
    lost = [np.abs(Recomputer.decode(data["arrays"][core["values"]["lost"]["array"]])).max() for core in cores]
    assert (max(lost) > 0) == (sums == "hopper")


def changed(**changes: dict[str, object]) -> Recipe:
    """nvfp4-train with fields of its operands changed."""
    base = get_recipe("nvfp4-train")
    parts = {slot: dataclasses.replace(getattr(base, slot), **fields) for slot, fields in changes.items()}
    return dataclasses.replace(base, name="changed", **parts)


OF_ONES_OWN = {
    "the gradient rotated": {"gradient": {"hadamard": 16, "right": "nvfp4"}},
    "the gradient rotated, signs drawn": {"gradient": {"hadamard": 64, "signs": "random", "right": "nvfp4"}},
    "fixed signs of 32": {"weight_gradient": {"hadamard": 32}},
    "the gradient's mean split off": {"gradient": {"split_mean": True, "right": "nvfp4"}},
    "both means, one rotation": {
        "gradient": {"split_mean": True, "stochastic": False},
        "weight_gradient": {"split_mean": True, "hadamard": 128, "signs": "random"},
    },
}


@pytest.mark.parametrize("what", OF_ONES_OWN)
def test_operands_that_are_made_together_in_any_product(what: str) -> None:
    recipe = changed(**OF_ONES_OWN[what])
    assert Recomputer(recorded(recipe)).run() > 5_000
    with autograd.use_twins(False):
        compared(recipe, seed=1)


def told(recipe: str, kind: str, part: str) -> list[Event]:
    return [event for event in vbw.step(recipe) if event.kind == kind and event.part == part]


def test_signs_are_drawn_once_for_both_operands_and_anew_for_each_product() -> None:
    drawn = told("nvfp4-train:hadamard-16", "signs", "gradient, transposed")
    assert [event.card for event in drawn] == ["second", "first"] and len({str(e.facts["key"]) for e in drawn}) == 2
    turned = [
        told("nvfp4-train:hadamard-16", "rotation", part) for part in ("gradient, transposed", "input, transposed")
    ]
    for signs, left, right in zip(drawn, *turned, strict=True):
        arrays = [event.values["sign"].data.tobytes() for event in (signs, left, right)]
        assert arrays[0] == arrays[1] == arrays[2]
    assert not told("nvfp4-train", "signs", "gradient, transposed")


def test_what_each_cache_did_is_told_where_it_did_it() -> None:
    """Scales are computed once and kept; the weight is decoded once a version; no two layers share an operand here."""
    did = [(e.facts["cache"], e.phase, e.part, e.facts["did"]) for e in vbw.step("nvfp4-train") if e.kind == "cache"]
    assert did.count(("scales", "forward", "weight", "miss")) == did.count(("scales", "repack", "weight", "hit")) == 2
    for phase in ("forward", "repack"):
        assert did.count(("decoded weight", phase, "weight", "miss")) == 2
        assert did.count(("shared operand", phase, "activation", "miss")) == 2
    assert did.count(("shared operand", "backward", "input, transposed", "miss")) == 2 and len(did) == 14
    kinds = {
        e.facts["cache"] for e in vbw.step("nvfp4-train:sr-everywhere") if (e.kind, e.part) == ("cache", "activation")
    }
    assert not kinds  # operands that are rounded by chance are never shared


def test_ms_eden_mends_the_length() -> None:
    """What the mended scales decode to has, against x, the length that rounding to nearest has lost."""
    for event, after in zip(
        told("nvfp4-train:ms-eden", "length", "gradient"),
        told("nvfp4-train:ms-eden", "decoding", "gradient"),
        strict=True,
    ):
        x = after.values["x"].data.astype(np.float64)
        square, overlap = event.values["square"].data[:, 0], event.values["overlap"].data[:, 0]
        mended = (x * after.values["decoded"].data).sum(axis=1)
        assert np.abs(mended / square - 1).mean() < np.abs(overlap / square - 1).mean()


SLOW = [
    pytest.param(recipe, marks=pytest.mark.slow)
    for recipe in (
        "fp8-train",
        "nvfp4-train:if4",
        "nvfp4-train:ue5m3+hadamard-32",
        "nvfp4-train:four-over-six-activations",
    )
]


@pytest.mark.parametrize("recipe", ["nvfp4-train", "fp8-block-train", "nvfp4-train:ms-eden+split-mean", *SLOW])
def test_a_wrong_bit_is_found(recipe: str) -> None:
    data = recorded(recipe)
    for event in data["events"]:
        for name, value in event["values"].items():
            if (event["phase"], event["kind"]) == ("forward", "tokens") or name in ("lr", "coarse_error", "error"):
                continue
            array = dict(data["arrays"][value["array"]])
            last = array["hex"][-1]
            array["hex"] = array["hex"][:-1] + ("1" if last != "1" else "0")
            broken = data | {"arrays": data["arrays"] | {value["array"]: array}}
            with pytest.raises(AssertionError):
                Recomputer(broken).run()
            break  # one value an event


def ordinary_step(recipe: str | Recipe, seed: int) -> tuple[list[float], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Losses, gradients and new weights of the step, as any training loop makes it."""
    model = SmallModel(seed)
    vbw.place(model, recipe, seed=seed)
    optimizer = vbw.optim.SGD(model.parameters(), lr=0.5)
    ids, targets = batch()
    loss = model.loss(ids, targets)
    loss.backward()
    optimizer.step()
    named = dict(model.named_parameters())
    losses = [loss.item(), model.loss(ids, targets).item()]
    return losses, {n: p.grad for n, p in named.items()}, {n: p.data for n, p in named.items()}


def compared(recipe: str | Recipe, seed: int) -> None:
    steps = vbw.step(recipe, seed=seed)
    losses, gradients, weights = ordinary_step(recipe, seed)
    assert [steps.about["loss"], steps.about["loss_after"]] == losses
    told = {event.facts["name"]: event.values for event in steps if event.kind == "update"}
    for name in weights:
        assert told[name]["gradient"].data.tobytes() == gradients[name].tobytes()
        assert told[name]["after"].data.tobytes() == weights[name].tobytes()


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_is_an_ordinary_step_by_the_definitions(recipe: str) -> None:
    with autograd.use_twins(False):
        compared(recipe, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [*RECIPES, *FEW_PAIRS])
def test_it_is_an_ordinary_step_by_the_kernels(recipe: str) -> None:
    compared(recipe, seed=2)


# -- walking


def test_next_back_goto_until_and_explain() -> None:
    steps = vbw.step("nvfp4-train")
    assert steps.now is None and steps.back() is None
    assert steps.next().kind == "tokens" and steps.next().kind == "master"
    assert steps.back().kind == "tokens"
    event = steps.goto("backward", "second")
    assert (event.phase, event.card, event.part) == ("backward", "second", "gradient")
    assert steps.until("random bits").kind == "random bits" and steps.now.order > event.order
    codes = steps.until("codes")
    assert steps.until(lambda e: e.kind == "product").order > codes.order
    with pytest.raises(LookupError, match="there is no event 'nothing' from here on; there are: forward, tokens, "):
        steps.until("nothing")
    with pytest.raises(LookupError, match="there is no event 'codes' on card 'third'"):
        steps.goto("codes", "third")
    with pytest.raises(IndexError, match="none of number 999"):
        steps.goto(999)
    assert steps.goto(-1).order == len(steps) - 1 and steps.next() is None
    event = steps.goto("codes", "first")
    code = event.values["code"].data
    for i, j in ((0, 0), (3, 5), (15, 15), (-1, 2)):
        assert f"code {code[i, j]}, bits" in steps.explain(i, j)
    with pytest.raises(IndexError, match="there is no entry"):
        steps.explain(16, 0)
    with pytest.raises(LookupError, match="no event yet"):
        vbw.step("fp32").explain(0, 0)


def test_columns_that_only_fill_up_for_a_rotation_belong_to_nobody() -> None:
    steps = vbw.step("nvfp4-train:hadamard-128")
    assert steps.sizes == vbw.step("fp32").sizes == {"token": 32, "input": 16, "unit": 16, "letter": 16}
    turned = steps.goto("rotation", "second")
    assert turned.values["after"].data.shape == (16, 128) and turned.values["before"].data.shape == (16, 32)
    assert f"becomes {number(turned.values['after'].data[3, 31])}:" in steps.explain(3, 31)
    with pytest.raises(
        IndexError, match=r"entry \(3, 32\) of .*rotation belongs to no token: the 32 tokens were filled"
    ):
        steps.explain(3, 32)


def test_a_notebook_shows_an_event_with_all_of_its_numbers() -> None:
    steps = vbw.step("nvfp4-train")
    event = steps.goto("codes", "first")
    numbers = {name: (text, digits, kind) for name, text, digits, kind in event.numbers()}
    place = steps.place["unit"], steps.place["input"]
    x, code = event.values["x"].data[place], event.values["code"].data[place]
    assert numbers["x"] == (number(x), f"{x.view(np.uint32):08x}", "float32")
    assert numbers["code"] == (str(code), f"{code:02x}", "uint8") and set(numbers) == set(event.values)
    shown = event._repr_html_()
    assert event.say() in shown.replace("&#x27;", "'") and f"<td style='text-align:left'>{number(x)}</td>" in shown
    assert "vbw step --html FILE" in repr(steps.player()) and "<iframe" in steps.player()._repr_html_()


def test_an_error_budget_decides_about_the_fine_tier(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """What the message about a budget that cannot be met proposes can be done on the command line."""
    np.save(tmp_path / "w.npy", unusual_weights()["tiny"])
    words = ["step", "--recipe", "nvfp4-boh", "--data", str(tmp_path / "w.npy"), "--card", "first"]
    assert cli.main(words) == 2 and "raise the budget" in capsys.readouterr().err
    assert cli.main([*words, "--error-budget", "0.9"]) == 0
    assert "An error of 0.9 is allowed." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "planes", "says"),
    [
        ({}, 3, "An error of 0.02 is allowed. With 3 bit planes"),
        ({"error_budget": 0.06}, 1, "An error of 0.06 is allowed. With 1 bit plane of"),
        ({"error_budget": 0.5}, 0, "An error of 0.5 is allowed."),
        ({"mode": "precision"}, 4, "In the mode `precision` all of the fine tier is asked for. With 4 bit planes"),
        ({"boh": False}, 0, "The device was told not to offer fine tiers."),
        ({"refresh_interval": 1}, 3, "An error of 0.02 is allowed."),
    ],
)
def test_what_the_device_was_told_is_what_the_step_tells(options: dict, planes: int, says: str) -> None:
    data = recorded("nvfp4-boh", **options)
    assert Recomputer(data).run() > 5_000
    steps = TrainingSteps.from_json(data)
    agreed = steps.goto("error", "second")
    assert says in str(agreed) and agreed.facts["planes"] == planes
    kept = [event for event in steps if event.kind == "scales kept"]
    assert bool(kept) == (not {"refresh_interval", "mode"} & set(options))


@pytest.mark.parametrize("recipe", ["nvfp4", "mxfp4", "nvfp4-boh"])
def test_a_device_that_was_told_to_quantize_activations_is_recorded_so(recipe: str) -> None:
    """`compute="fp4"` makes products of codes where the recipe names a weight alone."""
    data = recorded(recipe, compute="fp4")
    assert Recomputer(data).run() > 5_000
    parts = [event["part"] for event in data["events"] if event["kind"] == "operand"]
    assert parts == ["activation"] * 4
    with pytest.raises(UserError, match="both are placed: leave `select` out"):
        vbw.step(recipe, select="second*")


def test_the_page_names_the_command_that_makes_it() -> None:
    for options, words in (
        ({}, "--recipe nvfp4-train --seed 0 --html FILE"),
        (
            {"lr": 0.25, "accumulate": "blackwell"},
            "--recipe nvfp4-train --seed 0 --lr 0.25 --accumulate blackwell --html FILE",
        ),
        ({"weights": {"first": np.ones((16, 16))}}, "--recipe nvfp4-train --seed 0 --data YOUR_WEIGHTS --html FILE"),
    ):
        assert f"<code>vbw step {words}</code>" in page(vbw.step("nvfp4-train", **options))


def test_following_a_weight_changes_what_all_events_say() -> None:
    steps = vbw.step("nvfp4").follow("second", 3, 5, token=7)
    assert (steps.place["letter"], steps.place["unit"], steps.place["token"]) == (3, 5, 7)
    for event in steps:
        assert "{" not in event.say() and "}" not in event.say()
    update = next(event for event in steps if event.kind == "update" and event.card == "second")
    assert str(update).endswith(f" = {number(update.values['after'].data[3, 5])}.")
    for wrong, error in ((("third", 0, 0), "no card"), (("first", 16, 0), "there are 16 units")):
        with pytest.raises((LookupError, IndexError), match=error):
            steps.follow(*wrong)


def test_json_and_back_is_the_same_step(tmp_path) -> None:
    steps = vbw.step("mxfp4-train", seed=5)
    steps.save(tmp_path / "step.json")
    again = TrainingSteps.from_json(json.loads((tmp_path / "step.json").read_text()))
    assert str(again) == str(steps) and again.as_json() == steps.as_json() and repr(again) == repr(steps)
    with pytest.raises(ValueError, match="no recorded step"):
        TrainingSteps.from_json({"schema": "other"})


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.float32(0.1), "0.1"), (np.float32(-0.0), "-0"), (np.float32(1 / 3), "0.33333334"), (np.uint8(7), "7"),
        (np.float32(3.4028235e38), "3.4028235e38"), (np.float32(1e-45), "1e-45"), (np.float32("nan"), "NaN"),
        (np.float32("-inf"), "-Inf"), (np.float64(0.1), "0.1"), (np.float32(123456792), "123456790"),
        (np.float32(2688), "2688"), (np.float32(0.00001), "0.00001"), (np.float32(0.000001), "1e-6"),
    ],
)  # fmt: skip
def test_numbers_are_as_short_as_they_can_be_and_come_back(x: np.generic, text: str) -> None:
    assert number(x) == text
    if np.isfinite(x):
        assert x.dtype.type(float(text)) == x


def test_holes() -> None:
    place = {"token": 1, "unit": 5}
    values = {
        "x": Value.of(np.array([[1, 2, 3], [4, 5, 6]], np.float32), along("token"), along("unit", 2)),
        "code": Value.of(np.array([9, 10], np.uint8), along("token")),
        "list": Value.of(np.array([1.5, 2.5], np.float32), LISTED),
    }
    facts = {"names": [str(i) for i in range(11)], "word": "w", "no": 0}
    sentence = "{x} {x*x} {code:x} {code:b} {code@names} {list} {word} {no?a {x}|b} {x?a|b {no?{code}|d}}"
    assert fill(sentence, values, facts, place) == "6 36 0x0a 00001010 10 1.5, 2.5 w a 6 b 10"
    with pytest.raises(KeyError):
        fill("{unknown}", values, facts, place)


# -- what is refused


def test_weights_of_ones_own() -> None:
    own = np.linspace(-3, 3, 256).reshape(16, 16)
    steps = vbw.step("nvfp4", weights={"second": own})
    assert steps.goto("master", "second").values["x"].data.tobytes() == own.astype(np.float32).tobytes()
    for weights, message in (
        ({"third": own}, "no card 'third'"),
        ({"first": own[:8]}, r"float64 \(8, 16\)"),
        ({"first": own.astype(int)}, "int64"),
        ({"first": own * np.nan}, "NaN"),
        ({"first": own * 1e39}, "infinity"),
    ):
        with pytest.raises(UserError, match=message):
            vbw.step("nvfp4", weights=weights)


def unusual_weights() -> dict[str, np.ndarray]:
    """Weights of one's own at which a rule has an edge: zeros of either sign, subnormal numbers, one large one."""
    drawn = np.random.default_rng(3).standard_normal((16, 16)).astype(np.float32)
    outlier, gaps = drawn.copy(), drawn.copy()
    outlier[3, 5], gaps[2], gaps[:, 4] = 2347, 0, 0
    zeros = np.zeros((16, 16), np.float32)
    return {
        "zeros": zeros, "negative zeros": -zeros, "ones": zeros + 1, "a diagonal": np.eye(16, dtype=np.float32),
        "tiny": drawn * np.float32(1e-38), "subnormal": drawn * np.float32(1e-43), "an outlier": outlier,
        "a row and a column of zeros": gaps, "hundreds": drawn * 100, "large": drawn * np.float32(1e9),
    }  # fmt: skip


EDGES = ("fp32", "seed-v6", "fp4-row", "mxfp4-train", "nvfp4-train", "nvfp4-train:blackwell-sums", "fp8-block-train",
         "nvfp4-train:ms-eden+split-mean", "nvfp4-train:if4", "nvfp4-train:ue5m3+hadamard-32",
         "nvfp4-train:four-over-six+four-over-six-activations-mae")  # fmt: skip


@pytest.mark.parametrize("kind", unusual_weights())
@pytest.mark.parametrize("recipe", EDGES)
def test_every_number_comes_out_again_under_unusual_weights(recipe: str, kind: str) -> None:
    own = unusual_weights()[kind]
    for weights in ({"first": own}, {"second": own}):
        steps = vbw.step(recipe, weights=weights)
        data = steps.as_json()
        assert json.dumps(data, allow_nan=False)
        with np.errstate(all="ignore"):
            assert Recomputer(data).run() > 5_000
        assert all(str(event) for event in steps)


@pytest.mark.parametrize("recipe", ["fp32", "seed-v6", "nvfp4-train", "nvfp4-train:ms-eden", "fp8-train"])
def test_a_step_that_overflows_is_refused_in_one_line(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    huge = np.random.default_rng(3).standard_normal((16, 16)) * 1e38
    np.savez(tmp_path / "w.npz", first=huge, second=huge)
    for words in (["--data", str(tmp_path / "w.npz")], ["--lr", "1e300"]):
        assert cli.main(["step", "--recipe", recipe, *words]) == 2
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1
        assert "overflows float32" in error and "smaller learning rate" in error


def damaged_weights(kind: str, path: Path) -> None:
    np.savez(path, first=np.ones((16, 16), np.float32))
    whole = path.read_bytes()
    if kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "grows":
        np.savez_compressed(path, first=np.zeros((16, 1 << 20), np.float32))
    elif kind == "larger than memory":
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 16), }"
        path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117) + b"\n")
    elif kind == "objects":
        np.savez(path, first=np.array([[None] * 16] * 16, dtype=object))
    elif kind == "nothing":
        path.write_bytes(b"")


@pytest.mark.parametrize("kind", ["cut", "grows", "larger than memory", "objects", "nothing"])
def test_a_damaged_file_of_weights_is_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    damaged_weights(kind, tmp_path / "w.npz")
    assert cli.main(["step", "--data", str(tmp_path / "w.npz")]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and "is no .npy or .npz file of numbers" in error
