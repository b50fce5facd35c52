"""bfloat16 and float16: arrays and files are quantized as the float32 numbers that they are."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from vbw_np import cli
from vbw_np.formats import DtypeError, quantize
from vbw_np.formats.random_bits import standard_normal


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
def test_arrays_and_files_of_every_float(dtype, tmp_path, capsys):
    x = standard_normal((8, 64), seed=3).astype(dtype)
    wanted = quantize(x.astype(np.float32), "nvfp4")
    np.testing.assert_array_equal(quantize(x, "nvfp4").codes, wanted.codes)
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "q.npz"
    assert cli.main(["quantize", str(tmp_path / "x.npy"), "--report", "--json", "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["sqnr_db"] > 19
    with np.load(out) as file:
        np.testing.assert_array_equal(file["codes"], wanted.codes)


def test_the_advice_for_two_opaque_bytes_works(tmp_path):
    """Followed to the letter, by either of its two ways, and through the front door."""
    import vbw_np as vbw

    values = standard_normal((8, 64), seed=3).astype(ml_dtypes.bfloat16)
    wanted = quantize(values.astype(np.float32), "nvfp4")
    np.save(tmp_path / "x.npy", values)
    for door in (quantize, vbw.quantize):
        with pytest.raises(DtypeError, match=r"x.view\(ml_dtypes.bfloat16\)") as refused:
            door(np.load(tmp_path / "x.npy"), "nvfp4")
        first, second = str(refused.value).split("Say what they are: ")[1].split(", or without that package ")
        for advice in (first, second):
            names = {"x": np.load(tmp_path / "x.npy"), "np": np}
            exec(advice, names)
            assert names["x"].shape == (8, 64)
            np.testing.assert_array_equal(door(names["x"], "nvfp4").codes, wanted.codes)
