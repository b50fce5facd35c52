"""`vbw ptq` from end to end on a small Llama, and the models that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vbw_np import cli
from vbw_np.checkpoints import find_weights, open_checkpoint
from vbw_np.checkpoints.writing import Planned, write_gguf, write_safetensors
from vbw_np.formats import get_format
from vbw_np.layers.rotary import to_interleaved
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.models.llama_files import GGUF_KEYS, config_to_json, gguf_name, load_llama
from vbw_np.models.llama_token import LlamaReader
from vbw_np.models.tokenizer import load_tokenizer
from vbw_np.ptq.measuring import Reference, log_softmax
from vbw_np.ptq.methods import read_method
from vbw_np.ptq.quantizing import Calibration, Plan, Quantized, quantize_model
from vbw_np.ptq.saving import save
from vbw_np.ptq.texts import calibration_text, evaluation_text, windows_of

CONFIG = LlamaConfig(
    vocab_size=256, hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=16
)


def planned(name: str, values: np.ndarray) -> Planned:
    return Planned(name, "F32", values.shape, lambda: [np.ascontiguousarray(values, "<f4")])


def small() -> Llama:
    model = Llama(CONFIG, seed=1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            parameter.assign(parameter.data * (30 if "embed" in name else 6))
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of safetensors with a tokenizer of bytes."""
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path / "model"
    path.mkdir()
    write_safetensors(path, [planned(name, p.data) for name, p in small().named_parameters()])
    (path / "config.json").write_text(config_to_json(CONFIG))
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    heads = {"q_proj": CONFIG.num_attention_heads, "k_proj": CONFIG.num_key_value_heads}
    tensors = []
    for name, parameter in small().named_parameters():
        turned = heads.get(name.split(".")[-2])
        tensors.append(planned(gguf_name(name), to_interleaved(parameter.data, turned) if turned else parameter.data))
    metadata = {f"llama.{key}": getattr(CONFIG, name) for name, key in GGUF_KEYS.items()}
    write_gguf(tmp_path / "model.gguf", tensors, {"general.architecture": "llama"} | metadata)
    return tmp_path / "model.gguf"


def quantized(source: Path, fmt: str, method: str, **options) -> Quantized:
    windows = np.random.default_rng(0).integers(0, 256, (8, 48))
    return quantize_model(
        load_llama(source), Plan(get_format(fmt), read_method(method), **options), Calibration(windows)
    )


def same_values(model: Quantized, path: Path) -> None:
    """What is loaded again are the decoded values; a tensor scale that is stored as 1 / x may move the last bit."""
    ours, loaded = model.model.state_dict(), load_llama(path).state_dict()
    assert set(ours) == set(loaded)
    for name, values in ours.items():
        np.testing.assert_allclose(loaded[name], values, rtol=3e-7, atol=0, err_msg=name)


