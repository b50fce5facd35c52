"""The table of docs/ptq.md on two windows of the real model: `VBW_TEST_MODELS` names the folder that has it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vbw_np import cli

FILES = sorted(Path(os.environ.get("VBW_TEST_MODELS") or "nowhere").rglob("SmolLM2-135M-Instruct.Q4_1.gguf"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FILES, reason="VBW_TEST_MODELS has no SmolLM2-135M")]


def kls(tmp_path: Path, formats: str, methods: str, activations: str = "none") -> dict[tuple[str, str], dict]:
    path = tmp_path / "rows.json"
    words = [str(FILES[0]), "--format", formats, "--method", methods, "--activations", activations]
    assert cli.main(["ptq", *words, "--json", str(path)]) == 0
    return {(row["format"], row["method"]): row for row in json.loads(path.read_text())["rows"]}


def test_weights_alone(tmp_path: Path) -> None:
    found = kls(tmp_path, "nvfp4,mxfp4", "rtn,gptq")
    bounds = {("nvfp4", "rtn"): 0.25, ("mxfp4", "rtn"): 0.55, ("nvfp4", "gptq"): 0.15, ("mxfp4", "gptq"): 0.24}
    assert {key: row["kl"] for key, row in found.items() if row["kl"] > bounds[key]} == {}
    assert kls(tmp_path, "nvfp4-nested", "rtn")["nvfp4-nested", "rtn"]["kl"] <= 0.002
    assert kls(tmp_path, "nvfp4", "awq+four-over-six+gptq")["nvfp4", "awq+four-over-six+gptq"]["kl"] <= 0.10


def test_weights_and_inputs(tmp_path: Path) -> None:
    best, turned = "awq+four-over-six+gptq", "rotate:points=64+gptq"
    assert kls(tmp_path, "nvfp4", best, "same")["nvfp4", best]["kl"] <= 0.30
    assert kls(tmp_path, "mxfp4", turned, "same")["mxfp4", turned]["kl"] <= 0.60


def test_a_rotation_helps_a_bad_format_and_hurts_a_good_one(tmp_path: Path) -> None:
    found = kls(tmp_path, "nvfp4,int4-row", "rtn,rotate:points=64", "same")
    assert found["nvfp4", "rtn"]["kl"] <= 0.45 < found["nvfp4", "rotate:points=64"]["kl"]
    assert found["int4-row", "rtn"]["perplexity"] > 1000 > 130 > found["int4-row", "rotate:points=64"]["perplexity"]
