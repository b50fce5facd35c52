"""Whose files a run may write over: every way in which a foreign file can lie in its folder; going back; divergence."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vbw_np.errors import UserError
from vbw_np.models.claude4 import Claude4Config
from vbw_np.training import checkpoint, loop, trained
from vbw_np.training.checkpoint import _PREAMBLE, MAGIC, VERSION, CheckpointError
from vbw_np.training.config import TrainConfig
from vbw_np.training.folder import NAMES, FolderInUse, FolderRefused
from vbw_np.training.loop import Trainer, load_model
from vbw_np.training.not_finite import NonFiniteTraining

Make = Callable[..., TrainConfig]


def snapshot(folder: Path) -> dict[str, object]:
    """Everything in a folder: what each entry is, and its bytes."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        kind = path.lstat().st_mode
        found[str(path.relative_to(folder))] = (kind, path.read_bytes() if path.is_file() else None)
    return found


def lay(path: Path, kind: str, elsewhere: Path) -> None:
    """A foreign thing of some kind."""
    if kind == "text":
        path.write_bytes(b"my own notes\n")
    elif kind == "json":
        path.write_text('{"step": 3, "mine": true}\n')
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
        (path / "kept.txt").write_text("kept")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        elsewhere.write_text("somebody's")
        path.symlink_to(elsewhere if kind == "link" else elsewhere.with_name("nowhere"))