@pytest.mark.parametrize("method", ["awq+gptq", "rotate:points=16:where=stream+gptq", "four-over-six"])
@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_what_is_written_is_loaded_again(kind: str, method: str, gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / ("out.gguf" if kind == "gguf" else "out")
    model = quantized(gguf, "nvfp4", method, keep=("*.1.mlp.down_proj",))
    source = open_checkpoint(gguf)
    save(model, source, out)
    same_values(model, out)
    weights = find_weights(open_checkpoint(out))
    name = "model.layers.0.mlp.up_proj.weight"
    stored = weights[gguf_name(name) if kind == "gguf" else name].packed()
    np.testing.assert_array_equal(stored.codes, model.packed[name.removesuffix(".weight")].codes)
    np.testing.assert_array_equal(stored.scales, model.packed[name.removesuffix(".weight")].scales)


@pytest.mark.parametrize("fmt", ["mxfp4", "q4_0", "q4_1", "q8_0"])
def test_what_gguf_holds(fmt: str, gguf: Path, tmp_path: Path) -> None:
    model = quantized(gguf, fmt, "gptq")
    save(model, open_checkpoint(gguf), tmp_path / "out.gguf")
    same_values(model, tmp_path / "out.gguf")


def run(*words: object) -> int:
    return cli.main(["ptq", *map(str, words)])


FEW = ("--windows", 2, "--length", 32, "--calibration-windows", 3)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Options that name the first few thousand letters of the default texts, which are long to read."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "judging.txt").write_text(evaluation_text()[:5000], "utf-8")
    (folder / "learning.txt").write_text(calibration_text()[:5000], "utf-8")
    return ("--text", folder / "judging.txt", "--calibration", folder / "learning.txt")


def test_a_table_its_rows_and_what_is_gone_on_from(
    folder: Path, texts: tuple, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    results, more = tmp_path / "rows.json", ("--format", "nvfp4,mxfp4", "--method", "rtn,gptq", *FEW, *texts)
    assert run(folder, "--format", "nvfp4", "--method", "rtn", *FEW, *texts, "--json", results) == 0
    first = json.loads(results.read_text())
    first["rows"][0]["perplexity"] = 123.25  # to see that the row is not computed again
    results.write_text(json.dumps(first))
    capsys.readouterr()
    assert run(folder, *more, "--json", results, "--resume", "--layers", "--picture", tmp_path / "p.svg") == 0
    out = capsys.readouterr().out
    rows = json.loads(results.read_text())["rows"]
    assert [(row["format"], row["method"]) for row in rows] == [
        ("nvfp4", "rtn"), ("nvfp4", "gptq"), ("mxfp4", "rtn"), ("mxfp4", "gptq")
    ]  # fmt: skip
    assert rows[0]["perplexity"] == 123.25 and "123.25" in out
    assert all(row["kl"] > 0 and len(row["layers"]) == 14 for row in rows)
    assert "model.layers.1.mlp.down_proj" in out
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    assert run(folder, *more, "--windows", 1, "--json", results, "--resume") == 2
    assert "made with another evaluation text" in capsys.readouterr().err


def test_without_texts_it_judges_by_one_default_text_and_learns_from_the_other(
    folder: Path, texts: tuple, tmp_path: Path, monkeypatch
) -> None:
    """As if the two had been named."""
    words = ("--format", "nvfp4", "--method", "gptq", *FEW)
    assert run(folder, *words, *texts, "--json", tmp_path / "named.json") == 0
    for name, path in (("evaluation", texts[1]), ("calibration", texts[3])):
        monkeypatch.setattr(f"vbw_np.ptq.texts.{name}_text", path.read_text)
    assert run(folder, *words, "--json", tmp_path / "default.json") == 0
    named, default = (json.loads((tmp_path / f"{name}.json").read_text())["settings"] for name in ("named", "default"))
    texts_of = [key for key in named if key.endswith(" text")]
    assert len(texts_of) == 2 and [named[key] for key in texts_of] == [default[key] for key in texts_of]


def test_keys_and_values_are_kept_as_a_cache_keeps_them(folder: Path, texts: tuple, tmp_path: Path) -> None:
    results, whole = tmp_path / "rows.json", ("--keep", "*", *FEW, *texts, "--json", tmp_path / "rows.json")
    found = {}
    for keys, values in ((None, None), ("int4-row", None), (None, "int4-row"), ("int4-row", "int4-row")):
        words = [] if keys is None else ["--kv-keys", keys]
        words += [] if values is None else ["--kv-values", values]
        assert run(folder, *whole, *words, "--resume") == 0
        (row,) = json.loads(results.read_text())["rows"]
        assert (row["keys"], row["values"], row["bits"]) == (keys or "float32", values or "float32", 32)
        found[keys, values] = row["kl"]
    assert abs(found[None, None]) < 1e-6 and all(kl > 1e-4 for key, kl in found.items() if key != (None, None))
    assert len(set(found.values())) == 4
    model, checkpoint = small(), open_checkpoint(folder)
    windows = windows_of(texts[1].read_text("utf-8"), load_tokenizer(checkpoint).encode, 2, 32, "evaluation")
    reference = Reference.of(model, windows)
    divergences = []
    for window, hidden in zip(windows, reference.hidden):
        reader = LlamaReader(model, 1, 32, keys="int4-row")
        written = np.concatenate([reader.logits(token[None, None]) for token in window])  # token by token
        p, q = (log_softmax(logits.astype(np.float64)) for logits in (hidden @ reference.head.T, written))
        divergences.append((np.exp(p) * (p - q)).sum(axis=-1))
    assert np.mean(divergences) == pytest.approx(found["int4-row", None], rel=1e-3)


def test_sensitivity_keeps_one_kind_at_a_time(folder: Path, texts: tuple, tmp_path: Path) -> None:
    results, words = tmp_path / "rows.json", ("--format", "mxfp4", *FEW, *texts, "--activations", "same")
    assert run(folder, *words, "--sensitivity", "--json", results) == 0
    rows = json.loads(results.read_text())["rows"]
    assert [row["keep"] for row in rows] == [[]] + [
        [f"*.{kind}"] for kind in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    ]
    assert len(rows[-1]["layers"]) == 12 and {row["activations"] for row in rows} == {"mxfp4"}


def test_the_model_that_was_measured_is_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "quantized"
    assert run(folder, "--format", "nvfp4", "--method", "awq+gptq", *FEW, "--out", out) == 0
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    weights = find_weights(open_checkpoint(out))
    assert weights["model.layers.0.mlp.up_proj.weight"].producer == "compressed-tensors"
    assert run(out, *FEW, "--format", "int8-row") == 0  # and read again


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--format", "nvfp5"], "unknown format 'nvfp5'"),
        (["--method", "gtpq"], "Did you mean gptq"),
        (["--method", "four-over-six", "--format", "mxfp4"], "mxfp4 has other scales"),
        (["--method", "gptq", "--format", "nvfp4-own"], "several codes for one value"),
        (["--activations", "nvfp4"], "scales all tokens together"),
        (["--out", "x", "--method", "rtn,gptq"], "--out writes one model, and 2 were asked for"),
        (["--out", "x", "--method", "rotate"], "no file can say that inputs of layers are rotated"),
        (["--out", "x", "--format", "nf4"], "nf4 has no place in a compressed-tensors file"),
        (["--out", "x.gguf"], "a GGUF file needs"),
        (["--out", "."], "exists already"),
        (["--resume"], "--resume goes on from the rows of --json"),
        (["--kv-keys", "seed-v6"], "cannot be kept as seed-v6"),
        (["--text", "nowhere"], "cannot read nowhere"),
    ],
)
def test_bad_input_is_one_line_before_a_long_text_is_read(
    words: list[str], says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("calibration_text", "evaluation_text"):
        monkeypatch.setattr(f"vbw_np.ptq.texts.{name}", lambda: pytest.fail("a text was read"))
    assert run(folder, *FEW, *words) == 2
    err = capsys.readouterr().err.strip()
    assert says in err and "\n" not in err


def test_a_rotation_that_does_not_fit(folder: Path, texts: tuple, capsys: pytest.CaptureFixture) -> None:
    assert run(folder, *FEW, *texts, "--method", "rotate:points=128") == 2
    assert capsys.readouterr().err.count("blocks of 128 do not fit into a width of 64") == 1


def test_a_calibration_text_of_ten_tokens(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "short.txt").write_text("ten letter")
    assert run(folder, *FEW, "--calibration", tmp_path / "short.txt", "--method", "gptq") == 2
    assert "the calibration text has 10 tokens, and a method needs at least 256" in capsys.readouterr().err
    assert run(folder, *FEW, "--text", tmp_path / "short.txt") == 2
    assert "the evaluation text has 10 tokens, fewer than one window of 32" in capsys.readouterr().err
    (tmp_path / "bytes.txt").write_bytes(b"a\xff")
    assert run(folder, *FEW, "--text", tmp_path / "bytes.txt") == 2
    assert "is no text in UTF-8 (byte 1)" in capsys.readouterr().err


def test_an_unknown_architecture(folder: Path, capsys: pytest.CaptureFixture) -> None:
    settings = json.loads((folder / "config.json").read_text()) | {"model_type": "gemma3"}
    (folder / "config.json").write_text(json.dumps(settings))
    assert run(folder, *FEW) == 2
    assert "architecture 'gemma3'; known here: llama" in capsys.readouterr().err
