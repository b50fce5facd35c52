"""The loop: what a run is, that it resumes bit for bit, and what happens when a number is not one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vbw_np.errors import UserError
from vbw_np.training import checkpoint
from vbw_np.training.checkpoint import CheckpointError
from vbw_np.training.config import TrainConfig
from vbw_np.training.loop import Trainer, load_model
from vbw_np.training.not_finite import NonFiniteTraining, layer_names
from vbw_np.training.schedules import warmup_cosine

Make = Callable[..., TrainConfig]
RECIPES = ("fp32", "nvfp4", "nvfp4-boh", "seed-v6", "mxfp4-train", "nvfp4-train")


def run(config: TrainConfig, folder: Path, until: int | None = None) -> Trainer:
    """Train to the end, or stop after `until` steps as if asked to."""
    trainer = Trainer.start_or_resume(config, folder)
    trainer.run(stop=lambda: trainer.step == until)
    trainer.close()
    return trainer


def log_without_times(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) == {"step", "run"}
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines[1:]]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_is_an_uninterrupted_one_bit_for_bit(
    recipe: str, config: Make, tmp_path: Path, ending: Callable
) -> None:
    settings = config(recipe, accumulate=2)
    run(settings, tmp_path / "whole")
    run(settings, tmp_path / "parts", until=2)
    assert Trainer.resume(tmp_path / "parts").step == 2
    run(settings, tmp_path / "parts", until=4)
    run(settings, tmp_path / "parts")
    assert ending(tmp_path / "whole") == ending(tmp_path / "parts")


def test_the_originals_model_resumes_as_well(config: Make, tmp_path: Path) -> None:
    """Without a mask the attention counts steady calls, which belong to the state."""
    settings = config()
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, causal=False))
    first = Trainer(settings, tmp_path / "run")
    first.model.blocks[0].attn.steady_calls = 2
    first.save()
    first.close()
    assert Trainer.resume(tmp_path / "run").model.blocks[0].attn.steady_calls == 2


def test_another_seed_is_another_run_and_another_recipe_starts_the_same(config: Make, tmp_path: Path) -> None:
    trainers = [Trainer(config(recipe, seed=seed), tmp_path / f"{recipe}{seed}")
                for recipe, seed in (("fp32", 0), ("nvfp4", 0), ("fp32", 1))]  # fmt: skip
    weights = [trainer.model.state_dict()["output_head.weight"] for trainer in trainers]
    drawn = [next(trainer.batches) for trainer in trainers]
    assert (weights[0] == weights[1]).all() and (drawn[0] == drawn[1]).all()
    assert (weights[0] != weights[2]).any() and (drawn[0] != drawn[2]).any()


def test_held_out_text_is_never_trained_on(config: Make, tmp_path: Path) -> None:
    trainer = Trainer(config(), tmp_path / "run")
    assert not set(trainer.train_stream.files) & set(trainer.held_out.files)
    assert len(trainer.windows) == 2 and trainer.windows[0].shape == (2, 16)
    assert trainer.windows[0][0].tolist() == trainer.held_out.ids[:16].tolist()
    assert trainer.windows[-1][-1].tolist() == trainer.held_out.ids[-16:].tolist()


def test_accumulated_gradients_are_those_of_one_large_batch(config: Make, tmp_path: Path) -> None:
    """In exact arithmetic; in float32 the sums run in another order."""
    settings = config(accumulate=2)
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, dropout=0.0))
    trainer = Trainer(settings, tmp_path / "run")
    parts = [next(trainer.batches) for _ in range(2)]
    loss = trainer._gradients(parts)
    halves = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    scale = max(np.abs(gradient).max() for gradient in halves.values())
    assert trainer._gradients([np.concatenate(parts)]) == pytest.approx(loss, rel=1e-6)
    for name, parameter in trainer.model.named_parameters():
        if name in halves:
            np.testing.assert_allclose(halves[name], parameter.grad, atol=1e-6 * scale, rtol=0, err_msg=name)


def test_learning_rate_and_log(config: Make, tmp_path: Path) -> None:
    settings = config(steps=6, warmup=2, floor=0.5, lr=0.01)
    run(settings, tmp_path / "run")
    log = log_without_times(tmp_path / "run")
    rates = [entry["lr"] for entry in log if "loss" in entry]
    shape = warmup_cosine(2, 6, 0.5)
    assert rates == [0.01 * shape(step) for step in range(6)]
    assert rates[:2] == [0.005, 0.01]
    assert [entry["step"] for entry in log] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert [entry["step"] for entry in log if "val_loss" in entry] == [3, 6]


def test_best_is_the_best_validation(config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr(Trainer, "validation_loss", lambda self: next(values))
    result = Trainer(config(steps=6, eval_every=2), tmp_path / "run").run()
    assert (result.best_loss, result.best_step, result.val_loss) == (2.0, 4, 2.5)
    assert checkpoint.load_meta(tmp_path / "run" / "best.vbw")["step"] == 4
    assert checkpoint.load_meta(tmp_path / "run" / "last.vbw")["step"] == 6


def test_killed_between_last_and_best(config: Make, tmp_path: Path) -> None:
    run(config(), tmp_path / "run", until=3)
    meta = checkpoint.load_meta(tmp_path / "run" / "last.vbw")
    assert meta["best"]["step"] == meta["step"] == 3
    (tmp_path / "run" / "best.vbw").write_bytes(b"older")
    Trainer.resume(tmp_path / "run")
    assert checkpoint.load_meta(tmp_path / "run" / "best.vbw")["step"] == 3


def test_a_torn_log_and_lines_beyond_the_checkpoint_are_dropped(config: Make, tmp_path: Path) -> None:
    run(config(), tmp_path / "run", until=3)
    log = tmp_path / "run" / "log.jsonl"
    good = log.read_text()
    log.write_text(good + '{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    Trainer.resume(tmp_path / "run")
    assert log.read_text() == good


def test_a_damaged_checkpoint_is_refused_and_kept(config: Make, tmp_path: Path) -> None:
    run(config(), tmp_path / "run", until=3)
    last = tmp_path / "run" / "last.vbw"
    bad = last.read_bytes()[:-7]
    last.write_bytes(bad)
    with pytest.raises(CheckpointError, match="cut short"):
        Trainer.resume(tmp_path / "run")
    assert last.read_bytes() == bad


def test_what_a_folder_refuses(config: Make, tmp_path: Path, text: Path) -> None:
    first = Trainer(config(), tmp_path / "run")
    if sys.platform != "win32":
        with pytest.raises(UserError, match="in use by another run"):
            Trainer(config(), tmp_path / "run")
    first.save()
    first.close()
    with pytest.raises(UserError, match="holds a run already"):
        Trainer(config(), tmp_path / "run")
    with pytest.raises(UserError, match="other settings"):
        Trainer.start_or_resume(config(lr=0.5), tmp_path / "run")
    other = tmp_path / "other"
    other.mkdir()
    for number in range(3):
        (other / f"{number}.txt").write_text("another text " * 99)
    with pytest.raises(UserError, match="is another text"):
        Trainer.resume(tmp_path / "run", data=str(other))


def test_settings_are_checked_and_survive_json(config: Make) -> None:
    settings = config("nvfp4-train:no-sr+keep-head")
    assert TrainConfig.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings
    for change in ({"steps": 0}, {"lr": math.nan}, {"seq_len": 1}, {"schedule": "step"}, {"held_out": 1.0}):
        with pytest.raises(UserError, match="does not make sense"):
            config(**change)


def test_a_trained_model_can_be_loaded_without_its_text(config: Make, tmp_path: Path) -> None:
    trainer = run(config(), tmp_path / "run")
    loaded = load_model(tmp_path / "run")
    ids = loaded.text.encode("def x")[None]
    assert loaded.text.decode(ids[0]) == "def x" and not loaded.model.training
    assert loaded.step == checkpoint.load_meta(tmp_path / "run" / "best.vbw")["step"]
    last = load_model(tmp_path / "run" / "last.vbw")
    with trainer.model.evaluating():
        assert (trainer.model(ids).data == last.model(ids).data).all()


def test_a_word_level_vocabulary_is_kept(config: Make, tmp_path: Path) -> None:
    settings = config(tokenizer="word", steps=1)
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, vocab_size=20))
    trainer = run(settings, tmp_path / "run")
    loaded = load_model(tmp_path / "run" / "last.vbw").text
    assert loaded.vocab == trainer.train_stream.vocab
    assert loaded.decode(loaded.encode("self = x")) == "self = x"


# ---------------------------------------------------------------------------------------------------------- not finite


def test_a_broken_weight_is_named(config: Make, tmp_path: Path) -> None:
    trainer = Trainer(config(), tmp_path / "run")
    run_to = trainer.train_step()
    assert math.isfinite(run_to[0])
    with trainer.model.blocks[1].ffn.gate.weight.mutate() as data:
        data[0, 0] = np.nan
    with pytest.raises(
        NonFiniteTraining,
        match=r"step 2: the loss is nan\. First non-finite tensor: parameter blocks\.1\.ffn\.gate\.weight \(2, 16\) "
        r"has 1 non-finite values of 32.*--lr 0\.003.*",
    ):
        trainer.train_step()
    with pytest.raises(NonFiniteTraining, match="its weights are not finite"):
        trainer.save()
    assert not (tmp_path / "run" / "last.vbw").exists()
    assert log_without_times(tmp_path / "run")[-1]["error"] == "its weights are not finite"


@pytest.mark.parametrize("recipe", ["fp32", "nvfp4-train"])
def test_the_first_layer_that_overflows_is_named(recipe: str, config: Make, tmp_path: Path) -> None:
    """Finite weights whose product is not: 3e38 times anything above 1."""
    trainer = Trainer(config(recipe), tmp_path / "run")
    for layer in (trainer.model.blocks[0].norm2, trainer.model.blocks[1].norm1):
        layer.weight.assign(np.full(16, 3e38))
    with pytest.raises(NonFiniteTraining) as caught:
        trainer.train_step()
    assert re.search(r"First non-finite tensor: .*blocks\.0\.(norm2|ffn)", str(caught.value))
    assert "No checkpoint was written yet" in str(caught.value)
    assert ("--recipe fp32" in str(caught.value)) == (recipe != "fp32")


def test_a_gradient_alone_can_be_broken(config: Make, tmp_path: Path) -> None:
    """A finite loss through a square root at 0, whose slope is infinite."""
    trainer = Trainer(config(), tmp_path / "run")
    gate = trainer.model.blocks[0].ffn.gate
    plain = gate.forward
    gate.__dict__["forward"] = lambda x: plain(x) + ((x * 0.0) ** 0.5).sum()
    with pytest.raises(
        NonFiniteTraining,
        match=r"step 1: the loss is 5\.\d+, its gradient is not\. First non-finite tensor: "
        r"the gradient of input 0 of \w+ in blocks\.0\.ffn\.gate is not finite",
    ):
        trainer.train_step()


def test_layer_names_leave_no_trace(config: Make, tmp_path: Path) -> None:
    trainer = Trainer(config(), tmp_path / "run")
    before = trainer._gradients([np.zeros((1, 8), np.int64)])
    names = []
    with layer_names(trainer.model) as name:
        layer = trainer.model.blocks[0].ffn.gate
        forward = layer.forward
        layer.__dict__["forward"] = lambda x: names.append(name()) or forward(x)
        trainer.model.hidden_states(np.zeros((1, 8), np.int64))
    assert not any("forward" in module.__dict__ for module in trainer.model.modules())
    assert math.isfinite(before) and names == ["blocks.0.ffn"]  # noted by the wrapper around it


# -------------------------------------------------------------------------------------------------------------- threads

_HASH = """
import sys
from vbw_np.training.loop import Trainer
from vbw_np.training.config import TrainConfig
import json, hashlib
config = TrainConfig.from_dict(json.loads(sys.stdin.read()))
trainer = Trainer(config, sys.argv[1])
trainer.run()
digest = hashlib.sha256()
for name, array in trainer.model.state_dict().items():
    digest.update(array.tobytes())
