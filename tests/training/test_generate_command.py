"""``vbw generate`` from a checkpoint: text on stdout, figures on stderr, errors in one line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from vbw_np.cli import main
from vbw_np.device import place
from vbw_np.models.generation import generate
from vbw_np.training.loop import Trainer, load_model
from vbw_np.training.sources import StreamWriter


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture(params=["byte", "word"])
def run(request: pytest.FixtureRequest, runs: dict[str, Path], config, tmp_path_factory) -> Path:
    """The folder of a short run; made once for each tokenizer."""
    tokenizer = request.param
    if tokenizer not in runs:
        folder = tmp_path_factory.mktemp("runs") / tokenizer
        trainer = Trainer(config("nvfp4", tokenizer=tokenizer, steps=3), folder)
        trainer.run(progress=False)
        trainer.close()
        runs[tokenizer] = folder
    return runs[tokenizer]


def call(run: Path, *options: object) -> int:
    return main(["generate", "--checkpoint", str(run), *map(str, options)])


def test_text_on_stdout_and_figures_on_stderr(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert call(run, "--prompt", "def x", "--max-new-tokens", 12, "--seed", 3) == 0
    first = capsys.readouterr()
    assert first.out.startswith("def x") and first.out.endswith("\n")
    assert "12 tokens" in first.err and "tokens/s" in first.err
    assert "recipe nvfp4, compute auto, " in first.err and " bits a weight on 31 cards" in first.err
    call(run, "--prompt", "def x", "--max-new-tokens", 12, "--seed", 3)
    assert capsys.readouterr().out == first.out
    call(run / "last.vbw", "--prompt", "def x", "--max-new-tokens", 12, "--seed", 3, "--whole")
    assert capsys.readouterr().out == first.out, "the same text by computing all rows anew"


def test_the_tokens_are_those_of_the_library(run: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    options = ("--prompt", "x = self", "--max-new-tokens", 9, "--recipe", "mxfp4", "--top-k", 4, "--json", file)
    assert call(run, *options) == 0
    record = json.loads(file.read_text("utf-8"))
    trained = load_model(run)
    place(trained.model, "mxfp4", mode="inference").drop_masters()
    expected = generate(
        trained.model, trained.text.encode("x = self")[None], 9, temperature=0.8, top_k=4,
        vocab_size=trained.text.vocab_size,
    )  # fmt: skip
    assert record["tokens"] == expected.tokens[0].tolist()
    assert record["text"] == trained.text.decode(expected.tokens[0])
    assert capsys.readouterr().out == f"x = self{record['text']}\n"
    assert record["settings"]["recipe"] == "mxfp4" and record["step"] == 3


def test_comparing_ways_to_compute(run: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    assert call(run, "--max-new-tokens", 8, "--compare-compute", "--json", file) == 0
    told = capsys.readouterr()
    assert "compute dequant" in told.err and "compute packed" in told.err
    assert "dequant and packed: same text; logits differ by at most" in told.err or "they part at" in told.err
    assert told.out.startswith("def ")
    record = json.loads(file.read_text("utf-8"))
    assert set(record["parting"]) == {"index", "tokens", "margins", "largest_difference"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "argument --prompt: '' is empty"),
        (["--temperature", "-1"], "argument --temperature: -1 is too small"),
        (["--recipe", "nvpf4"], "did you mean nvfp4"),
        (["--max-new-tokens", "0"], "argument --max-new-tokens: 0 is too small"),
        (["--compute", "fast"], "invalid choice: 'fast'"),
        (["--json", "no/such/folder/x.json"], "does not exist"),
        (["--threads", "0"], "give 1 or more"),
    ],
)
@pytest.mark.parametrize("run", ["byte"], indirect=True)
def test_bad_input_is_one_line(run: Path, options: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert call(run, *options) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.count("\n") == 1


def test_a_checkpoint_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert call(tmp_path / "none.vbw") == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("run", ["word"], indirect=True)
def test_unknown_words_of_a_prompt_are_mentioned(run: Path, capsys: pytest.CaptureFixture) -> None:
    call(run, "--prompt", "def unheard", "--max-new-tokens", 2)
    assert "1 of the prompt's 3 tokens are not in the model's vocabulary" in capsys.readouterr().err


@pytest.mark.parametrize("run", ["byte"], indirect=True)
def test_a_character_of_several_bytes_appears_whole(run: Path) -> None:
    text, stream = load_model(run).text, io.StringIO()
    writer = StreamWriter(text, stream)
    seen = []
    for byte in "aé☃".encode() + b"\xe2":
        writer.write(np.int64(byte))
        seen.append(stream.getvalue())
    writer.end()
    assert seen == ["a", "a", "aé", "aé", "aé", "aé☃", "aé☃"]
    assert stream.getvalue() == "aé☃\ufffd\n"