KINDS = ("text", "json", "empty", "folder") + (("pipe", "link", "dangling") if sys.platform != "win32" else ())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """The folder of a run that was trained to its end; to be copied."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    model = Claude4Config(vocab_size=256, d_model=16, heads=2, hidden=32, layers=2, rank=4, experts=2, causal=True)
    settings = TrainConfig(model=model, data=str(text), tokenizer="byte", held_out=0.2, steps=4, batch_size=2,
                           seq_len=16, lr=1e-2, warmup=2, eval_every=2, eval_batches=1)  # fmt: skip
    trainer = Trainer(settings, folder)
    trainer.run(progress=False)
    trainer.close()
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_with_somebody_elses_files_is_refused_and_left(
    name: str, kind: str, config: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lay(folder / name, kind, tmp_path / "elsewhere")
    before = snapshot(tmp_path)
    for begin in (Trainer, Trainer.start_or_resume):
        with pytest.raises(UserError, match=re.escape(name)) as refused:
            begin(config(), folder)
        assert "holds a run" not in str(refused.value), "nobody is sent to --resume with it"
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_whose_file_was_replaced_by_a_foreign_one_destroys_nothing(
    name: str, kind: str, run: Path, tmp_path: Path
) -> None:
    (run / name).unlink(missing_ok=True)
    lay(run / name, kind, tmp_path / "elsewhere")
    before = snapshot(tmp_path)
    try:
        trainer = Trainer.resume(run, steps=6)
    except UserError:
        assert snapshot(tmp_path) == before
        return
    assert name == "best.vbw" and kind in ("text", "json", "empty"), "set aside, where it can be told from ours"
    trainer.run(progress=False)
    trainer.close()
    content = before[f"run/{name}"]
    assert content in (snapshot(run).get("best-1.vbw"), snapshot(run)["best.vbw"])


def test_other_files_are_never_touched(config: Make, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    mine = {".download.part": b"half", ".last.vbw.part": b"x", "notes.txt": b"notes", "last.vbw.bak": b"old"}
    for name, content in mine.items():
        (folder / name).write_bytes(content)
    trainer = Trainer(config(steps=1), folder)
    trainer.run(progress=False)
    trainer.close()
    assert {name: (folder / name).read_bytes() for name in mine} == mine


def test_a_run_from_before_there_were_ids_goes_on(run: Path) -> None:
    """Its files name no run, and its lock is empty: they are known by the kind of its checkpoints."""
    for name in ("last.vbw", "best.vbw"):
        forge(run / name, without("meta", "run"))
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    lines = [{name: value for name, value in entry.items() if name != "run"} for entry in entries if entry["step"]]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / ".lock").write_bytes(b"")
    trainer = Trainer.resume(run, steps=5)
    trainer.run(progress=False)
    trainer.close()
    assert checkpoint.load_meta(run / "last.vbw")["step"] == 5
    (run / "last.vbw").unlink()
    (run / "best.vbw").unlink()
    with pytest.raises(UserError, match="is not the mark of a run of vbw|does not say that a run of vbw wrote it"):
        Trainer.start_or_resume(trainer.config, run)


def test_a_folder_in_use_keeps_the_mark_of_who_uses_it(config: Make, tmp_path: Path) -> None:
    first = Trainer(config(), tmp_path / "run")
    before = (tmp_path / "run" / ".lock").read_bytes()
    with pytest.raises(FolderInUse, match="in use by another run"):
        Trainer(config(), tmp_path / "run")
    assert (tmp_path / "run" / ".lock").read_bytes() == before != b""
    first.close()


def test_a_run_that_lost_its_last_checkpoint_keeps_the_best(config: Make, run: Path) -> None:
    (run / "last.vbw").unlink()
    before = snapshot(run)
    with pytest.raises(UserError, match=r"has lost its last\.vbw; go on from its best checkpoint \(--resume .*best"):
        Trainer(config(), run)
    assert snapshot(run) == before
    assert Trainer.resume(run / "best.vbw").step in (2, 4)


def test_going_back_to_the_best_keeps_what_was(run: Path) -> None:
    (run / "last.vbw").write_bytes((run / "last.vbw").read_bytes()[:-3])
    damaged, log = (run / "last.vbw").read_bytes(), (run / "log.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="cut short"):
        Trainer.resume(run)
    trainer = Trainer.resume(run / "best.vbw")
    assert (run / "last-1.vbw").read_bytes() == damaged and (run / "log-1.jsonl").read_bytes() == log
    trainer.run(progress=False)
    trainer.close()
    assert checkpoint.load_meta(run / "last.vbw")["step"] == 4
    with pytest.raises(UserError, match="neither a run's folder nor its"):
        Trainer.resume(run / "log.jsonl")


@pytest.mark.parametrize("name", ["last.vbw", "best.vbw", "log.jsonl"])
def test_files_of_another_run_are_refused(name: str, config: Make, run: Path, tmp_path: Path) -> None:
    other = Trainer(config(steps=3), tmp_path / "other")
    other.run(progress=False)
    other.close()
    shutil.copy(tmp_path / "other" / name, run / name)
    before = snapshot(run)
    with pytest.raises(FolderRefused, match="is of another run than the rest of its folder"):
        Trainer.resume(run)
    assert snapshot(run) == before


def test_a_garbage_line_in_the_log_loses_nothing(run: Path) -> None:
    lines = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
    spoilt = lines[:2] + [b"\x00\xffgarbage\n"] + lines[2:]
    (run / "log.jsonl").write_bytes(b"".join(spoilt))
    trainer = Trainer.resume(run, steps=5)
    assert (run / "log.jsonl").read_bytes() == b"".join(spoilt)
    assert [e["step"] for e in trainer.log.read() if "loss" in e] == [1, 2, 3, 4] and trainer.log.damaged() == [3]
    trainer.close()


def test_weights_without_a_finite_validation_are_never_kept(config: Make, tmp_path: Path, monkeypatch) -> None:
    trainer = Trainer(config(steps=6, eval_every=2), tmp_path / "run")
    values = iter([3.0, math.nan])
    monkeypatch.setattr(Trainer, "validation_loss", lambda self: next(values))
    with pytest.raises(NonFiniteTraining, match=r"validation loss is nan.*last\.vbw is of step 2, validation loss 3"):
        trainer.run(progress=False)
    assert checkpoint.load_meta(tmp_path / "run" / "last.vbw")["step"] == 2


def test_a_checkpoint_that_was_not_validated_is_not_called_good(config: Make, tmp_path: Path, monkeypatch) -> None:
    trainer = Trainer(config(steps=6, eval_every=2, save_every=1), tmp_path / "run")
    values = iter([3.0, math.nan])
    monkeypatch.setattr(Trainer, "validation_loss", lambda self: next(values))
    with pytest.raises(NonFiniteTraining, match=r"not validated, so it may be ruined.*--resume .*best\.vbw"):
        trainer.run(progress=False)


# ------------------------------------------------------------------------------------------------ crafted checkpoints


def forge(path: Path, change: Callable[[dict], object], raw: bytes | None = None) -> None:
    """Write a checkpoint anew with its header changed; all sums are right."""
    content = path.read_bytes()
    length = _PREAMBLE.unpack(content[: _PREAMBLE.size])[3]
    start = _PREAMBLE.size + length
    head = json.loads(content[_PREAMBLE.size : start])
    changed = change(head)
    header = raw if raw is not None else json.dumps(head if changed is None else changed).encode()
    size = _PREAMBLE.size + len(header) + len(content) - start
    preamble = _PREAMBLE.pack(MAGIC, VERSION, size, len(header), hashlib.sha256(header).digest())
    path.write_bytes(preamble + header + content[start:])


def setting(*keys: object, value: object) -> Callable[[dict], None]:
    def change(head: dict) -> None:
        for key in keys[:-1]:
            head = head[key]
        head[keys[-1]] = value

    return change


def without(*keys: object) -> Callable[[dict], None]:
    def change(head: dict) -> None:
        for key in keys[:-1]:
            head = head[key]
        del head[keys[-1]]

    return change


CRAFTED: dict[str, Callable[[dict], object]] = {
    "no object": lambda head: [],
    "meta null": setting("meta", value=None),
    "meta a list": setting("meta", value=[1]),
    "no arrays": without("arrays"),
    "arrays null": setting("arrays", value=None),
    "an array null": setting("arrays", 0, value=None),
    "dtype object": setting("arrays", 0, "dtype", value="|O"),
    "dtype of text": setting("arrays", 0, "dtype", value="<U9"),
    "dtype a list": setting("arrays", 0, "dtype", value=["<f4"]),
    "shape huge": setting("arrays", 0, "shape", value=[1 << 40, 1 << 20]),
    "shape negative": setting("arrays", 0, "shape", value=[-1, 16]),
    "shape of fractions": setting("arrays", 0, "shape", value=[1.5]),
    "shape null": setting("arrays", 0, "shape", value=None),
    "bytes huge": setting("arrays", 0, "nbytes", value=1 << 50),
    "arrays overlap": lambda head: [entry.update(offset=0) for entry in head["arrays"]] and None,
    "an array twice": lambda head: head["arrays"].append(head["arrays"][0]),
    "offset negative": setting("arrays", 1, "offset", value=-4),
    "hash null": setting("arrays", 0, "sha256", value=None),
    "config null": setting("meta", "config", value=None),
    "config of a newer version": setting("meta", "config", "warp", value=9),
    "model of a newer version": setting("meta", "config", "model", "warp", value=9),
    "recipe of a newer version": setting("meta", "config", "recipe", "warp", value=9),
    "config without a model": without("meta", "config", "model"),
    "width huge": setting("meta", "config", "model", "d_model", value=1 << 20),
    "layers huge": setting("meta", "config", "model", "layers", value=1 << 30),
    "experts fewer": setting("meta", "config", "model", "experts", value=1),
    "vocabulary of text": setting("meta", "config", "model", "vocab_size", value="many"),
    "heads zero": setting("meta", "config", "model", "heads", value=0),
    "rank larger": setting("meta", "config", "model", "rank", value=5),
    "steps of text": setting("meta", "config", "steps", value="x"),
    "betas null": setting("meta", "config", "betas", value=None),
    "kind": setting("meta", "kind", value="something else"),
    "run a number": setting("meta", "run", value=7),
    "data null": setting("meta", "data", value=None),
    "data empty": setting("meta", "data", value={}),
    "words without a vocabulary": setting("meta", "data", "tokenizer", value="word"),
}  # fmt: skip
STATE = {
    "optimizer null": setting("meta", "optimizer", value=None),
    "optimizer's array is missing": setting("meta", "optimizer", value={"array": "none"}),
    "random null": setting("meta", "random", value=None),
    "random empty": setting("meta", "random", value={}),
    "best null": setting("meta", "best", value=None),
    "step of text": setting("meta", "step", value="x"),
    "steady calls null": setting("meta", "steady_calls", value=None),
    "seconds null": setting("meta", "seconds", value=None),
}


WORDS = {
    **{f"{part} of a newer version": rf"has in its {name} what this vbw-np does not know: warp\. vbw-np .* wrote it"
       for part, name in {"config": "config", "model": "config.model", "recipe": "config.recipe"}.items()},
    "meta null": "meta has to be an object",
    "dtype object": r"has the dtype '\|O'",
    "dtype of text": "has the dtype '<U9'",
    "arrays overlap": "begins at 0, not where the one before ends",
    "shape huge": "of shape .* has not .* bytes",
    "bytes huge": "has not .* bytes",
    "kind": "is not of a training run",
    "run a number": "names its run 7, which is no id",
}  # fmt: skip
"""What is foreseeable has words of its own."""


@pytest.mark.parametrize("name", [*CRAFTED, *STATE])
def test_a_crafted_checkpoint_is_one_error_in_words(name: str, run: Path, tmp_path: Path) -> None:
    forge(run / "last.vbw", {**CRAFTED, **STATE}[name])
    before = snapshot(run)
    words = f"last.vbw.*{WORDS.get(name, '')}"
    if name != "words without a vocabulary":  # to go on with a run reads the text anew
        with pytest.raises(UserError, match=words):
            Trainer.resume(run)
    assert snapshot(run) == before
    if name in CRAFTED:
        with pytest.raises(UserError, match=words):
            load_model(run / "last.vbw")


@pytest.mark.parametrize("read", [load_model, lambda path: Trainer.resume(path.parent)], ids=["load_model", "resume"])
@pytest.mark.parametrize("harm", ["shape", "name"])
def test_every_array_is_compared_before_a_model_is_built(harm: str, read: Callable, run: Path, monkeypatch) -> None:
    """Each of them in turn, of another shape or under another name, in files whose sums are all right."""
    for module in (loop, trained):
        monkeypatch.setattr(module, "Claude4", lambda *args, **options: pytest.fail("a model was built"))
    whole = (run / "last.vbw").read_bytes()
    names = [name for name in checkpoint.load_shapes(run / "last.vbw") if name.startswith("model/")]
    assert len(names) > 80
    for index, name in list(enumerate(names))[:: 1 if read is load_model else 12]:
        shape = [*checkpoint.load_shapes(run / "last.vbw")[name], 1]
        change = setting("arrays", index, "shape", value=shape) if harm == "shape" else (
            setting("arrays", index, "name", value="model/another")
        )
        forge(run / "last.vbw", change)
        with pytest.raises(CheckpointError, match=rf"{re.escape(name.removeprefix('model/'))}.*not of one model"):
            read(run / "last.vbw")
        (run / "last.vbw").write_bytes(whole)
    forge(run / "last.vbw", lambda head: head["arrays"].append(
        head["arrays"][0] | {"name": "model/blocks.9.x", "shape": [0], "nbytes": 0, "offset": sum(
            entry["nbytes"] for entry in head["arrays"])}))  # fmt: skip
    with pytest.raises(CheckpointError, match=r"has 'blocks\.9\.x', which a model of its configuration has not"):
        read(run / "last.vbw")


@pytest.mark.parametrize("raw", [b"", b"nul", b"[" * 100_000, b'{"meta": {}, "arrays": []', b"\xff\xfe"])
def test_a_header_that_is_no_json(raw: bytes, run: Path) -> None:
    forge(run / "last.vbw", lambda head: None, raw)
    with pytest.raises(CheckpointError, match="is damaged: its header"):
        load_model(run / "last.vbw")


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last.vbw")
    for read in (load_model, checkpoint.load, checkpoint.load_meta):
        with pytest.raises(CheckpointError, match="not a regular file"):
            read(tmp_path / "last.vbw")


def test_a_log_on_a_full_disk_stays_whole(config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config(), tmp_path / "run")
    before = trainer.log.path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:5]))
    with pytest.raises(UserError, match=r"log: cannot write .*No space left"):
        trainer.log.append(1, loss=1.0)
    assert trainer.log.path.read_bytes() == before
