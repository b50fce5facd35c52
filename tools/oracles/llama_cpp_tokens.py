"""Build tests/oracles/llama_tokens.npz: a text and its token ids by llama.cpp, with SmolLM2's vocabulary.

Run in an environment that has llama-cpp-python: python tools/oracles/llama_cpp_tokens.py FILE.gguf

The text is this project's documentation and one of its files, with signs, digits and spaces that the rules of other
vocabularies cut in another way.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from llama_cpp import Llama

ROOT = Path(__file__).parents[2]
OUT = ROOT / "tests" / "oracles" / "llama_tokens.npz"
FILES = (
    "README.md", "docs/architecture.md", "docs/formats.md", "CONTRIBUTING.md", "docs/glossary.md", "docs/device.md",
    "vbw_np/formats/scales.py", "vbw_np/formats/codec.py",
)  # fmt: skip
ODD = (
    "Grüße, 日本語 ½ ⅓ Ⅷ ١٢٣ 👩‍👩‍👧 naïve\u00a0x\u2003y  \t\t z\r\n\r\n"
    "'LL I'll don't 'T 3.14159e-10 0x7F\n\n\n   end   "
)


def main(model: str) -> None:
    text = "\n".join([(ROOT / name).read_text("utf-8") for name in FILES] + [ODD])
    library = Llama(model, vocab_only=True, verbose=False)
    ids = np.array(library.tokenize(text.encode(), add_bos=False, special=False), np.uint16)
    np.savez_compressed(OUT, text=np.frombuffer(text.encode(), np.uint8), ids=ids)
    print(f"wrote {OUT.name}: {len(ids):,} ids, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
