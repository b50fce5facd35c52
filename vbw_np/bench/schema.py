"""What ``vbw bench --json`` writes, as data: keys and types, checked by hand so that no package is needed.

A dict asks for exactly these keys; a list of one entry for a list of such; a tuple for one of several; a type for its
instances (`float` accepts whole numbers too, `int` refuses booleans); `Maybe(x)` also for null; `Map(x)` for any keys.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Maybe:
    kind: Any


@dataclasses.dataclass(frozen=True)
class Map:
    kind: Any


FLOOR_PARTS = {"head": float, "experts": float, "reflection": float, "attention": float}
FLOOR_SUMMARY = {"n": int, "median_s": float, "median_by_part_s": FLOOR_PARTS, "gflop_per_s": float}
PRODUCT = {
    "name": str, "part": str, "rows": int, "inner": int, "columns": int, "stack": int, "is_weight": bool,
    "has_gradient": bool, "flop": int,
}  # fmt: skip
TIMING = {
    "total_s": float, "mean_s": float, "first_s": float, "batches_per_s": float,
    **{
        name: Maybe(float)
        for name in (
            "later_mean_s", "later_median_s", "later_iqr_s", "epoch_100_batches_s",
            "later_median_forward_s", "later_median_backward_s", "later_median_update_s",
        )
    },
}  # fmt: skip
RUN = {
    "recipe": str,
    "warm_up_s": float,
    "warm_up_compile_s": float,
    **{name: [float] for name in ("loss", "batch_s", "forward_s", "backward_s", "update_s", "compile_s")},
    "floor_passes_s": [FLOOR_PARTS],
    "timing": TIMING,
    "floor": FLOOR_SUMMARY,
    "loss_last_mean": float,
    "device": dict,  # the device's own report; its room tests it
    "relative_error": Maybe(float),
    "times_floor": Maybe(float),
}
SETTINGS = {
    "recipes": [str], "n_batches": int, "batch_size": int, "seq_len": int, "model": dict, "lr": float, "mode": str,
    "refresh_interval": int, "boh": bool, "error_budget": Maybe(float), "compute": str, "seed": int, "data": str,
    "tokenizer": str,
}  # fmt: skip
RESULT = {
    "schema": str,
    "schema_version": int,
    "vbw_np": str,
    "created_utc": str,
    "command": [str],
    "settings": SETTINGS,
    "recipes": [{"name": str, "summary": str, "fp4": bool}],
    "data": {
        "source": str, "name": str, "tokenizer": str, "files": int, "corpus_bytes": int, "sha256": str, "tokens": int,
        "different_tokens": int, "unk_share": float,
    },
    "model": {"name": str, "parameters": int, "layers": [{"name": str, "in_features": int, "out_features": int}]},
    "floor": {
        "products": [PRODUCT], "flop": int, "flop_by_part": dict.fromkeys(FLOOR_PARTS, int), "head_rows_a_window": int,
        "buffer_bytes": int, **FLOOR_SUMMARY,
    },
    "runs": [RUN],
    "peak_memory_bytes": Maybe(int),
    "environment": {
        "system": str, "python": str, "cpu": str, "processors": int, "load_average_1min": Maybe(float), "numpy": str,
        "blas": {
            "library": str, "kernel": Maybe(str), "config": Maybe(str), "threads": Maybe(int), "variables": Map(str),
        },
        "variables_taken_away": Map(str),
        "numba": Maybe({
            "version": str, "llvmlite": str, "switched_off": bool, "threads": int, "threading_layer": Maybe(str),
        }),
        "twins": {"installed": int, "operations": int},
    },
    "duration_s": float,
}  # fmt: skip


def problems(value: Any, kind: Any, path: str = "result") -> list[str]:
    """Where `value` is not as `kind` asks; an empty list if it is."""
    if isinstance(kind, Maybe):
        return [] if value is None else problems(value, kind.kind, path)
    if isinstance(kind, Map):
        if not isinstance(value, dict):
            return [f"{path}: {type(value).__name__} instead of an object"]
        return [found for key, entry in value.items() for found in problems(entry, kind.kind, f"{path}.{key}")]
    if isinstance(kind, list):
        if not isinstance(value, list):
            return [f"{path}: {type(value).__name__} instead of a list"]
        return [found for i, entry in enumerate(value) for found in problems(entry, kind[0], f"{path}[{i}]")]
    if isinstance(kind, dict):
        return _object_problems(value, kind, path)
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        return [f"{path}: {value!r} instead of {kind.__name__}"]
    return [f"{path}: {value}"] if isinstance(value, float) and not math.isfinite(value) else []


def _object_problems(value: Any, kind: dict[str, Any], path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: {type(value).__name__} instead of an object"]
    found = [f"{path}.{key}: missing" for key in kind if key not in value]
    found += [f"{path}.{key}: not in the schema" for key in value if key not in kind]
    return found + [p for key in kind if key in value for p in problems(value[key], kind[key], f"{path}.{key}")]
