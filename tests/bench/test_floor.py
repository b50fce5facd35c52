"""The floor's products: those of a training step, no more and no fewer, and really multiplied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vbw_np.bench.floor import PARTS, Floor, Product, _arrays, flop_by_part, step_products
from vbw_np.engine import autograd
from vbw_np.models.claude4 import Claude4, Claude4Config


class Counter:
    """Stands in for `np.matmul` and adds up the operations of all products."""

    def __init__(self) -> None:
        self.flop = 0
        self.matmul = np.matmul

    def __call__(self, x: np.ndarray, y: np.ndarray, **options: Any) -> np.ndarray:
        result = self.matmul(x, y, **options)
        self.flop += 2 * result.size * x.shape[-1]
        return result


def test_the_reports_operations_by_part() -> None:
    """From the sizes of the report: D 256, hidden 1024, V 50,000, 8 x 128 tokens, three products a layer."""
    tokens, d, hidden, vocabulary = 1024, 256, 1024, 50_000
    layer = 6 * tokens * d * d  # a square linear layer, forward and backward
    tri_vein = 6 * tokens * 4 * 64 * 4 * 4 + 2 * tokens * 4 * 64 * 4 + 12 * 32 * 128 * 4 * 128
    multihead = 12 * 64 * 128 * 32 * 128
    gru, in_and_out_proj, mirrors, scorer, fusion_and_gate = 30 * layer, 4 * layer, 3 * layer, 3 * layer, 5 * layer
    reflection = gru + in_and_out_proj + mirrors + scorer + layer // d + fusion_and_gate + multihead
    assert flop_by_part(step_products(Claude4(), 8, 128)) == {
        "head": 6 * 8 * 127 * d * vocabulary,
        "experts": 3 * (4 * 2 * 6 * tokens * d * hidden + 6 * tokens * d * 4),
        "reflection": 2 * reflection,
        "attention": 3 * (4 * layer + tri_vein),
    }


def test_the_linear_layers_are_those_that_compute(result: dict[str, Any]) -> None:
    """The same as the cards that computed, and out_proj, which computes without its card."""
    products = {product["name"]: product for product in result["floor"]["products"]}
    for card in result["runs"][0]["device"]["cards"]:
        computes = card["computes"] > 0 or card["name"].endswith("path_attn.out_proj")
        assert (card["name"] in products) == computes, card["name"]
        if computes:
            product = products[card["name"]]
            assert [product["columns"], product["inner"]] == card["shape"]
            assert product["rows"] == (2 * 7 if card["name"] == "output_head" else 2 * 8)


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_what_a_step_multiplies(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in a real step of the readable definitions, which save in two places what is listed in full:

    the GRU projects every token once instead of five times, and its first state, zero, needs no gradient.
    """
    config = Claude4Config(vocab_size=61, d_model=32, hidden=48, causal=causal)
    model = Claude4(config)
    ids = np.random.default_rng(0).integers(0, 61, (2, 12))
    counter = Counter()
    with autograd.use_twins(False), monkeypatch.context() as patch:
        patch.setattr(np, "matmul", counter)
        model.loss(ids).backward()
    projection = 2 * ids.size * 32 * 96  # tokens times (3D, D)
    saved = 2 * (3 * 4 * projection + projection)
    assert counter.flop + saved == sum(product.flop for product in step_products(model, *ids.shape))


def test_a_pass_multiplies_what_the_products_say(monkeypatch: pytest.MonkeyPatch) -> None:
    floor = Floor(step_products(Claude4(Claude4Config(vocab_size=61, d_model=32, hidden=32)), 2, 8))
    counter = Counter()
    floor.run()  # the first pass is preceded by one that does not count
    floor.passes.clear()
    monkeypatch.setattr(np, "matmul", counter)
    assert floor.run() > 0
    assert counter.flop == floor.flop
    assert len(floor.passes) == 1
    assert list(floor.passes[0]) == list(PARTS)


@pytest.mark.parametrize("is_weight", [True, False])
@pytest.mark.parametrize("stack", [1, 3])
def test_the_three_products_of_a_layer(is_weight: bool, stack: int) -> None:
    """Against autograd's gradients of the same product."""
    product = Product("a layer", "experts", rows=5, inner=3, columns=4, stack=stack, is_weight=is_weight)
    floor = Floor([product])
    buffers = floor._buffers()
    floor._pass(buffers)
    x, w, y, dx, dw = _arrays(product, buffers)
    left = autograd.Tensor(x, requires_grad=True)
    right = autograd.Tensor(w.swapaxes(-1, -2) if is_weight else w, requires_grad=True)
    result = left @ right
    np.testing.assert_allclose(y, result.data, rtol=1e-5)
    (result * y).sum().backward()
    np.testing.assert_allclose(dx, left.grad, rtol=1e-5)
    np.testing.assert_allclose(dw.swapaxes(-1, -2) if is_weight else dw, right.grad, rtol=1e-5)
    assert product.flop == 6 * stack * 5 * 3 * 4


def test_buffers_hold_the_largest_product_once() -> None:
    products = step_products(Claude4(Claude4Config(vocab_size=61, d_model=32, hidden=32)), 2, 8)
    largest = {
        "x": max(p.stack * p.rows * p.inner for p in products),
        "w": max(p.stack * p.inner * p.columns for p in products),
        "y": max(p.stack * p.rows * p.columns for p in products),
    }
    assert Floor(products).nbytes == 4 * (2 * largest["x"] + 2 * largest["w"] + largest["y"])


def test_a_pass_gives_a_steps_free_buffers_back_and_makes_them_again() -> None:
    """So that a run never holds both; and what was in use before is in use after it."""
    memory = autograd.memory
    memory.clear()
    used, freed = memory.empty((3000, 1000)), memory.empty((4000, 1000))
    used.fill(7)
    del freed
    large = lambda: {size: len(made) for size, made in memory._free.items() if made and size > 1 << 21}  # noqa: E731
    waiting = large()
    assert waiting
    floor = Floor([Product("a layer", "experts", rows=5, inner=3, columns=4)])
    seen: list[dict] = []
    measured = floor._pass
    floor._pass = lambda buffers: (seen.append(large()), measured(buffers))[1]  # type: ignore[method-assign]
    assert floor.run() > 0 and floor.run() > 0
    assert len(seen) == 3 and not any(seen), "one pass that does not count, then two; no buffer waited meanwhile"
    assert large() == waiting
    assert (used == 7).all()
