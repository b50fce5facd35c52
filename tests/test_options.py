"""Every option of every verb is checked before the work starts: a walk over all that take a value."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator

import pytest

from vbw_np import cli, options
from vbw_np.errors import UserError


def parsers() -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """All verbs and what is below them, each with the words that call it."""

    def below(words: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator:
        inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        yield words, parser
        for action in inner:
            for verb, one in action.choices.items():
                yield from below((*words, verb), one)

    for verb in cli.verbs():
        whole = cli.build_parser([verb])
        action = next(action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
        yield from below((verb,), action.choices[verb])


def takes_a_value(action: argparse.Action) -> bool:
    return action.nargs != 0 and not isinstance(action, argparse._SubParsersAction)


OPTIONS = [
    pytest.param(words, action, id=" ".join((*words, action.option_strings[-1] if action.option_strings else
                                             action.dest)))
    for words, parser in parsers() for action in parser._actions if takes_a_value(action)
]  # fmt: skip


@pytest.mark.parametrize(("words", "action"), OPTIONS)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], action: argparse.Action) -> None:
    if action.choices is not None:
        return
    if not isinstance(action.type, options.Checked):
        pytest.fail(f"{words}: give {action.dest} a type of options")
    assert action.type.refuses
    for text in action.type.refuses:
        with pytest.raises((argparse.ArgumentTypeError, ValueError)):
            action.type(text)
    if isinstance(action.default, str):  # argparse turns these, too, an empty one as well
        action.type(action.default)
    elif action.default is not None and not isinstance(action.default, str) and action.nargs is None:
        action.type(str(action.default))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --prompt=", "argument --prompt: '' is empty"),
        ("train --prompt a\udcff", "has a byte that is no UTF-8 (sign 1)"),
        ("train --sample -5", "-5 is negative; give 0 or more"),
        ("train --minutes nan", "nan is no finite number"),
        ("train --seed -1", "-1 is negative; give 0 or more"),
        ("train --out=", "argument --out: the name of a file or folder is empty"),
        ("train --resume=", "argument --resume: the name of a file or folder is empty"),
        ("train --recipe=", "'' is empty; give a name"),
        ("train --preset=", "'' is empty; give a name"),
        ("train --preset none", "there is no preset 'none'"),
        ("train --recipe none", "there is no recipe 'none'"),
        ("train --tokenizer bpe", "'bpe' is none of word, byte"),
        ("train --held-out 1", "give a number between 0 and 1"),
        ("train --lr inf", "inf is no finite number"),
        ("compare --plot curves.docx", "ends in none of the pictures that can be written: ."),
        ("compare --plot curves", "ends in none of the pictures"),
        ("compare --seeds 0,-1", "give numbers from 0 on"),
        ("compare --seeds x0", "give numbers from 0 on"),
        ("compare --recipes ,", "no recipes given"),
        ("bench --error-budget inf", "inf is no finite number"),
        ("bench --dropout nan", "nan is no finite number"),
        ("bench --data=", "the name of a file or folder is empty"),
        ("bench --json ~nobody-of-this-name/x.json", "there is no home folder of nobody-of-this-name here"),
        ("bench --refresh-interval 0", "0 is too small; give 1 or more"),
        ("generate --checkpoint x.vbw --max-new-tokens 0", "0 is too small; give 1 or more"),
        ("generate --checkpoint x.vbw --temperature nan", "nan is no finite number"),
        ("generate --checkpoint x.vbw --prompt=", "'' is empty"),
        ("generate --checkpoint=", "the name of a file or folder is empty"),
        ("generate --checkpoint x.vbw --prompt a\udcff", "has a byte that is no UTF-8"),
        ("quantize w.npy --seed -1", "-1 is negative; give 0 or more"),
        ("quantize ~nobody-of-this-name/w.npy", "there is no home folder of nobody-of-this-name"),
        ("data --data ~nobody-of-this-name", "there is no home folder of nobody-of-this-name"),
        ("warmup --only no-work-of-this-name", "no work has that in its name"),
        ("learn hint 02.1 --number 0", "0 is too small; give 1 or more"),
    ],
)
def test_one_line_before_anything_is_read(
    line: str, message: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    from vbw_np.data import tokens

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VBW_DEBUG", raising=False)
    monkeypatch.setattr(tokens, "stdlib_text", lambda: pytest.fail("text was read"))
    assert cli.main(line.split(" ")) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err, err
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert options.path("~/x.json") == str(tmp_path / "x.json") and options.path("-") == "-"
    with pytest.raises(UserError, match="NUL"):
        options.user_path("a\0b")


READ = {
    "bench --data": ["bench --data PIPE.txt"],
    "train --data": ["train --data PIPE.txt --out new"],
    "train --resume": ["train --resume PIPE.vbw", "train --resume RUN", "train --resume RUN/last.vbw"],
    "compare --data": ["compare --data PIPE.txt --out new"],
    "generate --checkpoint": ["generate --checkpoint PIPE.vbw", "generate --checkpoint RUN",
                              "generate --checkpoint PIPE.safetensors", "generate --checkpoint PIPE.gguf"],
    "generate --model": ["generate --model PIPE.safetensors", "generate --model PIPE.gguf", "generate --model MODEL"],
    "quantize file": ["quantize PIPE.npy", "quantize PIPE.safetensors --out new", "quantize PIPE.gguf --out new",
                      "quantize MODEL --out new", "quantize SHARDS --out new"],
    "inspect checkpoint": ["inspect PIPE.safetensors", "inspect PIPE.gguf", "inspect MODEL", "inspect SHARDS",
                           "inspect PIPE.vbw"],
    "diff a": ["diff PIPE.safetensors PIPE.safetensors", "diff MODEL PIPE.gguf"],
    "diff b": ["diff SHARDS MODEL"],
    "convert checkpoint": ["convert PIPE.safetensors new --to modelopt", "convert MODEL new --to gguf"],
    "measure original": ["measure PIPE.safetensors PIPE.gguf"],
    "measure quantized": ["measure MODEL PIPE.gguf"],
    "data --data": ["data --data PIPE.txt"],
    "step --model": ["step --model PIPE.gguf", "step --model PIPE.safetensors", "step --model MODEL"],
    "step --data": ["step --data PIPE.npy", "step --data PIPE.npz"],
    "ptq model": ["ptq PIPE.gguf", "ptq PIPE.safetensors", "ptq MODEL", "ptq SHARDS"],
    "gguf model": ["gguf MODEL x.gguf", "gguf PIPE.gguf x.gguf", "gguf SHARDS x.gguf"],
    "bench model --model": ["bench model --model PIPE.gguf"],
    "explain-activation model": ["explain-activation PIPE.gguf", "explain-activation MODEL"],
    "explain-activation --text": ["explain-activation x.gguf --text PIPE.txt"],
    "ptq --text": ["ptq x.gguf --text PIPE.txt"],
    "ptq --calibration": ["ptq x.gguf --calibration PIPE.txt"],
    "conform --python": ["conform mine:quantize --profile modelopt-nvfp4 --python PIPE.py"],
    "learn check file": ["learn check 02.1 PIPE.py", "learn check 02.1 PIPE.ipynb"],
    "grade file": ["grade PIPE.ipynb"],
    "train --out": ["train --out PIPE.txt", "train --out RUN"],
    "compare --out": ["compare --out PIPE.txt --recipes fp32 --seeds 0 --steps 1"],
}  # fmt: skip
"""Lines in which what is to be read, or written into, is a pipe that nobody writes to."""
WRITTEN = {"--json", "--trace", "--plot", "--html", "--picture", "convert out", "gguf out", "quantize --out",
           "ptq --out", "vectors --out"}  # fmt: skip
"""Files and folders that are only made; a pipe there is for whoever reads it."""


def test_every_path_that_is_read_is_tried_with_a_pipe() -> None:
    for words, parser in parsers():
        for action in parser._actions:
            if takes_a_value(action) and action.type is options.path:
                option = action.option_strings[-1] if action.option_strings else action.dest
                name = " ".join((*words, option))
                assert name in READ or option in WRITTEN or name in WRITTEN, f"{name}: try it with a pipe"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("line", [line for lines in READ.values() for line in lines])
def test_a_pipe_is_refused_and_not_waited_for(line: str, capsys: pytest.CaptureFixture, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VBW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VBW_DEBUG", raising=False)
    for folder in ("RUN", "MODEL", "SHARDS"):
        (tmp_path / folder).mkdir()
    for name in (*(f"PIPE.{suffix}" for suffix in ("txt", "vbw", "npy", "safetensors", "gguf", "ipynb", "py")),
                 "RUN/last.vbw", "MODEL/model.safetensors", "SHARDS/model.safetensors.index.json"):  # fmt: skip
        os.mkfifo(tmp_path / name)

    def waited(*_: object) -> None:
        pytest.fail("it waits for somebody to write into the pipe")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(60)
    try:
        assert cli.main(line.split(" ")) == 2
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "unforeseen" not in err and "does not exist" not in err, err
    assert not (tmp_path / "new").exists()
