"""The trace: Perfetto's rules, size, counters, and walking through a call step by step."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vbw_np.device import Recorder, place
from vbw_np.device.trace import ENGINES, KINDS
from vbw_np.engine import Tensor, nn, no_grad, optim
from vbw_np.errors import UserError


def nanoseconds(microseconds: float) -> int:
    return round(1000 * microseconds)


def check_chrome_trace(trace: dict[str, Any]) -> dict[str, int]:
    """What Perfetto demands of a JSON trace; returns how many events of each phase there are.

    Every event has a phase, a process and a name; complete ("X") events have a time and a duration that are not
    negative, and any two on one track are disjoint or one lies inside the other; every track has a name; counters have
    numbers only.
    """
    events = trace["traceEvents"]
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    counts: dict[str, int] = defaultdict(int)
    for event in events:
        counts[event["ph"]] += 1
        assert isinstance(event["name"], str) and event["name"] and isinstance(event["pid"], int)
        if event["ph"] == "X":
            start, duration = nanoseconds(event["ts"]), nanoseconds(event["dur"])
            assert start >= 0 and duration >= 0
            assert (event["pid"], event["tid"]) in named
            tracks[event["pid"], event["tid"]].append((start, start + duration))
        elif event["ph"] == "C":
            assert event["ts"] >= 0 and event["args"]
            assert all(type(value) in (int, float) for value in event["args"].values())
        else:
            assert event["ph"] == "M"
    for spans in tracks.values():
        open_ends: list[int] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1], "two events overlap on one track"
            open_ends.append(end)
    return dict(counts)


def test_the_check_finds_an_overlap() -> None:
    name = {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "a"}}
    spans = [{"ph": "X", "name": "x", "pid": 1, "tid": 1, "ts": ts, "dur": 2.0} for ts in (0.0, 1.0)]
    with pytest.raises(AssertionError, match="overlap"):
        check_chrome_trace({"traceEvents": [name, *spans]})


@pytest.mark.parametrize(("recipe", "batches"), [("nvfp4-boh", 20), ("nvfp4-train", 3)])
def test_twenty_batches_make_a_valid_small_trace(recipe: str, batches: int, model, ids, tmp_path: Path) -> None:
    device = place(model, recipe)
    optimizer = optim.Adam(model.parameters())
    file = tmp_path / "trace.json"
    with device.trace(file) as recorder:
        for _ in range(batches):
            optimizer.zero_grad()
            model.loss(ids).backward()
            optimizer.step()
    assert file.stat().st_size < 20e6
    trace = json.loads(file.read_text("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    counts = check_chrome_trace(trace)
    assert counts["X"] == len(recorder.events)

    kinds = defaultdict(int)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            kinds[event["name"]] += 1
    total = device.statistics
    assert (kinds["compute"], kinds["matmul"]) == (total.computes, total.computes)
    assert (kinds["hit"], kinds["separate"]) == (total.hits, total.separations)
    assert (kinds["decode"], kinds["handshake"], kinds["coarse"]) == (total.decodes, total.handshakes, total.decodes)
    assert kinds["pack"] == total.computes - total.separations, "every batch has a new weight"
    assert kinds["backward"] > total.computes
    assert set(kinds) <= set(KINDS)

    tracks = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert tracks == {"link", *(name for name, card in device.cards.items() if card.statistics.computes)}
    last = {e["name"]: e["args"] for e in trace["traceEvents"] if e["ph"] == "C"}
    assert last["link"] == {"coarse": device.link.coarse_bytes, "fine": device.link.fine_bytes}
    assert last["decode cache"] == {"bytes": device.decode_cache.bytes}


def test_threads_have_tracks_of_their_own(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4")
    x = Tensor(np.ones((4, 64), np.float32))
    all_there = threading.Barrier(4)  # a system gives the number of a thread that has ended to the next one

    def work() -> None:
        with no_grad():
            for _ in range(20):
                layer(x)
            all_there.wait(60)

    with device.trace() as recorder:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    trace = recorder.chrome_trace()
    check_chrome_trace(trace)
    tracks = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert {"linear (thread 0)", "linear (thread 3)"} <= tracks


def test_spans_of_a_callers_own_appear_beside_the_cards(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4")
    with device.trace() as recorder, device.span("batch", "training", number=1):
        layer(Tensor(np.ones((1, 64), np.float32)))
    check_chrome_trace(recorder.chrome_trace())
    first = recorder.in_order()[0]
    assert (first.kind, first.card, first.depth, first.values) == ("batch", "training", 0, {"number": 1})


def test_values_that_json_does_not_know_become_text() -> None:
    recorder = Recorder()
    with recorder.span("separate", "a", coarse_error=float("inf"), bytes=np.int64(3), shape=(2, 3)) as values:
        values.update(weight=np.zeros(1000), layout=object())
    trace = json.loads(json.dumps(recorder.chrome_trace(), allow_nan=False))
    (span,) = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert span["args"] == {"coarse_error": "inf", "bytes": 3, "shape": [2, 3]}


def test_off_nothing_is_recorded_and_nothing_is_made(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4")
    spans = [device.span("compute", "a", bytes=i) for i in range(3)]
    assert spans[0] is spans[1] is spans[2]
    with device.trace() as recorder:
        pass
    layer(Tensor(np.ones((1, 64), np.float32)))
    assert recorder.events == [] and device.recorder is None


def test_what_cannot_be_written_is_said_before_anything_runs(layer: nn.Linear, tmp_path: Path) -> None:
    device = place(layer, "nvfp4")
    for path in (tmp_path / "no" / "t.json", tmp_path):
        with pytest.raises(UserError, match="cannot write"), device.trace(path):
            pytest.fail("ran all the same")
    with device.trace(), pytest.raises(RuntimeError, match="being traced already"), device.trace():
        pass
    assert device.recorder is None


def test_a_failing_run_leaves_no_file_and_no_recorder(layer: nn.Linear, tmp_path: Path) -> None:
    device = place(layer, "nvfp4")
    with pytest.raises(ValueError, match="must be 64"), device.trace(tmp_path / "t.json"):
        layer(Tensor(np.ones((1, 63), np.float32)))
    assert device.recorder is None and list(tmp_path.iterdir()) == []


# -- steps


def test_steps_walk_through_a_product_one_event_at_a_time(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4-boh", error_budget=0.05)
    steps = device.step(layer, Tensor(np.ones((3, 64), np.float32)))
    assert steps.result.shape == (3, 48)
    assert [event.kind for event in steps] == ["compute", "separate", "handshake", "coarse", "fine", "decode", "matmul"]
    assert [event.depth for event in steps] == [0, 1, 1, 1, 1, 1, 1]
    separate, decode = steps[1], steps[5]
    (card,) = device.cards.values()
    assert separate.values["error"] == card.error and separate.values["planes"] == card.planes
    np.testing.assert_array_equal(separate.samples["weight"].first, layer.weight.data.ravel()[:8])
    np.testing.assert_array_equal(separate.samples["codes"].first, card.packed.codes.ravel()[:8])
    np.testing.assert_array_equal(decode.samples["weight"].first, card.packed.dequantize().ravel()[:8])
    assert steps[6].samples["x"].shape == (3, 64)
    seen = []
    while (event := steps.next()) is not None:
        seen.append(event)
    assert seen == list(steps) and len(steps) == 7
    for event in steps:
        assert event.sentence in str(event) and event.sentence.endswith(".")
        assert event.kind in event._repr_html_()
    assert "codes = uint8[48, 32] " in str(decode)


def test_the_second_use_shows_the_caches_at_work(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4")
    x = Tensor(np.ones((3, 64), np.float32))
    layer(x)
    assert [event.kind for event in device.step(layer, x)] == ["compute", "hit", "decode hit", "matmul"]
    with layer.weight.mutate():
        pass
    kinds = [event.kind for event in device.step(layer, x)]
    assert kinds == ["compute", "hit", "pack", "handshake", "coarse", "decode", "matmul"]


def test_steps_of_a_training_step_have_gradients(layer: nn.Linear) -> None:
    device = place(layer, "nvfp4")

    def training_step() -> None:
        layer(Tensor(np.ones((3, 64), np.float32))).sum().backward()

    kinds = [event.kind for event in device.step(training_step)]
    assert kinds.count("backward") == 2  # weight and bias; x needs no gradient


def test_a_step_backwards_says_of_what_and_shows_what_came_and_what_went(layer: nn.Linear) -> None:
    """The gradient that arrives, how it is rounded for the product, and the product."""
    x = Tensor(np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32), requires_grad=True)
    for recipe, operands in (
        ("nvfp4", ["float32", "float32", "float32"]),
        ("nvfp4-train", ["nvfp4-row-headroom, rounded by chance",
                         "nvfp4-row-headroom, rotated 16 at a time, rounded by chance", "float32"]),
        ("nvfp4-train:ms-eden+split-mean",
         ["nvfp4-eden, rotated 128 at a time, signs drawn anew, its length mended (MS-EDEN)",
          "nvfp4-eden, without its mean, rotated 128 at a time, signs drawn anew, its length mended (MS-EDEN)",
          "float32"]),
    ):  # fmt: skip
        fresh = nn.Linear(64, 64, rng=1)
        device = place(fresh, recipe)
        steps = device.step(lambda layer=fresh: layer(x).sum().backward())
        back = [event for event in steps if event.kind == "backward"]
        assert [event.values["of"] for event in back] == ["input", "weight", "bias"]
        assert [event.values["operands"] for event in back] == operands
        assert all(event.samples["gradient"].first[0] == 1 for event in back)
        assert back[1].samples["product"].first[0] == fresh.weight.grad[0, 0]
        assert f"operands = {operands[0]}" in str(back[0]) and "product = float32[3, 64]" in str(back[0])


def test_recordings_keep_samples_not_arrays(model, ids) -> None:
    device = place(model, "nvfp4-boh")
    steps = device.step(model.loss, ids)
    assert all(sample.first.size <= 8 and sample.first.base is None for e in steps for sample in e.samples.values())
    assert not any(isinstance(value, np.ndarray) for event in steps for value in event.values.values())


def test_every_kind_has_a_sentence_and_every_engine_is_a_kind() -> None:
    assert all(sentence.endswith(".") for sentence in KINDS.values())
    assert set(ENGINES) <= set(KINDS)
