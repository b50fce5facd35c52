"""Keys and values that are kept in a format: what is left of each vector, how many bytes, and which formats can."""

from __future__ import annotations

import numpy as np
import pytest

from vbw_np.engine import no_grad
from vbw_np.errors import UserError
from vbw_np.formats import FORMATS, quantize
from vbw_np.models.claude4 import Claude4, Claude4Config
from vbw_np.models.generation import generate
from vbw_np.models.key_value_cache import KeyValueCache, format_of_vectors
from vbw_np.models.llama import Llama, LlamaConfig

CONFIG = LlamaConfig(vocab_size=61, hidden_size=64, intermediate_size=96, max_position_embeddings=64)
IDS = np.random.default_rng(0).integers(0, 61, (2, 13))
SPANNING = {
    "nvfp4-16x16", "nvfp4-16x16-1level", "nvfp4-16x16-4over6", "seed-v6", "fp8-128x128", "fp8-tensor", "int8-tensor",
    "nvfp4-own-e4m3", "nvfp4-16x16-4over6-mae", "fp8-e5m2-tensor", "fp8-e5m2-128x128", "fp4-ue5m3-16x16",
} | {name for name, fmt in FORMATS.items() if fmt.block_rows > 1}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_each_vector_by_itself_or_is_refused_by_name(name: str) -> None:
    vectors = np.random.default_rng(1).normal(size=(3, 2, 7, 32)).astype(np.float32) * 50
    if name in SPANNING:
        with pytest.raises(UserError, match=f"cannot be kept as {name}"):
            format_of_vectors(name, 32)
        return
    at_once, one_by_one = (KeyValueCache(1, 3, 2, 7, 32, keys=name) for _ in range(2))
    keys, values = at_once.remember(0, vectors, vectors)
    assert np.array_equal(values, vectors)
    for i in range(7):
        grown, _ = one_by_one.remember(0, vectors[:, :, i : i + 1], vectors[:, :, i : i + 1])
        one_by_one.advance(1)
    assert np.array_equal(grown, keys)
    vector = vectors[2, 1, 5]  # is as a tensor of its own
    assert np.array_equal(keys[2, 1, 5], quantize(vector[None], name).dequantize()[0])
    assert 0 < np.abs(keys - vectors).max() < 0.35 * np.abs(vectors).max()


def test_bytes_of_a_token() -> None:
    sizes = 30, 1, 3, 512, 64
    plain = KeyValueCache(*sizes)
    assert plain.token_nbytes == 2 * 30 * 3 * 64 * 4 and plain.nbytes == 0
    half = KeyValueCache(*sizes, values="mxfp4")
    assert half.token_nbytes == 30 * 3 * 64 * 4 + 30 * 3 * (32 + 2)
    both = KeyValueCache(*sizes, keys="nvfp4", values="nvfp4")
    assert both.token_nbytes == 2 * 30 * 3 * (32 + 4 + 4)  # codes, block scales, a float32 scale a vector
    both.advance(7)
    assert both.nbytes == 7 * both.token_nbytes


@pytest.mark.parametrize(("keys", "values"), [("nvfp4", None), (None, "nvfp4"), ("mxfp4", "mxfp8-e4m3")])
def test_the_same_logits_read_at_once_and_token_by_token(keys: str | None, values: str | None) -> None:
    model = Llama(CONFIG, seed=1)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.assign(parameter.data * 8)
    with no_grad():
        at_once = model(IDS, model.cache(2, 13, keys=keys, values=values)).data
        cache = model.cache(2, 13, keys=keys, values=values)
        pieces = np.concatenate([model(IDS[:, i : i + 1], cache).data for i in range(13)], axis=1)
        exact = model(IDS).data
    spread = exact.std()
    # A code is flipped where float32 sums in another order fall on the other side of a rounding boundary: rarely.
    assert np.median(np.abs(at_once - pieces)) < 1e-6 * spread
    assert 1e-3 * spread < np.abs(at_once - exact).mean() < 0.5 * spread


def test_generation_takes_them_and_stops() -> None:
    model = Llama(CONFIG, seed=1)
    options = {"temperature": 0.0, "keep_logits": True}
    plain = generate(model, IDS[:1], 12, **options)
    kept = generate(model, IDS[:1], 12, keys="fp4-row", values="fp4-row", **options)
    assert not np.array_equal(plain.logits[0, 0], kept.logits[0, 0])
    first = int(plain.tokens[0, 4])
    stopped = generate(model, IDS[:1], 12, stop={first}, **options)
    place = plain.tokens[0].tolist().index(first)
    assert stopped.tokens[0].tolist() == plain.tokens[0, : place + 1].tolist()


def test_a_model_whose_cache_takes_none_says_so() -> None:
    model = Claude4(Claude4Config(vocab_size=31, d_model=16, hidden=32, layers=1, causal=True))
    with pytest.raises(UserError, match="keys of a Claude4 are kept as they are"):
        generate(model, IDS[:1] % 31, 2, keys="nvfp4")
