"""The profiles of `formats/mixed.py` against what their libraries wrote and decoded (`make oracles`)."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from vbw_np.formats import PROFILES, quantize
from vbw_np.formats.ggml_blocks import to_blocks_of
from vbw_np.formats.mixed import PRODUCERS

HERE = Path(__file__).parent
ROWS = 256

_SPEC = importlib.util.spec_from_file_location("mixed_cases", HERE / "cases.py")
cases = importlib.util.module_from_spec(_SPEC)
sys.modules["mixed_cases"] = cases
_SPEC.loader.exec_module(cases)

NAMES = [fmt.name for _, fmt, _, _ in PRODUCERS]
EDGES = range(len(cases.mixed_edges()))


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """What `mixed.py` recorded, and of the types that gguf does not encode what `ggml_c.py` did."""
    with np.load(HERE / "mixed.npz") as file, np.load(HERE / "ggml_c_blocks.npz") as searched:
        return {**searched, **file}


@functools.cache
def case_input(case: str) -> np.ndarray:
    if case.startswith("edge-"):
        return cases.mixed_edges()[int(case[5:])][None]
    return getattr(cases, case)()[:ROWS]


def ours(x: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Codes, scales and offsets as the library lays them out, and the decoded values."""
    packed = quantize(x, PROFILES[name].format, nonfinite="producer", measure=False)
    fmt = packed.format
    parts = {"decoded": cases.one_nan(packed.dequantize())}
    if name.startswith("ggml-"):
        return parts | {"codes": to_blocks_of(packed)[1].reshape(len(x), -1)}
    codes = packed.unpacked_codes() if fmt.code_bits == 6 else packed.codes  # torchao keeps 6-bit codes a byte each
    scales = packed.scales[:: fmt.block_rows]
    parts |= {"codes": codes.reshape(len(x), -1)}
    parts |= {"scales": np.ascontiguousarray(scales).view(np.uint8).reshape(1 if fmt.flat else len(scales), -1)}
    if packed.offsets is not None:
        parts["offsets"] = packed.offsets
    return parts


def assert_same(got: np.ndarray, wanted: np.ndarray, what: str) -> None:
    bad = np.argwhere(got != wanted)
    assert not len(bad), f"{what}: {len(bad)} of {got.size} differ, first at {tuple(bad[0])}"


@pytest.mark.parametrize("case", [*cases.LARGE, "edges"])
@pytest.mark.parametrize("name", NAMES)
def test_bytes_and_decoded_values_equal_the_librarys(name, case):
    kept = golden()
    for each in [case] if case != "edges" else [f"edge-{i}" for i in EDGES]:
        for part, array in ours(cases.for_blocks(case_input(each), name), name).items():
            key = f"{name}/{each}/{part}"
            if f"{key}-head" in kept:
                head = kept[f"{key}-head"]
                assert_same(array[: len(head)], head, key)
            np.testing.assert_array_equal(cases.digests(array), kept[f"{key}-sha256"], key)


@pytest.mark.parametrize("name", NAMES)
def test_nan_and_infinity_equal_the_librarys(name):
    kept, tensors = golden(), cases.mixed_nonfinite()
    answers = [ours(cases.for_blocks(x, name), name) for x in tensors]
    for part in answers[0]:
        wanted = kept[f"{name}/nonfinite/{part}-sha256"]
        assert len(wanted) == len(tensors)
        for x, answer, digest in zip(tensors, answers, wanted, strict=True):
            np.testing.assert_array_equal(cases.digests(answer[part])[0], digest, f"{name} {part} of {x[0, :3]}")


def test_every_profile_is_recorded_and_says_what_wrote_it():
    about = json.loads(str(golden()["about"]))
    assert about["versions"]["compressed-tensors"] == "0.20.0" and about["versions"]["gguf"] == "0.19.0"
    assert {key.split("/")[0] for key in golden() if "/" in key} == set(NAMES)
