"""Build tests/oracles/smollm2_logits.npz: logits of SmolLM2-135M-Instruct by transformers, in float32, on 512 tokens.

Run in an environment that has torch, transformers, gguf and accelerate:
python tools/oracles/smollm2_logits.py FILE.gguf

The tokens are the first of tests/oracles/llama_tokens.npz. Kept are, at every position, the logits of 48 tokens (the
likeliest 16, others drawn), the likeliest token, and the logarithm of the sum of all exponentials, which sees every
logit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

ORACLES = Path(__file__).parents[2] / "tests" / "oracles"
OUT = ORACLES / "smollm2_logits.npz"


def main(model: str) -> None:
    file = Path(model)
    library = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    ids = np.load(ORACLES / "llama_tokens.npz")["ids"][:512].astype(np.int64)
    with torch.no_grad():
        logits = library(input_ids=torch.from_numpy(ids)[None]).logits[0].double().numpy()
    drawn = np.random.default_rng(0).integers(0, logits.shape[1], (512, 32))
    tokens = np.concatenate([np.argsort(-logits, axis=1)[:, :16], drawn], axis=1).astype(np.uint16)
    largest = logits.max(axis=1)
    sums = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    np.savez_compressed(
        OUT,
        versions=np.array([f"{m.__name__} {m.__version__}" for m in (torch, transformers, np)]),
        tokens=tokens,
        logits=np.take_along_axis(logits, tokens.astype(np.int64), axis=1).astype(np.float32),
        log_sums=sums,
    )
    print(f"wrote {OUT.name}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
