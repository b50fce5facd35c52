"""The fp32 floor: the time that numpy's sgemm alone needs for the matrix products of one training step.

Everything else in a step (activations, normalization, softmax, the graph analysis, the optimizer, and all that a card
does) comes on top of the products, so a batch in multiples of the floor says how much of the time is overhead, on any
machine. The products are those of the standard formulation of the model in full precision: what a step may save by
knowing better (a token projected once instead of five times, FP4 products that are faster than fp32) shows as a
smaller multiple, even below 1.

A linear layer y = x W^T with x (m, k) and W (n, k) has three products of 2 m k n operations each: forward y = x W^T,
the input's gradient dy W, and the weight's gradient dy^T x.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .. import machine
from ..engine import autograd, nn
from ..layers import GRU, MultiheadAttention, ShortestPathReflection, TriVeinAttention
from ..models.claude4 import Claude4

PARTS = ("head", "experts", "reflection", "attention")
"""Where a product belongs: the output head, the experts with their gates, the reflections, the tri-vein attentions."""

IDLE = ("encoder.image_proj", "encoder.audio_proj", "connectivity_proj")
"""How the names of layers end that a text batch never computes."""


@dataclasses.dataclass(frozen=True)
class Product:
    """y (rows, columns) = x (rows, inner) times a matrix, alone or as a stack, and what its backward pass needs.

    Attributes
    ----------
    name : str
        The layer, or what is multiplied.
    part : str
        One of `PARTS`.
    rows, inner, columns : int
        m, k, n.
    stack : int
        How many such products at once (heads times samples in attention).
    is_weight : bool
        The second matrix is a weight, stored (columns, inner); else it is an activation, stored (inner, columns).
    has_gradient : bool
        Whether the two products of the backward pass are needed as well.
    """

    name: str
    part: str
    rows: int
    inner: int
    columns: int
    stack: int = 1
    is_weight: bool = True
    has_gradient: bool = True

    @property
    def flop(self) -> int:
        """Floating-point operations of the product and of its backward pass; a multiply-add counts as two."""
        return (6 if self.has_gradient else 2) * self.stack * self.rows * self.inner * self.columns


def _part(path: str) -> str:
    if path == "output_head":
        return "head"
    return next(part for mark, part in _MARKS.items() if mark in path)


_MARKS = {".reflection.": "reflection", ".ffn.": "experts", ".attn.": "attention"}


def step_products(model: Claude4, batch_size: int, seq_len: int) -> list[Product]:
    """All matrix products of one training step on token ids (B, T), at the standard formulation.

    The output head has B (T - 1) rows: the last token of a window has no next one to be compared with. A GRU has
    5 B T rows, for every token is read in a sequence of 5. Products with a packed matrix count as PyTorch runs them.
    """
    tokens = batch_size * seq_len
    found: list[Product] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if not path.endswith(IDLE):
                rows = batch_size * (seq_len - 1) if path == "output_head" else tokens
                found.append(Product(path, _part(path), rows, module.in_features, module.out_features))
        elif isinstance(module, GRU):
            found += _gru(path, module, ShortestPathReflection.NEAREST * tokens)
        elif isinstance(module, MultiheadAttention):
            found += _multihead(path, module, batch_size, seq_len)
        elif isinstance(module, TriVeinAttention):
            found += _tri_vein(path, module, batch_size, seq_len)
    return found


def _gru(path: str, gru: GRU, rows: int) -> Iterator[Product]:
    gates = 3 * gru.hidden_size
    yield Product(f"{path}.weight_ih_l0", "reflection", rows, gru.input_size, gates)
    yield Product(f"{path}.weight_hh_l0", "reflection", rows, gru.hidden_size, gates)


def _multihead(path: str, attention: MultiheadAttention, batch: int, length: int) -> Iterator[Product]:
    width, heads = attention.embed_dim, attention.num_heads
    yield Product(f"{path}.in_proj_weight (query)", "reflection", batch * length, width, width)
    yield Product(f"{path}.in_proj_weight (key, value)", "reflection", batch * length, width, 2 * width)
    yield from _attend(path, "reflection", batch * heads, length, width // heads)


def _tri_vein(path: str, attention: TriVeinAttention, batch: int, length: int) -> Iterator[Product]:
    heads, (head_dim, rank) = attention.heads, attention.subspace.U.shape
    rows = batch * heads * length
    for vein in "qkv":
        yield Product(f"{path}.subspace.V ({vein})", "attention", rows, head_dim, rank, is_weight=False)
    yield from _attend(path, "attention", batch * heads, length, rank)
    yield Product(f"{path}.subspace.U", "attention", rows, rank, head_dim)
    if not attention.causal:
        yield Product(f"{path}.subspace.U (residual size)", "attention", rows, rank, head_dim, has_gradient=False)


def _attend(path: str, part: str, stack: int, length: int, depth: int) -> Iterator[Product]:
    """scores = q k^T and the mix of the values by them."""
    yield Product(f"{path} (scores)", part, length, depth, length, stack)
    yield Product(f"{path} (mix)", part, length, length, depth, stack, is_weight=False)


def flop_by_part(products: list[Product]) -> dict[str, int]:
    """Operations of each of `PARTS`."""
    return {part: sum(product.flop for product in products if product.part == part) for part in PARTS}


class Floor:
    """Runs the products on buffers of its own, and keeps the time of every pass.

    The buffers are shared by all products: a layer's y is the largest array of a step (the logits), and holding each
    product's own would cost gigabytes. They live no longer than a pass, and for that time a training step's free
    buffers are given back to the system, so that a run's memory is that of a step and not that of both. Pages are
    mapped before the clock starts, and the step's again after it.

    Attributes
    ----------
    products : list of Product
    passes : list of dict
        Per pass, the seconds of each of `PARTS`.
    """

    def __init__(self, products: list[Product], seed: int = 0) -> None:
        self.products = products
        self.passes: list[dict[str, float]] = []
        self._seed = seed
        self._warm = False
        self._sizes = {
            "x": max(p.stack * p.rows * p.inner for p in products),
            "w": max(p.stack * p.inner * p.columns for p in products),
            "y": max(p.stack * p.rows * p.columns for p in products),
        }

    def _buffers(self) -> tuple[NDArray[np.float32], ...]:
        """x, w, y, dx, dw, flat; all their pages mapped."""
        rng = np.random.default_rng(self._seed)
        x, w = (_noise(self._sizes[name], rng) for name in ("x", "w"))
        others = tuple(np.empty(self._sizes[name], np.float32) for name in ("y", "x", "w"))
        for buffer in others:
            buffer.fill(0)
        return x, w, *others

    @property
    def flop(self) -> int:
        """Operations of one pass."""
        return sum(product.flop for product in self.products)

    @property
    def nbytes(self) -> int:
        """Memory of the buffers."""
        return 4 * (2 * self._sizes["x"] + 2 * self._sizes["w"] + self._sizes["y"])

    def run(self) -> float:
        """One pass over all products; returns and keeps its seconds.

        The first time one more pass is made before, which does not count: threads start.
        """
        free = autograd.memory.clear()
        machine.release_free_memory()
        buffers = self._buffers()
        if not self._warm:
            self._warm = True
            self._pass(buffers)
        self.passes.append(self._pass(buffers))
        del buffers
        _refill(free)
        return sum(self.passes[-1].values())

    def _pass(self, buffers: tuple[NDArray[np.float32], ...]) -> dict[str, float]:
        seconds = dict.fromkeys(PARTS, 0.0)
        for product in self.products:
            arrays = _arrays(product, buffers)
            start = time.perf_counter()
            _multiply(product, *arrays)
            seconds[product.part] += time.perf_counter() - start
        return seconds


def _refill(counts: dict[int, int]) -> None:
    """Fill the pool with so many buffers of each size in bytes, every page mapped, so that no step waits for that."""
    made = [autograd.memory.empty(size, np.uint8) for size, count in counts.items() for _ in range(count)]
    for array in made:  # all return to the pool when the list goes
        array.fill(0)


def _arrays(p: Product, buffers: tuple[NDArray[np.float32], ...]) -> tuple[NDArray[np.float32], ...]:
    """x, w, y, dx, dw of a product as views of the buffers; w (and dw) as stored: see `Product.is_weight`."""
    w_shape = (p.columns, p.inner) if p.is_weight else (p.inner, p.columns)
    shapes = ((p.rows, p.inner), w_shape, (p.rows, p.columns), (p.rows, p.inner), w_shape)
    return tuple(_view(buffer, p.stack, shape) for buffer, shape in zip(buffers, shapes))


def _multiply(p: Product, x: NDArray, w: NDArray, y: NDArray, dx: NDArray, dw: NDArray) -> None:
    """The product, forward and backward; y stands for its own gradient."""
    transposed = w.swapaxes(-1, -2)
    np.matmul(x, transposed if p.is_weight else w, out=y)
    if p.has_gradient:
        np.matmul(y, w if p.is_weight else transposed, out=dx)
        if p.is_weight:
            np.matmul(y.swapaxes(-1, -2), x, out=dw)
        else:
            np.matmul(x.swapaxes(-1, -2), y, out=dw)


def _noise(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.random(size, np.float32) - np.float32(0.5)


def _view(buffer: NDArray, stack: int, shape: tuple[int, int]) -> NDArray:
    """The start of a flat buffer as a matrix, or as a stack of matrices."""
    size = stack * shape[0] * shape[1]
    return buffer[:size].reshape(shape if stack == 1 else (stack, *shape))
