"""A step of a language model: the massive input is found where it was put, what its block lost is counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vbw_np import cli
from vbw_np.checkpoints.writing import Planned, write_safetensors
from vbw_np.device import Steps
from vbw_np.device.largest import MASSIVE
from vbw_np.engine import no_grad
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.models.llama_cards import place_llama
from vbw_np.models.llama_files import config_to_json

CONFIG = LlamaConfig(vocab_size=256, hidden_size=48, intermediate_size=64, num_attention_heads=4, head_dim=16)
CARD = "model.layers.1.mlp.down_proj"
IDS = np.arange(24)[None] * 7 % 256


def loud() -> Llama:
    """At the first token alone, channel 37 of the last down_proj's input is far larger than all others."""
    model = Llama(CONFIG, seed=1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            parameter.assign(parameter.data * (30 if "embed" in name else 6))
    rows = np.where(np.arange(64) == 37, 3000, 1)[:, None]
    model.model.layers[1].mlp.up_proj.weight.assign(model.model.layers[1].mlp.up_proj.weight.data * rows)
    return model


def stepped(recipe: str) -> Steps:
    model = loud()
    device, _ = place_llama(model, recipe)
    with no_grad():
        return device.step(model, IDS)


def test_the_massive_input_and_its_block() -> None:
    steps = stepped("mxfp4")
    first = steps.massive()[0]
    assert (first.card, first.kind) == (CARD, "matmul") and first.largest.channel == 37
    assert len(steps.massive()) == 2 * 7  # every card had one input
    assert first.largest.times == max(e.largest.times for e in steps.massive())
    steps.goto(first.order)
    told = steps.explain_input()
    row = first.largest.row.astype(np.float64)
    assert row[37] == first.largest.value
    block, at = row[32:], 5  # a block of 32: channels 32 to 63
    scale = 2.0 ** (np.floor(np.log2(abs(block[at]))) - 2)  # MXFP4: the amax's power of two, over 4
    zeros = sum(abs(v) / scale <= 0.25 for i, v in enumerate(block) if i != at and v != 0)  # below half of 0.5
    assert told.data["became_zero"] == zeros > 20 and told.data["others"] == 31
    assert "channels 32 to 63" in str(told) and f"{zeros} of 31" in str(told)


def test_an_event_says_so_when_its_input_is_massive() -> None:
    steps = stepped("nvfp4")
    assert {e.card for e in steps if "massive = " in str(e)} == {
        e.card for e in steps.massive() if e.largest.times >= MASSIVE
    }
    assert steps.inputs == "nvfp4"
    with pytest.raises(LookupError, match="no event yet"):
        steps.explain_input()
    steps.goto("compute", CARD)
    with pytest.raises(LookupError, match=r"no input of 'model.layers.1.mlp.down_proj' was at hand yet"):
        steps.explain_input()
    steps.until("matmul")
    assert steps.explain_input("int4-row").data["others"] == 63


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    tensors = [
        Planned(name, "F32", p.shape, lambda p=p: [np.ascontiguousarray(p.data, "<f4")])
        for name, p in loud().named_parameters()
    ]
    write_safetensors(tmp_path, tensors)
    (tmp_path / "config.json").write_text(config_to_json(CONFIG))
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_the_command(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["step", "--model", str(folder), "--recipe", "mxfp4", "--prompt", "a few letters"]) == 0
    out = capsys.readouterr().out
    assert CARD in out.splitlines()[3] and f"[{CARD}] compute" in out and "became zero" in out
    assert cli.main(["step", "--model", str(folder), "--recipe", "mxfp4", "--card", "model.layers.0.mlp.up_proj"]) == 0
    assert "[model.layers.0.mlp.up_proj] compute" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--html", "x.html", "--lr", "1"], "--lr, --html: of the small model alone"),
        (["--card", "first"], "there is no card 'first'; there are 14, such as model.layers.0"),
        (["--recipe", "fp32"], "places nothing on cards"),
        (["--prompt", ""], "argument --prompt: '' "),
        (["--recipe", "nvpf4"], "did you mean nvfp4"),
    ],
)
def test_bad_input_is_one_line(words: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    settings = [] if "--recipe" in words else ["--recipe", "mxfp4"]
    assert cli.main(["step", "--model", str(folder), *settings, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error


def test_a_prompt_and_cards_of_another_model_are_refused_without_one(capsys: pytest.CaptureFixture) -> None:
    for words, says in (
        (["--prompt", "a"], "name one with --model"),
        (["--card", "third"], "take first, second or model"),
    ):
        assert cli.main(["step", *words]) == 2
        assert says in capsys.readouterr().err
