"""The verbs: what they print, JSON, pages, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vbw_np.checkpoints import find_weights, open_checkpoint
from vbw_np.cli import main

DATA = Path(__file__).with_name("data")
FOLDERS = sorted(p.name for p in DATA.iterdir() if p.is_dir())


def run(capsys, *argv: object, code: int = 0) -> str:
    assert main([str(a) for a in argv]) == code
    return capsys.readouterr().out


def test_inspect_lists_every_weight(capsys):
    text = run(capsys, "inspect", DATA / "awq")
    names = find_weights(open_checkpoint(DATA / "awq"))
    assert all(name in text for name in names) and "int4-zero-g64" in text and "nothing suspicious in headers" in text
    data = json.loads(run(capsys, "inspect", DATA / "awq", "--json"))
    assert data["totals"]["bytes"] == open_checkpoint(DATA / "awq").nbytes and len(data["weights"]) == len(names)


def test_inspect_statistics_and_page(capsys, tmp_path):
    data = json.loads(run(capsys, "inspect", DATA / "compressed-tensors-nvfp4", "--stats", "--json"))
    rows = {row["name"]: row["statistics"] for row in data["weights"]}
    weight = find_weights(open_checkpoint(DATA / "compressed-tensors-nvfp4"))["model.layers.0.mlp.up_proj.weight"]
    x, stats = weight.float32().astype(np.float64), rows["model.layers.0.mlp.up_proj.weight"]
    centred = x - x.mean()
    assert stats["kurtosis"] == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2, rel=1e-6)
    assert stats["max_over_rms"] == pytest.approx(np.abs(x).max() / np.sqrt((x**2).mean()), rel=1e-6)
    codes = weight.packed().unpacked_codes()
    assert stats["codes"] == [float(np.mean(codes == c)) for c in range(16)]
    assert stats["saturated"] == float(np.mean((codes & 7) == 7)) and stats["zero_blocks"] == 0
    assert sum(stats["scale_exponents"].values()) == stats["scales"] == weight.size // 16
    run(capsys, "inspect", DATA / "compressed-tensors-nvfp4", "--stats", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") > 5 and "<script" not in page and "http" not in page and "Kurtosis" in page
    assert main(["inspect", str(DATA / "awq"), "--html", str(tmp_path / "no" / "page.html")]) == 2


@pytest.mark.parametrize("folder", FOLDERS)
def test_explain_walks_from_the_byte_to_the_value(capsys, folder):
    """The address leads to the bytes that it prints, and the last step is the value."""
    weights = find_weights(open_checkpoint(DATA / folder))
    quantized = [name for name, weight in weights.items() if not weight.is_plain]
    chosen = quantized if folder == "gguf" else [*quantized[:1], list(weights)[-1]]
    for name, weight in ((name, weights[name]) for name in chosen):
        index = tuple(n // 2 for n in weight.shape)
        text = run(capsys, "explain", DATA / folder, name, *index)
        data = json.loads(run(capsys, "explain", DATA / folder, name, *index, "--json"))
        assert np.float32(data["value"]) == weight.float32()[index]
        raw = Path(next(iter(weight.parts.values())).file.path).read_bytes()
        if "file_offset" in data:
            assert f"{raw[data['file_offset']]:02x}" in text and f"byte {data['file_offset']:,}" in text
        if weight.is_packed and weight.producer not in ("gguf", "bitsandbytes", "awq", "gptq"):
            code = int(weight.packed().unpacked_codes()[index])
            if weight.packed().format.code_bits == 8:
                assert raw[data["file_offset"]] == code
            elif (
                weight.packed().format.code_bits == 4
                and "pack" not in weight.format
                and weight.parts["codes"].dtype == "U8"
            ):
                assert code in (raw[data["file_offset"]] & 15, raw[data["file_offset"]] >> 4)


def test_explain_still_explains_numbers(capsys):
    assert (
        json.loads(run(capsys, "explain", "0.7", "-1.25", "--index", "1", "--format", "mxfp4", "--json"))["x"] == -1.25
    )


@pytest.mark.parametrize("argv", [
    ["explain", "FILE"], ["explain", "FILE", "nothing", "0"], ["explain", "FILE", "lm_head.weight", "0"],
    ["explain", "FILE", "lm_head.weight", "0", "x"], ["explain", "FILE", "lm_head.weight", "0", "128"],
    ["explain", "1.0", "x"], ["diff", "FILE", "FILE", "--tolerance", "nan"], ["quantize", "FILE"],
    ["quantize", "FILE", "--out", "OUT", "--ties", "even"], ["convert", "FILE", "OUT", "--to", "nowhere"],
    ["measure", "FILE", "FILE"], ["inspect", "nothing here"],
])  # fmt: skip
def test_bad_input_is_one_line_and_code_2(capsys, tmp_path, argv):
    words = {"FILE": str(DATA / "original"), "OUT": str(tmp_path / "out")}
    assert main([words.get(word, word) for word in argv]) == 2
    out = capsys.readouterr()
    assert out.err.startswith("vbw: error: ") and out.err.count("\n") == 1 and not out.out
    assert not list(tmp_path.iterdir())


def test_quantize_convert_diff_measure(capsys, tmp_path):
    text = run(capsys, "quantize", DATA / "original", "--out", tmp_path / "q")
    assert "7 weights quantized" in text and "2 kept: kept by its name" in text
    assert "none differs beyond 0.02" in run(capsys, "diff", DATA / "original", tmp_path / "q", "--tolerance", "0.02")
    text = run(capsys, "diff", DATA / "original", tmp_path / "q", code=1)
    assert "another format" in text and "7 differ beyond 0" in text
    assert "moved without loss" in run(capsys, "convert", tmp_path / "q", tmp_path / "g", "--to", "gguf")
    data = json.loads(run(capsys, "diff", tmp_path / "q", tmp_path / "g", "--tolerance", "1e-12", "--json"))
    assert data["beyond_tolerance"] == 0
    text = run(capsys, "measure", DATA / "original", tmp_path / "q", "--html", tmp_path / "m.html")
    assert text.count("#" * 20) == 7 and (tmp_path / "m.html").read_text().count("<svg") == 1
    assert len(json.loads(run(capsys, "measure", DATA / "original", tmp_path / "q", "--json"))) == 7


def test_a_gguf_file_that_llama_cpp_does_not_run_is_called_that(capsys, tmp_path):
    assert main(["quantize", str(DATA / "original"), "--format", "q8_0", "--out", str(tmp_path / "g")]) == 0
    assert "llama.cpp does not run it" in capsys.readouterr().err
    for source, to in ((DATA / "gguf", "gguf"), (DATA / "original", "torchao")):
        assert main(["convert", str(source), str(tmp_path / to), "--to", to]) == 0
        assert not capsys.readouterr().err


def test_quantize_still_takes_an_array(capsys, tmp_path):
    np.save(tmp_path / "w.npy", np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32))
    text = run(capsys, "quantize", tmp_path / "w.npy", "--format", "nvfp4", "--out", tmp_path / "w.npz")
    assert "sqnr db" in text and (tmp_path / "w.npz").exists()
    assert main(["quantize", str(tmp_path / "w.npy"), "--layers", "*"]) == 2
