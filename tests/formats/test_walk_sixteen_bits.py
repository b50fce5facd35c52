"""bfloat16 and float16: arrays and files are quantized as the float32 numbers that they are."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from vbw_np import cli
from vbw_np.formats import DtypeError, quantize
from vbw_np.formats.random_bits import standard_normal
from vbw_np.kernels.fp4.quantize import quantize as fast_quantize


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


def test_masked_entries_are_refused_and_other_arrays_are_taken_as_they_are(tmp_path):
    x = standard_normal((8, 64), seed=3)
    wanted = quantize(x, "nvfp4").codes
    np.save(tmp_path / "x.npy", x)
    for same in (x.view(np.matrix), np.load(tmp_path / "x.npy", mmap_mode="r"), x.astype(">f4"), x.tolist(),
                 np.ma.masked_array(x, np.zeros(x.shape, bool)), np.asfortranarray(x)):  # fmt: skip
        for quantizer in (quantize, fast_quantize):
            array = np.array(same, np.float32) if isinstance(same, list) else same
            np.testing.assert_array_equal(quantizer(array, "nvfp4").codes, wanted)
    for quantizer in (quantize, fast_quantize):
        with pytest.raises(DtypeError, match=r"x has masked entries.*x\.filled\(0\)"):
            quantizer(np.ma.masked_array(x, x > 1), "nvfp4")
