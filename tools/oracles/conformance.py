"""The vectors of every profile through its library: tests/oracles/vectors.json holds digests of what it wrote.

Run by `make oracles`; ends with exit code 1 when a library does not conform to its own profile.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "oracles"), str(Path(__file__).parent)]

import build  # noqa: E402
import cases  # noqa: E402
import mixed  # noqa: E402

from vbw_np.conformance import Verdict, judge, vectors  # noqa: E402
from vbw_np.conformance.answers import as_parts, read_answer  # noqa: E402
from vbw_np.conformance.judging import Outcome  # noqa: E402

Run = Callable[[torch.Tensor], dict[str, np.ndarray]]


def four_bits() -> dict[str, Run]:
    """Profile -> its library, for the formats that `build.py` records."""
    found: dict[str, Run] = {
        f"torchao-0.18-{mode}": build.torchao_mx(mode.upper()) for mode in ("floor", "even", "ceil", "rceil")
    }
    found |= {
        "torchao-0.18-nvfp4": build.torchao_nv,
        "torchao-0.18-nvfp4-1level": build.torchao_nv_one_level,
        "modelopt-nvfp4": build.modelopt_nv,
        "modelopt-mxfp4": build.modelopt_mx,
        "compressed-tensors-0.20-nvfp4": build.compressed_tensors("NVFP4"),
        "compressed-tensors-0.20-mxfp4": build.compressed_tensors("MXFP4"),
        "compressed-tensors-0.20-nvfp4-bf16": build.compressed_tensors("NVFP4", bfloat16=True),
        "bitsandbytes-nf4": flat(build.bitsandbytes("nf4")),
        "bitsandbytes-fp4": flat(build.bitsandbytes("fp4")),
        "ggml-mxfp4": build.gguf_mx,
        "te-nvfp4": build.transformer_engine(1),
        "te-nvfp4-16x16": build.transformer_engine(16),
    }
    for error in ("mse", "mae"):
        found[f"te-nvfp4-4over6-{error}"] = build.transformer_engine(1, error, 256.0)
        found[f"te-nvfp4-16x16-4over6-{error}"] = build.transformer_engine(16, error, 256.0)
    return found


def flat(run: Run) -> Run:
    """bitsandbytes' maxima as numbers; `build.py` keeps them as bytes."""

    def with_numbers(x: torch.Tensor) -> dict[str, np.ndarray]:
        result = run(x)
        return result | {"scales": np.ascontiguousarray(result["scales"]).view(np.float32)}

    return with_numbers


def answered(run: Run, name: str, x: np.ndarray) -> Outcome:
    """A library's result under the names of an answer."""
    try:
        with np.errstate(all="ignore"):
            result: dict[str, Any] = dict(run(torch.from_numpy(x.copy())))
    except Exception as error:
        return error
    result["tensor_scale"] = result.pop("stored", None)
    if name.startswith("ggml-") and "scales" not in result:
        result["blocks"] = result.pop("codes")
    elif result["scales"].dtype == np.uint8 and name in WITH_NUMBERS:
        result["scales"] = np.ascontiguousarray(result["scales"]).view(np.float32)
    return as_parts(result)


FILE = ROOT / "tests" / "oracles" / "vectors.json"
WITH_NUMBERS = {name for name in mixed.profiles() if name.startswith("compressed-tensors") or "fp8-tensor" in name}
"""Profiles with float32 scales, which `mixed.py` keeps as bytes."""


def recorded(name: str, run: Run) -> tuple[Verdict, dict[str, str]]:
    """The verdict on a library under a profile, and a digest of each of its answers."""
    document = vectors(name)
    outcomes = [answered(run, name, vector.case.x) for vector in document.vectors]
    digests = {}
    for vector, outcome in zip(document.vectors, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            digests[vector.case.name] = "refused"
            continue
        answer = read_answer(outcome, vector, document.profile.format)
        digests[vector.case.name] = cases.answer_digest(
            answer.codes, answer.scales, answer.tensor_scale, answer.offsets, answer.decoded
        )
    return judge(document, outcomes), digests


def write(libraries: dict[str, Run]) -> bool:
    """Run them, put their digests beside those that are kept, and say whether all conform."""
    kept: dict[str, dict[str, str]] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    failed = 0
    for name, run in libraries.items():
        verdict, kept[name] = recorded(name, run)
        print(verdict, flush=True)
        failed += not verdict
    FILE.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", "utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}: {FILE.stat().st_size:,} bytes")
    return not failed


def main() -> None:
    torch.set_num_threads(1)
    torch.compiler.set_stance("force_eager")
    chosen = sys.argv[1:]
    libraries = {n: run for n, run in (four_bits() | mixed.profiles()).items() if not chosen or n in chosen}
    sys.exit(0 if write(libraries) else 1)


if __name__ == "__main__":
    main()
