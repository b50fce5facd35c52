"""ggml as a peer of `vbw bench peers`: its blocks mean what ours do, and its products are right and say how."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from vbw_np import cli
from vbw_np.bench import peers, peers_ggml
from vbw_np.formats.ggml import decode_blocks
from vbw_np.simd import jit

needs_jit = pytest.mark.skipif(not jit.enabled(), reason="kernels are switched off")
needs_ggml = pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="needs llama-cpp-python")
RNG = np.random.default_rng(19)
W, X = RNG.standard_normal((96, 512), dtype=np.float32), RNG.standard_normal((8, 512), dtype=np.float32)


@needs_ggml
@pytest.mark.parametrize("name", peers_ggml.TYPES)
def test_ggml_decodes_its_blocks_as_we_do(name: str) -> None:
    blocks, values = peers_ggml.quantized(W, name)
    assert np.array_equal(values, decode_blocks(blocks.reshape(-1), name).reshape(W.shape))
    assert 0.05 < np.linalg.norm(values - W) / np.linalg.norm(W) < 0.15  # four bits of a normal distribution


@needs_ggml
@pytest.mark.parametrize("name", peers_ggml.TYPES)
def test_gguf_decodes_them_so_too(name: str) -> None:
    quants = pytest.importorskip("gguf.quants")
    kind = pytest.importorskip("gguf.constants").GGMLQuantizationType[name]
    blocks, values = peers_ggml.quantized(W, name)
    assert np.array_equal(values, quants.dequantize(blocks, kind))


@needs_ggml
def test_threads_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for count in (1, 5):
        monkeypatch.setattr(peers_ggml, "threads", lambda n=count: n)
        found.append(peers_ggml.quantized(W, "Q4_K"))
    for one, five in zip(*found):
        assert np.array_equal(one, five)


@needs_ggml
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name", peers_ggml.TYPES)
def test_products_are_right(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, values = peers_ggml.quantized(W, name)
    product = peers_ggml.Product(blocks, X[:rows], name)
    product()
    expected = X[:rows] @ values.T
    wrong = np.linalg.norm(product.out - expected) / np.linalg.norm(expected)
    assert 1e-4 < wrong < peers_ggml.MOST_WRONG  # activations are rounded to int8, and to no less
    monkeypatch.setattr(peers_ggml, "_faster_buffer", lambda *given: None)
    plain = peers_ggml.Product(blocks, X[:rows], name)
    plain()
    assert not plain.repacked
    np.testing.assert_allclose(plain.out, product.out, rtol=0, atol=1e-3 * np.abs(expected).max())


@needs_ggml
def test_a_product_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_ggml, "MOST_WRONG", 1e-4)
    for function in peers_ggml.products(W, X).values():
        with pytest.raises(RuntimeError, match=r"its product is wrong by 0\.\d%"):
            function()


@needs_ggml
@needs_jit
def test_the_benchmark_has_every_type(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    version = peers.installed()["llama_cpp"]
    assert version is not None
    monkeypatch.setattr(peers, "installed", lambda: dict.fromkeys(peers.PEERS) | {"llama_cpp": version})
    assert cli.main(["bench", "peers", "--size", "64", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert f"peers: llama-cpp-python {version}" in out
    assert out.count("ggml mxfp4") == out.count("ggml q4_0") == out.count("ggml q4_k") == 5
    assert out.count("int8 activations (q8_0: 32 a scale)") == 6 and out.count("(q8_k: 256 a scale)") == 3
    assert out.count("cannot do this here: ValueError: Q4_K has blocks of 256, and a row is 64 long") == 5


def test_what_cannot_be_loaded_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError("libggml.so: cannot open shared object file")

    monkeypatch.setattr(peers_ggml, "library", fails)
    works = [peers_ggml.quantizers(W), peers_ggml.dequantizers(W), peers_ggml.products(W, X)]
    for work in works:
        assert list(work) == ["ggml q4_0", "ggml q4_k", "ggml mxfp4"]
        assert set(peers._failures(work).values()) == {"OSError: libggml.so: cannot open shared object file"}
