"""The table of docs/ptq.md on two windows of the real model: `VBW_TEST_MODELS` names the folder that has it.

All rows share one reading of the float model and one of the calibration text; a model that was rounded is measured with
its inputs in float32 and in four bits. `vbw ptq` prints the same figures.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from vbw_np.checkpoints import open_checkpoint
from vbw_np.formats import get_format
from vbw_np.models.llama_files import load_llama
from vbw_np.models.tokenizer import load_tokenizer
from vbw_np.ptq import Calibration, Plan, Quality, Quantized, Reference, measure, quantize_model, read_method
from vbw_np.ptq.commands import CALIBRATION_LENGTH
from vbw_np.ptq.comparing import activations_of
from vbw_np.ptq.texts import calibration_text, evaluation_text, windows_of

FILES = sorted(Path(os.environ.get("VBW_TEST_MODELS") or "nowhere").rglob("SmolLM2-135M-Instruct.Q4_1.gguf"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FILES, reason="VBW_TEST_MODELS has no SmolLM2-135M")]


class Table:
    """The model, what it is judged by and what methods learn from; the last model that was rounded."""

    def __init__(self) -> None:
        self.checkpoint = open_checkpoint(FILES[0])
        encode = load_tokenizer(self.checkpoint).encode
        judged = windows_of(evaluation_text(), encode, 2, 512, "evaluation")
        learned = windows_of(calibration_text(), encode, 32, CALIBRATION_LENGTH, "calibration")
        self.calibration = Calibration(learned)
        self.reference = Reference.of(load_llama(self.checkpoint), judged)
        self._last: Quantized | None = None

    def rounded(self, fmt: str, method: str) -> Quantized:
        """A model in a format by a method; learning nothing where the method needs nothing."""
        plan = Plan(get_format(fmt), read_method(method))
        if self._last is None or (self._last.plan.fmt, self._last.plan.method) != (plan.fmt, plan.method):
            self._last = None  # two models would be in memory
            calibration = self.calibration if plan.method.needs_inputs else None
            self._last = quantize_model(load_llama(self.checkpoint), plan, calibration)
        return self._last

    def quality(self, fmt: str, method: str, activations: str = "none") -> Quality:
        found = self.rounded(fmt, method)
        inputs = activations_of(activations, found.plan.fmt)
        with_inputs = dataclasses.replace(found, plan=dataclasses.replace(found.plan, activations=inputs))
        return measure(found.model, self.reference, with_inputs.running())

    def kept(self, **cache: str) -> Quality:
        """The model as it was, and formats of keys and values."""
        return measure(load_llama(self.checkpoint), self.reference, **cache)


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


@pytest.mark.parametrize(
    ("fmt", "method", "most"),
    [
        ("nvfp4-nested", "rtn", 0.002),
        ("nvfp4", "four-over-six", 0.23),
        ("mxfp4", "rtn", 0.55),
        ("nvfp4", "gptq", 0.15),
        ("mxfp4", "gptq", 0.24),
    ],
)
def test_weights_alone(fmt: str, method: str, most: float, table: Table) -> None:
    assert table.quality(fmt, method).kl <= most


def test_a_rotation_makes_nvfp4_worse(table: Table) -> None:
    assert table.quality("nvfp4", "rtn").kl <= 0.25
    assert table.quality("nvfp4", "rtn", "same").kl <= 0.45 < table.quality("nvfp4", "rotate:points=16", "same").kl


def test_a_rotation_brings_int4_with_a_scale_a_row_back_to_life(table: Table) -> None:
    assert table.quality("int4-row", "rtn", "same").perplexity > 1000
    assert table.quality("int4-row", "rotate:points=64", "same").perplexity < 150  # signs matter: docs/ptq.md
    assert table.quality("int4-row", "rotate:points=0:seed=2", "same").perplexity < 120


def test_the_best_methods(table: Table) -> None:
    best = "awq+four-over-six+gptq"
    assert table.quality("nvfp4", best).kl <= 0.10
    assert table.quality("nvfp4", best, "same").kl <= 0.30
    assert table.quality("mxfp4", "rotate:points=64+gptq", "same").kl <= 0.60


def test_keys_are_not_values(table: Table) -> None:
    keys, values = table.kept(keys="nvfp4").kl, table.kept(values="nvfp4").kl
    assert values <= 0.015 < keys <= 0.10
