"""Build tests/oracles/llama_cpp_logits.npz: what llama.cpp expects at each of 512 tokens of a text.

Run in an environment that has llama-cpp-python and the packages of this project, in the project's folder:
python tools/oracles/llama_cpp_logits.py FILE.gguf

The tokens are the first of tests/oracles/llama_tokens.npz. Kept are, at every position, the logarithms of the
probabilities of the 96 likeliest tokens. What follows from them is a lower bound of the divergence (all other tokens
count as one), so this program also prints the divergence over all 49,152.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # beside this file lies another llama_cpp

from llama_cpp import Llama, __version__  # noqa: E402

from vbw_np.engine import no_grad  # noqa: E402
from vbw_np.models.llama_files import load_llama  # noqa: E402

ORACLES = ROOT / "tests" / "oracles"
OUT = ORACLES / "llama_cpp_logits.npz"
COUNT, KEPT = 512, 96


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """In float64."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))


def main(model: str) -> None:
    ids = np.load(ORACLES / "llama_tokens.npz")["ids"][:COUNT].astype(np.int64)
    library = Llama(model, n_ctx=COUNT, n_batch=COUNT, logits_all=True, verbose=False)
    library.eval(ids.tolist())
    theirs = log_probabilities(np.array(library.scores[:COUNT]))
    tokens = np.argsort(-theirs, axis=1, kind="stable")[:, :KEPT]
    kept = np.take_along_axis(theirs, tokens, axis=1)
    np.savez_compressed(
        OUT,
        version=np.array(f"llama-cpp-python {__version__}"),
        tokens=tokens.astype(np.uint16),
        log_probabilities=kept.astype(np.float32),
    )
    print(f"wrote {OUT.name}: {OUT.stat().st_size:,} bytes; they hold {np.exp(kept).sum(axis=1).mean():.4f} on average")
    with no_grad():
        ours = log_probabilities(load_llama(model)(ids[None]).data[0])
    divergence = (np.exp(theirs) * (theirs - ours)).sum(axis=1).mean()
    same = (ours.argmax(axis=1) == tokens[:, 0]).mean()
    print(f"our float32 against llama.cpp, all tokens: KL {divergence:.5f} nats, top-1 {100 * same:.1f} %")


if __name__ == "__main__":
    main(sys.argv[1])