print(digest.hexdigest())
"""


def digest_with_threads(count: int, settings: TrainConfig, folder: Path) -> str:
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-c", _HASH, str(folder)], input=json.dumps(settings.as_dict()), text=True,
        capture_output=True, env={**os.environ, **dict.fromkeys(names, str(count))}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("recipe", ["fp32", "nvfp4-train"])
def test_one_thread_or_two_same_bits(recipe: str, config: Make, tmp_path: Path) -> None:
    """Large enough that BLAS and the kernels do share the work out: sums of 1,001 rows, a vocabulary of 1,500."""
    settings = config(recipe, steps=2, batch_size=13, seq_len=78, clip=0.1)
    model = dataclasses.replace(settings.model, d_model=48, hidden=400, vocab_size=1500)
    settings = dataclasses.replace(settings, model=model)
    digests = {digest_with_threads(count, settings, tmp_path / str(count)) for count in (1, 2)}
    assert len(digests) == 1
    assert len(digests.pop()) == len(hashlib.sha256().hexdigest())


def test_a_blas_that_is_not_steady_gets_one_thread_whatever_ran_before() -> None:
    """In a process of its own, with kernels whose sums depend on the threads where this CPU has them."""
    code = (
        "from vbw_np.machine import blas_info\n"
        "from vbw_np.training import threads\n"
        "import numpy as np\n"
        "x, w = (np.random.default_rng(1).standard_normal(s, np.float32) for s in ((1014, 64), (64, 1500)))\n"
        "results = []\n"
        "for count in (1, 2):\n"
        "    threads.set_threads(count)\n"
        "    threads.steady_blas()\n"
        "    results.append((x @ w).tobytes())\n"
        "print(results[0] == results[1])\n"
    )
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
